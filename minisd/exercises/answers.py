"""An answer in a notebook that was handed in: finding it, running its cell, and calling it.

Everything here happens in a process that tries this one answer (worker.py). Besides the answer's own cell only what
the notebook defines is run: imports, functions, classes, and constants. Its experiments are not.
"""

import ast
import contextlib
import json
import re
from typing import Any

import minisd.exercises
from minisd.exercises import attempt, find, told
from minisd.exercises.values import pack

MODULES = {
    "PIL", "__future__", "abc", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses", "decimal",
    "enum", "fractions", "functools", "heapq", "itertools", "math", "matplotlib", "minisd", "numpy", "operator",
    "random", "re", "regex", "safetensors", "statistics", "string", "time", "torch", "tqdm", "typing", "warnings"}
# What no exercise needs: names, and attributes of modules that lead to the system or to files.
NAMES = {"__builtins__", "__import__", "breakpoint", "compile", "eval", "exec", "globals", "input", "open"}
ATTRIBUTES = {
    "builtins", "ctypes", "exercises", "fromfile", "gc", "hub", "importlib", "inspect", "io", "load", "loadtxt",
    "memmap", "multiprocessing", "open", "os", "pathlib", "pickle", "popen", "save", "save_pretrained", "savefig",
    "savetxt", "savez", "shutil", "socket", "subprocess", "sys", "system", "tempfile", "threading", "tofile", "urllib"}
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

Cell = list[ast.stmt]


def parse(source: str) -> Cell:
    """The statements of a cell, without what only notebooks understand: %magic, !shell, help?

    Raises:
        SyntaxError, ValueError, MemoryError, RecursionError: it is not Python, or nested too deeply.
    """
    with contextlib.suppress(SyntaxError, ValueError):
        return ast.parse(source).body
    return ast.parse(re.sub(r"(?m)^([ \t]*)([%!].*|[\w.]+\?\??[ \t]*)$", r"\1pass", source)).body


def binds(cell: Cell, name: str) -> bool:
    """Whether a cell defines the function of that name, or assigns to the name."""
    for node in (node for statement in cell for node in ast.walk(statement)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
    return False


def defines(statement: ast.stmt) -> bool:
    """Whether a statement is an import, a function, a class, or a constant: an assignment that calls nothing."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        changes = any(isinstance(node, (ast.Attribute, ast.Subscript)) for one in targets for node in ast.walk(one))
        return statement.value is not None and not changes and not calls(statement.value)
    return isinstance(statement, DEFINITIONS)


def calls(node: ast.AST) -> bool:
    """Whether an expression calls something when it is run; what is inside of a lambda waits."""
    return not isinstance(node, ast.Lambda) and (
        isinstance(node, ast.Call) or any(calls(child) for child in ast.iter_child_nodes(node)))


def reaches_for(cell: Cell) -> str | None:
    """Something in the code that no exercise needs: another module, the system, files, two underscores.

    A first look, which finds what is written openly; `getattr` with a composed name goes past it.
    """
    for node in (node for statement in cell for node in ast.walk(statement)):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        for name in names:
            module = f"{node.module}.{name}" if isinstance(node, ast.ImportFrom) else name
            parts = module.split(".")
            if module != "minisd.exercises.check" and (
                    parts[0] not in MODULES or any(part.lstrip("_") in ATTRIBUTES for part in parts)):
                return module
        if isinstance(node, ast.Name) and node.id in NAMES:
            return node.id
        if isinstance(node, ast.Attribute) and (
                re.match(r"__(?!init__$)", node.attr) or node.attr.lstrip("_") in ATTRIBUTES):
            return node.attr
    return None


def try_out(sources: list[str], number: str) -> dict[str, Any]:
    """What an answer makes of its exercise's cases: its `Attempt` as JSON has it, or {"problem": …}, or {} for none.

    Args:
        sources: the notebook's code cells.
        number: the exercise, such as "1.2".
    """
    name = f"exercise_{number.replace('.', '_')}"
    cases = find(name)[0].cases()  # before the notebook can change what they are made with
    minisd.exercises.check = lambda answer: None  # the notebook's own checks would take time and print
    scope: dict[str, Any] = {"__name__": "__main__", "check": minisd.exercises.check}
    said: dict[str, Any] = {}
    for source in sources:
        try:
            cell = parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            if re.search(rf"\b{name}\b", source):
                said = said or {"error": told(error)}
            continue
        own = binds(cell, name)
        if own and (wanted := reaches_for(cell)):
            return {"problem": f"Not run, as it uses {wanted}"}
        stopped = run(cell if own else [one for one in cell if defines(one) and not reaches_for([one])], scope)
        if own and name not in scope:
            said = {"error": stopped}
        elif own and not ((now := tried(scope[name], cases))["stub"] and said):  # an empty stub left below counts not
            said = now
    return said


def run(cell: Cell, scope: dict[str, Any]) -> str:
    """Run the statements, those after a failing one as well. Returns the last error."""
    stopped = ""
    for statement in cell:
        try:
            exec(compile(ast.Module([statement], []), "<answer>", "exec"), scope)
        except Exception as error:
            stopped = told(error)
    return stopped


def tried(answer: Any, cases: list[tuple]) -> dict[str, Any]:
    """An `Attempt`, ready to be sent."""
    made = attempt(answer, cases)
    try:
        values = [pack(value) for value in made.values]
        json.dumps(values)
    except Exception as error:  # a list that holds itself, an object whose words fail, a number of thousands of digits
        return {"values": [], "error": f"{told(error)} (what it returns cannot be sent)", "stub": False}
    return {"values": values, "error": made.error[:300], "stub": made.stub}
