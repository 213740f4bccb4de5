"""What the tests of training train: a toy task for the loop, and tiny networks for the real tasks."""

import csv
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from minisd import VAE, TextEncoder, Tokenizer, UNet
from minisd.training.loop import Settings, train
from minisd.training.task import Task
from tests.tiny import CAPTIONS

# Tiny networks in the shapes of the real ones: pictures of 128 become latents of 16, one level has cross-attention.
VAE_LEVELS = {64: (8, 8, 8), 128: (8, 8, 8, 8)}
VAE_CONFIG = {"block_out_channels": VAE_LEVELS[128], "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 128,
              "force_upcast": False, "scaling_factor": 0.5}
TEXT_CONFIG = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
               "projection_dim": 16, "hidden_act": "quick_gelu"}
UNET_CONFIG = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
               "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
               "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 2}


class Toy(Task):
    """Learns to halve its input. At steps with these numbers it makes the loss infinite, or sends itself a signal."""

    def __init__(self, width: int = 4, explode_at: int | None = None, signal_at: int | None = None,
                 signal_number: int = signal.SIGINT, seed: int = 0):
        super().__init__(seed)
        self.width, self.explode_at, self.signal_at, self.signal_number = width, explode_at, signal_at, signal_number
        self.steps = 0
        self.linear = nn.Linear(width, width)

    def config(self) -> dict:
        return {"width": self.width}

    def forward(self, batch):
        x = batch.draw(torch.randn, self.width)
        loss = (self.linear(x) - x / 2).square().mean()
        step, self.steps = self.steps, self.steps + 1
        if step == self.signal_at:
            os.kill(os.getpid(), self.signal_number)
        return loss * math.inf if step == self.explode_at else loss

    def score(self) -> tuple[str, float]:
        return "distance", float((self.linear.weight - torch.eye(self.width) / 2).norm())

    def picture(self) -> Image.Image:
        return Image.new("RGB", (4, 4))

    def export(self, folder: Path) -> str:
        torch.save(self.linear.weight.detach().clone(), folder / "weight.pt")
        return f"toy: {self.width} wide"


def settings(**changes) -> Settings:
    return Settings(**({"batch_size": 8, "steps": 20, "warmup": 5, "bf16": False} | changes))


def log(folder: Path, column: str = "loss") -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def state(folder: Path) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)


def names_in(optimizer: torch.optim.Optimizer, task: Task, dimensions: int | None = None) -> set[str]:
    """The names of the parameters that an optimiser trains (only matrices and kernels, 2, or only vectors, 1)."""
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name for name, p in task.named_parameters()
            if id(p) in mine and dimensions in (None, min(2, max(1, p.ndim)))}


def start(function, *args, **kwargs) -> multiprocessing.Process:
    """Call a function of this file in a process of its own, forked from one that has done the slow imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.toy", "pytest", "torch._dynamo"])  # the last: at an optimiser's first step
    process = context.Process(target=function, args=args, kwargs=kwargs, daemon=True)
    process.start()
    return process


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> float:
    """How long it took until the condition held."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"{condition} does not hold after {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start


def train_toy(out: Path, resume: bool = False, toy: dict | None = None, **changes) -> None:
    """A run that saves after every step."""
    torch.set_num_threads(1)
    train(Toy(**(toy or {})), settings(**changes), out, resume, save_every=0, quiet=True)


def train_toy_until(out: Path, module: str, name: str, before: bool) -> None:
    """Resume a run, and be killed at the call of a function: before it, or once it has returned."""
    function = getattr(sys.modules[module], name)

    def killed(*args, **kwargs):
        if not before:
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(sys.modules[module], name, killed)
    train_toy(out, resume=True)


def save_tiny_parts(folder: Path) -> None:
    """What the U-Net's and the inpainting task need: vae/vae, clip/{tokenizer,text_encoder} and unet/unet."""
    torch.manual_seed(0)
    vae = VAE(**VAE_CONFIG)
    with torch.no_grad():
        vae.quant_conv.weight[:4] *= 20  # other latents for other pictures,
        vae.quant_conv.bias[4:] = -2     # and some spread about each
    vae.save_pretrained(folder / "vae/vae")
    tokenizer = Tokenizer.train(CAPTIONS, 600)
    tokenizer.save_pretrained(folder / "clip/tokenizer")
    ids = {"vocab_size": tokenizer.vocab_size, "bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id}
    TextEncoder(**TEXT_CONFIG, **ids).save_pretrained(folder / "clip/text_encoder")
    UNet(**UNET_CONFIG, cross_attention_dim=TEXT_CONFIG["hidden_size"]).save_pretrained(folder / "unet/unet")
