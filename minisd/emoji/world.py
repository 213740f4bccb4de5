"""The data set: captioned emoji scenes in any number, drawn and described together.

`assets/emoji` holds drawings of the same concepts in four styles, cut out along their outlines (alpha). A `Scene` says
what a picture shows; `draw` makes the picture, and `caption` the words.

Sample i is a function of (seed, split, i): training can be stopped and resumed, or divided among processes, and still
see exactly the same samples.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minisd.emoji import drawing
from minisd.emoji import scene as words
from minisd.emoji.heads import HEADS
from minisd.emoji.sampling import HEAD_WEIGHT, random_scene
from minisd.emoji.scene import (
    BACKGROUNDS,
    STYLES,
    Scene,
    check,
    check_counting,
    is_held_out,
    is_pair_held_out,
    is_worn_held_out,
)
from minisd.emoji.sprites import Concept, read_captions, read_sheet
from minisd.files import assets_folder
from minisd.messages import ShownPath

SPLITS = ("train", "heldout", "all")
EXTRA = ("sunglasses", "ribbon")  # in the core's sheets, after its concepts
COLUMNS = {"core": 16, "full": 40}  # cells in a row of a sheet
NEAR = 75                         # colours no farther apart than this, of 441, are hard to tell apart


class EmojiData:
    """The data set: `concepts`, their sprites in four `styles`, and scenes made of them.

    Args:
        subset: "core" (176 concepts that a small network can learn, drawn at 128 pixels) or "full" (all, about
            1,370, drawn at 64 unless the folder has larger sheets).
        folder: where captions.json and the sprite sheets are; by default `assets/emoji`.

    Raises:
        FileNotFoundError: captions or a sprite sheet are missing.
        ValueError: unknown subset, or files that are damaged or do not belong together.
    """

    def __init__(self, subset: str = "core", folder: str | Path | None = None):
        self.subset = check("subset", subset, ("core", "full"))
        folder = ShownPath(folder) if folder is not None else assets_folder() / "emoji"
        everything = read_captions(folder / "captions.json")
        self.concepts = [c for c in everything if c.core or subset == "full"]
        self.styles, self.backgrounds = tuple(STYLES), dict(BACKGROUNDS)
        self.position = {c.name: i for i, c in enumerate(self.concepts)}
        self.articles = {c.name: c.article for c in self.concepts}
        self.codes = {c.name: c.code for c in self.concepts}
        self.rows = dict(self.position)       # of the drawings in the sheets
        if subset == "core":
            self.rows |= {name: len(self.concepts) + i for i, name in enumerate(EXTRA)}
        self.sheets, cells = {}, (128,) if subset == "core" else (64, 128)
        for style in STYLES:                  # (drawings, C, C, 4) each
            path = folder / (f"core-{style}.webp" if subset == "core" else f"{style}.webp")
            self.sheets[style] = read_sheet(path, len(self.rows), COLUMNS[subset], cells)
            cells = self.sheets[style].shape[1:2]
        self.resolution = cells[0]            # C, the largest resolution that can be drawn
        self.hidden = np.stack([hidden(sheet) for sheet in self.sheets.values()], axis=1)   # (drawings, 4, 12)
        self.weights = np.cumsum([HEAD_WEIGHT if c.name in HEADS else 1.0 for c in self.concepts])
        self.counted = [i for i, c in enumerate(self.concepts) if c.article and c.core]

    def concept(self, name: str) -> Concept:
        """The record of a concept, by name. Raises a ValueError if the subset does not have it."""
        return self.concepts[self.position[self._known("concept", name)]]

    def _known(self, what: str, name: str) -> str:
        if name not in self.position:
            near = difflib.get_close_matches(str(name), self.position, n=3)
            hint = f"perhaps {' or '.join(map(repr, near))}" if near else "data.concepts lists them"
            raise ValueError(f"{what}: {name!r} is not one of the {len(self.concepts)}; {hint}")
        return name

    def _check(self, scene: Scene) -> None:
        self._known("concept", scene.concept)
        if scene.other:
            self._known("other", scene.other)
        words.validate(scene, self.articles)

    def sprite(self, name: str, style: str) -> np.ndarray:
        """A drawing as stored in the sheet: (C, C, 4) uint8, RGB (not premultiplied) and alpha; C is `resolution`.

        name: a concept, or one of EXTRA.
        """
        check("style", style, STYLES)
        return self.sheets[style][self.rows[name if name in self.rows else self._known("concept", name)]]

    # Pictures

    def draw(self, scene: Scene, resolution: int | None = None) -> Tensor:
        """The picture of a scene: (3, R, R) in [-1, 1]; R is 128, 64 or 32. Small pictures are averages of large ones.

        The full set draws at 64 by default, and at 128 only from larger sheets. Raises a ValueError for a word that the
        data set does not know, or another resolution.
        """
        self._check(scene)
        layer = drawing.compose(scene, self.sprite, self.resolution)
        picture = layer[..., :3] + (1 - layer[..., 3:]) * drawing.ground(scene, self.resolution)  # premultiplied "over"
        return self._shrunk(picture, resolution) * 2 - 1

    def mask(self, scene: Scene, resolution: int | None = None) -> Tensor:
        """Where the things are, as opposed to the ground: (1, R, R), their alpha in [0, 1]."""
        self._check(scene)
        return self._shrunk(drawing.compose(scene, self.sprite, self.resolution)[..., 3:], resolution)

    def _shrunk(self, picture: np.ndarray, resolution: int | None) -> Tensor:
        """(C, C, channels) → tensor (channels, R, R); if R is smaller, pixels are averages of 2 x 2 or 4 x 4."""
        resolution = self.resolution if resolution is None else check("resolution", resolution, (128, 64, 32))
        if resolution > self.resolution:
            raise ValueError(f"resolution: {resolution}, but the {self.subset} set's sheets are for {self.resolution}; "
                             f"assets/emoji/build.py --cell {resolution} makes larger ones")
        factor = self.resolution // resolution
        if factor > 1:
            picture = picture.reshape(resolution, factor, resolution, factor, -1).mean(axis=(1, 3))
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))

    # Words

    def caption(self, scene: Scene) -> str:
        """The caption of a scene: what the `Scene` says that it mentions, in one of six forms."""
        self._check(scene)
        return words.caption(scene, self.articles)

    # Samples

    def held_out(self, scene: Scene) -> tuple[str, ...]:
        """Which combinations in the scene are never trained on: any of "colour", "worn" and "pair"."""
        codes = [self.codes[name] for name in scene.things]
        found = {"colour": any(is_held_out(code, scene.style, colour) for code in codes for colour in scene.colours),
                 "worn": bool(scene.worn) and is_worn_held_out(codes[0], scene.worn),
                 "pair": len(codes) == 2 and is_pair_held_out(*codes)}
        return tuple(kind for kind, is_so in found.items() if is_so)

    def scene(self, rng: np.random.Generator, split: str = "train") -> Scene:
        """A random scene of a split: "train", "heldout" (with a combination that is never in "train") or "all".

        No drawing is put on a ground where it would not show (a black heart on black).
        """
        return random_scene(self, rng, check("split", split, SPLITS))

    def batch(self, indices: Iterable[int], seed: int, split: str = "train",
              resolution: int | None = None) -> tuple[Tensor, list[str], list[Scene]]:
        """Samples by number: pictures (B, 3, R, R) in [-1, 1], captions, scenes.

        Sample i of a seed and split is the same whatever batch it is in. Raises a ValueError for indices or a seed that
        are not whole numbers from 0.
        """
        stream = SPLITS.index(check("split", split, SPLITS))
        check_counting("seed", seed)
        scenes = [self.scene(np.random.default_rng((seed, stream, check_counting("indices", i))), split)
                  for i in indices]
        if not scenes:
            raise ValueError("indices: empty; give the numbers of one sample or more")
        pictures = torch.stack([self.draw(scene, resolution) for scene in scenes])
        return pictures, [self.caption(scene) for scene in scenes], scenes


def hidden(sprites: np.ndarray) -> np.ndarray:
    """How much of each drawing would vanish on a ground of each colour: the share of it that is NEAR that colour.

    sprites: (drawings, C, C, 4); a grid of 16 x 16 pixels is enough. Returns (drawings, 12).
    """
    step = sprites.shape[1] // 16
    pixels = torch.from_numpy(sprites[:, step // 2::step, step // 2::step].astype(np.float32)).flatten(1, 2)
    weight = pixels[..., 3] / pixels[..., 3].sum(dim=1, keepdim=True)         # (drawings, 256)
    palette = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)
    distance = torch.cdist(pixels[..., :3], palette, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.einsum("dp,dpc->dc", weight, (distance < NEAR).float()).numpy()


def tokenizer_corpus(seed: int = 0, count: int = 20_000) -> list[str]:
    """What the tokenizer is trained on: captions of random core scenes, and the full set's names in each style.

    So every model of the course shares one tokenizer, whatever its subset.
    """
    core, rng = EmojiData("core"), np.random.default_rng(check_counting("seed", seed))
    names = read_captions(assets_folder() / "emoji" / "captions.json")
    articles = {c.name: c.article for c in names}
    plain = [words.caption(Scene(c.name, style, says_background=False), articles) for c in names for style in STYLES]
    return [core.caption(core.scene(rng, "all")) for _ in range(count)] + plain
