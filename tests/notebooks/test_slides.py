"""The slides of each chapter (`make slides`): what is on one can be read, and belongs together."""

import re
from itertools import pairwise

import pytest

from tests.notebooks import slides
from tests.notebooks.files import CHAPTERS, ROOT, name, read

LECTURE = (ROOT / "notebooks" / "templates" / "lecture" / "index.html.j2").read_text(encoding="utf-8")

NOT_YET = ("04_vae", "05_text", "11_published_weights")  # arranged; TEACHING.md says so


@pytest.fixture(params=[path for path in CHAPTERS if path.stem not in NOT_YET], ids=name)
def shown(request):
    return slides.slides(read(request.param))


def is_caption(cell) -> bool:
    return cell.cell_type == "markdown" and bool(re.match(r"\*(?!\*)", cell.source))


def begins(cells) -> str:
    return cells[0].source[:60]


def test_the_first_slide_is_the_header_alone(shown):
    assert [cell.cell_type for cell in shown[0]] == ["markdown"]


def test_imports_are_not_shown(shown):
    for cells in shown:
        for cell in cells:
            imports = [line for line in slides.code(cell) if line.startswith(("import ", "from "))]
            assert len(imports) <= 2, imports


def test_no_slide_is_a_heading_or_a_sentence_alone(shown):
    for cells in shown:
        said = sum(map(slides.words, cells))
        assert said >= 25 or any(cell.cell_type == "code" for cell in cells), begins(cells)


def test_a_picture_has_words_beside_it(shown):
    for cells in shown:
        if any(map(slides.pictures, cells)):
            assert sum(map(slides.words, cells)) >= 5, begins(cells)


def test_a_caption_is_on_the_slide_of_its_figure(shown):
    for cells in shown:
        assert not is_caption(cells[0]), begins(cells)
        for before, cell in pairwise(cells):
            assert not is_caption(cell) or before.get("outputs"), cell.source


def test_nothing_is_cut_off(shown):
    too_high = {begins(cells): slides.height(cells) for cells in shown if slides.height(cells) > slides.HEIGHT}
    assert not too_high


def test_no_slide_is_a_wall_of_text_or_of_code(shown):
    for cells in shown:
        assert sum(map(slides.words, cells)) <= 220, begins(cells)
        assert sum(bool(slides.code(cell)) for cell in cells) <= 3, begins(cells)
        assert sum(len(slides.code(cell)) for cell in cells) <= 31, begins(cells)


def test_heights_are_computed_from_the_sizes_of_the_template():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    width, height = (int(re.search(rf"reveal_{side}=(\d+)", makefile)[1]) for side in ("width", "height"))
    left, right = map(int, re.search(r"section section {.*?padding: 4px (\d+)px 0 (\d+)px", LECTURE).groups())
    assert width - left - right == slides.WIDTH
    assert 0 < height - slides.HEIGHT < 20
    assert f"max-height: {height}px" in LECTURE
    assert f"set width = {slides.ENLARGED} *" in LECTURE
    assert f"(naturalHeight < naturalWidth ? {slides.HIGHEST} : {slides.TALLEST}) * naturalWidth" in LECTURE
    assert f"printed.count('\\n') > {slides.LONG} " in LECTURE
    assert int(re.search(r"min-width: (\d+)px", LECTURE)[1]) < slides.COLUMN
