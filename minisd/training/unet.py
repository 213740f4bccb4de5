"""Train the U-Net: add noise to the latents of captioned pictures, and have it predict the velocity."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from minisd.blocks import ResidualBlock
from minisd.emoji.world import EmojiData
from minisd.pipeline import StableDiffusion
from minisd.schedulers import SD_SCHEDULE, DDIMScheduler
from minisd.text_encoder import TextEncoder
from minisd.tokenizer import Tokenizer
from minisd.training.loop import Batch
from minisd.training.pool import Pool, encode_all
from minisd.training.task import HELD_OUT, Task, check_positive, check_share, grid, trained_folder
from minisd.transformer import SpatialTransformer
from minisd.unet import UNet
from minisd.vae import VAE

MINI = {"sample_size": 16, "block_out_channels": (64, 128, 192), "layers_per_block": 1, "norm_num_groups": 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4}
# Stable Diffusion's noise schedule, but the network predicts the velocity v = √ᾱ·ε - √(1-ᾱ)·x0 (Salimans & Ho 2022,
# section 4) instead of the noise ε. At the noisiest timesteps, which decide the colour of a plain ground, the noise
# could be predicted by copying the input, whereas v is nearly -x0: it must be predicted from the caption.
SCHEDULE = {field: value for field, value in SD_SCHEDULE.items() if field in DDIMScheduler.DEFAULTS} | {
    "prediction_type": "v_prediction"}
PROMPTS = (
    "a 3d render of a red apple on a blue background", "a cartoon of a panda wearing a top hat on a yellow background",
    "a flat icon of a cat face next to a pizza on a white background",
    "a sticker of a rocket on a striped red and white background", "a small frog at the top left on a green background",
    "a dog face", "a fox wearing a crown", "a pizza above a rocket on a purple background",
    "a cartoon of a car on a white background", "three bananas", "a lion", "a sticker of a trophy and a banana")


@dataclass(frozen=True)
class Options:
    vae: str = "runs/vae/vae"
    clip: str = "runs/clip"  # the folder that contains text_encoder and tokenizer
    start: str | None = None  # a U-Net to start from
    pool_size: int = 100_000  # number of scenes in a pool, which are encoded in advance
    visits: int = 10  # how often each scene is trained on, on average, before the next pool replaces this one
    caption_dropout: float = 0.1  # how often the caption is left empty: guidance needs predictions without words
    min_snr: float | None = 5.0  # γ of min-SNR weighting (Hang et al. 2023); None weights all timesteps equally

    def __post_init__(self) -> None:
        for name in ("pool_size", "visits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least 1")
        check_share("caption_dropout", self.caption_dropout)
        if self.min_snr is not None:
            check_positive("min_snr", self.min_snr)


class Frozen(NamedTuple):
    """The networks that are used but not trained. (A tuple hides them from `parameters()` and `state_dict()`.)"""

    vae: VAE
    text_encoder: TextEncoder

    def to(self, device: torch.device) -> Self:
        for network in self:
            network.to(device)
        return self


class UNetTask(Task):
    """Loss: the weighted mean squared error of the predicted velocity.

    A step trains on random rows of a `Pool`, a table of scenes that were encoded in advance. All random numbers come
    from the step's `Batch`: `batch.draw(torch.rand)` is one number from 0 to 1 per sample, (B,).
    """

    adamw_names = ("conv_in", "conv_out", "time_embedding")  # Muon trains all other matrices and kernels

    def __init__(self, options: Options, data: EmojiData, seed: int = 0):
        super().__init__(seed)
        self.options, self.data = options, data
        clip = trained_folder("clip", options.clip)
        self.tokenizer = Tokenizer.from_pretrained(clip / "tokenizer")
        self.frozen = Frozen(VAE.from_pretrained(trained_folder("vae", options.vae), torch.float32),
                             TextEncoder.from_pretrained(clip / "text_encoder", torch.float32))
        self.frozen_weights = fingerprint(*self.frozen, words=self.tokenizer.vocab)
        self.unet = self.make_unet()
        self.scheduler = DDIMScheduler(**SCHEDULE)
        self.pool: Pool | None = None  # what is trained on
        self.held_out: Pool | None = None  # what the score is measured on
        self.folder = Path()  # the run's folder, where the pool is stored

    def make_unet(self) -> UNet:
        if self.options.start is not None:
            return self.open_unet(self.options.start)
        return initialise(UNet(**MINI, cross_attention_dim=self.frozen.text_encoder.config.hidden_size))

    def open_unet(self, folder: str) -> UNet:
        """The U-Net to start from."""
        unet = UNet.from_pretrained(trained_folder("unet", folder), dtype=torch.float32)
        width = self.frozen.text_encoder.config.hidden_size
        if unet.config.cross_attention_dim != width:
            raise ValueError(f"the U-Net in {folder} was trained with a text encoder of width "
                             f"{unet.config.cross_attention_dim}; the one in {self.options.clip} has {width}")
        return unet.requires_grad_(True).train()

    def config(self) -> dict:
        names = ("pool_size", "visits", "caption_dropout", "min_snr")
        return ({"frozen_weights": self.frozen_weights} | {name: getattr(self.options, name) for name in names}
                | self.unet.config.to_dict())

    # --- the pool ---------------------------------------------------------------------------------------------

    def prepare(self, folder: Path, samples: int) -> None:
        """Called by the loop before the first step, or the first after a run was resumed."""
        self.folder = folder
        self.pool_after(samples)  # now, so that the time for encoding is not counted as training time

    def pool_after(self, samples: int) -> Pool:
        """The pool in use after so many training samples; a pool is replaced after `visits` samples per scene."""
        number = samples // (self.options.pool_size * self.options.visits)
        if self.pool is None or self.pool.number != number:
            self.pool = None  # frees the old one's memory
            key = f"{type(self).__name__} seed {self.seed} {self.config()}"
            with self.in_float32():
                self.pool = Pool.open(self.folder / "pool.safetensors", number, key, self.options.pool_size,
                                      lambda indices: self.encode(indices, self.seed, "train"))
        return self.pool

    @torch.no_grad()
    def encode(self, indices: range, seed: int, split: str) -> dict[str, Tensor]:
        """Rows of a pool for these scenes: mean and std of their scaled latents, (4, 16, 16), and token_ids, (77,)."""
        images, captions, _ = self.data.batch(indices, seed, split)
        return self.posterior(images) | {"token_ids": self.tokenizer(captions)}

    def posterior(self, images: Tensor) -> dict[str, Tensor]:
        vae = self.frozen.to(self.unet.device).vae
        posterior = vae.encode(images.to(self.unet.device))
        factor = vae.config.scaling_factor
        return {"mean": (factor * posterior.mean).cpu(), "std": (factor * posterior.std).cpu()}

    def in_float32(self) -> torch.autocast:
        """A context that computes in float32, even inside the training loop's autocast."""
        return torch.autocast(self.unet.device.type, enabled=False)

    # --- the loss ---------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Tensor:
        pool = self.pool_after(batch.indices[0] - batch.part.start)  # the samples of all steps before this one
        chosen = (batch.draw(torch.rand) * len(pool)).long()
        return self.loss(pool, chosen, batch, self.options.caption_dropout)

    def loss(self, pool: Pool, chosen: Tensor, batch: Batch, caption_dropout: float) -> Tensor:
        """The loss on the chosen rows of a pool."""
        device = self.unet.device
        latents = self.sample_latents(pool, batch, chosen)  # (B, 4, 16, 16)
        token_ids = pool.rows("token_ids", chosen, device)  # (B, 77)
        token_ids[batch.draw(torch.rand).to(device) < caption_dropout] = self.tokenizer([""]).to(device)
        with torch.no_grad():
            context = self.frozen.to(device).text_encoder(token_ids)  # (B, 77, width)
        # from 0 to 999, spread more evenly over the batch than independent draws would be
        timesteps = (batch.draw_stratified() * self.scheduler.config.num_train_timesteps).long().to(device)
        noise = batch.draw(torch.randn, *latents.shape[1:]).to(device)

        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        velocity = self.scheduler.get_velocity(latents, noise, timesteps)
        predicted = self.unet(self.unet_input(noisy, pool, batch, chosen), timesteps, context).float()
        error = self.latent_weight(pool, chosen) * (predicted - velocity).square()
        return (self.timestep_weight(timesteps) * error.mean(dim=(1, 2, 3))).mean()

    def sample_latents(self, pool: Pool, batch: Batch, chosen: Tensor, prefix: str = "") -> Tensor:
        """Latents drawn from the posteriors of the chosen scenes: different ones at each visit.

        prefix: of the tensors' names; "shown_" for the masked pictures of the inpainting task.
        """
        mean = pool.rows(prefix + "mean", chosen, self.unet.device)
        std = pool.rows(prefix + "std", chosen, self.unet.device)
        return mean + std * batch.draw(torch.randn, *mean.shape[1:]).to(mean.device)

    def unet_input(self, noisy: Tensor, pool: Pool, batch: Batch, chosen: Tensor) -> Tensor:
        """The U-Net's input: the noisy latents. (The inpainting task adds channels.)"""
        return noisy

    def latent_weight(self, pool: Pool, chosen: Tensor) -> Tensor | float:
        """How much each latent number counts in the loss: here, all the same. (The inpainting task overrides this.)"""
        return 1.0

    def timestep_weight(self, timesteps: Tensor) -> Tensor:
        """min(SNR, γ) / (SNR + 1): timesteps with little noise, which are easy and teach little, count less.

        Where SNR = ᾱ/(1-ᾱ) is below γ, the weight is ᾱ, and ᾱ·|v - v̂|² = |ε - ε̂|²: the usual loss on the noise.
        """
        if self.options.min_snr is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        alphas = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = alphas / (1 - alphas)
        return snr.clamp(max=self.options.min_snr) / (snr + 1)

    # --- how good it is ---------------------------------------------------------------------------------------

    def score(self, count: int = 512) -> tuple[str, float]:
        """The loss on held-out scenes, which no run trains on, with the same noise and timesteps every time."""
        if self.held_out is None:
            with self.in_float32():
                rows = encode_all(range(count), lambda indices: self.encode(indices, HELD_OUT, "heldout"))
            self.held_out = Pool(0, rows)
        batch = Batch(list(range(count)), count, slice(0, count), torch.Generator().manual_seed(HELD_OUT))
        return "held-out loss", float(self.loss(self.held_out, torch.arange(count), batch, caption_dropout=0.0))

    def pipeline(self) -> StableDiffusion:
        """A pipeline that draws with the U-Net as it is now."""
        vae, text_encoder = self.frozen.to(self.unet.device)
        return StableDiffusion(self.tokenizer, text_encoder, self.unet, vae, DDIMScheduler(**SCHEDULE))

    def picture(self) -> Image.Image:
        """Three seeds (down) of the twelve `PROMPTS` (across)."""
        sd = self.pipeline()
        rows = [sd.text_to_image(list(PROMPTS), guidance_scale=3.0, generator=torch.Generator().manual_seed(seed),
                                 output="pt", progress=False) for seed in range(3)]
        return grid([2 * torch.as_tensor(row) - 1 for row in rows])

    def export(self, folder: Path) -> str:
        self.unet.save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")
        name, value = self.score()
        return f"U-Net: {self.unet.num_parameters():,} parameters, {name} {value:.4f}"


def fingerprint(*networks: nn.Module, words: dict[str, int]) -> str:
    """A short string that changes whenever a weight of the networks or an entry of the vocabulary does."""
    digest = hashlib.sha256(repr(sorted(words.items())).encode())
    for network in networks:
        digest.update(save({name: weight.contiguous() for name, weight in network.state_dict().items()}))
    return digest.hexdigest()[:12]


def initialise(unet: UNet) -> UNet:
    """Set the last layer of every residual branch, and of the U-Net, to zero: each block starts as the identity."""
    for module in unet.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.weight)
        if isinstance(module, SpatialTransformer):
            nn.init.zeros_(module.proj_out.weight)
    nn.init.zeros_(unet.conv_out.weight)
    return unet
