"""DDPM: step back through the noise that training added, adding a little fresh noise at every step."""

from torch import Tensor

from minisd.randomness import Generators, randn
from minisd.schedulers.base import Scheduler, StepOutput
from minisd.schedulers.config import COMMON


class DDPMScheduler(Scheduler):
    """Ancestral sampling of Ho et al. 2020, "Denoising Diffusion Probabilistic Models", algorithm 2.

    It is random, and wants many steps. `variance_type` is how much noise a step adds: "fixed_small" (β̃, right if the
    data were a point) or "fixed_large" (β, right if they were standard normal).
    """

    DEFAULTS = COMMON | {
        "timestep_spacing": "leading", "variance_type": "fixed_small", "clip_sample": True, "clip_sample_range": 1.0,
        "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
        "rescale_betas_zero_snr": False,
    }

    def step(self, model_output: Tensor, t: int | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True) -> StepOutput:
        """One step from timestep t to the next, s. With α = ᾱ_t/ᾱ_s, β = 1 - α (equations 6 and 7):

            x_s = sqrt(ᾱ_s)·β/(1 - ᾱ_t)·x0 + sqrt(α)·(1 - ᾱ_s)/(1 - ᾱ_t)·x_t + sqrt(β̃)·z      z ~ N(0, 1)
            β̃ = (1 - ᾱ_s)/(1 - ᾱ_t)·β

        Args:
            model_output: what the network said about x at timestep t, shaped like x.
            generator: one, or a list with one for each item of the batch.

        Raises:
            ValueError: before set_timesteps, at a t that is none of the timesteps, or for different shapes.
        """
        i, output, x_t = self._begin_step(model_output, t, x)
        x0, _ = self._predict(output, x_t, i)
        alpha_bar_t = self.alphas_cumprod[self._times[i]]
        last = i + 1 == len(self._times)
        alpha_bar_s = self.alphas_cumprod[self._times[i + 1]] if not last else alpha_bar_t.new_ones(())
        alpha = alpha_bar_t / alpha_bar_s
        beta = 1 - alpha

        prev = (alpha_bar_s**0.5 * beta / (1 - alpha_bar_t) * x0
                + alpha**0.5 * (1 - alpha_bar_s) / (1 - alpha_bar_t) * x_t)
        if self._times[i] > 0:
            small = (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta
            variance = beta if self.config.variance_type == "fixed_large" else small
            prev = prev + variance**0.5 * randn(x.shape, generator, x.device, x_t.dtype)
        return self._end_step(prev, x0, x.dtype)
