"""The teacher's pages: terms occur where the glossary says, plans add up, exam answers are right, commands work."""

import importlib
import math
import re
import shlex
import subprocess
import sys

import pytest
import torch

import minisd
from minisd import UNet
from minisd.emoji.clip import contrastive_loss
from minisd.exercises.apart import Worker
from minisd.exercises.handed_in import examine, read_cells
from minisd.unet import UNetConfig
from tests.notebooks.files import CHAPTERS, ROOT, code_cells, read

TEACHING = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "notebooks" / "GLOSSARY.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROSE = {path.name[:2]: "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
         for path in CHAPTERS}
CODE = {path.name[:2]: "\n".join(cell.source for cell in code_cells(read(path))) for path in CHAPTERS}
HEADINGS = {chapter: dict(re.findall(r"^## (\d+)\. (.*)", text, re.MULTILINE)) for chapter, text in PROSE.items()}
MINUTES = {chapter: tuple(map(int, re.search(r"\*\*Time:\*\* (\d+) minutes of reading, (\d+) of", text).groups()))
           for chapter, text in PROSE.items()}
PAGES = dict(re.findall(r"^### (\d\d) · .*?\n(.*?)(?=^### |\Z)", TEACHING, re.MULTILINE | re.DOTALL))


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without the header row."""
    section = re.search(rf"^##+ {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# --- the glossary ---------------------------------------------------------------------------------------------

SIGNS = {"\\" + name for name in re.findall(r"\w+", """approx big Big boxed cdot cos dots exp frac infty int langle le
    left leftarrow ln log lVert mapsto max mid min ne pi prod propto qquad quad rangle right rVert sim sin sqrt sum text
    tfrac times to top underbrace""")}
ACCENTS = r"\\(?:bar|hat|tilde|mathcal|mathbb)"


def formulas(text: str) -> list[str]:
    return [display or inline for display, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.DOTALL)]


def letters(formula: str) -> set[str]:
    """The symbols of a formula: Latin and Greek letters, with or without accents, but no signs and no words."""
    formula = re.sub(r"\\(?:text|operatorname|begin|end)\s*\{[^}]*\}", " ", formula)
    found = re.findall(rf"{ACCENTS}\s*\{{?\s*\\?[A-Za-z]+|\\[A-Za-z]+|[A-Za-z]", formula)
    return {re.sub(r"[\s{]", "", letter) for letter in found} - SIGNS


def stands(symbol: str, formula: str) -> bool:
    before = r"(?<!\\bar)(?<!\\hat)(?<!\\tilde)" + ("" if symbol.startswith("\\") else r"(?<![A-Za-z\\])")
    return bool(re.search(before + re.escape(symbol) + r"(?![A-Za-z])", formula))


SYMBOLS = [[row[0].strip("$"), *row[1:]] for row in rows(GLOSSARY, "Symbols")]
WORDS = rows(GLOSSARY, "Words")


@pytest.mark.parametrize("row", SYMBOLS, ids=lambda row: f"{row[0]} {row[3]}")
def test_a_symbol_stands_in_its_notebooks(row):
    symbol, code, _, chapters = row
    for chapter in chapters.split():
        assert any(stands(symbol, one) for one in formulas(PROSE[chapter])), f"{symbol} is in no formula of {chapter}"
    if code:
        name = rf"(?<![A-Za-z0-9]){re.escape(code.strip('`'))}(?![A-Za-z0-9])"
        assert any(re.search(name, CODE[chapter]) for chapter in chapters.split()), f"no code of {chapters} says {code}"


@pytest.mark.parametrize("chapter", PROSE)
def test_no_symbol_is_missing(chapter):
    explained = set().union(*(letters(symbol) for symbol, _, _, chapters in SYMBOLS if chapter in chapters.split()))
    missing = {letter: one for one in formulas(PROSE[chapter]) for letter in letters(one) - explained}
    assert not missing, f"notebooks/GLOSSARY.md needs rows, or the notebook {chapter} in a row, for these: {missing}"


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row[0])
def test_a_word_stands_in_its_notebooks(row):
    word, _, chapters = row
    for chapter in chapters.split():
        assert re.search(rf"(?<![a-z]){re.escape(word)}", PROSE[chapter], re.IGNORECASE), f"{word!r} not in {chapter}"


def test_the_glossary_is_in_order():
    words = [row[0].lower() for row in WORDS]
    assert words == sorted(words)
    assert len(words) == len(set(words))


def test_the_tests_of_the_glossary_can_fail():
    assert letters(r"x_t=\sqrt{\bar\alpha_t}\,x_0+\text{SNR}\cdot\hat{x}") == {"x", "t", r"\bar\alpha", r"\hatx"}
    assert not stands(r"\alpha", r"\sqrt{\bar\alpha_t}")
    assert not stands("s", r"\cos(t)")
    assert stands("x_0", r"\sqrt{2}x_0")


# --- the plans and the pages -------------------------------------------------------------------------------------


def sections(text: str) -> list[tuple[str, str]]:
    """"01: 1 to 3, 5 · 02: 4" → (01, 1), (01, 2), (01, 3), (01, 5), (02, 4)."""
    found = []
    for chapter, numbers in re.findall(r"(\d\d): ([\d, to]+)", text):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", numbers):
            found += [(chapter, str(number)) for number in range(int(first), int(last or first) + 1)]
    return found


def reading(chosen: list[tuple[str, str]]) -> float:
    """Minutes of reading: each section counts as an equal share of its chapter's."""
    return sum(MINUTES[chapter][0] / len(HEADINGS[chapter]) for chapter, _ in chosen)


def test_every_chapter_has_its_page_with_all_parts():
    assert list(PAGES) == sorted(PROSE)
    for chapter, text in PAGES.items():
        for part in ("Goals", "Minutes", "What students get wrong", "Board", "Discussion", "Exam"):
            assert text.count(f"**{part}.**") == 1, (chapter, part)
        wrong, discussion = (re.search(rf"\*\*{part}\.\*\*\n(.*?)\n\*\*", text, re.DOTALL)[1].count("\n- ")
                             for part in ("What students get wrong", "Discussion"))
        assert (wrong >= 3, discussion >= 2, text.count("\n```") >= 2) == (True, True, True), chapter
        assert MINUTES[chapter] == tuple(map(int, re.search(r"\*\*Minutes\.\*\* (\d+) \+ (\d+)", text).groups()))
        title = re.search(rf"^### {chapter} · (.*)", TEACHING, re.MULTILINE)[1]
        assert PROSE[chapter].startswith(f"# {chapter} · {title}\n")
        assert len(exam(text)) >= 5


def test_sections_and_exercises_that_are_named_exist():
    for chapter, text in PAGES.items():
        for number, title in re.findall(r"[Ss]ection (\d+)(?:, \*(.*?)\*)?", text):
            assert title, f"{chapter}: say a few words of the title of section {number}, so that a test can check it"
            assert HEADINGS[chapter][number].replace("*", "").startswith(title), (chapter, number, title)
    asked = {number for text in PROSE.values() for number in re.findall(r"^\*\*(\d+\.\d)\*\* ", text, re.MULTILINE)}
    for number in re.findall(r"(?<![\d.])(\d{1,2}\.\d)(?=[,; .)]|$)", " ".join(
            line for line in TEACHING.splitlines() if re.search("exercise|project|drop", line))):
        assert number in asked, number


def test_all_exercises_are_counted():
    count = sum(len(importlib.import_module(f"minisd.exercises.chapter_{chapter}").EXERCISES) for chapter in PROSE)
    assert f"the {count} checked exercises" in TEACHING


def test_the_day_adds_up():
    plan = rows(TEACHING, "One day")
    minutes = [int(cells[1]) for cells in plan]
    assert sum(minutes) == 6 * 60 + 15
    starts = [60 * int(hour) + int(minute) for hour, minute in (cells[0].split(":") for cells in plan)]
    for (start, length), following in zip(zip(starts, minutes), [*starts[1:], 17 * 60]):
        assert start + length <= following
    for cells in plan:
        chosen = sections(cells[3])
        assert all(number in HEADINGS[chapter] for chapter, number in chosen), cells
        assert 0 < reading(chosen) <= 0.65 * int(cells[1]), cells


def test_the_six_weeks_add_up():
    plan = rows(TEACHING, "Six weeks")
    chapters = [re.findall(r"(\d\d):", cells[1]) for cells in plan]
    assert [chapter for pair in chapters for chapter in pair] == sorted(PROSE)
    for cells, pair in zip(plan, chapters):
        chosen = sections(cells[1])
        assert all(number in HEADINGS[chapter] for chapter, number in chosen), cells
        assert reading(chosen) <= 75, cells
        assert sum(sum(MINUTES[chapter]) for chapter in pair) - reading(chosen) == pytest.approx(int(cells[2]), abs=10)


# --- the exam --------------------------------------------------------------------------------------------------


def exam(text: str) -> list[list[str]]:
    lines = text.split("**Exam.**")[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def times(steps: int, **settings) -> list[float]:
    scheduler = minisd.EulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.tolist()


def heun_calls(steps: int) -> int:
    scheduler = minisd.HeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps)


def kl(mean: float, std: float) -> float:
    return float(torch.distributions.kl_divergence(torch.distributions.Normal(mean, std),
                                                   torch.distributions.Normal(0.0, 1.0)))


def vote(x: float, alpha_cumprod: float) -> float:
    points = torch.tensor([-1.0, 1.0])
    return float((-(x - alpha_cumprod**0.5 * points) ** 2 / (2 * (1 - alpha_cumprod))).softmax(0) @ points)


def picture_left(t: int) -> float:
    scheduler = minisd.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return float(scheduler.alphas_cumprod[t] ** 0.5)


def parameters(**config) -> int:
    with torch.device("meta"):
        return UNet(**config).num_parameters()


LEADING = times(20, timestep_spacing="leading", steps_offset=1)
UNTRAINED = contrastive_loss(*torch.full((2, 64, 8), 8**-0.5), 1.0)
with torch.device("meta"):
    CONVOLUTION = sum(one.numel() for one in torch.nn.Conv2d(320, 320, 3, padding=1).parameters())

# part of the question: how its answer is computed
COMPUTED = {
    "latents 4 × 64 × 64. How many times fewer?": 3 * 512**2 / (4 * 64**2),
    "Which seed draws the third": 10 + 2,
    "860 million parameters": 860e6 * 16 / 8 / 1e9,
    "weights of picture and noise?": (0.25**0.5, 0.75**0.5),
    "what is σ in the other parameterisation?": (0.75 / 0.25) ** 0.5,
    "And the SNR?": 0.25 / 0.75,
    "What is ᾱ after both?": (1 - 0.1) * (1 - 0.2),
    "400 times to a grey picture": (400 * 0.1**2) ** 0.5,
    "Stable Diffusion's last σ": picture_left(999),
    "Two clean points, -1 and 1": vote(0.0, 0.5),
    "The same two points": vote(0.5, 0.5),
    "Which clean number does that mean?": (1 - (1 - 0.64) ** 0.5 * 0.5) / 0.64**0.5,
    "what is the variance of the fresh noise?": (1 - 0.5 / 0.8) * (1 - 0.8) / (1 - 0.5),
    "Where does Euler's step to σ = 1 end?": 10 + (1 - 2) * (10 - 4) / 2,
    "how many times smaller is the error?": 2**2,
    "Leading spacing": LEADING[0],
    "Trailing spacing": times(20, timestep_spacing="trailing")[-1],
    "if the last step needs one?": heun_calls(20),
    "μ = 0, σ = 1: how many": kl(0.0, 1.0),
    "μ = 1, σ = 1?": kl(1.0, 1.0),
    "μ = 0, σ = 0.1?": kl(0.0, 0.1),
    "Which scaling factor?": 1 / 4,
    "How many dB is the PSNR?": 10 * math.log10(2**2 / 0.04),
    "How many tokens of text at most?": 77 - 2,
    "how many tokens has the vocabulary": 256 + 256 + 2048 + 2,
    "an untrained CLIP. What is its loss": float(UNTRAINED),
    "numbers does Stable Diffusion 1's U-Net get": 77 * UNetConfig().cross_attention_dim,
    "in entries, for one head?": (64 * 64) ** 2,
    "What does the residual block take in?": 640 + 320,
    "A 3 × 3 convolution from 320 to 320": CONVOLUTION,
    "how many places are left in the middle?": (64 // 2**3) ** 2,
    "on 256 cards: how many days?": 150_000 / 256 / 24,
    "how many steps does it look back?": 1 / 0.001,
    "What is v?": 0.36**0.5 * 0 - (1 - 0.36) ** 0.5 * 1,
    "What is the min-SNR weight?": min(0.9 / 0.1, 5) / (0.9 / 0.1 + 1),
    "how many without words?": 600_000 / 10,
    "What is the guided prediction?": 2 + 7.5 * (3 - 2),
    "Which guidance_scale?": 1 + 6.5,
    "how many predictions does the U-Net make?": 20 * 2,
    "guided in six of them only": 12 + 6,
    "Where does the jump end?": 3 - 2 * 1,
    "50 steps, strength 0.75": int(50 * 0.75),
    "at which time does it begin?": LEADING[20 - int(20 * 0.4):][0],
    "951 is the first time": picture_left(951),
    "How many input channels": (9, 4, 1, 4),
    "how many places is that in latents?": (512 // 8) ** 2,
    "widening from 4 to 9 add?": parameters(in_channels=9) - parameters(in_channels=4),
    "One billion parameters": 1e9 * 16 / 8 / 1e9,
    "how many seconds?": (10 * 0.8 + 2.5) / 10.5,
    "how many TFLOP?": 20 * 2 * 0.8 + 2.5,
}
EXAM = [row for text in PAGES.values() for row in exam(text)]


@pytest.mark.parametrize("question", COMPUTED)
def test_the_answers_of_the_exam_are_right(question):
    (_, answer), = [row for row in EXAM if question in row[0]]
    values = COMPUTED[question] if isinstance(COMPUTED[question], tuple) else (COMPUTED[question],)
    given = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", answer)]
    assert given == pytest.approx(values, rel=3e-3, abs=1e-6)


def test_every_number_of_the_exam_is_computed():
    for question, answer in EXAM:
        assert not re.search(r"\d", answer) or any(part in question for part in COMPUTED), question


# --- the commands ------------------------------------------------------------------------------------------------


def commands(target: str, chapters: list, out) -> list[list[str]]:
    """The commands that `make target` runs, for the given notebooks and output folder."""
    variables = dict(re.findall(r"^(\w+) [:?]= (.*)", MAKEFILE, re.MULTILINE))
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1].splitlines()
    found = []
    for line in lines:
        line = line.replace("$(TEMPLATES)", variables["TEMPLATES"]).strip("\t@")
        words = [str(chapter) for word in shlex.split(line) for chapter in
                 (chapters if word == "$(CHAPTERS)" else [word.replace("out/", f"{out.as_posix()}/")])]
        found.append([sys.executable, "-m", *words[0].removeprefix("$(BIN)/").split()[1:], *words[1:]]
                     if words[0] == "$(BIN)/python" else words)
    return found


def nbconvert(target: str, out) -> None:
    """Run the conversion of a Makefile target, for notebook 01."""
    line, = (words for words in commands(target, CHAPTERS[1:2], out) if "nbconvert" in words)
    done = subprocess.run([sys.executable, "-m", *line[1:]], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Alternative text is missing" not in done.stderr


def test_the_commands_of_the_page_are_in_the_makefile():
    for target in set(re.findall(r"`make (\w+)", TEACHING)):
        assert f"\n{target}:" in MAKEFILE, target


def test_a_handout_has_neither_outputs_nor_solutions(tmp_path):
    nbconvert("handout", tmp_path)
    assert [path.name for path in (tmp_path / "handout").iterdir()] == [CHAPTERS[1].name]
    notebook = read(tmp_path / "handout" / CHAPTERS[1].name)
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(notebook))
    with Worker() as worker:
        said = examine(read_cells(tmp_path / "handout" / CHAPTERS[1].name), worker)
    assert len(said) >= 3
    assert set(said.values()) == {"not attempted yet."}


def test_a_handout_tells_how_to_set_up():
    start = (ROOT / "notebooks" / "START.md").read_text(encoding="utf-8")
    copied = next(words for words in commands("handout", [], ROOT / "out") if words[0] == "cp")
    assert copied[1:3] == ["notebooks/START.md", "requirements.txt"]
    for text in (r".venv\Scripts\pip", ".venv/bin/pip", "-r requirements.txt", "--find-links . --no-deps minisd"):
        assert text in start


def alternative_texts(path) -> list[str]:
    return [output.metadata["image/png"]["alt"] for cell in code_cells(read(path)) for output in cell.outputs
            if "image/png" in output.get("data", {})]


@pytest.mark.parametrize(("target", "name"), [("slides", "01_noise.slides.html"), ("html", "01_noise.html")])
def test_slides_and_pages(tmp_path, target, name):
    nbconvert(target, tmp_path)
    page = (tmp_path / target / name).read_text(encoding="utf-8")
    for text in alternative_texts(CHAPTERS[1]):
        assert text.replace("'", "&#39;") in page or text in page
    if target == "slides":
        assert page.count("<section") >= 18
        assert "How would" in page
        assert "exercise_1_1" not in page
        assert page.count("<details><summary>code</summary>") == len(alternative_texts(CHAPTERS[1]))
    else:
        assert "exercise_1_1" in page
