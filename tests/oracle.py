"""A pipeline that draws what a caption says, because it knows the scene; it can be made to err. And a judge that knows
what was drawn. With both, the evaluation is tested without a trained network."""

import hashlib

import numpy as np
import torch
import torch.nn.functional as F

from minisd.emoji.judge import Answers, JudgeConfig
from minisd.emoji.prompts import posed_anew
from minisd.emoji.scene import Scene
from minisd.emoji.world import EmojiData


class KnownData(EmojiData):
    """The data set, which remembers the scenes of its captions, and of its pictures."""

    def __init__(self):
        super().__init__("core")
        self.scene_of_caption: dict[str, list[Scene]] = {}
        self.scene_of_picture: dict[bytes, Scene] = {}

    def caption(self, scene):
        words = super().caption(scene)
        self.scene_of_caption.setdefault(words, []).append(scene)
        return words

    def draw(self, scene, resolution=None):
        return self.remember(super().draw(scene, resolution), scene)

    def remember(self, picture, scene):
        self.scene_of_picture[fingerprint(picture)] = scene
        return picture


def fingerprint(picture):
    return hashlib.sha256(picture.contiguous().numpy().tobytes()).digest()


class Oracle:
    """err: a function from a scene and a random number generator to a wrong scene, for this share of the pictures."""

    def __init__(self, data: KnownData, err=lambda scene, rng: scene, share: float = 1.0, stain: float = 0.0):
        self.data, self.err, self.share, self.stain = data, err, share, stain
        self.scheduler, self.calls, self.vae = "ddim", [], RoughVAE()

    def set_scheduler(self, name):
        self.scheduler = name

    def text_to_image(self, prompts, seed, output, progress, **settings):
        assert output == "pt"
        self.calls.append(settings | {"scheduler": self.scheduler})
        drawn = [self.picture(prompt, seed + k) for k, prompt in enumerate(prompts)]
        pixels = torch.stack([picture for picture, _ in drawn]) / 2 + 0.5
        for picture, (_, scene) in zip(pixels * 2 - 1, drawn):  # as whoever asked will see it
            self.data.remember(picture, scene)
        return pixels

    def picture(self, prompt, seed):
        rng = np.random.default_rng((seed, 5))
        known = self.data.scene_of_caption.get(prompt) if prompt else None
        which = np.random.default_rng((seed, 6)).random()
        scene = known[int(which * len(known))] if known else self.data.scene(rng)
        scene = posed_anew(rng, [scene])[0]
        # exactly the share, spread over the seeds: 0, 7, 4, 1, 8, 5, 2, 9, 6, 3
        if seed * 7 % 10 < 10 * self.share:
            scene = self.err(scene, rng)
        picture = self.data.draw(scene)
        if self.stain:
            spots = torch.from_numpy(rng.normal(size=(1, 3, 8, 8))).float()
            picture = (picture + self.stain * F.interpolate(spots, size=128, mode="bilinear")[0]).clamp(-1, 1)
        return picture, scene


class RoughVAE:
    """Its latents are the pictures, and its decoder is off by 0.02 at every pixel, alternately above and below."""

    device, dtype = torch.device("cpu"), torch.float32

    def encode(self, pixels):
        self.pixels = pixels
        return self

    def mode(self):
        return self.pixels

    def decode(self, pixels):
        rows = torch.arange(pixels.shape[-1]) % 2 * 2 - 1
        return pixels + 0.02 * rows * torch.where(pixels > 0, -1, 1)


class Knows:
    """A judge without a network."""

    def __init__(self, data: KnownData):
        self.data = data
        self.config = JudgeConfig(tuple(data.position), data.styles)

    def look(self, pictures):
        scenes = [self.data.scene_of_picture[fingerprint(picture)] for picture in pictures]
        concepts = torch.full((len(scenes), len(self.config.concepts)), 0.01)
        heights = torch.full_like(concepts, 0.5)
        for i, scene in enumerate(scenes):
            from_top = scene.things[::-1] if scene.relation == "below" else scene.things
            for name, height in zip(from_top, (0.25, 0.75)):
                concepts[i, self.config.concepts.index(name)] = 0.9
                heights[i, self.config.concepts.index(name)] = height
        return Answers(concepts, [scene.style for scene in scenes], [scene.worn for scene in scenes],
                       [scene.pattern for scene in scenes], heights)

    def features(self, pictures):
        return F.avg_pool2d(pictures, 32).flatten(1)                       # (B, 48)
