"""Which answers are right in notebooks that were handed in: a line for each notebook, then the most frequent comments.

    python -m minisd.exercises answers                         all notebooks in the folder and below
    python -m minisd.exercises answers --table answers.csv     and what `check` says of each answer, for a spreadsheet

The notebooks themselves are not run, only the answers, each with its notebook's imports and functions. So a whole class
takes a few minutes, and stored or printed text counts for nothing. Answers that reach for files, the system or the
solutions are reported instead of run. This prevents accidents; it is no prison for malice.
"""

import argparse
import ast
import contextlib
import csv
import importlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import minisd.exercises
from minisd.exercises import find, verdict

SECONDS, STARTING = 60, 600  # for one answer (the course's own take less than one second), and for a process to start
MODULES = {"collections", "copy", "dataclasses", "functools", "itertools", "math", "matplotlib", "minisd", "numpy",
           "operator", "random", "re", "regex", "safetensors", "statistics", "torch", "typing"}
FORBIDDEN = {"__builtins__", "__import__", "breakpoint", "compile", "eval", "exec", "globals", "input", "open"}
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)

Cell = list[ast.stmt]


def read_cells(path: Path) -> list[Cell]:
    """The statements of each code cell; an answer that is not valid Python is replaced by one that says so.

    Raises:
        ValueError: the file is not a notebook.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a notebook ({type(error).__name__})") from None
    found = []
    for source in sources:
        with contextlib.suppress(SyntaxError, ValueError):
            found.append(ast.parse(source).body)
            continue
        try:  # again, without what only notebooks understand: %magic, !shell, help?
            found.append(ast.parse(re.sub(r"(?m)^([ \t]*)([%!].*|[\w.]+\?\??[ \t]*)$", r"\1pass", source)).body)
        except (SyntaxError, ValueError) as error:
            names = re.findall(r"(?m)^def (exercise_\d+_\d+)\b", source)
            found += [ast.parse(f"def {name}(*_): raise SyntaxError({str(error)!r})").body for name in names]
    return found


def exercises_in(cell: Cell) -> list[str]:
    """The exercises that a cell answers, such as "1.2"."""
    names = [re.fullmatch(r"exercise_(\d+)_(\d+)", node.name) for node in cell if isinstance(node, ast.FunctionDef)]
    return [f"{name[1]}.{name[2]}" for name in names if name]


def reaches_for(cell: Cell) -> str | None:
    """Something in the code that no exercise needs: another module, a forbidden name, two underscores."""
    for node in (node for statement in cell for node in ast.walk(statement)):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        for name in names:
            module = f"{node.module}.{name}" if isinstance(node, ast.ImportFrom) else name
            if module.split(".")[0] not in MODULES or re.match(r"minisd\.exercises(?!\.check$)", module):
                return module
        if isinstance(node, ast.Name) and node.id in FORBIDDEN:
            return node.id
        if isinstance(node, ast.Attribute) and re.match(r"__(?!init__$)|exercises$", node.attr):
            return node.attr
    return None


def judge(cells: list[Cell], leave_out: set[str], folder: str, results) -> None:
    """Runs in its own process. Sends (exercise, "") before each answer, (exercise, verdict) after it, None last."""
    os.chdir(folder)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it stays open)
    minisd.exercises.check = lambda answer: None  # the notebook imports this one, so its own checks print nothing
    scope: dict[str, Any] = {"__name__": "__main__", "check": minisd.exercises.check}
    results.send(("", ""))  # started
    for cell in cells:
        numbers = [number for number in exercises_in(cell) if number not in leave_out]
        for number in numbers:
            results.send((number, ""))
        for statement in cell:
            harmless = isinstance(statement, DEFINITIONS) and not reaches_for([statement])
            if numbers or (harmless and not exercises_in(cell)):
                with contextlib.suppress(Exception):
                    exec(compile(ast.Module([statement], []), "<answer>", "exec"), scope)
        for number in numbers:
            name = f"exercise_{number.replace('.', '_')}"
            answer: Any = scope.get(name)
            results.send((number, verdict(answer, find(name)[0])))
    results.send(None)


def judge_apart(cells: list[Cell], leave_out: set[str]) -> tuple[dict[str, str], str, str]:
    """Judge in another process. Returns the verdicts, the last exercise that was reached, and what went wrong there."""
    spawn, running = multiprocessing.get_context("spawn"), ""
    said: dict[str, str] = {}
    here, there = spawn.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = spawn.Process(target=judge, args=(cells, leave_out, folder, there), daemon=True)
        process.start()
        there.close()  # our copy, so that we notice when the other process ends
        try:
            patience = STARTING
            while here.poll(patience):
                patience = SECONDS
                if (message := here.recv()) is None:
                    return said, running, ""
                running, text = message
                if text and not (running in said and text.startswith("not attempted")):  # an empty stub left below it
                    said[running] = text
            return said, running, f"Stopped after {SECONDS} seconds: look at it."
        except EOFError:
            return said, running, "It ended Python: look at it."
        finally:
            process.kill()
            process.join()


def examine(cells: list[Cell]) -> dict[str, str]:
    """The verdict on each exercise of the chapter that the cells are about; empty if they are about none."""
    answered = [number for cell in cells for number in exercises_in(cell)]
    if not answered:
        return {}
    chapter = Counter(int(number.split(".")[0]) for number in answered).most_common(1)[0][0]
    try:
        exercises = importlib.import_module(f"minisd.exercises.chapter_{chapter:02}").EXERCISES
    except ModuleNotFoundError:
        return {}
    said = dict.fromkeys(exercises, "not in the notebook")
    for cell in cells:
        for number in exercises_in(cell):
            if number in exercises and (wanted := reaches_for(cell)):
                said[number] = f"Not run, as it uses {wanted}: look at it."
    leave_out = {number for number in answered if said.get(number) != "not in the notebook"}
    while True:
        answers, running, problem = judge_apart(cells, leave_out)
        said |= answers
        if not problem:
            return said
        if running in answers or running not in exercises:  # not in an answer, but in the code between them
            return said | {number: problem for number in answered if said.get(number) == "not in the notebook"}
        said[running] = problem
        leave_out |= {running, *answers}


def sign(text: str) -> str:
    if text.endswith("look at it.") or "stopped with NameError" in text:  # it may need the experiments
        return "?"
    return "right" if text == "right!" else "wrong" if text.startswith("not yet") else "-"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m minisd.exercises", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="notebooks, or folders of them")
    parser.add_argument("--table", type=Path, help="write a .csv file: notebook, exercise, verdict, what `check` says")
    options = parser.parse_args(arguments)
    paths = [path for given in options.paths
             for path in (sorted(given.rglob("*.ipynb")) if given.is_dir() else [given])
             if ".ipynb_checkpoints" not in path.parts]
    if not paths:
        parser.error(f"no notebooks in {', '.join(map(str, options.paths))}")
    rows, width = [], max(len(path.name) for path in paths) + 3
    for path in paths:
        try:
            said = examine(read_cells(path))
        except ValueError as error:
            print(f"{path.name:{width}}{error}", flush=True)
            continue
        rows += [(path.name, number, sign(text), text) for number, text in said.items()]
        signs = {number: sign(text) for number, text in said.items()}
        count = f"{list(signs.values()).count('right')} of {len(signs)} right" if signs else "no exercises in it"
        print(f"{path.name:{width}}{count:14}", *(f"  {number} {one}" for number, one in signs.items()), flush=True)
    print()
    often = Counter((number, text) for _, number, verdict, text in rows if verdict in ("wrong", "?"))
    for (number, text), times in often.most_common(10):
        print(f"{times} ×  {number}  {text.removeprefix('not yet. ')}")
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        with open(options.table, "w", newline="", encoding="utf-8-sig") as file:  # so that Excel reads ᾱ
            csv.writer(file).writerows([("notebook", "exercise", "verdict", "said"), *rows])
    return 0
