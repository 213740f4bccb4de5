"""Checks for notebook 07, training."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minisd.exercises import Exercise
from minisd.training.muon import orthogonalise


def min_snr_weight(target: str, alphas_cumprod: Tensor, gamma: float) -> Tensor:
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=gamma) / {"noise": snr, "x0": torch.ones_like(snr), "v": snr + 1}[target]


def of_snr(snr_of, at_most: bool = True, times: bool = False):
    """The weight with another "SNR", with the larger of SNR and γ, or multiplied instead of divided."""
    def weight(target, alphas_cumprod, gamma):
        snr = snr_of(alphas_cumprod)
        cut = snr.clamp(max=gamma) if at_most else snr.clamp(min=gamma)
        unit = {"noise": snr, "x0": torch.ones_like(snr), "v": snr + 1}[target]
        return cut * unit if times else cut / unit
    return weight


def snr_of(a: Tensor) -> Tensor:
    return a / (1 - a)


def weight_cases() -> list[tuple]:
    alphas_cumprod = torch.linspace(0.999, 0.005, 50)
    return [("noise", alphas_cumprod, 5.0), ("x0", alphas_cumprod, 5.0), ("v", alphas_cumprod, 5.0),
            ("v", alphas_cumprod, 1.0)]


def precondition(sigma: Tensor, spread: float) -> tuple[Tensor, Tensor]:
    total = sigma**2 + spread**2
    return spread**2 / total, sigma * spread / total**0.5


def steps_until(decay: float, share: float) -> int:
    return math.ceil(math.log(share) / math.log(decay))


def average_of(gradients: list[Tensor], counts: list[int]) -> Tensor:
    return torch.stack([n * g for n, g in zip(counts, gradients)]).sum(dim=0) / sum(counts)


def parts_of_batches() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [([torch.randn(3, generator=generator) for _ in range(3)], [8, 4, 1]),
            ([torch.randn(2, 2, generator=generator) for _ in range(2)], [5, 3])]


def nearest_orthogonal(gradient: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    return u @ v


def gradients() -> list[tuple]:
    """A wide, a tall and a square matrix, whose singular values go from 10 down to 0.1."""
    generator, made = torch.Generator().manual_seed(0), []
    for rows, columns in ((4, 6), (6, 4), (5, 5)):
        rank = min(rows, columns)
        u, v = (torch.linalg.qr(torch.randn(side, rank, generator=generator))[0] for side in (rows, columns))
        made.append((u @ torch.diag(torch.logspace(1, -1, rank)) @ v.T,))
    return made


EXERCISES = {
    "7.1": Exercise(min_snr_weight, weight_cases, {
        "That is right for v only. The same mistake is a small one of noise and a large one of x0, so each target "
        "needs its own weight.": lambda target, a, gamma: min_snr_weight("v", a, gamma),
        "noise and x0 have changed places: |ε - ε̂|² is SNR times |x0 - x̂0|², so it is the noise loss that must be "
        "divided by SNR.":
            lambda target, a, gamma: min_snr_weight({"noise": "x0", "x0": "noise"}.get(target, "v"), a, gamma),
        "You used ᾱ for the SNR; it is ᾱ / (1 - ᾱ).": of_snr(lambda a: a),
        "Your SNR is upside down: signal over noise is ᾱ / (1 - ᾱ).": of_snr(lambda a: (1 - a) / a),
        "SNR is a ratio of powers, ᾱ / (1 - ᾱ); you took the root.": of_snr(lambda a: snr_of(a) ** 0.5),
        "You cut off at γ from below; it is the *smaller* of SNR and γ that counts.": of_snr(snr_of, at_most=False),
        "γ has no effect: the SNR must be cut off at γ.": lambda target, a, gamma: min_snr_weight(target, a, math.inf),
        "The units are the wrong way round: an error of v is SNR + 1 times that of x0, so divide by SNR + 1.":
            of_snr(snr_of, times=True),
    }),
    "7.2": Exercise(precondition, lambda: [(torch.tensor([0.03, 0.5, 2.0, 14.6]), 1.0),
                                           (torch.tensor([0.03, 0.5, 2.0, 14.6]), 0.4)], {
        "That is right for data of spread 1 only: how much of x is x0 depends on σ_data, too.":
            lambda sigma, spread: precondition(sigma, 1.0),
        "c_skip is the noise's share of the variance. The more noise there is, the less of x should be kept.":
            lambda sigma, spread: (sigma**2 / (sigma**2 + spread**2), precondition(sigma, spread)[1]),
        "Variances add up, not spreads: square σ and σ_data.":
            lambda sigma, spread: (spread / (sigma + spread), sigma * spread / (sigma + spread)),
        "c_out is the *spread* of what is left, not its variance: take the root.":
            lambda sigma, spread: (precondition(sigma, spread)[0], precondition(sigma, spread)[1] ** 2),
        "c_skip is a share of variances, without a root. (With it you scale x to the spread of the data, which is not "
        "the best guess.)":
            lambda sigma, spread: (precondition(sigma, spread)[0] ** 0.5, precondition(sigma, spread)[1]),
        "c_skip is right. What is left, x0 - c_skip·x, holds a part of x0 and a part of the noise; their variances add "
        "up to σ²·σ_data² / (σ² + σ_data²).":
            lambda sigma, spread: (precondition(sigma, spread)[0], sigma / (sigma**2 + spread**2) ** 0.5),
        "c_skip is right, but c_out is the spread that is left *after* c_skip·x was taken away, not that of x0.":
            lambda sigma, spread: (precondition(sigma, spread)[0], torch.full_like(sigma, spread)),
        "The two have changed places: first c_skip, then c_out.":
            lambda sigma, spread: precondition(sigma, spread)[::-1],
    }),
    "7.3": Exercise(steps_until, lambda: [(0.999, 0.05), (0.97, 0.5), (0.99, 0.1)], {
        "One too few: after that many steps the share is still above the limit. Round up.":
            lambda decay, share: steps_until(decay, share) - 1,
        "Count steps, whole ones.": lambda decay, share: math.log(share) / math.log(decay),
        "1 / (1 - decay) is the average's memory, after which a share of 1/e is left; here the share is given.":
            lambda decay, share: round(1 / (1 - decay)),
        "Each step keeps the share `decay` of what was there, not `1 - decay`.":
            lambda decay, share: math.ceil(math.log(share) / math.log(1 - decay)),
        "The share does not fall by the same amount in each step, but by the same *factor*: decay, decay², decay³, …":
            lambda decay, share: math.ceil((1 - share) / (1 - decay)),
        "That is when the initial weights have *lost* that share; asked is when no more than that is left.":
            lambda decay, share: steps_until(decay, 1 - share),
        "One too many: after one step the share is already `decay`.":
            lambda decay, share: steps_until(decay, share) + 1,
        "That is the share after 1 / share steps; asked is the number of steps.":
            lambda decay, share: decay ** (1 / share),
    }),
    "7.4": Exercise(average_of, parts_of_batches, {
        "The plain mean lets a sample in a small part count more than one in a large part.":
            lambda gradients, counts: sum(gradients) / len(gradients),
        "That is the sum of the means: it grows with the number of processes.":
            lambda gradients, counts: sum(gradients),
        "Weighed rightly, but divide by the number of *samples*, not by that of processes.":
            lambda gradients, counts: average_of(gradients, counts) * sum(counts) / len(counts),
        "Divide by the number of all samples, or the step grows with the batch.":
            lambda gradients, counts: average_of(gradients, counts) * sum(counts),
        "The other way round: a mean over more samples must count for more, not for less.":
            lambda gradients, counts: average_of(gradients, [1 / n for n in counts]),
        "Each gradient is already a mean over its samples: do not divide it by their number again.":
            lambda gradients, counts: sum(g / n for n, g in zip(counts, gradients)) / len(counts),
        "That is the sum of the gradients divided by the number of samples; but they are means: weigh each by its "
        "count.":
            lambda gradients, counts: sum(gradients) / sum(counts),
        "That is one process's gradient alone: the largest part has not seen the other samples.":
            lambda gradients, counts: gradients[0],
    }),
    "7.5": Exercise(nearest_orthogonal, gradients, {
        "That is Muon's approximation, whose singular values lie between 0.7 and 1.2; asked is the matrix in which all "
        "are 1.": orthogonalise,
        "The sign of each number: that is Adam's first step. It knows nothing of rows and columns, so the singular "
        "values stay unequal.": torch.sign,
        "Divided by a norm, all singular values shrink by the same factor; the large ones still dominate.":
            lambda gradient: gradient / gradient.norm(),
        "Divided by the largest singular value: that one is now 1, the others are as small beside it as before.":
            lambda gradient: gradient / torch.linalg.matrix_norm(gradient, 2),
        "Rows of length 1 need not be at right angles to each other.": lambda gradient: F.normalize(gradient, dim=1),
        "Columns of length 1 need not be at right angles to each other.": lambda gradient: F.normalize(gradient, dim=0),
        "That is transposed: rows and columns have changed places.": lambda gradient: nearest_orthogonal(gradient).T,
        "Those are the singular values; keep the two other parts of the decomposition.":
            lambda gradient: torch.linalg.svdvals(gradient),
        "That is the gradient again: leave out the singular values in the middle, or set them to 1.":
            lambda gradient: gradient,
    }, tolerance=1e-3),
}
