"""Folders from 2022 and with samplers that minisd lacks: opened as diffusers opens them, with the same picture."""

import json
import shutil
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

import minisd
from minisd import DDIMScheduler, StableDiffusion
from minisd.cli import main
from tests.tiny import CAPTIONS, channels_last, quietly

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SHARED = {"num_inference_steps": 5, "guidance_scale": 3.0}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PARTS = {"text_to_image": StableDiffusionPipeline, "image_to_image": StableDiffusionImg2ImgPipeline,
         "inpaint": StableDiffusionInpaintPipeline}
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
IMAGES = {"text_to_image": {}, "image_to_image": {"image": Image.fromarray(PIXELS), "strength": 0.8},
          "inpaint": {"image": Image.fromarray(PIXELS),
                      "mask": Image.fromarray(np.pad(np.full((24, 32), 255, np.uint8), ((20, 20), (16, 16))))}}


@pytest.fixture
def folder(tiny, tmp_path):
    """folder(kind, scheduler's config, fields of the U-Net's config, the pipeline's class) → a copy, with these."""
    def change(kind, scheduler, unet=None, pipeline=None):
        path = shutil.copytree(tiny[kind], tmp_path / "checkpoint")
        (path / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
        for file, fields in (("unet/config.json", unet), ("model_index.json", pipeline and {"_class_name": pipeline})):
            values = json.loads((path / file).read_text()) | (fields or {})
            if file == "model_index.json":
                values["scheduler"] = ["diffusers", scheduler["_class_name"]]
            (path / file).write_text(json.dumps({name: value for name, value in values.items() if value != "missing"}))
        return path

    return change


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def assert_same_picture(ours: StableDiffusion, folder, job: str, **components) -> None:
    theirs = quietly(PARTS[job].from_pretrained, folder, low_cpu_mem_usage=False, **components)
    channels_last(theirs.vae)
    theirs.set_progress_bar_config(disable=True)
    size = {} if job == "image_to_image" else {"height": 64, "width": 64}
    images = {{"mask": "mask_image"}.get(name, name): value for name, value in IMAGES[job].items()}
    expected = quietly(theirs, CAPTIONS[0], generator=seeded(), output_type="np", **SHARED, **images, **size).images
    images = {"height": 64, "width": 64} if job == "text_to_image" else IMAGES[job]
    actual = getattr(ours, job)(CAPTIONS[0], generator=seeded(), output="pt", progress=False, **SHARED, **images)
    torch.testing.assert_close(actual, torch.from_numpy(expected).permute(0, 3, 1, 2), rtol=0, atol=1e-5)


# --- configs that are outdated --------------------------------------------------------------------------------

DDIM = {"_class_name": "DDIMScheduler", "_diffusers_version": "0.3.0", **BETAS}
PNDM = {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0.dev0", **BETAS}


@pytest.mark.parametrize(("job", "pipeline", "config", "named"), [
    ("text_to_image", None, DDIM | {"steps_offset": 1}, ["clip_sample=False (was True)"]),
    ("text_to_image", None, DDIM | {"clip_sample": False}, ["steps_offset=1 (was 0)"]),
    ("text_to_image", None, DDIM | {"clip_sample": True, "steps_offset": 0, "set_alpha_to_one": False},
     ["steps_offset=1 (was 0)", "clip_sample=False (was True)"]),
    ("text_to_image", None, PNDM | {"skip_prk_steps": True}, ["steps_offset=1 (was 0)"]),
    ("image_to_image", "StableDiffusionImg2ImgPipeline", DDIM | {"steps_offset": 1}, ["clip_sample=False (was True)"]),
    ("inpaint", None, PNDM | {"steps_offset": 1}, ["skip_prk_steps=True (was False)"]),
    ("inpaint", None, PNDM | {"skip_prk_steps": True}, ["steps_offset=1 (was 0)"]),
])
def test_outdated_schedulers(folder, job, pipeline, config, named):
    path = folder("sd1-inpaint" if job == "inpaint" else "sd1", config, pipeline=pipeline)
    with pytest.warns(UserWarning, match="is of an early diffusers") as caught:
        ours = StableDiffusion.from_pretrained(path)
    assert [(str(one.message).count("(was"), one.filename) for one in caught] == [(len(named), __file__)]
    for correction in named:
        assert f"scheduler/scheduler_config.json: {correction}" in str(caught[0].message)
    assert_same_picture(ours, path, job)
    ours.save_pretrained(path)  # writes the corrections down
    with warnings.catch_warnings(action="error"):
        again = StableDiffusion.from_pretrained(path)
    assert again.scheduler.config == ours.scheduler.config | {"_use_default_values": []}


def test_what_is_corrected_stays_so_in_another_sampler(folder):
    path = folder("sd1", DDIM)
    with pytest.warns(UserWarning, match="clip_sample=False"):
        swapped = StableDiffusion.from_pretrained(path, scheduler="ddpm").scheduler
    assert (type(swapped).__name__, swapped.config.clip_sample) == ("DDPMScheduler", False)
    given = DDIMScheduler(**BETAS)  # the caller's own is nobody's to correct
    assert StableDiffusion.from_pretrained(path, scheduler=given).scheduler.config.clip_sample is True


def test_the_mini_model_without_clip_sample(tmp_path):
    """What the reference corrects shows: with latents clipped, the picture would be another one altogether."""
    from minisd.files import assets_folder

    shutil.copytree(assets_folder() / "mini", tmp_path / "mini")
    path = tmp_path / "mini/scheduler/scheduler_config.json"
    config = json.loads(path.read_text())
    del config["clip_sample"]
    path.write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="clip_sample=False"):
        corrected = StableDiffusion.from_pretrained(tmp_path / "mini")
    settings = {"num_inference_steps": 4, "seed": 0, "output": "pt", "progress": False}
    expected = StableDiffusion.from_pretrained("mini").text_to_image("a dog face", **settings)
    assert torch.equal(corrected.text_to_image("a dog face", **settings), expected)


@pytest.mark.parametrize(("version", "side", "expected"), [
    ("0.6.0", 32, 64), ("0.8.1", "missing", 64), ("0.9.0.dev0", 32, 32), ("0.10.2", 32, 32), ("missing", 32, 32),
    ("0.6.0", 96, 96)])
def test_outdated_sizes(folder, version, side, expected):
    fields = {"_diffusers_version": version, "sample_size": side}
    path = folder("sd1", PNDM | {"steps_offset": 1, "skip_prk_steps": True}, fields)
    if expected != side:
        with pytest.warns(UserWarning, match=r"unet/config\.json: sample_size=64 \(was (32|missing)\)"):
            ours = StableDiffusion.from_pretrained(path)
    else:
        ours = StableDiffusion.from_pretrained(path)
    assert ours.unet.config.sample_size == expected
    if side != "missing":  # today's diffusers cannot tell the size of such a folder
        theirs = quietly(StableDiffusionPipeline.from_pretrained, path, low_cpu_mem_usage=False)
        assert theirs.unet.config.sample_size == expected


# --- samplers that minisd lacks -------------------------------------------------------------------------------

def published(name: str, **config) -> dict:
    """A scheduler_config.json as diffusers writes it: with every field."""
    return json.loads(quietly(getattr(diffusers, name), **BETAS, **config).to_json_string()) | {"steps_offset": 1}


@pytest.mark.parametrize(("name", "asked"), [
    ("DEISMultistepScheduler", "DDIMScheduler"), ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler"),
    ("DPMSolverSinglestepScheduler", "EulerDiscreteScheduler"), ("KDPM2DiscreteScheduler", "PNDMScheduler"),
    ("LCMScheduler", "DDIMScheduler"), ("DEISMultistepScheduler", "DPMSolverMultistepScheduler")])
def test_a_sampler_that_minisd_lacks(folder, name, asked):
    """The one that was asked for takes the noise schedule from the file."""
    config = published(name, prediction_type="v_prediction")
    # which minisd takes where a file says nothing
    config |= {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
    path = folder("sd1", config)
    ours = StableDiffusion.from_pretrained(path, scheduler=asked)
    schedule = {field: value for field, value in config.items() if field not in ("algorithm_type", "solver_type")}
    theirs = quietly(getattr(diffusers, asked).from_config, schedule)  # whose DPM-Solver fails on DEIS's words
    assert type(ours.scheduler).__name__ == asked
    assert_same_picture(ours, path, "text_to_image", scheduler=theirs)


def test_other_ways_out(folder, capsys):
    path = folder("sd1", published("DEISMultistepScheduler"))
    with pytest.raises(ValueError, match=r"'DEISMultistepScheduler' is not known; .*pass scheduler=\"ddim\""):
        StableDiffusion.from_pretrained(path)
    assert main(["generate", "a cat", "--model", str(path), "--steps", "1", "--out", str(path / "out.png")]) == 2
    assert "--scheduler ddim" in capsys.readouterr().err
    assert main(["generate", "a cat", "--model", str(path), "--steps", "1", "--out", str(path / "out.png"),
                 "--scheduler", "ddim"]) == 0
    given = DDIMScheduler(**BETAS)
    assert StableDiffusion.from_pretrained(path, scheduler=given).scheduler is given
    with pytest.raises(ValueError, match="scheduler 'unipc' is not known; minisd has ddpm"):
        StableDiffusion.from_pretrained(path, scheduler="unipc")


@pytest.mark.parametrize("fields", [{"algorithm_type": "sde-dpmsolver++"}, {"use_beta_sigmas": True}])
def test_a_kind_of_sampler_that_minisd_lacks(folder, fields):
    """The class is known, but not all that the file asks of it."""
    path = folder("sd1", published("DPMSolverMultistepScheduler", prediction_type="v_prediction") | fields)
    with pytest.raises(ValueError, match=r"is not supported; .*pass scheduler=\"ddim\""):
        StableDiffusion.from_pretrained(path)
    scheduler = StableDiffusion.from_pretrained(path, scheduler="euler-ancestral").scheduler
    assert isinstance(scheduler, minisd.EulerAncestralDiscreteScheduler)
    assert (scheduler.config.prediction_type, scheduler.config.beta_start) == ("v_prediction", 0.00085)
    if "algorithm_type" in fields:
        assert StableDiffusion.from_pretrained(path, scheduler="dpm++").scheduler.config.algorithm_type == "dpmsolver++"


# --- what the network predicts --------------------------------------------------------------------------------


def test_prediction_type(tiny):
    """What the caller says counts for more than the folder, and is kept in another sampler."""
    for scheduler in (None, "euler"):
        sd = StableDiffusion.from_pretrained(tiny["sd1"], scheduler=scheduler, prediction_type="v_prediction")
        assert sd.scheduler.config.prediction_type == "v_prediction"
    with pytest.raises(ValueError, match="prediction_type='v'; it must be 'epsilon' or 'v_prediction' or 'sample'"):
        StableDiffusion.from_pretrained(tiny["sd1"], prediction_type="v")
    with pytest.raises(ValueError, match="prediction_type='v_prediction', but the scheduler that was given has 'eps"):
        StableDiffusion.from_pretrained(tiny["sd1"], scheduler=DDIMScheduler(), prediction_type="v_prediction")
