"""What a run leaves behind to be resumed from: state.pt, log.csv, and the lock on its folder."""

import errno
import os
import random
from pathlib import Path

import pytest
import torch

from minisd.training import state as files
from minisd.training.loop import train
from tests.toy import Toy, log, settings, start, state, train_toy, wait_for


@pytest.fixture
def stopped(tmp_path) -> Path:
    """The folder of a run of 20 steps that was stopped after the 13th."""
    train(Toy(signal_at=12), settings(), tmp_path, quiet=True)
    return tmp_path


# --- resuming -------------------------------------------------------------------------------------------------


def assert_same(one, other, path: str = "state") -> None:
    """Two states, or parts of them, that differ in nothing but the time they took."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            assert_same(one[name], other[name], f"{path}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other)
        for i, (a, b) in enumerate(zip(one, other)):
            assert_same(a, b, f"{path}[{i}]")
    else:
        assert one == other, path


def test_resumed_run_ends_with_the_same_weights(stopped, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    train(Toy(), settings(), whole, quiet=True)
    assert state(stopped)["step"] == 13
    train(Toy(), settings(), stopped, resume=True, quiet=True)
    assert_same(state(whole), state(stopped))
    assert log(whole) == log(stopped)
    assert log(stopped, "step") == list(range(1, 21))


def test_the_clock_goes_on(stopped):
    saved = state(stopped)
    torch.save(saved | {"seconds": 1000.0}, stopped / "state.pt")
    train(Toy(), settings(), stopped, resume=True, quiet=True)
    assert 1000 < state(stopped)["seconds"] < 1060
    assert log(stopped, "seconds")[13] >= 1000


def test_a_run_can_be_made_longer(stopped):
    train(Toy(), settings(steps=None, minutes=1e-9, bf16=None), stopped, resume=True, quiet=True)  # it is over already
    assert state(stopped)["step"] == 13
    train(Toy(), settings(steps=25), stopped, resume=True, quiet=True)
    assert state(stopped)["step"] == len(log(stopped)) == 25


def test_wrong_resumes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(Toy(), settings(), tmp_path, resume=True, quiet=True)
    train(Toy(), settings(), tmp_path, quiet=True)
    with pytest.raises(FileExistsError, match="--resume"):
        train(Toy(), settings(), tmp_path, quiet=True)
    with pytest.raises(ValueError, match="config width=4, but this run has width=6"):
        train(Toy(width=6), settings(), tmp_path, resume=True, quiet=True)
    with pytest.raises(ValueError, match="setting batch_size=8, but this run has batch_size=16"):
        train(Toy(), settings(batch_size=16), tmp_path, resume=True, quiet=True)
    assert len(log(tmp_path)) == 20  # none of them has touched the log


# --- damage ---------------------------------------------------------------------------------------------------


def refused(folder: Path, contents: bytes) -> None:
    (folder / "state.pt").write_bytes(contents)
    with pytest.raises(ValueError, match=r"^.*state\.pt is damaged or not a checkpoint \(\w+\); start again.*$"):
        files.read(folder / "state.pt")


def test_a_state_cut_off_anywhere_is_named(stopped):
    whole = (stopped / "state.pt").read_bytes()
    assert len(whole) > 3000
    for length in {*range(0, len(whole), 7), *range(len(whole) - 400, len(whole))}:
        refused(stopped, whole[:length])
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        train(Toy(), settings(), stopped, resume=True, quiet=True)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of junk
def test_junk_is_named(stopped):
    dice = random.Random(0)
    for beginning in (b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x04\x95"):
        for _ in range(100):
            refused(stopped, beginning + dice.randbytes(dice.randrange(300)))
    refused(stopped, bytes(3000))


@pytest.mark.parametrize("content", [[1, 2], {"step": 3}, {"config": {}, "settings": {}}])
def test_another_file_of_torch_is_no_state(tmp_path, content):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt is not the state of a training run"):
        train(Toy(), settings(), tmp_path, resume=True, quiet=True)


def test_a_state_that_may_not_be_read_is_no_damaged_one(stopped, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"no permission to read .*state\.pt"):
        files.read(stopped / "state.pt")


@pytest.mark.parametrize(("error", "raised", "message"), [
    (OSError(errno.ENOSPC, "No space left on device"), OSError, r"could not save .*No space left.*state is kept"),
    (RuntimeError("unexpected pos 64 vs 0"), OSError, r"could not save .*unexpected pos.*state is kept"),
    (KeyboardInterrupt(), KeyboardInterrupt, None)])
def test_a_save_that_fails_keeps_the_last_state(stopped, monkeypatch, error, raised, message):
    before = (stopped / "state.pt").read_bytes()

    def fail(contents, path):
        Path(path).write_bytes(b"half a check")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(raised, match=message):
        train(Toy(), settings(), stopped, resume=True, quiet=True)
    assert (stopped / "state.pt").read_bytes() == before
    assert not list(stopped.glob("*.tmp"))


def test_a_line_that_a_full_disk_cut_off_is_dropped(stopped):
    for half in ("1", "14,0.1", "13,0.", "x,1,2,3,4,5"):
        with (stopped / "log.csv").open("a") as file:
            file.write(half)
        train(Toy(signal_at=0), settings(), stopped, resume=True, quiet=True)
    assert log(stopped, "step") == list(range(1, 18))


def test_the_log_of_an_older_run_is_not_gone_on_with(stopped):
    (stopped / "state.pt").unlink()
    train(Toy(), settings(steps=2), stopped, quiet=True)
    assert log(stopped, "step") == [1, 2]


# --- two runs in one folder -----------------------------------------------------------------------------------


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path):
    first = start(train_toy, tmp_path, steps=10**6)
    wait_for((tmp_path / "state.pt").exists)
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=f"another run is training in {tmp_path} right now; stop it"):
            train(Toy(), settings(), tmp_path, resume=resume, quiet=True)
    first.kill()
    first.join()
    steps = state(tmp_path)["step"] + 3
    train(Toy(), settings(steps=steps), tmp_path, resume=True, quiet=True)
    assert log(tmp_path, "step") == list(range(1, steps + 1))


def test_a_finished_run_leaves_its_folder_free(tmp_path):
    with files.only_run_in(tmp_path):
        pass
    with pytest.raises(RuntimeError, match="failed"), files.only_run_in(tmp_path):
        raise RuntimeError("failed")
    with files.only_run_in(tmp_path), pytest.raises(FileExistsError), files.only_run_in(tmp_path):
        pass
