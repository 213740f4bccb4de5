"""Measures of quality that do not depend on what the pictures are meant to show."""

import torch
from torch import Tensor


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """The share of rows of scores (B, classes) in which the right label is among the k highest."""
    return float((scores.topk(k, dim=1).indices == labels[:, None].to(scores.device)).any(dim=1).float().mean())


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """The Fréchet distance of two clouds of features, (N, F) and (M, F), each treated as a Gaussian.

        |μ₁ - μ₂|² + tr(C₁ + C₂ - 2·(C₁C₂)^½)

    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", equation 6. They
    compare the features of an Inception network; distances of other features are not comparable with those.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise ValueError(f"features have shapes {tuple(one.shape)} and {tuple(other.shape)}; "
                         "they must be (N, F) and (M, F) with N and M at least 2")
    one, other = one.double(), other.double()
    first, second = one.T.cov(), other.T.cov()
    # tr (C₁C₂)^½ = the sum of the roots of C₁C₂'s eigenvalues, which are those of the symmetric C₁^½ C₂ C₁^½
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    means = (one.mean(0) - other.mean(0)).square().sum()
    return max(0.0, float(means + first.trace() + second.trace() - 2 * cross))


def psnr(images: Tensor, again: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], (B, 3, H, W), averaged over the pictures."""
    squared = (images - again).square().mean(dim=(1, 2, 3)) / 4  # pixels span 2, so the peak's square is 4
    return float((-10 * squared.log10()).mean())
