"""Time and memory of two ways to do the same thing, measured alternately."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch.profiler import profile


@dataclass(frozen=True)
class Row:
    """One line of the table: how much minisd and diffusers take, in the same unit."""

    what: str
    ours: float
    theirs: float
    unit: str
    goal: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def missed(self) -> bool:
        return self.goal is not None and self.ratio > self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"{self.goal:.2f}" + (", **missed**" if self.missed else "")
        ours, theirs = (f"{float(f'{value:.3g}'):,g} {self.unit}" for value in (self.ours, self.theirs))  # 4,110 MB
        return f"| {self.what} | {ours} | {theirs} | {self.ratio:.2f} | {goal} |"


def as_table(rows: list[Row]) -> str:
    head = "| what | minisd | diffusers | ratio | goal: at most |\n|---|---|---|---|---|"
    return "\n".join([head, *map(str, rows)])


def seconds(ours: Callable, theirs: Callable, device: torch.device, turns: int = 5,
            at_least: float = 10) -> tuple[float, float]:
    """Median times of the two, run alternately after one warm-up run each, for `turns` turns and `at_least` seconds.

    On a machine that is shared, five runs of a few milliseconds say little.
    """
    def timed(function) -> float:
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    ours(), theirs()
    end = time.perf_counter() + at_least
    both = []
    while len(both) < turns or time.perf_counter() < end:
        both.append((timed(ours), timed(theirs)))
    return median(a for a, _ in both), median(b for _, b in both)


def peak(function: Callable, device: torch.device) -> float:
    """The most MB that tensors made inside `function` hold at once, as torch's allocator counts them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(profile_memory=True) as seen:
        function()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


PROGRAM = """
import re, time
def high():  # Linux only; resource.getrusage would count the parent's memory, too
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) / 1024
{before}
low, start = high(), time.perf_counter()
{measured}
print(time.perf_counter() - start, high() - low)
"""


def fresh(ours: tuple[str, str], theirs: tuple[str, str], turns: int) -> tuple[tuple, tuple]:
    """(seconds, MB) of two pieces of code, run alternately, each time in a fresh process.

    Each is a pair: code that is run first, and code that is measured. MB is how much the process's peak size grew.
    """
    def run(before: str, measured: str) -> list[float]:
        program = PROGRAM.format(before=before, measured=measured)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return [float(value) for value in done.stdout.split()[-2:]]

    run(*ours), run(*theirs)
    both = [(run(*ours), run(*theirs)) for _ in range(turns)]
    return tuple(tuple(median(turn[side][k] for turn in both) for k in (0, 1)) for side in (0, 1))
