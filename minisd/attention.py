"""Multi-head attention, the one mechanism that all three networks share.

Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1 and section 3.2.2.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, heads·d) → (B, heads, N, d): each head sees its own slice of the channels."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, causal: bool = False) -> Tensor:
    """softmax(Q Kᵀ / √d) V in every head, the heads concatenated again (equation 1).

    Args:
        query: (B, N, C), one row per position that attends.
        key, value: (B, M, C), one row per position that is attended to.
        causal: let position n attend only to positions up to n, as in a text encoder.

    Returns:
        (B, N, C).
    """
    q, k, v = (split_heads(x, num_heads) for x in (query, key, value))  # (B, heads, N or M, d)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


def attention_weights(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """The matrix softmax(Q Kᵀ / √d), (B, heads, N, M): how strongly each query attends to each key.

    `multi_head_attention` never builds this matrix; it is computed separately, for inspection only.
    """
    q, k = split_heads(query, num_heads).float(), split_heads(key, num_heads).float()
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)


class Attention(nn.Module):
    """Attention of a sequence to itself, or to a `context` (cross-attention), as the U-Net and the VAE use it.

    Args:
        channels: width C of the queries and of the result.
        num_heads: number of heads; must divide `channels`.
        context_channels: width of the context; None for self-attention.
        bias: whether queries, keys and values have a bias (the VAE's do, the U-Net's do not).
    """

    def __init__(self, channels: int, num_heads: int, context_channels: int | None = None, bias: bool = False):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"attention: {num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_channels or channels, channels, bias=bias)
        self.to_v = nn.Linear(context_channels or channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])  # a list, for the published name `to_out.0`
        self.recorded: list[Tensor] | None = None  # UNet.record_attention puts a list here

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x: (B, N, C); context: (B, M, context_channels) or None for self-attention. Returns (B, N, C)."""
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if self.recorded is not None:
            self.recorded.append(attention_weights(q, k, self.num_heads).detach().cpu())
        return self.to_out[0](multi_head_attention(q, k, v, self.num_heads))
