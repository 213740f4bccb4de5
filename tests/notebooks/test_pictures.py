"""How notebooks are tested: from any folder, and with the matplotlib that drew the stored pictures."""

import subprocess
import sys

import nbformat
import numpy as np

from tests.notebooks import pictures
from tests.notebooks.files import ROOT
from tests.notebooks.pictures import PINNED, unlike

PICTURE = np.full((8, 8, 3), 100.0)


def test_pytest_runs_a_notebook_from_any_folder(tmp_path):
    for name in ("conftest.py", "pyproject.toml", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("notebooks", "elsewhere"):
        (tmp_path / name).mkdir()
    stored = nbformat.v4.new_output("stream", text="in 5 seconds\n")
    cells = [nbformat.v4.new_code_cell(f"print('in 6 {word}')", outputs=[stored], execution_count=1)
             for word in ("seconds", "steps")]  # times may differ, other words may not
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "05.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "../notebooks/05.ipynb"]
    said = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True).stdout
    assert "Cell 1" in said
    assert "1 failed, 1 passed" in said, said


def test_pictures_are_compared():
    assert unlike([], []) is None
    assert unlike([PICTURE], [PICTURE + 1]) is None
    assert unlike([PICTURE] * 2, [PICTURE, PICTURE + 10]) == "picture 2: only 28.1 dB alike; it must be 30"
    assert unlike([PICTURE], [PICTURE + 10], least=20) is None
    assert unlike([PICTURE], [PICTURE[:4]]) == ("picture 1: the stored picture has the shape (8, 8, 3), "
                                                "the one drawn now (4, 8, 3)")
    assert unlike([PICTURE], []) == "1 pictures are stored, 0 were drawn now"


def test_another_matplotlib_is_named(monkeypatch):
    monkeypatch.setattr(pictures, "version", {"matplotlib": "3.8.1"}.__getitem__)
    assert unlike([PICTURE], [PICTURE]) == (
        f"comparing pictures needs matplotlib {PINNED}, with which they were stored, and 3.8.1 is here: "
        f"pip install matplotlib=={PINNED}")
    assert unlike([], []) is None
