"""Weight files: safetensors in folders, and folders that are written whole or not at all."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

CONTRADICTS = re.compile(r"^tokenizer\.json$|-of-\d+\.safetensors$|\.safetensors\.index")


def read_json(path: Path) -> dict:
    """Read a JSON object, with an error that names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist" + ("" if path.parent.is_dir() else
                                f", and neither does the folder {path.parent}"))
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object with fields")
    return value


def check_folder(folder: Path) -> None:
    """Raise an error, before any work is done, if nothing could be saved into a folder, which need not exist yet."""
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not nearest.is_dir():
        raise FileExistsError(f"nothing can be saved in {folder}: {nearest} is a file; name another folder")
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"nothing can be saved in {folder}: you may not write in {nearest}; name another folder")


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A new, empty folder to write into, which takes the place of `folder` only if all went well.

    Other files that were in `folder` stay (they are linked into the new one), but not those that would contradict what
    was written: shards of the weights, and transformers' second form of a tokenizer.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a folder is needed to save into")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    new, old = work / "new", work / "old"
    new.mkdir()
    try:
        yield new
        written = {new, *(path for path in new.rglob("*") if path.is_dir())}
        for path in [p for p in folder.rglob("*") if p.is_file() or p.is_symlink()]:
            target = new / path.relative_to(folder)
            if not target.exists() and not (target.parent in written and CONTRADICTS.search(path.name)):
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.is_symlink():
                    target.symlink_to(os.readlink(path), target_is_directory=path.is_dir())
                else:
                    os.link(path, target)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Open a file; its tensors are memory-mapped, so nothing is read before it is used."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error}); fetch it again") from None


def load_weights(folder: str | Path, name: str, variant: str | None = None) -> dict[str, Tensor]:
    """The tensors of `name.safetensors` in a folder, or of its shards; with a variant, of `name.fp16.safetensors`."""
    folder = Path(folder)
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
    """Weights divided over several files; the index says which tensor lies in which."""
    places, weights = index.get("weight_map"), {}
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{folder / index_name}: weight_map must say for each tensor the name of its file")
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{folder / index_name} names {shard!r}, which is no safetensors file in that folder")
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder / index_name} names {shard}, which is not there")
        weights |= read_safetensors(folder / shard)
    if missing := sorted(places.keys() - weights.keys()):
        raise ValueError(f"{folder / index_name} names tensors that no shard holds: {', '.join(missing[:5])}")
    return weights


def save_weights(folder: Path, name: str, weights: dict[str, Tensor], dtype: torch.dtype | None = None,
                 variant: str | None = None) -> None:
    """Write one safetensors file; `dtype` converts (torch.float16 halves an fp32 file)."""
    if not isinstance(dtype, (torch.dtype, type(None))):
        raise TypeError(f"dtype={dtype!r}; it must be a torch dtype such as torch.float16")
    weights = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in weights.items()}
    path = folder / (f"{name}.{variant}.safetensors" if variant else f"{name}.safetensors")
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(f"{path.name} could not be written into {folder.parent} ({error})") from None


def assets_folder() -> Path:
    """Where the weights and data that come with minisd lie: inside an installed wheel, else in the checkout.

    Raises:
        FileNotFoundError: in neither place.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "assets", package.parent / "assets"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no folder 'assets' in {package} or beside it; run in a checkout of minisd")
