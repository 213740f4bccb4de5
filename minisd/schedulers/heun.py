"""Heun: try an Euler step, look at the slope where it ends, and take the step again with the mean of both slopes."""

import numpy as np
from torch import Tensor

from minisd.randomness import Generators
from minisd.schedulers.base import StepOutput
from minisd.schedulers.config import COMMON
from minisd.schedulers.sigma import SigmaScheduler


class HeunDiscreteScheduler(SigmaScheduler):
    """Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1;
    deterministic, two network calls a step (so every timestep but the first comes twice)."""

    DEFAULTS = COMMON | {
        "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "linspace", "clip_sample": False,
        "clip_sample_range": 1.0, "use_karras_sigmas": False, "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
    }
    order = 2

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        times, sigmas = super()._plan(steps)
        return np.repeat(times, 2)[1:], np.repeat(sigmas, 2)[1:]  # t0 t1 t1 t2 t2 …

    def step(self, model_output: Tensor, t: float | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True) -> StepOutput:
        """Half a step: first the trial, then the correction, whose slope ε' is that at the trial's end:

            trial:       x' = x_i + (σ_{i+1} - σ_i)·ε
            correction:  x_{i+1} = x_i + (σ_{i+1} - σ_i)·(ε + ε')/2

        The last step, to σ = 0, is only a trial.

        Args:
            model_output: what the network said about scale_model_input(x, t), shaped like x.
            generator: not used.

        Raises:
            ValueError: before set_timesteps, at a t that is none of the timesteps, for different shapes, or where a
                run begins with a correction.
        """
        i, output, x_t = self._begin_step(model_output, t, x)
        x0, eps = self._predict(output, x_t, i)
        if i % 2 == 0:
            self.history = [x_t, eps]
            prev = x_t + (self.sigmas[i + 1] - self.sigmas[i]) * eps
        else:
            if not self.history:
                raise ValueError(f"a run cannot begin at index {i} of Heun's timesteps, between a step and its "
                                 f"correction; begin at {i + 1}")
            start, eps_start = self.history
            prev = start + (self.sigmas[i] - self.sigmas[i - 1]) * (eps_start + eps) / 2
        return self._end_step(prev, x0, x.dtype)
