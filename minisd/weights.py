"""Weight files: safetensors, whole or in shards."""

import errno
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minisd.files import read_json
from minisd.saving import check_whole


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Open a file. Its tensors are memory-mapped: nothing is read until it is used."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error}); fetch it again") from None


def load_weights(folder: str | Path, name: str, variant: str | None = None) -> dict[str, Tensor]:
    """The tensors of `name.safetensors` in a folder, or of its shards; with a variant, of `name.fp16.safetensors`."""
    folder = Path(folder)
    check_whole(folder)
    stem = f"{name}.{variant}" if variant else name
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return read_safetensors(single)
    for index in (f"{name}.safetensors.index.{variant}.json", f"{stem}.safetensors.index.json"):
        if (folder / index).is_file():
            return load_shards(folder, read_json(folder / index), index)
    found = sorted(p.name for p in folder.glob("*") if p.suffix in (".safetensors", ".bin", ".ckpt"))
    raise FileNotFoundError(f"no {single.name} in {folder}; there is {', '.join(found) or 'no weight file at all'}"
                            + (" (.bin files are pickles, which can run code, and are not opened)"
                               if any(f.endswith(".bin") for f in found) else ""))


def load_shards(folder: Path, index: dict, index_name: str) -> dict[str, Tensor]:
    """Weights split over several files; the index says which tensor is in which."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{folder / index_name}: weight_map must map each tensor to the name of its file")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{folder / index_name} names {shard!r}, which is not a safetensors file in that folder")
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder / index_name} names {shard}, which is not there")
        weights |= read_safetensors(folder / shard)
    if missing := sorted(places.keys() - weights.keys()):
        raise ValueError(f"{folder / index_name} names tensors that no shard holds: {', '.join(missing[:5])}")
    return weights


def save_weights(folder: Path, name: str, weights: dict[str, Tensor], dtype: torch.dtype | None = None,
                 variant: str | None = None) -> None:
    """Write one safetensors file.

    Args:
        dtype: convert the weights to it (torch.float16 halves an fp32 file); None keeps theirs.
        variant: "fp16" writes `name.fp16.safetensors`.

    Raises:
        TypeError, ValueError: a dtype that is none, or in which networks do not compute; a variant that is no word;
            a weight too large for the dtype.
        OSError: a full disk, for instance.
    """
    if not isinstance(dtype, (torch.dtype, type(None))):
        raise TypeError(f"dtype={dtype!r}; it must be a torch dtype such as torch.float16")
    if dtype not in (None, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}; weights are floating point numbers: it must be torch.float32, "
                         "torch.bfloat16, torch.float16 or torch.float64")
    if variant is not None and not re.fullmatch(r"\w+", variant):
        raise ValueError(f"variant={variant!r}; it must be a word such as 'fp16', which becomes part of a file's name")
    converted = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in weights.items()}
    for key, tensor in weights.items():
        if tensor.dtype != converted[key].dtype and converted[key].isinf().any() and not tensor.isinf().any():
            raise ValueError(f"dtype={dtype}: {key} has values up to {tensor.abs().max():.3g}, which are infinite in "
                             "it; use torch.bfloat16")
    path = folder / (f"{name}.{variant}.safetensors" if variant else f"{name}.safetensors")
    path.touch()
    mode = path.stat().st_mode  # what a new file here may; safetensors lets nobody but its owner read
    try:
        save_file(converted, path, metadata={"format": "pt"})
    except SafetensorError as error:  # for instance a full disk
        number = re.search(r"os error (\d+)", str(error))
        reason = (int(number[1]), os.strerror(int(number[1]))) if number else (errno.EIO, str(error))
        raise OSError(*reason, str(path)) from None
    path.chmod(mode)
