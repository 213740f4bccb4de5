"""Marking a class of more than forty: honest, careless and tricky ones, and files that are no notebooks."""

import csv
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minisd.exercises import Attempt, apart, attempt, chapters, check, find, handed_in, judge, verdict
from minisd.exercises.answers import parse, reaches_for
from minisd.exercises.apart import Worker
from minisd.exercises.handed_in import examine, find_notebooks, main, plain, read_cells
from minisd.exercises.values import MOST, pack, unpack
from tests.clock import PATIENCE
from tests.notebooks.files import ROOT, SOLUTIONS
from tests.notebooks.school import CLASS, ENDLESS, FIRST, RIGHT, SYSTEM, TRICKS, hand_in, running, write

# Marks; but whatever ends by itself has all the time that a slow machine takes for it.
PROGRAM = f"""
import sys
from minisd.exercises import apart, handed_in

class Worker(apart.Worker):
    def verdict(self, sources, number, exercise):
        endless = number == "9.1" and any({ENDLESS!r} in source for source in sources)
        apart.SECONDS = 2 if endless else {PATIENCE}
        return super().verdict(sources, number, exercise)

handed_in.Worker = Worker
sys.exit(handed_in.main())
"""


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """The folder of the class, the rows of the table, and what a console that knows few letters showed."""
    folder = tmp_path_factory.mktemp("class")
    hand_in(folder / "answers")
    (folder / "temporary").mkdir()
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder / "answers", "--table", folder / "out" / "table.csv"],
                          env=os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT),
                                            "TMPDIR": str(folder / "temporary")}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    with open(folder / "out" / "table.csv", encoding="utf-8-sig", newline="") as file:
        rows = [SimpleNamespace(**row) for row in csv.DictReader(file)]
    return SimpleNamespace(folder=folder, rows=rows, shown=done.stdout.decode("cp1252"))


def test_every_answer_of_the_class_gets_what_it_deserves(marked):
    signs = {(row.notebook, row.exercise): row.verdict for row in marked.rows}
    assert {name: signs.get((f"{name}/09.ipynb", "9.1")) for name in CLASS} == {
        name: expected for name, (_, expected) in CLASS.items()}
    for path in SOLUTIONS[:3]:
        assert {row.verdict for row in marked.rows if row.notebook == f"honest/{path.name}"} == {"right"}
    assert {row.said for row in marked.rows if row.notebook.startswith("lazy/")} == {"not attempted yet."}


def test_one_failing_answer_does_not_touch_the_others(marked):
    said = {(row.notebook.split("/")[0], row.exercise): row.said for row in marked.rows}
    assert said["for_ever", "9.1"] == "Stopped after 2 seconds: look at it."
    assert said["for_ever", "9.3"] == said["changes_its_arguments", "9.3"] == "right!"
    assert said["for_ever", "9.4"] == "not in the notebook"
    assert said["zeno", "9.1"] == "right!"  # his neighbour emptied his file
    assert (marked.folder / "answers" / "zeno" / "09.ipynb").stat().st_size == 0


def test_every_file_of_the_class_is_in_the_table_and_on_the_console(marked):
    files = [path.relative_to(marked.folder / "answers").as_posix()
             for path in (marked.folder / "answers").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    assert len(files) >= 40 + 7
    assert {row.notebook for row in marked.rows} == {plain(name) for name in files}
    for name in files:
        assert plain(name).encode("cp1252", "backslashreplace").decode("cp1252") in marked.shown


def test_a_file_that_is_no_notebook_is_one_row(marked):
    said = {row.notebook: (row.verdict, row.said) for row in marked.rows if not row.exercise}
    assert said["broken/half.ipynb"] == ("?", "not a notebook (JSONDecodeError): look at it.")
    assert said["broken/nested.ipynb"] == ("?", "not a notebook (RecursionError): look at it.")
    assert said["broken/bytes.ipynb"] == ("?", "not a notebook (UnicodeDecodeError): look at it.")
    assert said["broken/list.ipynb"] == ("?", "not a notebook (TypeError): look at it.")
    assert said["broken/large.ipynb"] == ("?", "larger than 20 MB: look at it.")
    assert said["broken/empty.ipynb"] == ("-", "no exercises in it")
    if hasattr(os, "mkfifo"):
        assert said["broken/pipe.ipynb"] == ("?", "not a file: look at it.")


def test_nothing_that_an_answer_started_or_made_stays(marked):
    assert not list((marked.folder / "temporary").iterdir())
    assert not running("sleep 54321")
    assert not running("minisd.exercises.worker")


def test_control_characters_of_an_answer_are_written_out(marked):
    said, = [row.said for row in marked.rows if (row.notebook, row.exercise) == ("half_a_letter/09.ipynb", "9.1")]
    assert said == r"not yet. It stopped with ValueError: \ud800\x1b[2J\n"


# --- one at a time -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", PATIENCE)


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


def test_an_answer_finds_an_empty_folder_no_secrets_and_no_handles(worker, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    code = f"""{SYSTEM}{FIRST}handles = []
    for handle in range(3, 100):
        try:
            handles.append(system.fstat(handle) and handle)
        except OSError:
            pass
    here = system.getcwd()
    homes = {{system.path.expanduser('~'), system.environ['TMPDIR'], python.modules['temp' + 'file'].gettempdir()}}
    raise ValueError(system.listdir(here), homes == {{here}}, system.environ.get('SECRET'), handles)"""
    said = worker.verdict([code], "9.1", find("exercise_9_1")[0])
    assert said.startswith("not yet. It stopped with ValueError: ([], True, None, [3")
    assert said.endswith("[3])") or not apart.WARM  # 3 is the pipe for its values


def test_where_nothing_can_be_forked_each_answer_gets_a_fresh_python(monkeypatch):
    monkeypatch.setattr(apart, "WARM", False)
    with Worker() as worker:
        first = worker.process
        said = examine([RIGHT, "def exercise_9_4(x0, noise, now, then):\n    raise SystemExit"], worker)
        assert first.poll() is not None
        assert worker.process is None
    assert list(said.values()) == ["right!", "not in the notebook", "not in the notebook",
                                   "It ended Python: look at it."]


def test_nobody_waits_for_a_process_that_keeps_the_pipe_open(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "WARM", False)
    monkeypatch.setattr(apart, "SECONDS", 2)
    end, left = tmp_path / "end", tmp_path / "left"
    code = f"""{SYSTEM}import time
{FIRST}if not system.fork():
        system.setsid()
        for _ in range(3000):
            time.sleep(0 if system.path.exists('{end.as_posix()}') else 0.1)
        system.mkdir('{left.as_posix()}')
    leave(0)"""
    with Worker() as worker:
        assert worker.verdict([code], "9.1", find("exercise_9_1")[0]) != "right!"
    assert not left.exists()
    end.touch()


def test_a_worker_that_does_not_start_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false" if os.name == "posix" else "where")
    monkeypatch.setattr(apart.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no answer can be tried; .* should print ready"), Worker():
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [
    None, True, 3, -2.5, 1e300, "ᾱ", 2 + 1j, [1, (2.0, "a"), []], torch.tensor([1, 2]), torch.zeros(0, 3),
    torch.tensor([0.1, float("inf")], dtype=torch.bfloat16), torch.tensor(2.5), torch.tensor([True]),
    torch.tensor([[1 + 2j]]), np.array([[1.5]], dtype=np.float32), np.float32(2)], ids=repr)
def test_values_go_through_the_pipe(value):
    again = unpack(json.loads(json.dumps(pack(value))))
    if isinstance(value, (torch.Tensor, np.ndarray)):
        assert (type(again), again.dtype, again.shape) == (type(value), value.dtype, value.shape)
        assert (again == value).all()
    else:
        assert again == value
        assert type(again) is (float if isinstance(value, np.generic) else type(value))


def test_marking_says_what_check_says():
    for number, exercise in ((number, one) for exercises in chapters().values() for number, one in exercises.items()):
        for answer in (exercise.right, *exercise.mistakes.values(), lambda *_: torch.ones(2, 2), lambda *_: [0]):
            made = attempt(answer, exercise.cases())
            sent = [unpack(json.loads(json.dumps(pack(value)))) for value in made.values]
            assert judge(Attempt(sent, made.error), exercise) == verdict(answer, exercise), number


def test_what_is_no_value_goes_through_as_its_name():
    class Number(float):
        def __eq__(self, other):
            return True

        __hash__ = None

    assert type(unpack(pack(Number(1)))) is float
    again = unpack(pack(check))
    assert type(again).__name__ == "function"
    assert repr(again).startswith("<function check")
    assert type(unpack(pack(np.array(["a"])))).__name__ == "ndarray"
    assert unpack(pack(torch.zeros(MOST + 1))).shape == (MOST + 1,)
    assert unpack(pack(...)) is None


@pytest.mark.parametrize("forged", [
    {}, [1], {"other": 1}, {"tensor": [1], "dtype": "object", "shape": [1]}, {"tensor": [1.0], "shape": []},
    {"tensor": [1.0], "dtype": "float32", "shape": [7]}])
def test_what_is_forged_is_refused(forged):
    with pytest.raises((KeyError, TypeError, ValueError, RuntimeError)):
        unpack(forged)


@pytest.mark.parametrize(("code", "wanted"), [
    ("y = torch.os", "os"), ("torch.os.system('x')", "system"), ("from torch import os", "torch.os"),
    ("import torch.hub", "torch.hub"), ("random._os.remove('x')", "_os"), ("from random import _os as o", "random._os"),
    ("np.save('/x', y)", "save"), ("torch.save(x, '/x')", "save"), ("open('/x')", "open"), ("import socket", "socket"),
    ("x.tofile('/x')", "tofile"), ("minisd.exercises.same = 1", "exercises"), ("x.__class__", "__class__"),
    ("from minisd.exercises import check, find", "minisd.exercises.find"),
    ("torch.from_file('/x')", "from_file"), ("figure.canvas.print_png('/x')", "print_png"),
    ("np.savez_x('/x')", "savez_x"), ("safe_open('/x')", None), ("torch.safe_open('/x')", "safe_open"),
    ("operator.attrgetter('_os')", "attrgetter"),
    ("from operator import attrgetter as a", "operator.attrgetter"), ("g.gi_frame", "gi_frame"),
    ("e.tb_next", "tb_next"), ("f.f_back", "f_back"), ("getattr(torch, 'os')", "os"),
    ("getattr(x, '__class__')", "__class__"), ("match torch:\n    case object(os=found):\n        found", "os"),
    ("torch._C", "_C"), ("from PIL.ImageShow import *", "PIL.ImageShow.*"), ("subprocess.run(['x'])", "subprocess"),
    ("enum.bltns", "bltns"),
    ("vars(torch)['o' + 's']", "vars"), ("string.Formatter().get_field", "Formatter"),
    ("torch.utils.collect_env.run('x')", "collect_env"), ("typing.get_type_hints(f)", "get_type_hints"),
    ("from math import *\nnet.eval()\nself._x = 1\nnet.load_state_dict({})\nd['load'], input_, re.compile('x')", None),
    ("from minisd.exercises import check", None), ("import torch.nn.functional as F", None),
    ("class A:\n    def __init__(self):\n        super().__init__()", None), ("x.select(1, 0).copy()", None)])
def test_what_code_reaches_for(code, wanted):
    assert reaches_for(parse(code)) == wanted


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_is_not_stopped_by_a_first_look(name):
    """Or else it would prove nothing."""
    assert [reaches_for(parse(cell)) for cell in TRICKS[name][0]] == [None] * len(TRICKS[name][0])


@pytest.mark.skipif(os.name != "posix", reason="paths are short elsewhere")
def test_folders_too_deep_for_recursion_and_for_any_path_are_removed(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").touch()
    (home / "link").symlink_to(tmp_path)
    (tmp_path / "kept").touch()
    place = os.open(home, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("x", dir_fd=place)
        os.mkdir("y", 0, dir_fd=place)
        place, before = os.open("x", os.O_RDONLY, dir_fd=place), place
        os.close(before)
    os.close(place)
    apart.remove(str(home))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_paths_tell_students_apart(tmp_path):
    for student in ("alice", "bob"):
        write(tmp_path / student / "01.ipynb", [])
    both = ["alice/01.ipynb", "bob/01.ipynb"]
    assert list(find_notebooks([tmp_path])) == both
    assert list(find_notebooks([tmp_path / "alice", tmp_path / "bob"])) == both
    assert list(find_notebooks([tmp_path / "alice" / "01.ipynb", tmp_path / "bob"])) == both
    assert list(find_notebooks([tmp_path / "alice"])) == ["01.ipynb"]


def test_a_folder_deeper_than_python_can_follow(tmp_path):
    folder = tmp_path
    for _ in range(120):
        folder = folder / "x"
    write(folder / "01.ipynb", [])
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(120)
        found = find_notebooks([tmp_path])
    finally:
        sys.setrecursionlimit(limit)
    assert len(found) == 1


def test_a_table_that_cannot_be_written_does_not_end_the_work(tmp_path, capsys, monkeypatch):
    write(tmp_path / "=1+1.ipynb", [RIGHT])
    table = tmp_path / "table.csv"
    monkeypatch.setattr(handed_in, "Worker", nullcontext)
    # and meanwhile a folder of that name appears
    monkeypatch.setattr(handed_in, "mark", lambda notebook, worker: table.mkdir() or [(notebook.name, "9.1", "=2")])
    assert main([str(tmp_path), "--table", str(table)]) == 1
    shown = capsys.readouterr()
    assert "0 of 1 right" in shown.out
    assert "the table was not written: " in shown.err
    monkeypatch.setattr(handed_in, "mark", lambda notebook, worker: [(notebook.name, "9.1", "=2")])
    assert main([str(tmp_path), "--table", str(tmp_path / "out" / "table.csv")]) == 0
    assert (tmp_path / "out" / "table.csv").read_text(encoding="utf-8-sig").splitlines() == [
        "notebook,exercise,verdict,said", "'=1+1.ipynb,9.1,-,'=2"]  # no formula for Excel


def test_the_table_is_written_before_anything_is_printed(tmp_path, monkeypatch):
    write(tmp_path / "01.ipynb", [RIGHT])
    monkeypatch.setattr(handed_in, "Worker", nullcontext)
    monkeypatch.setattr(handed_in, "mark", lambda notebook, worker: [(notebook.name, "9.1", "right!")])
    monkeypatch.setattr(handed_in, "print_rows", lambda rows: (tmp_path / "table.csv").rename(tmp_path / "found"))
    assert main([str(tmp_path), "--table", str(tmp_path / "table.csv")]) == 0
    assert (tmp_path / "found").exists()


def test_nothing_handed_in(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "no notebooks in" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not a notebook"):
        read_cells(tmp_path / "missing.ipynb")
