"""What all samplers share: the config in and out, the way through the timesteps, noising."""

import json
from numbers import Integral
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from minisd.files import atomic_folder, read_json
from minisd.schedulers.config import FIELDS, Config, check_config
from minisd.schedulers.schedule import make_betas, predictions, spaced_timesteps, zero_terminal_snr


class StepOutput(NamedTuple):
    """What `step` returns: x a step less noisy, and what the network thinks the clean x0 to be; both shaped like x."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class Scheduler:
    """Base of the samplers, in the spelling x_t = sqrt(ᾱ_t)·x0 + sqrt(1 - ᾱ_t)·ε.

    A sampler is used as

        scheduler.set_timesteps(20)
        x = torch.randn(shape) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(output, t, x).prev_sample

    Args:
        config: fields of a published scheduler_config.json; `DEFAULTS` are what absent ones mean.

    Attributes:
        betas, alphas_cumprod: β_t and ᾱ_t for all training times, float32, (num_train_timesteps,), on the CPU.
        timesteps: what `step` and the network are to be called with, in this order.
        sigmas: σ at the timesteps and after the last one, float32, on the CPU: a loop never waits for a GPU.
        init_noise_sigma: what pure noise must be multiplied by to begin.
        order: network calls for each of the `num_inference_steps`.
    """

    DEFAULTS: dict
    init_noise_sigma = 1.0
    order = 1

    def __init__(self, **config):
        # The name matters: it is the one which diffusers' pipelines replace where they correct an outdated config.
        self._internal_dict = check_config(type(self).__name__, self.DEFAULTS, config)
        c = self.config
        if c.trained_betas is not None:
            self.betas = torch.tensor(c.trained_betas, dtype=torch.float32)
        else:
            self.betas = make_betas(c.beta_schedule, c.beta_start, c.beta_end, c.num_train_timesteps)
        if self._own("rescale_betas_zero_snr"):
            self.betas = zero_terminal_snr(self.betas)
        self.alphas_cumprod = torch.cumprod(1 - self.betas, dim=0)
        self._visit(np.arange(c.num_train_timesteps)[::-1], self._all_sigmas()[::-1])
        self.num_inference_steps: int | None = None

    # --- the config -------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        return self._internal_dict

    def _own(self, field: str):
        """What the config says in a field that not all samplers have; None if this one has not, and only keeps it."""
        return self.config[field] if field in self.DEFAULTS else None

    @classmethod
    def from_config(cls, config: dict | str | Path, **changes) -> Self:
        """From a dict, another scheduler's `.config`, or a folder with a scheduler_config.json.

        Fields that only other samplers have are kept, unused, for the next swap; those which another scheduler's
        config had not been given get this class's defaults: so a pipeline's sampler can be swapped, as in diffusers.

        Raises:
            FileNotFoundError: no such file in the folder.
            ValueError: a field that no sampler has, or a value which is not supported.
        """
        if not isinstance(config, dict):
            config = read_json(Path(config) / "scheduler_config.json")
        not_given = config.get("_use_default_values") or []
        fields = {name: value for name, value in config.items() if not name.startswith("_") and name not in not_given}
        others = {name: value for name, value in fields.items() if name in FIELDS and name not in cls.DEFAULTS}
        scheduler = cls(**{name: value for name, value in (fields | changes).items() if name not in others})
        scheduler._internal_dict |= others
        return scheduler

    def save_config(self, folder: str | Path) -> None:
        """Write scheduler_config.json; diffusers opens it."""
        config = {name: value for name, value in self.config.items() if name != "_use_default_values"}
        with atomic_folder(folder) as new:
            (new / "scheduler_config.json").write_text(json.dumps(config, indent=2) + "\n")

    save_pretrained = save_config

    # --- the way through the timesteps ------------------------------------------------------------------------

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the timesteps, and forget an earlier run.

        Args:
            device: where `timesteps` are to live; all other tables stay on the CPU.

        Raises:
            ValueError: not from 1 to num_train_timesteps steps, or too many for the spacing and offset.
        """
        steps, most = num_inference_steps, self.config.num_train_timesteps
        if not isinstance(steps, Integral) or isinstance(steps, bool) or not 1 <= steps <= most:
            raise ValueError(f"num_inference_steps={steps!r}; it must be a whole number from 1 to {most}")
        self._visit(*self._plan(int(steps)), device)
        self.num_inference_steps = int(steps)

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The times to visit, whole numbers, and their σ."""
        c = self.config
        times = spaced_timesteps(c.timestep_spacing, steps, c.num_train_timesteps, c.steps_offset)
        times = times.round().astype(np.int64)
        return times, self._all_sigmas()[times]

    def _visit(self, times: np.ndarray, sigmas: np.ndarray, device=None) -> None:
        """Lay down the tables of a run."""
        self._times = times.tolist()
        self.timesteps = torch.from_numpy(times.copy()).to(device)
        last = self._all_sigmas()[0] if self._own("final_sigmas_type") == "sigma_min" else 0.0
        self.sigmas = torch.from_numpy(np.append(sigmas, last).astype(np.float32))
        self.step_index: int | None = None  # the index of the next step; None before the first
        self.begin_index: int | None = None
        self._forget()

    def _forget(self) -> None:
        """Drop what a multistep sampler remembers of its earlier steps."""
        self.history: list[Tensor] = []

    def set_begin_index(self, begin_index: int) -> None:
        """Say that the run begins at `timesteps[begin_index]`, as image-to-image does."""
        if not 0 <= begin_index < len(self._times):
            raise ValueError(f"begin_index={begin_index!r}; it must be from 0 to {len(self._times) - 1}")
        self.begin_index = begin_index

    def _index(self, t: float | Tensor) -> int:
        """Where t is in `timesteps`.

        Steps are counted, because a timestep may come twice, and because a look at a t on the GPU would wait for
        the GPU. Only a t that is visibly not the next one is looked up (the second, where it comes twice).
        """
        if self.num_inference_steps is None:
            raise ValueError(f"{type(self).__name__}: call set_timesteps(number of steps) before the loop")
        counted = self.begin_index if self.step_index is None else self.step_index
        due = counted or 0
        if due < len(self._times):
            on_gpu = isinstance(t, Tensor) and t.device.type != "cpu"
            if (on_gpu and counted is not None) or float(t) == self._times[due]:
                return due
        return self._look_up(float(t))

    def _look_up(self, t: float) -> int:
        places = [i for i, time in enumerate(self._times) if time == t]
        if not places:
            listed = ", ".join(f"{time:g}" for time in self._times[:6])
            raise ValueError(f"t={t:g} is not one of the timesteps, which are {listed}"
                             + (", …" if len(self._times) > 6 else ""))
        return places[:2][-1]

    def _begin_step(self, model_output: Tensor, t: float | Tensor, x: Tensor) -> tuple[int, Tensor, Tensor]:
        """Check; the step's index, and the two tensors in float32 at least."""
        if model_output.shape != x.shape:
            raise ValueError(f"model_output has shape {tuple(model_output.shape)} and x {tuple(x.shape)}; "
                             "they must have the same")
        i = self._index(t)
        if self.step_index is not None and i != self.step_index:
            self._forget()  # not the next timestep: a new run begins here
        self.step_index = i
        exact = torch.promote_types(x.dtype, torch.float32)
        return i, model_output.to(exact), x.to(exact)

    def _end_step(self, prev: Tensor, x0: Tensor, dtype: torch.dtype) -> StepOutput:
        self.step_index += 1
        return StepOutput(prev.to(dtype), x0.to(dtype, copy=True))  # a copy: a sampler may remember its own

    # --- noise ------------------------------------------------------------------------------------------------

    def _all_sigmas(self) -> np.ndarray:
        """σ at every training time."""
        with np.errstate(divide="ignore"):  # infinite where nothing but noise is left
            return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().numpy()

    def scale_model_input(self, x: Tensor, t: float | Tensor | None = None) -> Tensor:
        """What the network is to see; here x itself."""
        return x

    def _predict(self, output: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """(x0, ε) at step i; x0 clipped where the config says so."""
        c = self.config
        alpha_cumprod = self.alphas_cumprod[self._times[i]]
        x0, eps = predictions(c.prediction_type, output, x, alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5)
        if self._own("clip_sample"):
            x0 = x0.clamp(-c.clip_sample_range, c.clip_sample_range)
        return x0, eps

    def add_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t = sqrt(ᾱ_t)·x0 + sqrt(1 - ᾱ_t)·noise; t from 0 to num_train_timesteps - 1, one or one for each item."""
        alpha, sigma = self._mixture(x0, noise, t)
        return alpha * x0 + sigma * noise

    def get_velocity(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """What a network with v_prediction learns: v = sqrt(ᾱ_t)·noise - sqrt(1 - ᾱ_t)·x0."""
        alpha, sigma = self._mixture(x0, noise, t)
        return alpha * noise - sigma * x0

    def _mixture(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(ᾱ_t) and sqrt(1 - ᾱ_t), (B, 1, …), at training times t."""
        check_noise(x0, noise, t)
        t = torch.as_tensor(t).reshape(-1)
        last = self.config.num_train_timesteps - 1
        if t.device.type == "cpu" and (t.min() < 0 or t.max() > last or (t != t.long()).any()):
            raise ValueError(f"t={t.tolist()}; times of training are whole numbers from 0 to {last}")
        alphas_cumprod = self.alphas_cumprod.to(t.device, non_blocking=True)[t.long()]
        return column(alphas_cumprod.sqrt(), x0), column((1 - alphas_cumprod).sqrt(), x0)


def check_noise(x0: Tensor, noise: Tensor, t: float | Tensor) -> None:
    if noise.shape != x0.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)} and x0 {tuple(x0.shape)}; they must have the same")
    if isinstance(t, Tensor) and t.numel() not in (1, len(x0)):
        raise ValueError(f"t: {t.numel()} times for a batch of {len(x0)}; give one, or one for each item")


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, …), with the device and dtype of `like`; a single value as a scalar, which needs no copying."""
    if len(values) == 1:
        return values[0].to(like.dtype)
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.device, like.dtype)
