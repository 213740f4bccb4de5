"""Checks for notebook 01, noise."""

import torch
from torch import Tensor

from minisd.exercises import Exercise
from minisd.schedulers.schedule import make_betas, zero_terminal_snr

SCHEDULES = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "squaredcos_cap_v2": (0, 0)}


def all_betas() -> list[Tensor]:
    return [make_betas(name, *ends, 1000) for name, ends in SCHEDULES.items()]


# --- 1.1: the time of a noise level -----------------------------------------------------------------------------------

def level_cases() -> list[tuple]:
    curves = [torch.cumprod(1 - betas, dim=0) for betas in all_betas()]
    return [(0.5, curves[0]), (1.0, curves[1]), (3.0, curves[1]), (10.0, curves[2])]


def time_of(sigma: float, alphas_cumprod: Tensor, measure=lambda a: ((1 - a) / a).sqrt()) -> int:
    """The first time at which the measure, which rises, has reached sigma."""
    return int((measure(alphas_cumprod.double()) < sigma).sum())


def nearest_time(sigma: float, alphas_cumprod: Tensor) -> int:
    return int((((1 - alphas_cumprod) / alphas_cumprod).sqrt() - sigma).abs().argmin())


# --- 1.2: fewer, larger steps -----------------------------------------------------------------------------------------

def merging_cases() -> list[tuple]:
    return [(betas, k) for betas, k in zip(all_betas(), (10, 50, 4))]


def merged(betas: Tensor, k: int) -> Tensor:
    return 1 - (1 - betas).view(-1, k).prod(dim=1)


# --- 1.3 to 1.5: jumps and schedules ----------------------------------------------------------------------------------

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


def divided_only(betas: Tensor) -> Tensor:
    roots = torch.cumprod(1 - betas, dim=0).sqrt()
    return betas_of(((roots - roots[-1]) / (roots[0] - roots[-1])) ** 2)


def straight_line(betas: Tensor) -> Tensor:
    first = float((1 - betas[0]) ** 0.5)
    return betas_of(torch.linspace(first, 0, len(betas)) ** 2)


def last_beta_one(betas: Tensor) -> Tensor:
    return torch.cat([betas[:-1], torch.ones(1)])


EXERCISES = {
    "1.1": Exercise(time_of, level_cases, {
        "One too early: σ first *reaches* the level one step later.": lambda sigma, a: time_of(sigma, a) - 1,
        "One too late. Times count from 0.": lambda sigma, a: time_of(sigma, a) + 1,
        "σ is a standard deviation: the square root of (1-ᾱ)/ᾱ.":
            lambda sigma, a: time_of(sigma, a, lambda a: (1 - a) / a),
        "You looked for √(1-ᾱ), the noise in x_t. σ is noise *per unit of picture*: divide by √ᾱ.":
            lambda sigma, a: time_of(sigma, a, lambda a: (1 - a).sqrt()),
        "That asks when there is so much *picture* per noise. Turn the fraction round.":
            lambda sigma, a: int(((a / (1 - a)).sqrt() < sigma).double().argmax()),
        "You compared with the SNR, ᾱ/(1-ᾱ), which falls and is squared. σ is one over its root.":
            lambda sigma, a: int((a / (1 - a) < sigma).double().argmax()),
        "That is how many times are left from there to the noisy end. t counts from the clean one.":
            lambda sigma, a: len(a) - time_of(sigma, a),
        "That is σ there. What is asked for is t.":
            lambda sigma, a: float(((1 - a) / a).sqrt()[time_of(sigma, a)]),
        "That is the time at which σ is nearest; it may be just below.": nearest_time,
    }),
    "1.2": Exercise(merged, merging_cases, {
        "Small β add up nearly, not quite: each step also shrinks the noise of those before it. What multiplies?":
            lambda betas, k: betas.view(-1, k).sum(dim=1),
        "What the steps leave of the picture multiplies, and that is 1-β. You have what is left; β is what is missing.":
            lambda betas, k: (1 - betas).view(-1, k).prod(dim=1),
        "The product of the β says nothing: it is 1-β that multiplies.":
            lambda betas, k: betas.view(-1, k).prod(dim=1),
        "That leaves steps out, so that in the end there is much less noise. A large step must do the work of all k.":
            lambda betas, k: betas.view(-1, k)[:, -1],
        "That leaves steps out, so that in the end there is less noise. A large step does the work of *all* k.":
            lambda betas, k: betas.view(-1, k)[:, 0],
        "The mean β is one small step. A large one must do the work of all k.":
            lambda betas, k: betas.view(-1, k).mean(dim=1),
        "That takes k times the same step; take the k different ones.":
            lambda betas, k: 1 - (1 - betas.view(-1, k)[:, 0]) ** k,
        "β is a variance: no square roots here. √(1-β) is the picture's weight, 1-β its share of the variance.":
            lambda betas, k: 1 - (1 - betas).sqrt().view(-1, k).prod(dim=1),
        "Those are the ᾱ at the ends of the large steps. What is the β of each?":
            lambda betas, k: torch.cumprod(1 - betas, dim=0)[k - 1::k],
        "You merged steps that do not follow one another: row i of view(-1, k) has the k steps of large step i.":
            lambda betas, k: 1 - (1 - betas).view(k, -1).prod(dim=0),
    }, tolerance=1e-5),
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
        "The ratio is upside down: ᾱ falls, so ᾱ_t/ᾱ_s is below one.":
            lambda x, noise, a_s, a_t: (a_s / a_t) ** 0.5 * x + (1 - a_t / a_s) ** 0.5 * noise,
        "The squares of the two weights add up to one: the noise needs √(1-ᾱ_t/ᾱ_s), which is not 1-√(ᾱ_t/ᾱ_s).":
            lambda x, noise, a_s, a_t: (a_t / a_s) ** 0.5 * x + (1 - (a_t / a_s) ** 0.5) * noise,
        "Picture and noise have changed places: x_s is what is multiplied by √(ᾱ_t/ᾱ_s).":
            lambda x, noise, a_s, a_t: add_noise(noise, x, a_t / a_s),
    }),
    "1.4": Exercise(betas_of, lambda: [(torch.cumprod(1 - betas, dim=0),) for betas in all_betas()], {
        "The ratio ᾱ_t / ᾱ_(t-1) is α_t; β_t is what is missing from it to 1.": lambda a: 1 - betas_of(a),
        "One β is missing: the first step has one, too, from ᾱ = 1 (nothing happened yet) to ᾱ_0.":
            lambda a: betas_of(a)[1:],
        "Steps multiply, so take the ratio ᾱ_t / ᾱ_(t-1), not the difference.":
            lambda a: torch.cat([torch.ones(1), a[:-1]]) - a,
        "Shifted by one: β_t belongs to the step that *arrives* at t.": lambda a: betas_of(a).roll(-1),
        "β stands under no root: √(1-β) is what x is multiplied by, and ᾱ is the product of 1-β.":
            lambda a: 1 - (1 - betas_of(a)).sqrt(),
        "Those are 1-ᾱ, the noise of all steps up to t together. β is that of step t alone.": lambda a: 1 - a,
        "Before the first step nothing has happened: there ᾱ is 1, and the first β is 1-ᾱ_0, not 0.":
            lambda a: torch.cat([torch.zeros(1), betas_of(a)[1:]]),
        "The ratio is upside down: β = 1 - ᾱ_t/ᾱ_(t-1).":
            lambda a: torch.cat([torch.ones(1), a[:-1]]) / a - 1,
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
        "This is the stretched ᾱ; the function should return betas.":
            lambda betas: torch.cumprod(1 - zero_terminal_snr(betas), dim=0),
        "You made β of √ᾱ. Square it first: ᾱ is the product of 1-β.":
            lambda betas: betas_of(torch.cumprod(1 - zero_terminal_snr(betas), dim=0).sqrt()),
        "The shift is right. Then stretch by √ᾱ_0/(√ᾱ_0 - √ᾱ_last); you divided only, so that the first value is 1.":
            divided_only,
        "The first and the last value of √ᾱ are right, but it is not a straight stretch of the old one.":
            straight_line,
    }, tolerance=1e-4),
}
