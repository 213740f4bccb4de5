"""The inpainting task on tiny networks: masks, what the U-Net is shown, and what counts in the loss."""

import math
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import StableDiffusion, UNet
from minisd.emoji.scene import Scene
from minisd.training import inpaint
from minisd.training.inpaint import InpaintOptions, InpaintTask, random_mask, shortened
from minisd.training.loop import make_batch, make_optimizers, train
from minisd.training.pool import Pool
from tests.toy import log, names_in, settings


@pytest.fixture
def make(parts, world, tmp_path):
    """Makes a task, ready to be trained in tmp_path; the keywords are its options."""
    def make(seed: int = 0, folder: Path = parts, **options) -> InpaintTask:
        paths = {"vae": "vae/vae", "clip": "clip", "start": "unet/unet"}
        options = {name: str(folder / path) for name, path in paths.items()} | {"pool_size": 16} | options
        task = InpaintTask(InpaintOptions(**options), world, seed)
        task.prepare(tmp_path, 0)
        return task
    return make


@pytest.fixture(scope="module")
def scenes(world) -> list[Scene]:
    return world.batch(range(300), 5, resolution=32)[2]


def test_trains_shows_and_exports(make, tmp_path, monkeypatch):
    monkeypatch.setattr(InpaintTask, "score", partialmethod(InpaintTask.score, count=8))
    monkeypatch.setattr(StableDiffusion, "inpaint", partialmethod(StableDiffusion.inpaint, num_inference_steps=1))
    train(make(), settings(steps=2), tmp_path, quiet=True)
    assert len(set(log(tmp_path))) == 2
    with Image.open(tmp_path / "picture-0000002.png") as picture:
        assert picture.size == (10 * 128, 3 * 128)
    assert UNet.from_pretrained(tmp_path / "unet").config.in_channels == 9


# --- the network ----------------------------------------------------------------------------------------------


def test_widened_unet_computes_what_it_did_before(parts):
    narrow = UNet.from_pretrained(parts / "unet/unet")
    wide = inpaint.widen(narrow)
    torch.manual_seed(0)
    x, shown, context = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 16, 16), torch.randn(2, 77, 32)
    with torch.no_grad():
        before, after = narrow(x, 500, context), wide(torch.cat([x, shown], dim=1), 500, context)
    assert before.std() > 0
    torch.testing.assert_close(after, before)
    assert {p.data_ptr() for p in narrow.parameters()}.isdisjoint(p.data_ptr() for p in wide.parameters())


def test_first_convolution_learns_faster(make):
    task = make(conv_in_rate=7.0)
    assert task.unet.training
    assert all(p.requires_grad for p in task.parameters())
    _, adamw = make_optimizers(task, settings(), torch.float32)
    slow, fast = adamw.param_groups
    assert (slow["lr"], fast["lr"]) == pytest.approx((1e-3, 7e-3))
    assert [p is task.unet.conv_in.weight for p in fast["params"]] == [True]
    assert names_in(adamw, task, dimensions=2) == {
        f"unet.{layer}.weight" for layer in ("conv_in", "conv_out", "time_embedding.linear_1",
                                             "time_embedding.linear_2")}


# --- what it is shown -----------------------------------------------------------------------------------------


def test_pool_holds_what_the_pipeline_makes_of_mask_and_picture(make, world, monkeypatch):
    """The U-Net must learn from the very inputs that `StableDiffusion.inpaint` will give it."""
    task = make()
    pool = task.pool
    images, _, scenes = world.batch(range(16), 0, "train")
    masks = torch.stack([random_mask(world, scene, np.random.default_rng((0, i, 1))) for i, scene in enumerate(scenes)])
    sd, given = task.pipeline(), []

    def encode(pixels, generator=None):
        given.append(pixels)
        return sd.vae.encode(pixels).mode() * sd.vae.config.scaling_factor

    def forward(inputs, *rest):
        given.append(inputs)
        return inputs[:, :4]

    monkeypatch.setattr(sd, "encode_image", encode)
    monkeypatch.setattr(sd.unet, "forward", forward)
    with torch.no_grad():
        sd.inpaint(["a cat"] * 16, images, masks, guidance_scale=1.0, num_inference_steps=1, output="latent",
                   progress=False)
    masked, inputs = given[0], given[-1]
    assert torch.equal(masked, images * (1 - masks))
    assert torch.equal(pool.tensors["mask"].float(), inputs[:, 4:5])
    torch.testing.assert_close(pool.tensors["shown_mean"].float(), inputs[:, 5:], rtol=2e-3, atol=2e-3)
    with torch.no_grad():
        spread = sd.vae.config.scaling_factor * sd.vae.encode(masked).std
        whole = sd.vae.config.scaling_factor * sd.vae.encode(images).mean
    torch.testing.assert_close(pool.tensors["shown_std"].float(), spread, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(pool.tensors["mean"].float(), whole, rtol=2e-3, atol=2e-3)


def test_pool_follows_from_the_seed(make, world):
    one, same, other = (make(seed).encode(range(4), seed, "train") for seed in (0, 0, 1))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["mask"], other["mask"])
    later = make().encode(range(2, 4), 0, "train")
    assert torch.equal(later["mask"], one["mask"][2:])  # whatever its neighbours are
    assert torch.equal(later["token_ids"], one["token_ids"][2:])


def test_what_is_shown_has_noise_of_its_own(make, monkeypatch):
    task, seen = make(), []
    forward = task.unet.forward
    monkeypatch.setattr(task.unet, "forward", lambda inputs, *rest: seen.append(inputs) or forward(inputs, *rest))
    pool = task.pool
    for name in ("mean", "shown_mean"):
        pool.tensors[name].zero_()
    for name in ("std", "shown_std"):
        pool.tensors[name].fill_(1.0)
    task.scheduler.alphas_cumprod.fill_(1.0)  # no noise but that of the two encodings
    with torch.no_grad():
        task.options = replace(task.options, min_snr=None)
        for step in range(4):
            task(make_batch(settings(), step))
    inputs = torch.cat(seen)  # (32, 9, 16, 16)
    whole, shown = inputs[:, :4].flatten(), inputs[:, 5:].flatten()
    assert whole.std().item() == pytest.approx(1, abs=0.02)
    assert shown.std().item() == pytest.approx(1, abs=0.02)
    assert torch.corrcoef(torch.stack([whole, shown]))[0, 1].item() == pytest.approx(0, abs=0.02)


def test_inputs_are_of_the_chosen_scenes(make):
    task = make()
    batch = make_batch(settings(batch_size=5), 0)
    pool = task.pool
    pool.tensors["shown_std"].zero_()
    chosen, noisy = torch.tensor([3, 1, 3, 15, 0]), torch.randn(5, 4, 16, 16)
    inputs = task.unet_input(noisy, pool, batch, chosen)
    assert torch.equal(inputs[:, :4], noisy)
    assert torch.equal(inputs[:, 4:5], pool.tensors["mask"][chosen].float())
    assert torch.equal(inputs[:, 5:], pool.tensors["shown_mean"][chosen].float())


def test_known_parts_count_more(make):
    mask = torch.ones(2, 1, 16, 16)
    mask[0, :, :4] = 0  # a quarter of the first picture is known
    pool = Pool(0, {"mask": mask})
    weight = make(known_weight=3.0).latent_weight(pool, torch.tensor([0, 1]))
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3)), torch.ones(2))  # no picture counts more than another
    assert weight[0, 0, 0, 0] / weight[0, 0, 15, 0] == pytest.approx(4)
    assert (weight[1] == 1).all()
    assert (make(known_weight=0.0).latent_weight(pool, torch.tensor([0, 1])) == 1).all()


def test_loss_counts_by_latent_weight(make, monkeypatch):
    task = make(min_snr=None)

    def loss(latent_weight) -> float:
        monkeypatch.setattr(task, "latent_weight", latent_weight)
        with torch.no_grad():
            return task(make_batch(settings(), 0)).item()

    def hidden(pool, chosen):
        return pool.rows("mask", chosen, torch.device("cpu"))

    part, rest = loss(hidden), loss(lambda pool, chosen: 1 - hidden(pool, chosen))
    assert part > 0 < rest
    assert part + rest == pytest.approx(loss(lambda pool, chosen: 1.0), rel=1e-5)


# --- captions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_captions_only_names_the_thing(make, world, share, monkeypatch):
    task = make(short_captions=share)
    monkeypatch.setattr(task, "posterior", lambda images: {"mean": torch.zeros(len(images), 4, 16, 16)})
    monkeypatch.setattr(inpaint, "random_mask", lambda data, scene, rng: torch.zeros(1, 128, 128))
    told = task.encode(range(150), 0, "train")["token_ids"]
    _, captions, scenes = world.batch(range(150), 0, "train", 32)
    long, short = task.tokenizer(captions), task.tokenizer([world.caption(shortened(scene)) for scene in scenes])
    is_long, is_short = (told == long).all(dim=1), (told == short).all(dim=1)
    assert (is_long | is_short).all()
    differs = (long != short).any(dim=1)
    assert differs.sum() > 100
    assert is_short[differs].float().mean().item() == pytest.approx(share, abs=0.12)


def test_short_captions_name_nothing_but_things(world, scenes):
    for scene in scenes:
        short = replace(scene, says_style=False, says_background=False, size="usual", place="centre", worn="", count=1,
                        says_thing=True, paraphrase=0)
        if scene.count == 1:
            assert world.caption(shortened(scene)) == world.caption(short)
        picture = replace(shortened(scene), **{name: getattr(scene, name) for name in vars(scene) if "says" in name},
                          paraphrase=scene.paraphrase)
        assert picture == scene  # the same picture


# --- masks ----------------------------------------------------------------------------------------------------


def test_masks_cover_boxes_strokes_things_or_their_ground(world, scenes):
    kinds = {"all things": 0, "all but the things": 0}
    for i, scene in enumerate(scenes[:200]):
        mask, things = random_mask(world, scene, np.random.default_rng(i)), world.mask(scene) > 0.5
        assert mask.shape == (1, 128, 128)
        assert mask.dtype == torch.float32
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert mask.any()
        kinds["all things"] += bool(mask[things].all() and not mask.all())
        kinds["all but the things"] += bool(mask[~things].all())
    assert kinds["all things"] / 200 == pytest.approx(0.22, abs=0.07)  # a fifth, and now and then by chance
    assert kinds["all but the things"] / 200 == pytest.approx(0.2, abs=0.07)


def test_masks_of_things_are_grown(world):
    scene, grown = Scene("pizza"), set()
    things = world.mask(scene) > 0.5
    for i in range(100):
        mask = random_mask(world, scene, np.random.default_rng(i)) > 0.5
        if mask[things].all() and not mask[:, 0].any():
            rows = mask.any(dim=2)[0].nonzero()
            grown.add(int(things.any(dim=2)[0].nonzero()[0] - rows[0]))
    assert min(grown) == 0
    assert 6 <= max(grown) <= 8


@pytest.mark.parametrize("size", [64, 128])
def test_boxes_and_strokes_cover_some_but_not_all(size):
    masks = [inpaint.random_boxes_and_strokes(np.random.default_rng(i), size) for i in range(100)]
    shares = [mask.mean() for mask in masks]
    assert all(set(mask.flatten().tolist()) == {0.0, 1.0} for mask in masks)
    assert 0.01 < min(shares) < max(shares) < 0.95
    assert np.mean(shares) == pytest.approx(0.27, abs=0.07)
    box = [(mask.any(axis=0).sum() * mask.any(axis=1).sum()) == mask.sum() for mask in masks]
    assert 0.1 < np.mean(box) < 0.3  # a single box: a third of a half


@pytest.mark.parametrize(("name", "value", "right"), [
    ("short_captions", 2.0, "from 0 to 1"), ("short_captions", math.nan, "from 0 to 1"),
    ("conv_in_rate", 0.0, "above 0"), ("known_weight", -0.5, "at least 0"),
    ("known_weight", math.nan, "at least 0"), ("min_snr", -1.0, "above 0")])
def test_impossible_options_are_named(name, value, right):
    with pytest.raises(ValueError, match=f"{name}={value}: it must be {right}"):
        InpaintOptions(**{name: value})
