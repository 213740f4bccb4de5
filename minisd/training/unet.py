"""Train the U-Net: latents of captioned pictures, noise on top, and the velocity to be predicted.

Latents and text are encoded beforehand, once: the VAE and the text encoder are frozen, so that nothing is learnt by
encoding the same picture again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from minisd.blocks import ResidualBlock
from minisd.emoji.data import EmojiData, Scene
from minisd.schedulers import DDIMScheduler
from minisd.text_encoder import TextEncoder
from minisd.tokenizer import Tokenizer
from minisd.training.loop import Batch
from minisd.training.vae import grid
from minisd.transformer import SpatialTransformer
from minisd.unet import UNet
from minisd.vae import VAE

MINI = {"sample_size": 16, "block_out_channels": (64, 128, 192), "layers_per_block": 1, "norm_num_groups": 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4}
# Stable Diffusion's noise schedule. The velocity is predicted, not the noise: at the last steps, which decide the
# colour of a plain background, "predict the noise" is solved by copying the input and teaches nothing about the
# picture, while v (Salimans & Ho 2022, section 4) is there about the negative picture.
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
            "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "v_prediction"}
PROMPTS = [("pizza", "3d", "white"), ("cat face", "flat", "blue"), ("rocket", "cartoon", "white"),
           ("red apple", "sticker", "green"), ("pizza", "cartoon", "purple"), ("cat face", "3d", "white"),
           ("rocket", "3d", "yellow"), ("smiling face with sunglasses", "flat", "white")]


@dataclass(frozen=True)
class Options:
    vae: str = "runs/vae/vae"
    text: str = "runs/clip"  # the folder that holds text_encoder and tokenizer
    unet: str | None = None  # a folder of weights to begin with, for instance those of a run at 32 pixels
    subset: str = "core"
    resolution: int = 64  # of the pictures; 32 is twice as fast, and all but the finest details can be learnt there
    pool: int = 40_000  # scenes that are encoded beforehand, and drawn from again and again
    caption_dropout: float = 0.1  # how often the caption is empty, so that guidance has something to push off from
    min_snr: float | None = 5.0  # γ of min-SNR weighting (Hang et al. 2023); None weighs all times alike


class UNetTask(nn.Module):
    """Loss: weighted mean square of predicted minus true velocity."""

    def __init__(self, options: Options, data: EmojiData, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.options, self.data, self.seed = options, data, seed
        if options.pool < 1:
            raise ValueError(f"pool={options.pool}: it must be at least 1")
        if not 0 <= options.caption_dropout <= 1:
            raise ValueError(f"caption_dropout={options.caption_dropout}: it must be from 0 to 1")
        if options.min_snr is not None and not options.min_snr > 0:
            raise ValueError(f"min_snr={options.min_snr}: it must be above 0")
        text = trained("clip", options.text)
        self.tokenizer = Tokenizer.from_pretrained(text / "tokenizer")
        # In a list, so that the frozen networks are not part of what is trained and saved.
        self.frozen = [VAE.from_pretrained(trained("vae", options.vae), torch.float32),
                       TextEncoder.from_pretrained(text / "text_encoder", torch.float32)]
        self.unet = self.make_unet()
        self.scheduler = DDIMScheduler(**SCHEDULE)
        self.pool: dict[str, Tensor] = {}

    def make_unet(self) -> UNet:
        if self.options.unet is not None:
            return self.open_unet()
        width = self.frozen[1].config.hidden_size
        return initialise(UNet(**MINI | {"sample_size": self.latent_size()}, cross_attention_dim=width))

    def latent_size(self) -> int:
        return self.options.resolution // self.frozen[0].downscale

    def open_unet(self) -> UNet:
        """The U-Net to begin with. It is convolutional, so that it takes latents of another size as well."""
        start = UNet.from_pretrained(trained("unet", self.options.unet), dtype=torch.float32)
        width = self.frozen[1].config.hidden_size
        if start.config.cross_attention_dim != width:
            raise ValueError(f"unet={self.options.unet!r} was trained with a text encoder of width "
                             f"{start.config.cross_attention_dim}; the one in {self.options.text} has {width}")
        config = start.config.to_dict() | {"sample_size": self.latent_size()}
        return UNet.from_state_dict(config, start.state_dict()).requires_grad_(True).train()

    def config(self) -> dict:
        names = ("subset", "pool", "caption_dropout", "min_snr")
        return {name: getattr(self.options, name) for name in names} | self.unet.config.to_dict()

    @torch.no_grad()
    def encode_pool(self) -> None:
        """Draw and encode the pool: latents (N, 4, 16, 16) and text (N, 77, width), in half precision.

        (Latents are 8 × 8 for pictures of 32 pixels.) Each process encodes its share; then all have all of it.
        """
        vae, text_encoder = (network.to(self.unet.device) for network in self.frozen)
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if self.options.pool % world:
            raise ValueError(f"pool={self.options.pool} cannot be divided among {world} processes")
        share = self.options.pool // world
        parts = []
        for first in tqdm(range(rank * share, (rank + 1) * share, 50), desc="encoding", leave=False, mininterval=2):
            indices = range(first, min(first + 50, (rank + 1) * share))
            images, captions, scenes = self.data.batch(indices, self.seed, resolution=self.options.resolution)
            part = self.encode(vae, images, scenes, indices)
            captions = self.captions(captions, scenes, indices)
            part["text"] = text_encoder(self.tokenizer(captions).to(self.unet.device))
            parts.append({name: tensor.half() for name, tensor in part.items()})
        with torch.autocast(self.unet.device.type, enabled=False):
            self.pool = {name: gather(torch.cat([part[name] for part in parts])) for name in parts[0]}
            self.pool["empty"] = text_encoder(self.tokenizer([""]).to(self.unet.device))[0].half()

    def encode(self, vae: VAE, images: Tensor, scenes: list[Scene], indices: range) -> dict[str, Tensor]:
        """What the pool holds of some scenes, beside their captions."""
        return {"latents": to_latents(vae, images, indices)}

    def captions(self, captions: list[str], scenes: list[Scene], indices: range) -> list[str]:
        """What the pool's text says: the data's captions. (The inpainting task makes some of them shorter.)"""
        return captions

    def forward(self, batch: Batch) -> Tensor:
        if not self.pool:
            self.encode_pool()
        device = self.unet.device
        chosen = (batch.draw(torch.rand) * len(self.pool["latents"])).long().to(device)
        latents, context = self.pool["latents"][chosen].float(), self.pool["text"][chosen].float()
        context[batch.draw(torch.rand).to(device) < self.options.caption_dropout] = self.pool["empty"].float()
        timesteps = (batch.draw(torch.rand) * 1000).long().to(device)
        noise = batch.draw(torch.randn, *latents.shape[1:]).to(device)

        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        velocity = self.scheduler.get_velocity(latents, noise, timesteps)
        error = self.unet(self.inputs(noisy, chosen), timesteps, context).float() - velocity
        return (self.weight(timesteps) * error.square().mean(dim=(1, 2, 3))).mean()

    def inputs(self, noisy: Tensor, chosen: Tensor) -> Tensor:
        """What the U-Net is shown: the noisy latents. (The inpainting task adds to them.)"""
        return noisy

    def weight(self, timesteps: Tensor) -> Tensor:
        """min(SNR, γ) / (SNR + 1): times with little noise, which look easy and add little, count less."""
        if self.options.min_snr is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        alphas = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = alphas / (1 - alphas)
        return snr.clamp(max=self.options.min_snr) / (snr + 1)

    @torch.no_grad()
    def sample(self, captions: list[str], steps: int = 20, guidance_scale: float = 4.0, seed: int = 0,
               shown: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, R, R) of the resolution that is trained, for captions, by DDIM with guidance."""
        vae, text_encoder = (network.to(self.unet.device) for network in self.frozen)
        context = text_encoder(self.tokenizer([""] * len(captions) + captions).to(self.unet.device))
        shape = (len(captions), 4, self.unet.config.sample_size, self.unet.config.sample_size)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(context.device)
        scheduler = DDIMScheduler(**SCHEDULE)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            inputs = torch.cat([x] * 2)
            inputs = inputs if shown is None else torch.cat([inputs, shown], dim=1)
            negative, positive = self.unet(inputs, t, context).chunk(2)
            x = scheduler.step(negative + guidance_scale * (positive - negative), t, x).prev_sample
        return vae.decode(x / vae.config.scaling_factor)

    def picture(self) -> Image.Image:
        """Three seeds (down) of eight prompts (across), which are in `PROMPTS`."""
        captions = [self.data.caption(Scene(*prompt)) for prompt in PROMPTS]
        return grid([self.sample(captions, seed=seed) for seed in range(3)])

    def export(self, folder: Path) -> None:
        self.unet.save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")
        print(f"U-Net: {self.unet.num_parameters():,} parameters")


def trained(model: str, folder: str) -> Path:
    """The folder of a model that must be trained before this one."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; `minisd train {model}` makes one, or name another")
    return Path(folder)


def to_latents(vae: VAE, images: Tensor, seeds: Iterable[int]) -> Tensor:
    """Scaled latents, one random number generator for each picture: they do not depend on the batch."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return vae.encode(images.to(vae.device)).sample(generators) * vae.config.scaling_factor


def gather(share: Tensor) -> Tensor:
    """The shares of all processes behind one another."""
    if not dist.is_initialized():
        return share
    shares = [torch.empty_like(share) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, share)
    return torch.cat(shares)


def initialise(unet: UNet) -> UNet:
    """Begin with every residual branch at zero: the network starts as the identity and learns what to add."""
    for module in unet.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.weight)
        if isinstance(module, SpatialTransformer):
            nn.init.zeros_(module.proj_out.weight)
    nn.init.zeros_(unet.conv_out.weight)
    return unet
