"""The command `minisd train MODEL`, or `python -m minisd.training MODEL`, which also runs under torchrun."""

import argparse
import dataclasses
import os
import types
import typing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from minisd.console import forgiving_console
from minisd.emoji import EmojiData as FirstEdition
from minisd.emoji.world import EmojiData
from minisd.messages import shown
from minisd.training import classifier, clip, inpaint, judge, loop, unet, vae
from minisd.training.task import Task

TIMEOUT = timedelta(minutes=3)  # how long a process waits for another, which may be drawing a progress picture


class Model(NamedTuple):
    """A model that `minisd train` can train: its task, options and data, and the settings that did best in trials."""

    task: Callable[[Any, Any, int], Task]
    options: type
    data: Callable[[], Any]
    defaults: dict[str, float]


MODELS = {
    "vae": Model(vae.VAETask, vae.Options, EmojiData,
                 {"batch_size": 16, "learning_rate": 1.5e-3, "weight_decay": 0.0, "ema": 0.998}),
    "clip": Model(clip.CLIPTask, clip.Options, EmojiData,
                  {"batch_size": 128, "weight_decay": 0.02, "ema": 0.99}),
    "unet": Model(unet.UNetTask, unet.Options, EmojiData, {"batch_size": 128}),
    "inpaint": Model(inpaint.InpaintTask, inpaint.InpaintOptions, EmojiData,
                     {"batch_size": 64, "learning_rate": 3e-4, "muon_rate": 0.005, "ema": 0.995}),
    "classifier": Model(classifier.ClassifierTask, classifier.Options, FirstEdition,
                        {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.05, "ema": 0.998}),
    "judge": Model(judge.JudgeTask, judge.Options, EmojiData,
                   {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.02, "ema": 0.998}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command per model. Its options are the fields of the loop's Settings and of the model's Options."""
    models = parser.add_subparsers(dest="what", required=True, metavar="|".join(MODELS))
    for name, model in MODELS.items():
        sub = models.add_parser(name, help=f"train the {name}")
        sub.add_argument("--out", default=f"runs/{name}", help="folder for state, log, pictures and weights")
        sub.add_argument("--resume", action="store_true", help="continue from the state in --out")
        sub.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
        sub.add_argument("--picture-every", type=float, default=300, help="seconds between progress pictures")
        for cls in (loop.Settings, model.options):
            kinds = typing.get_type_hints(cls)
            for field in dataclasses.fields(cls):
                default = model.defaults.get(field.name, field.default)
                sub.add_argument("--" + field.name.replace("_", "-"), default=default, help=f"default {default}",
                                 **argparse_keywords(kinds[field.name]))


def argparse_keywords(kind: Any) -> dict[str, Any]:
    """add_argument's keywords for a field of this type, which may be a union with None: then "none" is understood."""
    optional = isinstance(kind, types.UnionType)
    if optional:
        kind = next(one for one in typing.get_args(kind) if one is not types.NoneType)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}

    def read(word: str) -> Any:
        return None if optional and word == "none" else kind(word)

    read.__name__ = kind.__name__  # argparse's error messages name it
    return {"type": read}


def run(arguments: argparse.Namespace) -> None:
    """Train the model that the arguments name. Under torchrun, each process computes its part of every batch."""
    loop.check_out(Path(arguments.out).expanduser())  # before data and networks are loaded
    distributed = "WORLD_SIZE" in os.environ
    if distributed:
        # gloo for tensors in the CPU's memory, such as the U-Net's pool
        dist.init_process_group("cpu:gloo,cuda:nccl" if arguments.device == "cuda" else "gloo", timeout=TIMEOUT)
    if arguments.device == "cuda" and distributed:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    model = MODELS[arguments.what]

    def pick(cls: type) -> Any:
        return cls(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)})

    settings, options = pick(loop.Settings), pick(model.options)
    task = model.task(options, model.data(), settings.seed)
    try:
        loop.train(task, settings, Path(arguments.out), arguments.resume, arguments.save_every, arguments.picture_every)
    finally:
        if distributed:
            dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m minisd.training", description=__doc__)
    add_arguments(parser)
    with forgiving_console():
        arguments = parser.parse_args()
        try:
            run(arguments)
        except (ValueError, OSError, FloatingPointError) as error:
            parser.exit(2, f"{parser.prog}: {shown(error, 10_000)}\n")
        except KeyboardInterrupt:  # the second one: the loop answers the first by saving
            parser.exit(130, f"{parser.prog}: stopped without saving\n")
