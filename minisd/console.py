"""Output that cannot end the work: what a console lacks is printed as an escape, what nobody reads is dropped."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO


class ForgivingStream:
    """A text stream that never fails.

    Args:
        stream: None, where Python was started without one, is one that drops everything.
    """

    def __init__(self, stream: TextIO | None):
        self.stream: TextIO | None = stream

    def write(self, text: str) -> int:
        if self.stream is not None:
            encoding = getattr(self.stream, "encoding", None) or "utf-8"
            try:
                self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError):  # a closed pipe or file, a full disk
                self.give_up()
        return len(text)

    def flush(self) -> None:
        if self.stream is not None:
            try:
                self.stream.flush()
            except (OSError, ValueError):
                self.give_up()

    def give_up(self) -> None:
        """Drop what is still to come, and what waits in the buffer: Python would fail at its end, too."""
        stream, self.stream = self.stream, None
        # not every stream has a file: there is no pipe then, either
        with suppress(AttributeError, OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())  # type: ignore[union-attr]

    def isatty(self) -> bool:
        return self.stream is not None and self.stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def forgiving_console() -> Iterator[None]:
    """Inside it, nothing that is printed can raise an error."""
    streams: list[Any] = [ForgivingStream(sys.stdout), ForgivingStream(sys.stderr)]
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(streams[0]))
        stack.enter_context(redirect_stderr(streams[1]))
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()
