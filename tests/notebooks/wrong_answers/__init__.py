"""Answers as students write them: wrong in a typical way, with words of the hint that each must get; and right ones.

The right ones are unusual: not the solution, but other ways to the same numbers.
"""

import importlib

from tests.notebooks.files import CHAPTERS

WRONG: dict[str, list[tuple[str, str]]] = {}
RIGHT: dict[str, list[str]] = {}
for path in CHAPTERS:
    chapter = importlib.import_module(f"tests.notebooks.wrong_answers.chapter_{path.name[:2]}")
    WRONG |= chapter.WRONG
    RIGHT |= getattr(chapter, "RIGHT", {})
