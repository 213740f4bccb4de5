"""Heun: try an Euler step, look at the slope where it ends, and take the step again with the mean of both slopes."""

import numpy as np
from torch import Tensor

from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.euler import euler_step
from minisd.schedulers.mixture import ADDED_NOISE
from minisd.schedulers.schedule import plan_fractional_times


def heun_step(x: Tensor, eps: Tensor, eps_next: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x at the next σ, along the mean of the slopes dx/dσ = ε at the step's beginning and where an Euler step ends.
    Deterministic.

    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1, with
    σ(t) = t and s(t) = 1:

        here          in the paper
        x             x_i
        eps           d_i
        eps_next      d'_i, the slope at x_i + (t_{i+1} - t_i)·d_i
        sigma         t_i
        sigma_next    t_{i+1}
    """
    return x + (sigma_next - sigma) * (eps + eps_next) / 2  # line 8


class HeunDiscreteScheduler(Scheduler):
    """Two network calls per step, so every timestep but the first occurs twice: an Euler step (line 5) leads to the
    point where the second slope is evaluated. The last step, to σ = 0, is just an Euler step (line 6)."""

    DEFAULTS = COMMON | {
        "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "linspace", "clip_sample": False,
        "clip_sample_range": 1.0, "use_karras_sigmas": False, "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
    }
    mixture = ADDED_NOISE
    order = 2
    memory = 1

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        times, sigmas = plan_fractional_times(
            self.config, steps, self._all_sigmas(), self.config["use_karras_sigmas"])
        return np.repeat(times, 2)[1:], np.append(np.repeat(sigmas[:-1], 2)[1:], sigmas[-1])  # t0 t1 t1 t2 t2 …

    def _predict(self, output: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        x0, eps = super()._predict(output, x, i)
        if self.config["clip_sample"]:
            x0 = self._clipped(x0)
            eps = (x - x0) / self.sigmas[i]
        return x0, eps

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        if now.i % 2 == 0:
            return euler_step(now.x, now.eps, self.sigmas[now.i], self.sigmas[now.i + 1])
        if not self.past:
            raise ValueError(f"a run cannot begin at index {now.i} of Heun's timesteps, between a step and its "
                             f"correction; begin at {now.i + 1}")
        start = self.past[-1]
        return heun_step(start.x, start.eps, now.eps, self.sigmas[start.i], self.sigmas[now.i])
