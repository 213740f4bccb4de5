"""No output of any command may end its work: consoles that lack letters, closed pipes, full disks."""

import errno
import io
import os
import subprocess
import sys
from argparse import Namespace
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from minisd import StableDiffusion, cli, console
from minisd.training import command

WORDS = "Żółć, яблоко, 8×8"


def console_with(encoding: str = "ascii", **options) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n", **options)


def printed(to: io.TextIOWrapper) -> str:
    return to.buffer.getvalue().decode(to.encoding)


class ClosedPipe:
    """A stream that nobody reads."""

    encoding = "utf-8"

    def isatty(self):
        return False

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@contextmanager
def nobody_listens(stream: ClosedPipe | None):
    """(No fixture: pytest sets both streams anew between a fixture and its test.)"""
    with redirect_stdout(stream), redirect_stderr(stream):
        yield


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_three_pictures_whose_names_cannot_be_printed(tiny, tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdout", out := console_with(encoding))
    assert cli.main(["generate", "яблоко", "--model", str(tiny["sd1"]), "--steps", "1", "--num", "3", "--seed", "0",
                     "--device", "cpu", "--out", str(tmp_path)]) == 0
    files = [tmp_path / f"яблоко-{k}.png" for k in range(3)]
    assert sorted(tmp_path.iterdir()) == files
    word = "яблоко".encode("ascii", "backslashreplace").decode()
    assert printed(out) == "".join(f"{tmp_path}/{word}-{k}.png  (seed {k})\n" for k in range(3)).replace("/", os.sep)


def test_info_where_there_is_no_multiplication_sign(tiny, monkeypatch):
    monkeypatch.setattr(sys, "stdout", out := console_with())
    assert cli.main(["info", str(tiny["sd1"])]) == 0
    assert r"pictures 64\xd764" in printed(out)
    assert "MB in float32" in printed(out)


@pytest.mark.parametrize("stream", [ClosedPipe(), None])
def test_pictures_are_written_though_nobody_listens(tiny, tmp_path, stream):
    with nobody_listens(stream):
        assert cli.main(["generate", "x", "--model", str(tiny["sd1"]), "--steps", "1", "--num", "2", "--seed", "0",
                         "--device", "cpu", "--out", str(tmp_path)]) == 0  # with a progress bar
    assert len(list(tmp_path.glob("*.png"))) == 2


def say(options) -> None:
    """In place of a command."""
    print(WORDS)
    print(WORDS, file=sys.stderr)
    raise ValueError(WORDS)


COMMANDS = {"generate": ["x"], "img2img": ["x", "y"], "inpaint": ["x", "y", "z"], "train": ["vae", "--steps", "1"],
            "evaluate": [], "info": []}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_what_can_be_printed(monkeypatch, name):
    escaped = WORDS.encode("ascii", "backslashreplace").decode()
    monkeypatch.setattr(cli, {"train": "train_network"}.get(name, name), say)
    monkeypatch.setattr(sys, "stdout", out := console_with())
    monkeypatch.setattr(sys, "stderr", err := console_with())
    assert cli.main([name, *COMMANDS[name]]) == 2
    assert (printed(out), printed(err)) == (f"{escaped}\n", f"{escaped}\nminisd: {escaped}\n")
    assert sys.stdout is out


def test_training_by_itself(monkeypatch):
    escaped = WORDS.encode("ascii", "backslashreplace").decode()
    monkeypatch.setattr(command, "run", say)
    monkeypatch.setattr(sys, "argv", ["training", "vae", "--steps", "1"])
    monkeypatch.setattr(sys, "stdout", out := console_with())
    monkeypatch.setattr(sys, "stderr", err := console_with())
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert (printed(out), printed(err)) == (f"{escaped}\n", f"{escaped}\npython -m minisd.training: {escaped}\n")


@pytest.mark.parametrize("stream", [ClosedPipe(), None])
def test_training_goes_on_though_nobody_listens(tmp_path, monkeypatch, stream):
    from minisd.training.loop import train
    from tests.toy import Toy, settings

    monkeypatch.setattr("minisd.training.loop.LINE_EVERY", 1)
    with nobody_listens(stream), console.forgiving_console():
        train(Toy(), settings(steps=2), tmp_path)
    assert (tmp_path / "weight.pt").exists()


@pytest.mark.parametrize("redirection", ["| true", "> /dev/full", ">&-", "2>&-", "> /dev/full 2> /dev/full"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a Linux shell")
def test_python_does_not_complain_at_its_end(redirection):
    code = ("import sys, time; from console import forgiving_console\n"
            "with forgiving_console():\n"
            "    time.sleep(0.1)\n"
            "    for _ in range(3): print('many words ' * 1000); print('x', file=sys.stderr)\n"
            "sys.stdout and sys.stdout.flush(); open('done', 'w')\n")
    shell = f"set -o pipefail; {sys.executable} -c \"{code}\" {redirection}"
    where = os.environ | {"PYTHONPATH": str(Path(console.__file__).parent)}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=where, cwd="/tmp")
    assert done.returncode == 0
    assert done.stderr == ("" if "2>" in redirection else "x\n" * 3)


def test_a_stream_stays_what_it_was(monkeypatch):
    monkeypatch.setattr(sys, "stdout", console_with("utf-8"))
    with console.forgiving_console():
        assert (sys.stdout.encoding, sys.stdout.isatty()) == ("utf-8", False)
        print("\udcff", WORDS)  # a byte of a file's name that is not UTF-8
    assert printed(sys.stdout) == f"\\udcff {WORDS}\n"


# --- pictures -------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_in_the_midst_of_a_picture(tiny, tmp_path, monkeypatch, capsys):
    save, pictures = Image.Image.save, count()

    def fail(image, path, **options):
        save(image, path, **options)
        if next(pictures) == 1:
            Path(path).write_bytes(b"")
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    (tmp_path / "apple-1.png").write_text("old")
    assert cli.main(["generate", "x", "--model", str(tiny["sd1"]), "--steps", "1", "--num", "3", "--seed", "0",
                     "--device", "cpu", "--out", str(tmp_path / "apple.png")]) == 2
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'apple-0.png'}  (seed 0)\n"
    assert said.err.endswith(f"minisd: {tmp_path / 'apple-1.png'} could not be saved: No space left on device; make "
                             "room, or name another folder\n")  # after the progress bar
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apple-0.png", "apple-1.png"]
    assert (tmp_path / "apple-1.png").read_text() == "old"


def test_a_model_whose_name_is_not_utf_8(tiny, tmp_path):
    options = Namespace(prompt="x", model="model-\udcff.ckpt", variant=None, prediction_type=None, lora=[],
                        seed=0)
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    cli.save([tmp_path / "x.png"], [Image.new("RGB", (8, 8))], options, sd, {})
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.text["model"] == r"model-\udcff.ckpt"
