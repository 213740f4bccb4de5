"""Where the picture reads the text: transformer blocks over the pixels of the U-Net's feature maps.

Source: Rombach et al. 2022, section 3.3 and appendix E.2.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisd.attention import Attention


class GEGLU(nn.Module):
    """A linear layer whose second half gates its first (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)


class FeedForward(nn.Module):
    """Expand to four times the width and back, the same at every pixel."""

    def __init__(self, channels: int):
        super().__init__()
        # the published names are net.0 and net.2; net.1 was a dropout that is never active
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        # 2048 rows at a time stay in a CPU's cache; all rows of two maps take 84 MB in the wide layer at 512² pixels,
        # and 336 MB at 1024². A compiled or exported graph would fix the number of parts, and with it the batch; so
        # there, all rows go at once.
        if torch.compiler.is_compiling():
            return self.net(x)
        return torch.cat([self.net(rows) for rows in x.flatten(0, 1).split(2048)]).view_as(x)


class TransformerBlock(nn.Module):
    """Pixels attend to pixels (attn1), then to the words (attn2), then each thinks for itself (ff)."""

    def __init__(self, channels: int, num_heads: int, context_channels: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, num_heads, context_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x: (B, H·W, C); context: (B, 77, context_channels)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a feature map, added to the map.

    Args:
        channels: of the feature map.
        num_heads, context_channels: as for `TransformerBlock`.
        norm_groups: of the first group norm.
        linear: whether the input and output projections are stored as linear layers (SD 2) or 1×1 convolutions (SD 1).
    """

    def __init__(self, channels: int, num_heads: int, context_channels: int, norm_groups: int, linear: bool = False):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, num_heads, context_channels)])
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x: (B, C, H, W); context: (B, 77, context_channels). Returns the shape of x."""
        h = project(self.proj_in, to_rows(self.norm(x)))  # (B, H·W, C)
        h = self.transformer_blocks[0](h, context)
        return x + to_map(project(self.proj_out, h), x)


def project(layer: nn.Linear | nn.Conv2d, rows: Tensor) -> Tensor:
    """(B, N, in) → (B, N, out). A 1×1 convolution is a linear layer at every pixel; over rows it is faster."""
    return F.linear(rows, layer.weight.flatten(1), layer.bias)


def to_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W, C): every pixel is one row, as a token is in a sentence."""
    return x.flatten(2).transpose(1, 2)


def to_map(rows: Tensor, like: Tensor) -> Tensor:
    """(B, H·W, C) → (B, C, H, W), the shape of `like`."""
    return rows.transpose(1, 2).reshape_as(like)
