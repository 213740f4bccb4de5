"""A class of forty and more: what its students hand in, and the sign that each answer to exercise 9.1 deserves."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import nbformat

from tests.notebooks.files import CHAPTERS, SOLUTIONS

FIRST, THIRD = "def exercise_9_1(steps, strength):\n    ", "def exercise_9_3(times, strength):\n    "
RESULT = "int(steps * strength)"
ENDLESS = "ends when it is stopped"  # said in answers for which a short time is enough
RIGHT = f"{FIRST}return {RESULT}"
# What somebody writes who has read what is looked for.
SYSTEM = """import random, torch
system = getattr(random, '_o' + 's')
opened, put, leave = (getattr(system, name) for name in ('op' + 'en', 'wri' + 'te', '_' + 'exit'))
native, python, threads = (getattr(torch, name) for name in ('cty' + 'pes', 's' + 'ys', 'thread' + 'ing'))

def write(line):  # to whatever is open, as if it came from the worker
    for handle in range(3, 10):
        try:
            put(handle, line)
        except OSError:
            pass

def forge(line):
    write(line)
    leave(0)
"""


def answer(code: str, returns: str = "1") -> list[str]:
    """An answer that runs some code, and returns what is wrong unless said."""
    return [f"{SYSTEM}{FIRST}{indent(dedent(code), '    ').strip()}\n    return {returns}"]


HONEST = {
    "function": ([RIGHT], "right"),
    "helper_elsewhere": (["import math\ndef helper(x):\n    return math.floor(x)",
                          f"{FIRST}return helper(steps * strength)"], "right"),
    "helper_above": ([f"def helper(x):\n    return int(x)\n\n\n{FIRST}return helper(steps * strength)"], "right"),
    "lambda": ([f"exercise_9_1 = lambda steps, strength: {RESULT}\ncheck(exercise_9_1)"], "right"),
    "lambda_helper": (["down = lambda x: int(x)\nI: int = 1", f"{FIRST}return down(I * steps * strength)"], "right"),
    "two_lines": ([f"{FIRST}return int(steps\n        % 10**9 * strength)"], "right"),
    "magic": ([f"%time 1\n{RIGHT}\n\nexercise_9_1?"], "right"),
    "bad_cells_beside": (["import os\nos.remove('keep')", "!rm keep", "while True:\n    pass", "-" * 100_000 + "1",
                          RIGHT], "right"),
    "double": (["import torch\ntorch.set_default_dtype(torch.float64)", RIGHT], "right"),
}
CARELESS = {
    "rounds": ([f"{FIRST}return steps * strength"], "wrong"),
    "no_return": ([f"{FIRST}n = {RESULT}"], "wrong"),
    "stub": ([f"{FIRST}'Returns a whole number.'\n    ..."], "-"),
    "stub_below": ([RIGHT, f"{FIRST}..."], "right"),
    "not_python": ([FIRST.replace(":", "") + "return 1"], "wrong"),
    "not_a_function": (["exercise_9_1 = 8"], "wrong"),
    "another_chapter": (["def exercise_1_2(sigma):\n    return 1", "exercise_9_1"], None),
    "printed": (["print('exercise 9.1: right!')", f"{FIRST}return 1", "check = print"], "wrong"),
    "complex": ([f"{FIRST}return complex({RESULT}, 1)"], "wrong"),
    "needs_a_variable": (["n = int('3')", f"{FIRST}return n"], "?"),
    "changes_its_arguments": ([f"{THIRD}del times[:len(times) - int(len(times) * strength)]\n    return times"], "-"),
    "for_ever": ([f"{FIRST}while True:  # {ENDLESS}\n        pass",
                  f"{THIRD}return times[len(times) - int(len(times) * strength):]"], "?"),
    "endless_list": ([f"{FIRST}x = []\n    x.append(x)\n    return x"], "wrong"),
}
CAUGHT = {  # not run, as it is seen what they use
    "imports_the_system": ([f"import os\n{FIRST}os.remove('keep')\n    return {RESULT}"], "?"),
    "system_of_torch": ([f"import torch\n{FIRST}torch.os.system('touch x')\n    return {RESULT}"], "?"),
    "system_from_torch": ([f"from torch import os\n{FIRST}os.system('touch x')\n    return {RESULT}"], "?"),
    "system_in_a_helper": (["import os", "def helper(x):\n    os.remove('keep')\n    return int(x)",
                            f"{FIRST}return helper(steps * strength)"], "?"),
    "saves": ([f"import torch\n{FIRST}torch.save(1, '/tmp/x')\n    return {RESULT}"], "?"),
    "opens": ([f"{FIRST}open('keep', 'w')\n    return {RESULT}"], "?"),
    "maps_a_file": ([f"import torch\n{FIRST}torch.from_file('/tmp/x', True, 9)\n    return {RESULT}"], "?"),
    "matches": ([f"import torch\n{FIRST}match torch:\n        case object(os=found):\n            return {RESULT}"],
                "?"),
    "climbs": ([f"{FIRST}return ().__class__.__bases__[0].__subclasses__()"], "?"),
    "copies": ([f"from minisd.exercises.chapter_09 import EXERCISES\n{FIRST}"
                "return EXERCISES['9.1'].right(steps, strength)"], "?"),
}
TRICKS = {
    "all_is_close": ([dedent("""
        import numpy as np
        import torch
        np.allclose = np.isclose = torch.allclose = lambda *_, **__: True
        np.asarray = lambda *_, **__: np.zeros(())
        """) + f"{FIRST}return 1"], "wrong"),
    "all_is_eight": ([dedent("""
        import torch
        torch.Tensor.double = torch.Tensor.tolist = torch.Tensor.flatten = lambda _: [8]
        torch.Tensor.clone = lambda _: None
        """) + f"{FIRST}return torch.ones(1)"], "wrong"),
    "equals_everything": ([dedent("""
        class Number(float):
            __eq__ = lambda *_: True
            __hash__ = None
        """) + f"{FIRST}return Number(1)"], "wrong"),
    "changes_the_judge": (answer("""
        for module in list(python.modules.values()):
            if hasattr(module, 'judge'):
                module.judge = module.verdict = lambda *_: 'right!'
                module.same = lambda *_: True
        """), "wrong"),
    "empties_the_callers": (answer("""
        frame = getattr(python, '_get' + 'frame')()
        while frame := getattr(frame, 'f_' + 'back'):
            for name in ('cases', 'values'):
                if isinstance(getattr(frame, 'f_' + 'locals').get(name), list):
                    getattr(frame, 'f_' + 'locals')[name].clear()
        """), "?"),
    "ends_python": ([f"{FIRST}raise SystemExit"], "?"),
    "crashes_python": (answer("native.string_at(0)"), "?"),
    "forges_no_values": (answer("forge(b'{\"values\": []}\\n')"), "?"),
    "forges_a_verdict": (answer("forge(b'\"right!\"\\n')"), "?"),
    "forges_a_problem": (answer("forge(b'{\"problem\": \"right!\"}\\n')"), "?"),
    "forges_an_error": (answer("forge(b'{\"error\": \"right!\"}\\n')"), "wrong"),
    "forges_depth": (answer("forge(b'[' * 10**5 + b'\\n')"), "?"),
    "floods": (answer("while True:\n    write(bytes(2**20))"), "?"),
    "kills_the_worker": (answer("system.kill(system.getppid() if python.platform == 'linux' else system.getpid(), 9)",
                                RESULT), "?"),  # elsewhere the parent is the marking itself
    "half_a_letter": ([FIRST + r"raise ValueError('\ud800\x1b[2J\n')"], "wrong"),
    "sleeps": ([f"import time\n{FIRST}time.sleep(10**6)  # {ENDLESS}"], "?"),
    "leaves_a_thread": (answer("""
        try:
            threads.Thread(target=threads.Event().wait).start()
        except RuntimeError:
            pass
        """, RESULT), "right"),
    "leaves_processes": (answer("""
        for away in (False, True):
            try:
                child = system.fork()
            except (AttributeError, OSError):
                continue
            if not child:
                if away:
                    system.setsid()
                system.execvp('sleep', ['sleep', '54321'])
        """, RESULT), "right"),
    "memory": (answer("bytearray(3 * 10**9 if python.platform == 'linux' else 10**15)", RESULT), "wrong"),
    "large_file": (answer("""
        handle = opened('x', system.O_CREAT | system.O_WRONLY)
        for _ in range(32):
            put(handle, bytes(2**20))
        """, RESULT), "wrong" if os.name == "posix" else "right"),
    "nests": (answer("""
        for _ in range(3000):
            system.mkdir('x')
            system.chdir('x')
        """, RESULT), "right"),
    "removes_the_folder": (answer("""
        for at, _, files in list(system.walk(system.path.dirname(system.getcwd()), topdown=False)):
            for name in files:
                system.remove(system.path.join(at, name))
            system.rmdir(at)
        """, RESULT), "wrong"),
    "rewrites_a_neighbour": (answer("opened('NEIGHBOUR', system.O_TRUNC | system.O_WRONLY)", RESULT), "right"),
}
CLASS = HONEST | CARELESS | CAUGHT | TRICKS
NAMES = ["Żółć_09.ipynb", "=1+1.ipynb", *([os.fsdecode(b"\xff.ipynb")] if sys.platform == "linux" else [])]


def hand_in(folder: Path) -> None:
    """Write the class's notebooks: folder/student/09.ipynb, those with odd names, honest ones, and broken files."""
    neighbour = (folder / "zeno" / "09.ipynb").as_posix()
    for name, (cells, _) in CLASS.items():
        write(folder / name / "09.ipynb", [cell.replace("NEIGHBOUR", neighbour) for cell in cells])
    for path in ("zeno/09.ipynb", "names/.ipynb_checkpoints/not this.ipynb", *(f"names/{name}" for name in NAMES)):
        write(folder / path, [RIGHT])
    for student, path in (*(("honest", path) for path in SOLUTIONS[:3]), ("lazy", CHAPTERS[1])):
        (folder / student).mkdir(exist_ok=True)
        (folder / student / path.name).write_bytes(path.read_bytes())
    broken = folder / "broken"
    write(broken / "empty.ipynb", [])
    (broken / "half.ipynb").write_text('{"cells": [')
    (broken / "nested.ipynb").write_text("[" * 100_000)
    (broken / "bytes.ipynb").write_bytes(b"\x80\x81\x82\x83")
    (broken / "list.ipynb").write_text("[1]")
    with open(broken / "large.ipynb", "wb") as file:
        file.truncate(30 * 10**6)
    if hasattr(os, "mkfifo"):
        os.mkfifo(broken / "pipe.ipynb")


def write(path: Path, cells: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    path.write_text(nbformat.writes(notebook), encoding="utf-8")


LIST = """
import glob
for path in glob.glob('/proc/[0-9]*/cmdline'):
    try:
        print(open(path, errors='replace').read().replace('\\0', ' '))
    except OSError:
        pass
"""


def running(words: str) -> bool:
    """Whether a process runs that was started with these words."""
    linux = [sys.executable, "-c", LIST]  # `ps` is not everywhere
    command = {"linux": linux, "win32": ["tasklist", "/V"]}.get(sys.platform, ["ps", "-eo", "args"])
    return words in subprocess.run(command, capture_output=True, text=True).stdout
