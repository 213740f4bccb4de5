"""PNDM: DDIM's step with the slope of a multistep method, the first sampler that Stable Diffusion shipped with."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from minisd.randomness import Generators
from minisd.schedulers.base import Scheduler, StepOutput
from minisd.schedulers.config import COMMON
from minisd.schedulers.schedule import predictions

# By how many slopes are known: the weights of the latest, the one before, ….
ADAMS_BASHFORTH = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12),
                   4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


class PNDMScheduler(Scheduler):
    """Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds"; deterministic.

    With `skip_prk_steps` (Stable Diffusion's "PLMS") the second timestep comes twice, to make a better first step;
    without, the first three steps are Runge-Kutta steps of four network calls each.

    As in diffusers, outputs are averaged as they are. That suits ε; v, which turns from ε towards x0 along the way,
    loses an order of accuracy by it.
    """

    DEFAULTS = COMMON | {"timestep_spacing": "leading", "skip_prk_steps": False, "set_alpha_to_one": False}

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        times, _ = super()._plan(steps)
        if self.config.skip_prk_steps:
            times = np.concatenate([times[:2], times[1:]])  # t0 t1 t1 t2 t3 …
        else:
            if steps < 4:
                raise ValueError(f"num_inference_steps={steps}; PNDM with skip_prk_steps=False takes at least 4")
            half = self.config.num_train_timesteps // steps // 2
            stages = [[start, end + half, end + half, end] for start, end in pairwise(times[:4])]
            times = np.concatenate([*stages, times[3:]])
        return times, self._all_sigmas()[times]

    def _forget(self) -> None:
        super()._forget()  # history: the latest outputs, at most four
        self.calls = 0

    def step(self, model_output: Tensor, t: int | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True) -> StepOutput:
        """One step from timestep t: DDIM's transfer (equation 11) with a slope of up to four outputs (equation 12),

            e' = (55·e_t - 59·e_{t+δ} + 37·e_{t+2δ} - 9·e_{t+3δ})/24

        Args:
            model_output: what the network said about x at timestep t, shaped like x.
            generator: not used.

        Raises:
            ValueError: before set_timesteps, at a t that is none of the timesteps, or for different shapes.
        """
        i, output, x_t = self._begin_step(model_output, t, x)
        x0, _ = self._predict(output, x_t, i)
        with_runge_kutta = not self.config.skip_prk_steps
        if with_runge_kutta and i != self.calls:
            raise ValueError(f"begin at the first timestep, not at t={self._times[i]}: PNDM with skip_prk_steps=False "
                             "cannot begin in the middle")
        move = self._runge_kutta if with_runge_kutta and self.calls < 12 else self._multistep
        prev = move(output, self._times[i], x_t)
        self.calls += 1
        return self._end_step(prev, x0, x.dtype)

    def _multistep(self, output: Tensor, t: int, x: Tensor) -> Tensor:
        # As in diffusers, δ is reckoned from the spacing, and calls are counted from where the run begins: one that
        # begins in the middle spends its second timestep on improving the first step, and so ends a step early.
        delta = self.config.num_train_timesteps // self.num_inference_steps
        if self.calls == 1:  # back to the first step, with the mean slope of both its ends
            return self._transfer(self.first_x, (output + self.history[0]) / 2, t + delta, t)
        if self.calls == 0:
            self.first_x = x
        self.history = [*self.history, output][-4:]
        weights = ADAMS_BASHFORTH[len(self.history)]
        slope = sum(weight * e for weight, e in zip(weights, reversed(self.history)))
        return self._transfer(x, slope, t, t - delta)

    def _runge_kutta(self, output: Tensor, t: int, x: Tensor) -> Tensor:
        """One of a step's four stages (equation 13): at its start, twice in its middle, at its end."""
        half = self.config.num_train_timesteps // self.num_inference_steps // 2
        stage = self.calls % 4
        if stage == 0:
            self.first_x, self.first_t, self.slope = x, t, 0
            self.history.append(output)
        self.slope = self.slope + RUNGE_KUTTA[stage] * output
        end = t - half if stage in (0, 2) else t
        return self._transfer(self.first_x, self.slope if stage == 3 else output, self.first_t, end)

    def _transfer(self, x: Tensor, slope: Tensor, t: int, s: int) -> Tensor:
        """Equation 11, DDIM's step from time t to s, along a slope that need not be the output at x."""
        a_t, a_s = self._alpha_bar(t), self._alpha_bar(s)
        _, eps = predictions(self.config.prediction_type, slope, x, a_t**0.5, (1 - a_t) ** 0.5)
        return (a_s / a_t) ** 0.5 * x - (a_s - a_t) / (a_t * (1 - a_s) ** 0.5 + (a_t * (1 - a_t) * a_s) ** 0.5) * eps

    def _alpha_bar(self, t: int) -> Tensor:
        if t >= 0:
            return self.alphas_cumprod[t]
        return torch.tensor(1.0) if self.config.set_alpha_to_one else self.alphas_cumprod[0]
