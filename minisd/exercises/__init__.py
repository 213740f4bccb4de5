"""The checks behind the notebooks' exercises.

    def exercise_1_2(sigma):
        ...                          # the stub, to be filled in

    check(exercise_1_2)              # prints: not attempted yet, a hint about this very mistake, or: right

An exercise is one function. To find out what is wrong with an answer, it is compared with the wrong answers that people
give: beside the right function, each chapter's file lists known wrong ones and what to say about them.
"""

import copy
import dis
import functools
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

NAME = re.compile(r"exercise_([0-9]{1,2})_([0-9]{1,2})")
ADVICE = {  # part of Python's message → what to do about it
    "'float' object has no attribute 'sqrt'": "A plain number has no .sqrt(); write number ** 0.5.",
    "sqrt(): argument 'input' (position 1) must be Tensor, not": "torch.sqrt takes tensors only; write number ** 0.5.",
}


@dataclass(frozen=True)
class Exercise:
    """One exercise: the right function, what to call it with, and the wrong functions that people write instead.

    Args:
        right: the solution.
        cases: makes the arguments to try, a list of tuples; at least one.
        mistakes: what to say → the wrong function that it is said about.
        tolerance: how much numbers may differ, absolutely and relatively.
    """

    right: Callable
    cases: Callable[[], list[tuple]]
    mistakes: dict[str, Callable] = field(default_factory=dict)
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Attempt:
    """What an answer made of the cases of its exercise.

    Args:
        values: what it returned, a value a case.
        error: what stopped it, such as "ValueError: oh"; empty if nothing did.
        stub: whether nobody has written anything yet.
    """

    values: list
    error: str = ""
    stub: bool = False


def check(answer: Callable) -> None:
    """Print the verdict on an answer to an exercise; `answer` is a function named like exercise_1_2.

    Errors inside the answer are reported, not raised.

    Raises:
        ValueError: there is no exercise of that name.
    """
    exercise, number = find(name_of(answer, sys._getframe(1).f_globals))
    print(f"exercise {number}: {verdict(answer, exercise)}")


def name_of(answer: Callable, scope: Mapping[str, Any]) -> str:
    """The name of an answer; a lambda has none itself, but the variable that holds it has."""
    own = getattr(answer, "__name__", str(answer))
    held = [name for name, value in scope.items() if value is answer and NAME.fullmatch(name)]
    return own if NAME.fullmatch(own) or not held else held[0]


@functools.cache
def chapters() -> dict[int, dict[str, Exercise]]:
    """All exercises: chapter → number, such as "1.2" → exercise."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith("chapter_")]
    return {int(name.removeprefix("chapter_")): importlib.import_module(f"{__name__}.{name}").EXERCISES
            for name in names}


def find(name: str) -> tuple[Exercise, str]:
    """The exercise that a function called exercise_1_2 answers, and its number "1.2"."""
    found = NAME.fullmatch(name)
    if not found:
        raise ValueError(f"check(…) takes the function of an exercise, such as exercise_1_2, not {name}")
    exercises, number = chapters().get(int(found[1]), {}), f"{found[1]}.{found[2]}"
    if number not in exercises:
        raise ValueError(f"there is no exercise {number}; notebook {found[1]} has {', '.join(exercises) or 'none'}")
    return exercises[number], number


def verdict(answer: Callable, exercise: Exercise) -> str:
    return judge(attempt(answer, exercise.cases()), exercise)


def attempt(answer: Callable, cases: list[tuple]) -> Attempt:
    """Call an answer with each of the cases."""
    values = []
    for arguments in cases:
        try:
            values.append(answer(*copies(arguments)))
        except NotImplementedError:
            return Attempt(values, stub=True)
        except Exception as error:
            return Attempt(values, told(error))
    return Attempt(values, stub=all(value is None or value is Ellipsis for value in values) and is_stub(answer))


def judge(attempt: Attempt, exercise: Exercise) -> str:
    """The verdict on what an answer returned, compared with what the right function returns, and the wrong ones.

    Raises:
        ValueError: there are no cases, or not as many values.
    """
    cases, given = exercise.cases(), attempt.values
    if not cases:
        raise ValueError("an exercise needs at least one case to be tried with")
    if attempt.stub:
        return "not attempted yet."
    if attempt.error:
        advice = [f". {what}" for part, what in ADVICE.items() if part in attempt.error]
        return f"not yet. It stopped with {attempt.error}{''.join(advice)}"
    if len(given) != len(cases):
        raise ValueError(f"{len(given)} values for {len(cases)} cases")
    if all(value is None or value is Ellipsis for value in given):
        return "not yet. It returns nothing: a `return` is missing."

    def agrees(function: Callable) -> list[bool]:
        return [same(value, function(*copies(case)), exercise.tolerance) for value, case in zip(given, cases)]

    right = agrees(exercise.right)
    if all(right):
        return "right!"
    for hint, mistake in exercise.mistakes.items():
        if all(agrees(mistake)):
            return f"not yet. {hint}"
    first = right.index(False)
    return f"not yet. {describe(given[first], exercise.right(*copies(cases[first])))}"


def told(error: BaseException) -> str:
    """An error in words, whatever it makes of being asked."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def copies(arguments: tuple) -> tuple:
    """A copy of the arguments, so that an answer that changes them in place does no harm."""
    return tuple(value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for value in arguments)


def is_stub(answer: Callable) -> bool:
    """Whether a function is still the stub that does nothing."""
    def stub():
        ...

    return hasattr(answer, "__code__") and [step.opname for step in dis.get_instructions(answer)] == [
        step.opname for step in dis.get_instructions(stub)]


def same(one, other, tolerance: float) -> bool:
    """Whether two results are equal: numbers, arrays, words, or lists of them."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in zip(one, other))
    if isinstance(one, (str, bool)) or isinstance(other, (str, bool)):
        return type(one) is type(other) and one == other
    try:
        one, other = to_numbers(one), to_numbers(other)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return one.shape == other.shape and np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def to_numbers(value) -> np.ndarray:
    """The value as an array of real numbers.

    Raises:
        TypeError: it is complex; its imaginary part would be lost.
    """
    if is_complex(value):
        raise TypeError("complex numbers")
    return np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value, dtype=np.float64)


def is_complex(value) -> bool:
    return value.is_complex() if isinstance(value, Tensor) else np.asarray(value).dtype.kind == "c"


def describe(given, expected) -> str:
    """What to say about an answer that is wrong in a way that nobody foresaw."""
    if given is None or given is Ellipsis:
        return "In one of the cases it returned nothing."
    if not isinstance(given, (list, tuple)) and is_complex(given):
        return "The answer should be real; yours is complex."
    shapes = [tuple(value.shape) if isinstance(value, (Tensor, np.ndarray)) else None for value in (given, expected)]
    if shapes[0] != shapes[1] and shapes[1] is not None:
        return f"The answer should be a tensor of shape {shapes[1]}; yours is " + (
            f"one of shape {shapes[0]}." if shapes[0] is not None else f"of type {type(given).__name__}.")
    if type(given) is not type(expected) and (isinstance(expected, (str, bool, list, tuple)) or isinstance(given, str)):
        return f"The answer should be of type {type(expected).__name__}; yours is of type {type(given).__name__}."
    if shapes[1] is not None:
        apart = np.abs(to_numbers(given) - to_numbers(expected)).max()
        return f"The numbers differ by up to {apart:.3g}." if np.isfinite(apart) else "Some numbers are not finite."
    return (f"Called with the first of the cases that fail, it should give {shown(expected)}; "
            f"yours gives {shown(given)}.")


def shown(value) -> str:
    """The beginning of a value as Python writes it."""
    try:
        return f"{value!r:.80}"
    except Exception:  # a number of thousands of digits, an object whose words fail
        return f"something of type {type(value).__name__}"
