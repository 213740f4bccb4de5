"""What an acceptance test of loading, saving and marking found: one example of each kind."""

import json
import shutil
import subprocess
import sys

import nbformat
import pytest
import torch

from minisd import DDIMScheduler, StableDiffusion, Tokenizer, UNet
from minisd.emoji import EmojiData


@pytest.fixture(scope="module")
def data():
    return EmojiData("core")


@pytest.mark.parametrize("index", [-1, 1.5, True, "1", torch.tensor(1.0)])
def test_samples_are_counted_in_whole_numbers(data, index):
    with pytest.raises(ValueError, match=r"indices: .*it must be a whole number from 0"):
        data.batch([index], seed=0)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_so_are_seeds(data, seed):
    with pytest.raises(ValueError, match=r"seed: .*it must be a whole number from 0"):
        data.batch([0], seed=seed)


def test_a_variant_that_no_part_has(tiny):
    with pytest.raises(FileNotFoundError, match=r"no fp16 weights; StableDiffusion\.from_pretrained\('.*sd1'\) opens"):
        StableDiffusion.from_pretrained(tiny["sd1"], "cpu", variant="fp16")


def test_another_variant_than_the_one_that_is_there(tiny, tmp_path):
    StableDiffusion.from_pretrained(tiny["sd1"], "cpu").save_pretrained(tmp_path, torch.float16, variant="fp16")
    with pytest.raises(FileNotFoundError, match=r"holds no ema weights; .*variant='fp16'\) opens what is there"):
        StableDiffusion.from_pretrained(tmp_path, "cpu", variant="ema")


def test_encoder_and_decoder_by_themselves_take_any_precision(tiny):
    sd = StableDiffusion.from_pretrained(tiny["sd1"], "cpu", torch.bfloat16)
    with torch.no_grad():
        assert sd.vae.decoder(torch.randn(1, 4, 8, 8)).dtype == torch.bfloat16
        assert sd.vae.encoder(torch.randn(1, 3, 64, 64)).dtype == torch.bfloat16


def test_names_from_a_file_are_cut(tiny, tmp_path):
    shutil.copytree(tiny["sd1"], tmp_path / "model")
    path = tmp_path / "model/scheduler/scheduler_config.json"
    config = json.loads(path.read_text())
    for change in ({"_class_name": "x" * 3000}, {"x" * 3000: 1}, {"beta_schedule": "x" * 3000}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="xxx") as caught:
            StableDiffusion.from_pretrained(tmp_path / "model", "cpu")
        assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("said", [0, 1, "false", None])
def test_predict_epsilon_is_true_or_false(said):
    with pytest.raises(ValueError, match=r"predict_epsilon=.*must be true or false"):
        DDIMScheduler.from_config({"predict_epsilon": said})


@pytest.mark.parametrize("open_it", [
    lambda: UNet.from_pretrained("~/model/unet"), lambda: Tokenizer.from_pretrained("~/model/tokenizer"),
    lambda: DDIMScheduler.from_config("~/model/scheduler")])
def test_a_tilde_is_the_home_folder_wherever_something_is_opened(tiny, tmp_path, monkeypatch, open_it):
    shutil.copytree(tiny["sd1"], tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    open_it()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="closes a stream as shells on Unix do")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">/dev/full"])
def test_marking_writes_its_table_whatever_the_console_is(tmp_path, closed):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    nbformat.write(notebook, tmp_path / "01_noise.ipynb")
    table = tmp_path / "table.csv"
    subprocess.run(f'"{sys.executable}" -P -m minisd.exercises "{tmp_path}" --table "{table}" {closed}', shell=True,
                   check=True)
    assert "01_noise.ipynb" in table.read_text(encoding="utf-8-sig")
