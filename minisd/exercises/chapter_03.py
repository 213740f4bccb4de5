"""Checks for notebook 03, samplers."""

from itertools import pairwise

import torch

from minisd.exercises import Exercise


def euler_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 4, generator=generator), sigma, sigma_next, torch.randn(2, 4, generator=generator))
            for sigma, sigma_next in ((14.6, 9.0), (1.0, 0.5), (0.3, 0.0))]


def euler(x, sigma, sigma_next, denoised):
    return x + (sigma_next - sigma) * (x - denoised) / sigma


def ddim_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [(*torch.randn(3, 2, 4, generator=generator), now, before, eta)
            for now, before, eta in ((0.1, 0.3, 0.5), (0.5, 0.52, 1.0), (0.9, 0.99, 0.3))]


def ddim(x_t, noise, fresh, now, before, eta, old=None, dice=None):
    """`old` and `dice`: wrong weights for the old and the fresh noise."""
    variance = eta**2 * posterior_variance(now, before)
    x0 = (x_t - (1 - now) ** 0.5 * noise) / now**0.5
    old = (1 - before - variance) ** 0.5 if old is None else old
    return before**0.5 * x0 + old * noise + (variance**0.5 if dice is None else dice) * fresh


def posterior_variance(now, before):
    return (1 - now / before) * (1 - before) / (1 - now)


def root(value):
    return value**0.5


def leading(steps, offset):
    return [k * (1000 // steps) + offset for k in reversed(range(steps))]


def karras(sigma_max, sigma_min, steps, rho=7.0):
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.tensor([(top + k / (steps - 1) * (bottom - top)) ** rho for k in range(steps)])


def midpoint_cases() -> list[tuple]:
    def slope(x, sigma):
        """The slope of a perfect denoiser for data whose numbers are all -1 or 1."""
        return (x - torch.tanh(x / sigma**2)) / sigma

    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    return [(slope, 3 * x, [3.0, 1.5, 0.8, 0.4]), (slope, x, [1.2, 0.5])]


def midpoint(slope, x, sigmas):
    for now, after in pairwise(sigmas):
        middle = x + (after - now) / 2 * slope(x, now)
        x = x + (after - now) * slope(middle, (now + after) / 2)
    return x


def midpoint_from_middle(slope, x, sigmas, rest):
    """Continues from the midpoint, by the fraction `rest` of a step."""
    for now, after in pairwise(sigmas):
        x = x + (after - now) / 2 * slope(x, now)
        x = x + rest * (after - now) * slope(x, (now + after) / 2)
    return x


def two_looks(slope, x, sigmas, look):
    """Steps in the direction that look(slope, x, now, after) returns."""
    for now, after in pairwise(sigmas):
        x = x + (after - now) * look(slope, x, now, after)
    return x


def heun_look(slope, x, now, after):
    first = slope(x, now)
    return (first + slope(x + (after - now) * first, after)) / 2


def wrong_time_look(slope, x, now, after):
    return slope(x + (after - now) / 2 * slope(x, now), now)


EXERCISES = {
    "3.1": Exercise(euler, euler_cases, {
        "That walks uphill, towards more noise: the step is σ_next - σ, which is negative.":
            lambda x, a, b, d: x - (b - a) * (x - d) / a,
        "The slope is (x - denoised)/σ; you left out the division.": lambda x, a, b, d: x + (b - a) * (x - d),
        "That is the jump to the end: it takes all of the noise away, not the part down to σ_next.":
            lambda x, a, b, d: d,
        "The slope belongs to where you are: divide by σ, not by σ_next.":
            lambda x, a, b, d: x + (b - a) * (x - d) / (b if b else 1),
    }),
    "3.2": Exercise(ddim, ddim_cases, {
        "The old noise gives no room: it must shrink, so that old² + fresh² are 1-ᾱ_before.":
            lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, eta, old=root(1 - before)),
        "That is DDIM with η = 0: no dice.":
            lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, 0.0),
        "The dice are multiplied by the standard deviation, η√β̃, not by the variance.":
            lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, eta,
                                                   dice=eta**2 * posterior_variance(now, before)),
        "*Variances* add up. You took the fresh standard deviation off the old one.":
            lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, eta,
                                                   old=root(1 - before) - eta * root(posterior_variance(now, before))),
        "η² is the part of the variance; you have η.":
            lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, root(eta)),
        "That is DDPM, η = 1, whatever η is.": lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, 1.0),
        "x0 is right, but it comes back with √ᾱ_before, not with √ᾱ_now.":
            lambda x, e, z, now, before, eta: ddim(x * root(now / before), e * root(now / before), z, now, before, eta)
            + (1 - root(now / before)) * root(1 - before - eta**2 * posterior_variance(now, before)) * e,
    }),
    "3.3": Exercise(leading, lambda: [(20, 1), (50, 1), (15, 0)], {
        "Right times, but from clean to noisy; a sampler begins with the noisiest.":
            lambda steps, offset: leading(steps, offset)[::-1],
        "The offset is missing.": lambda steps, offset: leading(steps, 0),
        "That is \"trailing\": it has 999 and not the cleanest time. \"leading\" begins its count at the clean end.":
            lambda steps, offset: [round(1000 - k * 1000 / steps) - 1 for k in range(steps)],
        "That is \"linspace\", which has both ends.": lambda steps, offset: [
            999 - 999 * k / (steps - 1) for k in range(steps)],
    }),
    "3.4": Exercise(karras, lambda: [(14.6, 0.03, 10), (80.0, 0.002, 5)], {
        "Evenly spaced in σ itself: nearly all steps are spent on heavy noise. Space the ρ-th *roots* evenly.":
            lambda a, b, n: torch.linspace(a, b, n),
        "Roots evenly spaced, and now back: raise to the power ρ.": lambda a, b, n: torch.linspace(
            a ** (1 / 7), b ** (1 / 7), n),
        "From the noisiest to the cleanest, please.": lambda a, b, n: karras(a, b, n).flip(0),
        "Evenly spaced in log σ: a good schedule, too, but Karras et al. take ρ-th roots.":
            lambda a, b, n: torch.exp(torch.linspace(torch.tensor(a).log().item(), torch.tensor(b).log().item(), n)),
    }, tolerance=1e-3),
    "3.5": Exercise(midpoint, midpoint_cases, {
        "That is Euler: the direction of the beginning, not of the middle.":
            lambda slope, x, sigmas: two_looks(slope, x, sigmas, lambda f, x, now, after: f(x, now)),
        "That is Heun, which looks at the end and takes the mean. Look in the middle, and take that alone.":
            lambda slope, x, sigmas: two_looks(slope, x, sigmas, heun_look),
        "You looked at the middle σ, but with the x of the beginning. First go there, half a step.":
            lambda slope, x, sigmas: two_looks(slope, x, sigmas, lambda f, x, now, after: f(x, (now + after) / 2)),
        "In the middle it is the middle σ, too: tell it to the slope.":
            lambda slope, x, sigmas: two_looks(slope, x, sigmas, wrong_time_look),
        "Those are two half steps of Euler. The middle is for looking only: the whole step begins where you were.":
            lambda slope, x, sigmas: midpoint_from_middle(slope, x, sigmas, 0.5),
        "The whole step begins where you were, not in the middle: so you go half a step too far.":
            lambda slope, x, sigmas: midpoint_from_middle(slope, x, sigmas, 1.0),
    }),
}
