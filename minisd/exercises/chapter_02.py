"""Checks of notebook 02, DDPM."""

import torch
from torch import Tensor

from minisd.exercises import Exercise


def clean_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    x_t, noise = torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 3, 4, 4, generator=generator)
    return [(x_t, noise, alpha_cumprod) for alpha_cumprod in (0.95, 0.5, 0.1)]


def clean(x_t, noise, a):
    return (x_t - (1 - a) ** 0.5 * noise) / a**0.5


def variance(now, before):
    return (1 - now / before) * (1 - before) / (1 - now)


def mean(x_t, x0, now, before):
    alpha = now / before
    return before**0.5 * (1 - alpha) / (1 - now) * x0 + alpha**0.5 * (1 - before) / (1 - now) * x_t


def mean_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    x_t, x0 = torch.randn(2, 5, generator=generator), torch.randn(2, 5, generator=generator)
    return [(x_t, x0, now, before) for now, before in ((0.5, 0.52), (0.1, 0.3), (0.9, 0.99))]


def weight_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(6, 4, generator=generator)
    return [(a**0.5 * data[2] + 0.3 * torch.randn(4, generator=generator), data, a) for a in (0.9, 0.4, 0.05)]


def weights(x_t: Tensor, data: Tensor, a: float, scaled: bool = True, half: bool = True, root: bool = False) -> Tensor:
    distances = (x_t - (a**0.5 if scaled else 1) * data).square().sum(dim=1)
    return (-(distances.sqrt() if root else distances) / ((2 if half else 1) * (1 - a))).softmax(dim=0)


EXERCISES = {
    "2.1": Exercise(clean, clean_cases, {
        "Solve for x0 to the end: what remains must be divided by √ᾱ.":
            lambda x_t, noise, a: x_t - (1 - a) ** 0.5 * noise,
        "The noise comes with the weight √(1-ᾱ), the square root.":
            lambda x_t, noise, a: (x_t - (1 - a) * noise) / a**0.5,
        "The noise was *added*, so subtract it.": lambda x_t, noise, a: (x_t + (1 - a) ** 0.5 * noise) / a**0.5,
        "That takes away the noise at full strength, though x_t holds only √(1-ᾱ) of it.":
            lambda x_t, noise, a: (x_t - noise) / a**0.5,
    }),
    "2.2": Exercise(mean, mean_cases, {
        "The two weights have changed places: with little noise left, x_t must count nearly fully.":
            lambda x_t, x0, now, before: mean(x0, x_t, now, before),
        "That forgets x_t: x0 is a guess, and to jump there at once is section 1's mistake.":
            lambda x_t, x0, now, before: before**0.5 * x0,
        "The weight of x0 holds √ᾱ of the *earlier* (cleaner) time, not of now.":
            lambda x_t, x0, now, before: mean(x_t, x0 * (now / before) ** 0.5, now, before),
        "x_t comes with √α, the square root of ᾱ_now / ᾱ_before.":
            lambda x_t, x0, now, before: mean(x_t * (now / before) ** 0.5, x0, now, before),
    }),
    "2.3": Exercise(variance, lambda: [(0.5, 0.52), (0.1, 0.3), (0.9, 0.99)], {
        "That is β, the variance of the step *towards* noise; on the way back x0 is known, too, so less is uncertain.":
            lambda now, before: 1 - now / before,
        "That is the standard deviation; the variance is its square.": lambda now, before: variance(now, before) ** 0.5,
        "The fraction is upside down: it is (1-ᾱ_before) / (1-ᾱ_now), below one.":
            lambda now, before: (1 - now / before) * (1 - now) / (1 - before),
    }),
    "2.4": Exercise(weights, weight_cases, {
        "x_t is near √ᾱ times a picture, not near the picture: scale the data first.":
            lambda x_t, data, a: weights(x_t, data, a, scaled=False),
        "A Gaussian's exponent is the squared distance over *twice* the variance.":
            lambda x_t, data, a: weights(x_t, data, a, half=False),
        "The distance must be squared.": lambda x_t, data, a: weights(x_t, data, a, root=True),
        "Right, but not yet divided by their sum: weights must add up to 1.": lambda x_t, data, a: torch.exp(
            -(x_t - a**0.5 * data).square().sum(dim=1) / (2 * (1 - a))),
    }),
}
