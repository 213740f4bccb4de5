"""Euler-ancestral: an Euler step that goes too far down, and fresh noise that brings it up again."""

from torch import Tensor

from minisd.randomness import Generators, randn
from minisd.schedulers.base import StepOutput
from minisd.schedulers.config import COMMON
from minisd.schedulers.sigma import SigmaScheduler


class EulerAncestralDiscreteScheduler(SigmaScheduler):
    """Crowson's k-diffusion, `sample_euler_ancestral`; random, as DDPM is, and needs fewer steps."""

    DEFAULTS = COMMON | {"timestep_spacing": "linspace", "rescale_betas_zero_snr": False}

    def step(self, model_output: Tensor, t: float | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True) -> StepOutput:
        """One step to σ_down, below σ_{i+1}, and up with fresh noise z ~ N(0, 1):

            x_{i+1} = x_i + (σ_down - σ_i)·ε + σ_up·z
            σ_up² = σ_{i+1}²·(σ_i² - σ_{i+1}²)/σ_i²        σ_down² = σ_{i+1}² - σ_up²

        Args:
            model_output: what the network said about scale_model_input(x, t), shaped like x.
            generator: one, or a list with one for each item of the batch.

        Raises:
            ValueError: before set_timesteps, at a t that is none of the timesteps, or for different shapes.
        """
        i, output, x_t = self._begin_step(model_output, t, x)
        x0, eps = self._predict(output, x_t, i)
        sigma, sigma_next = self.sigmas[i], self.sigmas[i + 1]
        sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
        sigma_down = (sigma_next**2 - sigma_up**2) ** 0.5
        prev = x_t + (sigma_down - sigma) * eps + sigma_up * randn(x.shape, generator, x.device, x_t.dtype)
        return self._end_step(prev, x0, x.dtype)
