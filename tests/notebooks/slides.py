"""What `make slides` puts on which slide, and how high it is.

The sizes are those of notebooks/templates/lecture, with typefaces as wide as a browser may choose them.
"""

import base64
import re
import struct
from math import ceil

from tests.notebooks.files import printed

WIDTH, HEIGHT = 1160, 704  # of what a slide has room for
LETTERS = 97  # on a line of text of that width
COLUMN = 432  # the narrowest column of text beside a picture
TITLE, HEADING, LINE, ROW, MATHS_ROW, FORMULA, GAP = 66, 58, 30, 38, 48, 62, 12
CODE_LINE, PRINTED_LINE, PRINTED_LETTER, FOLDED = 21.5, 20, 9.65, 26
ENLARGED = 1.6  # a picture's pixels on a slide for each in a notebook
HIGHEST, TALLEST = 420, 540  # a picture that is wider than high, and others, which leave room for text beside them
LONG = 20  # more printed lines are a table, treated like a picture


def slides(notebook) -> list[list]:
    """The cells of each slide, those below others too, in order."""
    found: list[list] = []
    for cell in notebook.cells:
        kind = cell.metadata.slideshow.slide_type
        if kind in ("slide", "subslide"):
            found.append([cell])
        elif kind == "-":
            found[-1].append(cell)
    return found


def pictures(cell) -> list:
    return [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]


def is_figure(cell) -> bool:
    """Of a cell with a picture or a long table the template folds the code away, and puts text beside it."""
    return cell.cell_type == "code" and bool(pictures(cell) or printed(cell).count("\n") > LONG)


def code(cell) -> list[str]:
    """The lines of code to be seen."""
    return [] if cell.cell_type == "markdown" or is_figure(cell) else cell.source.splitlines()


def words(cell) -> int:
    """How many words of prose, without headings."""
    text = "" if cell.cell_type == "code" else re.sub("(?m)^#.*", "", cell.source)
    return len(text.split())


def height(cells) -> float:
    """Text that follows a figure stands beside it, if that leaves room for a column."""
    top, bottom, room = 0.0, 0.0, 0.0  # where the text goes on, where the figure ends, how much it leaves
    for cell in cells:
        if cell.cell_type == "markdown" and room >= COLUMN:
            top += text_height(cell, LETTERS * room / WIDTH)
            continue
        top, room = max(top, bottom), 0
        if cell.cell_type == "markdown":
            top += text_height(cell)
        elif is_figure(cell):
            wide, high = figure_size(cell)
            bottom, room = top + high, WIDTH - wide
        else:
            top += _pre(code(cell), CODE_LINE) + _said(cell)
    return max(top, bottom)


def text_height(cell, letters: float = LETTERS) -> float:
    return sum(_block(text, letters) for text in re.split(r"\n\s*\n", cell.source.strip()))


def figure_size(cell) -> tuple[float, float]:
    """Width and height of the pictures that a cell shows, and of what it prints."""
    wide = max((PRINTED_LETTER * len(line) + 30 for line in printed(cell).splitlines()), default=0)
    high = FOLDED + _said(cell)
    for output in pictures(cell):
        across, down = struct.unpack(">II", base64.b64decode(output.data["image/png"])[16:24])
        most = HIGHEST if down < across else TALLEST
        shown = min(ENLARGED * output.metadata["image/png"].get("width", 700), WIDTH, most * across / down)
        wide, high = max(wide, shown), high + shown * down / across + GAP
    return wide, high


def _said(cell) -> float:
    return sum(_pre(output.text.splitlines()) for output in cell.outputs if output.output_type == "stream")


def _pre(lines, line: float = PRINTED_LINE) -> float:
    return 24 + line * sum(ceil(max(1, len(text)) * PRINTED_LETTER / (WIDTH - 60)) for text in lines) if lines else 0


def _block(text: str, letters: float) -> float:
    """A heading, table, formula, program, or paragraph."""
    rows = text.splitlines()
    if text.startswith("#"):
        return TITLE if text.startswith("# ") else HEADING
    if text.startswith("|"):
        return GAP + sum(MATHS_ROW if "$" in row else ROW * ceil(len(_seen(row)) / letters)
                         for row in rows if not row.startswith("|---"))
    if text.startswith("```"):
        return GAP + _pre(rows[1:-1], CODE_LINE)
    if text.startswith("$$"):
        return GAP + FORMULA * (1 + text.count(r"\\"))
    return GAP + LINE * sum(ceil(len(_seen(row)) / letters) for row in rows)


def _seen(text: str) -> str:
    """Without the addresses of links and the commands of TeX, of which the reader sees a sign at most."""
    return re.sub(r"\\[a-zA-Z]+|[{}*`$]", "", re.sub(r"\]\([^)]*\)", "", text))
