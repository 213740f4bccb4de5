"""Euler: the plainest way to solve an ODE. Follow the slope here all the way to the next σ."""

from torch import Tensor

from minisd.randomness import Generators
from minisd.schedulers.base import StepOutput
from minisd.schedulers.config import COMMON
from minisd.schedulers.sigma import SigmaScheduler


class EulerDiscreteScheduler(SigmaScheduler):
    """Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1 without
    its second-order correction; deterministic."""

    DEFAULTS = COMMON | {
        "timestep_spacing": "linspace", "use_karras_sigmas": False, "use_exponential_sigmas": False,
        "use_beta_sigmas": False, "interpolation_type": "linear", "timestep_type": "discrete", "sigma_min": None,
        "sigma_max": None, "final_sigmas_type": "zero", "rescale_betas_zero_snr": False,
    }

    def step(self, model_output: Tensor, t: float | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True) -> StepOutput:
        """One step along the slope dx/dσ = ε:

            x_{i+1} = x_i + (σ_{i+1} - σ_i)·ε

        Args:
            model_output: what the network said about scale_model_input(x, t), shaped like x.
            generator: not used.

        Raises:
            ValueError: before set_timesteps, at a t that is none of the timesteps, or for different shapes.
        """
        i, output, x_t = self._begin_step(model_output, t, x)
        x0, eps = self._predict(output, x_t, i)
        prev = x_t + (self.sigmas[i + 1] - self.sigmas[i]) * eps
        return self._end_step(prev, x0, x.dtype)
