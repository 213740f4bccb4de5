"""What a run keeps in its folder: state.pt, from which it can be resumed, and log.csv and scores.csv."""

import contextlib
import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import torch
from filelock import FileLock, Timeout
from torch.optim import Optimizer

from minisd.training.task import Task

KEYS = {"task", "average", "optimizers", "config", "settings", "step", "seconds"}
MAY_CHANGE = ("steps", "minutes", "device", "bf16")  # settings that may differ when a run is resumed


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Lock the folder against a second run. The lock ends with the process that holds it, however that process ends."""
    lock = FileLock(folder / "run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FileExistsError(f"another run is training in {folder} right now; "
                              "stop it first, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


def save_state(path: Path, task: Task, average: Task, optimizers: Sequence[Optimizer], settings: dict, step: int,
               seconds: float) -> None:
    """Write everything needed to resume."""
    state = {"task": task.state_dict(), "average": average.state_dict(),
             "optimizers": [optimizer.state_dict() for optimizer in optimizers],
             "config": task.config(), "settings": settings, "step": step, "seconds": seconds}
    write(path, state)


def write(path: Path, contents: dict) -> None:
    """torch.save to a new file, which replaces the old one once it is complete."""
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(contents, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch raises a RuntimeError if the disk is full
        raise OSError(f"could not save {path} ({error}); the last saved state is kept") from None
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path, task: Task, average: Task, optimizers: Sequence[Optimizer],
               settings: dict) -> tuple[int, float]:
    """Load the saved state into the task, its average and the optimisers. Returns (step, seconds)."""
    state = read(path)
    for what, theirs, ours in (("config", state["config"], task.config()),
                               ("setting", state["settings"], settings)):
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in MAY_CHANGE and theirs.get(name) != ours.get(name):
                raise ValueError(f"{path} was trained with {what} {name}={theirs.get(name)!r}, "
                                 f"but this run has {name}={ours.get(name)!r}")
    task.load_state_dict(state["task"])
    average.load_state_dict(state["average"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


def read(path: Path) -> dict:
    """The contents of a state.pt; errors name the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: there is nothing to resume")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"no permission to read {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for junk or a truncated file, depending on where it was cut
        raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__}); "
                         "start again in another folder") from None
    if not isinstance(state, dict) or KEYS - state.keys():
        raise ValueError(f"{path} is not the state of a training run; start again in another folder")
    return state


class Log:
    """log.csv, one line per step. When a run is resumed, the lines of steps after the saved one are dropped."""

    COLUMNS = ("step", "seconds", "samples", "loss", "learning_rate", "gradient_norm")

    def __init__(self, path: Path, after: int):
        rows = []
        if after and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if self.is_whole(row) and int(row[0]) <= after]
        temporary = path.with_suffix(".tmp")  # so that the log is complete at every moment
        with temporary.open("w", newline="") as file:
            csv.writer(file).writerows([self.COLUMNS, *rows])
        os.replace(temporary, path)
        self.file = path.open("a", newline="")
        self.writer = csv.writer(self.file)

    def is_whole(self, row: list[str]) -> bool:
        """Whether this is a row of numbers, not the header or a line that was cut off when the disk was full."""
        return len(row) == len(self.COLUMNS) and row[0].isdigit()

    def write(self, step: int, seconds: float, samples: int, loss: float, rate: float, norm: float) -> None:
        self.writer.writerow([step, f"{seconds:.2f}", samples, f"{loss:.6g}", f"{rate:.4g}", f"{norm:.4g}"])
        self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def log_score(path: Path, step: int, samples: int, name: str, value: float) -> None:
    """Append to scores.csv, which has one line per progress picture; the score's name is its column's header."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "samples", name])
        writer.writerow([step, samples, f"{value:.5g}"])
