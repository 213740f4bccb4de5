"""Stable Diffusion from scratch: the public names."""

from minisd.pipeline import StableDiffusion
from minisd.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from minisd.text_encoder import TextEncoder
from minisd.tokenizer import Tokenizer
from minisd.unet import UNet
from minisd.vae import VAE

__all__ = [
    "VAE", "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "StableDiffusion",
    "TextEncoder", "Tokenizer", "UNet",
]
__version__ = "0.2.0.dev0"  # stated only here; CHANGELOG.md lists the changes
