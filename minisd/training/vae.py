"""Train the VAE: pictures to latents and back, with as many details kept and latents as near N(0, 1) as can be."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from minisd.emoji.data import EmojiData
from minisd.metrics import psnr
from minisd.training.loop import Batch
from minisd.vae import VAE

MINI = {"block_out_channels": (24, 48, 96), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 64,
        "force_upcast": False}
HELD_OUT = 10_000_000  # seed of the pictures that no training run draws


@dataclass(frozen=True)
class Options:
    subset: str = "full"
    kl_weight: float = 1e-3  # of the KL divergence, in nats a latent number
    gradient_weight: float = 0.5  # of the error in differences between neighbours, which are edges
    small: float | None = None  # part of the batches drawn at 32 pixels, for a U-Net that is to begin there


class VAETask(nn.Module):
    """Loss: |x - x̂| + ½ |∇x - ∇x̂| + a little KL, each a mean over numbers (Rombach et al. 2022, appendix G, have a
    perceptual and an adversarial loss in place of the second)."""

    def __init__(self, options: Options, data: EmojiData, seed: int = 0):
        super().__init__()
        if not 0 <= (options.small or 0) <= 1:
            raise ValueError(f"small={options.small}: it must be from 0 to 1")
        torch.manual_seed(seed)
        self.options, self.data, self.seed = options, data, seed
        self.vae = VAE(**MINI)

    def config(self) -> dict:
        return {"subset": self.options.subset, "kl_weight": self.options.kl_weight,
                "small": self.options.small} | self.vae.config.to_dict()

    def forward(self, batch: Batch) -> Tensor:
        small = self.options.small and torch.rand((), generator=batch.generator) < self.options.small
        images, _, _ = self.data.batch(batch.indices, self.seed, split="train", resolution=32 if small else 64)
        images = images.to(self.vae.device)
        posterior = self.vae.encode(images)
        noise = batch.draw(torch.randn, *posterior.mean.shape[1:]).to(images.device)
        latents = posterior.mean + posterior.std * noise
        error = (self.vae.decode(latents) - images).float()
        edges = (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2
        loss = error.abs().mean() + self.options.gradient_weight * edges
        return loss + self.options.kl_weight * posterior.kl().float().mean() / latents[0].numel()

    @torch.no_grad()
    def reconstruct(self, count: int) -> tuple[Tensor, Tensor]:
        """Pictures that were not trained on, and what becomes of them: both (count, 3, 64, 64) in [-1, 1]."""
        images, _, _ = self.data.batch(range(count), HELD_OUT, split="heldout")
        images = images.to(self.vae.device)
        return images, self.vae.decode(self.vae.encode(images).mode()).clamp(-1, 1)

    def psnr(self, count: int = 256) -> float:
        """Peak signal-to-noise ratio on pictures not trained on, in dB, averaged over the pictures."""
        return psnr(*self.reconstruct(count))

    def picture(self) -> Image.Image:
        """Rows of originals over rows of reconstructions."""
        images, again = self.reconstruct(24)
        rows = [half[12 * i: 12 * (i + 1)] for i in range(2) for half in (images, again)]
        return grid(rows)

    @torch.no_grad()
    def measure_scaling_factor(self, count: int = 1024) -> float:
        """1 / standard deviation of latents, over training pictures."""
        latents = [self.vae.encode(self.data.batch(range(i, i + 64), self.seed, split="train")[0].to(self.vae.device))
                   .sample(torch.Generator().manual_seed(i)) for i in range(0, count, 64)]
        return round(1 / float(torch.cat(latents).std()), 5)

    def export(self, folder: Path) -> None:
        config = self.vae.config.to_dict() | {"scaling_factor": self.measure_scaling_factor()}
        vae = VAE.from_state_dict(config, self.vae.state_dict())
        vae.save_pretrained(folder / "vae")
        print(f"VAE: {vae.num_parameters():,} parameters, PSNR {self.psnr():.2f} dB on pictures not trained on, "
              f"scaling factor {vae.config.scaling_factor}")


def grid(rows: list[Tensor]) -> Image.Image:
    """Rows of pictures (N, 3, H, W) in [-1, 1] as one picture."""
    pixels = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # (3, rows·H, N·W)
    array = ((pixels.float().cpu().clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8)
    return Image.fromarray(array)
