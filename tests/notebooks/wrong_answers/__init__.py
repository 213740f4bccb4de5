"""Answers as students write them, wrong in a typical way, with words of the hint that each must get."""

import importlib

from tests.notebooks.files import CHAPTERS

WRONG = {}
for path in CHAPTERS:
    WRONG |= importlib.import_module(f"tests.notebooks.wrong_answers.chapter_{path.name[:2]}").WRONG
