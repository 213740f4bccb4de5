"""JSON files, and where minisd's own assets are."""

import json
from pathlib import Path

from minisd.messages import ShownPath
from minisd.saving import check_whole

# The largest text file of a published model is a tokenizer.json of 4 MB.
LARGEST_TEXT = 100 * 2**20


def check_regular(path: str | Path) -> None:
    """Raise a ValueError for what is no file: opening a FIFO can wait for ever, and a device may never end."""
    path = ShownPath(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file, but a "
                         + ("directory" if path.is_dir() else "FIFO, a device or a socket") + "; give a file")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no regular file, absurdly large, or not UTF-8.
    """
    path = ShownPath(path)
    check_whole(path.parent)
    check_regular(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist" + ("" if path.parent.is_dir() else
                                f", and neither does the folder {path.parent}"))
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise ValueError(f"{path} has {size:,} bytes; at most {LARGEST_TEXT:,} make sense")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is not UTF-8 text ({error})") from None


def read_json(path: Path) -> dict:
    """Read a JSON object, with an error that names the file."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{ShownPath(path)} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{ShownPath(path)} holds a {type(value).__name__}, not an object")
    return value


def assets_folder() -> Path:
    """The folder of the weights and data that come with minisd: in an installed wheel, or else in the checkout.

    Raises:
        FileNotFoundError: it is in neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "assets", package.parent / "assets"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no folder 'assets' in {package} or beside it; run in a checkout of minisd")
