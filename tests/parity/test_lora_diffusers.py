"""LoRA files in every layout draw as they do in diffusers with peft."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from minisd import StableDiffusion
from tests import lora_files
from tests.tiny import CAPTIONS, channels_last, quietly

SHARED = {"num_inference_steps": 2, "guidance_scale": 3.0}
NOISE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def ours(folder, *files, **arguments):
    sd = StableDiffusion.from_pretrained(folder, device="cpu", scheduler="ddim")
    for file, scale in files:
        sd.load_lora(file, scale)
    return draw_ours(sd, **arguments)


def draw_ours(sd, **arguments):
    return sd.text_to_image(CAPTIONS[0], latents=NOISE, output="pt", progress=False, **SHARED | arguments)


def theirs(folder, *files, scheduler=None, **arguments):
    import diffusers

    pipeline = quietly(StableDiffusionPipeline.from_pretrained, folder, low_cpu_mem_usage=False)
    channels_last(pipeline.vae)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = (scheduler or diffusers.DDIMScheduler).from_config(pipeline.scheduler.config)
    names = []
    for file, _ in files:
        names.append(f"lora{len(names)}")
        quietly(pipeline.load_lora_weights, file.parent, weight_name=file.name, adapter_name=names[-1])
    if files:
        pipeline.set_adapters(names, [scale for _, scale in files])
    images = quietly(pipeline, CAPTIONS[0], latents=NOISE, output_type="np", **SHARED | arguments).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def assert_same(folder, *files):
    mine, reference = ours(folder, *files), theirs(folder, *files)
    assert (mine - ours(folder)).abs().max() > 0.05, "the LoRA can be seen"
    torch.testing.assert_close(mine, reference, rtol=0, atol=2e-5)


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "diffusers_2023", "peft"])
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_every_layout(tiny, tmp_path, kind, layout):
    """All layers at once: linear ones, 1×1 and 3×3 kernels, conv_in, conv_out, the time embedding, the text encoder.

    Kohya's files have the same α everywhere here: where they differ, diffusers 0.42 gives some layers that of others.
    """
    lora = lora_files.random_lora(StableDiffusion.from_pretrained(tiny[kind], device="cpu"))
    assert_same(tiny[kind], (lora_files.write(tmp_path / "lora.safetensors", getattr(lora_files, layout)(lora)), 0.7))


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}])
def test_pefts_alpha_in_the_metadata(tiny, tmp_path, more):
    lora = lora_files.random_lora(StableDiffusion.from_pretrained(tiny["sd1"], device="cpu"))
    metadata = lora_files.peft_metadata(lora, 3.0, {"conv_in": 6.0, "^conv_out": 1.0, "attn1.to_q": 2.0, "to_q": 5.0,
                                                    "^proj_in": 9.0}, **more)
    assert_same(tiny["sd1"], (lora_files.write(tmp_path / "lora.safetensors", lora_files.peft(lora), metadata), 1.0))


def test_two_at_once(tiny, tmp_path):
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    one = lora_files.kohya(lora_files.random_lora(sd, ("attn", "fc1"), alpha=1.0))
    two = lora_files.peft(lora_files.random_lora(sd, ("unet.", "attn"), seed=1))
    assert_same(tiny["sd1"], (lora_files.write(tmp_path / "one.safetensors", one), 1.0),
                (lora_files.write(tmp_path / "two.safetensors", two), -0.4))


def test_a_saved_model_draws_in_diffusers_as_with_the_lora(tiny, tmp_path):
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", scheduler="ddim")
    file = lora_files.write(tmp_path / "lora.safetensors", lora_files.kohya(lora_files.random_lora(sd)))
    sd.load_lora(file).save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(theirs(tmp_path / "merged"), theirs(tiny["sd1"], (file, 1.0)), rtol=0, atol=2e-5)


def test_four_steps_of_lcm_without_guidance(tiny, tmp_path):
    """The case that LoRA is there for on a CPU, with fresh noise from the same generator."""
    import diffusers

    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", scheduler="lcm")
    file = lora_files.write(tmp_path / "lora.safetensors", lora_files.kohya(lora_files.random_lora(sd, ("unet.",))))
    sd.load_lora(file)
    lcm = {"num_inference_steps": 4, "guidance_scale": 1}
    mine = draw_ours(sd, generator=torch.Generator().manual_seed(5), **lcm)
    reference = theirs(tiny["sd1"], (file, 1.0), scheduler=diffusers.LCMScheduler,
                       generator=torch.Generator().manual_seed(5), **lcm)
    torch.testing.assert_close(mine, reference, rtol=0, atol=2e-5)
