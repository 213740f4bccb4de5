"""The convolutional blocks from which both the VAE and the U-Net are built."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Twice: normalise, SiLU, convolve. The result is added to the input. In the U-Net, time is added in between.

    Source: He et al. 2016 (residual), Ho et al. 2020, appendix B (group norm, SiLU, time).
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float, time_channels: int | None = None):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if time_channels is not None:
            self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        # 1×1 where the number of channels changes, so that input and result can be added
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """x: (B, in, H, W); time: (B, time_channels). Returns (B, out, H, W)."""
        # in place where the old map is not needed again: the VAE's largest takes 268 MB at 512² pixels
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        if time is not None:
            h += self.time_emb_proj(F.silu(time))[:, :, None, None]  # the same at every pixel
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        h += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h


class Downsample(nn.Module):
    """Halve height and width with a 3×3 convolution of stride 2.

    Args:
        asymmetric: pad by one on the right and at the bottom only, as in the VAE; the U-Net pads all four sides.
    """

    def __init__(self, channels: int, asymmetric: bool = False):
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Double height and width: repeat each pixel, then smooth with a 3×3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) → (B, C, 2H, 2W), or to `size`, where a side was odd on the way down."""
        size = size or (2 * x.shape[-2], 2 * x.shape[-1])
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
