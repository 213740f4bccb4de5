"""The second edition's world: what scenes show, what captions say about them, the split, and damaged files."""

import io
import json
import re
import struct
import tomllib
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import avg_pool2d

from minisd.emoji import drawing
from minisd.emoji.heads import HEADS, WORN
from minisd.emoji.sampling import DIFFERENT, PERIODS, pick, random_ground
from minisd.emoji.scene import (
    BACKGROUNDS,
    NUMBERS,
    PARAPHRASES,
    PATTERNS,
    PLACES,
    RELATIONS,
    SIZES,
    STYLES,
    Scene,
    is_held_out,
    is_pair_held_out,
    is_worn_held_out,
    plural,
)
from minisd.emoji.world import EXTRA, EmojiData, tokenizer_corpus
from minisd.files import assets_folder

EMOJI = assets_folder() / "emoji"
NO_TILT = {"tilt": 0.0, "shift": (0.0, 0.0), "scale": 1.0}


@pytest.fixture(scope="module")
def data(world):
    return world


@pytest.fixture(scope="module")
def full():
    return EmojiData("full")


@pytest.fixture(scope="module")
def scenes(data):
    rng = np.random.default_rng(0)
    return [data.scene(rng) for _ in range(5000)]


@pytest.fixture(scope="module")
def heldout(data):
    rng = np.random.default_rng(1)
    return [data.scene(rng, "heldout") for _ in range(2000)]


def single(scene):
    return not scene.other and scene.count == 1


def share(scenes, condition, among=lambda scene: True):
    """For each of the scenes that are `among`, whether it meets the condition."""
    return np.array([bool(condition(scene)) for scene in scenes if among(scene)])


def about(found, expected):
    return found.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(found)))


def middle(mask):
    """The centre (x, y) of what a mask (1, R, R) shows."""
    weights = mask[0].double()
    steps = torch.arange(mask.shape[-1], dtype=torch.float64) + 0.5
    return float((weights.sum(0) * steps).sum() / weights.sum()), float((weights.sum(1) * steps).sum() / weights.sum())


# Contents

def test_the_core_has_fine_drawings_also_of_what_is_worn(data, full):
    assert (data.resolution, full.resolution) == (128, 64)
    assert (len(data.concepts), len(full.concepts)) == (176, 1366)
    assert data.sprite("rocket", "3d").shape == (128, 128, 4)
    assert all(data.sprite(worn.drawing, style)[..., 3].max() == 255 for worn in WORN.values() for style in STYLES)
    assert set(EXTRA) <= set(full.position)
    assert set(HEADS) <= set(data.position)
    assert all(set(styles) == set(STYLES) for styles in HEADS.values())


@pytest.mark.slow
def test_fine_sheets_show_the_same_drawings_as_the_full_set(data, full):
    """Compared at 32 pixels, where a wrong order of the sheets would be noticed but not their resolution."""
    for name in data.position:
        for style in STYLES:
            scene = Scene(name, style, "grey")
            assert (data.draw(scene, 32) - full.draw(scene, 32)).abs().mean() < 0.02


def test_drawings_fill_their_cells(data):
    for style, sheet in data.sheets.items():
        for cell in sheet:
            rows, columns = np.nonzero(cell[..., 3] > 16)
            longer = max(np.ptp(rows), np.ptp(columns)) + 1
            assert longer <= 120
            assert longer >= (100 if style in ("3d", "flat") else 118)  # these two share a box, and one may not fill it


def test_the_wheel_holds_the_sheets():
    project = tomllib.loads((assets_folder().parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["minisd.assets"]
    packed = {path.name for pattern in patterns for path in assets_folder().glob(pattern)}
    assert {f"core-{style}.webp" for style in STYLES} <= packed


# Samples

def test_a_sample_depends_on_its_number_alone(data):
    pictures, captions, scenes = data.batch([7, 1000, 3], seed=5)
    assert pictures.shape == (3, 3, 128, 128)
    assert pictures.dtype == torch.float32
    for k, i in enumerate([7, 1000, 3]):
        again, caption, scene = data.batch(torch.tensor([i]), seed=5)
        assert torch.equal(again[0], pictures[k])
        assert caption == [captions[k]]
        assert scene == [scenes[k]]
    assert data.batch(range(9), seed=6)[1] != data.batch(range(9), seed=5)[1]
    assert data.batch(range(9), seed=5, split="all")[1] != data.batch(range(9), seed=5)[1]
    assert data.batch([0], seed=5, resolution=32)[0].shape == (1, 3, 32, 32)


def test_samples_are_what_they_were(data):
    """Spelt out, so that a change that gives old numbers new pictures is noticed."""
    assert data.batch(range(4), seed=0)[1] == [
        "face with medical mask on red to cyan", "a 3d render of a hamburger on a white background", "a ufo",
        "house above fire engine"]


def test_a_scene_is_plain_values_that_determine_the_picture(data, scenes):
    for scene in scenes[:50]:
        values = astuple(scene)
        assert {type(value) for value in values} <= {str, bool, int, float, tuple}
        again = Scene(*json.loads(json.dumps(values)))
        assert torch.equal(data.draw(again), data.draw(scene))
        assert data.caption(again) == data.caption(scene)


def test_shares_of_what_is_drawn(scenes):
    assert about(share(scenes, single), 0.68)
    assert about(share(scenes, lambda s: s.other), 0.22)
    for size, expected in {"usual": 0.55, "small": 0.25, "large": 0.2}.items():
        assert about(share(scenes, lambda s, size=size: s.size == size, single), expected)
    for pattern in PATTERNS:
        assert share(scenes, lambda s, p=pattern: s.pattern == p).mean() == pytest.approx(
            0.63 if pattern == "plain" else 0.09, abs=0.02)
    assert share(scenes, lambda s: s.background == "white", lambda s: s.pattern == "plain").mean() == pytest.approx(
        0.27, abs=0.02)
    assert about(share(scenes, lambda s: s.place == "centre", lambda s: s.size == "small"), 0.2)
    assert share(scenes, lambda s: s.place == "centre", lambda s: s.size != "small").all()
    assert about(share(scenes, lambda s: s.concept in HEADS, single), 0.27)
    assert share(scenes, lambda s: s.worn, lambda s: single(s) and s.concept in HEADS).mean() > 0.3
    assert not share(scenes, lambda s: s.worn, lambda s: not single(s) or s.concept not in HEADS).any()
    for name, words in {"style": STYLES, "place": PLACES, "relation": RELATIONS, "count": NUMBERS, "size": SIZES,
                        "worn": ["", *WORN], "background": BACKGROUNDS, "second": ["", *BACKGROUNDS],
                        "paraphrase": range(PARAPHRASES), "pattern": PATTERNS}.items():
        assert {getattr(s, name) for s in scenes} == set(words)


def test_shares_that_rounding_leaves_short_of_1_give_the_last_key():
    dice = type("Dice", (), {"random": lambda self: 0.9999})()
    assert pick(dice, {"a": 0.5, "b": 0.4998}) == "b"


def test_tilts_are_moderate(scenes):
    tilts = np.abs([s.tilt for s in scenes])
    assert tilts.max() <= 20
    assert (tilts <= 12).mean() > 0.85


def test_shares_of_what_is_said(data, scenes):
    """Counted in the captions, not in the flags."""
    captions = {scene: data.caption(scene) for scene in scenes}

    def said(words, among):
        return share(scenes, lambda s: words(s) in captions[s], among)

    def coloured(scene):  # a thing whose own name contains a colour
        return any(colour in thing for colour in BACKGROUNDS for thing in scene.things)

    assert about(said(lambda s: STYLES[s.style], lambda s: True), 0.6)
    assert about(said(lambda s: plural(s.concept) if s.count > 1 else s.concept, lambda s: True), 0.96)
    assert said(lambda s: s.background, lambda s: not coloured(s)).mean() == pytest.approx(0.6, abs=0.03)
    assert about(said(lambda s: s.size, lambda s: s.says_thing and s.size != "usual"), 0.6)
    assert about(said(lambda s: PLACES[s.place][0], lambda s: s.says_thing and s.place != "centre"), 0.6)
    assert about(said(lambda s: WORN[s.worn].words, lambda s: s.says_thing and s.worn), 0.7)
    assert about(said(lambda s: NUMBERS[s.count], lambda s: s.says_thing and s.count > 1), 0.85)
    complete = [s for s in scenes if s.says_thing and s.says_style and s.says_background]
    assert about(share(complete, lambda s: captions[s].startswith(f"a {STYLES[s.style]} of ")), 0.5)
    assert all(captions.values())


# Captions

@pytest.mark.parametrize(("scene", "caption"), [
    (Scene("red apple", "3d", "blue"), "a 3d render of a red apple on a blue background"),
    (Scene("panda", "cartoon", "yellow", worn="top hat"),
     "a cartoon of a panda wearing a top hat on a yellow background"),
    (Scene("cat face", "flat", other="pizza", relation="next to"),
     "a flat icon of a cat face next to a pizza on a white background"),
    (Scene("rocket", "sticker", "red", pattern="striped", second="white"),
     "a sticker of a rocket on a striped red and white background"),
    (Scene("frog", "3d", "green", "small", "top left", says_style=False),
     "a small frog at the top left on a green background"),
    (Scene("dog face", says_style=False, says_background=False), "a dog face"),
    (Scene("fox", worn="crown", says_style=False, says_background=False), "a fox wearing a crown"),
    (Scene("pizza", "3d", "purple", other="rocket", relation="above", says_style=False),
     "a pizza above a rocket on a purple background"),
    (Scene("trophy", "sticker", other="banana", says_background=False), "a sticker of a trophy and a banana"),
    (Scene("red apple", count=3, says_style=False, says_background=False), "three red apples"),
    (Scene("red apple", count=3, says_style=False, says_background=False, says_count=False), "red apples"),
    (Scene("umbrella", "flat", "orange", "large"), "a flat icon of a large umbrella on an orange background"),
    (Scene("umbrella", "flat", "orange", "large", says_size=False),
     "a flat icon of an umbrella on an orange background"),
    (Scene("cherries", "sticker", "green", "small", "right", says_place=False),
     "a sticker of small cherries on a green background"),
    (Scene("panda", "cartoon", worn="top hat", says_worn=False), "a cartoon of a panda on a white background"),
    (Scene("grapes", "3d", other="owl", relation="below"), "a 3d render of grapes below an owl on a white background"),
    (Scene("koala", worn="sunglasses", paraphrase=4),
     "a koala in sunglasses on a white background, drawn as a 3d render"),
    (Scene("ufo", "cartoon", "blue", pattern="gradient", second="white"),
     "a cartoon of a ufo on a gradient from blue to white"),
    (Scene("ufo", "flat", "red", pattern="dotted", second="white", says_thing=False),
     "a flat icon on a dotted red and white background"),
    (Scene("ufo", "flat", "red", pattern="checked", second="white", says_thing=False, says_style=False),
     "a checked red and white background"),
    (Scene("ufo", "flat", "red", "small", "left", 1, says_thing=False), "flat icon, red background"),
    (Scene("ufo", says_thing=False, says_background=False), "a 3d render"),
    (Scene("ufo", says_thing=False, says_style=False, says_background=False), ""),
])
def test_captions(data, scene, caption):
    assert data.caption(scene) == caption


@pytest.mark.parametrize(("paraphrase", "caption"), [
    (0, "a cartoon of a small duck at the bottom on a striped red and blue background"),
    (1, "a small duck at the bottom, cartoon, striped red and blue background"),
    (2, "a small duck as a cartoon at the bottom on a striped red and blue background"),
    (3, "cartoon: small duck at the bottom on red and blue stripes"),
    (4, "a small duck at the bottom on a striped red and blue background, drawn as a cartoon"),
    (5, "small duck, at the bottom, cartoon, on red and blue stripes"),
])
def test_paraphrases(data, paraphrase, caption):
    scene = Scene("duck", "cartoon", "red", "small", "bottom", paraphrase, pattern="striped", second="blue")
    assert data.caption(scene) == caption


@pytest.mark.parametrize(("name", "several"), [
    ("cat face", "cat faces"), ("cup of coffee", "cups of coffee"), ("maple leaf", "maple leaves"), ("bus", "buses"),
    ("fried egg in a pan", "fried eggs in a pan"), ("cherry blossom", "cherry blossoms"), ("die", "dice"),
    ("butterfly", "butterflies"), ("face screaming in fear", "faces screaming in fear"), ("fox", "foxes"),
    ("tropical fish", "tropical fish"), ("snowman", "snowmen"), ("peach", "peaches"), ("banjo", "banjos"),
    ("planet with a ring", "planets with a ring"), ("hourglass", "hourglasses"), ("volcano", "volcanoes"),
    ("smiling face with sunglasses", "smiling faces with sunglasses"), ("cowboy hat face", "cowboy hat faces"),
])
def test_plurals(name, several):
    assert plural(name) == several


def test_captions_say_nothing_but_what_is_there(data, scenes, heldout):
    """Without the names of things, all that is left of a caption is grammar and words for parts of the scene."""
    grammar = {"a", "an", "of", "on", "as", "drawn", "background", "in", "with", "wearing"}
    for scene in (*scenes, *heldout):
        parts = [STYLES[scene.style], *scene.colours, PLACES[scene.place][0], NUMBERS[scene.count], scene.size]
        parts += ([WORN[scene.worn].words] if scene.worn else []) + [scene.relation] * bool(scene.other)
        parts += {"plain": [""], "gradient": ["gradient from to"], "striped": ["striped and stripes"],
                  "dotted": ["dotted and dots"], "checked": ["checked and checks"]}[scene.pattern]
        caption = data.caption(scene)
        rest = caption
        for name in sorted((*scene.things, plural(scene.concept)), key=len, reverse=True):
            rest = re.sub(rf"\b{name}\b", "", rest)
        assert set(rest.replace(",", "").replace(":", "").split()) <= grammar | set(" ".join(parts).split())
        assert not set(("  ", " ,", " :", ",,")) & {caption[i: i + 2] for i in range(len(caption))}
        assert caption == caption.strip(" ,:")
        assert len(caption.split()) <= 27          # well below the limit of 77 tokens


def test_what_is_never_said_does_not_change_the_caption(data, scenes):
    for scene in scenes[:1000]:
        other = replace(scene, tilt=-3.0, shift=(4.0, 1.0), scale=0.9, swapped=not scene.swapped, angle=45, period=30.0,
                        phase=(0.3, 0.1))
        assert data.caption(other) == data.caption(scene)


def test_the_tokenizer_hears_every_name_and_every_word():
    texts = tokenizer_corpus(seed=0, count=2000)
    names = json.loads((EMOJI / "captions.json").read_text(encoding="utf-8"))
    heard = " ".join(texts)
    assert all(record["name"] in heard for record in names)
    for word in ("wearing", "next to", "above", "below", "striped", "dotted", "checked", "gradient", "three"):
        assert heard.count(word) > 20
    assert tokenizer_corpus(seed=0, count=10) == texts[:10] + texts[2000:]


# The split

def test_held_out_combinations_are_never_trained_on(data, scenes, heldout):
    assert not any(data.held_out(scene) for scene in scenes)
    assert all(data.held_out(scene) for scene in heldout)
    codes = {c.name: c.code for c in data.concepts}

    def triples(some):
        return {(codes[t], s.style, c) for s in some for t in s.things for c in s.colours}

    assert not any(is_held_out(*triple) for triple in triples(scenes))
    assert not any(is_worn_held_out(codes[s.concept], s.worn) for s in scenes if s.worn)
    assert not any(is_pair_held_out(codes[s.concept], codes[s.other]) for s in scenes if s.other)
    kinds = {kind for scene in heldout for kind in data.held_out(scene)}
    assert kinds == {"colour", "worn", "pair"}
    assert about(share(heldout, single), 0.68)     # as often as in training


def test_how_much_is_held_out(data):
    codes = [c.code for c in data.concepts]
    colours = np.array([[[is_held_out(c, s, b) for b in BACKGROUNDS] for s in STYLES] for c in codes])
    assert colours[..., 1:].mean() == pytest.approx(0.1, abs=0.01)
    assert not colours[..., 0].any()
    worn = np.array([[is_worn_held_out(data.concept(head).code, w) for w in WORN] for head in HEADS])
    assert 0.2 <= worn.mean() <= 0.3
    assert worn.sum(axis=1).max() <= 2             # of four, so every head wears something in training
    assert worn.mean(axis=0).max() < 0.5
    pairs = np.array([[is_pair_held_out(a, b) for b in codes] for a in codes])
    assert (pairs == pairs.T).all()
    assert pairs.mean() == pytest.approx(0.8, abs=0.01)
    assert (~pairs).sum(axis=1).min() > 20


def test_the_split_is_fixed(data):
    """Spelt out, so that a change that would let old held-out scenes into training is noticed."""
    assert [(s, b) for s in STYLES for b in BACKGROUNDS if is_held_out("1f355", s, b)] == [   # pizza
        ("3d", "brown"), ("cartoon", "yellow"), ("cartoon", "green"), ("cartoon", "cyan"), ("cartoon", "blue"),
        ("sticker", "black")]
    assert [w for w in WORN if is_worn_held_out("1f98a", w)] == ["top hat", "crown"]           # fox
    assert [c.name for c in data.concepts[:60] if not is_pair_held_out("1f355", c.code)] == [
        "cowboy hat face", "smiling face with horns", "yellow heart", "black heart", "dog face", "lion", "horse face",
        "baby chick", "duck", "owl"]
    assert data.held_out(Scene("fox", "3d", worn="crown")) == ("worn",)
    assert data.held_out(Scene("pizza", "3d", "white", pattern="striped", second="brown")) == ("colour",)
    assert data.held_out(Scene("rocket", "3d", other="pizza")) == data.held_out(Scene("pizza", "3d", other="rocket"))


def test_nothing_is_put_on_a_ground_that_hides_it(data, scenes):
    assert data.hidden[data.position["red square"], 1, list(BACKGROUNDS).index("red")] > 0.95
    assert data.hidden[data.position["red square"], 1, list(BACKGROUNDS).index("blue")] == 0
    colours = list(BACKGROUNDS)
    for scene in scenes:
        drawings = [*scene.things, *([WORN[scene.worn].drawing] if scene.worn else [])]
        rows = [data.rows[name] for name in drawings]
        hidden = data.hidden[np.ix_(rows, [data.styles.index(scene.style)], [colours.index(c) for c in scene.colours])]
        if scene.pattern != "plain":
            assert hidden.max() < 0.25
            assert DIFFERENT[colours.index(scene.background), colours.index(scene.second)]
        elif scene.background != "white":
            assert hidden.max() < 0.5


@pytest.mark.parametrize("shown_on", [[], ["red"]])
def test_where_no_ground_is_left_there_is_no_scene(shown_on):
    """White is always good enough for a plain ground; a pattern takes two colours."""
    hidden = np.array([0.0 if colour in shown_on else 1.0 for colour in BACKGROUNDS])
    found = [random_ground(np.random.default_rng(i), hidden, {}) for i in range(200)]
    assert None in found
    grounds = {tuple(parts.values()) for parts in found if parts is not None}
    assert grounds == {(), *(("plain", colour) for colour in shown_on)}


# Pictures

def test_a_plain_scene_is_the_drawing_upright_in_the_middle_of_its_colour(data):
    scene = Scene("pizza", "3d", "cyan")
    picture = (data.draw(scene) + 1) * 127.5
    assert (picture[:, [0, 0, -1, -1], [0, -1, 0, -1]].T - torch.tensor([70, 215, 220])).abs().max() < 0.01
    inner = Image.fromarray(data.sprite("pizza", "3d")).crop((4, 4, 124, 124)).resize((88, 88), Image.Resampling.BOX)
    ground = Image.new("RGBA", (128, 128), (*BACKGROUNDS["cyan"], 255))
    ground.alpha_composite(inner, (20, 20))
    expected = torch.from_numpy(np.array(ground)[..., :3]).permute(2, 0, 1)
    assert (picture - expected).abs().mean() < 2


@pytest.mark.parametrize("subset", ["core", "full"])
def test_small_pictures_are_averages_of_large_ones(subset, request, scenes):
    data = request.getfixturevalue("data" if subset == "core" else "full")
    for scene in scenes[:20]:
        picture, mask = data.draw(scene), data.mask(scene)
        for size in [64, 32] if subset == "core" else [32]:
            factor = data.resolution // size
            assert torch.allclose(data.draw(scene, size), avg_pool2d(picture, factor), atol=1e-6)
            assert torch.allclose(data.mask(scene, size), avg_pool2d(mask, factor), atol=1e-6)


def test_the_full_set_draws_the_same_scenes_at_64(data, full, scenes):
    for scene in scenes[:50]:
        assert full.draw(scene).shape == (3, 64, 64)
        assert (full.draw(scene) - data.draw(scene, 64)).abs().mean() < 0.06


def test_pictures_are_in_range(data, scenes):
    pictures = torch.stack([data.draw(scene) for scene in scenes[:100]])
    assert pictures.min() >= -1 - 1e-6
    assert pictures.max() <= 1 + 1e-6


def test_the_ground_shows_through_as_the_mask_says(data, scenes):
    """picture = things + (1 - alpha) ground: on black and white they differ by (1 - alpha) times the difference."""
    for scene in scenes[:50]:
        plain = replace(scene, pattern="plain", second="", background="white")
        difference = data.draw(plain) - data.draw(replace(plain, background="black"))
        assert torch.allclose(difference, (1 - data.mask(scene)) * (255 - 20) / 127.5, atol=1e-5)


@pytest.mark.parametrize(("size", "tilt"), [("usual", 0.0), ("small", 13.0), ("large", -7.0)])
def test_no_halo(data, size, tilt):
    """A thing of one colour keeps it along its outline, on any ground; what is hidden never bleeds in."""
    scene = Scene("key", "flat", "white", size, tilt=tilt)
    layer = drawing.compose(scene, data.sprite, 128)
    seen = layer[..., 3] > 0.1
    colour = layer[seen][:, :3] / layer[seen][:, 3:]
    assert np.abs(colour - np.median(colour, axis=0)).max() < 0.06
    sprite = data.sprite("key", "flat")
    kept, before = sprite.copy(), data.draw(scene)
    try:
        sprite[sprite[..., 3] == 0] = (0, 255, 0, 0)
        assert torch.equal(data.draw(scene), before)
    finally:
        sprite[:] = kept


@pytest.mark.parametrize(("size", "pixels"), SIZES.items())
def test_size_in_pixels(data, size, pixels):
    for concept in ("red square", "rocket", "cat face"):
        rows, columns = np.nonzero(data.mask(Scene(concept, "cartoon", size=size))[0].numpy() > 0.5)
        assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - pixels) <= 2


@pytest.mark.parametrize(("place", "right", "down"), [(p, r, d) for p, (_, r, d) in PLACES.items()])
def test_place_moves_a_small_thing_to_a_third_of_the_frame(data, place, right, down):
    x, y = middle(data.mask(Scene("red circle", "3d", size="small", place=place)))
    assert abs(x - 64 - 37 * right) <= 1
    assert abs(y - 64 - 37 * down) <= 1


@given(st.integers(0, 2**32), st.sampled_from(["train", "heldout", "all"]))
@settings(max_examples=150, deadline=None)
def test_the_frame_cuts_off_no_more_than_a_tenth(data, number, split):
    scene = data.scene(np.random.default_rng(number), split)
    for pixels, top, left in drawing.pieces(scene, data.sprite, 128):
        alpha = np.pad(pixels[..., 3], 128)
        inside = alpha[128 - top: 256 - top, 128 - left: 256 - left]
        assert inside.sum() > 0.9 * pixels[..., 3].sum()
        rows, columns = np.nonzero(pixels[..., 3] > 0.1)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 34


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_several_things_hardly_overlap(data, number):
    rng = np.random.default_rng(number)
    scene = next(s for s in iter(lambda: data.scene(rng, "all"), None) if not single(s))
    frames = []
    for pixels, top, left in drawing.pieces(scene, data.sprite, 128):
        frames.append(np.pad(pixels[..., 3], 128)[128 - top: 256 - top, 128 - left: 256 - left])
    for i, one in enumerate(frames):
        for other in frames[:i]:
            assert np.minimum(one, other).sum() < 0.1 * min(one.sum(), other.sum())


def test_relations_are_true(data, scenes):
    """Of two things, one red and one blue, the first stands where the words say."""
    def middles(relation, swapped=False):
        scene = Scene("red circle", "flat", "white", other="blue square", relation=relation, swapped=swapped)
        picture = data.draw(scene)
        return middle((picture[2:] < 0).float()), middle((picture[:1] < 0).float())   # of red, of blue

    for swapped in (False, True):
        (x, y), (other_x, other_y) = middles("above", swapped)
        assert other_y - y > 50
        assert abs(x - other_x) < 1
        (_, y), (_, other_y) = middles("below", swapped)
        assert y - other_y > 50
        for relation in ("and", "next to"):
            (x, y), (other_x, other_y) = middles(relation, swapped)
            assert abs(y - other_y) < 1
            assert (x - other_x > 50) == swapped
            assert abs(x - other_x) > 50
    for relation in ("and", "next to"):
        assert about(share(scenes, lambda s: s.swapped, lambda s, r=relation: s.relation == r and s.other), 0.5)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_number_of_things(data, count, swapped):
    """Three things of one size cover three times as much as one, and so on."""
    scene = Scene("soccer ball", "cartoon", count=count, swapped=swapped)
    _, side, _, _ = drawing.layout(scene)[0]
    one = float(data.mask(Scene("soccer ball", "cartoon", scale=side / SIZES["usual"])).sum())
    assert float(data.mask(scene).sum()) == pytest.approx(count * one, rel=0.01)


@pytest.mark.parametrize("worn", [name for name, worn in WORN.items() if not worn.on_eyes])
def test_hats_sit_on_the_head_and_not_above_it(data, worn):
    for head in HEADS:
        for style in STYLES:
            cells = [drawing.premultiplied(data.sprite(name, style)) for name in (head, WORN[worn].drawing)]
            dressed = np.asarray(drawing.dress(*cells, head, style, worn)).astype(int)
            bare = np.asarray(drawing.cropped(cells[0], drawing.EDGE)).astype(int)
            taller = dressed.shape[0] - bare.shape[0]
            assert 0.07 * bare.shape[0] < taller < 0.7 * bare.shape[0]        # it sticks out at the top, and rests
            wider = dressed.shape[1] - bare.shape[1]
            below = dressed[taller + bare.shape[0] // 2:, wider // 2: wider // 2 + bare.shape[1]]
            assert abs(below.sum() - bare[bare.shape[0] // 2:].sum()) <= 0.05 * below.sum()  # the rest is as before


def test_sunglasses_lie_on_the_face(data):
    for head in HEADS:
        for style in STYLES:
            cells = [drawing.premultiplied(data.sprite(name, style)) for name in (head, "sunglasses")]
            dressed = drawing.dress(*cells, head, style, "sunglasses")
            bare = drawing.cropped(cells[0], drawing.EDGE)
            assert abs(dressed.width - bare.width) <= 12
            assert abs(dressed.height - bare.height) <= 4
            row = np.asarray(cells[0])[round(128 * HEADS[head][style].eye_y), :, 3]
            assert (row > 200).mean() > 0.35       # at the height of the eyes there is head


def test_a_head_and_its_hat_are_tilted_together(data):
    scene = Scene("panda", "cartoon", worn="crown")
    upright = data.mask(scene)[0].numpy()
    turned = Image.fromarray((upright * 255).astype(np.uint8)).rotate(-15, Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(turned) / 255 - data.mask(replace(scene, tilt=15.0))[0].numpy()).mean() < 0.01


@pytest.mark.parametrize("pattern", PATTERNS[1:])
@pytest.mark.parametrize("angle", [0, 45, 90, 135])
def test_grounds_show_both_colours_in_their_shares(pattern, angle):
    red, white = (np.array(BACKGROUNDS[colour]) / 255 for colour in ("red", "white"))
    shares, ends = [], []
    for phase in (0.0, 0.2, 0.55, 0.9):
        scene = Scene("pizza", "3d", "red", pattern=pattern, second="white", angle=angle, phase=(phase, phase))
        ground = drawing.ground(scene, 128)
        second = ((ground - red) @ (white - red)) / ((white - red) @ (white - red))        # 0 is red, 1 is white
        assert np.allclose(ground, red + second[..., None] * (white - red), atol=1e-5)
        assert second.min() == pytest.approx(0, abs=0.01)
        assert second.max() == pytest.approx(1, abs=0.01)
        shares.append(second.mean())
        ends.append(second)
    assert np.mean(shares) == pytest.approx(0.25 if pattern == "dotted" else 0.5, abs=0.03)
    if pattern == "gradient" and angle <= 90:      # it starts at the top, the left, or both
        assert second[0, 0] < 0.02
        assert second[-1, -1] > 0.98
    elif pattern != "gradient":
        assert np.abs(ends[0] - ends[1]).mean() > 0.1


def test_patterns_survive_smaller_pictures():
    """No part of a pattern is so thin that averaging 2 x 2 or 4 x 4 pixels would lose it."""
    for pattern in PATTERNS[1:]:
        least, _ = PERIODS[pattern]
        scene = Scene("pizza", "3d", "black", pattern=pattern, second="white", period=float(least), angle=45)
        ground = torch.from_numpy(drawing.ground(scene, 128).copy()).permute(2, 0, 1)
        assert avg_pool2d(ground, 2).std() > 0.9 * ground.std()
        assert avg_pool2d(ground, 4).std() > 0.7 * ground.std()


# Bad input

@pytest.mark.parametrize(("change", "message"), [
    ({"concept": "piza"}, "concept: 'piza' .* perhaps 'pizza'"),
    ({"other": "rockets"}, "other: 'rockets' .* perhaps 'rocket'"),
    ({"style": "oil painting"}, "style: 'oil painting'; it must be one of 3d, flat, cartoon, sticker"),
    ({"background": "mauve"}, "background: 'mauve'; it must be one of white, black"),
    ({"size": "tiny"}, "size: 'tiny'"),
    ({"place": "behind"}, "place: 'behind'"),
    ({"paraphrase": 6}, "paraphrase: 6"),
    ({"relation": "inside"}, "relation: 'inside'; it must be one of and, next to, above, below"),
    ({"count": 5}, "count: 5; it must be one of 1, 2, 3, 4"),
    ({"pattern": "tartan"}, "pattern: 'tartan'; it must be one of plain, striped"),
    ({"pattern": "striped"}, "second: ''; it must be one of black, grey"),
    ({"pattern": "striped", "second": "white"}, "second: 'white'; it must be one of black, grey"),
    ({"second": "red"}, "second: 'red'; it must be one of "),
    ({"worn": "crown"}, "worn: 'crown' on 'pizza', which has no head in HEADS"),
    ({"concept": "panda", "worn": "wig"}, "worn: 'wig'; it must be one of top hat, crown, sunglasses, bow"),
    ({"other": "pizza"}, "other: 'pizza' is the concept, too"),
    ({"concept": "broccoli", "count": 2}, "count: 2 of 'broccoli', which cannot be counted"),
    ({"other": "rocket", "size": "small"}, "size: 'small' beside other='rocket'; it must be 'usual'"),
    ({"other": "rocket", "count": 2}, "count: 2 beside other='rocket'"),
    ({"count": 3, "place": "top"}, "place: 'top' beside count=3"),
    ({"concept": "panda", "worn": "bow", "count": 3}, "worn: 'bow' beside count=3"),
    ({"scale": 0}, "scale: 0; it must be from 0.1 to 2"),
    ({"period": 1.5}, "period: 1.5; it must be from 4 to 128"),
])
def test_unfit_scenes_are_refused(data, change, message):
    scene = replace(Scene("pizza"), **change)
    for method in (data.draw, data.mask, data.caption):
        with pytest.raises(ValueError, match=message):
            method(scene)


def test_a_thing_that_is_shifted_out_of_sight_leaves_the_ground(data):
    for shift in [(300.0, 0.0), (0.0, -300.0)]:
        assert data.mask(Scene("pizza", shift=shift)).sum() == 0


def test_other_arguments_are_checked(data, full):
    with pytest.raises(ValueError, match="subset: 'all'; it must be one of core, full"):
        EmojiData("all")
    with pytest.raises(ValueError, match="resolution: 48; it must be one of 128, 64, 32"):
        data.draw(Scene("pizza"), 48)
    with pytest.raises(ValueError, match=r"resolution: 128, but .*build\.py --cell 128 makes larger ones"):
        full.draw(Scene("pizza"), 128)
    with pytest.raises(ValueError, match="split: 'test'; it must be one of train, heldout, all"):
        data.batch([0], seed=0, split="test")
    with pytest.raises(ValueError, match="split: 'test'"):
        data.scene(np.random.default_rng(0), "test")
    with pytest.raises(ValueError, match="indices: empty"):
        data.batch([], seed=0)
    for bad in (-1, 1.5, 1.0, True, "1"):
        with pytest.raises(ValueError, match=f"indices: {bad!r}; it must be a whole number from 0"):
            data.batch([0, bad], seed=0)
        with pytest.raises(ValueError, match=f"seed: {bad!r}; it must be a whole number from 0"):
            data.batch([0], seed=bad)
        with pytest.raises(ValueError, match="seed: "):
            tokenizer_corpus(seed=bad)
    assert data.batch(np.array([3]), seed=np.int64(5))[1] == data.batch([3], seed=5)[1]


@pytest.fixture
def folder(tmp_path):
    """A copy of the data set to damage: links to the core's sheets, and the captions themselves."""
    for style in STYLES:
        (tmp_path / f"core-{style}.webp").symlink_to(EMOJI / f"core-{style}.webp")
    (tmp_path / "captions.json").write_bytes((EMOJI / "captions.json").read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["captions.json", "core-3d.webp", "core-sticker.webp"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        EmojiData("core", folder)


def huge_png() -> bytes:
    """A PNG that claims to have 20,000 x 20,000 pixels."""
    file = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(file, "PNG")
    return file.getvalue()[:16] + struct.pack(">II", 20_000, 20_000) + file.getvalue()[24:]


@pytest.mark.parametrize("content", [lambda sheet: b"", lambda sheet: sheet[:1000], lambda sheet: sheet[:-1000],
                                     lambda sheet: huge_png()])
def test_damaged_sheet(folder, content):
    (folder / "core-flat.webp").unlink()
    (folder / "core-flat.webp").write_bytes(content((EMOJI / "core-flat.webp").read_bytes()))
    with pytest.raises(ValueError, match=r"core-flat\.webp is damaged"):
        EmojiData("core", folder)


def test_sheets_that_do_not_fit(folder):
    (folder / "core-flat.webp").unlink()
    (folder / "core-flat.webp").symlink_to(EMOJI / "flat.webp")
    with pytest.raises(ValueError, match=r"core-flat\.webp is 2560 x 2240 pixels, but 178 captions need 2048 x 1536"):
        EmojiData("core", folder)


def test_captions_that_do_not_fit(folder):
    records = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    fewer = [record | {"core": record["core"] and record["name"] != "pizza"} for record in records]
    (folder / "captions.json").write_text(json.dumps(fewer), encoding="utf-8")
    with pytest.raises(ValueError, match=r"core-3d\.webp has 178 drawings, but there are 177 captions"):
        EmojiData("core", folder)


@pytest.mark.parametrize("change", [lambda text: text[:-9], lambda text: "[1]", lambda text: '[{"name": "pizza"}]',
                                    lambda text: text.replace('"pizza"', '"rocket"')])
def test_damaged_captions(folder, change):
    whole = (folder / "captions.json").read_text(encoding="utf-8")
    (folder / "captions.json").write_text(change(whole), encoding="utf-8")
    with pytest.raises(ValueError, match=r"captions\.json is damaged"):
        EmojiData("core", folder)


def test_larger_sheets_of_the_full_set(tmp_path, full):
    """As build.py --cell 128 makes them; here, a few enlarged drawings."""
    records = json.loads((EMOJI / "captions.json").read_text(encoding="utf-8"))[1079:1119]
    records = [record | {"index": i} for i, record in enumerate(records)]
    (tmp_path / "captions.json").write_text(json.dumps(records), encoding="utf-8")
    for style in STYLES:
        sheet = Image.new("RGBA", (40 * 128, 128))
        for i, record in enumerate(records):
            cell = Image.fromarray(full.sprite(record["name"], style)).resize((128, 128))
            sheet.paste(cell, (i * 128, 0))
        sheet.save(tmp_path / f"{style}.webp", lossless=True, quality=0, method=0)
    large = EmojiData("full", tmp_path)
    assert large.draw(Scene("crown", "flat", "blue")).shape == (3, 128, 128)
    Image.new("RGBA", (40 * 64, 64)).save(tmp_path / "sticker.webp")
    with pytest.raises(ValueError, match=r"sticker\.webp is 2560 x 64 pixels, but 40 captions need 5120 x 128"):
        EmojiData("full", tmp_path)
