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
# What no exercise needs: modules, by whatever name others know them; functions that run, find or evaluate anything;
SYSTEM = {
    "bltns", "builtins", "collect_env", "cpp_extension", "ctypes", "ctypeslib", "exercises", "f2py", "gc", "hub",
    "importlib", "inspect", "io", "linecache", "multiprocessing", "os", "pathlib", "pickle", "runpy", "shutil",
    "socket", "subprocess", "sys", "tempfile", "threading", "urllib"}
FINDERS = {
    "ForwardRef", "Formatter", "__builtins__", "__import__", "attrgetter", "breakpoint", "exec", "get_type_hints",
    "globals", "input", "lambda_eval", "locals", "methodcaller", "runstring", "singledispatch", "singledispatchmethod",
    "unsafe_eval", "vars"}
# functions of files and processes, in any library; and frames, which lead to the variables of whoever called.
FILES = re.compile(r"(im|safe_)?(dump|open|print_|save|serialize|write)\w*|(from|to)_?file\w*|memmap|genfromtxt"
                   r"|fromregex|load(s|txt|_inline|_library|_url)?|\w*(popen|spawn|system)")
FRAMES = re.compile(r"\w*frame|(ag|co|cr|gi|tb)_\w+|f_(back|builtins|code|globals|locals)")
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
    """Something in the code that no exercise needs: another module, the system, files, frames, underscores.

    A first look, which finds what is written openly; `getattr` with a composed name goes past it.
    """
    for node in (node for statement in cell for node in ast.walk(statement)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            wanted = imports(node)
        elif isinstance(node, ast.Name):
            wanted = [node.id] if node.id in SYSTEM | FINDERS | {"compile", "eval", "open"} else []
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") and node.attr[:2] != "__"
            wanted = [node.attr] if is_needless(node.attr.lstrip("_") if own else node.attr) else []
        elif isinstance(node, ast.MatchClass):  # `case object(os=found)` reads an attribute, too
            wanted = [name for name in node.kwd_attrs if is_needless(name)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # for getattr
            hidden = node.value.lstrip("_") in SYSTEM or re.fullmatch(r"__(?!main__|init__)\w+__", node.value)
            wanted = [node.value] if hidden else []
        else:
            continue
        if wanted:
            return wanted[0]
    return None


def imports(node: ast.Import | ast.ImportFrom) -> list[str]:
    """What an import statement imports that no exercise needs."""
    whole = [f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name for alias in node.names]
    return [name for name in whole if name != "minisd.exercises.check" and (
        name.split(".")[0] not in MODULES or any(map(is_needless, name.split(".")[1:]))
        or (name.endswith("*") and name != "math.*"))]


def is_needless(name: str) -> bool:
    """Whether no exercise needs an attribute, or a module in another. What begins with an underscore, none does."""
    return name != "__init__" and (name.startswith("_") or name in SYSTEM | FINDERS
                                   or bool(FILES.fullmatch(name) or FRAMES.fullmatch(name)))


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
