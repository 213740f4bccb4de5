"""Warnings that point at the reader's own line."""

import sys
import warnings

PASSED_THROUGH = ("minisd", "torch", "tqdm")  # torch's decorators and the progress bar lie in between


def warn(message: str) -> None:
    """A UserWarning as if from the line that called minisd, however many of its own calls lie in between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in PASSED_THROUGH:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
