"""The checks behind the notebooks' exercises.

    def exercise_1_2(sigma):
        ...                          # the stub, to be filled in

    check(exercise_1_2)              # prints: not attempted yet, a hint about this very mistake, or: right

An exercise is one function. To find out what is wrong with an answer, it is compared with the wrong answers that people
give: beside the right function, each chapter's file lists known wrong ones and what to say about them.
"""

import copy
import dis
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


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


def check(answer: Callable) -> None:
    """Print the verdict on an answer to an exercise; `answer` is a function named like exercise_1_2.

    Errors inside the answer are reported, not raised.

    Raises:
        ValueError: there is no exercise of that name.
    """
    exercise, number = find(getattr(answer, "__name__", str(answer)))
    print(f"exercise {number}: {verdict(answer, exercise)}")


def find(name: str) -> tuple[Exercise, str]:
    """The exercise that a function called exercise_1_2 answers, and its number "1.2"."""
    found = re.fullmatch(r"exercise_(\d+)_(\d+)", name)
    if not found:
        raise ValueError(f"check(…) takes the function of an exercise, such as exercise_1_2, not {name}")
    chapter, number = f"chapter_{int(found[1]):02}", f"{found[1]}.{found[2]}"
    try:
        exercises = importlib.import_module(f"minisd.exercises.{chapter}").EXERCISES
    except ModuleNotFoundError:
        exercises = {}
    if number not in exercises:
        raise ValueError(f"there is no exercise {number}; notebook {found[1]} has {', '.join(exercises) or 'none'}")
    return exercises[number], number


def verdict(answer: Callable, exercise: Exercise) -> str:
    cases = exercise.cases()
    if not cases:
        raise ValueError("an exercise needs at least one case to be tried with")
    given = []
    for arguments in cases:
        try:
            given.append(answer(*copies(arguments)))
        except NotImplementedError:
            return "not attempted yet."
        except Exception as error:
            return f"not yet. It stopped with {type(error).__name__}: {error}"
    if all(value is None or value is Ellipsis for value in given):
        return "not attempted yet." if is_stub(answer) else "not yet. It returns nothing: a `return` is missing."
    expected = [exercise.right(*copies(arguments)) for arguments in cases]
    if all(same(a, b, exercise.tolerance) for a, b in zip(given, expected)):
        return "right!"
    for hint, mistake in exercise.mistakes.items():
        wrong = [mistake(*copies(arguments)) for arguments in cases]
        if all(same(a, b, exercise.tolerance) for a, b in zip(given, wrong)):
            return f"not yet. {hint}"
    return "not yet. " + describe(*next((a, b) for a, b in zip(given, expected) if not same(a, b, exercise.tolerance)))


def copies(arguments: tuple) -> tuple:
    """A copy of the arguments, so that an answer that changes them in place does no harm."""
    return tuple(value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for value in arguments)


def is_stub(answer: Callable) -> bool:
    """Whether a function is still the stub that does nothing."""
    def stub():
        ...

    return [step.opname for step in dis.get_instructions(answer)] == [
        step.opname for step in dis.get_instructions(stub)]


def same(one, other, tolerance: float) -> bool:
    """Whether two results are equal: numbers, arrays, words, or lists of them."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in zip(one, other))
    if isinstance(one, (str, bool)) or isinstance(other, (str, bool)):
        return type(one) is type(other) and one == other
    try:
        one, other = to_numbers(one), to_numbers(other)
    except (TypeError, ValueError, RuntimeError):
        return False
    return one.shape == other.shape and np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def to_numbers(value) -> np.ndarray:
    return np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value, dtype=np.float64)


def describe(given, expected) -> str:
    """What to say about an answer that is wrong in a way that nobody foresaw."""
    if given is None or given is Ellipsis:
        return "In one of the cases it returned nothing."
    shapes = [tuple(value.shape) if isinstance(value, (Tensor, np.ndarray)) else None for value in (given, expected)]
    if shapes[0] != shapes[1] and shapes[1] is not None:
        return f"The answer should be a tensor of shape {shapes[1]}; yours is " + (
            f"one of shape {shapes[0]}." if shapes[0] is not None else f"of type {type(given).__name__}.")
    if type(given) is not type(expected) and (isinstance(expected, (str, bool, list, tuple)) or isinstance(given, str)):
        return f"The answer should be of type {type(expected).__name__}; yours is of type {type(given).__name__}."
    if shapes[1] is not None:
        apart = np.abs(to_numbers(given) - to_numbers(expected)).max()
        return f"The numbers differ by up to {apart:.3g}." if np.isfinite(apart) else "Some numbers are not finite."
    return f"Called with the first of the cases that fail, it should give {expected!r:.80}; yours gives {given!r:.80}."
