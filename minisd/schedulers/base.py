"""What all samplers share: first `step` and the methods it calls, then what is prepared before the loop."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from minisd.cautions import warn
from minisd.randomness import Generators, randn
from minisd.schedulers.config import SchedulerConfig, check_config, given_fields, split_fields, write_config
from minisd.schedulers.mixture import ALPHA_BAR, Mixture, check_noise
from minisd.schedulers.schedule import noise_tables


class StepOutput(NamedTuple):
    """What `step` returns: x at the next timestep, and the clean x0 that the network predicts; both shaped like x."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class Evaluation(NamedTuple):
    """One network call: x at the i-th timestep, the network's output, and the x0 and ε that follow from it."""

    i: int
    x: Tensor
    output: Tensor
    x0: Tensor
    eps: Tensor


DrawNoise = Callable[[], Tensor]  # returns fresh standard normal noise shaped like x


class Scheduler(ABC):
    """Base class of the samplers. A sampler defines which times it visits (`_plan`), how its x is composed of data and
    noise (`mixture`), and how it gets from one time to the next (`_advance`, which calls the function at the top of its
    file). Usage:

        scheduler.set_timesteps(20)
        x = torch.randn(shape) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(output, t, x).prev_sample

    Args:
        config: fields of a published scheduler_config.json; those left out have the values in `DEFAULTS`.

    Attributes:
        betas, alphas_cumprod: β_t and ᾱ_t for all training times, float32, (num_train_timesteps,), on the CPU.
        timesteps: the times to call the network and `step` with, in this order.
        sigmas: σ at each timestep, then σ after the last step; float32, and on the CPU, so that a loop never waits for
            the GPU.
        order: network calls per inference step.
    """

    DEFAULTS: dict
    mixture: Mixture
    order = 1
    memory = 0  # how many earlier evaluations `past` keeps
    num_inference_steps: int | None = None
    step_index: int | None  # the index of the next step; None before the first
    begin_index: int | None
    past: deque[Evaluation]

    @abstractmethod
    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The times to visit, and σ at each of them plus one more, where the last step ends."""

    @abstractmethod
    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        """x at the next timestep."""

    # --- a step -----------------------------------------------------------------------------------------------

    def step(self, model_output: Tensor, t: float | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True) -> StepOutput:
        """Take x from timestep t to the next, computing in float32 or better.

        Args:
            model_output: the network's output for scale_model_input(x, t), shaped like x.
            generator: one, or a list with one per batch item; used only by samplers that add noise.
            return_dict: ignored; diffusers' pipelines pass it.

        Raises:
            ValueError: set_timesteps was not called, t is not one of the timesteps, or the shapes differ.
        """
        if model_output.shape != x.shape:
            raise ValueError(f"model_output has shape {tuple(model_output.shape)} and x {tuple(x.shape)}; "
                             "the shapes must be equal")
        i = self._index(t)
        if self.step_index is not None and i != self.step_index:
            self._forget()  # not the next timestep: a new run begins here
        exact = torch.promote_types(x.dtype, torch.float32)
        output, state = model_output.to(exact), x.to(exact)
        x0, eps = self._predict(output, state, i)
        now = Evaluation(i, state, output, x0, eps)
        prev = self._advance(now, lambda: randn(x.shape, generator, x.device, exact))
        self.past.append(now)
        self.step_index = i + 1
        return StepOutput(prev.to(x.dtype), x0.to(x.dtype, copy=True))  # a copy: `past` keeps the original

    def _predict(self, output: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """(x0, ε) from the network's output at step i."""
        return self.mixture.predictions(self.config["prediction_type"], output, x, self._noise_level(i))

    def _clipped(self, x0: Tensor) -> Tensor:
        """x0 clipped to the range of pixels, if the config asks for it; for samplers that have these fields."""
        span = self.config["clip_sample_range"]
        return x0.clamp(-span, span) if self.config["clip_sample"] else x0

    def _noise_level(self, i: int) -> Tensor:
        """The noise level at step i, in the form that the mixture takes: ᾱ or σ."""
        return self.alphas_cumprod[self._times[i]] if self.mixture.by_time else self.sigmas[i]

    def _index(self, t: float | Tensor) -> int:
        """The index of t in `timesteps`.

        Within a run, steps are counted: a timestep may occur twice, and reading the value of a t on the GPU would wait
        for the GPU. t is looked up only if there is no count yet, or if it is known not to be the next timestep.
        """
        if self.num_inference_steps is None:
            raise ValueError(f"{type(self).__name__}: call set_timesteps(number of steps) before the loop")
        counted = self.begin_index if self.step_index is None else self.step_index
        expected = counted or 0
        if expected < len(self._times):
            on_gpu = isinstance(t, Tensor) and t.device.type != "cpu"
            if (on_gpu and counted is not None) or float(t) == self._times[expected]:
                return expected
        return self._look_up(float(t))

    def _look_up(self, t: float) -> int:
        places = [i for i, time in enumerate(self._times) if time == t]
        if not places:
            listed = ", ".join(f"{time:g}" for time in self._times[:6]) + ", …" * (len(self._times) > 6)
            raise ValueError(f"t={t:g} is not one of the timesteps, which are {listed}")
        return places[1] if len(places) > 1 else places[0]  # of two equal ones, the one at which a step begins

    def _forget(self) -> None:
        """Drop all earlier evaluations."""
        self.past = deque(maxlen=self.memory)

    # --- before the loop: the tables --------------------------------------------------------------------------

    def __init__(self, **config: Any):
        # Do not rename: diffusers' pipelines assign a new `_internal_dict` when they correct an outdated config.
        self._internal_dict = c = check_config(type(self).__name__, self.DEFAULTS, config)
        self.betas, self.alphas_cumprod = noise_tables(c, finite=not self.mixture.by_time)
        self._set_tables(np.arange(c.num_train_timesteps)[::-1], np.append(self._all_sigmas()[::-1], 0.0))

    def _all_sigmas(self) -> np.ndarray:
        """σ at every training time, the cleanest first."""
        with np.errstate(divide="ignore"):  # infinite where nothing but noise is left
            return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().numpy()

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the timesteps, and forget any earlier run.

        Args:
            device: where to put `timesteps`; all other tables stay on the CPU.

        Raises:
            ValueError: the number is not from 1 to num_train_timesteps, or is too large for the spacing and offset.
        """
        steps, most = num_inference_steps, self.config.num_train_timesteps
        if not isinstance(steps, Integral) or isinstance(steps, bool) or not 1 <= steps <= most:
            raise ValueError(f"num_inference_steps={steps!r}; it must be a whole number from 1 to {most}")
        self._set_tables(*self._plan(int(steps)), device)
        self.num_inference_steps = int(steps)

    def _set_tables(self, times: np.ndarray, sigmas: np.ndarray, device: str | torch.device | None = None) -> None:
        """Store the tables of a new run."""
        self._times = times.tolist()
        self.timesteps = torch.from_numpy(times.copy()).to(device)
        self.sigmas = torch.from_numpy(sigmas.astype(np.float32))
        self.step_index = self.begin_index = None
        self._forget()

    def set_begin_index(self, begin_index: int) -> None:
        """Begin a new run at `timesteps[begin_index]`, as image-to-image does, even if the last one never ended."""
        whole = isinstance(begin_index, Integral) and not isinstance(begin_index, bool)
        if not whole or not 0 <= begin_index < len(self._times):
            raise ValueError(f"begin_index={begin_index!r}; it must be a whole number from 0 to {len(self._times) - 1}")
        self.begin_index, self.step_index = begin_index, None
        self._forget()

    # --- preparing x: adding noise, and scaling ----------------------------------------------------------------

    @property
    def init_noise_sigma(self) -> float:
        """The factor that turns standard normal noise into the x that a run begins with."""
        if not self.mixture.rescaled:
            return 1.0
        largest = self.sigmas.max().item()
        return (largest**2 + 1) ** 0.5 if self.config.timestep_spacing == "leading" else largest

    def scale_model_input(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The network's input for x at timestep t."""
        return self.mixture.network_input(x, self._noise_level(self._index(t))) if self.mixture.rescaled else x

    def add_noise(self, x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
        """x0 with noise added, in this sampler's own parameterisation.

        Args:
            t: one time, or one per item. Integer training times; but for samplers that work with σ, after
                set_timesteps, members of `timesteps`.
        """
        check_noise(x0, noise, t)
        return self.mixture.add_noise(x0, noise, self._alpha_bars(t) if self.mixture.by_time else self._sigmas(t))

    def get_velocity(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """The training target of a network with v_prediction: v = sqrt(ᾱ_t)·noise - sqrt(1 - ᾱ_t)·x0."""
        check_noise(x0, noise, t)
        return ALPHA_BAR.velocity(x0, noise, self._alpha_bars(t))

    def _alpha_bars(self, t: float | Tensor) -> Tensor:
        """ᾱ at integer training times, (B,)."""
        t = torch.as_tensor(t).reshape(-1)
        last = self.config.num_train_timesteps - 1
        if t.device.type == "cpu" and (t.min() < 0 or t.max() > last or (t != t.long()).any()):
            raise ValueError(f"t={t.tolist()}; training times are whole numbers from 0 to {last}")
        return self.alphas_cumprod.to(t.device, non_blocking=True)[t.long()]

    def _sigmas(self, t: float | Tensor) -> Tensor:
        """σ at timesteps, (B,)."""
        t = torch.as_tensor(t).reshape(-1)
        if self.num_inference_steps is None:
            indices = [self._look_up(time) for time in t.tolist()]
        elif t.device.type != "cpu" and None not in (self.begin_index, self.step_index):
            indices = [self._index(t[0])]  # in a loop: all items are at the same step
        else:
            indices = [self._index(time) for time in t.tolist()]
        return self.sigmas[indices]

    # --- reading and writing the config -----------------------------------------------------------------------

    @property
    def config(self) -> SchedulerConfig:
        return self._internal_dict

    @classmethod
    def from_config(cls, config: dict | str | Path, **changes: Any) -> Self:
        """Make a sampler from a dict, another scheduler's `.config`, or a folder with a scheduler_config.json.

        This is how a pipeline's sampler is swapped, as in diffusers. Fields that only other published samplers have are
        kept, unused, for the next swap. Fields that the other scheduler held only by default get this class's defaults.

        Args:
            changes: fields that replace those of `config`. One that only other samplers have is kept, too, with a
                warning, because it changes nothing here.

        Raises:
            FileNotFoundError: the folder has no scheduler_config.json.
            TypeError: neither a dict nor a folder.
            ValueError: a field that no sampler has, or an unsupported value.
        """
        given = given_fields(config) | changes
        own, others = split_fields(cls.__name__, cls.DEFAULTS, given)
        if idle := sorted(changes.keys() & others.keys()):
            warn(f"{cls.__name__} has no {', '.join(idle)}: kept for another sampler, without effect on this one")
        scheduler = cls(**own)
        scheduler._internal_dict |= others
        return scheduler

    def save_pretrained(self, folder: str | Path) -> None:
        """Write scheduler_config.json; diffusers opens it."""
        write_config(self.config, folder)

    save_config = save_pretrained  # diffusers has both names
