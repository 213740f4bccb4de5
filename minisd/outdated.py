"""Folders from 2022, whose configs say less than their model needs: corrected as diffusers' pipelines correct them."""

import dataclasses
import re
from pathlib import Path

from minisd.cautions import warn
from minisd.schedulers.base import Scheduler
from minisd.unet import UNet

# What diffusers' pipelines set, whatever scheduler_config.json says: that which inpaints, and all others. Where a file
# lacks one of these fields, its class's default would count, which is not what Stable Diffusion was trained with.
INPAINTING = {"steps_offset": 1, "skip_prk_steps": True}
OTHERS = {"steps_offset": 1, "clip_sample": False}
SIDE = 64  # of the latents of every Stable Diffusion that was published before diffusers 0.9


def correct(folder: Path, pipeline: str, scheduler: Scheduler | None, unet: UNet, unet_file: dict) -> None:
    """Correct the configs of a scheduler (None: not the folder's) and a U-Net in place, and warn of it once.

    Args:
        pipeline: the class that the folder's model_index.json names.
        unet_file: the U-Net's config.json, which also says which diffusers wrote it.
    """
    changes = []
    if scheduler is not None:
        right = INPAINTING if pipeline == "StableDiffusionInpaintPipeline" else OTHERS
        config = scheduler.config
        wrong = {field: value for field, value in right.items() if config.get(field, value) != value}
        changes += [f"scheduler/scheduler_config.json: {field}={value} (was {config[field]})"
                    for field, value in wrong.items()]
        defaults = [field for field in config["_use_default_values"] if field not in wrong]
        config |= wrong | {"_use_default_values": defaults}  # no defaults any more: the next sampler gets them, too
    side = unet_file.get("sample_size")
    if before_0_9(unet_file.get("_diffusers_version")) and (side is None or (isinstance(side, int) and side < SIDE)):
        unet.config = dataclasses.replace(unet.config, sample_size=SIDE)
        changes.append(f"unet/config.json: sample_size={SIDE} (was {'missing' if side is None else side})")
    if changes:
        warn(f"{folder} is of an early diffusers, whose configs are corrected as today's diffusers does: "
             f"{'; '.join(changes)}. save_pretrained writes them down, and then this warning goes")


def before_0_9(version: object) -> bool:
    number = re.match(r"(\d+)\.(\d+)", str(version))
    return number is not None and (int(number[1]), int(number[2])) < (0, 9)
