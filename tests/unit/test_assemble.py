"""Trained parts become a model: what the folder holds, and that it opens."""

import csv
import shutil
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from minisd import VAE, StableDiffusion, TextEncoder, UNet
from minisd.training import assemble
from minisd.training.inpaint import widen


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(assemble, "SHOWN", ("a red apple on a blue background", "a panda"))
    for name in ("text_to_image", "inpaint"):
        monkeypatch.setattr(StableDiffusion, name, partialmethod(getattr(StableDiffusion, name), num_inference_steps=1))


@pytest.fixture
def runs(parts, tmp_path) -> Path:
    """Folders as the runs leave them, and one of an earlier VAE."""
    folder = tmp_path / "runs"
    shutil.copytree(parts, folder)
    (folder / "vae64").mkdir()
    for name, steps in (("vae64", 25), ("vae", 21), ("unet", 5)):
        with (folder / name / "log.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "seconds", "samples", "loss", "learning_rate", "gradient_norm"])
            writer.writerows([step, 0.5 * step, 8 * step, 1 / step, 0.001, 1.0] for step in range(1, steps + 1))
    (folder / "unet/scores.csv").write_text("step,samples,held-out loss\n5,40,0.5\n")
    for step in (3, 5):
        Image.new("RGB", (step, step)).save(folder / f"unet/picture-{step:07d}.png")
    return folder


def test_the_model_opens_with_all_its_parts_in_half_precision(runs, tmp_path):
    folder = tmp_path / "model"
    assemble.assemble(folder, runs / "vae", runs / "clip", runs / "unet", guidance=2.5)
    files = sorted(folder.rglob("*.safetensors"))
    assert [file.parent.name for file in files] == ["text_encoder", "unet", "vae"]
    for path in files:
        with safe_open(path, "pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    sd = StableDiffusion.from_pretrained(folder)
    for ours, network, origin in ((sd.vae, VAE, "vae/vae"), (sd.unet, UNet, "unet/unet"),
                                  (sd.text_encoder, TextEncoder, "clip/text_encoder")):
        weights = network.from_pretrained(runs / origin).state_dict()
        assert all(torch.equal(tensor.half(), weights[name].half()) for name, tensor in ours.state_dict().items())
    assert sd.vae.config.scaling_factor == 0.5
    assert sd.guidance_scale == 2.5
    config = sd.scheduler.config
    assert (config.prediction_type, config.beta_schedule, config.steps_offset) == ("v_prediction", "scaled_linear", 1)
    assert sd.tokenizer("a red apple").shape == (1, 77)
    with Image.open(folder / "samples.png") as picture:
        assert picture.width > 1000


def test_the_history_of_all_runs_comes_with_it(runs, tmp_path):
    assemble.assemble(tmp_path / "model", runs / "vae", runs / "clip", runs / "unet", [runs / "vae64"])
    history = tmp_path / "model/training"
    assert {path.name for path in history.iterdir()} == {
        "vae64.csv", "vae.csv", "unet.csv", "unet-scores.csv", "unet.png", "curves.png"}
    steps = {name: [int(row["step"]) for row in assemble.read_log(history / f"{name}.csv")]
             for name in ("vae64", "vae", "unet")}
    assert steps == {"vae64": [1, 11, 21, 25], "vae": [1, 11, 21], "unet": [1, 5]}  # every tenth, and the last
    assert (history / "unet-scores.csv").read_text() == (runs / "unet/scores.csv").read_text()
    with Image.open(history / "unet.png") as last:
        assert last.size == (5, 5)
    with Image.open(history / "curves.png") as curves:
        assert curves.width == pytest.approx(3 * 4.2 * 150, abs=2)  # a panel for each run


def test_a_step_of_the_curve_is_the_mean_around_it(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda self, x, y, **style: drawn.append((x, y)))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda self, **style: None)
    rows = [{"samples": str(1000 * i), "loss": str(i % 2 + 1), "seconds": "60"} for i in range(1, 401)]
    assemble.draw_curves({"run": rows}, tmp_path / "curves.png")
    (every, losses), (places, means) = drawn
    assert len(losses) == 400
    assert (every[0], every[-1]) == (1, 400)
    assert means.tolist() == pytest.approx([1.5] * 397)
    assert (places[0], places[-1]) == (4, 400)


def test_an_inpainting_model_is_shown_at_its_own_work(runs, tmp_path):
    widen(UNet.from_pretrained(runs / "unet/unet")).save_pretrained(runs / "inpaint/unet")
    model = tmp_path / "model"
    assemble.assemble(model, runs / "vae", runs / "clip", runs / "unet")
    assemble.assemble(tmp_path / "inpaint", model, model, runs / "inpaint")  # no run has left a log here
    assert not list((tmp_path / "inpaint/training").iterdir())
    sd = StableDiffusion.from_pretrained(tmp_path / "inpaint")
    assert sd.unet.config.in_channels == 9
    with Image.open(tmp_path / "inpaint/samples.png") as picture:
        assert picture.width > picture.height > 400


def test_the_command_knows_where_runs_are(monkeypatch):
    asked = []
    monkeypatch.setattr(assemble, "assemble", lambda **given: asked.append(given))
    monkeypatch.setattr(
        sys, "argv", ["assemble", "model", "--unet", "runs/other", "--guidance", "4", "--runs", "a", "b"])
    assemble.main()
    assert asked == [{"folder": Path("model"), "vae": Path("runs/vae"), "clip": Path("runs/clip"),
                      "unet": Path("runs/other"), "runs": [Path("a"), Path("b")], "guidance": 4}]
