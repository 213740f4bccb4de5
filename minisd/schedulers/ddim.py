"""DDIM: jump to the predicted clean picture, then back to the noise level of the next timestep."""

import torch
from torch import Tensor

from minisd.randomness import Generators, randn
from minisd.schedulers.base import Scheduler, StepOutput
from minisd.schedulers.config import COMMON


class DDIMScheduler(Scheduler):
    """Song et al. 2020, "Denoising Diffusion Implicit Models": deterministic for eta = 0, DDPM-like for eta = 1.

    `set_alpha_to_one`: whether the last step ends without any noise (ᾱ = 1), or, as Stable Diffusion has it, with
    that of training time 0.
    """

    DEFAULTS = COMMON | {
        "timestep_spacing": "leading", "set_alpha_to_one": True, "clip_sample": True, "clip_sample_range": 1.0,
        "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
        "rescale_betas_zero_snr": False,
    }

    def step(self, model_output: Tensor, t: int | Tensor, x: Tensor, generator: Generators = None, eta: float = 0.0,
             return_dict: bool = True) -> StepOutput:
        """One step from timestep t to the next, s (equations 12 and 16):

            x_s = sqrt(ᾱ_s)·x0 + sqrt(1 - ᾱ_s - σ²)·ε + σ·z      z ~ N(0, 1)
            σ = eta·sqrt((1 - ᾱ_s)/(1 - ᾱ_t))·sqrt(1 - ᾱ_t/ᾱ_s)

        Args:
            model_output: what the network said about x at timestep t, shaped like x.
            generator: one, or a list with one for each item of the batch; used if eta > 0.
            eta: how much of each step's noise is fresh, 0 to 1.

        Raises:
            ValueError: before set_timesteps, at a t that is none of the timesteps, for different shapes, or an eta
                out of range.
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta!r}; it must be from 0 (deterministic) to 1")
        i, output, x_t = self._begin_step(model_output, t, x)
        x0, eps = self._predict(output, x_t, i)
        alpha_bar_t = self.alphas_cumprod[self._times[i]]
        # As in diffusers, s is reckoned from the spacing, also where rounding puts the next timestep one beside it.
        s = self._times[i] - self.config.num_train_timesteps // self.num_inference_steps
        alpha_bar_s = self.alphas_cumprod[s] if s >= 0 else self._final_alpha_bar()
        sigma = eta * ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)) ** 0.5

        prev = alpha_bar_s**0.5 * x0 + (1 - alpha_bar_s - sigma**2) ** 0.5 * eps
        if eta > 0:
            prev = prev + sigma * randn(x.shape, generator, x.device, x_t.dtype)
        return self._end_step(prev, x0, x.dtype)

    def _final_alpha_bar(self) -> Tensor:
        return torch.tensor(1.0) if self.config.set_alpha_to_one else self.alphas_cumprod[0]
