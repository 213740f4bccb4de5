"""Checks for notebook 03, samplers."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from minisd.exercises import Exercise


def guess(x: Tensor, sigma: float) -> Tensor:
    """The perfect denoiser for data whose numbers are all -1 or 1."""
    return torch.tanh(x / sigma**2)


def slope(x: Tensor, sigma: float) -> Tensor:
    return (x - guess(x, sigma)) / sigma


# --- 3.1: noise first, then a step ------------------------------------------------------------------------------------

def raised_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [(guess, sigma * torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator), sigma,
             raised, sigma_next) for sigma, raised, sigma_next in ((5.0, 6.0, 3.0), (1.0, 1.4, 0.5), (0.4, 0.5, 0.0))]


def raised_step(denoise, x, fresh, sigma, raised, sigma_next, noise=None, ask=None, start=None, over=None):
    """The keywords are wrong values: of the fresh noise's weight, of the σ asked for, left, and divided by."""
    x = x + (root(raised**2 - sigma**2) if noise is None else noise) * fresh
    ask, start, over = (raised if value is None else value for value in (ask, start, over))
    return x + (sigma_next - start) * (x - denoise(x, ask)) / over


def root(value: float) -> float:
    return value**0.5


def old_slope(denoise, x, fresh, sigma, raised, sigma_next):
    """The slope was taken before the noise was added."""
    return (x + root(raised**2 - sigma**2) * fresh) + (sigma_next - raised) * (x - denoise(x, sigma)) / sigma


def noise_after(denoise, x, fresh, sigma, raised, sigma_next):
    return x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma + root(raised**2 - sigma**2) * fresh


# --- 3.2: DDIM with dice ----------------------------------------------------------------------------------------------

def ddim_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [(*torch.randn(3, 2, 4, generator=generator), now, before, eta)
            for now, before, eta in ((0.1, 0.3, 0.5), (0.5, 0.52, 1.0), (0.9, 0.99, 0.3))]


def ddim(x_t, noise, fresh, now, before, eta, old=None, dice=None, back=None):
    """`old`, `dice` and `back`: wrong weights for the old noise, the fresh noise and the picture."""
    variance = eta**2 * posterior_variance(now, before)
    x0 = (x_t - (1 - now) ** 0.5 * noise) / now**0.5
    old = (1 - before - variance) ** 0.5 if old is None else old
    dice = variance**0.5 if dice is None else dice
    return (before**0.5 if back is None else back) * x0 + old * noise + dice * fresh


def posterior_variance(now, before):
    return (1 - now / before) * (1 - before) / (1 - now)


# --- 3.3: times -------------------------------------------------------------------------------------------------------

def leading(steps, offset):
    return [k * (1000 // steps) + offset for k in reversed(range(steps))]


# --- 3.4: a straight line through two slopes --------------------------------------------------------------------------

def line(before, now, after, middle=0.5):
    """`middle`: how far into the step the line is read off."""
    step, last = after - now, now - before
    return step * (1 + middle * step / last), -middle * step**2 / last


def upside_down(before, now, after):
    step, last = after - now, now - before
    return step * (1 + last / (2 * step)), -last / 2


# --- 3.5: the midpoint method -----------------------------------------------------------------------------------------

def midpoint_cases() -> list[tuple]:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    return [(slope, 3 * x, [3.0, 1.5, 0.8, 0.4]), (slope, x, [1.2, 0.5])]


def midpoint(slope, x, sigmas):
    for now, after in pairwise(sigmas):
        middle = x + (after - now) / 2 * slope(x, now)
        x = x + (after - now) * slope(middle, (now + after) / 2)
    return x


def from_middle(slope, x, sigmas, rest):
    """Continues from the midpoint, by the fraction `rest` of a step."""
    for now, after in pairwise(sigmas):
        x = x + (after - now) / 2 * slope(x, now)
        x = x + rest * (after - now) * slope(x, (now + after) / 2)
    return x


def along(look: Callable) -> Callable:
    """The method that steps in the direction that look(slope, x, now, after) returns."""
    def method(slope, x, sigmas):
        for now, after in pairwise(sigmas):
            x = x + (after - now) * look(slope, x, now, after)
        return x

    return method


def heun_look(slope, x, now, after):
    first = slope(x, now)
    return (first + slope(x + (after - now) * first, after)) / 2


def wrong_time_look(slope, x, now, after):
    return slope(x + (after - now) / 2 * slope(x, now), now)


def whole_step_look(slope, x, now, after):
    return slope(x + (after - now) * slope(x, now), (now + after) / 2)


def first_step_only(slope, x, sigmas):
    return midpoint(slope, x, sigmas[:2])


EXERCISES = {
    "3.1": Exercise(raised_step, raised_cases, {
        "*Variances* add up: the fresh noise has the variance raised² - σ², not the standard deviation raised - σ.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, after, noise=up - now),
        "raised² - σ² is the variance that is missing; noise is multiplied by its square root.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, after, noise=up**2 - now**2),
        "x brings noise along: together the two should be as much as `raised`, and you added that much on top.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, after, noise=up),
        "That is Euler's step without dice. First raise the noise to `raised`.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, now, after),
        "Once there is more noise, ask about the noise level that there now is: denoise(x, raised).":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, after, ask=now),
        "The step begins where x now is, at `raised`, and so its length is sigma_next - raised.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, after, start=now),
        "The slope belongs to where x now is: divide by `raised`.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, after, over=now),
        "The noise was raised, but everything else still counts from σ: ask, divide and step from `raised`.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, after, ask=now, start=now, over=now),
        "You took the slope before adding the noise. Add it first, then ask.": old_slope,
        "The noise comes before the step. Added after it, it is still there at the end.": noise_after,
        "That walks uphill, towards more noise: the step is sigma_next - raised, which is negative.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, 2 * up - after),
        "The slope is (x - guess)/σ; the division is missing.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, after, over=1.0),
        "That is the jump to the end: it takes all of the noise away, not the part down to sigma_next.":
            lambda d, x, z, now, up, after: raised_step(d, x, z, now, up, 0.0),
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
            lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, eta, back=root(now)),
        "x0 is right, but it comes back with √ᾱ_before; the square root is missing.":
            lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, eta, back=before),
        "Where is the old noise? Only the part η² of β̃ comes fresh; the rest of what is due is old.":
            lambda x, e, z, now, before, eta: ddim(x, e, z, now, before, eta, old=0.0),
    }),
    "3.3": Exercise(leading, lambda: [(20, 1), (50, 1), (15, 0)], {
        "Right times, but from clean to noisy; a sampler begins with the noisiest.":
            lambda steps, offset: leading(steps, offset)[::-1],
        "The offset is missing.": lambda steps, offset: leading(steps, 0),
        "That is \"trailing\": it has 999 and not the cleanest time. \"leading\" begins its count at the clean end.":
            lambda steps, offset: [round(1000 - k * 1000 / steps) - 1 for k in range(steps)],
        "That is \"linspace\", which has both ends.": lambda steps, offset: [
            999 - 999 * k / (steps - 1) for k in range(steps)],
        "1000/15 is no whole number. \"leading\" rounds the length of a step down, once, and then counts in it.":
            lambda steps, offset: [k * 1000 / steps + offset for k in reversed(range(steps))],
        "You rounded each time; \"leading\" rounds the length of a step down, once, and then counts in it.":
            lambda steps, offset: [round(k * 1000 / steps) + offset for k in reversed(range(steps))],
        "1000/15 is rounded *down*, to 66.":
            lambda steps, offset: [k * round(1000 / steps) + offset for k in reversed(range(steps))],
        "The count begins at the clean end, 0, and goes up; what rounding leaves over is at the noisy end.":
            lambda steps, offset: [1000 - k * (1000 // steps) + offset for k in range(1, steps + 1)],
    }),
    "3.4": Exercise(line, lambda: [(4.0, 2.0, 1.0), (14.6, 9.0, 6.5), (1.0, 0.7, 0.0), (3.0, 2.0, 1.0)], {
        "Those are the weights for equal steps. Here the last step and the next differ in length.":
            lambda before, now, after: (1.5 * (after - now), -0.5 * (after - now)),
        "Right numbers, wrong order: the latest slope's weight comes first.":
            lambda before, now, after: line(before, now, after)[::-1],
        "You read the line off at the end of the step; its mean over the step is what it is in the *middle*.":
            lambda before, now, after: line(before, now, after, middle=1.0),
        "The fraction is upside down: the line rises by (latest - old) in the *last* step; how much in half of the "
        "next?": upside_down,
        "That is the slope in the middle of the step. Times the step's length σ_next - σ, please.":
            lambda before, now, after: tuple(one / (after - now) for one in line(before, now, after)),
        "The step goes down: its length is σ_next - σ, which is negative.":
            lambda before, now, after: tuple(-one for one in line(before, now, after)),
        "That is Euler: it remembers nothing.": lambda before, now, after: (after - now, 0.0),
        "The mean of the two slopes is the line's value *before* σ, where the last step was. Go on along the line, "
        "into the next one.": lambda before, now, after: ((after - now) / 2, (after - now) / 2),
    }),
    "3.5": Exercise(midpoint, midpoint_cases, {
        "That is Euler: the direction of the beginning, not of the middle.":
            along(lambda slope, x, now, after: slope(x, now)),
        "That is Heun, which looks at the end and takes the mean. Look in the middle, and take that alone.":
            along(heun_look),
        "You looked at the middle σ, but with the x of the beginning. First go there, half a step.":
            along(lambda slope, x, now, after: slope(x, (now + after) / 2)),
        "In the middle it is the middle σ, too: tell it to the slope.": along(wrong_time_look),
        "You went a whole step to look; the middle σ belongs to *half* a step.": along(whole_step_look),
        "Those are two half steps of Euler. The middle is for looking only: the whole step begins where you were.":
            lambda slope, x, sigmas: from_middle(slope, x, sigmas, 0.5),
        "The whole step begins where you were, not in the middle: so you go half a step too far.":
            lambda slope, x, sigmas: from_middle(slope, x, sigmas, 1.0),
        "That is the first step alone; go on to the last of the sigmas.": first_step_only,
    }),
}
