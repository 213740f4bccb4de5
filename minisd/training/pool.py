"""The scenes that the U-Net is trained on, encoded beforehand: the VAE is frozen, so encoding the same picture again
would be wasted time.

For each picture the pool keeps the posterior (mean and standard deviation of its latents), from which each visit can
draw different latents, and for each caption the token ids.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

AT_ONCE = 64  # pictures that are encoded together


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
        """Pool `number`: read from its file, if an earlier part of the run left it there, or else encoded and saved.

        Args:
            key: everything that the contents depend on; a file with another key is not used.
            size: number of scenes.
            encode: a function from the numbers of some scenes to their rows.
        """
        key = f"{key}, pool {number} of {size} scenes"
        tensors = read(path, key)
        if tensors is None:
            tensors = encode_all(range(number * size, (number + 1) * size), encode)
            if not dist.is_initialized() or dist.get_rank() == 0:
                write(path, key, tensors)
        return cls(number, tensors)


def encode_all(indices: range, encode: Callable[[range], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows for all indices. Each process encodes its share; then all processes get all rows."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if len(indices) % world:
        raise ValueError(f"pool={len(indices)} cannot be divided among {world} processes")
    share = len(indices) // world
    mine = encode_here(indices[rank * share: (rank + 1) * share], encode, quiet=rank > 0)
    return {name: gather(rows) for name, rows in mine.items()}


def encode_here(indices: range, encode: Callable[[range], dict[str, Tensor]], quiet: bool = True) -> dict[str, Tensor]:
    """Rows for all indices, encoded by this process alone."""
    parts = []
    starts = range(0, len(indices), AT_ONCE)
    for first in tqdm(starts, "encoding", leave=False, disable=quiet or not sys.stderr.isatty()):
        part = encode(indices[first: first + AT_ONCE])
        parts.append({name: rows.half() if rows.is_floating_point() else rows.short() for name, rows in part.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def gather(share: Tensor) -> Tensor:
    """The shares of all processes, concatenated."""
    if not dist.is_initialized():
        return share
    shares = [torch.empty_like(share) for _ in range(dist.get_world_size())]
    dist.all_gather([one.view(torch.uint8) for one in shares], share.view(torch.uint8))  # gloo knows no int16
    return torch.cat(shares)


def read(path: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors of a pool's file; None if there is none, or one of another pool."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("pool") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator of its own)
    except Exception:  # missing, truncated, or not a safetensors file: it can be made again
        return None


def write(path: Path, key: str, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        save_file(tensors, temporary, metadata={"pool": key})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


