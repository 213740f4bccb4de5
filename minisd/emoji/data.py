"""Captioned emoji: pictures and captions that are composed together, in any number.

`assets/emoji` holds drawings of the same concepts in four styles, cut out along their outlines (alpha). So a training
picture can be put together like a sentence: a concept, a style, a background colour, a size and a place. A `Scene`
names these; `draw` makes the picture, and `caption` the words.

Sample i is a function of (seed, split, i): training can be stopped and resumed, or divided among processes, and still
see exactly the same samples.
"""

import difflib
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minisd.emoji.scene import check_counting
from minisd.emoji.sprites import CELL, Concept, read_captions, read_sheet
from minisd.files import assets_folder
from minisd.messages import ShownPath

T = TypeVar("T")

STYLES = {"3d": "3d render", "flat": "flat icon", "cartoon": "cartoon", "sticker": "sticker"}
BACKGROUNDS = {  # far enough apart that the word can be read off a picture, see `background_of`
    "white": (255, 255, 255), "black": (20, 20, 20), "grey": (128, 128, 128), "red": (215, 35, 45),
    "orange": (255, 140, 20), "yellow": (255, 225, 50), "green": (40, 160, 70), "cyan": (70, 215, 220),
    "blue": (35, 95, 220), "purple": (130, 45, 180), "pink": (255, 150, 200), "brown": (120, 72, 36),
}
SIZES = {"small": 28, "usual": 52, "large": 60}  # pixels of the object's longer side, of 64
PLACES = {"centre": ("", 0, 0), "top": ("at the top", 0, -1), "bottom": ("at the bottom", 0, 1),
          "left": ("on the left", -1, 0), "right": ("on the right", 1, 0)}  # words; steps to the right and down
STEP = 14                                        # pixels of 64
SPLITS = ("train", "heldout", "all")
PARAPHRASES = 6

WHITE_SHARE, UNSAID_SHARE = 0.4, 0.7  # how often the background is white, and how often captions then omit it
UNUSUAL_SHARE = 0.18                  # how often size (and place) are not the usual ones
CANONICAL_SHARE = 0.5                 # how often the caption has the first of its six forms
MIN_CONTRAST = 60                     # drawings closer than this to a background's colour are not put on it


@dataclass(frozen=True)
class Scene:
    """What a picture shows and how its caption is worded; the words are those of STYLES, BACKGROUNDS, SIZES, PLACES."""
    concept: str
    style: str = "3d"
    background: str = "white"
    size: str = "usual"
    place: str = "centre"
    paraphrase: int = 0            # 0 is the canonical "a 3d render of a pizza on a blue background"
    says_background: bool = True


def is_held_out(code: str, style: str, background: str) -> bool:
    """The fixed split: about one in ten (concept, style, colour) combinations is never trained on.

    The first byte of a SHA-256 decides, so the split is the same on every machine and does not change when concepts
    are added. White, the usual background, is never held out, and no concept or style is held out altogether.
    """
    return background != "white" and hashlib.sha256(f"{code} {style} {background}".encode()).digest()[0] < 26


def background_of(image: Tensor) -> str:
    """The word for a picture's background colour, found without a network.

    It is the one of the twelve colours that is nearest to the median of the outermost pixels (two rows of 64).
    image: (3, R, R) in [-1, 1]; any other shape raises a ValueError.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image: shape {tuple(image.shape)}; it must be one picture (3, R, R)")
    edge = max(1, image.shape[-1] // 32)
    border = torch.ones(image.shape[1:], dtype=torch.bool)
    border[edge:-edge, edge:-edge] = False
    colour = image.detach().float().cpu()[:, border].median(dim=1).values   # (3,)
    palette = torch.tensor(list(BACKGROUNDS.values())) / 127.5 - 1          # (12, 3)
    return list(BACKGROUNDS)[int((palette - colour).square().sum(dim=1).argmin())]


class EmojiData:
    """The data set: `concepts`, their sprites in four `styles`, and scenes made of them.

    Args:
        subset: "core" (176 concepts that a small network can learn) or "full" (all, about 1,370).
        folder: where captions.json and the sprite sheets are; by default `assets/emoji`.

    Raises:
        FileNotFoundError: captions or a sprite sheet are missing.
        ValueError: unknown subset, or files that are damaged or do not belong together.
    """

    def __init__(self, subset: str = "core", folder: str | Path | None = None):
        if subset not in ("core", "full"):
            raise ValueError(f"subset: {subset!r}; it must be 'core' or 'full'")
        folder = ShownPath(folder) if folder is not None else assets_folder() / "emoji"
        everything = read_captions(folder / "captions.json")
        self.concepts = [c for c in everything if c.core or subset == "full"]
        self.styles, self.backgrounds = tuple(STYLES), dict(BACKGROUNDS)
        rows = [c.index for c in self.concepts]
        sheets = [read_sheet(folder / f"{style}.webp", len(everything))[rows] for style in STYLES]
        self.sprites = np.stack(sheets, axis=1)                                # (concepts, 4, 64, 64, 4)
        self.position = {c.name: i for i, c in enumerate(self.concepts)}
        heldout = np.array([[[is_held_out(c.code, s, b) for b in BACKGROUNDS] for s in STYLES]
                            for c in self.concepts])                           # (concepts, 4, 12)
        visible = contrast(self.sprites) > MIN_CONTRAST
        visible[..., 0] = True   # white is the usual background: outline and shading are enough
        self.allowed = {"train": visible & ~heldout, "heldout": visible & heldout, "all": visible}
        if not self.allowed["heldout"].any():
            raise ValueError(f"{folder}: too few concepts for a train and a held-out split")

    def concept(self, name: str) -> Concept:
        """The record of a concept, by name. Raises a ValueError if the subset does not have it."""
        if name not in self.position:
            near = difflib.get_close_matches(str(name), self.position, n=3)
            hint = f"perhaps {' or '.join(map(repr, near))}" if near else "data.concepts lists them"
            raise ValueError(f"concept: {name!r} is not one of the {len(self.concepts)}; {hint}")
        return self.concepts[self.position[name]]

    def sprite(self, concept: str, style: str) -> np.ndarray:
        """A drawing as stored in the sheet: (64, 64, 4) uint8, RGB (not premultiplied) and alpha."""
        check("style", style, STYLES)
        return self.sprites[self.position[self.concept(concept).name], self.styles.index(style)]

    def _layer(self, scene: Scene) -> np.ndarray:
        """The object alone, in its size and place: (64, 64, 4) float in [0, 1], premultiplied alpha."""
        check("size", scene.size, SIZES)
        check("place", scene.place, PLACES)
        pixels = self.sprite(scene.concept, scene.style)
        if (scene.size, scene.place) != ("usual", "centre"):
            side = round(CELL * SIZES[scene.size] / SIZES["usual"])
            _, right, down = PLACES[scene.place]
            corner = (CELL - side) // 2 + STEP * right, (CELL - side) // 2 + STEP * down
            # Pillow weights colours by alpha when it resizes RGBA, so nothing bleeds in from outside the outline.
            object_ = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            frame = Image.new("RGBA", (CELL, CELL))
            frame.paste(object_, corner)
            pixels = np.asarray(frame)
        layer = pixels.astype(np.float32) / 255
        layer[..., :3] *= layer[..., 3:]
        return layer

    def draw(self, scene: Scene, resolution: int = 64) -> Tensor:
        """The picture of a scene: (3, R, R) in [-1, 1]. At R = 32 it is the 64-pixel picture averaged down.

        Raises a ValueError for a word that the data set does not know, or another resolution.
        """
        check("background", scene.background, BACKGROUNDS)
        layer = self._layer(scene)
        colour = np.array(BACKGROUNDS[scene.background], dtype=np.float32) / 255
        picture = layer[..., :3] + (1 - layer[..., 3:]) * colour   # "over", with premultiplied alpha
        return shrink(picture, resolution) * 2 - 1

    def mask(self, scene: Scene, resolution: int = 64) -> Tensor:
        """Where the object is: (1, R, R), its alpha in [0, 1]."""
        return shrink(self._layer(scene)[..., 3:], resolution)

    def caption(self, scene: Scene) -> str:
        """The caption of a scene, in one of six forms; size and place are mentioned only if they are unusual."""
        concept, art = self.concept(scene.concept), STYLES[check("style", scene.style, STYLES)]
        check("paraphrase", scene.paraphrase, range(PARAPHRASES))
        size = "" if check("size", scene.size, SIZES) == "usual" else scene.size
        article = "a" if size and concept.article else concept.article
        bare = f"{size} {concept.name}".strip()
        thing = f"{article} {bare}".strip()
        where = PLACES[check("place", scene.place, PLACES)][0]
        colour = check("background", scene.background, BACKGROUNDS) if scene.says_background else ""
        ground = colour and f"{colour} background"
        on = colour and f"on {'an' if colour == 'orange' else 'a'} {ground}"
        shapes = [
            [f"a {art} of {thing} {where} {on}"],
            [f"{thing} {where}", art, ground],
            [f"{thing} as a {art} {where} {on}"],
            [f"{art}: {bare} {where} {colour and f'on {colour}'}"],
            [f"{thing} {where} {on}", f"drawn as a {art}"],
            [bare, where, art, colour and f"on {colour}"],
        ]
        parts = (" ".join(part.split()) for part in shapes[scene.paraphrase])
        return ", ".join(part for part in parts if part)

    def scene(self, rng: np.random.Generator, split: str = "train") -> Scene:
        """A random scene of a split: "train", "heldout" (only combinations that are never in "train") or "all".

        No drawing is put on a background where it would not show (a black heart on black).
        """
        allowed = self.allowed[check("split", split, SPLITS)]
        colours = np.full(len(BACKGROUNDS), (1 - WHITE_SHARE) / (len(BACKGROUNDS) - 1))
        colours[0] = WHITE_SHARE
        while True:  # some (concept, style) pairs have no held-out colour
            row, column = rng.integers(len(self.concepts)), rng.integers(len(STYLES))
            shares = np.cumsum(colours * allowed[row, column])
            if shares[-1] > 0:
                break
        background = list(BACKGROUNDS)[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))]
        size, place = "usual", "centre"
        if rng.random() < UNUSUAL_SHARE:
            size = "large" if rng.random() < 0.25 else "small"
            if size == "small" and rng.random() < 0.7:
                place = list(PLACES)[1 + rng.integers(len(PLACES) - 1)]
        paraphrase = 0 if rng.random() < CANONICAL_SHARE else int(1 + rng.integers(PARAPHRASES - 1))
        says = background != "white" or rng.random() > UNSAID_SHARE
        name, style = self.concepts[row].name, self.styles[column]
        return Scene(name, style, background, size, place, paraphrase, says)

    def batch(self, indices: Iterable[int], seed: int, split: str = "train",
              resolution: int = 64) -> tuple[Tensor, list[str], list[Scene]]:
        """Samples by number: pictures (B, 3, R, R) in [-1, 1], captions, scenes.

        Sample i of a seed and split is the same whatever batch it is in.
        """
        stream = SPLITS.index(check("split", split, SPLITS))
        check_counting("seed", seed)
        scenes = [self.scene(np.random.default_rng((seed, stream, check_counting("indices", i))), split)
                  for i in indices]
        if not scenes:
            raise ValueError("indices: empty; give the numbers of one sample or more")
        pictures = torch.stack([self.draw(scene, resolution) for scene in scenes])
        return pictures, [self.caption(scene) for scene in scenes], scenes


def check(what: str, value: T, known: Collection) -> T:
    """Return the value if it is a known one; otherwise raise a ValueError that lists the known ones."""
    if value not in known:
        raise ValueError(f"{what}: {value!r}; it must be one of {', '.join(map(str, known))}")
    return value


def shrink(picture: np.ndarray, resolution: int) -> Tensor:
    """(64, 64, C) as a tensor (C, R, R); at R = 32 each pixel is the average of 2 x 2."""
    if check("resolution", resolution, (64, 32)) == 32:
        picture = picture.reshape(32, 2, 32, 2, -1).mean(axis=(1, 3))
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def contrast(sprites: np.ndarray) -> np.ndarray:
    """How much drawings stand out from each background: the mean distance between their colours, 0 to 441.

    sprites: (concepts, 4, 64, 64, 4); every fourth pixel in each direction is enough. Returns (concepts, 4, 12).
    """
    pixels = torch.from_numpy(sprites[:, :, 2::4, 2::4].astype(np.float32))   # (concepts, 4, 16, 16, 4)
    pixels = pixels.flatten(2, 3)                                             # (concepts, 4, 256, 4)
    weight = pixels[..., 3] / pixels[..., 3].sum(dim=2, keepdim=True)
    palette = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)
    distance = torch.cdist(pixels[..., :3], palette, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.einsum("csp,cspb->csb", weight, distance).numpy()
