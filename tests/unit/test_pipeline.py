"""The pipeline on its own: seeds, the number of network calls, callbacks, outputs, the progress bar."""

from copy import copy

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import LMSDiscreteScheduler, PNDMScheduler, StableDiffusion
from minisd.schedulers import SAMPLERS, SD_SCHEDULE
from tests.tiny import CAPTIONS, quietly

QUICK = {"num_inference_steps": 3, "progress": False}
STOCHASTIC = ["ddpm", "euler-ancestral", "lcm"]
ALL = list(SAMPLERS)


@pytest.fixture(scope="module")
def loaded(tiny) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def loaded_exact(tiny) -> StableDiffusion:
    """Networks in float64: float32 sums round differently in a larger batch, by as much as 2e-5 in the pixels."""
    return StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def loaded_inpainter(tiny) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny["sd1-inpaint"], device="cpu", dtype=torch.float64)


def own(loaded: StableDiffusion, scheduler: str = "ddim") -> StableDiffusion:
    """A pipeline for one test, around networks that all tests share."""
    sd = copy(loaded)
    sd.set_scheduler(scheduler)
    return sd


@pytest.fixture
def sd(loaded) -> StableDiffusion:
    return own(loaded)


@pytest.fixture
def exact(loaded_exact) -> StableDiffusion:
    return own(loaded_exact)


@pytest.fixture
def inpainter(loaded_inpainter) -> StableDiffusion:
    return own(loaded_inpainter, "pndm")


@pytest.fixture
def plain_unets(loaded, loaded_exact, loaded_inpainter, monkeypatch) -> None:
    """For tests of what is around the U-Net: instead of networks, a formula in which everything counts."""
    def forward(latents, timestep, context):
        latents = latents[:, :4] + latents.mean(dim=1, keepdim=True)
        return torch.sin(latents + timestep / 500 + context.square().mean(dim=(1, 2)).view(-1, 1, 1, 1))

    for sd in (loaded, loaded_exact, loaded_inpainter):
        monkeypatch.setattr(sd.unet, "forward", forward)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:40, 24:64] = 1
    return mask


@pytest.fixture
def calls(sd, plain_unets, monkeypatch) -> list[int]:
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
    return getattr(sd, job)(CAPTIONS[0], *given, output="latent", **QUICK | settings)


@pytest.mark.parametrize("job", ["text_to_image", "image_to_image", "inpaint"])
@pytest.mark.parametrize("scheduler", ["ddim", *STOCHASTIC])
@pytest.mark.usefixtures("plain_unets")
def test_image_k_of_a_batch_is_the_image_that_its_seed_gives_alone(exact, image, mask, job, scheduler):
    exact.set_scheduler(scheduler)
    together = draw(exact, job, image, mask, seed=5, num_images=3)
    alone = torch.cat([draw(exact, job, image, mask, seed=5 + k) for k in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)
    assert (together[0] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("scheduler", ["ddim", *STOCHASTIC])
@pytest.mark.usefixtures("plain_unets")
def test_seeds_with_nine_channels(inpainter, image, mask, strength, scheduler):
    inpainter.set_scheduler(scheduler)
    settings = {"strength": strength, "output": "latent"} | QUICK
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
@pytest.mark.usefixtures("plain_unets")
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


@pytest.mark.filterwarnings("ignore:guidance_scale=(0|-3):UserWarning")
@pytest.mark.parametrize(("guidance", "batch"), [(1, 3), (1.0, 3), (7.5, 6), (0, 6)])
def test_guidance_is_one_call_of_twice_the_batch_and_1_is_none(sd, calls, guidance, batch):
    sd.text_to_image(CAPTIONS[0], num_images=3, guidance_scale=guidance, output="latent", **QUICK)
    assert calls == [batch] * 3


@pytest.mark.parametrize(("scheduler", "expected"), [("ddim", 4), ("heun", 7), ("pndm", 5), ("dpm++", 4)])
def test_calls_of_a_run(sd, calls, scheduler, expected):
    """Heun takes two calls per step, but one in the last step; PNDM takes two in the first."""
    sd.set_scheduler(scheduler)
    sd.text_to_image(CAPTIONS[0], guidance_scale=1, num_inference_steps=4, output="latent", progress=False)
    assert calls == [1] * expected


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 10), (0.8, 8), (0.55, 5), (0.1, 1)])
def test_strength_is_the_part_of_the_steps_that_is_run(sd, calls, image, strength, steps):
    sd.image_to_image(CAPTIONS[0], image, strength, num_inference_steps=10, output="latent", progress=False,
                      seed=0)
    assert len(calls) == steps


@pytest.mark.parametrize(("scale", "what"), [
    (0, "the prompt counts for 0% only"), (0.25, "the prompt counts for 25% only"),
    (-1.5, "pictures are steered away from the prompt, to the negative prompt and beyond")])
def test_guidance_below_1_warns(sd, inpainter, image, mask, scale, what):
    """In all three jobs and in the loop by hand, once, at the caller's line."""
    settings = {"guidance_scale": scale, "num_inference_steps": 2, "output": "latent", "progress": False}
    for draw in (lambda: sd.text_to_image(CAPTIONS[0], **settings),
                 lambda: sd.image_to_image(CAPTIONS[0], image, **settings),
                 lambda: sd.inpaint(CAPTIONS[0], image, mask, **settings),
                 lambda: inpainter.inpaint(CAPTIONS[0], image, mask, **settings),
                 lambda: list(sd.denoise(*begin(sd, guidance=scale)))):
        with pytest.warns(UserWarning, match=rf"^guidance_scale={scale}: {what}.*\. 1 is no guidance: the "
                                             "prompt alone") as caught:
            draw()
        assert [one.filename for one in caught] == [__file__]


@pytest.mark.filterwarnings("ignore:guidance_scale=(0|-3):UserWarning")
def test_guidance_is_linear_from_negative_to_positive(exact):
    """One step of a linear sampler: latents(scale) = latents(negative) + scale · (positive − negative)."""
    def latents(scale, prompt=CAPTIONS[0], negative=CAPTIONS[1]):
        return exact.text_to_image(prompt, negative, 1, scale, seed=0, output="latent", progress=False)

    negative, positive = latents(1, prompt=CAPTIONS[1]), latents(1)
    assert (positive - negative).abs().max() > 1e-4
    torch.testing.assert_close(latents(0), negative, rtol=0, atol=1e-6)
    torch.testing.assert_close(latents(-3), negative - 3 * (positive - negative), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents(20), negative + 20 * (positive - negative), rtol=0, atol=1e-5)


def test_more_strength_departs_further(sd, image):
    start = sd.encode_image(image, torch.Generator().manual_seed(0))
    far = [(sd.image_to_image(CAPTIONS[0], image, s, num_inference_steps=10, seed=0, output="latent", progress=False)
            - start).abs().mean() for s in (0.1, 0.5, 1.0)]
    assert far[0] < far[1] < far[2]


# --- the loop -------------------------------------------------------------------------------------------------


NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def begin(sd, steps=4, guidance=5.0, batch=2, skip=0):
    """The arguments of a loop from noise: latents, timesteps, context, guidance_scale."""
    sd.scheduler.set_timesteps(steps)
    prompts = [CAPTIONS[0]] if guidance == 1 else ["", CAPTIONS[0]]
    context = torch.cat([sd.encode_prompt(prompt).repeat(batch, 1, 1) for prompt in prompts])
    return NOISE[:batch] * sd.scheduler.init_noise_sigma, sd.scheduler.timesteps[skip:], context, guidance


def generators(batch=2):
    return [torch.Generator().manual_seed(100 + k) for k in range(batch)]


@pytest.mark.parametrize("guidance", [1, 5.0])
@pytest.mark.parametrize("scheduler", ALL)
@pytest.mark.usefixtures("plain_unets")
def test_a_loop_is_text_to_image(sd, scheduler, guidance):
    sd.set_scheduler(scheduler)
    called, seen = [], list(sd.denoise(*begin(sd, guidance=guidance), generator=generators()))
    result = sd.text_to_image(CAPTIONS[0], num_images=2, num_inference_steps=4, guidance_scale=guidance, latents=NOISE,
                              generator=generators(), output="latent", progress=False,
                              callback=lambda *step: called.append(step))
    assert [i for i, *_ in seen] == list(range(len(sd.scheduler.timesteps)))
    assert torch.equal(seen[-1][2], result)
    for mine, theirs in zip(seen, called, strict=True):
        assert mine[:2] == theirs[:2]
        assert torch.equal(mine[2], theirs[2])
        assert torch.equal(mine[3], theirs[3])


@pytest.mark.parametrize(("steps", "strength", "skip"), [(4, 0.75, 1), (5, 0.6, 2), (4, 1.0, 0)])
@pytest.mark.parametrize("scheduler", ALL)
@pytest.mark.usefixtures("plain_unets")
def test_a_loop_from_a_noisy_image_is_image_to_image(sd, image, scheduler, steps, strength, skip):
    sd.set_scheduler(scheduler)
    noise, generator = NOISE[:1], torch.Generator().manual_seed(3)
    clean = sd.encode_image(image, generator)
    _, timesteps, context, scale = begin(sd, steps, batch=1, skip=skip * sd.scheduler.order)
    latents = sd.scheduler.add_noise(clean, noise, timesteps[:1])
    *_, (_, _, result, _) = sd.denoise(latents, timesteps, context, scale, generator=generator)
    expected = sd.image_to_image(CAPTIONS[0], image, strength, num_inference_steps=steps, guidance_scale=scale,
                                 latents=noise, generator=torch.Generator().manual_seed(3), output="latent",
                                 progress=False)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("scheduler", ["ddim", "heun", "pndm"])
@pytest.mark.usefixtures("plain_unets")
def test_a_loop_that_writes_into_the_state_is_inpainting(sd, image, mask, scheduler):
    sd.set_scheduler(scheduler)
    noise, small = NOISE[:1], mask[..., ::8, ::8]
    clean = sd.encode_image(image, torch.Generator().manual_seed(3))
    _, timesteps, context, scale = begin(sd, batch=1)
    for i, _, latents, _ in sd.denoise(noise * sd.scheduler.init_noise_sigma, timesteps, context, scale):
        known = clean if i + 1 == len(timesteps) else sd.scheduler.add_noise(clean, noise, timesteps[i + 1: i + 2])
        latents[:] = (1 - small) * known + small * latents
    expected = sd.inpaint(CAPTIONS[0], image, mask, num_inference_steps=4, guidance_scale=scale, latents=noise,
                          generator=torch.Generator().manual_seed(3), output="latent", progress=False)
    assert torch.equal(latents, expected)


@pytest.mark.parametrize("guidance", [1, 5.0])
def test_a_loop_with_nine_channels_is_inpainting(inpainter, image, mask, guidance):
    noise, generator = NOISE[:1], torch.Generator().manual_seed(3)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    shown = torch.cat([mask[..., ::8, ::8], inpainter.encode_image(pixels * (1 - mask), generator)], dim=1)
    _, timesteps, context, scale = begin(inpainter, guidance=guidance, batch=1)
    *_, (_, _, result, _) = inpainter.denoise(noise, timesteps, context, scale, shown=shown)
    expected = inpainter.inpaint(CAPTIONS[0], image, mask, num_inference_steps=4, guidance_scale=scale, latents=noise,
                                 generator=torch.Generator().manual_seed(3), output="latent", progress=False)
    assert torch.equal(result, expected)


def test_what_is_written_into_the_state_is_what_the_next_step_begins_with(sd, monkeypatch):
    seen, forward = [], sd.unet.forward
    monkeypatch.setattr(sd.unet, "forward", lambda latents, *rest: seen.append(latents) or forward(latents, *rest))
    latents, *rest = begin(sd)
    before = latents.clone()
    for _, _, state, _ in sd.denoise(latents, *rest):
        state.zero_()
    assert torch.equal(latents, before), "what came in is left alone"
    assert seen[0].abs().max() > 1
    assert not any(inputs.any() for inputs in seen[1:])


@pytest.mark.parametrize("scheduler", ALL)
@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.usefixtures("plain_unets")
def test_a_loop_that_was_broken_off_leaves_the_model_usable(sd, scheduler, low_memory):
    sd.set_scheduler(scheduler)
    if low_memory:
        sd.low_memory()
    latents, *rest = begin(sd)
    whole = [state for _, _, state, _ in sd.denoise(latents, *rest, generator=generators())]
    kept = sd.denoise(latents, *rest, generator=generators())  # held, and closed only in the midst of the next
    next(kept)
    for stop in range(len(whole)):
        for i, _, state, _ in sd.denoise(latents, *rest, generator=generators()):
            assert torch.equal(state, whole[i])
            if i == stop:
                kept.close()
                break
    sd.scheduler.set_timesteps(3)
    assert torch.equal(sd.text_to_image(CAPTIONS[0], seed=1, output="latent", **QUICK),
                       sd.text_to_image(CAPTIONS[0], seed=1, output="latent", **QUICK))


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "dpm++"])
@pytest.mark.usefixtures("plain_unets")
def test_some_timesteps_that_follow_one_another(sd, scheduler):
    """The first of them, or a copy, of which only the values tell where they stand."""
    sd.set_scheduler(scheduler)
    latents, timesteps, *rest = begin(sd, steps=6)
    whole = [state for _, _, state, _ in sd.denoise(latents, timesteps, *rest)]
    for some in (timesteps[:3], timesteps.clone()[:3], timesteps.clone()):
        states = [state for _, _, state, _ in sd.denoise(latents, some, *rest)]
        assert len(states) == len(some)
        assert all(torch.equal(*pair) for pair in zip(states, whole))
    for strange in (timesteps[::2], timesteps.flip(0), timesteps + 1, timesteps.repeat(2)):
        with pytest.raises(ValueError, match="timesteps are not the scheduler's"):
            next(sd.denoise(latents, strange, *rest))


@pytest.mark.parametrize("scheduler", STOCHASTIC)
@pytest.mark.usefixtures("plain_unets")
def test_a_loop_draws_from_its_generator(sd, scheduler):
    sd.set_scheduler(scheduler)
    arguments = begin(sd)

    def result(generator):
        *_, (_, _, latents, _) = sd.denoise(*arguments, generator=generator)
        return latents

    together = result(generators())
    assert torch.equal(together, result(generators()))
    assert not torch.equal(together, result(generators()[::-1]))
    assert not torch.equal(together, result(None))


def test_a_network_in_training_draws_what_it_draws_afterwards(tiny):
    """Around networks in memory, of different precision, and with gradients outside the loop."""
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", scheduler="ddim")
    sd.unet.double().train().requires_grad_(True)
    trained = StableDiffusion(sd.tokenizer, sd.text_encoder, sd.unet, sd.vae, sd.scheduler)
    results = []
    for training in (True, False):
        sd.unet.train(training)
        for _, _, latents, x0 in trained.denoise(*begin(trained)):
            assert torch.is_grad_enabled()
            assert not latents.requires_grad
            assert not x0.requires_grad
        assert sd.unet.training is training
        results.append(latents)
    assert torch.equal(*results)
    assert trained.decode_latents(latents).shape == (2, 3, 64, 64)
    assert all(parameter.requires_grad for parameter in sd.unet.parameters())


def test_frozen_networks_may_stay_on_another_device(tiny, image):
    """What they give goes to where the U-Net is: "meta", here."""
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", scheduler="ddim")
    sd.unet.to("meta")
    context, clean = sd.encode_prompt(["", CAPTIONS[0]]), sd.encode_image(image)
    assert context.is_meta
    assert clean.is_meta
    sd.scheduler.set_timesteps(3, device="meta")
    *_, (i, _, latents, _) = sd.denoise(clean, sd.scheduler.timesteps, context, 2.0)
    assert i == 2
    assert latents.is_meta


@pytest.mark.parametrize(("changes", "message"), [
    ({"context": 2}, "context has length 2; for 2 latents with guidance_scale=5.0 it must be 4, negative prompts"),
    ({"guidance_scale": 1}, "context has length 4; for 2 latents with guidance_scale=1 it must be 2, the prompts"),
    ({"guidance_scale": -10001}, "guidance_scale=-10001; it must be a number from -10,000 to 10,000"),
    ({"shown": torch.zeros(2, 5, 8, 8)}, "latents and shown have 9 channels together; this U-Net takes 4"),
])
def test_loops_that_make_no_sense(sd, changes, message):
    names = ("latents", "timesteps", "context", "guidance_scale")
    arguments = dict(zip(names, begin(sd)))
    if "context" in changes:
        changes = {"context": arguments["context"][:changes["context"]]}
    with pytest.raises(ValueError, match=message):
        next(sd.denoise(**arguments | changes))


def test_a_loop_with_nine_channels_must_be_shown_something(inpainter):
    with pytest.raises(ValueError, match="have 4 channels together; this U-Net takes 9"):
        next(inpainter.denoise(*begin(inpainter)))


# --- callback, outputs, progress ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ALL)
@pytest.mark.usefixtures("plain_unets")
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
@pytest.mark.usefixtures("plain_unets")
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
        sd.set_scheduler(name)
        torch.testing.assert_close(sd.scheduler.alphas_cumprod, expected)
    assert type(sd.scheduler).__name__ == "EulerDiscreteScheduler"
    one = StableDiffusion.from_pretrained(tiny["sd1"], scheduler="heun")
    assert type(one.scheduler).__name__ == "HeunDiscreteScheduler"
    torch.testing.assert_close(one.scheduler.alphas_cumprod, expected)
    assert StableDiffusion.from_pretrained(tiny["sd1"], scheduler=one.scheduler).scheduler is one.scheduler


def test_another_sampler_keeps_a_schedule_that_was_never_spelt_out(sd):
    sd.set_scheduler(LMSDiscreteScheduler())
    expected = sd.scheduler.alphas_cumprod
    sd.set_scheduler("heun")  # its own defaults are Stable Diffusion's
    assert torch.equal(sd.scheduler.alphas_cumprod, expected)


@pytest.mark.parametrize("by_way_of", [None, *ALL])
def test_swapping_samplers_keeps_what_the_checkpoint_says(sd, by_way_of):
    """Not every sampler's config has all the fields of a published one; they must not get lost on the way."""
    diffusers = quietly(__import__, "diffusers")
    sd.set_scheduler(PNDMScheduler.from_config(SD_SCHEDULE))
    theirs = diffusers.PNDMScheduler.from_config(SD_SCHEDULE)
    for name in ALL:
        if by_way_of:
            sd.set_scheduler(by_way_of)
        sd.set_scheduler(name)
        expected = quietly(getattr(diffusers, type(sd.scheduler).__name__).from_config, theirs.config).config
        different = {field: (value, expected.get(field)) for field, value in sd.scheduler.config.items()
                     if not field.startswith("_") and value != expected.get(field)}
        assert different == {}
