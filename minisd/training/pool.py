"""The scenes that the U-Net is trained on, encoded in advance: the VAE is frozen, so encoding the same picture again
would waste time.

For each picture, the pool keeps the posterior (mean and standard deviation of its latents), so that new latents can be
drawn from it at each visit; for each caption, the token ids.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

AT_ONCE = 64  # pictures encoded together


class Pool:
    """Named tensors with one row per scene, in half precision (token ids: integers)."""

    def __init__(self, number: int, tensors: dict[str, Tensor]):
        self.number, self.tensors = number, tensors

    def __len__(self) -> int:
        return len(self.tensors["token_ids"])

    def rows(self, name: str, chosen: Tensor, device: torch.device) -> Tensor:
        """Some rows of a tensor, as float32 (token ids: int64)."""
        part = self.tensors[name][chosen].to(device)
        return part.float() if part.is_floating_point() else part.long()

    @classmethod
    def open(cls, path: Path, number: int, key: str, size: int, encode: Callable[[range], dict[str, Tensor]]) -> "Pool":
        """Pool `number` of a run: read from its file if an earlier part of the run left one, or else encoded and saved.

        Args:
            key: everything that the contents depend on; a file with a different key is not used.
            size: number of scenes.
            encode: a function from the numbers of a few scenes to their rows.
        """
        key = f"{key}, pool {number} of {size} scenes"
        tensors = read(path, key)
        if tensors is None:
            own = own_share(range(number * size, (number + 1) * size))
            tensors = {name: gather(rows) for name, rows in encode_all(own, encode).items()}
            if not dist.is_initialized() or dist.get_rank() == 0:
                write(path, key, tensors)
        return cls(number, tensors)


def encode_all(indices: range, encode: Callable[[range], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows for all indices, encoded a few at a time."""
    parts = []
    for first in tqdm(range(0, len(indices), AT_ONCE), "encoding", leave=False, disable=not sys.stderr.isatty()):
        part = encode(indices[first: first + AT_ONCE])
        parts.append({name: rows.half() if rows.is_floating_point() else rows.short() for name, rows in part.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def own_share(indices: range) -> range:
    """This process's part of the indices."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if len(indices) % world:
        raise ValueError(f"pool_size={len(indices)} cannot be divided among {world} processes")
    share = len(indices) // world
    return indices[rank * share: (rank + 1) * share]


def gather(share: Tensor) -> Tensor:
    """The shares of all processes, concatenated."""
    if not dist.is_initialized():
        return share
    data = share.view(torch.uint8)  # gloo knows no int16
    shares = [torch.empty_like(data) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, data)
    return torch.cat(shares).view(share.dtype)


def read(path: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors in a pool's file; None if there is no file, or if it holds a different pool."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("pool") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator of its own)
    except Exception:  # missing, truncated, or not a safetensors file: the pool is encoded again
        return None


def write(path: Path, key: str, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        save_file(tensors, temporary, metadata={"pool": key})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # for instance, a full disk
        raise OSError(f"could not save {path} ({error}); free some space and continue with --resume") from None
    finally:
        temporary.unlink(missing_ok=True)


