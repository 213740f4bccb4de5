"""Two processes under torchrun take the same steps as one process with the whole batch."""

import csv
import os
import subprocess
import sys

import pytest


def run(folder, processes: int) -> list[float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
               "-m", "minisd.training", "clip", "--steps", "4", "--batch-size", "16", "--no-bf16",
               "--out", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    with (folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_are_one_with_the_double_batch(tmp_path):
    one, two = run(tmp_path / "one", 1), run(tmp_path / "two", 2)
    assert len(one) == 4
    assert len(set(one)) == 4  # it does learn
    assert two == pytest.approx(one, rel=1e-5)
