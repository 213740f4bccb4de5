"""Fine-tune the U-Net to inpaint: besides the noisy latents, it sees the mask and the latents of the masked picture."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minisd.emoji.scene import Scene
from minisd.emoji.world import EmojiData
from minisd.training.loop import Batch
from minisd.training.pool import Pool
from minisd.training.task import HELD_OUT, check_positive, check_share, grid
from minisd.training.unet import Options, UNetTask
from minisd.unet import UNet


@dataclass(frozen=True)
class InpaintOptions(Options):
    start: str = "runs/unet/unet"
    pool_size: int = 40_000
    short_captions: float = 0.5  # how often the caption only names the thing, so that the known part must tell the rest
    conv_in_rate: float = 10.0  # factor on the first convolution's learning rate, because its new weights start at zero
    known_weight: float = 1.0  # extra weight of the known part in the loss, so that the network leaves it alone

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("short_captions", self.short_captions)
        check_positive("conv_in_rate", self.conv_in_rate)
        if not self.known_weight >= 0:
            raise ValueError(f"known_weight={self.known_weight}: it must be at least 0")


def widen(unet: UNet, in_channels: int = 9) -> UNet:
    """The same network with more input channels, whose weights are zero, so that it still computes what it did before.

    Source: Rombach et al. 2022, section 4.5, and the published inpainting models.
    """
    weights = {name: weight.clone() for name, weight in unet.state_dict().items()}  # copied: both may be trained
    old = weights["conv_in.weight"]  # (C, 4, 3, 3)
    weights["conv_in.weight"] = F.pad(old, (0, 0, 0, 0, 0, in_channels - old.shape[1]))
    return UNet.from_state_dict(unet.config.to_dict() | {"in_channels": in_channels}, weights)


class InpaintTask(UNetTask):
    """Like the U-Net's task, plus a random mask for each scene: boxes, strokes, the things, or the ground."""

    options: InpaintOptions

    def __init__(self, options: InpaintOptions, data: EmojiData, seed: int = 0):
        super().__init__(options, data, seed)
        self.rates = {"unet.conv_in.weight": options.conv_in_rate}

    def make_unet(self) -> UNet:
        return widen(self.open_unet(self.options.start)).requires_grad_(True).train()

    def config(self) -> dict:
        names = ("short_captions", "conv_in_rate", "known_weight")
        return super().config() | {name: getattr(self.options, name) for name in names}

    @torch.no_grad()
    def encode(self, indices: range, seed: int, split: str) -> dict[str, Tensor]:
        """As for the U-Net, plus mask (1, 16, 16), and shown_mean and shown_std (4, 16, 16) of the masked picture."""
        images, _, scenes = self.data.batch(indices, seed, split)
        rngs = [np.random.default_rng((seed, i, 1)) for i in indices]
        masks = torch.stack([random_mask(self.data, scene, rng) for scene, rng in zip(scenes, rngs)])
        captions = [self.data.caption(shortened(scene) if rng.random() < self.options.short_captions else scene)
                    for scene, rng in zip(scenes, rngs)]
        shown = self.posterior(images * (1 - masks))  # the hidden part is grey
        return self.posterior(images) | {f"shown_{what}": rows for what, rows in shown.items()} | {
            "mask": F.interpolate(masks, size=shown["mean"].shape[-2:]), "token_ids": self.tokenizer(captions)}

    def unet_input(self, noisy: Tensor, pool: Pool, batch: Batch, chosen: Tensor) -> Tensor:
        # Drawn independently: if both latents had the same noise, the network would learn to copy it.
        shown = self.sample_latents(pool, batch, chosen, "shown_")
        return torch.cat([noisy, pool.rows("mask", chosen, noisy.device), shown], dim=1)

    def latent_weight(self, pool: Pool, chosen: Tensor) -> Tensor:
        known = 1 - pool.rows("mask", chosen, self.unet.device)
        weight = 1 + self.options.known_weight * known  # (B, 1, 16, 16)
        return weight / weight.mean(dim=(1, 2, 3), keepdim=True)

    def picture(self) -> Image.Image:
        """Ten scenes across; down: with a hole, then filled (seed 0) by the full caption and by a short one."""
        images, _, scenes = self.data.batch(range(10), HELD_OUT, "heldout")
        masks = torch.stack([random_mask(self.data, scene, np.random.default_rng((HELD_OUT, i)))
                             for i, scene in enumerate(scenes)])
        rows, sd = [images * (1 - masks)], self.pipeline()
        for told in (scenes, [shortened(scene) for scene in scenes]):
            captions = [self.data.caption(scene) for scene in told]
            filled = sd.inpaint(captions, images, masks, guidance_scale=3.0, output="pt", progress=False,
                                generator=torch.Generator().manual_seed(0))
            rows.append(2 * torch.as_tensor(filled).cpu() - 1)
        return grid(rows)


def shortened(scene: Scene) -> Scene:
    """The same scene, whose caption now only names the things."""
    return replace(scene, says_thing=True, says_style=False, says_background=False, says_size=False, says_place=False,
                   says_count=False, says_worn=False, paraphrase=0)


def random_mask(data: EmojiData, scene: Scene, rng: np.random.Generator) -> Tensor:
    """A mask (1, R, R): one where the picture is to be repainted."""
    size, kind = data.resolution, rng.random()
    if kind < 0.6:
        return torch.from_numpy(random_boxes_and_strokes(rng, size))[None]
    alpha = (data.mask(scene) > 0.5).float()
    # masks drawn by hand never follow an outline exactly, so grow it by up to a sixteenth of the picture
    grow = 2 * int(rng.integers(0, size // 16 + 1)) + 1
    covered = alpha if kind < 0.8 else 1 - alpha
    return F.max_pool2d(covered[None], grow, stride=1, padding=grow // 2)[0]


def random_boxes_and_strokes(rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """A mask (size, size) of zeros and ones: one to three boxes, or a thick stroke of one to three segments."""
    mask = np.zeros((size, size), dtype=np.float32)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            height, width = rng.integers(size // 6, size // 2 + size // 8, size=2)
            y, x = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
            mask[y: y + height, x: x + width] = 1
        return mask
    points = rng.uniform(0, size, size=(rng.integers(2, 5), 2))
    radius = rng.uniform(size / 12, size / 6)
    yx = np.moveaxis(np.mgrid[:size, :size], 0, -1)
    for a, b in pairwise(points):
        for part in np.linspace(0, 1, 24):
            mask[((yx - (a + part * (b - a))) ** 2).sum(-1) < radius**2] = 1
    return mask
