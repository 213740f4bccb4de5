"""What the three networks share: a checked config, and a folder that holds config and weights."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minisd.files import atomic_folder, read_json
from minisd.weights import load_weights, save_weights

# Fields of published config files that say who wrote the file, not what the network is.
METADATA = {"architectures", "dtype", "model_type", "torch_dtype", "transformers_version"}
# Whole numbers with bounds of their own; a plain `int` field takes 1 to a million.
LayerCount = Annotated[int, range(1, 101)]
TokenId = Annotated[int, range(0, 1_000_001)]


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Base of the networks' config dataclasses, whose fields are those of the published `config.json` files.

    `FIXED` lists the published fields for which the networks here support certain values only (the first is what an
    absent field means). A file with any other value describes a different network, and is refused.
    """

    FIXED: ClassVar[dict[str, tuple]] = {}

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """Check the fields of a published config one by one.

        Raises:
            ValueError: a field is unknown, or its value is not supported.
        """
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        taken = {}
        for name, value in values.items():
            if name.startswith("_") or name in METADATA:
                continue
            if name in known:
                taken[name] = tuple(value) if isinstance(value, list) else value
                if not is_valid(taken[name], known[name]):
                    raise ValueError(f"{cls.__name__}: {name}={value!r} makes no sense; "
                                     f"it must be {describe(known[name])}")
            elif name not in cls.FIXED:
                raise ValueError(f"{cls.__name__}: unknown field {name!r} (value {value!r}); known are "
                                 f"{', '.join(sorted({*known, *cls.FIXED}))}")
            elif value not in cls.FIXED[name]:
                supported = " or ".join(repr(v) for v in cls.FIXED[name])
                raise ValueError(f"{cls.__name__}: {name}={value!r} is not supported; it must be {supported}")
        return cls(**taken)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


def is_valid(value: Any, kind: Any) -> bool:
    """Whether a config's value is of its field's type, and not absurd: no billion layers, no negative widths."""
    if (allowed := int_range(kind)) is not None:
        return type(value) is int and value in allowed  # True is an int, too, but no number of layers
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(is_valid(item, get_args(kind)[0]) for item in value or [None])
    if get_args(kind):  # a union
        return any(is_valid(value, one) for one in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and 0 < value < float("inf")
    return isinstance(value, kind)


def int_range(kind: Any) -> range | None:
    """The whole numbers that a field may hold; None if its type is not a whole number."""
    if get_origin(kind) is Annotated:
        return get_args(kind)[1]
    return range(1, 1_000_001) if kind is int else None


def describe(kind: Any) -> str:
    """A field's type in words, for error messages."""
    if (allowed := int_range(kind)) is not None:
        return f"a whole number from {allowed[0]} to {allowed[-1]}"
    if get_origin(kind) is tuple:
        return f"a list, each {describe(get_args(kind)[0])}"
    if get_args(kind):
        return " or ".join(describe(one) for one in get_args(kind))
    return {float: "a positive number", bool: "true or false", str: "a string"}[kind]


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
        config = read_json(Path(folder) / "config.json")
        weights = load_weights(folder, cls.WEIGHTS, variant)
        return cls.from_state_dict(config, weights, dtype, device, source=str(folder))

    @classmethod
    def from_state_dict(cls, config: dict, weights: dict[str, Tensor], dtype: torch.dtype | None = None,
                        device: str | torch.device | None = None, source: str = "the state dict") -> Self:
        """Build the network around existing tensors, so that no weight is in memory twice."""
        for key, theirs in config.items():
            if key in ("_class_name", "model_type") and cls.CLASS_NAME.get(key, theirs) != theirs:
                raise ValueError(f"{source}: config.json is that of a {theirs}, not of a {cls.__name__}")
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
    def published_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename parameters that older or newer files call differently; here: none."""
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


def channels_last(x: Tensor) -> Tensor:
    """The same tensor with each pixel's channels adjacent in memory, the layout in which convolutions run fastest.

    (`contiguous` would leave a 1×1 kernel's strides as they are; its gradient has the new ones, and DDP compares them.)
    """
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


def listed(found: Iterable[str], most: int = 5) -> str:
    """The first of some names, for error messages, and how many more there are."""
    names = sorted(found)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_fit(wanted: dict[str, Tensor], given: dict[str, Tensor], source: str) -> None:
    """Compare names and shapes; the error lists what is missing, what is left over and what has the wrong shape."""
    problems = []
    if missing := wanted.keys() - given.keys():
        problems.append(f"missing: {listed(missing)}")
    if extra := given.keys() - wanted.keys():
        problems.append(f"not part of this network: {listed(extra)}")
    shapes = [f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
              for name in wanted.keys() & given.keys() if given[name].shape != wanted[name].shape]
    if shapes:
        problems.append(f"wrong shape: {listed(shapes)}")
    if other := [f"{name} ({tensor.dtype})" for name, tensor in given.items() if not tensor.is_floating_point()]:
        problems.append(f"not floating point, as in a quantised model: {listed(other)}")
    if problems:
        raise ValueError(f"{source}: the weights do not fit the config; " + "; ".join(problems))
