"""The networks' configs: which fields a published `config.json` has, and which values make sense."""

import dataclasses
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin

from minisd.messages import quoted

# Fields of published config files that say who wrote the file or how it is run, not what the network is.
METADATA = {
    "architectures", "dtype", "model_type", "torch_dtype", "transformers_version",
    "gradient_checkpointing", "output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_cache",
    # of averaged weights, which diffusers' EMAModel saves with its own settings
    "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup",
}
# Numbers with bounds of their own; a plain `int` field takes 1 to a million, a plain `float` 0.001 to 1000.
LayerCount = Annotated[int, (1, 100)]
Side = Annotated[int, (1, 8192)]  # height and width, in latents or in pixels
TokenId = Annotated[int, (0, 1_000_000)]
Epsilon = Annotated[float, (1e-12, 1e-3)]  # what a norm adds to the variance
BOUNDS = {int: (1, 1_000_000), float: (0.001, 1000)}
MOST_LEVELS = 10  # or other numbers in a list; each level halves the side
MOST_BLOCKS = 50  # on the way down, all levels together; Stable Diffusion has 8


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
            value = value if is_list(known.get(name)) else agreed(name, value, values)
            if name in known:
                taken[name] = tuple(value) if isinstance(value, list) else value
                if not is_valid(taken[name], known[name]):
                    raise ValueError(f"{cls.__name__}: {name}={quoted(value)} makes no sense; "
                                     f"it must be {describe(known[name])}")
            elif name not in cls.FIXED:
                raise ValueError(f"{cls.__name__}: unknown field {quoted(name)} (value {quoted(value)}); "
                                 f"known are {', '.join(sorted({*known, *cls.FIXED}))}")
            elif value not in cls.FIXED[name]:
                supported = " or ".join(repr(v) for v in cls.FIXED[name])
                raise ValueError(f"{cls.__name__}: {name}={quoted(value)} is not supported; "
                                 f"it must be {supported}")
        return cls(**taken)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


def check_blocks(name: str, levels: int, layers: int) -> None:
    """A limit on all levels together: to build ten of a hundred layers takes a minute."""
    if levels * layers > MOST_BLOCKS:
        raise ValueError(f"{name}: block_out_channels has {levels} levels, each of layers_per_block={layers}; "
                         f"together they must not have more than {MOST_BLOCKS} layers")


def agreed(name: str, value: Any, values: dict) -> Any:
    """A height and a width, or one number per level, where all entries agree: that one number; other values as is."""
    levels = values.get("block_out_channels")
    count = 2 if name == "sample_size" else len(levels) if isinstance(levels, list | tuple) else 0
    repeated = isinstance(value, list | tuple) and len(value) == count > 0 and all(one == value[0] for one in value)
    return value[0] if repeated else value


def is_valid(value: Any, kind: Any) -> bool:
    """Whether a config's value is of its field's type, and not absurd: no billion layers, no negative widths."""
    if (limits := bounds(kind)) is not None:
        # True is an int, too, but no number of layers
        return type(value) in ((int,) if number(kind) is int else (int, float)) and limits[0] <= value <= limits[1]
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return (isinstance(value, tuple) and all(is_valid(one, item) for one in value or [None])
                and (item is str or len(value) <= MOST_LEVELS))
    if get_args(kind):  # a union
        return any(is_valid(value, one) for one in get_args(kind))
    return isinstance(value, kind)


def number(kind: Any) -> Any:
    """The type of a field without its bounds."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def bounds(kind: Any) -> tuple | None:
    """The least and the largest number that a field may hold; None if it holds no number."""
    return get_args(kind)[1] if get_origin(kind) is Annotated else BOUNDS.get(kind)


def is_list(kind: Any) -> bool:
    """Whether a field may be a list."""
    return get_origin(kind) is tuple or any(is_list(one) for one in get_args(kind))


def describe(kind: Any) -> str:
    """A field's type in words, for error messages."""
    if (limits := bounds(kind)) is not None:
        return f"a {'whole' if number(kind) is int else 'positive'} number from {limits[0]} to {limits[1]}"
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return f"a list, each {describe(item)}" + ("" if item is str else f", and of {MOST_LEVELS} at most")
    if get_args(kind):
        return " or ".join(describe(one) for one in get_args(kind))
    return {bool: "true or false", str: "a string", type(None): "null"}[kind]
