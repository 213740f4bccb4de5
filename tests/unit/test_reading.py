"""What is read off pixels: on real pictures, on spoilt ones, and where nothing can be read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minisd.emoji import reading
from minisd.emoji.data import background_of
from minisd.emoji.heads import WORN
from minisd.emoji.reading import Ground, Thing
from minisd.emoji.scene import PLACES, Scene
from minisd.emoji.world import EmojiData

APPLE = Scene("red apple", background="blue")


@pytest.fixture(scope="module")
def data():
    return EmojiData("core")


@pytest.fixture(scope="module")
def real(data):
    """Pictures and scenes, of all kinds."""
    pictures, _, scenes = data.batch(range(120), 2024, "all")
    return list(zip(pictures, scenes))


def spoilt(picture, seed=0):
    """Soft, stained and noisy."""
    generator = torch.Generator().manual_seed(seed)
    soft = F.interpolate(F.avg_pool2d(picture[None], 2), scale_factor=2.0, mode="bilinear")[0]
    stains = F.interpolate(torch.randn(1, 3, 8, 8, generator=generator), size=128, mode="bilinear")[0]
    return (soft + 0.06 * stains + 0.06 * torch.randn(picture.shape, generator=generator)).clamp(-1, 1)


# Grounds

@pytest.mark.parametrize("spoil", [lambda picture: picture, spoilt])
def test_grounds_of_a_known_pattern_are_read(real, spoil):
    assert all(reading.same_ground(reading.read_ground(spoil(picture), scene.pattern), scene)
               for picture, scene in real)


def test_patterns_are_told_from_plain_grounds_and_gradients(real):
    """It is wrong for a few: dots that hardly come near the frame, and a red square that fills it."""
    right = []
    for picture, scene in real:
        ground = reading.read_ground(picture)
        right.append(reading.same_ground(ground, scene) if scene.pattern in ("plain", "gradient")
                     else (ground.pattern, set(ground.colours)) == ("patterned", set(scene.colours)))
    assert np.mean(right) > 0.98


def test_things_at_the_edge_and_patterns_do_not_deceive(data):
    """Where the median of the border would be wrong."""
    striped = data.draw(replace(APPLE, pattern="striped", background="white", second="black", period=24))
    assert reading.read_ground(striped) == Ground("patterned", ("white", "black"))
    picture = data.draw(Scene("panda", background="cyan", size="large"))
    picture[:, 6:122, :6] = picture[:, 6:122, 122:] = picture[:, 122:] = -1   # black runs into it from three sides
    assert background_of(picture) == "black"
    assert reading.read_ground(picture, "plain").colours == ("cyan",)
    assert reading.read_ground(data.draw(replace(APPLE, size="small", place="top left")), "plain").colours == ("blue",)


def test_gradients_and_dots_have_a_direction(data):
    for first, second in (("blue", "white"), ("white", "blue")):
        for angle in (0, 45, 90):
            scene = replace(APPLE, background=first, second=second, pattern="gradient", angle=angle)
            ground = reading.read_ground(data.draw(scene))
            assert ground == Ground("gradient", (first, second), angle)
            assert not reading.same_ground(ground, replace(scene, background=second, second=first))
        scene = replace(APPLE, background=first, second=second, pattern="dotted")
        assert reading.read_ground(data.draw(scene), "dotted").colours == (first, second)
        turned = replace(scene, background=second, second=first)
        assert not reading.same_ground(reading.read_ground(data.draw(turned), "dotted"), scene)


def test_stripes_and_checks_have_none(data):
    for pattern in ("striped", "checked"):
        scene = replace(APPLE, background="blue", second="white", pattern=pattern)
        ground = reading.read_ground(data.draw(scene), pattern)
        assert reading.same_ground(ground, scene)
        assert reading.same_ground(ground, replace(scene, background="white", second="blue"))
        assert not reading.same_ground(ground, replace(scene, second="pink"))
        assert not reading.same_ground(ground, replace(scene, pattern="dotted"))


# Things

@pytest.mark.parametrize("place", PLACES)
def test_a_small_thing_is_where_it_is(data, place):
    scene = replace(APPLE, size="small", place=place, shift=(2.0, -2.0), tilt=15)
    for picture in (data.draw(scene), spoilt(data.draw(scene))):
        assert reading.read_thing(picture) == Thing(place, "small")


def test_places_and_sizes_of_real_things_are_read(real):
    singles = [(picture, scene) for picture, scene in real if not scene.other and scene.count == 1]
    wrong = 0
    for picture, scene in singles:
        hat = bool(scene.worn) and not WORN[scene.worn].on_eyes
        thing = reading.read_thing(picture, reading.read_ground(picture, scene.pattern), hat)
        right = thing == Thing(scene.place, scene.size)
        assert right or scene.pattern != "plain"
        wrong += not right
    assert len(singles) > 70
    assert wrong <= 2


def test_a_hat_makes_a_thing_no_larger(data):
    scene = Scene("panda", background="blue", worn="top hat", scale=1.05)
    picture = data.draw(scene)
    assert reading.read_thing(picture, hat=True) == Thing("centre", "usual")
    assert reading.read_thing(picture, hat=False) == Thing("centre", "large")


def test_what_cannot_be_seen_is_not_guessed(data):
    white = torch.ones(3, 128, 128)
    faint = white.clone()
    faint[:, 40:90, 40:90] = 0.9               # hardly darker
    speck = white.clone()
    speck[:, 60:68, 60:68] = -1
    for picture in (white, faint, speck):
        assert reading.read_thing(picture) is None
        assert reading.read_number(picture) is None
    faint[:, 40:90, 40:90] = 0
    assert reading.read_thing(faint) == Thing("centre", "small")
    assert reading.read_number(faint) == 1


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_things_are_counted(data, count, swapped):
    scene = replace(APPLE, count=count, swapped=swapped, tilt=12)
    for picture in (data.draw(scene), spoilt(data.draw(scene))):
        assert reading.read_number(picture) == count


def test_numbers_of_real_things_are_read(real):
    wrong = [scene for picture, scene in real
             if reading.read_number(picture, reading.read_ground(picture, scene.pattern))
             != (2 if scene.other else scene.count)]
    assert len(wrong) <= 3


def test_a_small_thing_at_the_side_is_one(data):
    assert reading.read_number(data.draw(replace(APPLE, size="small", place="left"))) == 1


# Stains

def test_the_spread_is_the_grounds(data):
    """Noise of a known size on a ground; what is drawn does not count."""
    picture = data.draw(replace(APPLE, background="grey"))
    assert reading.spread(picture) == 0
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)) * 4 / 127.5
    assert reading.spread(picture + noise) == pytest.approx(4, rel=0.03)
    for background in ("white", "black", "yellow"):
        assert reading.spread(data.draw(replace(APPLE, background=background))) < 0.1


def test_a_stain_beside_the_thing_counts_and_a_tint_does_not(data):
    picture = data.draw(replace(APPLE, background="grey"))
    stained = picture.clone()
    stained[:, :16, :16] = -1
    assert reading.spread(stained) > 10
    assert reading.spread(picture + 0.2) == pytest.approx(0, abs=0.01)    # all alike, if not of the palette


def test_a_ground_that_is_one_stain_is_no_clean_one():
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert reading.spread(noise) > 50


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \(3, 128, 128\)"):
        reading.read_ground(torch.zeros(3, 64, 64))


def test_the_largest_part_of_a_mask():
    mask = np.zeros((128, 128), bool)
    mask[10:20, 10:20] = True
    mask[40:44, 40:100] = True                # 240 pixels, and a tail that turns
    mask[44:60, 96:100] = True
    found = reading.largest(mask)
    assert found.sum() == 240 + 64
    assert not found[10:20].any()
    assert not reading.largest(np.zeros((128, 128), bool)).any()
