"""The weights that ship: small, documented, and able to draw what the prompt asks for."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from minisd import StableDiffusion, checkpoint
from minisd.emoji.data import EmojiData, Scene, background_of
from minisd.files import assets_folder

pytestmark = pytest.mark.slow

PROMPTS = [("pizza", "3d", "blue"), ("cat face", "flat", "green"), ("rocket", "cartoon", "yellow"),
           ("red apple", "sticker", "purple"), ("sunflower", "3d", "white"), ("robot", "flat", "orange")]


@pytest.fixture(scope="module")
def mini() -> StableDiffusion:
    return StableDiffusion.from_pretrained("mini")


def test_both_models_are_small():
    for name in ("mini", "mini-inpaint"):
        assert (assets_folder() / name / "README.md").is_file()
    paths = [path for name in ("mini", "mini-inpaint") for path in (assets_folder() / name).rglob("*")]
    assert sum(path.stat().st_size for path in paths if path.is_file()) < 60e6


def test_the_runs_that_made_them_are_kept():
    for run in ("vae", "clip", "unet"):
        with (assets_folder() / f"mini/training/{run}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 2
    with Image.open(assets_folder() / "mini/training/curves.png") as picture:
        assert picture.width > 1000


def test_by_whatever_name_they_are_float32(mini, monkeypatch):
    monkeypatch.setattr(checkpoint, "fast_dtype", lambda device: torch.bfloat16)
    assert StableDiffusion.from_pretrained(Path("mini"), device="cpu").dtype == mini.dtype == torch.float32


def test_scaling_factor_is_that_of_the_latents(mini):
    images, _, _ = EmojiData("core").batch(range(64), seed=5)
    latents = mini.encode_image(images, torch.Generator().manual_seed(0))
    assert latents.std().item() == pytest.approx(1, abs=0.05)


def test_reconstructions_are_near(mini):
    images, _, _ = EmojiData("core").batch(range(64), seed=6, split="heldout")
    with torch.no_grad():
        again = mini.vae.decode(mini.vae.encode(images).mode()).clamp(-1, 1)
    squared = (images - again).square().mean(dim=(1, 2, 3)) / 4
    assert (-10 * squared.log10()).mean() > 27  # dB


def test_pictures_have_the_background_that_was_asked_for(mini):
    data = EmojiData("core")
    prompts = [data.caption(Scene(*prompt)) for prompt in PROMPTS]
    pixels = mini.text_to_image(prompts, seed=0, guidance_scale=3.0, output="pt", progress=False)
    assert [background_of(picture * 2 - 1) for picture in pixels] == [colour for _, _, colour in PROMPTS]


def test_pictures_are_nearest_to_what_was_asked_for(mini):
    """Of all core concepts in that style and on that background, the right one is among the ten nearest in pixels."""
    data = EmojiData("core")
    prompts = [data.caption(Scene(*prompt)) for prompt in PROMPTS]
    pixels = mini.text_to_image(prompts, seed=0, guidance_scale=3.0, output="pt", progress=False) * 2 - 1
    places = []
    for picture, (concept, style, background) in zip(pixels, PROMPTS):
        drawings = torch.stack([data.draw(Scene(c.name, style, background)) for c in data.concepts])
        nearest = (drawings - picture).square().mean(dim=(1, 2, 3)).argsort().tolist()
        places.append(nearest.index(data.position[concept]))
    assert sum(place < 10 for place in places) >= 5, places


def test_inpainting_keeps_what_is_known_and_fills_the_rest():
    sd, data = StableDiffusion.from_pretrained("mini-inpaint"), EmojiData("core")
    assert sd.unet.config.in_channels == 9
    image = data.draw(Scene("cat face", "3d", "blue"))[None]
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    caption = data.caption(Scene("cat face", "3d", "blue"))
    pixels = sd.inpaint(caption, image, mask, seed=0, guidance_scale=3.0, output="pt", progress=False) * 2 - 1
    outside = (1 - mask).bool().expand_as(image)
    assert (pixels - image)[outside].abs().mean() < 0.1
    assert background_of(pixels[0]) == "blue"
    assert (pixels - image)[~outside].abs().mean() < (image[~outside] - 0).abs().mean()  # better than grey would be
