"""What cannot be written is said before anything is loaded, drawn, trained or marked, by every command that writes."""

import errno
import os
import sys
from pathlib import Path

import pytest

from minisd import StableDiffusion
from minisd.cli import main
from minisd.emoji import evaluation
from minisd.exercises import handed_in
from minisd.saving import check_files, check_folder
from minisd.training import assemble, command

LONG = "x" * 300  # file systems take names of 255 letters


def no_work(*_, **__):
    raise AssertionError("the work has begun")


def training(out):
    main(["train", "vae", "--out", out])


def assembling(out):
    assemble.assemble(Path(out), Path("a"), Path("b"), Path("c"))


def marking(out):
    handed_in.main(["no notebooks", "--table", out])


COMMANDS = {
    "generate": lambda out: main(["generate", "a cat", "--out", out]),
    "generate a file": lambda out: main(["generate", "a cat", "--out", f"{out}.png"]),
    "generate several": lambda out: main(["generate", "a cat", "--num", "2", "--out", f"{out}.png"]),
    "inpaint": lambda out: main(["inpaint", "a cat", *["assets/mini/samples.png"] * 2, "--out", out]),
    "img2img": lambda out: main(["img2img", "a cat", "assets/mini/samples.png", "--out", out]),
    "export": lambda out: main(["export", "onnx", "--out", out]),
    "evaluate": lambda out: main(["evaluate", "--out", out]),
    "train": training, "assemble": assembling, "answers": marking,
}


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Run a command that must be refused before its work. Returns what it says."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    monkeypatch.setattr(StableDiffusion, "from_pretrained", no_work)
    monkeypatch.setattr(assemble.Tokenizer, "from_pretrained", no_work)
    monkeypatch.setattr(handed_in, "find_notebooks", no_work)
    monkeypatch.setattr(evaluation, "evaluate", no_work)
    monkeypatch.setitem(command.MODELS, "vae", command.MODELS["vae"]._replace(data=no_work))

    def run(name, out):
        try:
            COMMANDS[name](str(out))
        except SystemExit:
            pass
        except OSError as error:  # from a function
            return str(error)
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_names_that_are_too_long(tmp_path, refusal, name):
    for out in (tmp_path / LONG, tmp_path / "new" / LONG / "new", tmp_path / "/".join(["x" * 200] * 30)):
        assert os.strerror(errno.ENAMETOOLONG) in refusal(name, out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_folders_in_which_nothing_can_be_written(tmp_path, refusal, monkeypatch, name):
    (tmp_path / "file").touch()
    assert "file is a file; name another folder" in refusal(name, tmp_path / "file" / "new")
    for error, words in ((PermissionError(13, "Permission denied"), "no permission to write in"),
                         (OSError(errno.EROFS, "Read-only file system"), "Read-only file system in")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
            assert words in refusal(name, tmp_path / "new")


@pytest.mark.parametrize(("name", "out", "folder"), [
    ("generate", "", "a-cat-7.png"), ("generate several", "cat", "cat-8.png"), ("export", "", "unet/model.onnx"),
    ("evaluate", "", "metrics.png"), ("train", "", "state.pt"), ("assemble", "", "samples.png"),
    ("answers", "table", "table")])
def test_folders_in_the_place_of_files(tmp_path, refusal, monkeypatch, name, out, folder):
    monkeypatch.setattr("random.randrange", lambda *_: 7)  # the seed
    (tmp_path / folder).mkdir(parents=True)
    assert "there is a folder of that name" in refusal(name, tmp_path / out)


def test_what_can_be_written(tmp_path):
    (tmp_path / "old.png").touch()
    check_files([tmp_path / "old.png", tmp_path / "new.png", tmp_path / "a" / "b" / "new.png"])
    check_folder(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="a place in which not even root can write")
def test_a_place_where_nobody_writes():
    with pytest.raises(OSError, match=r"nothing can be saved in /proc/new: .* in /proc; name another folder"):
        check_folder(Path("/proc/new"))
