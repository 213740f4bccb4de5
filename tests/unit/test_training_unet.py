"""The U-Net's task on tiny networks: what it is trained on, with which weights, and what begins at zero."""

import math
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from minisd import VAE, StableDiffusion, TextEncoder, Tokenizer, UNet
from minisd.blocks import ResidualBlock
from minisd.schedulers import DDIMScheduler
from minisd.training import unet
from minisd.training.loop import make_batch, make_optimizers, train
from minisd.training.pool import Pool
from minisd.training.task import HELD_OUT
from minisd.training.unet import Options, UNetTask
from minisd.transformer import SpatialTransformer
from tests.toy import UNET_CONFIG, Toy, log, names_in, settings


@pytest.fixture(autouse=True)
def tiny_and_quick(monkeypatch):
    monkeypatch.setattr(unet, "MINI", UNET_CONFIG)
    monkeypatch.setattr(UNetTask, "score", partialmethod(UNetTask.score, count=8))
    monkeypatch.setattr(StableDiffusion, "text_to_image",
                        partialmethod(StableDiffusion.text_to_image, num_inference_steps=1))


@pytest.fixture
def make(parts, world, tmp_path):
    """Makes a task, ready to be trained in tmp_path; the keywords are its options."""
    def make(seed: int = 0, folder: Path = parts, samples: int = 0, **options) -> UNetTask:
        paths = {"vae": str(folder / "vae/vae"), "clip": str(folder / "clip"), "pool_size": 16, "visits": 2}
        task = UNetTask(Options(**paths | options), world, seed)
        task.prepare(tmp_path, samples)
        return task
    return make


class Spy(nn.Module):
    """Takes the place of a network: records what it is called with, and answers with a function of it."""

    def __init__(self, like: nn.Module, answer):
        super().__init__()
        self.weight, self.config, self.answer, self.calls = nn.Parameter(torch.zeros(1)), like.config, answer, []

    device = property(lambda self: self.weight.device)

    def forward(self, *inputs):
        self.calls.append(inputs)
        return self.answer(*inputs)


def batches(count: int, size: int = 8, first: int = 0):
    return [make_batch(settings(batch_size=size), step) for step in range(first, first + count)]


def test_trains_shows_and_exports(make, tmp_path, capsys):
    train(make(), settings(steps=5), tmp_path, quiet=True)
    assert len(set(log(tmp_path))) == 5
    with Image.open(tmp_path / "picture-0000005.png") as picture:
        assert picture.size == (12 * 128, 3 * 128)
    assert "held-out loss" in (tmp_path / "scores.csv").read_text()
    assert "U-Net: " in capsys.readouterr().out
    ours, average = UNet.from_pretrained(tmp_path / "unet"), torch.load(tmp_path / "state.pt")["average"]
    assert all(torch.equal(tensor, average[f"unet.{name}"]) for name, tensor in ours.state_dict().items())
    assert DDIMScheduler.from_config(tmp_path / "scheduler").config.prediction_type == "v_prediction"


# --- the pool -------------------------------------------------------------------------------------------------


def test_next_pool_comes_after_so_many_visits(make, monkeypatch):
    encoded, encode = [], UNetTask.encode

    def spy(self, indices, seed, split):
        encoded.append((indices, seed, split))
        return encode(self, indices, seed, split)

    monkeypatch.setattr(UNetTask, "encode", spy)
    task = make()
    assert encoded == [(range(16), 0, "train")]  # before the first step
    numbers = [task.pool_after(samples).number for samples in range(0, 72, 8)]  # 16 scenes, twice each
    assert numbers == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert encoded == [(range(16 * k, 16 * k + 16), 0, "train") for k in range(3)]
    encoded.clear()
    again = make(samples=64)  # resumed: the pool is in its file
    assert again.pool.number == 2
    assert encoded == []
    assert all(torch.equal(again.pool.tensors[name], tensor) for name, tensor in task.pool.tensors.items())
    other = make(seed=1, samples=64)
    assert encoded == [(range(32, 48), 1, "train")]
    assert not torch.equal(other.pool.tensors["mean"], task.pool.tensors["mean"])


def test_pool_holds_scaled_posteriors_and_captions(make, world):
    task = make()
    pool = task.pool_after(32)  # pool 1
    images, captions, _ = world.batch(range(16, 32), 0, "train")
    vae, _ = task.frozen
    with torch.no_grad():
        posterior = vae.encode(images)
    torch.testing.assert_close(pool.tensors["mean"], (0.5 * posterior.mean).half(), rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(pool.tensors["std"], (0.5 * posterior.std).half(), rtol=2e-3, atol=1e-3)
    assert torch.equal(pool.tensors["token_ids"].long(), task.tokenizer(captions))


def test_pool_is_encoded_in_float32_whatever_the_loop_computes_in(make, tmp_path):
    exact = make().pool
    (tmp_path / "pool.safetensors").unlink()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = make().pool
    assert torch.equal(rounded.tensors["mean"], exact.tensors["mean"])


def test_each_visit_draws_other_latents_from_the_posterior(make):
    task, chosen = make(), torch.zeros(64, dtype=torch.long)
    one, two = batches(2, size=64)
    pool = task.pool
    first, second = task.sample_latents(pool, one, chosen), task.sample_latents(pool, two, chosen)
    assert not torch.equal(first, second)
    mean, std = (pool.rows(name, chosen[:1], torch.device("cpu")) for name in ("mean", "std"))
    noise = (torch.cat([first, second]) - mean) / std
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_all_scenes_of_the_pool_are_chosen(make, monkeypatch):
    seen, sample_latents = [], UNetTask.sample_latents

    def spy(self, pool, batch, chosen):
        seen.append(chosen)
        return sample_latents(self, pool, batch, chosen)

    monkeypatch.setattr(UNetTask, "sample_latents", spy)
    task = make(visits=1000)
    for batch in batches(4, size=32):
        task(batch)
    assert set(torch.cat(seen).tolist()) == set(range(16))


# --- the loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.1, 1.0])
def test_a_share_of_the_captions_is_empty(make, world, dropout):
    task = make(caption_dropout=dropout, visits=1000)
    task.unet = Spy(task.unet, lambda noisy, timesteps, context: torch.zeros_like(noisy))
    contexts = []
    for batch in batches(4, size=128):
        task(batch)
        contexts.append(task.unet.calls[-1][2])
    contexts = torch.cat(contexts)  # (512, 77, 32)
    _, captions, _ = world.batch(range(16), 0, "train")
    with torch.no_grad():
        empty, *said = task.frozen.text_encoder(task.tokenizer(["", *captions]))
    is_empty = (contexts - empty).abs().amax(dim=(1, 2)) < 1e-5
    assert is_empty.float().mean().item() == pytest.approx(dropout, abs=0.05)
    known = torch.stack([(contexts - one).abs().amax(dim=(1, 2)) < 1e-5 for one in said]).any(dim=0)
    assert (is_empty | known).all()
    assert contexts.dtype == torch.float32
    assert not contexts.requires_grad


def test_words_and_latents_are_of_the_same_scene(make):
    """Nothing but the network's inputs are looked at: each row's context must be that of its latents."""
    task = make(caption_dropout=0.0)
    pool = task.pool
    pool.tensors["std"].zero_()
    task.scheduler.alphas_cumprod.fill_(1.0)  # no noise at all
    task.unet = Spy(task.unet, lambda noisy, timesteps, context: torch.zeros_like(noisy))
    task.options = Options(min_snr=None, pool_size=16, visits=2)
    for batch in batches(2):
        task.loss(pool, torch.arange(8), batch, 0.0)
    with torch.no_grad():
        said = task.frozen.text_encoder(pool.tensors["token_ids"].long())
    for noisy, _, context in task.unet.calls:
        for latents, words in zip(noisy, context):
            row = (pool.tensors["mean"].float() - latents).abs().amax(dim=(1, 2, 3)).argmin()
            torch.testing.assert_close(latents, pool.tensors["mean"][row].float())
            torch.testing.assert_close(words, said[row], rtol=1e-4, atol=1e-5)


def test_times_are_spread_evenly(make):
    task = make()
    task.unet = Spy(task.unet, lambda noisy, timesteps, context: torch.zeros_like(noisy))
    for batch in batches(3, size=100):
        task(batch)
        times = task.unet.calls[-1][1]
        assert (times // 10).tolist() == list(range(100))
        assert times.dtype == torch.int64


def perfect(task: UNetTask, x0: float, error: float = 0.0) -> Pool:
    """Gives the task a U-Net that knows that all latents are x0, up to an error; returns the pool of such latents."""
    def answer(noisy, timesteps, context):
        alpha = task.scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - alpha**2).sqrt()
        noise = (noisy - alpha * x0) / sigma
        return alpha * noise - sigma * x0 + error  # Salimans & Ho 2022: v = α·ε - σ·x

    task.unet = Spy(task.unet, answer)
    shape = (16, 4, 16, 16)
    return Pool(0, {"mean": torch.full(shape, x0).half(), "std": torch.zeros(shape).half(),
                    "token_ids": task.tokenizer(["a red apple"]).expand(16, -1).short()})


def test_loss_is_the_error_of_the_velocity(make):
    task, (batch,), rows = make(min_snr=None), batches(1), torch.arange(8)
    assert task.loss(perfect(task, 0.75), rows, batch, 0.1).item() == pytest.approx(0, abs=1e-7)
    assert task.loss(perfect(task, 0.75, error=0.2), rows, batch, 0.1).item() == pytest.approx(0.04, rel=1e-3)


def test_loss_is_weighted_by_the_signal_to_noise_ratio(make):
    task, (batch,) = make(), batches(1)
    loss = task.loss(perfect(task, 0.75, error=0.2), torch.arange(8), batch, 0.1)
    times = task.unet.calls[-1][1]
    assert loss.item() == pytest.approx(0.04 * task.timestep_weight(times).mean().item(), rel=1e-3)


def test_min_snr_weight_is_the_formula(make):
    t = torch.tensor([0, 500, 999])
    alphas = make().scheduler.alphas_cumprod[t]
    snr = alphas / (1 - alphas)
    assert snr[0] > 5 > snr[1]
    torch.testing.assert_close(make().timestep_weight(t), torch.stack([5 / (snr[0] + 1), *(snr[1:] / (snr[1:] + 1))]))
    torch.testing.assert_close(make(min_snr=2.0).timestep_weight(t)[0], 2 / (snr[0] + 1))
    assert make(min_snr=None).timestep_weight(t).tolist() == [1, 1, 1]


def test_score_is_the_loss_on_held_out_scenes(make, monkeypatch):
    task, seen, encode = make(caption_dropout=1.0), [], UNetTask.encode

    def spy(self, indices, seed, split):
        seen.append((indices, seed, split))
        return encode(self, indices, seed, split)

    monkeypatch.setattr(UNetTask, "encode", spy)
    task.unet.conv_out.weight.data.normal_(std=0.1)
    with torch.no_grad():
        name, first = task.score()
        _, second = task.score()
    assert name == "held-out loss"
    assert first == second  # the same scenes, noise and times
    assert seen == [(range(8), HELD_OUT, "heldout")]
    task.options = Options(caption_dropout=0.0, pool_size=16)
    with torch.no_grad():
        assert task.score()[1] == first  # with all of its captions


# --- the networks ---------------------------------------------------------------------------------------------


def test_a_new_network_begins_at_zero(make):
    network, counted = make().unet, 0
    for module in network.modules():
        if isinstance(module, (ResidualBlock, SpatialTransformer)):
            last = module.conv2 if isinstance(module, ResidualBlock) else module.proj_out
            assert not last.weight.any()
            counted += 1
    assert counted == 12
    out = network(torch.randn(2, 4, 16, 16), torch.tensor([3, 900]), torch.randn(2, 77, 32))
    assert out.std(dim=(0, 2, 3)).max().item() == 0  # it knows nothing of its input


def test_frozen_networks_are_not_trained_nor_saved(make):
    task = make()
    assert all(name.startswith("unet.") for name in task.state_dict())
    assert all(name.startswith("unet.") for name, _ in task.named_parameters())
    before = [tensor.clone() for network in task.frozen for tensor in network.state_dict().values()]
    task(*batches(1)).backward()
    after = [tensor for network in task.frozen for tensor in network.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert all(p.grad is None for network in task.frozen for p in network.parameters())
    assert all(p.requires_grad for p in task.parameters())


def test_first_and_last_layers_and_the_time_embedding_are_adamws(make):
    task = make()
    muon, adamw = make_optimizers(task, settings(), torch.float32)
    assert names_in(adamw, task, dimensions=2) == {
        f"unet.{layer}.weight" for layer in ("conv_in", "conv_out", "time_embedding.linear_1",
                                             "time_embedding.linear_2")}
    assert names_in(adamw, task, dimensions=1) == {name for name, p in task.named_parameters() if p.ndim == 1}
    assert names_in(muon, task) == {name for name, _ in task.named_parameters()} - names_in(adamw, task)


def test_a_run_with_another_vae_is_not_resumed(make, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(UNetTask, "picture", Toy.picture)
    train(make(), settings(steps=1), tmp_path, quiet=True)
    vae = VAE.from_pretrained(parts / "vae/vae")
    with torch.no_grad():
        vae.decoder.conv_out.bias[0] += 1e-3
    vae.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"was trained with config frozen_weights='[0-9a-f]{12}', but this run has"):
        train(make(vae=str(tmp_path / "other")), settings(steps=2), tmp_path, resume=True, quiet=True)
    train(make(), settings(steps=2), tmp_path, resume=True, quiet=True)


def test_fingerprint_is_of_weights_and_words():
    def linear(**changes):
        torch.manual_seed(0)
        layer = nn.Linear(2, 2)
        for name, value in changes.items():
            getattr(layer, name).data[0] = value
        return layer

    one = unet.fingerprint(linear(), linear(), words={"a": 0})
    assert one == unet.fingerprint(linear(), linear(), words={"a": 0})
    others = [unet.fingerprint(linear(bias=3.0), linear(), words={"a": 0}),
              unet.fingerprint(linear(), linear(weight=3.0), words={"a": 0}),
              unet.fingerprint(linear(), linear(), words={"b": 0})]
    assert len({one, *others}) == 4


def test_goes_on_from_a_trained_network(make, parts):
    task = make(start=str(parts / "unet/unet"))
    exported = UNet.from_pretrained(parts / "unet/unet").state_dict()
    assert all(torch.equal(tensor, exported[name]) for name, tensor in task.unet.state_dict().items())
    assert task.unet.conv_out.weight.any()
    assert all(p.requires_grad for p in task.parameters())
    assert task.unet.training


def test_goes_on_from_weights_in_half_precision(make, parts, tmp_path):
    for part, network in (("vae/vae", VAE), ("clip/text_encoder", TextEncoder), ("unet/unet", UNet)):
        network.from_pretrained(parts / part).save_pretrained(tmp_path / part, torch.float16)
    Tokenizer.from_pretrained(parts / "clip/tokenizer").save_pretrained(tmp_path / "clip/tokenizer")
    task = make(folder=tmp_path, start=str(tmp_path / "unet/unet"))
    assert torch.isfinite(task(*batches(1)))
    assert {p.dtype for p in task.parameters()} == {torch.float32}


def test_unet_of_another_text_encoder_is_refused(make, tmp_path):
    UNet(**UNET_CONFIG, cross_attention_dim=48).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"text encoder of width 48; the one in .* has 32"):
        make(start=str(tmp_path))


# --- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missing", "model"), [("vae", "vae"), ("clip", "clip"), ("start", "unet")])
def test_what_must_be_trained_first_is_said(make, missing, model):
    with pytest.raises(FileNotFoundError, match=f"there is no folder not/here; `minisd train {model}` makes one"):
        make(**{missing: "not/here"})


@pytest.mark.parametrize(("name", "value", "right"), [
    ("caption_dropout", -0.1, "from 0 to 1"), ("caption_dropout", 1.5, "from 0 to 1"),
    ("caption_dropout", math.nan, "from 0 to 1"), ("min_snr", 0.0, "above 0"), ("min_snr", math.nan, "above 0"),
    ("pool_size", 0, "at least 1"), ("visits", 0, "at least 1")])
def test_impossible_options_are_named(name, value, right):
    with pytest.raises(ValueError, match=f"{name}={value}: it must be {right}"):
        Options(**{name: value})
