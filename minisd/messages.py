"""Text in a message that is not ours: names and values out of a file, and paths; never raw, never long."""

import sys
from collections.abc import Iterable

if sys.platform == "win32":
    from pathlib import WindowsPath as NativePath
else:
    from pathlib import PosixPath as NativePath

LONGEST_PATH = 4096


class ShownPath(NativePath):
    """A path that can stand in a message: in f"{path}", control characters are escaped. So are those of all paths that
    are made from it, such as `path / "unet"`. (`str(path)` is for the system, and as it is.)"""

    def __format__(self, spec: str) -> str:
        return format(shown(self, LONGEST_PATH), spec)


def shown(text: object, limit: int = 100) -> str:
    """A text of at most `limit` characters, in which control characters, which could command a terminal, are escaped.
    """
    text = str(text)
    text = text if len(text) <= limit else f"{text[:limit - 1]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object, limit: int = 100) -> str:
    """The same for a value as Python writes it: a string stands in quotes."""
    return shown(repr(value), limit)


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first of some names, in order, and how many more there are."""
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(shown(name, 150) for name in ordered[:most]) + more
