"""JSON files, and where minisd's own assets are."""

import json
from pathlib import Path

from minisd.saving import check_whole


def read_json(path: Path) -> dict:
    """Read a JSON object, with an error that names the file."""
    check_whole(path.parent)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist" + ("" if path.parent.is_dir() else
                                f", and neither does the folder {path.parent}"))
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
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
