"""Rules that every notebook follows, whatever it is about."""

import json
import re
from datetime import datetime
from statistics import median

import pytest

from tests.notebooks.files import CHAPTERS, ROOT, SOLUTIONS, code_cells, name, printed, read
from tests.notebooks.setup_cell import address, setup_cell

SETUP = setup_cell(address((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
LONG = ("05_text", "07_training")  # lessons that need more than the usual 2,600 words and 45 cells
HEADER = ("**What you build:**", "**What you need:**", "**Time:**", "**Questions:**", "**What could go wrong:**")
RUNS_IN = re.compile(r"Runs in: (\d+) (seconds?|minutes?) on two CPU cores · memory: \d+(\.\d+)? GB")


def seconds(cell) -> float:
    """How long a cell ran when the notebook was last executed; Jupyter records it in the metadata."""
    times = cell.metadata["execution"]
    begin, end = (datetime.fromisoformat(times[key].replace("Z", "+00:00"))
                  for key in ("iopub.execute_input", "shell.execute_reply"))
    return (end - begin).total_seconds()


def lines(cell) -> int:
    return len(cell.source.splitlines())


@pytest.fixture(params=CHAPTERS + SOLUTIONS, ids=name)
def path(request):
    return request.param


@pytest.fixture(params=CHAPTERS, ids=name)
def chapter(request):
    return request.param


def test_there_are_notebooks_and_each_has_its_solutions():
    assert [path.name for path in CHAPTERS] == [path.name for path in SOLUTIONS]
    assert CHAPTERS


def test_executed_from_top_to_bottom_without_errors(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


def test_readers_of_any_computer_can_open_it(path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata  # GitHub refuses to show such files
    assert path.stat().st_size < 1.5e6
    text = json.dumps([[cell.source, [{k: v for k, v in o.items() if k != "data"} for o in cell.get("outputs", [])]]
                       for cell in notebook.cells])
    assert not re.search(r"(?<![\w.:/])/(home|Users|root|tmp|work|mnt|content)/|[A-Z]:\\\\", text)
    assert code_cells(notebook)[0].source == SETUP, "pyproject.toml says otherwise: make setup-cells"


def test_cells_are_short(path):
    cells = code_cells(read(path))[1:]  # the first is the set-up cell, with an address of any length
    assert max(map(lines, cells)) <= 25
    assert all(len(line) <= 100 for cell in cells for line in cell.source.splitlines())


def test_lengths_are_those_that_readers_like(chapter):
    notebook = read(chapter)
    cells = code_cells(notebook)
    most_cells, most_words = (50, 3000) if chapter.stem in LONG else (45, 2600)
    assert 15 <= len(cells) <= most_cells
    assert median(map(lines, cells)) <= 10
    words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    assert 1000 <= words <= most_words


def test_pictures_have_an_alternative_text(path):
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"].get("alt", "")) > 30, cell.source


def test_it_compares_something(path):
    """nbval passes a notebook that has no outputs, so there must be some, and none may be exempt."""
    cells = code_cells(read(path))
    assert sum(bool(printed(cell)) for cell in cells) >= 3
    assert not any(re.search("NBVAL_(SKIP|IGNORE)", cell.source) for cell in cells)
    assert not any(tag.startswith("nbval") for cell in cells for tag in cell.metadata.get("tags", []))
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert pictures >= 5 or path in SOLUTIONS


def test_the_header_says_what_to_expect_and_the_time_is_true(chapter):
    notebook = read(chapter)
    header = notebook.cells[0].source
    for heading in HEADER:
        assert heading in header, heading
    assert header.startswith(f"# {chapter.name[:2]} · ")
    found = RUNS_IN.search(header)
    assert found, "the header must say: Runs in: 20 seconds on two CPU cores · memory: 0.5 GB"
    said = int(found[1]) * (60 if "minute" in found[2] else 1)
    assert said <= 180
    took = sum(map(seconds, code_cells(notebook)))
    assert said / 2 <= took <= said * 2, f"it took {took:.0f} seconds"


def test_the_chapter_closes_with_what_was_learnt(chapter):
    text = "\n".join(cell.source for cell in read(chapter).cells if cell.cell_type == "markdown")
    for part in ("## Exercises", "## What you take away", "**Papers:**"):
        assert part in text
    assert text.count("](https://arxiv.org/") >= 2


def test_every_cell_knows_its_place_on_the_slides(chapter):
    cells = read(chapter).cells
    kinds = [cell.metadata.get("slideshow", {}).get("slide_type") for cell in cells]
    assert set(kinds) <= {"slide", "subslide", "-", "skip"}
    assert kinds.count("slide") >= 8
    for cell, kind in zip(cells, kinds):
        if cell.source == SETUP or "\ncheck(exercise_" in cell.source:
            assert kind == "skip", cell.source
        elif cell.cell_type == "markdown" and cell.source.startswith("#") and "Exercises" not in cell.source:
            assert kind == "slide", cell.source


def test_the_overview_lists_it(chapter):
    assert f"]({chapter.name})" in (ROOT / "notebooks" / "README.md").read_text()
