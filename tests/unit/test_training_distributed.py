"""Two processes under torchrun take the same steps as one process with the whole batch, and stop together."""

import os
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from minisd.emoji.world import EmojiData
from minisd.training import clip, unet
from minisd.training.loop import train
from tests.tiny import CAPTIONS
from tests.toy import TEXT_CONFIG, UNET_CONFIG, Toy, log, save_tiny_parts, settings, state, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def torchrun(what: str, folder: Path) -> subprocess.Popen:
    """Run a function of this file in two processes of one thread each; their output goes into folder/said."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__,
              what, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "said").open("w") as said:
        return subprocess.Popen(launch, env=environment, stdout=said, stderr=said)


# --- the same steps -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """What `train_all` leaves behind."""
    folder = tmp_path_factory.mktemp("runs")
    assert torchrun("all", folder).wait(timeout=300) == 0, (folder / "said").read_text()
    return folder


def train_all(folder: Path) -> None:
    """One of the two processes: first on its own, before the two know of each other, then both together."""
    rank = int(os.environ["RANK"])
    if rank == 0:
        save_tiny_parts(folder / "parts")
        train_three(folder, "one")
    dist.init_process_group("gloo")
    dist.barrier()
    train_three(folder, "two")
    toy = Toy(signal_at=5 if rank == 1 else None)  # only the second process gets the signal,
    if rank == 1:                                  # and its clock goes faster
        right = time.monotonic
        time.monotonic = lambda: 20 * right()
    train(toy, settings(steps=None, minutes=1.0), folder / "stopped", quiet=True)
    torch.save(toy.linear.weight.detach().clone(), folder / f"weight-{rank}.pt")
    dist.destroy_process_group()


def train_three(folder: Path, name: str) -> None:
    """The toy, a tiny U-Net that gets its second pool after two steps, and a tiny CLIP."""
    for module, what, tiny in ((unet, "MINI", UNET_CONFIG), (clip, "MINI", TEXT_CONFIG), (clip, "VOCAB_SIZE", 530)):
        setattr(module, what, tiny)
    clip.tokenizer_corpus = lambda seed: CAPTIONS
    unet.UNetTask.score = partialmethod(unet.UNetTask.score, count=4)
    for task in (unet.UNetTask, clip.CLIPTask):
        task.picture = Toy.picture
    clip.CLIPTask.score, clip.CLIPTask.export = unet.Task.score, lambda self, folder: ""
    data, parts = EmojiData(), folder / "parts"
    options = unet.Options(vae=str(parts / "vae/vae"), clip=str(parts / "clip"), pool_size=16, visits=1)
    for which, task in (("toy", Toy()), ("unet", unet.UNetTask(options, data)),
                        ("clip", clip.CLIPTask(clip.Options(), data))):
        train(task, settings(steps=6), folder / f"{which}-{name}", quiet=True)


@pytest.mark.parametrize("which", ["toy", "unet", "clip"])
def test_two_processes_take_the_steps_of_one(runs, which):
    one, two = log(runs / f"{which}-one"), log(runs / f"{which}-two")
    assert len(one) == len(set(one)) == 6  # it does learn
    assert two == pytest.approx(one, rel=1e-4)
    torch.testing.assert_close(state(runs / f"{which}-two")["task"], state(runs / f"{which}-one")["task"],
                               rtol=1e-3, atol=1e-4)


def test_signal_to_one_stops_both_after_the_same_step(runs):
    assert state(runs / "stopped")["step"] == len(log(runs / "stopped")) == 6


def test_clock_is_shared(runs):
    # The learning rate follows the clock when minutes are given: with two clocks, the weights would drift apart.
    weights = [torch.load(runs / f"weight-{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*weights)


# --- killed ---------------------------------------------------------------------------------------------------


def train_long(folder: Path) -> None:
    """One of the two processes: a run that does not end by itself."""
    (folder / f"process-{os.environ['RANK']}").write_text(str(os.getpid()))
    dist.init_process_group("gloo")
    train(Toy(), settings(steps=10**6), folder / "run", save_every=3600, quiet=True)
    dist.destroy_process_group()


@pytest.fixture
def long_run(tmp_path):
    """A run of two processes after some steps: torchrun, its two workers' numbers, and the folder."""
    launcher, workers = torchrun("long", tmp_path), []
    try:
        wait_for(lambda: (tmp_path / "run/log.csv").exists() and len(log(tmp_path / "run")) > 5, seconds=120)
        workers += [int((tmp_path / f"process-{rank}").read_text()) for rank in range(2)]
        yield launcher, workers, tmp_path / "run"
    finally:
        launcher.kill()
        launcher.wait()
        for worker in filter(is_running, workers):
            os.kill(worker, signal.SIGKILL)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")  # one that ended but that nobody has asked about is no longer running
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_save_and_end_when_torchrun_is_killed(long_run):
    launcher, workers, folder = long_run
    assert not (folder / "state.pt").exists()
    launcher.kill()
    wait_for(lambda: not any(is_running(worker) for worker in workers), seconds=30)
    assert state(folder)["step"] == len(log(folder))  # no step is lost
    train(Toy(), settings(steps=state(folder)["step"] + 1), folder, resume=True, quiet=True)


def test_the_other_worker_ends_when_one_is_killed(long_run):
    launcher, workers, folder = long_run
    os.kill(workers[1], signal.SIGKILL)
    assert launcher.wait(timeout=60) != 0
    assert not any(is_running(worker) for worker in workers)
    with pytest.raises(FileNotFoundError):  # nothing was saved yet; but the folder is free
        train(Toy(), settings(), folder, resume=True, quiet=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"all": train_all, "long": train_long}[sys.argv[1]](Path(sys.argv[2]))
