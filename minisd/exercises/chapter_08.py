"""Checks for notebook 08, guidance."""

import torch
from torch import Tensor

from minisd.exercises import Exercise


def draws(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def two_opinions() -> list[tuple]:
    reference, positive = draws((2, 4, 8, 8), (2, 4, 8, 8))
    return [(reference, positive, w) for w in (0.0, 2.0, 6.5)]


def guided(reference, positive, scale):
    return reference + scale * (positive - reference)


def jump(x, sigma, v):
    return x / (1 + sigma**2) - sigma / (1 + sigma**2) ** 0.5 * v


def noise_of(x, sigma, v):
    return (x - jump(x, sigma, v)) / sigma


def interval(sigmas: Tensor, scale: float, low: float, high: float) -> Tensor:
    inside = (sigmas > low) & (sigmas <= high)
    return torch.where(inside, torch.full_like(sigmas, scale), torch.ones_like(sigmas))


def intervals() -> list[tuple]:
    sigmas = torch.tensor([14.6, 9.7, 5.0, 3.5, 2.1, 1.3, 0.8, 0.28, 0.03])
    return [(sigmas, 7.5, 0.28, 5.0), (sigmas, 3.0, 1.0, 20.0)]


def wishes() -> list[tuple]:
    reference, predictions = draws((4, 8, 8), (3, 4, 8, 8))
    return [(reference, predictions, torch.tensor(scales)) for scales in ([3.0, 2.0, -1.0], [1.0, 0.5, 4.0])]


def pulls(reference: Tensor, predictions: Tensor, scales: Tensor) -> Tensor:
    """Each wish's scaled direction, (N, C, H, W)."""
    return scales.view(-1, 1, 1, 1) * (predictions - reference)


def rescaled(guided: Tensor, positive: Tensor, share: float) -> Tensor:
    wanted, found = (one.std(dim=(1, 2, 3), keepdim=True) for one in (positive, guided))
    return share * guided * wanted / found + (1 - share) * guided


def too_long() -> list[tuple]:
    positive, other = draws((3, 4, 8, 8), (3, 4, 8, 8))
    positive = positive * torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1, 1)
    return [(guided(other, positive, 7.5), positive, share) for share in (0.7, 0.2)]


EXERCISES = {
    "8.1": Exercise(lambda reference, positive, w: guided(reference, positive, 1 + w), two_opinions, {
        "You took w for the package's scale. Ho & Salimans's w = 0 is no guidance at all: that is scale 1.":
            guided,
        "Reference and positive have changed places: this goes away from the words.":
            lambda reference, positive, w: guided(positive, reference, 1 + w),
        "Sign: from (1 + w)·positive, w·reference has to be taken away.":
            lambda reference, positive, w: (1 + w) * positive + w * reference,
        "The scale is 1 + w, one more than w; yours is one less.":
            lambda reference, positive, w: guided(reference, positive, w - 1),
        "You start from the positive opinion and add 1 + w directions; from there it is only w.":
            lambda reference, positive, w: positive + (1 + w) * (positive - reference),
    }),
    "8.2": Exercise(jump, lambda: [(*draws((2, 4, 8, 8), (2, 4, 8, 8))[:1], sigma, draws((1,), (2, 4, 8, 8))[1])
                                   for sigma in (0.3, 1.6, 14.6)], {
        "You took v for noise. v = √ᾱ·noise - √(1 - ᾱ)·x0 holds a part of both: turn it into noise first.":
            lambda x, sigma, v: x - sigma * v,
        "That is the noise; x0 is what remains of x when σ times it is taken away.": noise_of,
        "x is in the spelling of added noise. The network saw x/√(1 + σ²), and the formula for v needs that.":
            lambda x, sigma, v: x / (1 + sigma**2) ** 0.5 - sigma / (1 + sigma**2) ** 0.5 * v,
        "Plus for minus: x0 = √ᾱ·x_t - √(1 - ᾱ)·v.":
            lambda x, sigma, v: x / (1 + sigma**2) + sigma / (1 + sigma**2) ** 0.5 * v,
    }),
    "8.3": Exercise(interval, intervals, {
        "Outside of the interval you have 0: that step would not hear the words at all. No guidance is scale 1.":
            lambda sigmas, scale, low, high: torch.where(interval(sigmas, scale, low, high) == scale, scale, 0.0),
        "Inside and outside have changed places.":
            lambda sigmas, scale, low, high: scale + 1 - interval(sigmas, scale, low, high),
        "At the borders: σ = high is still inside, σ = low is not.":
            lambda sigmas, scale, low, high: torch.where((sigmas >= low) & (sigmas < high), scale, 1.0),
        "At the borders: σ = low is no longer inside.":
            lambda sigmas, scale, low, high: torch.where((sigmas >= low) & (sigmas <= high), scale, 1.0),
        "At the borders: σ = high is inside.":
            lambda sigmas, scale, low, high: torch.where((sigmas > low) & (sigmas < high), scale, 1.0),
    }),
    "8.4": Exercise(lambda r, p, s: r + pulls(r, p, s).sum(dim=0), wishes, {
        "The directions add up; you took their mean, so every further wish weakens the others.":
            lambda r, p, s: r + pulls(r, p, s).mean(dim=0),
        "Each wish is a *direction*, prediction minus reference; you added the predictions themselves.":
            lambda r, p, s: r + (s.view(-1, 1, 1, 1) * p).sum(dim=0),
        "The reference itself is missing: the directions start from it.": lambda r, p, s: pulls(r, p, s).sum(dim=0),
        "You added the reference once for every wish; it counts once.":
            lambda r, p, s: (r + pulls(r, p, s)).sum(dim=0),
    }),
    "8.5": Exercise(rescaled, too_long, {
        "The mixture is the wrong way round: `share` belongs to the shrunk prediction.":
            lambda g, p, share: rescaled(g, p, 1 - share),
        "One standard deviation for the whole batch: each picture has its own, over its channels and places.":
            lambda g, p, share: share * g * p.std() / g.std() + (1 - share) * g,
        "That is the shrunk prediction alone; `share` of it is to be mixed with the rest of the unshrunk one.":
            lambda g, p, share: rescaled(g, p, 1.0),
        "The ratio is upside down: the guided prediction is too long, and this makes it longer.":
            lambda g, p, share: share * g**2 / rescaled(g, p, 1.0) + (1 - share) * g,
        "You mixed with the positive prediction; the other part is the guided one as it was.":
            lambda g, p, share: rescaled(g, p, 1.0) * share + (1 - share) * p,
        "One standard deviation for each channel would change colours: take it over channels, height and width.":
            lambda g, p, share: share * g * p.std((2, 3), keepdim=True) / g.std((2, 3), keepdim=True) + (1 - share) * g,
    }),
}
