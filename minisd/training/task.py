"""What all training tasks have in common: a task is a model, its data and its loss."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from minisd.messages import ShownPath

HELD_OUT = 10_000_000  # a seed for pictures that no training run uses


class Task(nn.Module):
    """What the loop trains. A subclass adds its networks, a `forward` that takes a `Batch` and returns the loss, and
    whichever of the methods below it needs.

    Attributes:
        adamw_names: parts of parameter names. AdamW trains the parameters whose name contains one of these (embeddings,
            first and last layers, heads), and all vectors (biases, norms). Muon trains all other matrices and kernels.
        rates: factors on AdamW's learning rate, by parameter name; 1 if absent.
    """

    adamw_names: tuple[str, ...] = ()
    rates: Mapping[str, float] = {}

    def __init__(self, seed: int = 0):
        """Seed PyTorch, so that the seed determines the initial weights of all networks built after this."""
        super().__init__()
        self.seed = seed
        torch.manual_seed(seed)

    def config(self) -> dict:
        """What must not change when a run is resumed: named numbers, strings and tuples."""
        return {}

    def prepare(self, folder: Path, samples: int) -> None:
        """Called once, before the first step of a run or of a resumed run.

        Args:
            folder: the run's folder.
            samples: how many samples the run has trained on so far.
        """

    def score(self) -> tuple[str, float] | None:
        """One number that says how good the weights are on pictures never trained on: its name and its value."""
        return None

    def picture(self) -> Image.Image:
        """A picture of what the weights can do so far."""
        raise NotImplementedError

    def export(self, folder: Path) -> str | None:
        """Write the trained networks into the folder. Returns a line that says how good they are, or None."""
        raise NotImplementedError


def grid(rows: list[Tensor]) -> Image.Image:
    """Rows of pictures (N, 3, H, W) in [-1, 1] as one picture."""
    pixels = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # (3, rows·H, N·W)
    array = ((pixels.float().cpu().clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8)
    return Image.fromarray(array)


def trained_folder(model: str, folder: str) -> Path:
    """The folder of a model that must be trained before this one; if it is missing, a FileNotFoundError says how."""
    path = ShownPath(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}; `minisd train {model}` makes one, or name another")
    return path


def check_share(name: str, value: float) -> None:
    """Raise a ValueError unless the value is from 0 to 1."""
    if not 0 <= value <= 1:  # false for NaN, too
        raise ValueError(f"{name}={value}: it must be from 0 to 1")


def check_positive(name: str, value: float) -> None:
    """Raise a ValueError unless the value is above 0."""
    if not value > 0:
        raise ValueError(f"{name}={value}: it must be above 0")
