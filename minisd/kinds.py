"""Models that minisd does not open, by their names: told by a folder's index, a U-Net's config or a file's tensors."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from minisd.messages import quoted
from minisd.unet import UNetConfig

OPENED = "minisd opens Stable Diffusion 1.x and 2.x, for text to image and inpainting"

XL, THREE, FLUX = "Stable Diffusion XL", "Stable Diffusion 3", "FLUX"
LCM = "a latent consistency model (LCM), which is told the guidance scale"
PIX2PIX = "InstructPix2Pix, which edits a picture as told"
DEPTH = "the depth-to-image model of Stable Diffusion 2"
UNCLIP = "unCLIP, which varies a picture"
VARIATIONS = "Stable Diffusion Image Variations, which has a picture in place of the prompt"
UPSCALER = "an upscaler"
CASCADED = "DeepFloyd IF or Kandinsky"
SMALL = "a distilled Stable Diffusion without a middle block (small-sd, tiny-sd, BK-SDM)"

# How the class names of other pipelines begin.
PIPELINES = {
    "StableDiffusionXL": XL, "StableDiffusion3": THREE, "Flux": FLUX, "LatentConsistencyModel": LCM,
    "StableDiffusionInstructPix2Pix": PIX2PIX, "StableDiffusionDepth2Img": DEPTH, "StableUnCLIP": UNCLIP,
    "UnCLIP": UNCLIP, "StableDiffusionImageVariation": VARIATIONS, "StableDiffusionUpscale": UPSCALER,
    "StableDiffusionLatentUpscale": UPSCALER, "StableDiffusionControlNet": "Stable Diffusion with a ControlNet",
    "StableVideoDiffusion": "Stable Video Diffusion", "AltDiffusion": "AltDiffusion, which has another text encoder",
    "Kandinsky": "Kandinsky", "IF": "DeepFloyd IF", "PixArt": "PixArt", "Wuerstchen": "Würstchen",
    "StableCascade": "Stable Cascade",
}

# By fields of a U-Net's config; the first that fits.
UNETS: list[tuple[str, str, Callable[[Any], bool]]] = [
    (LCM, "time_cond_proj_dim", lambda width: width is not None),
    (XL, "addition_embed_type", lambda embedded: embedded == "text_time"),
    (XL, "transformer_layers_per_block", lambda depths: isinstance(depths, list) and len(set(map(str, depths))) > 1),
    (UNCLIP, "class_embed_type", lambda embedded: embedded == "projection"),
    (CASCADED, "encoder_hid_dim_type", lambda kind: kind is not None),
    (CASCADED, "down_block_types", lambda names: "SimpleCrossAttnDownBlock2D" in (names or ())),
    (UPSCALER, "in_channels", lambda channels: channels == 7),
    (PIX2PIX, "in_channels", lambda channels: channels == 8),
    (DEPTH, "in_channels", lambda channels: channels == 5),
    (SMALL, "mid_block_type", lambda kind: kind is None),
]

# By how the names of a single file's tensors begin; the first that is there.
TENSORS = {
    "conditioner.embedders.1.": XL, "embedder.": UNCLIP, "noise_augmentor.": UNCLIP, "depth_model.": DEPTH,
    "low_scale_model.": UPSCALER, "model.diffusion_model.time_embed.cond_proj.": LCM,
    "model.diffusion_model.joint_blocks.": THREE, "joint_blocks.": THREE,
    "model.diffusion_model.double_blocks.": FLUX, "double_blocks.": FLUX, "cond_stage_model.model.visual.": VARIATIONS,
    "control_model.": "a ControlNet, which steers another model", "emb_params": "an embedding from textual inversion",
    "lora_unet_": "a LoRA, a change to another model", "lora_te_": "a LoRA, a change to another model",
    "down_blocks.": "one network in the diffusers layout, which belongs in a folder",
}
UNET_PREFIX = "model.diffusion_model."


def of_pipeline(name: object) -> str | None:
    """What a pipeline's class name stands for; None if it is not known."""
    return next((kind for start, kind in PIPELINES.items() if str(name).startswith(start)), None)


def check_unet(config: dict, source: str) -> None:
    """Raise a ValueError for a pipeline's U-Net that is another model's, `source`'s."""
    for kind, field, fits in UNETS:
        if field in config and fits(config[field]):
            reason = f"{field}={quoted(config[field])}"  # which a U-Net of one's own may well have
            try:
                UNetConfig.from_dict(config)
            except ValueError as error:
                reason = str(error)
            raise ValueError(f"{source} is the U-Net of {kind} ({reason}); {OPENED}")


def check_file(weights: dict[str, Tensor], source: str) -> None:
    """Raise a ValueError for a single file, `source`, that is another model."""
    kind = next((kind for start, kind in TENSORS.items() if any(name.startswith(start) for name in weights)), None)
    first = weights.get(f"{UNET_PREFIX}input_blocks.0.0.weight")
    if kind is None and first is not None and first.ndim == 4:
        kind = {5: DEPTH, 7: UPSCALER, 8: PIX2PIX}.get(first.shape[1])
        if f"{UNET_PREFIX}label_emb.0.0.weight" in weights:
            kind = XL if any(name.startswith("conditioner.") for name in weights) else UNCLIP
        elif kind is None and not any(name.startswith(f"{UNET_PREFIX}middle_block.") for name in weights):
            kind = SMALL
    if kind:
        raise ValueError(f"{source} is {kind}, not a whole Stable Diffusion 1.x or 2.x checkpoint; {OPENED}")
