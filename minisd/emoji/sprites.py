"""The emoji data set on disk: captions.json, and one sheet of drawings per style.

`assets/emoji/build.py` wrote these files; `data.py` and `world.py` compose scenes from what is read here.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CELL, COLUMNS = 64, 40  # side of a sheet's square cells in pixels; cells in a row


@dataclass(frozen=True)
class Concept:
    """One record of captions.json. `code`: the emoji's code points."""
    index: int
    name: str
    article: str
    core: bool
    code: str


def read_captions(path: Path) -> list[Concept]:
    """The records of captions.json. Raises a FileNotFoundError, or a ValueError for a damaged file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it is in the project's assets/emoji")
    try:
        concepts = [Concept(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
        numbers, names = [c.index for c in concepts], {c.name for c in concepts}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if numbers != list(range(len(concepts))) or len(names) < len(concepts):
        raise ValueError(f"{path} is damaged: records must be numbered 0, 1, 2, … and each name used once")
    return concepts


def read_sheet(path: Path, count: int, columns: int = COLUMNS, cells: tuple[int, ...] = (CELL,)) -> np.ndarray:
    """A sprite sheet's cells: (count, C, C, 4) uint8. A FileNotFoundError, or a ValueError if the file does not fit.

    Args:
        columns: cells in a row.
        cells: possible values of C; the sheet's width tells which.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; it is in the project's assets/emoji")
    try:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGBA"))
    except Exception as error:  # Pillow raises half a dozen types for damaged files
        raise ValueError(f"{path} is damaged: {error}") from error
    rows = -(-count // columns)
    cell = sheet.shape[1] // columns if sheet.shape[1] // columns in cells else cells[0]
    if sheet.shape[:2] != (rows * cell, columns * cell):
        raise ValueError(f"{path} is {sheet.shape[1]} x {sheet.shape[0]} pixels, but {count} captions need "
                         f"{columns * cell} x {rows * cell}: sheet and captions do not belong together")
    drawings = sheet.reshape(rows, cell, columns, cell, 4).swapaxes(1, 2).reshape(-1, cell, cell, 4)
    drawn = np.asarray(drawings[..., 3].any(axis=(1, 2)))
    if not drawn[:count].all() or drawn[count:].any():
        raise ValueError(f"{path} has {int(drawn.sum())} drawings, but there are {count} captions")
    return drawings[:count]
