"""Checks for notebook 02, DDPM."""

from itertools import pairwise

import torch
from torch import Tensor

from minisd.exercises import Exercise

# --- 2.1: black or white ----------------------------------------------------------------------------------------------

def pixel_cases() -> list[tuple]:
    x_t = 1.5 * torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    return [(x_t, alpha_cumprod) for alpha_cumprod in (0.8, 0.4, 0.05)]


def black_or_white(x_t, a):
    return torch.tanh(a**0.5 * x_t / (1 - a))


# --- 2.2 and 2.3: a step back -----------------------------------------------------------------------------------------

# now and before, the two ᾱ of a step
STEPS = ((0.5, 0.52), (0.1, 0.3), (0.9, 0.99))


def clean(x_t, noise, a):
    return (x_t - (1 - a) ** 0.5 * noise) / a**0.5


def mean_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    x_t, noise = torch.randn(2, 5, generator=generator), torch.randn(2, 5, generator=generator)
    return [(x_t, noise, now, before) for now, before in STEPS]


def posterior_mean(x_t, x0, now, before, weight=None):
    """`weight`: a wrong weight of x0, where √ᾱ_before belongs."""
    alpha, weight = now / before, before**0.5 if weight is None else weight
    return weight * (1 - alpha) / (1 - now) * x0 + alpha**0.5 * (1 - before) / (1 - now) * x_t


def variance(now, before):
    return (1 - now / before) * (1 - before) / (1 - now)


def mean(x_t, noise, now, before):
    return (x_t - (1 - now / before) / (1 - now) ** 0.5 * noise) / (now / before) ** 0.5


def old_noise(now, before):
    return (now / before) ** 0.5 * (1 - before) / (1 - now) ** 0.5


# --- 2.4: the best guess of the noise ---------------------------------------------------------------------------------

def noise_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(6, 4, generator=generator)
    return [(a**0.5 * data[2] + 0.3 * torch.randn(4, generator=generator), data, a) for a in (0.9, 0.4, 0.05)]


def vote(x_t: Tensor, data: Tensor, a: float, weight: float | None = None, half: bool = True,
         root: bool = False) -> Tensor:
    """The best estimate of x0; `weight`: a wrong one of the pictures, where √ᾱ belongs."""
    distances = (x_t - (a**0.5 if weight is None else weight) * data).square().sum(dim=1)
    return (-(distances.sqrt() if root else distances) / ((2 if half else 1) * (1 - a))).softmax(dim=0) @ data


def best_noise(x_t: Tensor, data: Tensor, a: float, **wrong) -> Tensor:
    return (x_t - a**0.5 * vote(x_t, data, a, **wrong)) / (1 - a) ** 0.5


def nearest_noise(x_t: Tensor, data: Tensor, a: float) -> Tensor:
    best = (x_t - a**0.5 * data).square().sum(dim=1).argmin()
    return (x_t - a**0.5 * data[best]) / (1 - a) ** 0.5


# --- 2.5: the sampler -------------------------------------------------------------------------------------------------

def sampler_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)

    def predict(x, t):
        """The perfect denoiser for data whose numbers are all -1 or 1."""
        a = alphas_cumprod[t]
        return (x - a.sqrt() * (a.sqrt() * x / (1 - a)).tanh()) / (1 - a).sqrt()

    return [(predict, alphas_cumprod, times, torch.randn(1 + len(times), 3, 2, generator=generator))
            for times in ([700, 550, 400, 150, 30], [500, 300, 100])]


def sampler(predict, alphas_cumprod, times, dice, spread=lambda now, before: variance(now, before) ** 0.5,
            start: int = 1, ask_late: bool = False, guess=clean, weight=None):
    """`spread`: the factor on the random numbers; `start`: the index of the first step's; `guess` and `weight`: x0 and
    its weight."""
    x = dice[0]
    for k, t in enumerate(times):
        last = k + 1 == len(times)
        now, before = alphas_cumprod[t], torch.ones(()) if last else alphas_cumprod[times[k + 1]]
        noise = predict(x, t if not ask_late else 0 if last else times[k + 1])
        mean = posterior_mean(x, guess(x, noise, now), now, before, weight and weight(now, before))
        x = mean + spread(now, before) * dice[(k + start) % len(dice)]
    return x


def undivided(x_t, noise, a):
    """x0 that is not divided by √ᾱ."""
    return x_t - (1 - a) ** 0.5 * noise


def unrooted(x_t, noise, a):
    """x0 if the weight of the noise lacked its square root."""
    return (x_t - (1 - a) * noise) / a**0.5


def noisy_end(predict, alphas_cumprod, times, dice):
    """The last step ends at the last of the times, not at the clean picture."""
    x = dice[0]
    for k, (t, s) in enumerate(pairwise(times)):
        now, before = alphas_cumprod[t], alphas_cumprod[s]
        x = posterior_mean(x, clean(x, predict(x, t), now), now, before) + variance(now, before) ** 0.5 * dice[k + 1]
    return x


def jump(predict, alphas_cumprod, times, dice):
    return clean(dice[0], predict(dice[0], times[0]), alphas_cumprod[times[0]])


EXERCISES = {
    "2.1": Exercise(black_or_white, pixel_cases, {
        "That is the winner alone. The other voter has some weight, too; the guess is their mean.":
            lambda x, a: torch.sign(x),
        "That is how likely white is, from 0 to 1. The guess is the mean of -1 and 1 with such weights.":
            lambda x, a: torch.sigmoid(2 * a**0.5 * x / (1 - a)),
        "(x-√ᾱ)² and (x+√ᾱ)² differ by 4√ᾱx. Divided by 2(1-ᾱ) that makes 2√ᾱx/(1-ᾱ), and the half of it for tanh; "
        "you have another factor.": lambda x, a: torch.tanh(a**0.5 * x / (2 * (1 - a))),
        "You have twice too much: a Gaussian's exponent is the squared distance over *twice* the variance.":
            lambda x, a: torch.tanh(2 * a**0.5 * x / (1 - a)),
        "The two voters are not at -1 and 1 but at -√ᾱ and √ᾱ when x_t is seen: the pixel was shrunk.":
            lambda x, a: torch.tanh(x / (1 - a)),
        "The pixel was shrunk by √ᾱ, not by ᾱ.": lambda x, a: torch.tanh(a * x / (1 - a)),
        "The Gaussian's variance is 1-ᾱ; you divided by its root.":
            lambda x, a: torch.tanh(a**0.5 * x / (1 - a) ** 0.5),
        "The variance 1-ᾱ is missing: the noisier x_t is, the less it says.": lambda x, a: torch.tanh(a**0.5 * x),
        "That undoes the shrinking and no more. Only -1 and 1 were possible: let the two vote.":
            lambda x, a: x / a**0.5,
        "That is the noise that the right guess means. What is asked for is the guess of x0.":
            lambda x, a: (x - a**0.5 * black_or_white(x, a)) / (1 - a) ** 0.5,
    }),
    "2.2": Exercise(mean, mean_cases, {
        "You put the noise where section 3 has x0. First make x0 of it, by the formula of section 5.": posterior_mean,
        "That is x0 with the noise level of before, x_t forgotten: the jump of section 1, made smaller.":
            lambda x_t, noise, now, before: before**0.5 * clean(x_t, noise, now),
        "To get x0, what is left of x_t must be divided by √ᾱ_now.":
            lambda x_t, noise, now, before: posterior_mean(x_t, undivided(x_t, noise, now), now, before),
        "Before x0 stands √ᾱ_before, of the time where the step ends; you have √ᾱ_now.":
            lambda x_t, noise, now, before: posterior_mean(x_t, clean(x_t, noise, now), now, before, now**0.5),
        "Before x0 stands √ᾱ_before; the square root is missing.":
            lambda x_t, noise, now, before: posterior_mean(x_t, clean(x_t, noise, now), now, before, before),
        "In x0 the noise has the weight √(1-ᾱ_now); the square root is missing.":
            lambda x_t, noise, now, before: posterior_mean(x_t, unrooted(x_t, noise, now), now, before),
        "x0 comes from all the noise in x_t, so from ᾱ_now; you have α, the share of a single step.":
            lambda x_t, noise, now, before: posterior_mean(x_t, clean(x_t, noise, now / before), now, before),
        "What remains must be divided by √α, with α = ᾱ_now / ᾱ_before.":
            lambda x_t, noise, now, before: x_t - (1 - now / before) / (1 - now) ** 0.5 * noise,
        "The noise has the weight (1-α) / √(1-ᾱ_now): you have ᾱ_before there, which is of the other time.":
            lambda x_t, noise, now, before: (x_t - (1 - now / before) / (1 - before) ** 0.5 * noise)
            / (now / before) ** 0.5,
        "The noise has the weight (1-α) / √(1-ᾱ_now); the square root in the denominator is missing.":
            lambda x_t, noise, now, before: (x_t - (1 - now / before) / (1 - now) * noise) / (now / before) ** 0.5,
        "That takes √(1-α) of the noise away, as if this step's noise could be told from all that was there before.":
            lambda x_t, noise, now, before: (x_t - (1 - now / before) ** 0.5 * noise) / (now / before) ** 0.5,
    }),
    "2.3": Exercise(old_noise, lambda: list(STEPS), {
        "That much noise is due at the time of before. The mean keeps less, so that fresh noise finds room.":
            lambda now, before: (1 - before) ** 0.5,
        "That is the *fresh* noise, √β̃; what is asked for is the old noise that is left.":
            lambda now, before: variance(now, before) ** 0.5,
        "That is the weight of x_t. The noise in x_t has itself the weight √(1-ᾱ_now).":
            lambda now, before: (now / before) ** 0.5 * (1 - before) / (1 - now),
        "√α is missing: x_t comes with √α, the square root of ᾱ_now / ᾱ_before.":
            lambda now, before: (1 - before) / (1 - now) ** 0.5,
        "That is c²; the square root is missing.": lambda now, before: old_noise(now, before) ** 2,
        "√α is the square root of ᾱ_now / ᾱ_before; you have α itself.":
            lambda now, before: now / before * (1 - before) / (1 - now) ** 0.5,
        "That holds if no fresh noise came: take β̃ off the 1-ᾱ_before that is due, not off 1-ᾱ_now.":
            lambda now, before: (1 - now - variance(now, before)) ** 0.5,
        "*Variances* add up. You took the fresh standard deviation off the one that is due.":
            lambda now, before: (1 - before) ** 0.5 - variance(now, before) ** 0.5,
    }),
    "2.4": Exercise(best_noise, noise_cases, {
        "That is the best guess of x0. Which noise does it mean?": vote,
        "x_t is near √ᾱ times a picture, not near the picture: scale the data where you measure distances.":
            lambda x_t, data, a: best_noise(x_t, data, a, weight=1.0),
        "A Gaussian's exponent is the squared distance over *twice* the variance.":
            lambda x_t, data, a: best_noise(x_t, data, a, half=False),
        "The distance must be squared.": lambda x_t, data, a: best_noise(x_t, data, a, root=True),
        "That is the noise if the nearest picture was it. The others have a vote, too.": nearest_noise,
        "The guess of x0 comes off x_t with its weight, √ᾱ.":
            lambda x_t, data, a: (x_t - vote(x_t, data, a)) / (1 - a) ** 0.5,
        "√ᾱ, not ᾱ, is what the pictures are multiplied by.":
            lambda x_t, data, a: best_noise(x_t, data, a, weight=a),
        "What remains is √(1-ᾱ) times the noise: divide by its root.":
            lambda x_t, data, a: (x_t - a**0.5 * vote(x_t, data, a)) / (1 - a),
        "What remains is √(1-ᾱ) times the noise: divide by that.":
            lambda x_t, data, a: x_t - a**0.5 * vote(x_t, data, a),
    }),
    "2.5": Exercise(sampler, sampler_cases, {
        "No fresh noise: all that you draw will end at one place (section 7).":
            lambda p, a, times, dice: sampler(p, a, times, dice, lambda now, before: 0.0),
        "The dice are multiplied by the standard deviation, the square root of the variance.":
            lambda p, a, times, dice: sampler(p, a, times, dice, variance),
        "To get x0, what is left of x must be divided by √ᾱ_now.":
            lambda p, a, times, dice: sampler(p, a, times, dice, guess=undivided),
        "In x0 the noise has the weight √(1-ᾱ_now); the square root is missing.":
            lambda p, a, times, dice: sampler(p, a, times, dice, guess=unrooted),
        "Before x0 stands √ᾱ_before, of the time where the step ends; you have √ᾱ_now (section 7's bug).":
            lambda p, a, times, dice: sampler(p, a, times, dice, weight=lambda now, before: now**0.5),
        "That is β = 1-α for the variance, where section 3 has β̃; in the last step β̃ is zero, and β is not.":
            lambda p, a, times, dice: sampler(p, a, times, dice, lambda now, before: (1 - now / before) ** 0.5),
        "That ends at the last of the times, where there is still noise. One step more, to ᾱ = 1.": noisy_end,
        "dice[0] is what you begin with; the first step's fresh noise is dice[1].":
            lambda p, a, times, dice: sampler(p, a, times, dice, start=0),
        "Ask the network about the time where x is, t, not about the one where it goes.":
            lambda p, a, times, dice: sampler(p, a, times, dice, ask_late=True),
        "That is one jump from noise to x0, section 1's mistake.": jump,
    }),
}
