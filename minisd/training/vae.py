"""Train the VAE: from pictures to latents and back, with as much detail as possible and latents close to N(0, 1)."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from minisd.emoji.world import EmojiData
from minisd.metrics import psnr
from minisd.training.loop import Batch
from minisd.training.task import HELD_OUT, Task, check_positive, grid, trained_folder
from minisd.vae import VAE

# Channels at each level, by the resolution of the pictures; latents are 16 × 16 either way.
LEVELS = {64: (24, 48, 96), 128: (16, 24, 48, 96)}


@dataclass(frozen=True)
class Options:
    resolution: int = 128  # of the pictures: 128 (f = 8, as in Stable Diffusion), or 64 (f = 4) to start with
    start: str | None = None  # a VAE to start from; one trained at 64 pixels then grows by a level
    kl_weight: float = 1e-5  # of the KL divergence, in nats per latent number
    gradient_weight: float = 0.5  # of the error in the differences between neighbouring pixels, that is, in edges

    def __post_init__(self) -> None:
        if self.resolution not in LEVELS:
            raise ValueError(f"resolution={self.resolution}: it must be {' or '.join(map(str, LEVELS))}")
        for name in ("kl_weight", "gradient_weight"):
            check_positive(name, getattr(self, name))


class VAETask(Task):
    """Loss: |x - x̂| + ½ |∇x - ∇x̂| + a little KL, each averaged over all values. (Rombach et al. 2022, appendix G, use a
    perceptual and an adversarial loss instead of the second term.)"""

    adamw_names = ("encoder.conv_in", "decoder.conv_out")

    def __init__(self, options: Options, data: EmojiData, seed: int = 0):
        super().__init__(seed)
        self.options, self.data = options, data
        self.vae = self.make_vae()

    def make_vae(self) -> VAE:
        wanted = {"block_out_channels": LEVELS[self.options.resolution], "layers_per_block": 1, "norm_num_groups": 8,
                  "sample_size": self.options.resolution, "force_upcast": False}
        if self.options.start is None:
            return VAE(**wanted)
        start = VAE.from_pretrained(trained_folder("vae", self.options.start), torch.float32)
        if start.config.block_out_channels == wanted["block_out_channels"]:
            return VAE.from_state_dict(wanted, start.state_dict()).requires_grad_(True).train()
        return grow(start, VAE(**wanted))

    def config(self) -> dict:
        names = ("resolution", "kl_weight", "gradient_weight")
        return {name: getattr(self.options, name) for name in names} | self.vae.config.to_dict()

    def forward(self, batch: Batch) -> Tensor:
        images, _, _ = self.data.batch(batch.indices, self.seed, "train", self.options.resolution)
        images = images.to(self.vae.device)
        posterior = self.vae.encode(images)
        noise = batch.draw(torch.randn, *posterior.mean.shape[1:]).to(images.device)
        latents = posterior.mean + posterior.std * noise
        error = (self.vae.decode(latents) - images).float()
        edges = (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2
        loss = error.abs().mean() + self.options.gradient_weight * edges
        return loss + self.options.kl_weight * posterior.kl().float().mean() / latents[0].numel()

    @torch.no_grad()
    def reconstruct(self, count: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """Pictures never trained on, and their reconstructions: both (count, 3, R, R) in [-1, 1]."""
        images, _, _ = self.data.batch(range(first, first + count), HELD_OUT, "heldout", self.options.resolution)
        images = images.to(self.vae.device)
        return images, self.vae.decode(self.vae.encode(images).mode()).float().clamp(-1, 1)

    def score(self, count: int = 64) -> tuple[str, float]:
        """The mean peak signal-to-noise ratio of pictures never trained on, in dB."""
        parts = [psnr(*self.reconstruct(32, first)) for first in range(0, count, 32)]
        return "PSNR, dB", sum(parts) / len(parts)

    def picture(self) -> Image.Image:
        """Rows of originals over rows of reconstructions."""
        images, again = self.reconstruct(24)
        rows = [half[12 * i: 12 * (i + 1)] for i in range(2) for half in (images, again)]
        return grid(rows)

    def export(self, folder: Path) -> str:
        vae = standardise(self.vae, self.latents())
        vae.save_pretrained(folder / "vae")
        return (f"VAE: {vae.num_parameters():,} parameters, PSNR {self.score(256)[1]:.2f} dB on pictures not trained "
                f"on, scaling factor {vae.config.scaling_factor}")

    @torch.no_grad()
    def latents(self, count: int = 1024) -> Tensor:
        """Latents of training pictures, drawn from their posteriors: (count, 4, 16, 16)."""
        batches = (self.data.batch(range(i, i + 32), self.seed, "train", self.options.resolution)[0]
                   for i in range(0, count, 32))
        return torch.cat([self.vae.encode(images.to(self.vae.device)).sample(torch.Generator().manual_seed(i))
                          for i, images in enumerate(batches)])


def grow(small: VAE, large: VAE) -> VAE:
    """Give `large`, which has one more level on the outside, the weights of `small` wherever they fit, and return it
    (Karras et al. 2018, "Progressive Growing of GANs").

    The encoder's levels are numbered from the outside in, so each one's number is one higher in the larger network.
    """
    shifted = {re.sub(r"(?<=^encoder\.down_blocks\.)\d+", lambda number: str(int(number[0]) + 1), name): tensor
               for name, tensor in small.state_dict().items()}
    weights = large.state_dict()
    fitting = {name: tensor for name, tensor in shifted.items()
               if name in weights and weights[name].shape == tensor.shape}
    large.load_state_dict(weights | fitting)
    return large


@torch.no_grad()
def standardise(vae: VAE, latents: Tensor) -> VAE:
    """The same VAE with latents whose channels all have mean 0 and the same standard deviation s, as diffusion needs.

    Channel k of the latents becomes (z - mean_k)·s / std_k. `quant_conv`, the encoder's last layer, can do this, and
    `post_quant_conv`, the decoder's first, can undo it, so reconstructions do not change. All that remains is to divide
    all channels by s: 1/s is the scaling factor.

    Args:
        latents: (N, 4, h, w), a sample of the VAE's latents.
    """
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))  # (4,)
    spread = std.square().mean().sqrt()
    gain = spread / std
    weights = {name: weight.clone() for name, weight in vae.state_dict().items()}
    weight, bias = weights["quant_conv.weight"], weights["quant_conv.bias"]  # rows: 4 means, 4 log-variances
    weight[:4] *= gain[:, None, None, None]
    bias[:4] = (bias[:4] - mean) * gain
    bias[4:] += 2 * gain.log()
    weight, bias = weights["post_quant_conv.weight"], weights["post_quant_conv.bias"]
    bias += weight[:, :, 0, 0] @ mean
    weight /= gain[:, None, None]
    return VAE.from_state_dict(vae.config.to_dict() | {"scaling_factor": round(1 / float(spread), 5)}, weights)
