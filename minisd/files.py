"""JSON files, folders that are written completely or not at all, and where minisd's own assets are."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Files that contradict newly written ones: shards of the weights, large ONNX models' weights, and transformers' other
# form of a tokenizer.
SUPERSEDED = re.compile(r"^(tokenizer|added_tokens)\.json$|-of-\d+\.safetensors$|\.safetensors\.index|\.onnx_data$")


def read_json(path: Path) -> dict:
    """Read a JSON object, with an error that names the file."""
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


def check_folder(folder: Path) -> None:
    """Raise an error before any work is done if nothing can be saved in `folder`, which need not exist yet."""
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not nearest.is_dir():
        raise FileExistsError(f"nothing can be saved in {folder}: {nearest} is a file; name another folder")
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"nothing can be saved in {folder}: no permission to write in {nearest}; "
                              "name another folder")


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A new, empty folder to write into, which replaces `folder` only if all went well.

    Other files of `folder` are kept (as hard links in the new one), except those that new ones supersede.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a folder is needed to save into")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    new, old = work / "new", work / "old"
    new.mkdir()
    try:
        yield new
        written = {new, *(path for path in new.rglob("*") if path.is_dir())}
        for path in [p for p in folder.rglob("*") if p.is_file() or p.is_symlink()]:
            target = new / path.relative_to(folder)
            if not target.exists() and not (target.parent in written and SUPERSEDED.search(path.name)):
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.is_symlink():
                    target.symlink_to(os.readlink(path), target_is_directory=path.is_dir())
                else:
                    os.link(path, target)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
