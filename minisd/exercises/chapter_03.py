"""Checks of notebook 03, samplers."""

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
    return [(torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator), now, before)
            for now, before in ((0.1, 0.3), (0.5, 0.52), (0.9, 1.0))]


def ddim(x_t, noise, now, before):
    x0 = (x_t - (1 - now) ** 0.5 * noise) / now**0.5
    return before**0.5 * x0 + (1 - before) ** 0.5 * noise


def leading(steps, offset):
    return [k * (1000 // steps) + offset for k in reversed(range(steps))]


def karras(sigma_max, sigma_min, steps, rho=7.0):
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.tensor([(top + k / (steps - 1) * (bottom - top)) ** rho for k in range(steps)])


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
        "That stops at x0. Put the noise back, as much as belongs to the earlier time.":
            lambda x, e, now, before: (x - (1 - now) ** 0.5 * e) / now**0.5,
        "x0 is right, but it comes back with √ᾱ_before, not with √ᾱ_now.":
            lambda x, e, now, before: x - (1 - now) ** 0.5 * e + (1 - before) ** 0.5 * e,
        "The weights need their square roots.": lambda x, e, now, before: before * (x - (1 - now) * e) / now
        + (1 - before) * e,
        "The noise that is put back has the weight √(1-ᾱ_before): there is less of it now.":
            lambda x, e, now, before: before**0.5 * (x - (1 - now) ** 0.5 * e) / now**0.5 + (1 - now) ** 0.5 * e,
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
}
