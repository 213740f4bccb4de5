"""Captions that are wrong in one word."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisd.emoji.contrary import KINDS, contrary, says
from minisd.emoji.scene import Scene

NUMBERS = st.integers(0, 2**32 - 1)


def scene_of(world, seed: int) -> Scene:
    return world.scene(np.random.default_rng(seed), "all")


@settings(max_examples=300, deadline=None)
@given(scene=NUMBERS, dice=NUMBERS, kind=st.sampled_from([None, *KINDS]))
def test_one_part_that_the_caption_says_is_another(world, scene, dice, kind):
    scene = scene_of(world, scene)
    changed = contrary(scene, np.random.default_rng(dice), kind)
    if changed is None:
        assert not any(says(scene, one) for one in (KINDS if kind is None else (kind,)))
        return
    parts = {field.name for field in fields(Scene) if getattr(scene, field.name) != getattr(changed, field.name)}
    assert len(parts) == 1
    assert parts <= ({kind} if kind else set(KINDS))
    world.draw(changed, 32)  # it is a scene
    assert world.caption(changed) != world.caption(scene)
    assert changed == contrary(scene, np.random.default_rng(dice), kind)


@settings(max_examples=300, deadline=None)
@given(scene=NUMBERS, dice=NUMBERS)
def test_captions_differ_in_a_word_or_two(world, scene, dice):
    """None of the scene's other words is touched."""
    scene = scene_of(world, scene)
    changed = contrary(scene, np.random.default_rng(dice))
    if changed is not None:
        before, after = (world.caption(one).replace(",", "").replace(":", "").split() for one in (scene, changed))
        same = 0
        while same < min(len(before), len(after)) and before[same] == after[same]:
            same += 1
        ends = 0
        while ends < min(len(before), len(after)) - same and before[-1 - ends] == after[-1 - ends]:
            ends += 1
        assert max(len(before), len(after)) - same - ends <= 7  # "a top hat" for "sunglasses", "at the top left" for …
        assert max(len(before), len(after)) - same - ends >= 1


@pytest.mark.parametrize(("kind", "scene", "others"), [
    ("relation", Scene("pizza", other="rocket", relation="above"), {"below"}),
    ("count", Scene("pizza", count=3), {2, 4}),
    ("style", Scene("pizza", "flat"), {"3d", "cartoon", "sticker"}),
    ("pattern", Scene("pizza", pattern="striped", second="red"), {"dotted", "checked", "gradient"}),
    ("place", Scene("pizza", size="small", place="top"),
     {"bottom", "left", "right", "top left", "top right", "bottom left", "bottom right"}),
    ("background", Scene("pizza", background="blue", pattern="dotted", second="red"),
     {"white", "black", "grey", "orange", "yellow", "green", "cyan", "purple", "pink", "brown"})])
def test_all_other_words_take_their_turn(kind, scene, others):
    assert {getattr(contrary(scene, np.random.default_rng(i), kind), kind) for i in range(200)} == others


@pytest.mark.parametrize(("kind", "scene"), [
    ("relation", Scene("pizza")), ("relation", Scene("pizza", other="rocket", relation="next to")),
    ("relation", Scene("pizza", other="rocket", relation="above", says_thing=False)),
    ("worn", Scene("panda")), ("worn", Scene("panda", worn="crown", says_worn=False)),
    ("place", Scene("pizza")), ("place", Scene("pizza", size="small", place="top", says_place=False)),
    ("count", Scene("pizza")), ("count", Scene("pizza", count=2, says_count=False)),
    ("style", Scene("pizza", says_style=False)), ("background", Scene("pizza", says_background=False)),
    ("pattern", Scene("pizza")), ("pattern", Scene("pizza", pattern="dotted", second="red", says_background=False)),
    (None, Scene("pizza", size="small", says_style=False, says_background=False))])
def test_nothing_is_contrary_to_what_is_not_said(kind, scene):
    assert contrary(scene, np.random.default_rng(0), kind) is None


def test_any_kind_takes_its_turn():
    scene = Scene("panda", worn="crown", background="blue", pattern="dotted", second="red")
    changed = [contrary(scene, np.random.default_rng(i)) for i in range(100)]
    kinds = [next(kind for kind in KINDS if kind != "relation" and getattr(one, kind) != getattr(scene, kind))
             for one in changed]
    assert {kind: pytest.approx(kinds.count(kind) / 100, abs=0.15) for kind in kinds} == {
        "worn": 0.25, "style": 0.25, "background": 0.25, "pattern": 0.25}
