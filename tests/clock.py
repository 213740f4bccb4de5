"""Time in tests: no busy or slow machine is red for it."""

import itertools
from collections.abc import Callable

PATIENCE = 1800  # seconds to wait for another process before it is said to hang: a hundred times what any of them takes


def second_by_second() -> Callable[[], int]:
    """A clock in place of `time.monotonic`: each look at it takes a second."""
    return itertools.count().__next__
