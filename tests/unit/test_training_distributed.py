"""Two processes under torchrun take the same steps as one process with the whole batch, and stop together."""

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from minisd.training import command
from minisd.training.loop import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLIP = ["clip", "--steps", "4", "--batch-size", "16", "--no-bf16", "--out"]


def torchrun(*program: str) -> None:
    """Run a program in two processes, one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, *program], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_clip_in_two_processes_is_clip_in_one(tmp_path):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([*CLIP, str(tmp_path / "one")]))
    torchrun("-m", "minisd.training", *CLIP, str(tmp_path / "two"))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(set(one)) == 4  # it does learn
    assert two == pytest.approx(one, rel=1e-5)


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> Path:
    """What `train_toys` leaves behind."""
    folder = tmp_path_factory.mktemp("toys")
    torchrun(__file__, str(folder))
    return folder


def train_toys(folder: Path) -> None:
    """One of the two processes: three runs of the toy task, whose noise is divided between them."""
    from test_training import Toy, settings

    if os.environ["RANK"] == "0":  # on its own, before the two know of each other
        train(Toy(), settings(), folder / "one", quiet=True)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    train(Toy(), settings(), folder / "two", quiet=True)
    toy = Toy(signal_at=5 if rank == 1 else None)  # only the second process gets the signal,
    if rank == 1:                                  # and its clock goes faster
        right = time.monotonic
        time.monotonic = lambda: 20 * right()
    train(toy, settings(steps=None, minutes=1.0), folder / "stopped", quiet=True)
    torch.save(toy.linear.weight.detach().clone(), folder / f"weight-{rank}.pt")
    dist.destroy_process_group()


def test_noise_is_divided_and_not_repeated(toys):
    one, two = losses(toys / "one"), losses(toys / "two")
    assert len(one) == len(set(one)) == 20
    assert two == pytest.approx(one, rel=1e-5)


def test_signal_to_one_stops_both_after_the_same_step(toys):
    assert torch.load(toys / "stopped" / "state.pt", weights_only=True)["step"] == len(losses(toys / "stopped")) == 6


def test_clock_is_shared(toys):
    # The learning rate follows the clock when minutes are given: with two clocks, the weights would drift apart.
    weights = [torch.load(toys / f"weight-{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*weights)


if __name__ == "__main__":
    train_toys(Path(sys.argv[1]))
