"""Checks for notebook 07, training."""

import torch
from torch import Tensor

from minisd.exercises import Exercise


def mixture_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.rand(3, 4, 4, 4, generator=generator) * 2 - 1, torch.randn(3, 4, 4, 4, generator=generator)
    return [(x0, noise, alpha_cumprod) for alpha_cumprod in (0.9, 0.5, 0.05)]


def velocity(x0, noise, a):
    return a**0.5 * noise - (1 - a) ** 0.5 * x0


def min_snr_weight(a: Tensor, gamma: float) -> Tensor:
    snr = a / (1 - a)
    return snr.clamp(max=gamma) / (snr + 1)


def dropout_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    context, empty = torch.randn(6, 5, 3, generator=generator), torch.randn(1, 5, 3, generator=generator)
    return [(context, empty, torch.tensor([0.05, 0.5, 0.95, 0.09, 0.1, 0.7]), 0.1),
            (context, empty, torch.rand(6, generator=generator), 0.6)]


def drop(context, empty, random, share):
    return torch.where(random[:, None, None] < share, empty, context)


EXERCISES = {
    "7.1": Exercise(velocity, mixture_cases, {
        "The sign is turned: v = √ᾱ·noise - √(1-ᾱ)·x0.": lambda x0, noise, a: -velocity(x0, noise, a),
        "The weights have changed places: √ᾱ goes with the noise here.":
            lambda x0, noise, a: (1 - a) ** 0.5 * noise - a**0.5 * x0,
        "That is x_t itself; the velocity is what stands at a right angle to it.":
            lambda x0, noise, a: a**0.5 * x0 + (1 - a) ** 0.5 * noise,
        "That is the noise, the ε-target.": lambda x0, noise, a: noise,
    }),
    "7.2": Exercise(min_snr_weight, lambda: [(torch.linspace(0.999, 0.005, 50), gamma) for gamma in (1.0, 5.0)], {
        "That is the weight for predicting x0; for v divide by SNR + 1.":
            lambda a, gamma: (a / (1 - a)).clamp(max=gamma),
        "That is the weight for predicting noise; for v divide by SNR + 1, not by SNR.":
            lambda a, gamma: (a / (1 - a)).clamp(max=gamma) / (a / (1 - a)),
        "You cut off at γ from below; it is the *smaller* of SNR and γ that counts.":
            lambda a, gamma: (a / (1 - a)).clamp(min=gamma) / (a / (1 - a) + 1),
        "You used ᾱ for the SNR; it is ᾱ / (1 - ᾱ).": lambda a, gamma: a.clamp(max=gamma) / (a + 1),
    }),
    "7.3": Exercise(lambda average, weight, decay: decay * average + (1 - decay) * weight,
                    lambda: [(torch.zeros(3), torch.ones(3), 0.999), (torch.ones(2), torch.tensor([3.0, -1.0]), 0.9)], {
        "The other way round: decay is the part of the *average* that is kept.":
            lambda average, weight, decay: (1 - decay) * average + decay * weight,
        "The weights must be scaled by 1 - decay, or the average grows without end.":
            lambda average, weight, decay: decay * average + weight,
        "That forgets the past: it is the plain mean of the two.":
            lambda average, weight, decay: (average + weight) / 2,
    }),
    "7.4": Exercise(drop, dropout_cases, {
        "Turned round: captions should be empty where the random number is *below* the share.":
            lambda context, empty, random, share: drop(empty, context, random, share),
        "Zeros are not the empty caption: put in what the text encoder says of \"\".":
            lambda context, empty, random, share: drop(context, torch.zeros_like(empty), random, share),
        "Ordinary dropout scales single numbers; here a whole caption is there or not.":
            lambda context, empty, random, share: context * (1 - share),
    }),
    "7.5": Exercise(lambda gpus, hours: hours / gpus / 24, lambda: [(256, 150_000), (8, 1_000)], {
        "That is hours; a day has 24.": lambda gpus, hours: hours / gpus,
        "All cards work at the same time: divide by their number.": lambda gpus, hours: hours / 24,
        "GPU hours are already those of all cards together; divide by their number.":
            lambda gpus, hours: hours * gpus / 24,
    }),
}
