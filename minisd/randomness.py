"""Random numbers that do not depend on the batch: one generator for all images, or one for each."""

import torch
from torch import Tensor

Generators = torch.Generator | list[torch.Generator] | None  # for the whole batch, one per image, or PyTorch's own


def randn(shape: tuple[int, ...], generator: Generators = None, device: torch.device | str | None = None,
          dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers of the given shape.

    Args:
        generator: one for the whole tensor, or a list with one per item of the first axis, so that item k is the same
            in a batch as on its own. Numbers are drawn on the generator's own device (a CPU generator gives the
            same picture on every device) and moved to `device`.

    Raises:
        TypeError: neither a generator nor a list of them.
        ValueError: the list's length is not shape[0].
    """
    if isinstance(generator, tuple) or not isinstance(generator, (torch.Generator, list, type(None))):
        raise TypeError(f"generator is a {type(generator).__name__}; it must be a torch.Generator or a list of them")
    if isinstance(generator, list):
        if len(generator) != shape[0]:
            raise ValueError(f"generator: a list of {len(generator)} for a batch of {shape[0]}; "
                             "give one generator, or one for each image")
        for k, one in enumerate(generator):
            if not isinstance(one, torch.Generator):
                raise TypeError(f"generator[{k}] is a {type(one).__name__}; it must be a torch.Generator")
        return torch.cat([randn((1, *shape[1:]), g, device, dtype) for g in generator])
    source = generator.device if generator is not None else device
    return torch.randn(shape, generator=generator, device=source, dtype=dtype).to(device)
