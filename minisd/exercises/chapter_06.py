"""Checks for notebook 06, the U-Net."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minisd.blocks import ResidualBlock
from minisd.exercises import Exercise
from minisd.unet import sinusoidal_embedding


def clock(t: Tensor, channels: int, spread: int | None = None, base: float = 10_000) -> Tensor:
    """The sinusoids; spread: the divisor of the exponents."""
    half = channels // 2
    angles = t[:, None].float() * base ** (-torch.arange(half) / (spread or half))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def interleaved(t: Tensor, channels: int) -> Tensor:
    return clock(t, channels).unflatten(-1, (2, -1)).transpose(1, 2).flatten(1)


def skip_channels(widths: tuple[int, ...], layers: int, first: bool = True, halved: int = -1) -> list[int]:
    """first: whether conv_in is counted; halved: levels with a skip after downsampling; -1: all but the last."""
    halved = len(widths) - 1 if halved < 0 else halved
    skips = [widths[0]] if first else []
    for i, width in enumerate(widths):
        skips += [width] * (layers + (i < halved))
    return skips


def attend(pixels, words, to_q, to_k, to_v, *, axis: int | None = -1, power: float = 0.5):
    """axis: of the softmax; None for no softmax. power: the scores are divided by d to this power."""
    q, k, v = pixels @ to_q, words @ to_k, words @ to_v
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** power
    return (scores if axis is None else scores.softmax(dim=axis)) @ v


def words_ask(pixels, words, to_q, to_k, to_v):
    """The words ask and the pixels answer: the wrong way round."""
    q, k = pixels @ to_q, words @ to_k
    return (k @ q.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ q


def attention_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(*shape, generator=generator) for shape in
                  ((2, pixels, 12), (2, tokens, 10), (12, 8), (10, 8), (10, 8)))
            for pixels, tokens in ((9, 5), (16, 7))]


def residual_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for channels in (8, 12):  # one with an identity shortcut, and one with a convolution
        with torch.random.fork_rng(devices=[]):
            block = ResidualBlock(8, channels, groups=4, eps=1e-5, time_channels=16).requires_grad_(False)
        for p in block.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        x, time = torch.randn(2, 8, 6, 6, generator=generator), torch.randn(2, 16, generator=generator)
        cases.append((block, x, time))
    return cases


def residual(block, x, time, *, bend=F.silu, where: str = "between", add: bool = True):
    """The block from its parts; where: at which point the time is added."""
    shift = block.time_emb_proj(bend(time))[:, :, None, None]
    h = block.conv1(F.silu(block.norm1(x)))
    h = h + shift if where == "between" else h
    h = block.norm2(h)
    h = F.silu(h + shift if where == "after norm" else h)
    h = block.conv2(h)
    h = h + shift if where == "end" else h
    return h + (x if block.conv_shortcut is None else block.conv_shortcut(x)) if add else h


EXERCISES = {
    "6.1": Exercise(sinusoidal_embedding, lambda: [(torch.tensor([0, 1, 500, 999]), 64), (torch.arange(7), 6)], {
        "Sines and cosines have changed places: the published weights expect the cosines first.":
            lambda t, channels: clock(t, channels).roll(channels // 2, dims=-1),
        "Not by turns: all cosines come first, then all sines.": interleaved,
        "The exponent runs to the half of the channels: -i / half. You divided by half - 1, so that the slowest hand "
        "is at exactly 1/10000.": lambda t, channels: clock(t, channels, spread=channels // 2 - 1),
        "The frequencies fall too slowly: there are channels / 2 of them, so divide i by that, not by channels.":
            lambda t, channels: clock(t, channels, spread=channels),
        "These are only the cosines: half of the channels is missing.":
            lambda t, channels: clock(t, channels)[:, :channels // 2],
    }, tolerance=1e-3),
    "6.2": Exercise(lambda a, b, kernel: a * b * kernel**2 + b, lambda: [(4, 64, 3), (64, 128, 1), (128, 192, 3)], {
        "The bias is missing: one number for each output channel.": lambda a, b, kernel: a * b * kernel**2,
        "The filter is a square: kernel² numbers.": lambda a, b, kernel: a * b * kernel + b,
        "One bias for each *output* channel; you have one for each input channel.":
            lambda a, b, kernel: a * b * kernel**2 + a,
        "That is one filter. There is one for every output channel, each reading all input channels.":
            lambda a, b, kernel: a * kernel**2 + b,
    }),
    "6.3": Exercise(skip_channels, lambda: [((64, 128, 192), 1), ((320, 640, 1280, 1280), 2), ((32, 64), 3)], {
        "The very first skip is missing: what conv_in makes, widths[0] channels.":
            lambda widths, layers: skip_channels(widths, layers, first=False),
        "The halvings lay down a skip, too.": lambda widths, layers: skip_channels(widths, layers, halved=0),
        "One too many at the end: the last level is not halved.":
            lambda widths, layers: skip_channels(widths, layers, halved=len(widths)),
        "That is the order in which they are taken, last one first; wanted is the order in which they are laid down.":
            lambda widths, layers: skip_channels(widths, layers)[::-1],
    }),
    "6.4": Exercise(attend, attention_cases, {
        "The softmax goes along the wrong side: the weights that one *pixel* gives to all words must add up to 1.":
            lambda *arguments: attend(*arguments, axis=1),
        "Divide the scores by √d before the softmax, or it is too sharp.":
            lambda *arguments: attend(*arguments, power=0),
        "Divide by √d, not by d: scores grow with the root of d, since their products differ in sign.":
            lambda *arguments: attend(*arguments, power=1),
        "The softmax is missing: the scores must become weights that add up to 1.":
            lambda *arguments: attend(*arguments, axis=None),
        "Here the words ask and the pixels answer, so the result has a row for each word. Queries come from pixels.":
            words_ask,
    }),
    "6.5": Exercise(residual, residual_cases, {
        "The time is not bent: SiLU comes before its linear layer, too.":
            lambda *arguments: residual(*arguments, bend=lambda time: time),
        "The input is not added at the end: without it the block is not residual.":
            lambda *arguments: residual(*arguments, add=False),
        "The time is added too late: it belongs between conv1 and norm2.":
            lambda *arguments: residual(*arguments, where="end"),
        "The time is added after norm2; it belongs before, so that norm2 sees it.":
            lambda *arguments: residual(*arguments, where="after norm"),
        "The time is missing.": lambda *arguments: residual(*arguments, where="nowhere"),
    }),
}
