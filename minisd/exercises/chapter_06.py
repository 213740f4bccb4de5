"""Checks for notebook 06, the U-Net."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minisd.blocks import ResidualBlock
from minisd.exercises import Exercise


def likeness(difference: Tensor, channels: int, spread: int | None = None, wave=torch.cos) -> Tensor:
    """The cosine of the angle between two clocks; spread: the divisor of the exponents, half of the channels."""
    half = channels // 2
    angles = difference[:, None].float() * 10_000 ** (-torch.arange(half) / (spread or half))
    return wave(angles).mean(dim=1)


def block_parameters(a: int, b: int, time: int, *, norms: bool = True, biases: int = 1, timed: bool = True,
                     shortcut: str = "if needed", kernel: int = 1) -> int:
    """shortcut: "if needed", "always" or "never"; kernel: of the shortcut."""
    count = 9 * a * b + 9 * b * b + 2 * b * biases
    count += 2 * a + 2 * b if norms else 0
    count += time * b + b * biases if timed else 0
    if shortcut == "always" or (shortcut == "if needed" and a != b):
        count += kernel**2 * a * b + b * biases
    return count


def side_seen(strides: list[int]) -> int:
    side = jump = 1
    for stride in strides:
        side += 2 * jump
        jump *= stride
    return side


def stride_counts_at_once(strides: list[int]) -> int:
    side = jump = 1
    for stride in strides:
        jump *= stride
        side += 2 * jump
    return side


def doubled_each_time(strides: list[int]) -> int:
    """What was seen so far grows with the stride: the way from the input to the output, not back."""
    side = 1
    for stride in strides:
        side = side * stride + 2
    return side


def last_stride_only(strides: list[int]) -> int:
    """Each layer steps as far as the one before it, as if strides did not multiply."""
    return 1 + sum(2 * before for before in [1, *strides[:-1]])


def attend(pixels, words, to_q, to_k, to_v, lengths, *, axis: int | None = -1, power: float = 0.5,
           mask: str = "before", longer: int = 0):
    """axis: of the softmax, None for no softmax. power: the scores are divided by d to this power. mask: "before" the
    softmax, "after" it, with "zeros", or "no". longer: by how much lengths are read too long."""
    q, k, v = pixels @ to_q, words @ to_k, words @ to_v
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** power                             # (B, N, M)
    padding = (torch.arange(words.shape[1]) >= lengths[:, None] + longer)[:, None]    # (B, 1, M)
    if mask in ("before", "zeros"):
        scores = scores.masked_fill(padding, 0 if mask == "zeros" or axis is None else -torch.inf)
    shares = scores if axis is None else scores.softmax(dim=axis)
    return (shares.masked_fill(padding, 0) if mask == "after" else shares) @ v


def only_padding(pixels, words, to_q, to_k, to_v, lengths):
    """The mask turned round."""
    q, k, v = pixels @ to_q, words @ to_k, words @ to_v
    words_ = (torch.arange(words.shape[1]) < lengths[:, None])[:, None]
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(words_, -torch.inf).softmax(dim=-1) @ v


def words_ask(pixels, words, to_q, to_k, to_v, lengths):
    """The words ask and the pixels answer: the wrong way round."""
    q, k = pixels @ to_q, words @ to_k
    return (k @ q.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ q


def attention_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [(*(torch.randn(*shape, generator=generator) for shape in
               ((2, pixels, 12), (2, tokens, 10), (12, 8), (10, 8), (10, 8))), torch.tensor(lengths))
            for pixels, tokens, lengths in ((9, 5, (3, 5)), (16, 7, (2, 4)))]


class Parts:
    """A residual block's parts under their names, which cannot be called as a whole."""

    def __init__(self, block: ResidualBlock):
        for name in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"):
            setattr(self, name, getattr(block, name))

    def __call__(self, *given):
        raise TypeError("the block cannot be called as a whole here; put it together from its parts")

    forward = __call__


def residual_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for channels in (8, 12):  # one with an identity shortcut, and one with a convolution
        with torch.random.fork_rng(devices=[]):
            block = ResidualBlock(8, channels, groups=4, eps=1e-5, time_channels=16).requires_grad_(False)
        for p in block.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        x, time = torch.randn(2, 8, 6, 6, generator=generator), torch.randn(2, 16, generator=generator)
        cases.append((Parts(block), x, time))
    return cases


def residual(block, x, time, *, bend=F.silu, where: str = "between", add: bool = True, active=F.silu):
    """The block from its parts; where: at which point the time is added; active: between norms and convolutions."""
    shift = block.time_emb_proj(bend(time))[:, :, None, None]
    h = block.conv1(active(block.norm1(x)))
    h = h + shift if where == "between" else h
    h = block.norm2(h)
    h = active(h + shift if where == "after norm" else h)
    h = block.conv2(h)
    h = h + shift if where == "end" else h
    return h + (x if block.conv_shortcut is None else block.conv_shortcut(x)) if add else h


EXERCISES = {
    "6.1": Exercise(likeness, lambda: [(torch.tensor([0, 1, 40, 500, -500]), 64), (torch.arange(7), 6)], {
        "That is the sum; the angle does not care how long the clocks are. What is the length of a clock with so many "
        "hands?": lambda difference, channels: likeness(difference, channels) * (channels // 2),
        "Divide by the number of *hands*: cosine² + sine² of each hand is 1, so a clock's square is channels / 2.":
            lambda difference, channels: likeness(difference, channels) / 2,
        "A clock is like itself: at a difference of 0 the likeness is 1. Cosines, not sines, of the difference.":
            lambda difference, channels: likeness(difference, channels, wave=torch.sin),
        "The exponent runs to the half of the channels: -i / half. You divided by half - 1.":
            lambda difference, channels: likeness(difference, channels, spread=channels // 2 - 1),
        "The frequencies fall too slowly: there are channels / 2 of them, so divide i by that, not by channels.":
            lambda difference, channels: likeness(difference, channels, spread=channels),
        "These are the products hand by hand; take their mean.":
            lambda difference, channels: (difference[:, None].float() * 10_000 ** (
                -torch.arange(channels // 2) / (channels // 2))).cos(),
        "The likeness is the cosine itself, not the angle.":
            lambda difference, channels: likeness(difference, channels).clamp(-1, 1).acos(),
    }, tolerance=1e-3),
    "6.2": Exercise(block_parameters, lambda: [(64, 64, 256), (64, 128, 256), (320, 640, 1280)], {
        "The group norms have parameters, too: a scale and a shift for each channel that they are given.":
            lambda *sizes: block_parameters(*sizes, norms=False),
        "The biases are missing: each convolution, and the linear layer of the time, has one number an output channel.":
            lambda *sizes: block_parameters(*sizes, biases=0),
        "The time is missing: a linear layer from time_channels to out_channels, with its bias.":
            lambda *sizes: block_parameters(*sizes, timed=False),
        "Where the channels change, the shortcut is a 1×1 convolution; you left it out.":
            lambda *sizes: block_parameters(*sizes, shortcut="never"),
        "Where the channels do not change, there is no shortcut convolution.":
            lambda *sizes: block_parameters(*sizes, shortcut="always"),
        "The shortcut's filter is 1×1: it looks at no neighbours.": lambda *sizes: block_parameters(*sizes, kernel=3),
        "The second convolution goes from out_channels to out_channels.":
            lambda a, b, time: block_parameters(a, b, time) + 9 * (a - b) * b,
        "norm1 is given the input's channels, norm2 the output's.":
            lambda a, b, time: block_parameters(a, b, time) + 2 * (b - a),
    }),
    "6.3": Exercise(side_seen, lambda: [([1, 1, 1],), ([2, 1],), ([1, 1, 2, 1, 2, 1],), ([2, 2, 2],)], {
        "Each layer adds two pixels of its own input; behind a stride of 2 these lie two pixels of the picture apart.":
            lambda strides: 1 + 2 * len(strides),
        "A layer's own stride does not yet count for itself: it moves the filter, but its three pixels are neighbours.":
            stride_counts_at_once,
        "Strides multiply: behind two halvings a pixel is four wide.": last_stride_only,
        "You went from the picture to the output; go back from one pixel of the output, or keep account of how far "
        "apart neighbours lie.": doubled_each_time,
        "A 3×3 filter looks one pixel to *both* sides: two more a layer.":
            lambda strides: 1 + (side_seen(strides) - 1) // 2,
        "One pixel more: the one in the middle sees itself.": lambda strides: side_seen(strides) - 1,
        "That is the number of pixels; asked is the side of the square.": lambda strides: side_seen(strides) ** 2,
    }),
    "6.4": Exercise(attend, attention_cases, {
        "The padding is heard, too: hide the positions from `lengths` on.": lambda *given: attend(*given, mask="no"),
        "The mask is turned round: you hide the words and listen to the padding.": only_padding,
        "You masked after the softmax, so the shares of a pixel no longer add up to 1: mask the scores, with -inf.":
            lambda *given: attend(*given, mask="after"),
        "A score of 0 is not “nothing”: the softmax still gives it a share. Hidden scores must be -inf.":
            lambda *given: attend(*given, mask="zeros"),
        "One position too many is heard: positions count from 0, so a text of length 3 has 0, 1 and 2.":
            lambda *given: attend(*given, longer=1),
        "The softmax goes along the wrong side: the weights that one *pixel* gives to all words must add up to 1.":
            lambda *given: attend(*given, axis=1, mask="after"),
        "Divide the scores by √d before the softmax, or it is too sharp.": lambda *given: attend(*given, power=0),
        "Divide by √d, not by d: scores grow with the root of d, since their products differ in sign.":
            lambda *given: attend(*given, power=1),
        "The softmax is missing: the scores must become weights that add up to 1.":
            lambda *given: attend(*given, axis=None),
        "Here the words ask and the pixels answer, so the result has a row for each word. Queries come from pixels.":
            words_ask,
    }),
    "6.5": Exercise(residual, residual_cases, {
        "The time is not bent: SiLU comes before its linear layer, too.":
            lambda *given: residual(*given, bend=lambda time: time),
        "The input is not added at the end: without it the block is not residual.":
            lambda *given: residual(*given, add=False),
        "The time is added too late: it belongs between conv1 and norm2.": lambda *given: residual(*given, where="end"),
        "The time is added after norm2; it belongs before, so that norm2 sees it.":
            lambda *given: residual(*given, where="after norm"),
        "The time is missing.": lambda *given: residual(*given, where="nowhere"),
        "SiLU is missing between norms and convolutions: without a bend two convolutions are no more than one.":
            lambda *given: residual(*given, active=lambda x: x),
        "That is ReLU; the published weights were trained with SiLU.": lambda *given: residual(*given, active=F.relu),
    }),
}
