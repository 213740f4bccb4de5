"""Values that go through a pipe as JSON: numbers, words, tensors, and lists of them. Nothing else is let through.

What comes out of the process of an answer is read with this, so it must not matter what is in there: an object arrives
as its name, a list with a changed `==` as a list.
"""

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)}
MOST = 100_000  # numbers of a tensor; of a larger one only the shape is sent


class Other:
    """Stands for an object that is no value; `unpack` makes a subclass that has the object's class name."""

    def __init__(self, words: str):
        self.words = words

    def __repr__(self) -> str:
        return self.words


def pack(value: Any) -> Any:
    """A value as JSON has them; a tensor becomes {"tensor": numbers, "dtype": …, "shape": …}."""
    if value is None or value is Ellipsis:
        return None
    value = value.item() if isinstance(value, np.generic) else value
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [pack(one) for one in value]}
    if isinstance(value, (Tensor, np.ndarray)):
        with contextlib.suppress(TypeError, RuntimeError):  # an array of words, a tensor without numbers
            return pack_tensor(value)
    return {"other": type(value).__name__, "words": repr(value)[:200]}


def pack_tensor(value: Tensor | np.ndarray) -> dict[str, Any]:
    tensor = value.detach().cpu().resolve_conj() if isinstance(value, Tensor) else torch.tensor(value)
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return {"tensor" if isinstance(value, Tensor) else "array":
            numbers.flatten().tolist() if numbers.numel() <= MOST else None,
            "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


def unpack(packed: Any) -> Any:
    """The value that `pack` was given.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: it is nothing that `pack` makes.
    """
    if packed is None or isinstance(packed, (bool, int, float, str)):
        return packed
    if "complex" in packed:
        return complex(*packed["complex"])
    if "list" in packed:
        return [unpack(one) for one in packed["list"]]
    if "tuple" in packed:
        return tuple(unpack(one) for one in packed["tuple"])
    if "other" in packed:
        return type(packed["other"], (Other,), {})(packed["words"])
    kind = "tensor" if "tensor" in packed else "array"
    dtype, shape = DTYPES[packed["dtype"]], packed["shape"]
    if packed[kind] is None:  # too large to be right
        return torch.empty(shape, dtype=dtype, device="meta")
    numbers = torch.tensor(packed[kind], dtype=torch.float64 if dtype.is_complex else dtype)
    tensor = torch.view_as_complex(numbers.view(*shape, 2)).to(dtype) if dtype.is_complex else numbers.view(shape)
    return tensor if kind == "tensor" else tensor.numpy()
