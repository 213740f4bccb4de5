"""The teacher's pages say what is so: terms stand where they are said to, answers are right, commands work."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.notebooks.files import CHAPTERS, ROOT, read

TEACHING = (ROOT / "notebooks" / "TEACHING.md").read_text()
GLOSSARY = (ROOT / "notebooks" / "GLOSSARY.md").read_text()
TEXTS = {path.name[:2]: "\n".join(cell.source for cell in read(path).cells) for path in CHAPTERS}
SECTIONS = dict(re.findall(r"^### (\d\d) · .*?\n(.*?)(?=^### |\Z)", TEACHING, re.MULTILINE | re.DOTALL))


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("row", rows(GLOSSARY, "Symbols"), ids=lambda row: row[1])
def test_a_symbol_stands_in_its_notebooks(row):
    symbol, code, _, chapters = row
    symbol = symbol.strip("$")
    for chapter in chapters.split():
        formulas = re.findall(r"\$([^$]+)\$", TEXTS[chapter].replace("$$", "$"))
        found = [f for f in formulas if re.search(rf"(?<![A-Za-z\\]){re.escape(symbol)}(?![A-Za-z])", f)]
        assert found, f"{symbol} is in no formula of notebook {chapter}"
    assert any(re.search(rf"\b{re.escape(code.strip('`'))}\b", TEXTS[chapter]) for chapter in chapters.split()), code


@pytest.mark.parametrize("row", rows(GLOSSARY, "Words"), ids=lambda row: row[0])
def test_a_word_stands_in_its_notebooks(row):
    word, _, chapters = row
    for chapter in chapters.split():
        assert re.search(rf"(?<![a-z]){re.escape(word)}", TEXTS[chapter], re.IGNORECASE), f"{word!r} not in {chapter}"


def test_every_chapter_has_its_page_with_all_parts():
    assert list(SECTIONS) == sorted(TEXTS)
    for chapter, text in SECTIONS.items():
        for part in ("Goals", "Minutes", "What students get wrong", "Board", "Discussion", "Exam"):
            assert f"**{part}.**" in text, (chapter, part)
        assert len(re.findall(r"^- .*[“A-Z]", text, re.MULTILINE)) >= 5
        minutes = re.search(r"\*\*Minutes\.\*\* (\d+) \+ (\d+)", text).groups()
        header = re.search(r"\*\*Time:\*\* (\d+) minutes of reading, (\d+) of", TEXTS[chapter]).groups()
        assert minutes == header, chapter


def test_the_day_adds_up():
    minutes = [int(cell[1]) for cell in rows(TEACHING, "One day")]
    assert sum(minutes) == 6 * 60 + 15
    starts = [60 * int(h) + int(m) for h, m in (cell[0].split(":") for cell in rows(TEACHING, "One day"))]
    for (start, length), following in zip(zip(starts, minutes), starts[1:]):
        assert start + length <= following


def test_six_weeks_cover_all_chapters():
    taught = " ".join(cell[1] for cell in rows(TEACHING, "Six weeks"))
    assert sorted(re.findall(r"\d\d", taught)) == sorted(TEXTS)


# a part of the question, and how its answer is computed
COMPUTED = {
    "How many times fewer?": 3 * 512**2 / (4 * 64**2),
    "weights of picture and noise?": (0.25**0.5, 0.75**0.5),
    "what is σ in the other spelling?": (0.75 / 0.25) ** 0.5,
    "And the SNR?": 0.25 / 0.75,
    "What is the best guess?": 0.5 * -1 + 0.5 * 1,
    "how many times smaller an error?": 2**2,
    "which time is the first?": 19 * 50 + 1,
    "if the last step needs one?": 2 * 20 - 1,
    "how many nats of KL?": 0.5 * (0 + 1 - 1 - 0),
    "μ = 1, σ = 1?": 0.5 * (1 + 1 - 1 - 0),
    "Which scaling factor?": 1 / 4,
    "How many tokens of text at most?": 77 - 2,
    "What is its loss, about?": 4.1589,
    "in entries, for one head?": (64 * 64) ** 2,
    "What does the residual block take in?": 640 + 320,
    "on 256 cards: how many days?": 150_000 / 256 / 24,
    "how many steps does it look back?": 1 / 0.001,
    "What is the guided prediction?": 2 + 7.5 * (3 - 2),
    "Which guidance_scale?": 1 + 6.5,
    "how many predictions does the U-Net make?": 20 * 2,
    "how many are run?": int(50 * 0.75),
    "how many places has it in latents?": (512 // 8) ** 2,
    "how many gigabytes (10⁹)?": 1e9 * 16 / 8 / 1e9,
    "how many seconds?": (10 * 0.8 + 2.5) / 10.5,
}


@pytest.mark.parametrize("question", COMPUTED)
def test_the_answers_of_the_exam_are_right(question):
    found = [line for line in TEACHING.splitlines() if line.startswith("|") and question in line]
    assert len(found) == 1
    answer = found[0].strip("|").split(" | ")[1]
    values = COMPUTED[question] if isinstance(COMPUTED[question], tuple) else (COMPUTED[question],)
    assert [float(number) for number in re.findall(r"[\d.]*\d", answer)] == pytest.approx(values, rel=3e-3)


def nbconvert(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "nbconvert", *arguments], check=True, capture_output=True)


def test_a_handout_has_neither_outputs_nor_solutions(tmp_path):
    nbconvert("--to", "notebook", "--ClearOutputPreprocessor.enabled=True", "--output-dir", str(tmp_path),
              str(CHAPTERS[1]))
    cells = json.loads((tmp_path / CHAPTERS[1].name).read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    assert sum("check(exercise_" in "".join(cell["source"]) for cell in cells) >= 3


def test_slides(tmp_path):
    nbconvert("--to", "slides", "--SlidesExporter.reveal_scroll=True", "--output-dir", str(tmp_path), str(CHAPTERS[1]))
    page = next(tmp_path.glob("*.slides.html")).read_text()
    assert page.count("<section") >= 18
    assert "How would" in page
    assert "exercise_1_1" not in page


def test_answers_are_listed(tmp_path):
    shutil.copy(ROOT / "notebooks" / "solutions" / "01_noise.ipynb", tmp_path / "ada_01.ipynb")
    shutil.copy(ROOT / "notebooks" / "01_noise.ipynb", tmp_path / "bob_01.ipynb")
    done = subprocess.run([sys.executable, "-m", "minisd.exercises", *map(str, sorted(tmp_path.glob("*.ipynb")))],
                          check=True, capture_output=True, text=True, cwd=ROOT)
    ada, bob = done.stdout.splitlines()
    count = len(set(re.findall(r"exercise_1_\d", TEXTS["01"])))
    assert ada.startswith("ada_01.ipynb")
    assert f"{count} of {count} right" in ada
    assert f"0 of {count} right" in bob
    assert "1.1 -" in bob


def test_the_commands_of_the_page_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)", TEACHING)):
        assert f"\n{target}:" in makefile, target
