"""Text from a file in an error message: names and values that somebody else chose, never raw, never long."""

from collections.abc import Iterable


def shown(text: object, limit: int = 100) -> str:
    """A text of at most `limit` characters, in which control characters, which could command a terminal, are escaped.

    Give `repr(value)` instead of a value that is to stand in quotes if it is a string.
    """
    text = str(text)
    text = text if len(text) <= limit else f"{text[:limit - 1]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first of some names, in order, and how many more there are."""
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(shown(name, 150) for name in ordered[:most]) + more
