"""Which answers are right in notebooks that were handed in: a line for each notebook, then the most frequent comments.

    python -P -m minisd.exercises answers                       all notebooks in the folder and below
    python -P -m minisd.exercises answers --table answers.csv   and what `check` says of each answer, for a spreadsheet

The notebooks themselves are not run, only the answers, each in a process of its own that returns nothing but values;
they are compared here. So a whole class takes a minute (several on macOS and Windows), and stored or printed text
counts for nothing. This prevents accidents and simple cheating; it is no prison for malice.
"""

import argparse
import csv
import json
import os
import re
import stat
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from minisd.console import forgiving_console
from minisd.exercises import NAME, chapters
from minisd.exercises.apart import Worker
from minisd.saving import check_files

LARGEST, MOST_CODE = 20 * 10**6, 10**6  # bytes of a notebook, and characters of code in it
Row = tuple[str, str, str]  # notebook, exercise, what is said


@dataclass(frozen=True)
class Notebook:
    """What was read of a file: its code cells, or the problem with it."""

    name: str
    sources: list[str]
    problem: str = ""


def find_notebooks(given: list[Path]) -> dict[str, Path]:
    """The notebooks in files and folders: the path that tells them apart, such as alice/01.ipynb → where it is."""
    paths = [path for one in given for path in (sorted(notebooks_below(one)) if one.is_dir() else [one])]
    folders = [os.path.abspath(one if one.is_dir() else one.parent) for one in given]
    try:
        base = os.path.commonpath(folders)
        return {Path(os.path.relpath(path, base)).as_posix(): path for path in paths}
    except ValueError:  # on several drives
        return {path.absolute().as_posix(): path for path in paths}


def notebooks_below(folder: Path) -> list[Path]:
    """The notebooks in a folder, however deep; a folder that cannot be read is listed itself, to be noticed."""
    found, waiting = [], [folder]
    while waiting:
        folder = waiting.pop()
        try:
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    waiting += [Path(entry)] if entry.name != ".ipynb_checkpoints" else []
                elif entry.name.endswith(".ipynb"):
                    found.append(Path(entry))
        except OSError:
            found.append(folder)
    return found


def read(name: str, path: Path) -> Notebook:
    try:
        return Notebook(name, read_cells(path))
    except ValueError as error:
        return Notebook(name, [], f"{error}: look at it.")


def read_cells(path: Path) -> list[str]:
    """The code cells of a notebook, as text.

    Raises:
        ValueError: the file is not a notebook, or too large.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a folder, or a pipe, which would be waited for
            raise ValueError("not a file")
        if found.st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST // 10**6} MB")
        cells = json.loads(path.read_bytes())["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError, MemoryError) as error:
        words = str(error) if type(error) is ValueError else f"not a notebook ({type(error).__name__})"
        raise ValueError(words) from None
    if sum(map(len, sources)) > MOST_CODE:
        raise ValueError("more than a million characters of code")
    return sources


def examine(sources: list[str], worker: Worker) -> dict[str, str]:
    """The verdict on each exercise of the chapter that the cells are about; empty if they are about none."""
    named = [(int(chapter), f"{chapter}.{number}") for source in sources
             for chapter, number in re.findall(rf"\b{NAME.pattern}\b", source) if int(chapter) in chapters()]
    if not named:
        return {}
    chapter = Counter(chapter for chapter, _ in named).most_common(1)[0][0]
    answered = {number for _, number in named}
    return {number: worker.verdict(sources, number, exercise) if number in answered else "not in the notebook"
            for number, exercise in chapters()[chapter].items()}


def mark(notebook: Notebook, worker: Worker) -> list[Row]:
    """A row for each exercise, or one for what is wrong with the notebook."""
    said = {"": notebook.problem} if notebook.problem else examine(notebook.sources, worker)
    said = said or {"": "no exercises in it"}
    return [(notebook.name, number, text) for number, text in said.items()]


def sign(text: str) -> str:
    if text.endswith("look at it.") or "stopped with NameError" in text:  # it may need the experiments
        return "?"
    return "right" if text == "right!" else "wrong" if text.startswith("not yet") else "-"


def plain(text: str) -> str:
    """The text without line breaks, control characters and halves of characters: they are written as \\n, \\x1b, …"""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def write_table(path: Path, rows: list[Row]) -> None:
    """Write a .csv file that Excel reads: with ᾱ, and without taking for a formula what a student made begin with =."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [(text_only(name), number, sign(text), text_only(text)) for name, number, text in rows]
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("notebook", "exercise", "verdict", "said"), *lines])


def text_only(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def print_rows(rows: list[Row]) -> None:
    """A line for each notebook, then what was said most often."""
    width = min(60, max(len(name) for name, _, _ in rows)) + 3
    for name in dict.fromkeys(name for name, _, _ in rows):
        signs = {number: sign(text) for notebook, number, text in rows if notebook == name}
        if "" in signs:
            print(f"{name:{width}}{next(text for notebook, _, text in rows if notebook == name)}")
            continue
        count = f"{list(signs.values()).count('right')} of {len(signs)} right"
        print("  ".join([f"{name:{width}}{count:14}", *(f" {number} {one}" for number, one in signs.items())]))
    print()
    often = Counter((number, text) for _, number, text in rows if number and sign(text) in ("wrong", "?"))
    for (number, text), times in often.most_common(10):
        print(f"{times} ×  {number}  {text.removeprefix('not yet. ')}")


@forgiving_console()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -P -m minisd.exercises", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="notebooks, or folders of them")
    parser.add_argument("--table", type=Path, help="write a .csv file: notebook, exercise, verdict, what `check` says")
    options = parser.parse_args(arguments)
    if options.table:
        try:
            check_files([options.table])
        except OSError as error:
            parser.error(f"--table: {error}")
    found = find_notebooks(options.paths)
    if not found:
        parser.error(f"no notebooks in {', '.join(map(str, options.paths))}")
    notebooks = [read(name, path) for name, path in found.items()]  # all of them before any code is run
    with Worker() as worker:
        rows = [(plain(name), number, plain(text)) for notebook in tqdm(notebooks, ascii=True, disable=None)
                for name, number, text in mark(notebook, worker)]
    failed = ""
    if options.table:
        try:
            write_table(options.table, rows)
        except OSError as error:  # open in Excel, a full disk
            failed = f"the table was not written: {error}"
    print_rows(rows)
    if failed:
        print(failed, file=sys.stderr)
    return bool(failed)
