"""Fine-tune the U-Net to inpaint: show it, beside the noisy latents, the mask and the latents of the masked picture."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minisd.emoji.data import EmojiData, Scene
from minisd.training.unet import PROMPTS, Options, UNetTask, to_latents
from minisd.training.vae import HELD_OUT, grid
from minisd.unet import UNet
from minisd.vae import VAE


@dataclass(frozen=True)
class InpaintOptions(Options):
    unet: str = "runs/unet/unet"
    short_captions: float = 0.5  # how often the caption only names the thing: the rest must be read off what is shown
    faster: float = 10.0  # times the learning rate, for the first convolution: its new weights begin at zero

    def __post_init__(self):
        if not 0 <= self.short_captions <= 1:
            raise ValueError(f"short_captions={self.short_captions}: it must be from 0 to 1")
        if not 0 < self.faster < math.inf:
            raise ValueError(f"faster={self.faster}: it must be above 0")


def widen(unet: UNet, in_channels: int = 9) -> UNet:
    """The same network with more input channels, whose weights are zero: at first it computes what it did before.

    Source: Rombach et al. 2022, section 4.5, and the published inpainting models.
    """
    weights = {name: weight.clone() for name, weight in unet.state_dict().items()}  # its own: both may be trained
    old = weights["conv_in.weight"]  # (C, 4, 3, 3)
    weights["conv_in.weight"] = F.pad(old, (0, 0, 0, 0, 0, in_channels - old.shape[1]))
    return UNet.from_state_dict(unet.config.to_dict() | {"in_channels": in_channels}, weights)


class InpaintTask(UNetTask):
    """As the U-Net's, with a mask drawn for each scene of the pool: boxes, strokes, the object, or its background."""

    def __init__(self, options: InpaintOptions, data: EmojiData, seed: int = 0):
        super().__init__(options, data, seed)
        self.rates = {"unet.conv_in.weight": options.faster}

    def make_unet(self) -> UNet:
        return widen(self.open_unet()).requires_grad_(True).train()

    def config(self) -> dict:
        return super().config() | {"short_captions": self.options.short_captions, "faster": self.options.faster}

    def captions(self, captions: list[str], scenes: list[Scene], indices: range) -> list[str]:
        """With full captions alone the network would never need to look: they say what the hidden part is like."""
        things = [self.data.concept(scene.concept) for scene in scenes]
        dice = [np.random.default_rng((self.seed, i, 1)).random() for i in indices]
        return [f"{thing.article} {thing.name}".strip() if die < self.options.short_captions else caption
                for caption, thing, die in zip(captions, things, dice)]

    def encode(self, vae: VAE, images: Tensor, scenes: list[Scene], indices: range) -> dict[str, Tensor]:
        masks = torch.stack([self.mask(scene, np.random.default_rng((self.seed, i)))
                             for i, scene in zip(indices, scenes)])
        return super().encode(vae, images, scenes, indices) | {"shown": encode_masked(vae, images, masks, indices)}

    def mask(self, scene: Scene, rng: np.random.Generator) -> Tensor:
        """(1, R, R), one where the picture is to be painted anew."""
        size = self.options.resolution
        kind = rng.random()
        if kind < 0.6:
            return torch.from_numpy(random_boxes_and_strokes(rng, size))[None]
        alpha = (self.data.mask(scene, size) > 0.5).float()
        # a drawn mask never follows an outline exactly: grow it by up to four pixels
        grow = 2 * int(rng.integers(0, 5)) + 1
        covered = alpha if kind < 0.8 else 1 - alpha
        return F.max_pool2d(covered[None], grow, stride=1, padding=grow // 2)[0]

    def inputs(self, noisy: Tensor, chosen: Tensor) -> Tensor:
        return torch.cat([noisy, self.pool["shown"][chosen].float()], dim=1)

    def picture(self) -> Image.Image:
        """Down: pictures with a hole, and filled with their captions. Across: eight scenes."""
        scenes = [Scene(*prompt) for prompt in PROMPTS]
        images = torch.stack([self.data.draw(scene, self.options.resolution) for scene in scenes])
        masks = torch.stack([self.mask(scene, np.random.default_rng((HELD_OUT, i))) for i, scene in enumerate(scenes)])
        vae = self.frozen[0].to(self.unet.device)
        filled = self.sample([self.data.caption(scene) for scene in scenes],
                             shown=encode_masked(vae, images, masks, range(len(scenes))).repeat(2, 1, 1, 1))
        return grid([images * (1 - masks), filled])


def encode_masked(vae: VAE, images: Tensor, masks: Tensor, seeds: range) -> Tensor:
    """(B, 5, 16, 16): the mask at the latents' size, and the latents of the picture with grey in its place."""
    # Other seeds than the whole picture's: with the same noise in both, "copy it" would be learnt.
    masked = to_latents(vae, images * (1 - masks), [10**9 + seed for seed in seeds])
    return torch.cat([F.interpolate(masks.to(masked.device), size=masked.shape[-2:]), masked], dim=1)


def random_boxes_and_strokes(rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """A mask (size, size) of zeros and ones: one to three boxes, or a thick stroke from side to side."""
    mask = np.zeros((size, size), dtype=np.float32)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            height, width = rng.integers(size // 6, size // 2 + 8, size=2)
            y, x = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
            mask[y: y + height, x: x + width] = 1
        return mask
    points = rng.uniform(0, size, size=(rng.integers(2, 5), 2))
    radius = rng.uniform(size / 12, size / 6)
    yx = np.stack(np.mgrid[:size, :size], axis=-1)
    for a, b in pairwise(points):
        for part in np.linspace(0, 1, 24):
            mask[((yx - (a + part * (b - a))) ** 2).sum(-1) < radius**2] = 1
    return mask
