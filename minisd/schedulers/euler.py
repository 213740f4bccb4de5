"""Euler's method, the plainest solver of an ODE: follow the slope at this σ straight to the next σ."""

import numpy as np
from torch import Tensor

from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import ADDED_NOISE
from minisd.schedulers.schedule import plan_fractional_times


def euler_step(x: Tensor, eps: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x at the next σ, reached in a straight line: since x = x0 + σ·ε, the slope dx/dσ is ε. Deterministic.

    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1 without its
    correction (lines 6 to 8), with σ(t) = t and s(t) = 1:

        here          in the paper
        x             x_i
        eps           d_i
        sigma         t_i
        sigma_next    t_{i+1}
    """
    return x + (sigma_next - sigma) * eps  # line 5


class EulerDiscreteScheduler(Scheduler):
    """Euler's method for x = x0 + σ·ε (`ADDED_NOISE`); one network call per step.

    `_plan` picks the σ of a run from those of all training times. `Scheduler.step` turns the network's output at step i
    into `now.eps`, and then calls `_advance`.
    """

    DEFAULTS = COMMON | {
        "timestep_spacing": "linspace", "use_karras_sigmas": False, "use_exponential_sigmas": False,
        "use_beta_sigmas": False, "interpolation_type": "linear", "timestep_type": "discrete", "sigma_min": None,
        "sigma_max": None, "final_sigmas_type": "zero", "rescale_betas_zero_snr": False,
    }
    mixture = ADDED_NOISE

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        all_sigmas = self._all_sigmas()  # from the cleanest training time to the noisiest
        final_sigma = all_sigmas[0] if self.config["final_sigmas_type"] == "sigma_min" else 0.0
        return plan_fractional_times(self.config, steps, all_sigmas, self.config["use_karras_sigmas"], final_sigma)

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        return euler_step(now.x, now.eps, self.sigmas[now.i], self.sigmas[now.i + 1])
