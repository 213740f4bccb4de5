"""Euler ancestral: an Euler step to less noise than wanted, and fresh noise to make up the difference."""

import numpy as np
from torch import Tensor

from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import ADDED_NOISE
from minisd.schedulers.schedule import plan_fractional_times


def euler_ancestral_step(x: Tensor, eps: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Tensor) -> Tensor:
    """x at the next σ: along the slope to σ_down, which is below it, and up to it by adding fresh noise. Random.

    Crowson's k-diffusion, `sample_euler_ancestral` and `get_ancestral_step` (eta = 1):

        here          there
        x             x
        eps           d
        sigma         sigma_from, sigmas[i]
        sigma_next    sigma_to, sigmas[i + 1]
        noise         noise_sampler(…)

    It is DDPM's step for x = x0 + σ·ε: σ_up² is β̃_t/ᾱ_{t-1} (Ho et al. 2020, equation 7).
    """
    sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5  # get_ancestral_step
    sigma_down = (sigma_next**2 - sigma_up**2) ** 0.5
    return x + (sigma_down - sigma) * eps + sigma_up * noise


class EulerAncestralDiscreteScheduler(Scheduler):
    """Random, as DDPM is, but needs fewer steps; one network call per step."""

    DEFAULTS = COMMON | {"timestep_spacing": "linspace", "rescale_betas_zero_snr": False}
    mixture = ADDED_NOISE

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        return plan_fractional_times(self.config, steps, self._all_sigmas())

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        return euler_ancestral_step(now.x, now.eps, self.sigmas[now.i], self.sigmas[now.i + 1], draw_noise())
