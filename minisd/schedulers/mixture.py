"""Three parameterisations of a noisy x. Each sampler has one of them; they know nothing of samplers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """A parameterisation of clean data x0 with noise ε: x = a·x0 + b·ε.

    Attributes:
        weights: a function from the noise level to (a, b).
        by_time: whether the noise level is ᾱ at an integer training time; otherwise it is σ at a step of the run.
        rescaled: whether the network, which was trained with a² + b² = 1, is given x/sqrt(a² + b²) instead of x.
    """

    weights: Callable[[Tensor], tuple[Tensor, Tensor]]
    by_time: bool = False
    rescaled: bool = False

    def network_input(self, x: Tensor, level: Tensor) -> Tensor:
        return x / self._scale(level) if self.rescaled else x

    def predictions(self, kind: str, output: Tensor, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, ε) from the network's output, such that x = a·x0 + b·ε.

        Args:
            kind: what the output is: "epsilon" is ε, "sample" is x0, and "v_prediction" is v = a·ε - b·x0 with the a
                and b of the network's input (Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of
                Diffusion Models", appendix D).
        """
        a, b = self.weights(level)
        if self.rescaled:
            scale = self._scale(level)
            x, a, b = x / scale, a / scale, b / scale
        if kind == "epsilon":
            return (x - b * output) / a, output
        if kind == "v_prediction":
            return a * x - b * output, a * output + b * x
        return output, (x - a * output) / b

    def add_noise(self, x0: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """a·x0 + b·noise; levels: (1,), or (B,) with one per item."""
        a, b = (column(weight, x0) for weight in self.weights(levels))
        return a * x0 + b * noise

    def velocity(self, x0: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """a·noise - b·x0, the target of "v_prediction"; levels: (1,), or (B,) with one per item."""
        a, b = (column(weight, x0) for weight in self.weights(levels))
        return a * noise - b * x0

    def _scale(self, level: Tensor) -> Tensor:
        a, b = self.weights(level)
        return (a**2 + b**2) ** 0.5


def _dpm_weights(sigma: Tensor) -> tuple[Tensor, Tensor]:
    alpha = (sigma**2 + 1) ** -0.5
    return alpha, sigma * alpha


# x = sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·ε: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equation 4.
ALPHA_BAR = Mixture(lambda alpha_bar: (alpha_bar**0.5, (1 - alpha_bar) ** 0.5), by_time=True)
# x = x0 + σ·ε: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models".
ADDED_NOISE = Mixture(lambda sigma: (torch.ones_like(sigma), sigma), rescaled=True)
# x = (x0 + σ·ε)/sqrt(σ² + 1), which is the first one for any σ, not only those of training: Lu et al. 2022,
# "DPM-Solver++".
DPM = Mixture(_dpm_weights)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, …), with the device and dtype of `like`; a single value as a scalar, on whatever device."""
    if len(values) == 1:
        return values[0].to(like.dtype)
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.device, like.dtype)


def check_noise(x0: Tensor, noise: Tensor, t: float | Tensor) -> None:
    if noise.shape != x0.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)} and x0 {tuple(x0.shape)}; they must match")
    if isinstance(t, Tensor) and t.numel() not in (1, len(x0)):
        raise ValueError(f"t: {t.numel()} times for a batch of {len(x0)}; give one, or one per item")
