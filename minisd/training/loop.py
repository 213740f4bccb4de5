"""The one training loop that all four models share.

A *task* (one a file beside this one) is an nn.Module whose forward takes a `Batch` and returns the loss. It says
what to draw as a progress picture and how to export what was learned; the loop does all the rest.

Every random number of step n is a function of (seed, n) alone, and each process takes its part of the batch. So a
run that was stopped and resumed ends with the same weights as one that was not, and two processes under torchrun
take the same steps as one with the double batch.
"""

import contextlib
import copy
import math
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from minisd.checkpoint import fast_dtype
from minisd.files import check_folder
from minisd.training.state import Log, load_state, save_state

LINE_EVERY = 100  # steps between lines of progress, where there is no terminal to show a bar


@dataclass(frozen=True)
class Settings:
    """How to train. A run ends after `steps`, or after `minutes` if that is given."""

    batch_size: int = 64  # over all processes together
    learning_rate: float = 1e-3
    warmup: int = 100  # steps in which the learning rate grows to its full size; afterwards it falls as a cosine
    weight_decay: float = 0.01
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.999  # of the weights: each step keeps this part of the average
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    bf16: bool | None = None  # None: where the processor has it
    device: str = "cpu"

    def __post_init__(self):
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes: how long to train")
        for name in ("batch_size", "learning_rate", "warmup", "clip", "steps", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # NaN, too, is neither
                raise ValueError(f"{name}={value}: it must be above 0")
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
    """What one step trains on: the numbers of its samples, and a source of random numbers for it."""

    indices: list[int]  # of this process's samples
    total: int  # samples in the whole batch, over all processes
    part: slice  # this process's place in it
    generator: torch.Generator

    def draw(self, random: Callable[..., Tensor], *shape: int) -> Tensor:
        """`random((n, *shape))` for this process's n samples, the same whatever the number of processes."""
        return random((self.total, *shape), generator=self.generator)[self.part]


def make_batch(settings: Settings, step: int, rank: int = 0, world: int = 1) -> Batch:
    each = settings.batch_size // world
    first = step * settings.batch_size + rank * each
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    part = slice(rank * each, (rank + 1) * each)
    return Batch(list(range(first, first + each)), settings.batch_size, part, generator)


def train(task: nn.Module, settings: Settings, out: str | Path, resume: bool = False, save_every: float = 120,
          picture_every: float = 300, quiet: bool = False) -> None:
    """Train a task; leaves state.pt, log.csv, picture-*.png and the exported weights in the folder `out`.

    Args:
        resume: go on from out/state.pt.
        save_every, picture_every: seconds between checkpoints, and between progress pictures.

    Raises:
        FileExistsError: there is a run in `out` and resume is False.
        FileNotFoundError, ValueError: nothing to resume, or a checkpoint that is damaged, of another config or of
            other settings.
        OSError: a checkpoint cannot be written (a full disk); the one before it is kept.
        FloatingPointError: the loss is not finite; the last good checkpoint is kept.
    """
    out = Path(out)
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    state_file, log_file = out / "state.pt", out / "log.csv"
    if not resume and state_file.exists():
        raise FileExistsError(f"{state_file} exists: go on with --resume, or choose another folder")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if settings.batch_size % world:
        raise ValueError(f"batch_size={settings.batch_size} cannot be divided among {world} processes")

    device = torch.device(settings.device)
    task.to(device)
    average = copy.deepcopy(task).requires_grad_(False)  # the EMA
    rates, groups = parameter_groups(task)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99),
                                  weight_decay=settings.weight_decay, fused=True)
    step, seconds = load_state(state_file, task, average, optimizer, asdict(settings)) if resume else (0, 0.0)
    model = DistributedDataParallel(task) if world > 1 else task
    bf16 = fast_dtype(device) == torch.bfloat16 if settings.bf16 is None else settings.bf16

    saved = pictured = time.monotonic()
    start = saved - seconds
    total = settings.steps or math.inf
    stopping = False
    quiet = quiet or rank > 0
    lines = not quiet and not sys.stderr.isatty()  # in a file, lines read better than a bar
    bar = tqdm(total=settings.steps, initial=step, disable=quiet or lines, mininterval=2, smoothing=0.05)
    with stop_signal() as stopped, Log(log_file, after=step) if rank == 0 else contextlib.nullcontext() as log:
        while step < total:
            seconds, stopping = agree(time.monotonic() - start, stopped(), device)
            if stopping or (settings.minutes and seconds >= 60 * settings.minutes):
                break
            progress = step / settings.steps if settings.steps else seconds / (60 * settings.minutes)
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * learning_rate(settings, step, progress)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16), fast_attention(device, bf16):
                loss = model(make_batch(settings, step, rank, world))
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(task.parameters(), settings.clip)
            if not math.isfinite(value := mean_over_processes(loss)) or not math.isfinite(norm):
                raise FloatingPointError(f"the loss is {value} and the gradient's norm {norm} in step {step}; the last "
                                         f"good state is {state_file if state_file.exists() else 'the beginning'}. "
                                         "A lower learning rate may help")
            optimizer.step()
            update_average(average, task, min(settings.ema, (1 + step) / (10 + step)))
            step += 1

            if log:
                seconds = time.monotonic() - start
                rate = optimizer.param_groups[0]["lr"]
                said = f"loss {value:.4f}, {settings.batch_size / (seconds - log.seconds):.0f} images/s"
                bar.update()
                bar.set_postfix_str(said, refresh=False)
                if lines and step % LINE_EVERY == 0:
                    print(f"step {step}, {seconds / 60:.1f} minutes, {said}", file=sys.stderr, flush=True)
                log.write(step, seconds, step * settings.batch_size, value, rate, float(norm))
                if time.monotonic() - saved > save_every:
                    save_state(state_file, task, average, optimizer, asdict(settings), step, seconds)
                    saved = time.monotonic()
                if time.monotonic() - pictured > picture_every:
                    draw_picture(average, out / f"picture-{step:07d}.png")
                    pictured = time.monotonic()
    bar.close()
    if rank == 0:
        save_state(state_file, task, average, optimizer, asdict(settings), step, seconds)
        draw_picture(average, out / f"picture-{step:07d}.png")
        try:
            average.export(out)
        except (OSError, SafetensorError) as error:
            raise OSError(f"could not write the weights ({error}); make room and repeat with --resume: "
                          f"{state_file} holds the finished run") from None
        if stopping:
            print(f"stopped after step {step}; {state_file} holds it: go on with --resume")


def parameter_groups(task: nn.Module) -> tuple[list[float], list[dict]]:
    """Multiples of the learning rate, the smallest first, and the parameters that have them.

    A task's `rates` names parameters (and their multiples) that are to learn faster or slower than the others.
    """
    rates = getattr(task, "rates", {})
    groups = defaultdict(list)
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            groups[rates.get(name, 1.0)].append(parameter)
    return sorted(groups), [{"params": groups[rate]} for rate in sorted(groups)]


def learning_rate(settings: Settings, step: int, progress: float) -> float:
    """A linear warm-up, then half a cosine down to zero at progress 1."""
    warmup = min(1.0, (step + 1) / settings.warmup)
    return settings.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@torch.no_grad()
def update_average(average: nn.Module, task: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights, of which the last steps' noise is gone."""
    torch._foreach_lerp_(list(average.parameters()), list(task.parameters()), 1 - decay)


def mean_over_processes(loss: Tensor) -> float:
    loss = loss.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
    return loss.item()


def agree(seconds: float, stop: bool, device: torch.device) -> tuple[float, bool]:
    """The clock, and whether anybody was asked to stop, the same for all processes.

    Each has its own clock and gets its own signal. If they differed in the learning rate, their weights would drift
    apart; if one left a step earlier than the others, these would wait for it for ever.
    """
    if not dist.is_initialized():
        return seconds, stop
    both = torch.tensor([seconds, float(stop)], device=device, dtype=torch.float64)
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return both[0].item(), bool(both[1])


def fast_attention(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager:
    """In bfloat16 on a CPU the fused attention's backward pass makes a U-Net step 1.2 times as long."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" and bf16 else contextlib.nullcontext()


def draw_picture(task, path: Path) -> None:
    """Save the task's progress picture. Training mode and random numbers are left as they were."""
    task.eval()
    with torch.no_grad(), torch.random.fork_rng():
        task.picture().save(path)
    task.train()


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets the running step end; the loop then saves and stops. A second Ctrl-C stops at once."""
    asked = []

    def ask(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
