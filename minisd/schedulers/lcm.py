"""LCM: for networks that were distilled to jump to the clean picture at once. Jump, add noise, and jump again."""

import numpy as np
from torch import Tensor

from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import ALPHA_BAR


def lcm_step(jump: Tensor, alpha_bar_next: Tensor, noise: Tensor) -> Tensor:
    """x at the next timestep: the picture that the network jumped to, with fresh noise. Random.

    Luo et al. 2023, "Latent Consistency Models", algorithm 3, which is algorithm 1 of Song et al. 2023, "Consistency
    Models", for a mixture of data and noise:

        here                       in the paper
        jump                       z, the result of f_θ(ẑ_τ, ω, c, τ)
        alpha_bar_next             α(τ_n)², and σ²(τ_n) is 1 - alpha_bar_next
        noise                      what is drawn in N(α(τ_n)z; σ²(τ_n)I)
    """
    return alpha_bar_next**0.5 * jump + (1 - alpha_bar_next) ** 0.5 * noise


def consistency(x: Tensor, x0: Tensor, time: float) -> Tensor:
    """f(x, t), which is x itself at t = 0, as a consistency function must be, and nearly x0 soon after.

    Song et al. 2023, equation 5, with the c_skip and c_out of their appendix C for σ_data = 0.5:

        here                       in the paper
        x0                         F_θ(x, t); Luo et al. take the predicted x0 for it, equation 9
        time                       t; in latent consistency models the training time times `timestep_scaling`
    """
    sigma_data = 0.5
    c_skip = sigma_data**2 / (time**2 + sigma_data**2)
    c_out = time / (time**2 + sigma_data**2) ** 0.5
    return c_skip * x + c_out * x0


class LCMScheduler(Scheduler):
    """Random; one network call per step, and four steps are usual. Draws well only with a network that was distilled
    for it, for example by an LCM-LoRA (`StableDiffusion.load_lora`), and then without guidance (guidance_scale=1).

    The network knows only the `original_inference_steps` times (50) of its distillation; a run visits some of them.
    The predicted x0 that `step` returns is the jump f(x, t), as diffusers' `denoised`. `timestep_spacing`,
    `steps_offset` and `set_alpha_to_one` have no effect here, as in diffusers.
    """

    DEFAULTS = COMMON | {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "leading",
        "original_inference_steps": 50, "timestep_scaling": 10.0, "set_alpha_to_one": True, "clip_sample": False,
        "clip_sample_range": 1.0, "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
        "rescale_betas_zero_snr": False,
    }
    mixture = ALPHA_BAR

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        train_steps, known = self.config["num_train_timesteps"], self.config["original_inference_steps"]
        if steps > known:
            raise ValueError(f"num_inference_steps={steps}; for LCM it must be from 1 to {known} "
                             "(original_inference_steps), the times at which the network was distilled; 4 are usual")
        distilled = np.arange(known, 0, -1) * (train_steps // known) - 1  # from noisy to clean
        times = distilled[np.linspace(0, known, steps, endpoint=False).astype(np.int64)]
        return times, np.append(self._all_sigmas()[times], 0.0)

    def _predict(self, output: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        x0, eps = super()._predict(output, x, i)
        return consistency(x, self._clipped(x0), self._times[i] * self.config["timestep_scaling"]), eps

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        if now.i + 1 == len(self._times):
            return now.x0
        return lcm_step(now.x0, self.alphas_cumprod[self._times[now.i + 1]], draw_noise())
