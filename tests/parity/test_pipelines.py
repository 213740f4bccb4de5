"""The whole pipeline, in all three jobs, draws the same picture as diffusers', from the same folder and noise."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

import minisd
from minisd import StableDiffusion
from tests.tiny import CAPTIONS, channels_last, quietly

# diffusers' schedulers and NumPy 2 disagree about a keyword
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
              "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"]
SHARED = {"num_inference_steps": 6, "guidance_scale": 5.0}
TOLERANCE = {"rtol": 0, "atol": 1e-5}  # pixels in [0, 1]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def theirs_from(folder, pipeline=StableDiffusionPipeline):
    theirs = quietly(pipeline.from_pretrained, folder, low_cpu_mem_usage=False)
    channels_last(theirs.vae)
    theirs.set_progress_bar_config(disable=True)
    return theirs


def as_job(theirs, pipeline):
    """The same parts in a different diffusers pipeline."""
    other = quietly(pipeline, **theirs.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other


def draw(theirs, *args, **kwargs) -> torch.Tensor:
    return torch.from_numpy(quietly(theirs, *args, output_type="np", **kwargs).images).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=seeded())


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    return Image.fromarray(np.pad(np.full((24, 32), 255, np.uint8), ((20, 20), (16, 16))))


@pytest.fixture(params=SCHEDULERS)
def pair(request, tiny):
    """(ours, theirs), each with its own version of the same sampler, made from the same config."""
    ours, theirs = StableDiffusion.from_pretrained(tiny["sd1"]), theirs_from(tiny["sd1"])
    config = json.loads((tiny["sd1"] / "scheduler/scheduler_config.json").read_text()) | {"clip_sample": False}
    ours.set_scheduler(getattr(minisd, request.param).from_config(config))
    theirs.scheduler = getattr(diffusers, request.param).from_config(config)
    return ours, theirs


def test_text_to_image(pair, latents):
    ours, theirs = pair
    expected = draw(theirs, CAPTIONS[0], latents=latents, generator=seeded(), **SHARED)
    assert expected.std() > 0.01
    actual = ours.text_to_image(CAPTIONS[0], latents=latents, generator=seeded(), output="pt", progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_image_to_image(pair, image, strength):
    ours, theirs = pair
    expected = draw(as_job(theirs, StableDiffusionImg2ImgPipeline), CAPTIONS[0], image=image, strength=strength,
                    generator=seeded(), **SHARED)
    actual = ours.image_to_image(CAPTIONS[0], image, strength, generator=seeded(), output="pt", progress=False,
                                 **SHARED)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpaint_with_four_channels(pair, image, mask, strength):
    ours, theirs = pair
    # diffusers encodes the masked image even if a 4-channel U-Net never sees it, unless it is given its latents; then
    # it draws as many random numbers as we do
    expected = draw(as_job(theirs, StableDiffusionInpaintPipeline), CAPTIONS[0], image=image, mask_image=mask,
                    masked_image_latents=torch.zeros(1, 4, 8, 8), height=64, width=64, strength=strength,
                    generator=seeded(), **SHARED)
    actual = ours.inpaint(CAPTIONS[0], image, mask, strength, generator=seeded(), output="pt", progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpaint_with_nine_channels(tiny, image, mask, strength):
    ours = StableDiffusion.from_pretrained(tiny["sd1-inpaint"])
    theirs = theirs_from(tiny["sd1-inpaint"], StableDiffusionInpaintPipeline)
    expected = draw(theirs, CAPTIONS[0], image=image, mask_image=mask, height=64, width=64, strength=strength,
                    generator=seeded(), **SHARED)
    actual = ours.inpaint(CAPTIONS[0], image, mask, strength, generator=seeded(), output="pt", progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_textual_inversion(tiny, latents, tmp_path):
    """A word of two learnt embeddings, from the folder that diffusers saves."""
    theirs = theirs_from(tiny["sd1"])
    quietly(theirs.load_textual_inversion, torch.randn(2, 64, generator=seeded()), token="<cat-toy>")
    quietly(theirs.save_pretrained, tmp_path)
    ours, prompt = StableDiffusion.from_pretrained(tmp_path), "a 3d render of a <cat-toy> on a background"
    expected = draw(theirs, prompt, latents=latents, **SHARED)
    actual = ours.text_to_image(prompt, latents=latents, output="pt", progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_sd2_with_v_prediction(tiny, latents):
    ours, theirs = StableDiffusion.from_pretrained(tiny["sd2"]), theirs_from(tiny["sd2"])
    assert ours.scheduler.config.prediction_type == "v_prediction"
    assert ours.tokenizer.pad_id == 0
    expected = draw(theirs, CAPTIONS[0], latents=latents, **SHARED)
    actual = ours.text_to_image(CAPTIONS[0], latents=latents, output="pt", progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_batches_negative_prompts_and_other_sizes(tiny):
    ours, theirs = StableDiffusion.from_pretrained(tiny["sd1"]), theirs_from(tiny["sd1"])
    latents = torch.randn(4, 4, 6, 10, generator=seeded())
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "latents": latents, "height": 48, "width": 80}
    expected = draw(theirs, CAPTIONS, negative_prompt=["a small apple"] * 2, num_images_per_prompt=2, **settings)
    actual = ours.text_to_image(CAPTIONS, "a small apple", num_images=2, output="pt", progress=False, **settings)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (3, 4)]


@pytest.fixture(scope="module")
def oblong() -> dict:
    """Two non-square pictures, with masks whose edges fall between latents."""
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 256, (48, 72, 3), dtype=np.uint8)) for _ in range(2)]
    masks = torch.zeros(2, 1, 48, 72)
    masks[0, :, 5:27, 3:50], masks[1, :, 20:, 33:71] = 1, 1
    return {"pictures": pictures, "masks": masks}


def test_batches_of_oblong_pictures(pair, oblong):
    """Two prompts, negative prompts, pictures, masks and generators at once."""
    ours, theirs = pair
    negative, strength, size = ["a dog", "small"], 0.7, {"height": 48, "width": 72}
    expected = draw(as_job(theirs, StableDiffusionImg2ImgPipeline), CAPTIONS, image=oblong["pictures"],
                    negative_prompt=negative, strength=strength, generator=generators(), **SHARED)
    actual = ours.image_to_image(CAPTIONS, oblong["pictures"], strength, negative, generator=generators(), output="pt",
                                 progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)
    expected = draw(as_job(theirs, StableDiffusionInpaintPipeline), CAPTIONS, image=oblong["pictures"],
                    mask_image=oblong["masks"], masked_image_latents=torch.zeros(2, 4, 6, 9), negative_prompt=negative,
                    strength=strength, generator=generators(), **size, **SHARED)
    actual = ours.inpaint(CAPTIONS, oblong["pictures"], oblong["masks"], strength, negative, generator=generators(),
                          output="pt", progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"])
def test_batches_with_nine_channels(tiny, oblong, name, strength):
    ours = StableDiffusion.from_pretrained(tiny["sd1-inpaint"])
    theirs = theirs_from(tiny["sd1-inpaint"], StableDiffusionInpaintPipeline)
    config = json.loads((tiny["sd1-inpaint"] / "scheduler/scheduler_config.json").read_text())
    ours.set_scheduler(getattr(minisd, name).from_config(config))
    theirs.scheduler = getattr(diffusers, name).from_config(config)
    expected = draw(theirs, CAPTIONS, image=oblong["pictures"], mask_image=oblong["masks"], height=48, width=72,
                    strength=strength, generator=generators(), **SHARED)
    actual = ours.inpaint(CAPTIONS, oblong["pictures"], oblong["masks"], strength, generator=generators(), output="pt",
                          progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_no_guidance(tiny, latents):
    ours, theirs = StableDiffusion.from_pretrained(tiny["sd1"]), theirs_from(tiny["sd1"])
    settings = {"num_inference_steps": 4, "guidance_scale": 1.0, "latents": latents}
    expected = draw(theirs, CAPTIONS[0], **settings)
    actual = ours.text_to_image(CAPTIONS[0], output="pt", progress=False, **settings)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_are_interchangeable(tiny, latents, image, name):
    """Ours in their pipeline and theirs in ours both draw what theirs draws in its own pipeline."""
    ours, theirs = StableDiffusion.from_pretrained(tiny["sd1"]), theirs_from(tiny["sd1"])
    config = json.loads((tiny["sd1"] / "scheduler/scheduler_config.json").read_text()) | {"clip_sample": False}
    theirs.scheduler = getattr(diffusers, name).from_config(config)
    expected = draw(theirs, CAPTIONS[0], latents=latents, generator=seeded(), **SHARED)
    ours.set_scheduler(getattr(diffusers, name).from_config(config))
    actual = ours.text_to_image(CAPTIONS[0], latents=latents, generator=seeded(), output="pt", progress=False, **SHARED)
    torch.testing.assert_close(actual, expected, **TOLERANCE)
    theirs.scheduler = getattr(minisd, name).from_config(config)
    torch.testing.assert_close(draw(theirs, CAPTIONS[0], latents=latents, generator=seeded(), **SHARED), expected,
                               **TOLERANCE)
    settings = {"image": image, "strength": 0.6, "generator": seeded()} | SHARED
    theirs.scheduler = getattr(diffusers, name).from_config(config)
    expected = draw(as_job(theirs, StableDiffusionImg2ImgPipeline), CAPTIONS[0], **settings)
    settings["generator"] = seeded()
    actual = ours.image_to_image(CAPTIONS[0], output="pt", progress=False, **settings)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("kind", ["sd1", "sd1-inpaint", "sd2"])
def test_folders_that_minisd_wrote_open_in_diffusers(tiny, tmp_path, image, mask, kind, capfd):
    ours = StableDiffusion.from_pretrained(tiny[kind])
    ours.guidance_scale = 3.0
    ours.save_pretrained(tmp_path / "saved")
    pipeline = StableDiffusionInpaintPipeline if kind == "sd1-inpaint" else StableDiffusionPipeline
    again = theirs_from(tmp_path / "saved", pipeline)
    assert "guidance" not in capfd.readouterr().err  # minisd's own field is passed over without a word
    assert type(again.scheduler).__name__ == type(ours.scheduler).__name__
    settings = SHARED | {"generator": seeded()}
    if kind == "sd1-inpaint":
        expected = draw(again, CAPTIONS[0], image=image, mask_image=mask, height=64, width=64, **settings)
        actual = ours.inpaint(CAPTIONS[0], image, mask, output="pt", progress=False, **SHARED, generator=seeded())
    else:
        expected = draw(again, CAPTIONS[0], **settings)
        actual = ours.text_to_image(CAPTIONS[0], output="pt", progress=False, **SHARED, generator=seeded())
    torch.testing.assert_close(actual, expected, **TOLERANCE)
