"""The first edition's data set: its contents, how scenes are drawn and described, the split, and damaged files."""

import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from minisd.emoji.data import (
    BACKGROUNDS,
    PARAPHRASES,
    PLACES,
    SIZES,
    STYLES,
    EmojiData,
    Scene,
    background_of,
    is_held_out,
)
from minisd.files import assets_folder

EMOJI = assets_folder() / "emoji"


@pytest.fixture(scope="module")
def data():
    return EmojiData("core")


@pytest.fixture(scope="module")
def full():
    return EmojiData("full")


@pytest.fixture(scope="module")
def scenes(data):
    rng = np.random.default_rng(0)
    return [data.scene(rng) for _ in range(3000)]


def combinations(scenes):
    return {(s.concept, s.style, s.background) for s in scenes}


# Contents

def test_sizes_of_the_two_subsets(data, full):
    assert len(full.concepts) == 1366
    assert 150 <= len(data.concepts) <= 250
    assert [c for c in full.concepts if c.core] == data.concepts
    assert sum(file.stat().st_size for file in EMOJI.rglob("*") if file.is_file()) < 22e6


@pytest.mark.parametrize("name", ["pizza", "cat face", "rocket", "red apple", "duck", "banjo", "red heart",
                                  "smiling face with sunglasses"])
def test_core_has_what_the_notebooks_draw(data, name):
    assert data.concept(name).core
    assert all(data.sprite(name, style)[..., 3].max() == 255 for style in STYLES)


def test_a_concept_has_the_same_sprite_in_both_subsets(data, full):
    for style in data.styles:
        assert np.array_equal(data.sprite("rocket", style), full.sprite("rocket", style))
    assert data.sprite("rocket", "3d").shape == (64, 64, 4)


@pytest.mark.parametrize(("name", "style", "channel"), [
    ("red heart", "sticker", 0), ("green heart", "flat", 1), ("blue heart", "cartoon", 2),
    ("green apple", "3d", 1), ("red square", "flat", 0), ("blue square", "sticker", 2),
])
def test_sprites_show_what_the_captions_say(data, name, style, channel):
    """Things whose names tell their colours: the sheets and the captions are in the same order."""
    pixels = data.sprite(name, style)
    assert pixels[pixels[..., 3] == 255][:, :3].mean(axis=0).argmax() == channel


def test_objects_are_centred_and_of_one_size(full):
    for i, j in np.ndindex(full.sprites.shape[:2]):
        rows, columns = np.nonzero(full.sprites[i, j, ..., 3] > 16)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 <= SIZES["usual"]
        assert min(rows.min(), columns.min()) >= 6
        assert max(rows.max(), columns.max()) <= 57


def test_3d_and_flat_drawings_coincide(data):
    solid = data.sprites[..., 3] > 127
    both, either = (solid[:, 0] & solid[:, 1]).sum((1, 2)), (solid[:, 0] | solid[:, 1]).sum((1, 2))
    assert np.median(both / either) > 0.95


def test_licences_are_there():
    text = {file.name: file.read_text(encoding="utf-8") for file in (EMOJI / "licenses").iterdir()}
    assert "Copyright (c) Microsoft Corporation" in text["MIT-fluent.txt"]
    assert "END OF TERMS AND CONDITIONS" in text["Apache-2.0.txt"]
    assert "Section 8 -- Interpretation" in text["CC-BY-4.0.txt"]
    notice = (EMOJI / "LICENSES.md").read_text(encoding="utf-8")
    assert all(f"licenses/{name}" in notice for name in text)
    assert all(f"`{style}.webp`" in notice for style in STYLES)


# Pictures

def test_picture_is_the_sprite_over_the_colour(data):
    """Against Pillow's own alpha_composite, which rounds to bytes."""
    for style in STYLES:
        scene = Scene("pizza", style, "blue")
        ground = Image.new("RGBA", (64, 64), (*BACKGROUNDS["blue"], 255))
        ground.alpha_composite(Image.fromarray(data.sprite("pizza", style)))
        expected = np.asarray(ground)[..., :3].transpose(2, 0, 1) / 127.5 - 1
        picture = data.draw(scene)
        assert picture.shape == (3, 64, 64)
        assert picture.dtype == torch.float32
        assert np.abs(picture.numpy() - expected).max() <= 1.01 / 127.5


def test_32_pixels_are_the_average_of_64(data, scenes):
    for scene in scenes[:50]:
        assert torch.allclose(data.draw(scene, 32), avg_pool2d(data.draw(scene), 2), atol=1e-6)
        assert torch.allclose(data.mask(scene, 32), avg_pool2d(data.mask(scene), 2), atol=1e-6)


def test_pictures_are_in_range(data, scenes):
    pictures = torch.stack([data.draw(scene) for scene in scenes[:500]])
    assert pictures.min() >= -1 - 1e-6
    assert pictures.max() <= 1 + 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_background_shows_through_as_the_mask_says(data, size):
    """picture = object + (1 - alpha) background, so two pictures differ by (1 - alpha) times their backgrounds."""
    scene = Scene("cherries", "cartoon", "white", size=size)
    difference = data.draw(scene) - data.draw(replace(scene, background="black"))
    assert torch.allclose(difference, (1 - data.mask(scene)) * (255 - 20) / 127.5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_no_halo(data, size):
    """The colour that is hidden where alpha is zero must not bleed into the outline."""
    scene = Scene("key", "flat", "white", size=size)
    before = data.draw(scene)
    sprite = data.sprite("key", "flat")
    kept = sprite.copy()
    try:
        sprite[sprite[..., 3] == 0] = (0, 255, 0, 0)
        assert (data.draw(scene) - before).abs().max() < 3 / 127.5
    finally:
        sprite[:] = kept


@pytest.mark.parametrize(("size", "pixels"), SIZES.items())
def test_size_in_pixels(data, size, pixels):
    for concept in ("red square", "rocket", "cat face"):
        rows, columns = np.nonzero(data.mask(Scene(concept, "flat", size=size))[0].numpy() > 0.25)
        assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - pixels) <= 2


@pytest.mark.parametrize(("place", "right", "down"), [(p, r, d) for p, (_, r, d) in PLACES.items()])
def test_place_moves_the_object(data, place, right, down):
    mask = data.mask(Scene("red circle", "3d", size="small", place=place))
    rows, columns = np.nonzero(mask[0].numpy() > 0.5)
    assert abs(columns.mean() - 31.5 - 14 * right) <= 1
    assert abs(rows.mean() - 31.5 - 14 * down) <= 1


def test_background_can_be_read_off(data, scenes):
    generator = torch.Generator().manual_seed(0)
    for resolution in (64, 32):
        for scene in scenes[:500]:
            picture = data.draw(scene, resolution)
            noisy = picture + 0.1 * torch.randn(picture.shape, generator=generator)
            assert background_of(picture) == scene.background
            assert background_of(noisy) == scene.background


def test_a_drawing_is_not_put_on_its_own_colour(full):
    allowed = full.allowed["all"]
    words = list(BACKGROUNDS)
    for concept, style, colour in [("red square", "flat", "red"), ("black circle", "flat", "black"),
                                   ("star", "cartoon", "yellow")]:
        assert not allowed[full.position[concept], full.styles.index(style), words.index(colour)]
    assert allowed[..., 0].all()
    assert allowed.mean() > 0.95


# Captions

@pytest.mark.parametrize(("paraphrase", "caption"), [
    (0, "a cartoon of a small duck at the bottom on an orange background"),
    (1, "a small duck at the bottom, cartoon, orange background"),
    (2, "a small duck as a cartoon at the bottom on an orange background"),
    (3, "cartoon: small duck at the bottom on orange"),
    (4, "a small duck at the bottom on an orange background, drawn as a cartoon"),
    (5, "small duck, at the bottom, cartoon, on orange"),
])
def test_paraphrases(data, paraphrase, caption):
    assert data.caption(Scene("duck", "cartoon", "orange", "small", "bottom", paraphrase)) == caption


@pytest.mark.parametrize(("paraphrase", "caption"), [
    (0, "a 3d render of an umbrella"), (1, "an umbrella, 3d render"), (2, "an umbrella as a 3d render"),
    (3, "3d render: umbrella"), (4, "an umbrella, drawn as a 3d render"), (5, "umbrella, 3d render"),
])
def test_white_goes_without_saying(data, paraphrase, caption):
    scene = Scene("umbrella", "3d", "white", paraphrase=paraphrase, says_background=False)
    assert data.caption(scene) == caption


@pytest.mark.parametrize(("scene", "caption"), [
    (Scene("red apple", "3d", "blue"), "a 3d render of a red apple on a blue background"),
    (Scene("umbrella", "flat", "red", "large"), "a flat icon of a large umbrella on a red background"),
    (Scene("cherries", "sticker", "green"), "a sticker of cherries on a green background"),
    (Scene("cherries", "sticker", "green", "small"), "a sticker of small cherries on a green background"),
    (Scene("ufo", "cartoon"), "a cartoon of a ufo on a white background"),
])
def test_articles_and_sizes(data, scene, caption):
    assert data.caption(scene) == caption


def test_captions_say_everything_once(data, scenes):
    for scene in scenes:
        caption = data.caption(scene)
        assert scene.concept in caption
        assert STYLES[scene.style] in caption
        assert PLACES[scene.place][0] in caption
        assert (scene.size in caption) == (scene.size != "usual")
        assert not scene.says_background or caption.replace(scene.concept, "").count(scene.background) == 1
        assert "  " not in caption
        assert " ," not in caption
        assert caption == caption.strip(" ,:")


def test_captions_of_all_concepts_are_short_enough_for_77_tokens(full):
    longest = max((full.caption(Scene(c.name, "3d", "orange", "small", "bottom", p)) for c in full.concepts
                   for p in range(PARAPHRASES)), key=lambda caption: len(caption.split()))
    assert len(longest.split()) <= 27


# Samples and split

def test_scenes_are_mostly_usual(scenes):
    share = {name: np.mean([condition(s) for s in scenes]) for name, condition in {
        "white": lambda s: s.background == "white", "canonical": lambda s: s.paraphrase == 0,
        "unusual": lambda s: s.size != "usual", "unsaid": lambda s: not s.says_background,
    }.items()}
    assert share == pytest.approx({"white": 0.4, "canonical": 0.5, "unusual": 0.18, "unsaid": 0.28}, abs=0.04)
    assert {s.paraphrase for s in scenes} == set(range(PARAPHRASES))
    assert {s.place for s in scenes if s.size == "small"} == set(PLACES)
    assert {s.place for s in scenes if s.size != "small"} == {"centre"}


def test_a_sample_depends_on_its_number_alone(data):
    pictures, captions, scenes = data.batch([7, 1000, 3], seed=5)
    assert pictures.shape == (3, 3, 64, 64)
    for k, i in enumerate([7, 1000, 3]):
        again, caption, scene = data.batch(torch.tensor([i]), seed=5)
        assert torch.equal(again[0], pictures[k])
        assert caption == [captions[k]]
        assert scene == [scenes[k]]
    assert data.batch(range(20), seed=6)[1] != data.batch(range(20), seed=5)[1]
    assert data.batch(range(20), seed=5, split="all")[1] != data.batch(range(20), seed=5)[1]
    assert data.batch([0], seed=5, resolution=32)[0].shape == (1, 3, 32, 32)


def test_held_out_combinations_are_never_trained_on(data, scenes):
    heldout = data.batch(range(2000), seed=0, split="heldout")[2]
    codes = {c.name: c.code for c in data.concepts}
    assert all(is_held_out(codes[s.concept], s.style, s.background) for s in heldout)
    assert not any(is_held_out(codes[s.concept], s.style, s.background) for s in scenes)
    assert not combinations(heldout) & combinations(scenes)


def test_one_combination_in_ten_is_held_out_but_no_whole_concept(full):
    heldout = np.array([[[is_held_out(c.code, s, b) for b in BACKGROUNDS] for s in STYLES]
                        for c in full.concepts])
    assert heldout[..., 1:].mean() == pytest.approx(26 / 256, abs=0.005)
    assert not heldout[..., 0].any()
    assert not heldout.all(axis=(1, 2)).any()


def test_the_split_is_fixed():
    """Spelt out, so that a change that would let old held-out pictures into training is noticed."""
    held_out = [(s, b) for s in STYLES for b in BACKGROUNDS if is_held_out("1f355", s, b)]  # pizza
    assert held_out == [("3d", "brown"), ("cartoon", "yellow"), ("cartoon", "green"), ("cartoon", "cyan"),
                        ("cartoon", "blue"), ("sticker", "black")]


# Bad input

@pytest.mark.parametrize(("change", "message"), [
    ({"concept": "piza"}, "concept: 'piza' .* perhaps 'pizza'"),
    ({"style": "oil painting"}, "style: 'oil painting'; it must be one of 3d, flat, cartoon, sticker"),
    ({"background": "mauve"}, "background: 'mauve'; it must be one of white, black"),
    ({"size": "tiny"}, "size: 'tiny'"),
    ({"place": "behind"}, "place: 'behind'"),
])
def test_unknown_words_are_refused(data, change, message):
    scene = replace(Scene("pizza"), **change)
    with pytest.raises(ValueError, match=message):
        data.draw(scene)
    with pytest.raises(ValueError, match=message):
        data.caption(scene)


def test_other_arguments_are_checked(data):
    with pytest.raises(ValueError, match="subset: 'all'; it must be 'core' or 'full'"):
        EmojiData("all")
    with pytest.raises(ValueError, match="resolution: 48; it must be one of 64, 32"):
        data.draw(Scene("pizza"), 48)
    with pytest.raises(ValueError, match="split: 'test'; it must be one of train, heldout, all"):
        data.batch([0], seed=0, split="test")
    with pytest.raises(ValueError, match="indices: empty"):
        data.batch([], seed=0)
    with pytest.raises(ValueError, match="paraphrase: 6"):
        data.caption(Scene("pizza", paraphrase=6))
    with pytest.raises(ValueError, match=r"image: shape \(1, 3, 8, 8\)"):
        background_of(torch.zeros(1, 3, 8, 8))


@pytest.fixture
def folder(tmp_path):
    """A copy of the data set to damage: links to the sheets, and the captions themselves."""
    for style in STYLES:
        (tmp_path / f"{style}.webp").symlink_to(EMOJI / f"{style}.webp")
    (tmp_path / "captions.json").write_bytes((EMOJI / "captions.json").read_bytes())
    return tmp_path


def rewrite_captions(folder, change):
    path = folder / "captions.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(records)), encoding="utf-8")


@pytest.mark.parametrize("name", ["captions.json", "3d.webp", "sticker.webp"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        EmojiData("core", folder)


def png(chunk: bytes) -> bytes:
    """A PNG that claims to have 20,000 × 20,000 pixels, or one with an invalid chunk."""
    file = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(file, "PNG")
    whole = file.getvalue()
    return whole[:33] + chunk + whole[41:] if chunk else whole[:16] + struct.pack(">II", 20_000, 20_000) + whole[24:]


@pytest.mark.parametrize("content", [lambda sheet: b"", lambda sheet: sheet[:1000], lambda sheet: sheet[:1_000_000],
                                     lambda sheet: png(b""), lambda sheet: png(b"\0\0\0\x04\x01\x02\x03\x04")])
def test_damaged_sheet(folder, content):
    (folder / "flat.webp").unlink()
    (folder / "flat.webp").write_bytes(content((EMOJI / "flat.webp").read_bytes()))
    with pytest.raises(ValueError, match=r"flat\.webp is damaged"):
        EmojiData("core", folder)


def test_sheet_of_another_size(folder):
    (folder / "flat.webp").unlink()
    Image.new("RGBA", (640, 64), "red").save(folder / "flat.webp")
    with pytest.raises(ValueError, match=r"flat\.webp is 640 x 64 pixels, but 1366 captions need 2560 x"):
        EmojiData("core", folder)


@pytest.mark.parametrize(("change", "message"), [
    (lambda records: records[:-1], "3d.webp has 1366 drawings, but there are 1365 captions"),
    (lambda records: records[:600], "sheet and captions do not belong together"),
    (lambda records: records[::-1], "numbered 0, 1, 2"),
    (lambda records: [*records[:-1], {**records[-1], "name": "pizza"}], "each name used once"),
    (lambda records: [{"index": 0, "name": "pizza"}], "captions.json is damaged: .*missing"),
    (lambda records: {"pizza": 1}, "captions.json is damaged"),
    (lambda records: [{**records[0], "name": ["pizza"]}], "captions.json is damaged: unhashable"),
])
def test_captions_that_do_not_fit(folder, change, message):
    rewrite_captions(folder, change)
    with pytest.raises(ValueError, match=message):
        EmojiData("core", folder)


def test_captions_that_are_cut_off(folder):
    path = folder / "captions.json"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"captions\.json is damaged"):
        EmojiData("core", folder)
