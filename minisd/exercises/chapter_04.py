"""Checks for notebook 04, the VAE."""

import torch
from torch import Tensor

from minisd.exercises import Exercise


def clouds() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(3, 4, 8, 8, generator=generator), torch.randn(3, 4, 8, 8, generator=generator) * 2 - 1)
            for _ in range(2)]


def with_noise() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    return [(*cloud, torch.randn(cloud[0].shape, generator=generator)) for cloud in clouds()]


def with_std() -> list[tuple]:
    return [(width * mean + 0.3, (0.5 * log_variance).exp())
            for width, (mean, log_variance) in zip((1.5, 5.0), clouds())]


def copies() -> list[tuple]:
    """Pictures and copies of them, some good, some bad."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1
    amounts = torch.tensor([0.02, 0.05, 0.1, 0.4])[:, None, None, None]
    return [(images, images + amounts * torch.randn(images.shape, generator=generator))]


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3))


def squared(images: Tensor, again: Tensor) -> Tensor:
    return (images - again).square().mean(dim=(1, 2, 3))


def scaling_factor(mean: Tensor, std: Tensor) -> Tensor:
    return 1 / (mean.var() + std.square().mean()).sqrt()


EXERCISES = {
    "4.1": Exercise(lambda m, v, noise: m + (0.5 * v).exp() * noise, with_noise, {
        "You multiplied by the variance. Its root is wanted: halve the logarithm before taking exp.":
            lambda m, v, noise: m + v.exp() * noise,
        "The encoder gives the *logarithm* of the variance, which may be negative: undo that first.":
            lambda m, v, noise: m + v * noise,
        "The root of a logarithm is no standard deviation: first exp, then the root.":
            lambda m, v, noise: m + v.abs().sqrt() * noise,
        "The noise is not scaled: each number has its own standard deviation.": lambda m, v, noise: m + noise,
        "This is the mode: no dice were rolled.": lambda m, v, noise: m,
        "The mean is missing: a draw lies around it.": lambda m, v, noise: (0.5 * v).exp() * noise,
        "Only the noise is scaled; the mean stays where it is.": lambda m, v, noise: (0.5 * v).exp() * (m + noise),
        "The standard deviation belongs to the noise, not to the mean.":
            lambda m, v, noise: (0.5 * v).exp() * m + noise,
    }),
    "4.2": Exercise(kl, clouds, {
        "The 1 is missing: a cloud with mean 0 and variance 1 must cost nothing.":
            lambda m, v: 0.5 * (m**2 + v.exp() - v).sum(dim=(1, 2, 3)),
        "The ½ in front is missing.": lambda m, v: 2 * kl(m, v),
        "The sign is wrong: a divergence is never below 0.": lambda m, v: -kl(m, v),
        "That is the mean over a picture's latents; wanted is their sum, one number a picture.":
            lambda m, v: kl(m, v) / m[0].numel(),
        "That is the sum over the whole batch; wanted is one number a picture.": lambda m, v: kl(m, v).sum(),
        "You took σ where the formula has σ²: the exp of the whole logarithm, not of half of it.":
            lambda m, v: 0.5 * (m**2 + (0.5 * v).exp() - 1 - v).sum(dim=(1, 2, 3)),
        "The exp of log_variance is σ² already: do not square it again.":
            lambda m, v: 0.5 * (m**2 + v.exp()**2 - 1 - v).sum(dim=(1, 2, 3)),
        "log_variance is ln σ² already: no 2 in front of it.":
            lambda m, v: 0.5 * (m**2 + v.exp() - 1 - 2 * v).sum(dim=(1, 2, 3)),
        "The mean enters with its square.": lambda m, v: 0.5 * (m + v.exp() - 1 - v).sum(dim=(1, 2, 3)),
        "That is the mean over the batch; wanted is one number a picture.": lambda m, v: kl(m, v).mean(),
        "That is one number a latent; add up those of each picture.": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v),
    }, tolerance=1e-3),
    "4.3": Exercise(lambda f, c: 3 * f**2 / c, lambda: [(8, 4), (4, 4), (8, 16), (16, 32)], {
        "Pictures shrink both ways: square the factor.": lambda f, c: 3 * f / c,
        "That counts places; a picture has three numbers at each, and latents have several.": lambda f, c: f**2,
        "You forgot the colours: three numbers a pixel.": lambda f, c: f**2 / c,
        "You forgot that latents have several channels.": lambda f, c: 3 * f**2,
        "Upside down: that is the share that is left.": lambda f, c: c / (3 * f**2),
        "More channels mean more numbers in the latents: divide by them.": lambda f, c: 3 * f**2 * c,
        "Only the downscaling is squared, not the channels.": lambda f, c: 3 * (f / c)**2,
        "That holds for Stable Diffusion only; use both arguments.": lambda f, c: 48,
    }),
    "4.4": Exercise(lambda x, y: (10 * torch.log10(4 / squared(x, y))).mean(), copies, {
        "6 dB too low: from -1 to 1 the peak is 2, and its square 4.":
            lambda x, y: (10 * torch.log10(1 / squared(x, y))).mean(),
        "3 dB too low: the peak is 2, and the formula squares it.":
            lambda x, y: (10 * torch.log10(2 / squared(x, y))).mean(),
        "You averaged the error over all pictures before the logarithm; take each picture's decibels, then their mean.":
            lambda x, y: 10 * torch.log10(4 / squared(x, y).mean()),
        "Pixels reach from -1 to 1 here, not to 255.":
            lambda x, y: (10 * torch.log10(255**2 / squared(x, y))).mean(),
        "Upside down, so the sign is wrong: better copies have more decibels.":
            lambda x, y: (10 * torch.log10(squared(x, y) / 4)).mean(),
        "One number is wanted: average over the pictures.": lambda x, y: 10 * torch.log10(4 / squared(x, y)),
        "Decibels are made with the logarithm to base ten.": lambda x, y: (10 * torch.log(4 / squared(x, y))).mean(),
        "That is in bels: the 10 in front is missing.": lambda x, y: torch.log10(4 / squared(x, y)).mean(),
        "That is the mean error without its sign; square it before you average.":
            lambda x, y: (10 * torch.log10(4 / (x - y).abs().mean(dim=(1, 2, 3)))).mean(),
        "Mean squared error: you took the sum over the numbers of a picture.":
            lambda x, y: (10 * torch.log10(4 / (x - y).square().sum(dim=(1, 2, 3)))).mean(),
    }),
    "4.5": Exercise(scaling_factor, with_std, {
        "That is how wide the *means* are. Draws are wider, since the clouds themselves have a width.":
            lambda m, s: 1 / m.std(),
        "Standard deviations do not add up; variances do. Square, add, then take the root.":
            lambda m, s: 1 / (m.std() + s.mean()),
        "That is the standard deviation itself; the factor divides by it.": lambda m, s: 1 / scaling_factor(m, s),
        "The root is missing: that is 1 / variance.": lambda m, s: scaling_factor(m, s)**2,
        "Square each width, then average: the mean of squares is more than the square of the mean.":
            lambda m, s: 1 / (m.var() + s.mean()**2).sqrt(),
        "The second part wants the clouds' variances: square their widths.":
            lambda m, s: 1 / (m.var() + s.mean()).sqrt(),
        "That is how the clouds' widths *differ*; wanted is how wide they are, squared.":
            lambda m, s: 1 / (m.var() + s.var()).sqrt(),
        "That leaves out how the means differ.": lambda m, s: 1 / s.square().mean().sqrt(),
        "The first part should be the *variance* of the means, their mean square about their own mean, not about 0.":
            lambda m, s: 1 / (m.square().mean() + s.square().mean()).sqrt(),
    }, tolerance=3e-3),
}
