"""DDIM: jump to the predicted clean picture, then back to the noise level of the next timestep."""

import numpy as np
import torch
from torch import Tensor

from minisd.randomness import Generators
from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler, StepOutput
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import ALPHA_BAR
from minisd.schedulers.schedule import plan_integer_times


def ddim_step(x0: Tensor, eps: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor, eta: float = 0.0,
              noise: Tensor | float = 0.0) -> Tensor:
    """x at the next timestep: deterministic for eta = 0, as random as DDPM for eta = 1.

    Song et al. 2020, "Denoising Diffusion Implicit Models", whose α is ᾱ here:

        here              in the paper
        x0                f_θ(x_t), "predicted x_0"
        eps               ε_θ(x_t)
        alpha_bar         α_t, or α at τ_i
        alpha_bar_next    α_{t-1}, or α at τ_{i-1}
        eta               η
        noise             ε_t; used only if eta > 0
        sigma             σ_t
    """
    sigma = eta * ((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)) ** 0.5  # equation 16
    x = alpha_bar_next**0.5 * x0 + (1 - alpha_bar_next - sigma**2) ** 0.5 * eps  # equation 12
    return x + sigma * noise if eta > 0 else x


class DDIMScheduler(Scheduler):
    """Deterministic, unless `step` is given an eta above 0; one network call per step.

    The last step ends without any noise (ᾱ = 1) if `set_alpha_to_one`, and otherwise, as in Stable Diffusion, at the
    noise level of training time 0.
    """

    DEFAULTS = COMMON | {
        "timestep_spacing": "leading", "set_alpha_to_one": True, "clip_sample": True, "clip_sample_range": 1.0,
        "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
        "rescale_betas_zero_snr": False,
    }
    mixture = ALPHA_BAR
    eta = 0.0  # of the current step

    def step(self, model_output: Tensor, t: float | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True, eta: float = 0.0) -> StepOutput:
        """`Scheduler.step`, with one more argument.

        Args:
            eta: from 0 (no fresh noise) to 1 (as much as DDPM adds).

        Raises:
            ValueError: eta is out of range; and as in `Scheduler.step`.
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta!r}; it must be from 0 (deterministic) to 1")
        self.eta = eta
        return super().step(model_output, t, x, generator)

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        return plan_integer_times(self.config, steps, self._all_sigmas())

    def _predict(self, output: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        x0, eps = super()._predict(output, x, i)
        return self._clipped(x0), eps

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        # As in diffusers, the next time is computed from t, even where the next timestep is a different one (with
        # "linspace", or because of rounding).
        t_next = self._times[now.i] - self.config["num_train_timesteps"] // self.num_inference_steps
        alpha_bar_next = self.alphas_cumprod[t_next] if t_next >= 0 else self._final_alpha_bar()
        noise = draw_noise() if self.eta > 0 else 0.0
        return ddim_step(now.x0, now.eps, self._noise_level(now.i), alpha_bar_next, self.eta, noise)

    def _final_alpha_bar(self) -> Tensor:
        return torch.tensor(1.0) if self.config["set_alpha_to_one"] else self.alphas_cumprod[0]
