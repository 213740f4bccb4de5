"""PNDM: DDIM's step along the slope of a multistep method; the sampler that Stable Diffusion was published with."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import ALPHA_BAR
from minisd.schedulers.schedule import plan_integer_times

# By how many slopes are known: the weights of the latest slope, of the one before, …. Four are equation 12 of the
# paper, two equation 23; three follow the same rule.
ADAMS_BASHFORTH = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12),
                   4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)  # equation 13: slopes at the start, twice in the middle, at the end


def pndm_step(x: Tensor, eps: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> Tensor:
    """DDIM's step along a slope that need not be the network's output at x; deterministic.

    Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds":

        here              in the paper
        x                 x_t
        eps               e'_t: `multistep_slope` (equation 12), or Runge-Kutta's (equation 13)
        alpha_bar         ᾱ_t
        alpha_bar_next    ᾱ_{t-δ}
    """
    return (alpha_bar_next / alpha_bar) ** 0.5 * x - (alpha_bar_next - alpha_bar) / (
        alpha_bar * (1 - alpha_bar_next) ** 0.5 + (alpha_bar * (1 - alpha_bar) * alpha_bar_next) ** 0.5) * eps  # eq. 11


def multistep_slope(eps: Sequence[Tensor]) -> Tensor:
    """The mean slope over the next step, extrapolated from the last one to four, the latest last (equation 12)."""
    return weighted_sum(ADAMS_BASHFORTH[len(eps)], list(reversed(eps)))


def weighted_sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    return sum((weight * slope for weight, slope in zip(weights, slopes)), start=torch.zeros(()))


class PNDMScheduler(Scheduler):
    """Deterministic; one network call per step, except at the beginning.

    With `skip_prk_steps` ("PLMS", as in Stable Diffusion) the second timestep occurs twice, to improve the first step.
    Without it, the first three steps are Runge-Kutta steps of four network calls each.

    As in diffusers, the network's outputs are combined before they are converted to ε. For v, whose meaning changes
    with the noise level, this costs an order of accuracy.
    """

    DEFAULTS = COMMON | {"timestep_spacing": "leading", "skip_prk_steps": False, "set_alpha_to_one": False}
    mixture = ALPHA_BAR
    memory = 3

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        times, _ = plan_integer_times(self.config, steps, self._all_sigmas())
        if self.config["skip_prk_steps"]:
            times = np.concatenate([times[:2], times[1:]])  # t0 t1 t1 t2 t3 …
        else:
            if steps < 4:
                raise ValueError(f"num_inference_steps={steps}; PNDM with skip_prk_steps=False needs at least 4")
            half = self.config["num_train_timesteps"] // steps // 2
            stages = [[start, end + half, end + half, end] for start, end in pairwise(times[:4])]
            times = np.concatenate([*stages, times[3:]])
        return times, np.append(self._all_sigmas()[times], 0.0)

    def _forget(self) -> None:
        super()._forget()
        self.calls = 0  # network calls since the run began
        self.outputs: list[Tensor] = []  # the outputs at the beginning of the last four steps

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        with_runge_kutta = not self.config["skip_prk_steps"]
        if with_runge_kutta and now.i != self.calls:
            raise ValueError(f"begin at the first timestep, not at t={self._times[now.i]}: PNDM with "
                             "skip_prk_steps=False cannot begin in the middle")
        prev = self._runge_kutta(now) if with_runge_kutta and self.calls < 12 else self._multistep(now)
        self.calls += 1
        return prev

    def _multistep(self, now: Evaluation) -> Tensor:
        # As in diffusers, δ is the same for all steps, and calls are counted from where the run begins. So a run that
        # begins in the middle also uses its second call to improve its first step, and ends one step early.
        t, delta = self._times[now.i], self.config["num_train_timesteps"] // self.num_inference_steps
        if self.calls == 1:  # the first step again, with the mean of the slopes at its two ends (equation 22)
            first = self.past[-1]
            return self._transfer(first.x, (now.output + first.output) / 2, t + delta, t)
        self.outputs = [*self.outputs, now.output][-4:]
        return self._transfer(now.x, multistep_slope(self.outputs), t, t - delta)

    def _runge_kutta(self, now: Evaluation) -> Tensor:
        """One of the four stages of a step: at its start, twice in its middle, at its end."""
        stage = self.calls % 4
        if stage == 0:
            self.outputs.append(now.output)
        stages = [*self.past, now][-1 - stage:]
        t, half = self._times[stages[0].i], self.config["num_train_timesteps"] // self.num_inference_steps // 2
        if stage == 3:
            slope = weighted_sum(RUNGE_KUTTA, [call.output for call in stages])
            return self._transfer(stages[0].x, slope, t, self._times[now.i])
        return self._transfer(stages[0].x, now.output, t, self._times[now.i] - (half if stage != 1 else 0))

    def _transfer(self, x: Tensor, output: Tensor, t: int, t_next: int) -> Tensor:
        """x at t_next, from x at t, along the slope that an output gives at t."""
        alpha_bar = self._alpha_bar(t)
        _, eps = self.mixture.predictions(self.config["prediction_type"], output, x, alpha_bar)
        return pndm_step(x, eps, alpha_bar, self._alpha_bar(t_next))

    def _alpha_bar(self, t: int) -> Tensor:
        if t >= 0:
            return self.alphas_cumprod[t]
        return torch.tensor(1.0) if self.config["set_alpha_to_one"] else self.alphas_cumprod[0]
