"""diffusers opens the folders that ship with minisd, and draws the same pictures."""

import pytest
import torch

from minisd import StableDiffusion
from minisd.emoji.data import EmojiData, Scene
from minisd.files import assets_folder
from tests.tiny import quietly

PROMPT = "a 3d render of a red apple on a blue background"


@pytest.fixture(scope="module")
def references():
    return quietly(__import__, "diffusers"), quietly(__import__, "transformers")


def test_mini(references):
    theirs = quietly(references[0].StableDiffusionPipeline.from_pretrained, assets_folder() / "mini",
                     safety_checker=None, local_files_only=True, dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = quietly(theirs, PROMPT, num_inference_steps=5, guidance_scale=5.0, latents=latents,
                       output_type="pt").images
    ours = StableDiffusion.from_pretrained("mini", device="cpu").text_to_image(
        PROMPT, num_inference_steps=5, guidance_scale=5.0, latents=latents, output="pt", progress=False)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_mini_inpaint(references):
    theirs = quietly(references[0].StableDiffusionInpaintPipeline.from_pretrained, assets_folder() / "mini-inpaint",
                     safety_checker=None, local_files_only=True, dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    image = EmojiData("core").draw(Scene("red apple", "3d", "blue"))[None]
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 24:64] = 1
    ours = StableDiffusion.from_pretrained("mini-inpaint", device="cpu")
    # encoding the masked image draws random numbers: theirs and ours come from generators in the same state
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = quietly(theirs, PROMPT, image=image, mask_image=mask, height=64, width=64, num_inference_steps=5,
                       guidance_scale=3.0, strength=1.0, latents=latents, output_type="pt",
                       generator=torch.Generator().manual_seed(1)).images
    pixels = ours.inpaint(PROMPT, image, mask, num_inference_steps=5, guidance_scale=3.0, latents=latents,
                          generator=torch.Generator().manual_seed(1), output="pt", progress=False)
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)
