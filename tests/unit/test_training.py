"""The loop: resuming, stopping and failing, on a toy task; then each real task for a few steps."""

import contextlib
import csv
import errno
import math
import os
import signal
from collections.abc import Iterator
from functools import partialmethod
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from minisd import VAE, TextEncoder, Tokenizer, UNet
from minisd.emoji.data import BACKGROUNDS, EmojiData, background_of
from minisd.training import inpaint, loop, unet, vae
from minisd.training.clip import CLIPTask
from minisd.training.clip import Options as CLIPOptions
from minisd.training.loop import Settings, train

pytestmark = pytest.mark.slow


class Toy(nn.Module):
    """Learns to halve its input. `explode_at` makes the loss infinite in that step, `signal_at` presses Ctrl-C."""

    def __init__(self, width: int = 4, explode_at: int | None = None, signal_at: int | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.width, self.explode_at, self.signal_at, self.steps = width, explode_at, signal_at, 0
        self.linear = nn.Linear(width, width)

    def config(self) -> dict:
        return {"width": self.width}

    def forward(self, batch):
        x = batch.draw(torch.randn, self.width)
        loss = (self.linear(x) - x / 2).square().mean()
        step, self.steps = self.steps, self.steps + 1
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        return loss * math.inf if step == self.explode_at else loss

    def picture(self) -> Image.Image:
        return Image.new("RGB", (4, 4))

    def export(self, folder: Path) -> None:
        torch.save(self.linear.weight.detach().clone(), folder / "weight.pt")


def settings(**changes) -> Settings:
    return Settings(**({"batch_size": 8, "steps": 20, "warmup": 5, "bf16": False} | changes))


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def state(folder: Path) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)


def test_learns_and_leaves_everything_behind(tmp_path):
    train(Toy(), settings(steps=300, learning_rate=0.05), tmp_path, quiet=True)
    curve = losses(tmp_path)
    assert len(curve) == 300
    assert sum(curve[-10:]) < 0.05 * sum(curve[:10])
    assert (tmp_path / "picture-0000300.png").exists()
    assert torch.load(tmp_path / "weight.pt", weights_only=True).diagonal().mean() == pytest.approx(0.5, abs=0.1)
    assert not list(tmp_path.glob("*.tmp"))


def test_resumed_run_ends_with_the_same_weights(tmp_path):
    train(Toy(), settings(), tmp_path / "whole", quiet=True)
    # Ctrl-C in step 12, then go on in what would be a new process
    train(Toy(signal_at=12), settings(), tmp_path / "parts", quiet=True)
    assert state(tmp_path / "parts")["step"] == 13
    train(Toy(), settings(), tmp_path / "parts", resume=True, quiet=True)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    for part in ("task", "average"):
        for name in whole[part]:
            assert torch.equal(whole[part][name], parts[part][name]), name
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    train(Toy(signal_at=3), settings(), tmp_path, quiet=True)
    assert "stopped after step 4" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before


def test_infinite_loss_keeps_the_last_good_state(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is inf .* step 10; the last good state is"):
        train(Toy(explode_at=10), settings(), tmp_path, save_every=0, quiet=True)
    saved = state(tmp_path)
    assert saved["step"] == 10
    assert all(torch.isfinite(tensor).all() for tensor in saved["task"].values())


def test_full_disk_keeps_the_last_good_state(tmp_path, monkeypatch):
    train(Toy(signal_at=5), settings(), tmp_path, quiet=True)
    before = (tmp_path / "state.pt").read_bytes()

    def full(state, path):
        Path(path).write_bytes(b"half a check")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop.torch, "save", full)
    with pytest.raises(OSError, match=r"could not save .*No space left.*last good state is kept"):
        train(Toy(), settings(), tmp_path, resume=True, quiet=True)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_full_disk_at_the_end_loses_nothing(tmp_path, monkeypatch):
    def full(self, folder):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "export", full)
        with pytest.raises(OSError, match=r"No space left.*--resume.*holds the finished run"):
            train(Toy(), settings(), tmp_path, quiet=True)
    train(Toy(), settings(), tmp_path, resume=True, quiet=True)
    assert (tmp_path / "weight.pt").exists()
    assert len(losses(tmp_path)) == 20  # no step was taken again


def test_wrong_resumes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(Toy(), settings(), tmp_path, resume=True, quiet=True)
    train(Toy(), settings(), tmp_path, quiet=True)
    with pytest.raises(FileExistsError, match="--resume"):
        train(Toy(), settings(), tmp_path, quiet=True)
    with pytest.raises(ValueError, match="config width=4, this run has width=6"):
        train(Toy(width=6), settings(), tmp_path, resume=True, quiet=True)
    with pytest.raises(ValueError, match="setting batch_size=8, this run has batch_size=16"):
        train(Toy(), settings(batch_size=16), tmp_path, resume=True, quiet=True)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"junk" * 100, lambda b: b""])
def test_damaged_state_is_named(tmp_path, damage):
    train(Toy(), settings(), tmp_path, quiet=True)
    file = tmp_path / "state.pt"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"state\.pt is damaged or not a checkpoint"):
        train(Toy(), settings(steps=30), tmp_path, resume=True, quiet=True)


@pytest.mark.parametrize("content", [[1, 2], {"step": 3}, {"config": {}, "settings": {}}])
def test_another_file_of_torch_is_no_state(tmp_path, content):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt is no checkpoint of a training run"):
        train(Toy(), settings(), tmp_path, resume=True, quiet=True)


def test_a_line_that_a_full_disk_cut_off_is_dropped(tmp_path):
    train(Toy(signal_at=12), settings(), tmp_path, quiet=True)
    for half in ("1", "14,0.1", "13,0.", "x,1,2,3,4,5"):
        with (tmp_path / "log.csv").open("a") as file:
            file.write(half)
        train(Toy(signal_at=0), settings(), tmp_path, resume=True, quiet=True)
    with (tmp_path / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(step) for step in range(1, 18)]


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError, match=r"taken is a file; name another folder"):
        train(Toy(), settings(), tmp_path / "taken" / "run", quiet=True)


def test_ctrl_c_while_saving_leaves_no_half_file(tmp_path, monkeypatch):
    train(Toy(signal_at=5), settings(), tmp_path, quiet=True)
    before = (tmp_path / "state.pt").read_bytes()

    def press(state, path):
        Path(path).write_bytes(b"half a check")
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.torch, "save", press)
    with pytest.raises(KeyboardInterrupt):
        train(Toy(), settings(), tmp_path, resume=True, quiet=True)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(("name", "value"), [
    ("seed", -1), ("seed", 2**32),
    ("batch_size", 0), ("learning_rate", -1.0), ("learning_rate", math.nan), ("warmup", 0), ("clip", 0.0),
    ("steps", -5), ("ema", 1.0), ("weight_decay", -0.1), ("device", "abacus")])
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        settings(**{name: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_said():
    with pytest.raises(ValueError, match="no GPU here"):
        settings(device="cuda")


def test_progress_is_lines_where_there_is_no_terminal(tmp_path, capsys):
    train(Toy(), settings(steps=2 * loop.LINE_EVERY), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 100", "step 200"]
    assert all("loss " in line and "images/s" in line for line in lines)


@pytest.mark.parametrize("length", [{}, {"steps": 5, "minutes": 1.0}])
def test_length_must_be_one_of_two(length):
    with pytest.raises(ValueError, match="either steps or minutes"):
        Settings(**length)


def test_minutes_end_a_run(tmp_path):
    train(Toy(), settings(steps=None, minutes=0.01), tmp_path, quiet=True)
    assert 0.5 < state(tmp_path)["seconds"] < 5


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [loop.learning_rate(settings(steps=100), step, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3 / 5)
    assert max(rates) == max(rates[:6])
    assert rates[-1] == 0
    assert all(a > b for a, b in pairwise(rates[5:]))


def test_a_task_lets_some_weights_learn_faster(tmp_path, monkeypatch):
    toy, used = Toy(), []
    toy.rates = {"linear.bias": 10.0}
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: used.append(
        {group["lr"]: [parameter.shape for parameter in group["params"]] for group in self.param_groups}))
    train(toy, settings(steps=10), tmp_path, quiet=True)
    rate = loop.learning_rate(settings(steps=10), 3, 0.3)
    assert used[3] == {rate: [(4, 4)], 10 * rate: [(4,)]}


# --- the real tasks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[Path]:
    """All four models, trained for two or three steps each, one on top of the other."""
    out, core = tmp_path_factory.mktemp("runs"), EmojiData("core")
    quick = pytest.MonkeyPatch()
    quick.setattr(unet.UNetTask, "sample", partialmethod(unet.UNetTask.sample, steps=2))
    train(vae.VAETask(vae.Options(subset="core"), core), settings(steps=2), out / "vae", quiet=True)
    train(CLIPTask(CLIPOptions(), core), settings(steps=2), out / "clip", quiet=True)
    options = {"vae": str(out / "vae/vae"), "text": str(out / "clip"), "pool": 16}
    train(unet.UNetTask(unet.Options(**options), core), settings(steps=3), out / "unet", quiet=True)
    options["unet"] = str(out / "unet/unet")
    train(inpaint.InpaintTask(inpaint.InpaintOptions(**options), core), settings(steps=2), out / "inpaint", quiet=True)
    yield out
    quick.undo()


def test_all_four_models_train_and_export(trained):
    for name, part in (("vae", "vae"), ("clip", "text_encoder"), ("unet", "unet"), ("inpaint", "unet")):
        assert all(math.isfinite(loss) for loss in losses(trained / name))
        assert (trained / name / part / "config.json").exists()
    with Image.open(next(trained.glob("unet/picture-*.png"))) as picture:
        assert picture.size == (8 * 64, 3 * 64)
    assert UNet.from_pretrained(trained / "inpaint/unet").config.in_channels == 9


@pytest.mark.parametrize(("small", "sizes"), [(None, {64}), (0.5, {32, 64}), (1.0, {32})])
def test_vae_sees_small_pictures_too(small, sizes):
    task, seen = vae.VAETask(vae.Options(subset="core", small=small), EmojiData("core")), []

    def encode(images):
        seen.append(images.shape[-1])
        raise StopIteration

    task.vae.encode = encode
    for step in range(12):
        with contextlib.suppress(StopIteration):
            task(loop.make_batch(settings(batch_size=1), step))
    assert set(seen) == sizes


def test_unet_begins_at_32_pixels_and_goes_on_at_64(trained, tmp_path):
    options = {"vae": str(trained / "vae/vae"), "text": str(trained / "clip"), "pool": 8}
    small = unet.UNetTask(unet.Options(**options, resolution=32), EmojiData("core"))
    train(small, settings(steps=1), tmp_path, quiet=True)
    assert small.pool["latents"].shape == (8, 4, 8, 8)
    with Image.open(tmp_path / "picture-0000001.png") as picture:
        assert picture.size == (8 * 32, 3 * 32)
    large = unet.UNetTask(unet.Options(**options, unet=str(tmp_path / "unet")), EmojiData("core"))
    assert (small.unet.config.sample_size, large.unet.config.sample_size) == (8, 16)
    exported = UNet.from_pretrained(tmp_path / "unet").state_dict()
    for name, parameter in large.unet.named_parameters():
        assert torch.equal(parameter, exported[name])
        assert parameter.requires_grad


@pytest.mark.parametrize(("missing", "model"), [("vae", "vae"), ("text", "clip"), ("unet", "unet")])
def test_what_must_be_trained_first_is_said(trained, missing, model):
    options = {"vae": str(trained / "vae/vae"), "text": str(trained / "clip"), "unet": str(trained / "unet/unet")}
    with pytest.raises(FileNotFoundError, match=f"there is no folder not/here; `minisd train {model}` makes one"):
        inpaint.InpaintTask(inpaint.InpaintOptions(**options | {missing: "not/here"}), EmojiData("core"))


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_captions_are_dropped_in_a_share_of_cases(share):
    with pytest.raises(ValueError, match=f"caption_dropout={share}: it must be from 0 to 1"):
        unet.UNetTask(unet.Options(caption_dropout=share), EmojiData("core"))


@pytest.mark.parametrize("gamma", [0.0, -5.0, float("nan")])
def test_min_snr_is_above_zero(gamma):
    with pytest.raises(ValueError, match=r"min_snr=.*: it must be above 0"):
        unet.UNetTask(unet.Options(min_snr=gamma), EmojiData("core"))


@pytest.mark.parametrize("share", [-0.1, 7.0, math.nan])
def test_small_pictures_are_a_share_of_the_batches(share):
    with pytest.raises(ValueError, match=f"small={share}: it must be from 0 to 1"):
        vae.VAETask(vae.Options(small=share), EmojiData("core"))


@pytest.mark.parametrize("wrong", [{"short_captions": 2.0}, {"short_captions": math.nan}, {"faster": 0.0}])
def test_inpainting_options_are_checked(wrong):
    (name, value), = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}: it must be"):
        inpaint.InpaintOptions(**wrong)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_captions_only_names_the_thing(trained, share):
    options = inpaint.InpaintOptions(vae=str(trained / "vae/vae"), text=str(trained / "clip"),
                                     unet=str(trained / "unet/unet"), short_captions=share)
    task = inpaint.InpaintTask(options, EmojiData("core"))
    assert task.rates == {"unet.conv_in.weight": 10.0}
    _, captions, scenes = task.data.batch(range(200), 0, resolution=32)
    made = task.captions(captions, scenes, range(200))
    short = [f"{c.article} {c.name}".strip() for c in (task.data.concept(scene.concept) for scene in scenes)]
    assert all(one in (long, brief) for one, long, brief in zip(made, captions, short))
    assert sum(one == brief for one, brief in zip(made, short)) / 200 == pytest.approx(share, abs=0.12)
    assert made[150:] == task.captions(captions[150:], scenes[150:], range(150, 200))


def test_training_goes_on_from_weights_in_half_precision(trained, tmp_path):
    for part, network in (("vae/vae", VAE), ("clip/text_encoder", TextEncoder), ("unet/unet", UNet)):
        network.from_pretrained(trained / part).save_pretrained(tmp_path / part, torch.float16)
    Tokenizer.from_pretrained(trained / "clip/tokenizer").save_pretrained(tmp_path / "clip/tokenizer")
    options = inpaint.InpaintOptions(vae=str(tmp_path / "vae/vae"), text=str(tmp_path / "clip"),
                                     unet=str(tmp_path / "unet/unet"), pool=8)
    task = inpaint.InpaintTask(options, EmojiData("core"))
    assert torch.isfinite(task(loop.make_batch(settings(batch_size=4), 0)))


def test_unet_of_another_text_encoder_is_refused(trained, tmp_path):
    UNet(**unet.MINI, cross_attention_dim=32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"text encoder of width 32; the one in .* has 128"):
        unet.UNetTask(unet.Options(vae=str(trained / "vae/vae"), text=str(trained / "clip"), unet=str(tmp_path)),
                      EmojiData("core"))


def test_latents_do_not_depend_on_the_batch(trained):
    autoencoder, images = VAE.from_pretrained(trained / "vae/vae"), torch.rand(4, 3, 32, 32) * 2 - 1
    together = unet.to_latents(autoencoder, images, range(4))
    torch.testing.assert_close(unet.to_latents(autoencoder, images[2:], range(2, 4)), together[2:], rtol=0, atol=1e-5)
    assert not torch.allclose(unet.to_latents(autoencoder, images[2:], range(2)), together[2:], atol=1e-2)


def test_clip_of_another_vocabulary_is_not_resumed(trained, monkeypatch):
    monkeypatch.setattr(EmojiData, "caption", lambda self, scene: f"one {scene.concept}")
    with pytest.raises(ValueError, match="was trained with config vocab"):
        train(CLIPTask(CLIPOptions(), EmojiData("core")), settings(steps=3), trained / "clip", resume=True, quiet=True)


def test_zero_shot_asks_for_the_word_that_differs(trained):
    # Two towers that know about backgrounds, and nothing else.
    def embed_captions(captions):
        return torch.tensor([[f" {word} background" in caption for word in BACKGROUNDS] for caption in captions])

    def embed_images(images):
        return torch.stack([torch.eye(len(BACKGROUNDS))[list(BACKGROUNDS).index(background_of(i))] for i in images])

    task = CLIPTask(CLIPOptions(), EmojiData("core"))
    task.tokenizer, task.clip.embed_text, task.clip.embed_images = embed_captions, torch.Tensor.float, embed_images
    assert task.zero_shot("background", count=32) > 0.95  # a large object may hide its background
    assert task.zero_shot("style", count=32) < 0.5


def test_widened_unet_computes_what_it_did_before(trained):
    narrow = UNet.from_pretrained(trained / "unet/unet")
    wide = inpaint.widen(narrow)
    torch.manual_seed(0)
    x, shown, context = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 16, 16), torch.randn(2, 77, 128)
    with torch.no_grad():
        before, after = narrow(x, 500, context), wide(torch.cat([x, shown], dim=1), 500, context)
    assert before.std() > 0
    torch.testing.assert_close(after, before)
    assert {p.data_ptr() for p in narrow.parameters()}.isdisjoint(p.data_ptr() for p in wide.parameters())


def test_masks_cover_some_but_not_all():
    masks = [inpaint.random_boxes_and_strokes(np.random.default_rng(i)) for i in range(50)]
    shares = [mask.mean() for mask in masks]
    assert all(set(mask.flatten().tolist()) <= {0.0, 1.0} for mask in masks)
    assert 0 < min(shares) < max(shares) < 0.95


def test_min_snr_weight_is_the_formula(trained):
    task = unet.UNetTask(unet.Options(vae=str(trained / "vae/vae"), text=str(trained / "clip")), EmojiData("core"))
    t = torch.tensor([0, 500, 999])
    alphas = task.scheduler.alphas_cumprod[t]
    snr = alphas / (1 - alphas)
    assert snr[0] > 5 > snr[1]
    torch.testing.assert_close(task.weight(t), torch.stack([5 / (snr[0] + 1), *(snr[1:] / (snr[1:] + 1))]))
