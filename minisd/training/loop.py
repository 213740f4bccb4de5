"""The one training loop that all models share.

A *task* (one file each, beside this one) is an nn.Module whose forward takes a `Batch` and returns the loss. It also
draws progress pictures and exports the trained networks; the loop does everything else.

All random numbers of step n depend on (seed, n) alone, and each process takes its part of the batch. So a run that was
stopped and resumed ends with the same weights as one that was not, and two processes under torchrun take the same steps
as one process with the whole batch.
"""

import contextlib
import copy
import math
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from minisd.checkpoint import fast_dtype
from minisd.messages import ShownPath
from minisd.saving import atomic_file, check_files
from minisd.training.muon import Muon
from minisd.training.state import Log, load_state, log_score, only_run_in, save_state
from minisd.training.task import Task

PARENT = os.getppid()  # torchrun, if it started this process; read early, while it is certainly alive
LINE_EVERY = 100  # steps between progress lines, if there is no terminal to show a bar


@dataclass(frozen=True)
class Settings:
    """How to train. Either `steps` or `minutes` must be given; the run ends after that."""

    batch_size: int = 64  # over all processes together
    learning_rate: float = 1e-3  # of AdamW
    muon_rate: float = 0.02  # of Muon
    warmup: int = 100  # steps over which the learning rates rise to their full values
    cooldown: float = 0.3  # fraction of the run, at its end, over which they fall to zero
    weight_decay: float = 0.01
    grad_clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.999  # decay of the weights' average: each step keeps this much of it
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    bf16: bool | None = None  # None: if the device is fast in it
    device: str = "cpu"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes: how long to train")
        for name in ("batch_size", "learning_rate", "muon_rate", "warmup", "grad_clip", "steps", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # false for NaN, too
                raise ValueError(f"{name}={value}: it must be above 0")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown={self.cooldown}: it must be from 0 to 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema}: it must be at least 0 and below 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: it must be a whole number from 0 to 2**32 - 1")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay}: it must be at least 0")
        if self.device.split(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"device={self.device!r}: it must be 'cpu' or 'cuda'")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device={self.device!r}: PyTorch finds no GPU here; use 'cpu'")


@dataclass(frozen=True)
class Batch:
    """What one step trains on, in one process: the numbers of its samples, and its source of random numbers."""

    indices: list[int]  # the numbers of this process's samples
    total: int  # samples in the whole batch, over all processes
    part: slice  # this process's part of the whole batch
    generator: torch.Generator

    def draw(self, random: Callable[..., Tensor], *shape: int) -> Tensor:
        """`random((n, *shape))` for this process's n samples; each gets the same numbers in whatever process it is."""
        return random((self.total, *shape), generator=self.generator)[self.part]

    def draw_stratified(self) -> Tensor:
        """Random numbers from 0 to 1, (n,), one in each of `total` equal intervals: more even than independent ones."""
        intervals = torch.arange(self.total)[self.part]
        return (intervals + self.draw(torch.rand)) / self.total


def make_batch(settings: Settings, step: int, rank: int = 0, world: int = 1) -> Batch:
    """The part of step `step`'s batch that belongs to process `rank` of `world`."""
    each = settings.batch_size // world
    first = step * settings.batch_size + rank * each
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    part = slice(rank * each, (rank + 1) * each)
    return Batch(list(range(first, first + each)), settings.batch_size, part, generator)


def train(task: Task, settings: Settings, out: str | Path, resume: bool = False, save_every: float = 120,
          picture_every: float = 300, quiet: bool = False) -> None:
    """Train a task. Leaves state.pt, log.csv, scores.csv, picture-*.png and the exported weights in the folder `out`.

    Args:
        resume: continue from out/state.pt.
        save_every: seconds between checkpoints.
        picture_every: seconds between progress pictures, each with the task's score.

    Raises:
        FileExistsError: there is a run in `out` and resume is False, or a run in `out` is still training.
        FileNotFoundError, ValueError: there is nothing to resume, or the saved state is damaged, or has a different
            config or different settings.
        OSError: the state cannot be written (for instance, the disk is full); the previous one is kept.
        FloatingPointError: the loss is not finite; the last saved state is kept.
    """
    out = ShownPath(out).expanduser()
    check_out(out)
    out.mkdir(parents=True, exist_ok=True)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if settings.batch_size % world:
        raise ValueError(f"batch_size={settings.batch_size} cannot be divided among {world} processes")
    with only_run_in(out) if rank == 0 else contextlib.nullcontext():
        run = Run(task, settings, out, rank, world)
        run.start(resume)
        with stop_signal() as stopped:
            was_stopped = run.take_steps(stopped, save_every, picture_every, quiet or rank > 0)
        if rank == 0:
            run.finish()
            if was_stopped:
                print(f"stopped after step {run.step}; saved in {run.state_file}: continue with --resume")


def check_out(out: Path) -> None:
    """Raise an OSError if a run cannot be kept in a folder, which need not exist yet."""
    check_files([out / name for name in ("run.lock", "state.pt", "log.csv", "scores.csv")])


class Run:
    """A training run: the weights, their average, both optimisers, the step and the clock."""

    def __init__(self, task: Task, settings: Settings, out: Path, rank: int = 0, world: int = 1):
        self.task, self.settings, self.out, self.rank, self.world = task, settings, out, rank, world
        self.state_file = out / "state.pt"
        self.device = torch.device(settings.device)
        self.bf16 = fast_dtype(self.device) == torch.bfloat16 if settings.bf16 is None else settings.bf16
        task.to(self.device)
        self.average = copy.deepcopy(task).requires_grad_(False)  # the EMA
        self.optimizers = make_optimizers(task, settings, torch.bfloat16 if self.bf16 else torch.float32)
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.step, self.seconds = 0, 0.0

    def start(self, resume: bool) -> None:
        """Load the saved state, or make sure that there is none; then let the task prepare itself."""
        if resume:
            self.step, self.seconds = load_state(self.state_file, self.task, self.average, self.optimizers,
                                                 asdict(self.settings))
        elif self.state_file.exists():
            raise FileExistsError(f"{self.state_file} exists: continue with --resume, or choose another folder")
        self.model = DistributedDataParallel(self.task) if self.world > 1 else self.task
        self.task.prepare(self.out, self.step * self.settings.batch_size)

    def take_steps(self, stopped: Callable[[], bool], save_every: float, picture_every: float, quiet: bool) -> bool:
        """Take steps until the run is done or is asked to stop. Returns whether it was asked to stop."""
        saved = pictured = time.monotonic()
        start = saved - self.seconds
        with Progress(self.settings, self.step, quiet) as progress, self.open_log() as log:
            while True:
                self.seconds, stopping = agree(time.monotonic() - start, stopped(), self.device)
                done = self.fraction_done()
                if stopping or done >= 1:
                    return stopping
                loss, norm = self.take_step(done)
                now = time.monotonic() - start
                progress.show(self.step, now, loss, now - self.seconds)
                if log is None:
                    continue
                rate = self.optimizers[-1].param_groups[0]["lr"]
                log.write(self.step, now, self.step * self.settings.batch_size, loss, rate, norm)
                self.seconds = now
                if time.monotonic() - saved > save_every:
                    self.save()
                    saved = time.monotonic()
                if time.monotonic() - pictured > picture_every:
                    self.show()
                    pictured = time.monotonic()

    def fraction_done(self) -> float:
        """The fraction of the run that is done, from 0 to 1."""
        if self.settings.steps:
            return self.step / self.settings.steps
        return self.seconds / (60 * (self.settings.minutes or math.inf))

    def take_step(self, done: float) -> tuple[float, float]:
        """One step of both optimisers. Returns the mean loss of all processes, and the gradient's norm before clipping.

        Args:
            done: the fraction of the run that is done, which determines the learning rates.
        """
        factor = schedule(self.settings, self.step, done)
        for optimizer, rates in zip(self.optimizers, self.rates):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = factor * rate
        batch = make_batch(self.settings, self.step, self.rank, self.world)
        with self.autocast(), fast_attention(self.device, self.bf16):
            loss = self.model(batch)
        self.task.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.task.parameters(), self.settings.grad_clip))
        value = mean_over_processes(loss)
        if not math.isfinite(value) or not math.isfinite(norm):
            last = f"the last saved state is {self.state_file}" if self.state_file.exists() else "nothing was saved yet"
            raise FloatingPointError(f"the loss is {value} and the gradient's norm {norm} in step {self.step}; "
                                     f"{last}. A lower learning rate may help")
        for optimizer in self.optimizers:
            optimizer.step()
        # at first the average keeps less of itself, so that it soon forgets the initial weights
        update_average(self.average, self.task, min(self.settings.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        return value, norm

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def open_log(self) -> contextlib.AbstractContextManager:
        return Log(self.out / "log.csv", after=self.step) if self.rank == 0 else contextlib.nullcontext()

    def save(self) -> None:
        save_state(self.state_file, self.task, self.average, self.optimizers, asdict(self.settings), self.step,
                   self.seconds)

    def show(self) -> None:
        """Draw the progress picture and measure the score, both with the averaged weights."""
        with evaluating(self.average), self.autocast():
            with atomic_file(self.out / f"picture-{self.step:07d}.png") as new:
                self.average.picture().save(new)
            if score := self.average.score():
                log_score(self.out / "scores.csv", self.step, self.step * self.settings.batch_size, *score)

    def finish(self) -> None:
        """Save the state one last time, and export the averaged weights."""
        self.save()
        self.show()
        try:
            with evaluating(self.average):
                summary = self.average.export(self.out)
        except (OSError, SafetensorError) as error:
            raise OSError(f"could not write the weights ({error}); free some space and repeat with --resume: "
                          f"{self.state_file} holds the finished run") from None
        if summary:
            print(summary)


def make_optimizers(task: Task, settings: Settings, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon for matrices and kernels, AdamW for the rest; an optimiser without parameters is left out."""
    muon: list[Tensor] = []
    adamw: dict[float, list[Tensor]] = defaultdict(list)  # by factor on the learning rate
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim >= 2 and not any(part in name for part in task.adamw_names):
            muon.append(parameter)
        else:
            adamw[task.rates.get(name, 1.0)].append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if muon:
        optimizers.append(Muon(muon, settings.muon_rate, weight_decay=settings.weight_decay, dtype=dtype))
    if adamw:
        groups = [{"params": adamw[rate], "lr": rate * settings.learning_rate} for rate in sorted(adamw)]
        optimizers.append(torch.optim.AdamW(groups, settings.learning_rate, betas=(0.9, 0.99),
                                            weight_decay=settings.weight_decay, fused=True))
    return optimizers


def schedule(settings: Settings, step: int, done: float) -> float:
    """The factor on the learning rates: a linear warm-up, then 1, then a linear cooldown to 0.

    Unlike a run with a cosine schedule, this one can be extended at any time before the cooldown (Hägele et al. 2024,
    "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations").

    Args:
        done: the fraction of the run that is done, from 0 to 1.
    """
    warmup = min(1.0, (step + 1) / settings.warmup)
    cooldown = min(1.0, (1 - min(done, 1.0)) / settings.cooldown) if settings.cooldown else 1.0
    return warmup * cooldown


@torch.no_grad()
def update_average(average: nn.Module, task: nn.Module, decay: float) -> None:
    """Update the exponential moving average of the weights, in which the noise of single steps averages out."""
    for mean, weight in zip(average.parameters(), task.parameters()):
        mean.lerp_(weight, 1 - decay)


def mean_over_processes(loss: Tensor) -> float:
    loss = loss.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return loss.item()


def agree(seconds: float, stop: bool, device: torch.device) -> tuple[float, bool]:
    """Make all processes agree on the time, and on whether any of them was asked to stop.

    Each process has its own clock and gets its own signals. If their learning rates differed, their weights would drift
    apart; if one stopped a step before the others, they would wait for it forever.
    """
    if not dist.is_initialized():
        return seconds, stop
    both = torch.tensor([seconds, float(stop)], device=device, dtype=torch.float64)
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return both[0].item(), bool(both[1])


def fast_attention(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager:
    """Avoid fused attention in bfloat16 on a CPU: its backward pass makes a U-Net step 1.2 times as long."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" and bf16 else contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(task: Task) -> Iterator[None]:
    """Evaluation mode without gradients. Afterwards, PyTorch's random state is what it was before."""
    task.eval()
    with torch.no_grad(), torch.random.fork_rng():
        yield
    task.train()


class Progress:
    """A progress bar in a terminal; elsewhere (in a log file, say), a line every hundred steps."""

    def __init__(self, settings: Settings, step: int, quiet: bool):
        self.batch_size, self.lines = settings.batch_size, not quiet and not sys.stderr.isatty()
        self.bar = tqdm(total=settings.steps, initial=step, disable=quiet or self.lines, mininterval=2, smoothing=0.05)

    def show(self, step: int, seconds: float, loss: float, step_seconds: float) -> None:
        text = f"loss {loss:.4f}, {self.batch_size / step_seconds:.0f} images/s"
        self.bar.update()
        self.bar.set_postfix_str(text, refresh=False)
        if self.lines and step % LINE_EVERY == 0:
            print(f"step {step}, {seconds / 60:.1f} minutes, {text}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets the current step finish; then the loop saves and stops. A second Ctrl-C stops at once.

    A process started by torchrun also stops if torchrun was killed and can no longer stop it.
    """
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def stopped() -> bool:
        return bool(asked) or (dist.is_initialized() and os.getppid() != PARENT)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
