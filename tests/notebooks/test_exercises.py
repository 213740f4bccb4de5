"""Every exercise: left undone it says so, its solution is right, and common mistakes get a hint."""

import ast
import contextlib
import functools
import importlib
import re

import matplotlib
import numpy as np
import pytest
import torch

from minisd.exercises import Exercise, check, find, verdict
from tests.notebooks.files import CHAPTERS, SOLUTIONS, code_cells, printed, read
from tests.notebooks.wrong_answers import RIGHT, WRONG

matplotlib.use("Agg")
STUB = re.compile(r"^def (exercise_\d+_\d+)\(.*?check\(\1\)", re.DOTALL | re.MULTILINE)


def answers(paths) -> dict[str, tuple]:
    """Exercise → the notebook and the cell that poses it, or that answers it."""
    found = {}
    for path in paths:
        for cell in code_cells(read(path)):
            if match := STUB.search(cell.source):
                assert match[1] not in found
                found[match[1]] = path, cell
    return found


STUBS, SOLVED = answers(CHAPTERS), answers(SOLUTIONS)


def run(source: str, before: list[str], capsys) -> str:
    """The last line that a cell prints, once the code that it builds on has run."""
    scope = {"check": check, "torch": torch}
    for statement in before:
        with contextlib.suppress(NameError):  # something that needs the experiments, which are left out
            exec(statement, scope)
    capsys.readouterr()
    exec(source, scope)
    return capsys.readouterr().out.strip().splitlines()[-1]


def preamble(path, until) -> list[str]:
    """The imports, functions and classes of the cells above: what an answer may build on, without the experiments."""
    kept = []
    for cell in code_cells(read(path)):
        if cell.id == until.id:
            break
        if "setup" not in cell.metadata.get("tags", []):
            kept += [ast.unparse(node) for node in ast.parse(cell.source).body
                     if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))]
    return kept


def test_every_exercise_has_a_stub_a_check_and_a_solution():
    listed = set()
    for path in CHAPTERS:
        exercises = importlib.import_module(f"minisd.exercises.chapter_{path.name[:2]}").EXERCISES
        names = {f"exercise_{number.replace('.', '_')}" for number in exercises}
        assert 3 <= len(names) <= 6
        listed |= names
    assert listed == set(STUBS) == set(SOLVED) == set(WRONG)


@pytest.mark.parametrize("name", STUBS)
def test_left_undone_it_says_so(name, capsys):
    path, cell = STUBS[name]
    said = f"exercise {find(name)[1]}: not attempted yet."
    assert printed(cell).strip() == said
    assert run(cell.source, preamble(path, cell), capsys) == said
    assert cell.metadata.get("tags") == ["exercise"]


@pytest.mark.parametrize("name", SOLVED)
def test_the_solution_is_right(name, capsys):
    path, cell = SOLVED[name]
    said = f"exercise {find(name)[1]}: right!"
    assert printed(cell).strip().splitlines()[-1] == said
    assert run(cell.source, preamble(path, cell), capsys) == said


@pytest.mark.parametrize(("name", "source", "hint"), [(n, *one) for n, many in WRONG.items() for one in many])
def test_wrong_answers_get_the_hint_that_is_theirs(name, source, hint, capsys):
    path, cell = SOLVED[name]
    said = run(f"{source}\ncheck({name})", preamble(path, cell), capsys)
    assert said.startswith(f"exercise {find(name)[1]}: not yet. ")
    assert hint in said


@pytest.mark.parametrize(("name", "source"), [(name, one) for name, many in RIGHT.items() for one in many])
def test_unusual_right_answers_are_right(name, source, capsys):
    path, cell = SOLVED[name]
    assert run(f"{source}\ncheck({name})", preamble(path, cell), capsys) == f"exercise {find(name)[1]}: right!"


@pytest.mark.parametrize("name", RIGHT)
def test_six_wrong_answers_and_four_right_ones_were_tried(name):
    assert len(WRONG[name]) >= 6
    assert len(RIGHT[name]) >= 4


@pytest.mark.parametrize("name", STUBS)
def test_each_has_two_mistakes_or_more_and_their_hints_differ(name):
    exercise = find(name)[0]
    assert len(exercise.mistakes) >= 2
    assert len(WRONG[name]) >= 2
    assert len({hint for _, hint in WRONG[name]}) >= 2
    assert exercise.cases()
    for hint, mistake in exercise.mistakes.items():  # a "mistake" that is right would make right answers wrong
        assert verdict(mistake, exercise) == f"not yet. {hint}"


# --- the checker itself ---------------------------------------------------------------------------------------


def exercise_0_0():
    raise ZeroDivisionError("oh")


def test_errors_in_an_answer_are_told_and_not_raised():
    exercise = Exercise(lambda: 1, lambda: [()])
    assert verdict(exercise_0_0, exercise) == "not yet. It stopped with ZeroDivisionError: oh"
    assert verdict(lambda: 2, exercise).startswith("not yet. Called with the first of the cases that fail, it should")
    assert verdict(lambda: "one", exercise) == "not yet. The answer should be of type int; yours is of type str."
    with pytest.raises(ValueError, match="needs at least one case"):
        verdict(lambda: 1, Exercise(lambda: 1, list))


def test_an_answer_given_as_a_lambda_is_checked(capsys):
    scope = {"check": check}
    exec("exercise_0_2 = lambda seed, k: seed + k\ncheck(exercise_0_2)", scope)
    exec("exercise_0_2 = lambda seed, k: ...\ncheck(exercise_0_2)", scope)
    assert capsys.readouterr().out == "exercise 0.2: right!\nexercise 0.2: not attempted yet.\n"
    with pytest.raises(ValueError, match="not <lambda>"):
        check(lambda: 1)


@pytest.mark.parametrize("value", [1j, 1 + 0j, np.array(1 + 2j), torch.tensor(1 + 2j), np.complex64(1)], ids=repr)
def test_a_complex_number_with_the_right_real_part_is_not_right(value):
    said = "not yet. The answer should be real; yours is complex."
    assert verdict(lambda: value, Exercise(lambda: 1.0, lambda: [()])) == said
    assert verdict(lambda: [value], Exercise(lambda: [1.0], lambda: [()])) != "right!"


class Mute(Exception):
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


def test_answers_that_cannot_be_told_in_words():
    exercise = Exercise(lambda: 1, lambda: [()])
    assert verdict(lambda: 10**5000, exercise).endswith("yours gives something of type int.")
    assert verdict(lambda: Mute(), exercise).endswith("yours gives something of type Mute.")
    assert verdict(lambda: (_ for _ in ()).throw(Mute()), exercise) == "not yet. It stopped with Mute"
    assert verdict(functools.partial(print, end=""), exercise).startswith("not yet. It returns nothing")


def test_not_a_number_is_right_where_it_is_asked_for():
    exercise = Exercise(lambda: torch.tensor([1.0, torch.nan]), lambda: [()])
    assert verdict(lambda: torch.tensor([1.0, torch.nan]), exercise) == "right!"
    assert verdict(lambda: torch.tensor([torch.nan, 1.0]), exercise) != "right!"


def test_checking_something_else():
    with pytest.raises(ValueError, match=r"takes the function of an exercise, such as exercise_1_2, not 5"):
        check(5)
    with pytest.raises(ValueError, match=r"there is no exercise 1\.99; notebook 1 has 1\.1, 1\.2"):
        find("exercise_1_99")
    with pytest.raises(ValueError, match=r"there is no exercise 77\.1; notebook 77 has none"):
        find("exercise_77_1")
