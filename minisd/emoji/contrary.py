"""Captions that are wrong in one word: to tell them apart, CLIP must know more than which things a picture shows."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from minisd.emoji.heads import WORN
from minisd.emoji.sampling import choose
from minisd.emoji.scene import BACKGROUNDS, NUMBERS, PATTERNS, PLACES, STYLES, Scene

KINDS = ("relation", "worn", "place", "count", "style", "background", "pattern")


def contrary(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Scene | None:
    """A copy of the scene with one mentioned part changed, so that its caption is untrue of the original picture.

    Args:
        kind: which part, one of KINDS; None for any part that the caption mentions.

    Returns:
        None if the caption mentions no such part (for kind None: nothing but the names of things).
    """
    kinds = [one for one in (KINDS if kind is None else (kind,)) if says(scene, one)]
    if not kinds:
        return None
    kind = choose(rng, kinds)
    known: Iterable = {"relation": ("above", "below"), "worn": WORN, "place": PLACES, "count": NUMBERS, "style": STYLES,
             "background": BACKGROUNDS, "pattern": PATTERNS}[kind]
    others = [word for word in known if word not in (getattr(scene, kind), *forbidden(scene, kind))]
    change: dict[str, Any] = {kind: choose(rng, others)}
    return replace(scene, **change)


def says(scene: Scene, kind: str) -> bool:
    """Whether the scene's caption mentions this kind of part."""
    if kind == "style":
        return scene.says_style
    if kind == "background":
        return scene.says_background
    if kind == "pattern":  # a plain ground has no second colour to make a pattern with
        return scene.says_background and scene.pattern != "plain"
    if not scene.says_thing:
        return False
    return {"relation": bool(scene.other) and scene.relation in ("above", "below"),
            "worn": bool(scene.worn) and scene.says_worn,
            "place": scene.place != "centre" and scene.says_place,
            "count": scene.count > 1 and scene.says_count}[kind]


def forbidden(scene: Scene, kind: str) -> tuple:
    """Values that would make an invalid scene, or one whose caption would no longer mention this kind of part."""
    return {"place": ("centre",), "count": (1,), "pattern": ("plain",),
            "background": (scene.second,)}.get(kind, ())
