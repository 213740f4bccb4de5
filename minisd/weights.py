"""Weight files: safetensors, whole or in shards."""

import errno
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minisd.files import check_regular, read_json
from minisd.messages import ShownPath, listed, quoted, shown
from minisd.saving import check_whole


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Open a file. Its tensors are memory-mapped: nothing is read until it is used."""
    path = ShownPath(path)
    check_regular(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({shown(error, 300)}); fetch it again") from None
    except (RuntimeError, MemoryError) as error:  # terabytes, which a file can claim without taking them on the disk
        raise ValueError(f"{path} cannot be mapped into memory ({shown(error, 300)}); fetch it again") from None


def find_weights(folder: Path, name: str) -> dict[str | None, Path]:
    """Variant (None for the plain one) → its file, or the index of its shards. Indices have been named both ways."""
    pattern = re.compile(rf"{name}(?:\.(?P<a>\w+))?\.safetensors(?P<index>\.index(?:\.(?P<b>\w+))?\.json)?")
    matches = [match for path in folder.glob("*") if (match := pattern.fullmatch(path.name))]
    matches.sort(key=lambda match: match["index"] is None)  # where there are both, the file counts
    return {match["a"] or match["b"]: folder / match[0] for match in matches}


def load_weights(folder: str | Path, name: str, variant: str | None = None) -> dict[str, Tensor]:
    """The tensors of `name.safetensors` in a folder, or of its shards; with a variant, of `name.fp16.safetensors`."""
    folder = ShownPath(folder)
    check_whole(folder)
    variants = find_weights(folder, name)
    if path := variants.get(variant):
        return read_safetensors(path) if path.suffix == ".safetensors" else load_shards(folder, read_json(path), path)
    found = sorted(shown(p.name) for p in folder.glob("*") if p.suffix in (".safetensors", ".bin", ".ckpt"))
    hint = ""
    if variants:
        hint = f"; from_pretrained({str(folder)!r}, variant={next(iter(variants))!r}) opens what is there"
    elif any(file.endswith(".bin") for file in found):
        hint = " (.bin files are pickles, which can run code, and are not opened)"
    raise FileNotFoundError(f"no {f'{name}.{variant}' if variant else name}.safetensors in {folder}; "
                            f"there is {', '.join(found) or 'no weight file at all'}{hint}")


def load_shards(folder: Path, index: dict, path: Path) -> dict[str, Tensor]:
    """Weights split over several files; the index, which was read from `path`, says which tensor is in which."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{path}: weight_map must map each tensor to the name of its file")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors") or not shard.isprintable():
            raise ValueError(f"{path} names {quoted(shard)}, which is not a safetensors file in that folder")
        if not (folder / shard).exists():
            raise FileNotFoundError(f"{path} names {shard}, which is not there")
        tensors = read_safetensors(folder / shard)
        if misplaced := [name for name in tensors if places.get(name) != shard]:
            raise ValueError(f"{folder / shard} holds tensors which {path.name} places in another file, or in none: "
                             f"{listed(misplaced)}; fetch all files of the model again")
        weights |= tensors
    if missing := places.keys() - weights.keys():
        raise ValueError(f"{path} names tensors that no shard holds: {listed(missing)}")
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
