"""What a run leaves in its folder while it goes on: state.pt, from which it can be resumed, and log.csv."""

import csv
import os
from pathlib import Path
from pickle import UnpicklingError

import torch

KEYS = {"task", "average", "optimizer", "config", "settings", "step", "seconds"}


def save_state(path: Path, task, average, optimizer, settings: dict, step: int, seconds: float) -> None:
    """Write everything that going on needs."""
    state = {"task": task.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
             "config": task.config(), "settings": settings, "step": step, "seconds": seconds}
    write(path, state)


def write(path: Path, contents: dict) -> None:
    """torch.save, to a new file that takes the old one's place once it is whole."""
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(contents, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError for a full disk
        raise OSError(f"could not save {path} ({error}); the last good state is kept") from None
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path, task, average, optimizer, settings: dict) -> tuple[int, float]:
    """Put the saved state in place; returns (step, seconds)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: there is nothing to resume")
    try:
        state = torch.load(path, map_location=settings["device"], weights_only=True)
    except (RuntimeError, EOFError, KeyError, UnpicklingError) as error:  # what torch raises for half a file, or junk
        raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__}); "
                         "start again in another folder") from None
    if not isinstance(state, dict) or KEYS - state.keys():
        raise ValueError(f"{path} is no checkpoint of a training run; start again in another folder")
    length = ("steps", "minutes", "device", "bf16")  # these may change between stretches of one run
    for what, theirs, ours in (("config", state["config"], task.config()),
                               ("setting", state["settings"], settings)):
        for name in sorted(ours.keys() | theirs.keys() - set(length)):
            if name not in length and theirs.get(name) != ours.get(name):
                raise ValueError(f"{path} was trained with {what} {name}={theirs.get(name)!r}, "
                                 f"this run has {name}={ours.get(name)!r}")
    task.load_state_dict(state["task"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


class Log:
    """log.csv, one line a step; on resuming, lines of steps after the checkpoint are dropped."""

    COLUMNS = ("step", "seconds", "samples", "loss", "learning_rate", "gradient_norm")

    def __init__(self, path: Path, after: int):
        rows = []
        if after and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if self.is_whole(row) and int(row[0]) <= after]
        self.seconds = float(rows[-1][1]) if rows else 0.0
        self.file = path.open("w", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerows([self.COLUMNS, *rows])

    def is_whole(self, row: list[str]) -> bool:
        """Not the header, and not a line that a full disk cut off."""
        return len(row) == len(self.COLUMNS) and row[0].isdigit()

    def write(self, step: int, seconds: float, samples: int, loss: float, rate: float, norm: float) -> None:
        self.writer.writerow([step, f"{seconds:.2f}", samples, f"{loss:.6g}", f"{rate:.4g}", f"{norm:.4g}"])
        self.file.flush()
        self.seconds = seconds

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.file.close()
