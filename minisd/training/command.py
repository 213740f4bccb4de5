"""The command `minisd train MODEL`, also `python -m minisd.training MODEL`, also under torchrun."""

import argparse
import dataclasses
import os
from pathlib import Path

import torch
import torch.distributed as dist

from minisd.emoji.data import EmojiData
from minisd.training import classifier, clip, inpaint, loop, unet, vae

# What each model is, and the settings that its trial runs liked best.
TASKS = {
    "vae": (vae.VAETask, vae.Options, {"batch_size": 16, "learning_rate": 1.5e-3, "weight_decay": 0.0, "ema": 0.998}),
    "clip": (clip.CLIPTask, clip.Options,
             {"batch_size": 128, "learning_rate": 1e-3, "weight_decay": 0.02, "ema": 0.99}),
    "unet": (unet.UNetTask, unet.Options, {"batch_size": 64, "learning_rate": 8e-4}),
    "inpaint": (inpaint.InpaintTask, inpaint.InpaintOptions, {"batch_size": 64, "learning_rate": 3e-4, "ema": 0.995}),
    "classifier": (classifier.ClassifierTask, classifier.Options,
                   {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.05, "ema": 0.998}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command a model; its options are the fields of the loop's Settings and of the model's Options."""
    models = parser.add_subparsers(dest="what", required=True, metavar="|".join(TASKS))
    for name, (task, options, defaults) in TASKS.items():
        sub = models.add_parser(name, help=(task.__doc__ or "").split(":")[0])
        sub.add_argument("--out", default=f"runs/{name}", help="folder for state, log, pictures and weights")
        sub.add_argument("--resume", action="store_true", help="go on from the state in --out")
        sub.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
        sub.add_argument("--picture-every", type=float, default=300, help="seconds between progress pictures")
        for field in (*dataclasses.fields(loop.Settings), *dataclasses.fields(options)):
            default = defaults.get(field.name, field.default)
            kind = {"bool | None": None, "int": int, "int | None": int, "float": float, "float | None": float}
            action = {"action": argparse.BooleanOptionalAction} if "bool" in str(field.type) else {
                "type": kind.get(type_name(field), str)}
            sub.add_argument("--" + field.name.replace("_", "-"), default=default, help=f"default {default}", **action)


def type_name(field: dataclasses.Field) -> str:
    return field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))


def run(arguments: argparse.Namespace) -> None:
    """Train what the arguments say. Under torchrun, each process does its part of every batch."""
    distributed = "WORLD_SIZE" in os.environ
    if distributed:
        dist.init_process_group("nccl" if arguments.device == "cuda" else "gloo")
    if arguments.device == "cuda" and distributed:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    task_class, options_class, _ = TASKS[arguments.what]

    def pick(cls):
        return cls(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)})

    settings, options = pick(loop.Settings), pick(options_class)
    task = task_class(options, EmojiData(options.subset), settings.seed)
    try:
        loop.train(task, settings, Path(arguments.out), arguments.resume, arguments.save_every, arguments.picture_every)
    finally:
        if distributed:
            dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m minisd.training", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:  # the second one: the loop answers the first by saving
        parser.exit(130, f"{parser.prog}: stopped without saving\n")
