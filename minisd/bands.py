"""The VAE's decoder in little memory and without seams: large feature maps are computed one band of rows at a time.

The usual way is to cut the latents into overlapping tiles, decode them one by one and blend the results. But then each
group norm sees a single tile, so tiles differ in brightness, and it shows. Here the mean and variance of the *whole*
map are measured first, band by band; every other layer reads at most one row beyond its band. So the picture is the
same. The price: a map that is never held as a whole is computed again each time it is read.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisd.blocks import ResidualBlock

BAND = 8  # rows


@dataclass(frozen=True)
class Rows:
    """A feature map that is read a few rows at a time: `read(a, b)` returns rows a to b - 1, (B, C, b - a, W)."""

    height: int
    read: Callable[[int, int], Tensor]

    def bands(self) -> list[tuple[int, int]]:
        return [(a, min(a + BAND, self.height)) for a in range(0, self.height, BAND)]


def decode_in_bands(decoder: nn.Module, z: Tensor) -> Tensor:
    """The same as `decoder(z)`, (B, 3, 8h, 8w); the images of a batch are decoded one after another."""
    return torch.cat([decode_one(decoder, one[None]) for one in z])


def decode_one(decoder: nn.Module, z: Tensor) -> Tensor:
    x = held(decoder.mid_block(decoder.conv_in(z)))  # no larger than the latents
    for block in decoder.up_blocks:
        x = in_one_buffer(block.resnets, x)
        for upsample in block.upsamplers:
            x = upsampled(upsample.conv, x)
            if block is not decoder.up_blocks[-2]:  # the last map, the largest, is never held as a whole
                x = held(write(x, empty_map(upsample.conv, x, x.height)))
    x = convolved(decoder.conv_out, activated(decoder.conv_norm_out, x))
    return write(x, empty_map(decoder.conv_out, x, x.height))


def in_one_buffer(blocks: nn.ModuleList, x: Rows) -> Rows:
    """The residual blocks of one resolution, in one buffer.

    Each block writes its output over its input, but two rows further up. Since it reads only two rows beyond its band,
    it overwrites no row that it will read again.
    """
    spare = 2 * len(blocks)
    buffer = empty_map(blocks[0].conv1, x, x.height + spare)
    for block in blocks:
        spare -= 2
        x = held(write(residual(block, x), buffer[:, :, spare: spare + x.height]))
    return x


def residual(block: ResidualBlock, x: Rows) -> Rows:
    h = convolved(block.conv1, activated(block.norm1, x))
    h = convolved(block.conv2, activated(block.norm2, h))
    shortcut = block.conv_shortcut or nn.Identity()
    return Rows(x.height, lambda a, b: h.read(a, b) + shortcut(x.read(a, b)))


def empty_map(conv: nn.Conv2d, x: Rows, height: int) -> Tensor:
    """An empty buffer for what `conv` makes of x, channels last."""
    width = x.read(0, 1).shape[3]
    return conv.weight.new_empty(1, height, width, conv.out_channels).permute(0, 3, 1, 2)


def write(x: Rows, buffer: Tensor) -> Tensor:
    for a, b in x.bands():
        buffer[:, :, a:b] = x.read(a, b)
    return buffer


def held(x: Tensor) -> Rows:
    """A map that is in memory as a whole."""
    return Rows(x.shape[2], lambda a, b: x[:, :, a:b])


def convolved(conv: nn.Conv2d, x: Rows) -> Rows:
    """A 3×3 convolution: it needs one more row above and below, and zeros beyond the edges."""
    def read(a: int, b: int) -> Tensor:
        rows = x.read(max(a - 1, 0), min(b + 1, x.height))
        rows = F.pad(rows, (1, 1, int(a == 0), int(b == x.height)))
        return F.conv2d(rows, conv.weight, conv.bias)
    return Rows(x.height, read)


def upsampled(conv: nn.Conv2d, x: Rows) -> Rows:
    """Each pixel repeated twice along both sides, then the convolution."""
    def read(a: int, b: int) -> Tensor:
        rows = x.read(a // 2, (b + 1) // 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return rows[:, :, a % 2: a % 2 + b - a]
    return convolved(conv, Rows(2 * x.height, read))


def activated(norm: nn.GroupNorm, x: Rows) -> Rows:
    """Group norm with the statistics of the whole map, then SiLU."""
    total, squares = torch.zeros(2, 1, norm.num_groups, dtype=torch.float64, device=norm.weight.device)
    count = 0
    for a, b in x.bands():
        rows = x.read(a, b).float().unflatten(1, (norm.num_groups, -1))  # (1, G, C/G, rows, W)
        total += rows.sum(dim=(2, 3, 4), dtype=torch.float64)
        squares += rows.square().sum(dim=(2, 3, 4), dtype=torch.float64)
        count += rows[0, 0].numel()
    mean = total / count
    scale = (squares / count - mean**2 + norm.eps).rsqrt()  # (1, G)
    per_channel = norm.num_channels // norm.num_groups
    mean, scale = (values.repeat_interleave(per_channel, dim=1) for values in (mean, scale))  # (1, C)
    weight = norm.weight * scale
    bias = norm.bias - mean * weight
    weight, bias = (values.to(norm.weight.dtype)[:, :, None, None] for values in (weight, bias))
    return Rows(x.height, lambda a, b: F.silu(torch.addcmul(bias, x.read(a, b), weight), inplace=True))
