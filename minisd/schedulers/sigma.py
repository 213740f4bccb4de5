"""What the samplers over σ share: the other spelling of noise, in which it is simply added."""

import numpy as np
import torch
from torch import Tensor

from minisd.schedulers.base import Scheduler, check_noise, column
from minisd.schedulers.schedule import karras_sigmas, predictions, spaced_timesteps, times_of_sigmas


class SigmaScheduler(Scheduler):
    """Base of the samplers in the spelling x = x0 + σ·ε (Karras et al. 2022), in which an ODE is solved over σ:

        dx/dσ = (x - x0(x, σ))/σ = ε(x, σ)

    The network was trained on x/sqrt(σ² + 1), which is the other spelling's x_t.
    """

    def __init__(self, **config):
        super().__init__(**config)
        if self._own("rescale_betas_zero_snr"):
            self.alphas_cumprod[-1] = 2**-24  # σ must stay finite: 4096
            self._visit(np.arange(self.config.num_train_timesteps)[::-1], self._all_sigmas()[::-1])

    @property
    def init_noise_sigma(self) -> float:
        largest = self.sigmas.max().item()
        return (largest**2 + 1) ** 0.5 if self.config.timestep_spacing == "leading" else largest

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The times to visit, float32 and possibly between two times of training, and their σ."""
        c, all_sigmas = self.config, self._all_sigmas()
        times = spaced_timesteps(c.timestep_spacing, steps, c.num_train_timesteps, c.steps_offset).astype(np.float32)
        sigmas = np.interp(times, np.arange(len(all_sigmas)), all_sigmas)
        if self._own("use_karras_sigmas"):
            sigmas = karras_sigmas(sigmas[0], sigmas[-1], steps)
            times = times_of_sigmas(sigmas, all_sigmas).astype(np.float32)
        return times, sigmas

    def scale_model_input(self, x: Tensor, t: float | Tensor | None = None) -> Tensor:
        """x/sqrt(σ² + 1), what the network is to see."""
        return x / (self.sigmas[self._index(t)] ** 2 + 1) ** 0.5

    def _predict(self, output: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """(x0, ε) at step i; x0 clipped where the config says so, and ε with it."""
        c, sigma = self.config, self.sigmas[i]
        scale = (sigma**2 + 1) ** 0.5
        x0, eps = predictions(c.prediction_type, output, x / scale, 1 / scale, sigma / scale)
        if self._own("clip_sample"):
            x0 = x0.clamp(-c.clip_sample_range, c.clip_sample_range)
            eps = (x - x0) / sigma
        return x0, eps

    def add_noise(self, x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
        """x0 + σ·noise at the timestep t, one or one for each item: of `timesteps`, if set_timesteps was called."""
        return x0 + self._sigma_at(x0, noise, t) * noise

    def _sigma_at(self, x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
        """σ, (B, 1, …), at timesteps t."""
        check_noise(x0, noise, t)
        t = torch.as_tensor(t).reshape(-1)
        if self.num_inference_steps is None:
            indices = [self._look_up(time) for time in t.tolist()]
        elif t.device.type != "cpu" and None not in (self.begin_index, self.step_index):
            indices = [self._index(t[0])]  # in a loop: all items are at the same step
        else:
            indices = [self._index(time) for time in t.tolist()]
        return column(self.sigmas[indices], x0)
