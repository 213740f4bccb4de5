"""The VAE's task: its loss, how a small VAE grows, and latents that are standardised on export."""

import math
import re
from functools import partialmethod

import pytest
import torch
from PIL import Image
from torch import nn

from minisd import VAE
from minisd.training import vae
from minisd.training.loop import make_batch, make_optimizers, train
from minisd.training.task import HELD_OUT
from minisd.training.vae import Options, VAETask, standardise
from tests.tiny import channels_last, quietly
from tests.toy import VAE_CONFIG, VAE_LEVELS, log, names_in, settings


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(vae, "LEVELS", VAE_LEVELS)


def test_trains_shows_and_exports(tiny, world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(VAETask, "latents", partialmethod(VAETask.latents, count=32))
    monkeypatch.setattr(VAETask, "score", lambda self, count=0, score=VAETask.score: score(self, 32))
    train(VAETask(Options(), world), settings(batch_size=4, steps=2), tmp_path, quiet=True)
    assert len(set(log(tmp_path))) == 2
    with Image.open(tmp_path / "picture-0000002.png") as picture:
        assert picture.size == (12 * 128, 4 * 128)
    assert "PSNR, dB" in (tmp_path / "scores.csv").read_text()
    assert "dB on pictures not trained on, scaling factor" in capsys.readouterr().out
    exported, average = VAE.from_pretrained(tmp_path / "vae"), VAETask(Options(), world)
    average.load_state_dict(torch.load(tmp_path / "state.pt")["average"])
    expected = standardise(average.vae, average.latents())
    assert exported.config == expected.config
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in exported.state_dict().items())


# --- the loss -------------------------------------------------------------------------------------------------


class Posterior:
    """Stands in for the encoder's posterior: a test gives its mean and std."""

    def __init__(self, mean: float, std: float, count: int):
        self.mean, self.std = torch.full((count, 4, 16, 16), mean), torch.full((count, 4, 16, 16), std)

    def kl(self):
        return 0.5 * (self.mean**2 + self.std**2 - 1 - 2 * self.std.log()).sum(dim=(1, 2, 3))


class Fake(nn.Module):
    """A VAE that is off by a known error, whatever the picture; it records the latents that it decodes."""

    device = torch.device("cpu")

    def __init__(self, error: torch.Tensor, mean: float = 0.0, std: float = 1.0):
        super().__init__()
        self.error, self.mean, self.std = error, mean, std

    def encode(self, images):
        self.images = images
        return Posterior(self.mean, self.std, len(images))

    def decode(self, latents):
        self.latents = latents
        return self.images + self.error


@pytest.fixture
def loss(world):
    def loss(error, step: int = 0, mean: float = 0.0, std: float = 1.0, **options) -> float:
        task = VAETask(Options(**options), world)
        task.vae = Fake(error, mean, std)
        return task(make_batch(settings(batch_size=2), step)).item()
    return loss


def test_loss_is_the_mean_error(loss):
    assert loss(torch.tensor(0.0)) == 0
    assert loss(torch.tensor(-0.25)) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("direction", [1, 2])
def test_and_a_part_of_the_error_of_edges(loss, direction):
    shape = (1, 128, 1) if direction == 1 else (1, 1, 128)
    ramp = torch.linspace(-1, 1, 128).view(shape).expand(3, 128, 128)
    slope = 2 / 127
    assert loss(ramp) == pytest.approx(ramp.abs().mean().item() + 0.5 * slope / 2, rel=1e-4)
    assert loss(ramp, gradient_weight=8.0) == pytest.approx(ramp.abs().mean().item() + 8 * slope / 2, rel=1e-4)


def test_and_a_little_kl(loss):
    each = 0.5 * (3**2 + 0.5**2 - 1 - 2 * math.log(0.5))  # of one number, against N(0, 1)
    assert loss(torch.tensor(0.0), mean=3.0, std=0.5) == pytest.approx(1e-5 * each, rel=1e-3)
    assert loss(torch.tensor(0.0), mean=3.0, std=0.5, kl_weight=0.1) == pytest.approx(0.1 * each, rel=1e-3)


def test_latents_are_drawn_from_the_posterior(world):
    task, drawn = VAETask(Options(), world), []
    task.vae = Fake(torch.tensor(0.0), mean=3.0, std=0.5)
    for step in (0, 0, 1):
        task(make_batch(settings(batch_size=2), step))
        drawn.append(task.vae.latents)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[2].mean().item() == pytest.approx(3, abs=0.05)
    assert drawn[2].std().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("resolution", [64, 128])
def test_pictures_are_those_of_seed_and_step(world, resolution):
    task = VAETask(Options(resolution=resolution), world, seed=3)
    task.vae = Fake(torch.tensor(0.0))
    task(make_batch(settings(batch_size=2, seed=3), 5))
    assert torch.equal(task.vae.images, world.batch([10, 11], 3, "train", resolution)[0])


def test_score_is_the_signal_to_noise_ratio_on_held_out_pictures(world):
    task = VAETask(Options(), world)
    task.vae = Fake(torch.tensor(0.0))
    task.vae.encode = lambda images: setattr(task.vae, "images", images) or type("", (), {"mode": lambda self: None})()
    task.vae.decode = lambda latents: torch.where(task.vae.images > 0, task.vae.images - 0.02, task.vae.images + 0.02)
    name, value = task.score(64)
    assert name == "PSNR, dB"
    assert value == pytest.approx(40, abs=1e-3)  # a hundredth of the span
    assert torch.equal(task.vae.images, world.batch(range(32, 64), HELD_OUT, "heldout")[0])
    task.reconstruct(2)
    assert torch.equal(task.vae.images, world.batch(range(2), HELD_OUT, "heldout")[0])


def test_only_the_layers_at_the_pictures_are_adamws(world):
    task = VAETask(Options(), world)
    muon, adamw = make_optimizers(task, settings(), torch.float32)
    assert names_in(adamw, task, dimensions=2) == {"vae.encoder.conv_in.weight", "vae.decoder.conv_out.weight"}
    assert names_in(adamw, task, dimensions=1) == {name for name, p in task.named_parameters() if p.ndim == 1}
    assert names_in(muon, task) == {name for name, _ in task.named_parameters()} - names_in(adamw, task)


# --- growing --------------------------------------------------------------------------------------------------


def test_grown_vae_keeps_every_inner_weight(world, tmp_path):
    small = VAETask(Options(resolution=64), world, seed=1).vae
    for parameter in small.parameters():
        nn.init.normal_(parameter)
    small.save_pretrained(tmp_path)
    before, grown = small.state_dict(), VAETask(Options(start=str(tmp_path)), world).vae
    assert (grown.config.block_out_channels, grown.config.sample_size) == ((16, 24, 48, 96), 128)
    assert all(p.requires_grad for p in grown.parameters())
    # New is what works at the new resolution, and what leads to or from there.
    new = re.compile(r"encoder\.(conv_in|down_blocks\.(0|1\.resnets\.0\.(norm1|conv1\.weight|conv_shortcut)))"
                     r"|decoder\.(up_blocks\.2\.upsamplers|up_blocks\.3|conv_norm_out|conv_out\.weight)")
    kept = {name: tensor for name, tensor in grown.state_dict().items() if not new.match(name)}
    assert (len(kept), len(grown.state_dict())) == (148, 188)
    for name, tensor in kept.items():
        for level in range(3):  # the encoder's are counted from the picture
            if name.startswith(f"encoder.down_blocks.{level + 1}."):
                name = name.replace(str(level + 1), str(level), 1)
                break
        assert torch.equal(tensor, before[name]), name


def test_goes_on_from_a_vae_of_the_same_resolution(tiny, world, tmp_path):
    torch.manual_seed(1)
    start = VAE(**VAE_CONFIG | {"norm_num_groups": 8})
    start.save_pretrained(tmp_path, torch.float16)
    task = VAETask(Options(start=str(tmp_path)), world)
    assert all(torch.equal(tensor, task.vae.state_dict()[name].half())
               for name, tensor in VAE.from_pretrained(tmp_path).state_dict().items())
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in task.parameters())
    assert task.vae.training


# --- standardising --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standardised(parts) -> tuple[VAE, VAE, torch.Tensor, torch.Tensor]:
    """A VAE before and after, and the latents of pictures with both."""
    before, images = VAE.from_pretrained(parts / "vae/vae"), torch.rand(16, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before.post_quant_conv.bias.normal_()
        before.quant_conv.weight[:4] *= torch.tensor([1.0, 2.0, 3.0, 40.0])[:, None, None, None]
        before.quant_conv.bias[:4] = torch.tensor([1.0, -2.0, 0.0, 7.0])
        after = standardise(before, before.encode(images).mode())
        return before, after, images, after.encode(images).mode()


def test_latents_have_mean_zero_and_one_deviation(standardised):
    before, after, images, latents = standardised
    with torch.no_grad():
        spread = before.encode(images).mode().var(dim=(0, 2, 3)).mean().sqrt()
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), spread.expand(4), rtol=1e-4, atol=0)
    scaled = latents * after.config.scaling_factor
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)


def test_pictures_that_go_through_are_the_same(standardised):
    before, after, images, _ = standardised
    noise = torch.randn(16, 4, 8, 8)
    with torch.no_grad():
        ours, theirs = (vae.encode(images) for vae in (before, after))
        for a, b in ((ours.mode(), theirs.mode()), (ours.mean + ours.std * noise, theirs.mean + theirs.std * noise)):
            torch.testing.assert_close(after.decode(b), before.decode(a), rtol=1e-4, atol=1e-4)


def test_diffusers_opens_it_and_has_the_same_latents(standardised, tmp_path):
    _, after, images, latents = standardised
    after.save_pretrained(tmp_path)
    theirs = quietly(quietly(__import__, "diffusers").AutoencoderKL.from_pretrained, tmp_path)
    channels_last(theirs)
    assert theirs.config.scaling_factor == after.config.scaling_factor
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(images).latent_dist.mean, latents, rtol=1e-4, atol=1e-5)


def test_the_sample_for_it_is_drawn_from_many_pictures(tiny, world):
    task = VAETask(Options(), world, seed=4)
    latents = task.latents(96)
    assert latents.shape == (96, 4, 16, 16)
    task.requires_grad_(False)
    posterior = task.vae.encode(world.batch(range(64, 96), 4, "train")[0])
    noise = (latents[64:] - posterior.mean) / posterior.std
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    earlier = (latents[:32] - task.vae.encode(world.batch(range(32), 4, "train")[0]).mean) / posterior.std
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), earlier.flatten()]))[0, 1]) < 0.05  # of its own each


# --- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value", "right"), [
    ("resolution", 96, "64 or 128"), ("kl_weight", 0.0, "above 0"), ("gradient_weight", math.nan, "above 0")])
def test_impossible_options_are_named(name, value, right):
    with pytest.raises(ValueError, match=f"{name}={value}: it must be {right}"):
        Options(**{name: value})


def test_a_vae_to_begin_with_must_be_there(world):
    with pytest.raises(FileNotFoundError, match="there is no folder not/here; `minisd train vae` makes one"):
        VAETask(Options(start="not/here"), world)
