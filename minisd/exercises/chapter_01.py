"""Checks for notebook 01, noise."""

import torch
from torch import Tensor

from minisd.exercises import Exercise
from minisd.schedulers.schedule import make_betas, zero_terminal_snr

SCHEDULES = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "squaredcos_cap_v2": (0, 0)}


def all_betas() -> list[Tensor]:
    return [make_betas(name, *ends, 1000) for name, ends in SCHEDULES.items()]


def noise_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1, torch.randn(2, 3, 8, 8, generator=generator)
    return [(x0, noise, alpha_cumprod) for alpha_cumprod in (0.99, 0.5, 0.1, 0.0047)]


def add_noise(x0, noise, alpha_cumprod):
    return alpha_cumprod**0.5 * x0 + (1 - alpha_cumprod) ** 0.5 * noise


def betas_of(alphas_cumprod: Tensor) -> Tensor:
    before = torch.cat([torch.ones(1), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before


def jump_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    x_s, noise = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 3, 8, 8, generator=generator)
    return [(x_s, noise, a_s, a_t) for a_s, a_t in ((0.99, 0.5), (0.5, 0.1), (0.3, 0.0047))]


def jump(x_s, noise, a_s, a_t):
    return add_noise(x_s, noise, a_t / a_s)


def shifted(betas: Tensor, scaled: bool, rooted: bool) -> Tensor:
    """zero_terminal_snr with one of its two ideas left out."""
    curve = torch.cumprod(1 - betas, dim=0)
    curve = curve.sqrt() if rooted else curve
    curve = (curve - curve[-1]) * (curve[0] / (curve[0] - curve[-1]) if scaled else 1)
    return betas_of(curve**2 if rooted else curve)


def last_beta_one(betas: Tensor) -> Tensor:
    return torch.cat([betas[:-1], torch.ones(1)])


EXERCISES = {
    "1.1": Exercise(add_noise, noise_cases, {
        "The weights need their square roots: it is the *squares* of the two that must add up to one.":
            lambda x0, noise, a: a * x0 + (1 - a) * noise,
        "Picture and noise have changed places: at ᾱ = 0.99 there should be almost no noise.":
            lambda x0, noise, a: (1 - a) ** 0.5 * x0 + a**0.5 * noise,
        "The noise is not scaled: it should be √(1 - ᾱ)·noise.": lambda x0, noise, a: a**0.5 * x0 + noise,
        "The weight of the noise is √(1 - ᾱ), the root of what is left; you took 1 - √ᾱ.":
            lambda x0, noise, a: a**0.5 * x0 + (1 - a**0.5) * noise,
    }),
    "1.2": Exercise(lambda sigma: 1 / (1 + sigma**2), lambda: [(0.03,), (0.5,), (1.0,), (3.0,), (14.6,)], {
        "Nearly: σ is a standard deviation, and ᾱ speaks of variances, so square it.": lambda sigma: 1 / (1 + sigma),
        "That is 1 - ᾱ, the share of the noise: with σ = 0 it would be 0, and ᾱ must then be 1.":
            lambda sigma: sigma**2 / (1 + sigma**2),
        "That is √ᾱ, what the picture is multiplied by; square it.": lambda sigma: (1 + sigma**2) ** -0.5,
        "That is the signal-to-noise ratio 1/σ², which grows without bound; ᾱ ends at 1.": lambda sigma: sigma**-2,
    }),
    "1.3": Exercise(jump, jump_cases, {
        "That would be the leap from the clean picture. What lies before s is in x_s already; only ᾱ_t/ᾱ_s is to come.":
            lambda x, noise, a_s, a_t: add_noise(x, noise, a_t),
        "The picture's weight is right, the noise is too much: x_s brings some along, so what is missing to 1 is "
        "1 - ᾱ_t/ᾱ_s.": lambda x, noise, a_s, a_t: (a_t / a_s) ** 0.5 * x + (1 - a_t) ** 0.5 * noise,
        "The picture's weight is right, the noise is too little: the jump also shrinks the noise that was there. The "
        "squares of the two weights add up to one.":
            lambda x, noise, a_s, a_t: (a_t / a_s) ** 0.5 * x + (a_s - a_t) ** 0.5 * noise,
        "The ratio is right; the weights need their square roots.":
            lambda x, noise, a_s, a_t: a_t / a_s * x + (1 - a_t / a_s) * noise,
        "Steps multiply: what is still to come is the ratio ᾱ_t/ᾱ_s, not a difference.":
            lambda x, noise, a_s, a_t: add_noise(x, noise, 1 - (a_s - a_t)),
    }),
    "1.4": Exercise(betas_of, lambda: [(torch.cumprod(1 - betas, dim=0),) for betas in all_betas()], {
        "The ratio ᾱ_t / ᾱ_(t-1) is α_t; β_t is what is missing from it to 1.": lambda a: 1 - betas_of(a),
        "One β is missing: the first step has one, too, from ᾱ = 1 (nothing happened yet) to ᾱ_0.":
            lambda a: betas_of(a)[1:],
        "Steps multiply, so take the ratio ᾱ_t / ᾱ_(t-1), not the difference.":
            lambda a: torch.cat([torch.ones(1), a[:-1]]) - a,
        "Shifted by one: β_t belongs to the step that *arrives* at t.": lambda a: betas_of(a).roll(-1),
    }, tolerance=1e-5),
    "1.5": Exercise(zero_terminal_snr, lambda: [(betas,) for betas in all_betas()[:2]], {
        "The end is right, but the beginning has moved, too: after the shift, stretch √ᾱ so that its first value is "
        "what it was.": lambda betas: shifted(betas, scaled=False, rooted=True),
        "You stretched ᾱ; Lin et al. stretch √ᾱ, the weight of the picture itself.":
            lambda betas: shifted(betas, scaled=True, rooted=False),
        "Setting the last β to 1 does end in pure noise, but with a jump in the very last step: spread it over all.":
            last_beta_one,
        "This is the stretched √ᾱ; the function should return betas.":
            lambda betas: torch.cumprod(1 - zero_terminal_snr(betas), dim=0).sqrt(),
    }, tolerance=1e-4),
}
