"""What a model is asked to draw for each figure of the evaluation: scenes whose captions say what is measured.

Half of the scenes could have occurred in training; the others have one combination that was held out of it
(`EmojiData.held_out`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from minisd.emoji import reading
from minisd.emoji.sampling import SIZE_SHARES, choose, pick, random_ground, random_pose
from minisd.emoji.scene import PLACES, STYLES, Scene
from minisd.emoji.world import EmojiData

MORE = ("style", "background", "size", "place", "count", "worn")
SAYS_ALL: dict[str, Any] = {"says_thing": True} | {f"says_{part}": True for part in MORE}
SAYS_THING: dict[str, Any] = {"says_thing": True} | {f"says_{part}": False for part in MORE}
USUAL: dict[str, Any] = {"size": "usual", "place": "centre"}
CLEAN = 0.5  # of 255: the spread of a real ground is less, unless the drawing has parts beside the main one


def asked(data: EmojiData, rng: np.random.Generator, count: int, wanted: Callable[[Scene], bool], kind: str | None,
          **changes: Any) -> list[Scene]:
    """Random scenes that meet a condition. Their captions mention everything, in the first of the six forms.

    Args:
        wanted: the condition.
        kind: "colour", "worn" or "pair" for scenes in which this, and nothing else, is held out of training; None for
            scenes in which nothing is.
        changes: made to the scenes found.
    """
    held_out: tuple[str, ...] = () if kind is None else (kind,)
    found: list[Scene] = []
    while len(found) < count:
        scene = data.scene(rng, "all")
        if data.held_out(scene) == held_out and wanted(scene):
            found.append(replace(scene, paraphrase=0, **SAYS_ALL | changes))
    return found


def halves(data: EmojiData, rng: np.random.Generator, count: int, wanted: Callable[[Scene], bool], kind: str,
           **changes: Any) -> list[Scene]:
    """`count` scenes: the first half as in training, the second half with a held-out combination of this kind."""
    seen = count - count // 2
    return (asked(data, rng, seen, wanted, None, **changes)
            + asked(data, rng, count - seen, wanted, kind, **changes))


def is_single(scene: Scene) -> bool:
    """One thing that wears nothing."""
    return not scene.other and scene.count == 1 and not scene.worn


def is_clear(scene: Scene) -> bool:
    """On a plain ground that is not white, so that pixels tell where a thing is."""
    return scene.pattern == "plain" and scene.background != "white"


def one_thing(data: EmojiData, rng: np.random.Generator, count: int) -> list[Scene]:
    """One thing of the usual size in the middle, on any ground."""
    return halves(data, rng, count, is_single, "colour", **USUAL)


def plain_thing(data: EmojiData, rng: np.random.Generator, count: int) -> list[Scene]:
    """The same on plain grounds: all that the first edition could draw."""
    return halves(data, rng, count, lambda scene: is_single(scene) and scene.pattern == "plain", "colour", **USUAL)


def small_thing(data: EmojiData, rng: np.random.Generator, count: int) -> list[Scene]:
    """One small thing at one of the eight places that have words, on a plain colour."""
    def wanted(scene: Scene) -> bool:
        return is_single(scene) and is_clear(scene) and scene.size == "small" and scene.place in list(PLACES)[1:]

    return halves(data, rng, count, wanted, "colour")


def worn(data: EmojiData, rng: np.random.Generator, count: int) -> list[Scene]:
    """A head that wears something; in the second half, something that it never wore in training."""
    return halves(data, rng, count, lambda scene: bool(scene.worn), "worn", **USUAL)


def pair(data: EmojiData, rng: np.random.Generator, count: int) -> list[Scene]:
    """Two things; in the second half, two that were never together in training."""
    return halves(data, rng, count, lambda scene: bool(scene.other), "pair")


def number(data: EmojiData, rng: np.random.Generator, count: int) -> list[Scene]:
    """Two, three or four of one thing on a plain colour."""
    return halves(data, rng, count, lambda scene: scene.count > 1 and is_clear(scene), "colour")


def clean_ground(data: EmojiData, rng: np.random.Generator, count: int) -> list[Scene]:
    """One thing on a plain ground, whose drawing is in one piece: there is nothing else on the ground."""
    def wanted(scene: Scene) -> bool:
        return (is_single(scene) and scene.pattern == "plain"
                and reading.spread(data.draw(replace(scene, **USUAL))) < CLEAN)

    return halves(data, rng, count, wanted, "colour", **USUAL)


def of_one(data: EmojiData, rng: np.random.Generator, count: int, concept: str) -> list[Scene]:
    """What "a cat face" may mean: training scenes of one concept, whose captions mention nothing else."""
    row = data.position[data.concept(concept).name]
    found: list[Scene] = []
    while len(found) < count:
        style = int(rng.integers(len(STYLES)))
        size = pick(rng, SIZE_SHARES)
        place = choose(rng, tuple(PLACES)) if size == "small" else "centre"
        parts = random_ground(rng, data.hidden[row, style], {
            "concept": concept, "style": data.styles[style], "size": size, "place": place})
        if parts is not None and not data.held_out(scene := Scene(**parts)):
            found.append(Scene(**parts, **random_pose(rng, scene), **SAYS_THING))
    return found


def anything(data: EmojiData, rng: np.random.Generator, count: int) -> list[Scene]:
    """Scenes of all kinds, half of them with something held out; captions mention everything."""
    seen = count - count // 2
    scenes = [data.scene(rng, "train") for _ in range(seen)] + [data.scene(rng, "heldout") for _ in range(count - seen)]
    return [replace(scene, paraphrase=0, **SAYS_ALL) for scene in scenes]


def short(scenes: list[Scene]) -> list[Scene]:
    """The same pictures, with captions that only name the thing."""
    return [replace(scene, paraphrase=0, **SAYS_THING) for scene in scenes]


def posed_anew(rng: np.random.Generator, scenes: list[Scene]) -> list[Scene]:
    """Scenes with the same captions; what captions never mention is chosen anew."""
    return [replace(scene, **random_pose(rng, scene)) for scene in scenes]
