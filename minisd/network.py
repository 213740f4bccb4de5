"""What the three networks share: a checked config, and a folder that holds config and weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minisd.files import read_json
from minisd.messages import ShownPath, listed, shown
from minisd.network_config import NetworkConfig
from minisd.saving import atomic_folder
from minisd.weights import load_weights, save_weights


class Network(nn.Module):
    """A network that is built from the fields of its published config, and saved as a folder in the published layout.

    A subclass names the dataclass of its config (`CONFIG`), the class that a published `config.json` names
    (`CLASS_NAME`), and its weight file (`WEIGHTS`).
    """

    CONFIG: type[NetworkConfig]
    CLASS_NAME: dict[str, str | list[str]]
    WEIGHTS: str

    def __init__(self, **config: Any):
        super().__init__()
        self.config = self.CONFIG.from_dict(config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype | None = None,
                        device: str | torch.device | None = None, variant: str | None = None) -> Self:
        """Open a folder with `config.json` and safetensors weights (one file, or shards and their index).

        Args:
            dtype: convert the weights to it; None keeps the file's.
            variant: "fp16" opens `….fp16.safetensors`.

        Raises:
            FileNotFoundError: no config or no weights in the folder.
            ValueError: the config of another network, a damaged file, or weights that do not fit the config.
        """
        folder = ShownPath(folder).expanduser()
        config = read_json(folder / "config.json")
        weights = load_weights(folder, cls.WEIGHTS, variant)
        return cls.from_state_dict(config, weights, dtype, device, source=f"{folder}")

    @classmethod
    def from_state_dict(cls, config: dict, weights: dict[str, Tensor], dtype: torch.dtype | None = None,
                        device: str | torch.device | None = None, source: str = "the state dict") -> Self:
        """Build the network around existing tensors, so that no weight is in memory twice."""
        config = cls.published_config(config)
        for key, theirs in config.items():
            if key in ("_class_name", "model_type") and cls.CLASS_NAME.get(key, theirs) != theirs:
                raise ValueError(f"{source}: config.json is that of a {shown(theirs)}, not of a {cls.__name__}")
        try:
            with EmptyWeights():
                network = cls(**config)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        weights = cls.published_names(weights)
        check_fit(network.state_dict(), weights, source)
        modules = dict(network.named_modules())
        for name, tensor in weights.items():  # like load_state_dict(assign=True), whose own checks take longer
            module, _, parameter = name.rpartition(".")
            moved = tensor.to(device=device, dtype=dtype)
            mapped = moved is tensor and moved.dtype == torch.float32  # still in its file; reading it takes time
            placed = moved if mapped else channels_last(moved)
            setattr(modules[module], parameter, nn.Parameter(placed, requires_grad=False))
        return network.eval()

    @staticmethod
    def published_config(config: dict) -> dict:
        """The network's own part of a config file; here: all of it."""
        return config

    @staticmethod
    def published_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename parameters that older or newer files call differently, drop those of other networks; here: none."""
        return weights

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None, variant: str | None = None) -> None:
        """Write `config.json` and the weights; diffusers and transformers open the folder.

        Whatever goes wrong (a full disk, Ctrl-C), `folder` is left as it was.
        """
        with atomic_folder(folder) as new:
            config = json.dumps(self.CLASS_NAME | self.config.to_dict(), indent=2)
            (new / "config.json").write_text(config + "\n")
            save_weights(new, self.WEIGHTS, self.state_dict(), dtype, variant)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


class EmptyWeights(TorchFunctionMode):
    """Inside it, layers are built on the meta device and not initialised: their weights have shapes but no values.

    (`with torch.device("meta")` would do, but to initialise a meta tensor PyTorch imports 800 modules, in a second.)
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))


def in_precision_of(weight: Tensor, x: Tensor, name: str) -> Tensor:
    """A network's floating-point input of any precision → the same in the precision that the network computes in."""
    if not x.is_floating_point():
        raise ValueError(f"{name}: the dtype is {x.dtype}; it must be floating point, such as {weight.dtype}")
    return x.to(weight.dtype)


def channels_last(x: Tensor) -> Tensor:
    """The same tensor with each pixel's channels adjacent in memory, the layout in which convolutions run fastest.

    (`contiguous` would leave a 1×1 kernel's strides as they are; its gradient has the new ones, and DDP compares them.)
    """
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


def check_fit(wanted: dict[str, Tensor], given: dict[str, Tensor], source: str) -> None:
    """Compare names and shapes; the error lists what is missing, what is left over and what has the wrong shape."""
    problems = []
    if missing := wanted.keys() - given.keys():
        problems.append(f"missing: {listed(missing)}")
    if extra := given.keys() - wanted.keys():
        problems.append(f"not part of this network: {listed(extra)}")
    shapes = [f"{shown(name)} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
              for name in wanted.keys() & given.keys() if given[name].shape != wanted[name].shape]
    if shapes:
        problems.append(f"wrong shape: {listed(shapes)}")
    if other := [f"{shown(name)} ({tensor.dtype})" for name, tensor in given.items() if not tensor.is_floating_point()]:
        problems.append(f"not floating point, as in a quantised model: {listed(other)}")
    if problems:
        raise ValueError(f"{source}: the weights do not fit the config; " + "; ".join(problems))
