"""Checks for notebook 09, image-to-image."""

import math

import torch

from minisd.exercises import Exercise

TIMES = list(range(951, 0, -50))


def strength_cases() -> list[tuple]:
    return [(20, 0.4), (10, 0.37), (10, 0.33), (20, 1.0)]


def noise_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    alphas_cumprod = torch.linspace(0.999, 0.005, 1000)
    return [(torch.randn(1, 4, 4, 4, generator=generator), torch.randn(1, 4, 4, 4, generator=generator),
             alphas_cumprod, t) for t in (50, 400, 950)]


def noisy(z, noise, alphas_cumprod, t):
    return alphas_cumprod[t] ** 0.5 * z + (1 - alphas_cumprod[t]) ** 0.5 * noise


def step_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 4, 4, 4, generator=generator), torch.randn(1, 4, 4, 4, generator=generator), now, then)
            for now, then in ((0.99, 0.9), (0.6, 0.4), (0.1, 0.02))]


EXERCISES = {
    "9.1": Exercise(lambda steps, strength: int(steps * strength), strength_cases, {
        "Those are the steps that are left out.": lambda steps, strength: steps - int(steps * strength),
        "Rounded down: half a step cannot be run.": lambda steps, strength: steps * strength,
        "That is rounded to the nearest; diffusers and we round down.": lambda steps, strength: round(steps * strength),
        "That is rounded up; diffusers and we round down.": lambda steps, strength: math.ceil(steps * strength),
        "The times count to 1000, the steps do not: it is the part of `steps` that is run.":
            lambda steps, strength: int(1000 * strength),
    }),
    "9.2": Exercise(noisy, noise_cases, {
        "ᾱ is a share of the variance: take square roots.":
            lambda z, noise, a, t: a[t] * z + (1 - a[t]) * noise,
        "The weights have changed places: at small t the picture should stay almost as it is.":
            lambda z, noise, a, t: (1 - a[t]) ** 0.5 * z + a[t] ** 0.5 * noise,
        "The picture must shrink as the noise comes in, or the variance grows: √ᾱ goes with z.":
            lambda z, noise, a, t: z + (1 - a[t]) ** 0.5 * noise,
    }),
    "9.3": Exercise(lambda times, strength: times[len(times) - int(len(times) * strength):],
                    lambda: [(TIMES, 0.4), (TIMES, 0.75), (TIMES, 1.0)], {
        "Those are the noisiest ones. The loop begins in the middle and goes on to the end.":
            lambda times, strength: times[:int(len(times) * strength)],
        "Those are the times that are left out.":
            lambda times, strength: times[:len(times) - int(len(times) * strength)],
        "You leave out as many as should be run.": lambda times, strength: times[int(len(times) * strength):],
    }),
    "9.4": Exercise(lambda x0, noise, now, then: then**0.5 * x0 + (1 - then) ** 0.5 * noise, step_cases, {
        "That stays at `now`.": lambda x0, noise, now, then: now**0.5 * x0 + (1 - now) ** 0.5 * noise,
        "Noise of `now` with the picture of `then`: both weights belong to the time at which the step arrives.":
            lambda x0, noise, now, then: then**0.5 * x0 + (1 - now) ** 0.5 * noise,
        "ᾱ is a share of the variance: take square roots.":
            lambda x0, noise, now, then: then * x0 + (1 - then) * noise,
        "The weights have changed places: higher up there is less of the picture and more of the noise.":
            lambda x0, noise, now, then: (1 - then) ** 0.5 * x0 + then**0.5 * noise,
        "That is a step of notebook 01, with the found noise for dice. Nothing is to be added: x0 and noise are known, "
        "so mix them anew, as they are mixed at `then`.":
            lambda x0, noise, now, then: (then / now) ** 0.5 * (now**0.5 * x0 + (1 - now) ** 0.5 * noise)
            + (1 - then / now) ** 0.5 * noise,
    }),
}
