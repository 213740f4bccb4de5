"""Pictures in and out: Pillow images on one side, tensors on the other, checked on the way."""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from minisd.saving import atomic_file


def image_to_tensor(image: Image.Image | list[Image.Image] | Tensor, multiple: int = 8) -> Tensor:
    """RGB images of one size, or a tensor (B, 3, H, W) in [-1, 1] → tensor (B, 3, H, W) in [-1, 1].

    Photographs are turned as their EXIF data say.

    Raises:
        TypeError: neither Pillow images nor a tensor.
        ValueError: a mode other than RGB, a closed or truncated picture, different sizes, a side not divisible by
            `multiple`, or values outside [-1, 1].
    """
    if not isinstance(image, Tensor):
        images = image if isinstance(image, list) else [image]
        if not images:
            raise ValueError("image is an empty list; give at least one")
        for one in images:
            if not isinstance(one, Image.Image):
                raise TypeError(f"image must be a Pillow image, a list of them or a tensor, not {type(one).__name__}")
            check_depth(one.mode, "image")
            if one.mode != "RGB":
                raise ValueError(f"image has mode {one.mode}; convert it first: image.convert('RGB')")
        images = [upright(one, "image") for one in images]
        for one in images:
            if one.size != images[0].size:
                raise ValueError(f"image: the images have different sizes, {images[0].size} and {one.size}")
        pixels = torch.from_numpy(np.stack([np.asarray(one) for one in images]))  # (B, H, W, 3), 0 to 255
        image = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    if image.ndim != 4 or image.shape[1] != 3 or not image.numel():
        raise ValueError(f"image has shape {tuple(image.shape)}; a tensor must be (B, 3, H, W)")
    if not image.is_floating_point():
        raise ValueError(f"image has dtype {image.dtype}; a tensor must be floating point, in [-1, 1]")
    if not (image.min() >= -1.01 and image.max() <= 1.01):  # this way round, NaN is refused too
        raise ValueError(f"image has values from {image.min():.2f} to {image.max():.2f}; a tensor must be in [-1, 1]")
    check_size(image.shape[-2], image.shape[-1], multiple, "image")
    return image


def mask_to_tensor(mask: Image.Image | Tensor, size: Sequence[int]) -> Tensor:
    """A greyscale mask → tensor (1 or B, 1, H, W) of zeros (keep) and ones (repaint: 50 % grey or lighter).

    A picture is turned as its EXIF data say.

    Raises:
        TypeError, ValueError: not a greyscale picture, or not of the image's `size` (H, W).
    """
    if isinstance(mask, Image.Image):
        check_depth(mask.mode, "mask")
        if mask.mode not in ("L", "1"):
            raise ValueError(f"mask has mode {mask.mode}; it must be greyscale, white to repaint: mask.convert('L')")
        mask = torch.from_numpy(np.array(upright(mask, "mask").convert("L")))[None, None].float() / 255
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a Pillow image or a tensor, not {type(mask).__name__}")
    if mask.ndim != 4 or mask.shape[1] != 1 or not mask.numel():
        raise ValueError(f"mask has shape {tuple(mask.shape)}; a tensor must be (B, 1, H, W)")
    if tuple(mask.shape[-2:]) != tuple(size):
        raise ValueError(f"mask is {mask.shape[-1]}×{mask.shape[-2]} pixels, the image {size[1]}×{size[0]}; "
                         "they must have the same size")
    if not (mask.min() >= 0 and mask.max() <= 1):
        raise ValueError(f"mask has values from {mask.min():.2f} to {mask.max():.2f}; a tensor must be in [0, 1]")
    return (mask >= 0.5).float()


def tensor_to_images(pixels: Tensor) -> list[Image.Image]:
    """Pixels (B, 3, H, W) in [0, 1] → B Pillow images."""
    array = (pixels.float().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(one) for one in array]


def upright(image: Image.Image, name: str) -> Image.Image:
    """A picture whose pixels can be read, turned as its EXIF data say: as it looks, which is as the camera was held.

    Raises:
        ValueError: a closed or a truncated one.
    """
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises half a dozen types
        reason = str(error) or "it was closed"
        raise ValueError(f"{name} cannot be read ({reason}); open it again and do not close it before it is used, "
                         "or fetch its file again") from None


def save_png(image: Image.Image, file: str | Path, notes: dict[str, Any]) -> None:
    """Write a PNG that carries notes: the settings with which it was drawn, say."""
    info = PngInfo()
    for name, value in notes.items():
        info.add_itxt(name, str(value).encode("utf-8", "backslashreplace").decode())  # a path may hold any bytes
    with atomic_file(Path(file)) as new:
        image.save(new, pnginfo=info)


def check_depth(mode: str, name: str) -> None:
    """Refuse a mode with more than 8 bits per channel: Pillow's `convert` turns all values above 255 white."""
    if mode.startswith(("I", "F")):
        raise ValueError(f"{name} has more than 8 bits per channel (mode {mode}); scale it to 0…255 and save it with 8")


def check_size(height: int, width: int, multiple: int, name: str) -> None:
    """Raise a ValueError that names the nearest size that the networks can take."""
    for side, what in ((height, "height"), (width, "width")):
        if not isinstance(side, Integral):
            raise ValueError(f"{name}: {what} is {side!r}; it must be a whole number of pixels divisible by {multiple}")
        if side < multiple or side % multiple:
            nearest = max(multiple, round(side / multiple) * multiple)
            raise ValueError(f"{name}: {what} is {side} pixels; it must be divisible by {multiple}, "
                             f"for example {nearest}")
