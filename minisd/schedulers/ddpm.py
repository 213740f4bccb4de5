"""DDPM: undo the noising step by step, adding a little fresh noise after each step but the last."""

import numpy as np
from torch import Tensor

from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import ALPHA_BAR
from minisd.schedulers.schedule import plan_integer_times


def ddpm_step(x: Tensor, x0: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor, noise: Tensor | None,
              variance_type: str = "fixed_small") -> Tensor:
    """A draw from the posterior q(x_{t-1} | x_t, x_0), with the predicted x_0.

    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", for steps of any length:

        here              in the paper
        x, x0             x_t, x_0
        alpha_bar         ᾱ_t
        alpha_bar_next    ᾱ_{t-1}
        alpha, beta       α_t, β_t
        noise             z in algorithm 2; None for z = 0
        variance          σ_t² in algorithm 2: β̃_t ("fixed_small", exact if all data were one point) or β_t
                          ("fixed_large", exact if the data were standard normal)
    """
    alpha = alpha_bar / alpha_bar_next
    beta = 1 - alpha
    mean = (alpha_bar_next**0.5 * beta / (1 - alpha_bar) * x0
            + alpha**0.5 * (1 - alpha_bar_next) / (1 - alpha_bar) * x)  # equation 7
    if noise is None:
        return mean
    variance = beta if variance_type == "fixed_large" else (1 - alpha_bar_next) / (1 - alpha_bar) * beta  # equation 7
    return mean + variance**0.5 * noise  # algorithm 2, line 4


class DDPMScheduler(Scheduler):
    """Ancestral sampling: random, and needs many steps; one network call per step."""

    DEFAULTS = COMMON | {
        "timestep_spacing": "leading", "variance_type": "fixed_small", "clip_sample": True, "clip_sample_range": 1.0,
        "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
        "rescale_betas_zero_snr": False,
    }
    mixture = ALPHA_BAR

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        return plan_integer_times(self.config, steps, self._all_sigmas())

    def _predict(self, output: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        x0, eps = super()._predict(output, x, i)
        return self._clipped(x0), eps

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        alpha_bar = self._noise_level(now.i)
        last = now.i + 1 == len(self._times)
        alpha_bar_next = alpha_bar.new_ones(()) if last else self._noise_level(now.i + 1)
        noise = draw_noise() if self._times[now.i] > 0 else None
        return ddpm_step(now.x, now.x0, alpha_bar, alpha_bar_next, noise, self.config["variance_type"])
