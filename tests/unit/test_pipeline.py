"""The pipeline on its own: seeds, the number of network calls, callbacks, outputs, the progress bar."""

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import LMSDiscreteScheduler, PNDMScheduler, StableDiffusion
from minisd.schedulers import SAMPLERS, SD_SCHEDULE
from tests.tiny import CAPTIONS, quietly

QUICK = {"num_inference_steps": 3, "progress": False}
STOCHASTIC = ["ddpm", "euler-ancestral"]
ALL = list(SAMPLERS)


@pytest.fixture
def sd(tiny) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", scheduler="ddim")


@pytest.fixture
def exact(tiny) -> StableDiffusion:
    """Networks in float64: float32 sums round differently in a larger batch, by as much as 2e-5 in the pixels."""
    return StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", scheduler="ddim", dtype=torch.float64)


@pytest.fixture
def inpainter(tiny) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny["sd1-inpaint"], device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:40, 24:64] = 1
    return mask


@pytest.fixture
def calls(sd, monkeypatch) -> list[int]:
    """The batch size of every call of the U-Net."""
    sizes, forward = [], sd.unet.forward

    def counting(latents, *args):
        sizes.append(len(latents))
        return forward(latents, *args)

    monkeypatch.setattr(sd.unet, "forward", counting)
    return sizes


# --- seeds ----------------------------------------------------------------------------------------------------


def draw(sd, job: str, image, mask, **settings):
    given = {"text_to_image": (), "image_to_image": (image, 0.7), "inpaint": (image, mask, 0.7)}[job]
    return getattr(sd, job)(settings.pop("prompt", CAPTIONS[0]), *given, output="pt", **QUICK | settings)


@pytest.mark.parametrize("job", ["text_to_image", "image_to_image", "inpaint"])
@pytest.mark.parametrize("scheduler", ["ddim", *STOCHASTIC])
def test_image_k_of_a_batch_is_the_image_that_its_seed_gives_alone(exact, image, mask, job, scheduler):
    exact.set_scheduler(scheduler)
    together = draw(exact, job, image, mask, seed=5, num_images=3)
    alone = torch.cat([draw(exact, job, image, mask, seed=5 + k) for k in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)
    assert (together[0] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("scheduler", ["ddim", *STOCHASTIC])
def test_seeds_with_nine_channels(inpainter, image, mask, strength, scheduler):
    inpainter.set_scheduler(scheduler)
    settings = {"strength": strength, "output": "pt"} | QUICK
    together = inpainter.inpaint(CAPTIONS[0], image, mask, seed=5, num_images=2, **settings)
    alone = torch.cat([inpainter.inpaint(CAPTIONS[0], image, mask, seed=5 + k, **settings) for k in range(2)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


def test_batch_of_prompts(exact):
    """The pictures of the first prompt come first, then those of the next; negative prompts may be a list, too."""
    negatives = ["a dog", ""]
    together = exact.text_to_image(CAPTIONS, negatives, seed=0, num_images=2, output="pt", **QUICK)
    alone = [exact.text_to_image(CAPTIONS[k // 2], negatives[k // 2], seed=k, output="pt", **QUICK) for k in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-6)


def test_batch_of_images_and_masks(exact, image, mask):
    images, masks = [image, image.rotate(90)], torch.cat([mask, 1 - mask])
    together = exact.inpaint(CAPTIONS, images, masks, seed=0, output="pt", **QUICK)
    alone = [exact.inpaint(CAPTIONS[k], images[k], masks[k: k + 1], seed=k, output="pt", **QUICK) for k in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="image: 2 for a batch of 6"):  # which would belong to the second prompt?
        exact.image_to_image([*CAPTIONS[:2], "a"], images, num_images=2, **QUICK)


@pytest.mark.parametrize("scheduler", ALL)
def test_a_pipeline_can_be_used_again(sd, scheduler):
    """Nothing is left over from the previous run: schedulers remember steps, but forget them in time."""
    sd.set_scheduler(scheduler)
    first = sd.text_to_image(CAPTIONS[0], seed=1, output="latent", **QUICK)
    sd.text_to_image(CAPTIONS[1], seed=2, output="latent", progress=False, num_inference_steps=5)
    assert torch.equal(sd.text_to_image(CAPTIONS[0], seed=1, output="latent", **QUICK), first)


def test_a_seed_is_its_generator(sd):
    by_seed = sd.text_to_image(CAPTIONS[0], seed=3, output="latent", **QUICK)
    by_one = sd.text_to_image(CAPTIONS[0], generator=torch.Generator().manual_seed(3), output="latent", **QUICK)
    by_list = sd.text_to_image(CAPTIONS[0], generator=[torch.Generator().manual_seed(3)], output="latent", **QUICK)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    by_latents = sd.text_to_image(CAPTIONS[0], latents=noise, output="latent", **QUICK)
    for other in (by_one, by_list, by_latents):
        assert torch.equal(by_seed, other)


def test_without_a_seed_pictures_differ_and_the_global_one_counts(sd):
    torch.manual_seed(0)
    one, two = (sd.text_to_image(CAPTIONS[0], output="latent", **QUICK) for _ in range(2))
    torch.manual_seed(0)
    again = sd.text_to_image(CAPTIONS[0], output="latent", **QUICK)
    assert not torch.allclose(one, two)
    assert torch.equal(one, again)


def test_given_latents_and_arguments_are_left_alone(sd, image, mask):
    noise = torch.randn(1, 4, 8, 8)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    before = [tensor.clone() for tensor in (noise, pixels, mask)]
    sd.text_to_image(CAPTIONS[0], latents=noise, **QUICK)
    sd.inpaint(CAPTIONS[0], pixels, mask, latents=noise, **QUICK)
    assert all(torch.equal(*pair) for pair in zip(before, (noise, pixels, mask)))


@pytest.mark.filterwarnings("error")
def test_numbers_of_numpy_are_numbers(sd):
    plain = sd.text_to_image(CAPTIONS[0], num_inference_steps=3, guidance_scale=4.0, height=48, width=64, num_images=2,
                             seed=3, output="pt", progress=False)
    numpy = sd.text_to_image(CAPTIONS[0], num_inference_steps=np.int64(3), guidance_scale=np.float32(4),
                             height=np.int32(48), width=np.int64(64), num_images=np.int64(2), seed=np.uint32(3),
                             output="pt", progress=False)
    assert torch.equal(plain, numpy)


# --- guidance and the number of calls -------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance", "batch"), [(1, 3), (1.0, 3), (7.5, 6), (0, 6)])
def test_guidance_is_one_call_of_twice_the_batch_and_1_is_none(sd, calls, guidance, batch):
    sd.text_to_image(CAPTIONS[0], num_images=3, guidance_scale=guidance, **QUICK)
    assert calls == [batch] * 3


@pytest.mark.parametrize(("scheduler", "expected"), [("ddim", 4), ("heun", 7), ("pndm", 5), ("dpm++", 4)])
def test_calls_of_a_run(sd, calls, scheduler, expected):
    """Heun takes two calls per step, but one in the last step; PNDM takes two in the first."""
    sd.set_scheduler(scheduler)
    sd.text_to_image(CAPTIONS[0], guidance_scale=1, num_inference_steps=4, progress=False)
    assert calls == [1] * expected


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 10), (0.8, 8), (0.55, 5), (0.1, 1)])
def test_strength_is_the_part_of_the_steps_that_is_run(sd, calls, image, strength, steps):
    sd.image_to_image(CAPTIONS[0], image, strength, num_inference_steps=10, progress=False, seed=0)
    assert len(calls) == steps


def test_guidance_is_linear_from_negative_to_positive(exact):
    """One step of a linear sampler: latents(scale) = latents(negative) + scale · (positive − negative)."""
    def latents(scale, prompt=CAPTIONS[0], negative=CAPTIONS[1]):
        return exact.text_to_image(prompt, negative, 1, scale, seed=0, output="latent", progress=False)

    negative, positive = latents(1, prompt=CAPTIONS[1]), latents(1)
    assert (positive - negative).abs().max() > 1e-4
    torch.testing.assert_close(latents(0), negative, rtol=0, atol=1e-6)
    torch.testing.assert_close(latents(20), negative + 20 * (positive - negative), rtol=0, atol=1e-5)


def test_more_strength_departs_further(sd, image):
    start = sd.encode_image(image, torch.Generator().manual_seed(0))
    far = [(sd.image_to_image(CAPTIONS[0], image, s, num_inference_steps=10, seed=0, output="latent", progress=False)
            - start).abs().mean() for s in (0.1, 0.5, 1.0)]
    assert far[0] < far[1] < far[2]


# --- callback, outputs, progress ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ALL)
def test_callback(sd, scheduler):
    sd.set_scheduler(scheduler)
    seen = []
    result = sd.text_to_image(CAPTIONS[0], seed=0, num_images=2, num_inference_steps=4, output="latent", progress=False,
                              callback=lambda *arguments: seen.append(arguments))
    assert [step for step, *_ in seen] == list(range(len(sd.scheduler.timesteps)))
    assert [float(t) for _, t, _, _ in seen] == sd.scheduler.timesteps.tolist()
    for _, _, latents, x0 in seen:
        assert latents.shape == x0.shape == (2, 4, 8, 8)
        assert latents.isfinite().all()
        assert x0.isfinite().all()
    assert torch.equal(seen[-1][2], result)
    assert not torch.allclose(seen[0][2], result)


@pytest.mark.parametrize("scheduler", ALL)
def test_a_callback_may_write_into_the_x0_that_it_gets(sd, scheduler):
    sd.set_scheduler(scheduler)
    expected, spoilt = (sd.text_to_image(CAPTIONS[0], seed=0, output="latent", callback=callback, **QUICK)
                        for callback in (None, lambda step, t, latents, x0: x0.zero_()))
    assert torch.equal(expected, spoilt)


def test_callback_gives_the_x0_that_the_noise_implies(sd):
    """x0 = (x − √(1−ᾱ) ε) / √ᾱ (Ho et al. 2020, equation 15), with ε the U-Net's output."""
    latents = torch.randn(1, 4, 8, 8)
    seen = []
    sd.text_to_image(CAPTIONS[0], latents=latents, guidance_scale=1, callback=lambda *a: seen.append(a), **QUICK)
    _, t, _, x0 = seen[0]
    with torch.no_grad():
        noise = sd.unet(latents, t, sd.encode_prompt(CAPTIONS[0]))
    alpha = sd.scheduler.alphas_cumprod[int(t)]
    torch.testing.assert_close(x0, (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt(), rtol=1e-4, atol=1e-4)


def test_outputs(sd):
    settings = {"seed": 0, "num_images": 2, "height": 48, "width": 80} | QUICK
    latents = sd.text_to_image(CAPTIONS[0], output="latent", **settings)
    pixels = sd.text_to_image(CAPTIONS[0], output="pt", **settings)
    images = sd.text_to_image(CAPTIONS[0], **settings)
    assert latents.shape == (2, 4, 6, 10)
    assert pixels.shape == (2, 3, 48, 80)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert torch.equal(sd.decode_latents(latents), pixels)
    assert isinstance(images, list)
    assert [(one.size, one.mode) for one in images] == [((80, 48), "RGB")] * 2
    rounded = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(np.asarray(one), array) for one, array in zip(images, rounded))


def test_nothing_keeps_gradients(sd, image, mask):
    for job in ("text_to_image", "image_to_image", "inpaint"):
        assert not draw(sd, job, image, mask).requires_grad
    assert not any(parameter.requires_grad for parameter in sd.unet.parameters())
    assert not sd.unet.training


def test_progress(sd, capsys):
    sd.text_to_image(CAPTIONS[0], **QUICK)
    assert capsys.readouterr() == ("", "")
    sd.text_to_image(CAPTIONS[0], num_inference_steps=3)
    printed = capsys.readouterr()
    assert "0/3" in printed.err
    assert printed.out == ""


# --- encoding, decoding, and inpainting -----------------------------------------------------------------------


def test_encode_prompt(sd):
    context = sd.encode_prompt(CAPTIONS)
    assert context.shape == (2, 77, 64)
    torch.testing.assert_close(sd.encode_prompt(CAPTIONS[1]), context[1:], rtol=0, atol=1e-5)


def test_encode_image(sd, image):
    latents = sd.encode_image(image, torch.Generator().manual_seed(0))
    assert latents.shape == (1, 4, 8, 8)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(sd.encode_image(pixels, torch.Generator().manual_seed(0)), latents)
    with torch.no_grad():
        posterior = sd.vae.encode(pixels)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(latents, (posterior.mean + posterior.std * noise) * 0.18215)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_four_channels_keep_the_known_latents_exactly(sd, image, mask, strength):
    generator = torch.Generator().manual_seed(0)
    latents = sd.inpaint(CAPTIONS[0], image, mask, strength, generator=generator, output="latent", **QUICK)
    clean = sd.encode_image(image, torch.Generator().manual_seed(0))
    small = mask[..., ::8, ::8].expand_as(latents).bool()
    torch.testing.assert_close(latents[~small], clean[~small])
    assert (latents - clean)[small].abs().mean() > 0.01  # one step of three at strength 0.5: not much


def test_nine_channels_see_mask_and_masked_image(inpainter, image, mask, monkeypatch):
    """Noisy latents, the mask at an eighth of its size, and the latents of the image without the masked part."""
    seen, forward = [], inpainter.unet.forward
    monkeypatch.setattr(inpainter.unet, "forward", lambda x, *rest: seen.append(x) or forward(x, *rest))
    inpainter.inpaint(CAPTIONS[0], image, mask, seed=0, **QUICK)
    assert seen[0].shape == (2, 9, 8, 8)
    assert torch.equal(seen[0][0, 4], mask[0, 0, ::8, ::8])
    with torch.no_grad():
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        posterior = inpainter.vae.encode((pixels * (1 - mask)).double())
    bound = 6 * posterior.std * 0.18215
    assert ((seen[0][:1, 5:] - posterior.mean * 0.18215).abs() <= bound).all()
    assert all(torch.equal(x[:, 4:], seen[0][:, 4:]) for x in seen)


def test_masks_as_pictures(sd, image, mask):
    """50 % grey or lighter is repainted; pictures and tensors mean the same."""
    array = (mask[0, 0].numpy() * 255).astype(np.uint8)
    soft = np.where(array == 255, 128, 127).astype(np.uint8)
    expected = sd.inpaint(CAPTIONS[0], image, mask, seed=0, output="latent", **QUICK)
    for picture in (Image.fromarray(array), Image.fromarray(soft), Image.fromarray(array).convert("1")):
        assert torch.equal(sd.inpaint(CAPTIONS[0], image, picture, seed=0, output="latent", **QUICK), expected)


# --- schedulers -----------------------------------------------------------------------------------------------


def test_schedulers_by_name_or_instance_keep_the_noise_schedule(tiny, sd):
    expected = sd.scheduler.alphas_cumprod
    for name in (*ALL, "EulerDiscreteScheduler"):
        one = StableDiffusion.from_pretrained(tiny["sd1"], scheduler=name)
        torch.testing.assert_close(one.scheduler.alphas_cumprod, expected)
        assert StableDiffusion.from_pretrained(tiny["sd1"], scheduler=one.scheduler).scheduler is one.scheduler
    assert type(one.scheduler).__name__ == "EulerDiscreteScheduler"


def test_another_sampler_keeps_a_schedule_that_was_never_spelt_out(sd):
    sd.set_scheduler(LMSDiscreteScheduler())
    expected = sd.scheduler.alphas_cumprod
    sd.set_scheduler("heun")  # its own defaults are Stable Diffusion's
    assert torch.equal(sd.scheduler.alphas_cumprod, expected)


@pytest.mark.parametrize("by_way_of", [None, *ALL])
def test_swapping_samplers_keeps_what_the_checkpoint_says(tiny, by_way_of):
    """Not every sampler's config has all the fields of a published one; they must not get lost on the way."""
    diffusers = quietly(__import__, "diffusers")
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", scheduler=PNDMScheduler.from_config(SD_SCHEDULE))
    theirs = diffusers.PNDMScheduler.from_config(SD_SCHEDULE)
    for name in ALL:
        if by_way_of:
            sd.set_scheduler(by_way_of)
        sd.set_scheduler(name)
        expected = quietly(getattr(diffusers, type(sd.scheduler).__name__).from_config, theirs.config).config
        different = {field: (value, expected.get(field)) for field, value in sd.scheduler.config.items()
                     if not field.startswith("_") and value != expected.get(field)}
        assert different == {}
