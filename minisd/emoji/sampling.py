"""Random scenes: how often each thing is drawn, and which parts the caption mentions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minisd.emoji.heads import HEADS, WORN
from minisd.emoji.scene import BACKGROUNDS, NUMBERS, PARAPHRASES, PLACES, RELATIONS, STYLES, Scene

if TYPE_CHECKING:
    from minisd.emoji.world import EmojiData

T = TypeVar("T")

KINDS = {"one": 0.68, "two": 0.22, "number": 0.10}         # of scenes: one thing, two things, or several of one
WORN_SHARE, HEAD_WEIGHT = 0.4, 2.0                         # how often heads wear something; their weight in draws
SIZE_SHARES = {"usual": 0.55, "small": 0.25, "large": 0.2}
CENTRE_SHARE = 0.2                                         # of small things; the others stand elsewhere
PATTERN_SHARES = {"plain": 0.6, "striped": 0.1, "dotted": 0.1, "checked": 0.1, "gradient": 0.1}
WHITE_SHARE = 0.25                                         # of plain grounds
CANONICAL_SHARE = 0.5                                      # of captions, which have the first of the six forms
SAID = {"thing": 0.96, "style": 0.6, "background": 0.6, "size": 0.6, "place": 0.6, "count": 0.85, "worn": 0.7}

TILT, MAX_TILT = 7.0, 20.0                                 # degrees: standard deviation, and the maximum
SHIFT = {"small": 2.0, "usual": 6.0, "large": 2.0}         # pixels of 128, in each direction
SCALE = {"small": 0.1, "usual": 0.07, "large": 0.04}       # ± this fraction
ANGLES = {"plain": (90,), "striped": (0, 45, 90, 135), "dotted": (0, 45), "checked": (0,), "gradient": (0, 45, 90)}
PERIODS = {"plain": (32, 32), "striped": (24, 44), "dotted": (26, 40), "checked": (28, 48), "gradient": (32, 32)}
MAX_HIDDEN = {"plain": 0.5, "patterned": 0.25}             # how much of a drawing may have the ground's colour
MIN_DIFFERENCE = 150                                       # least distance between the colours of a pattern

COLOURS = tuple(BACKGROUNDS)
_palette = np.array(list(BACKGROUNDS.values()), float)
DIFFERENT = np.linalg.norm(_palette[:, None] - _palette, axis=2) > MIN_DIFFERENCE  # (12, 12)


def random_scene(data: "EmojiData", rng: np.random.Generator, split: str) -> Scene:
    """A random scene of a split; see `EmojiData.scene`."""
    kind = pick(rng, KINDS)
    while True:  # until it belongs to the split: eight draws on average for "heldout"
        parts = random_parts(data, rng, kind)
        if parts is not None:
            scene = Scene(**parts)
            if split == "all" or bool(data.held_out(scene)) == (split == "heldout"):
                return Scene(**parts, **random_pose(rng, scene), **random_words(rng, scene))


def random_parts(data: "EmojiData", rng: np.random.Generator, kind: str) -> dict[str, Any] | None:
    """What a scene shows, as fields of `Scene`; None if the random pattern has no colours on which it would show."""
    style = int(rng.integers(len(STYLES)))
    parts: dict[str, Any] = {"style": data.styles[style]}
    if kind == "number":
        rows = [choose(rng, data.counted)]
        parts["count"] = int(rng.integers(2, max(NUMBERS) + 1))
    elif kind == "two":
        first = int(rng.integers(len(data.concepts)))
        rows = [first, (first + int(rng.integers(1, len(data.concepts)))) % len(data.concepts)]
        parts |= {"other": data.concepts[rows[1]].name, "relation": choose(rng, RELATIONS)}
    else:
        rows = [int(np.searchsorted(data.weights, rng.random() * data.weights[-1], side="right"))]
        parts["size"] = pick(rng, SIZE_SHARES)
        if parts["size"] == "small" and rng.random() > CENTRE_SHARE:
            parts["place"] = choose(rng, tuple(PLACES)[1:])
    parts["concept"] = data.concepts[rows[0]].name
    hidden = data.hidden[rows, style].max(axis=0)          # (12,)
    if kind == "one" and parts["concept"] in HEADS and rng.random() < WORN_SHARE:
        parts["worn"] = choose(rng, tuple(WORN))
        hidden = np.maximum(hidden, data.hidden[data.rows[WORN[parts["worn"]].drawing], style])
    return random_ground(rng, hidden, parts)


def random_ground(rng: np.random.Generator, hidden: np.ndarray, parts: dict) -> dict | None:
    """The parts plus a ground that does not hide them; None if the random pattern has no such colours.

    hidden: what share of the things each ground colour would hide, (12,).
    """
    pattern = pick(rng, PATTERN_SHARES)
    if pattern == "plain":
        if rng.random() < WHITE_SHARE:     # the usual ground, where outline and shading are always enough
            return parts
        colours = (1 + np.flatnonzero(hidden[1:] < MAX_HIDDEN["plain"])).tolist()
    else:
        colours = np.flatnonzero(hidden < MAX_HIDDEN["patterned"]).tolist()
    if len(colours) == 0:
        return None
    first = choose(rng, colours)
    parts |= {"pattern": pattern, "background": COLOURS[first]}
    if pattern != "plain":
        colours = [colour for colour in colours if DIFFERENT[first, colour]]
        if len(colours) == 0:
            return None
        parts["second"] = COLOURS[choose(rng, colours)]
    return parts


def random_pose(rng: np.random.Generator, scene: Scene) -> dict:
    """What captions never mention: tilt, shift, scale, order, and how the pattern is laid out."""
    def between(low: float, high: float) -> float:
        return round(float(rng.uniform(low, high)), 3)

    size = "large" if scene.other or scene.count > 1 else scene.size  # several have as little room as a large one
    shift, scale = SHIFT[size], SCALE[size]
    return {"tilt": round(float(np.clip(rng.normal() * TILT, -MAX_TILT, MAX_TILT)), 3),
            "shift": (between(-shift, shift), between(-shift, shift)), "scale": between(1 - scale, 1 + scale),
            "swapped": rng.random() < 0.5, "angle": choose(rng, ANGLES[scene.pattern]),
            "period": between(*PERIODS[scene.pattern]), "phase": (between(0, 1), between(0, 1))}


def random_words(rng: np.random.Generator, scene: Scene) -> dict:
    """Which parts the caption mentions, and in which form."""
    says = {part: bool(rng.random() < share) for part, share in SAID.items()}
    if not says["thing"] and not says["style"]:
        says["background"] = True
    paraphrase = 0 if rng.random() < CANONICAL_SHARE else int(rng.integers(1, PARAPHRASES))
    return {f"says_{part}": said for part, said in says.items()} | {"paraphrase": paraphrase}


def pick(rng: np.random.Generator, shares: dict) -> str:
    """A random key; shares are probabilities."""
    left = rng.random()
    for key, share in shares.items():
        left -= share
        if left < 0:
            return key
    return key


def choose(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of the values, all equally likely."""
    return values[int(rng.integers(len(values)))]
