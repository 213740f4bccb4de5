"""What others chose, paths and what is in files, stands in messages escaped and cut."""

import json
import shutil

import pytest
import torch
from PIL import Image

import minisd
from minisd import VAE, StableDiffusion, TextEncoder, Tokenizer, UNet, emoji
from minisd.cli import main
from minisd.emoji import world
from minisd.export import to_onnx
from minisd.files import check_regular, read_json, read_text
from minisd.images import save_png
from minisd.messages import ShownPath
from minisd.play import find_site
from minisd.saving import atomic_folder, check_folder, finish_saving
from minisd.training.task import trained_folder

NASTY = "\x1b[2J\x1b]0;owned\x07\n\u202e"


def test_a_path_is_itself_and_shown_escaped(tmp_path):
    path = ShownPath(tmp_path) / "a\x07" / "b"
    path.parent.mkdir()
    path.write_text("here")
    assert str(path).endswith("b")
    assert "\x07" in str(path)
    assert path.resolve().read_text() == "here"
    assert f"{path.parent.resolve()}".endswith(r"a\x07")
    assert f"{path:>5000}".endswith("b")


@pytest.fixture
def nasty(tiny, tmp_path):
    """A model's folder with such a name; a file and a folder beside it have such names, too."""
    folder = tmp_path / NASTY / "sd1"
    shutil.copytree(tiny["sd1"], folder)
    (tmp_path / NASTY / "file").write_text("{")
    (tmp_path / NASTY / "x.safetensors").write_text("x")
    (tmp_path / NASTY / "x.ckpt").write_text("x")
    (tmp_path / NASTY / "files").mkdir()
    return folder


CALLS = {
    "nothing there": lambda at: StableDiffusion.from_pretrained(at / "x"),
    "nothing at a relative path": lambda at: StableDiffusion.from_pretrained(f"{NASTY}.ckpt"),
    "a part": lambda at: StableDiffusion.from_pretrained(at / "unet"),
    "a folder of files": lambda at: StableDiffusion.from_pretrained(at.parent),
    "no pickle": lambda at: StableDiffusion.from_pretrained(at.parent / "x.ckpt"),
    "no safetensors": lambda at: StableDiffusion.from_pretrained(at.parent / "x.safetensors"),
    "no such variant": lambda at: StableDiffusion.from_pretrained(at, variant=NASTY),
    "a variant of a file": lambda at: StableDiffusion.from_pretrained(at.parent / "x.ckpt", variant="fp16"),
    "no such sampler": lambda at: StableDiffusion.from_pretrained(at, scheduler=NASTY),
    "another network": lambda at: UNet.from_pretrained(at / "vae"),
    "no network": lambda at: VAE.from_pretrained(at),
    "no weights": lambda at: (at / "text_encoder/model.safetensors").unlink() or TextEncoder.from_pretrained(
        at / "text_encoder"),
    "no tokenizer": lambda at: Tokenizer.from_pretrained(at),
    "a bad tokenizer": lambda at: (at / "tokenizer/merges.txt").write_text("a b c") and Tokenizer.from_pretrained(
        at / "tokenizer"),
    "no scheduler": lambda at: minisd.DDIMScheduler.from_config(at),
    "no LoRA": lambda at: StableDiffusion.from_pretrained(at).load_lora(at / "x"),
    "a folder without a LoRA": lambda at: StableDiffusion.from_pretrained(at).load_lora(at.parent / "files"),
    "several LoRAs": lambda at: shutil.copy(at.parent / "x.ckpt", at.parent / "y.safetensors")
    and StableDiffusion.from_pretrained(at).load_lora(at.parent),
    "saved into a file": lambda at: StableDiffusion.from_pretrained(at).save_pretrained(at.parent / "file"),
    "a scheduler into a file": lambda at: minisd.DDIMScheduler().save_pretrained(at.parent / "file" / "x"),
    "a folder in a file": lambda at: atomic_folder(at.parent / "file").__enter__(),
    "a folder to be checked": lambda at: check_folder(at.parent / "file"),
    "a picture in no folder": lambda at: save_png(Image.new("RGB", (8, 8)), at / "x" / "x.png", {}),
    "a forged journal": lambda at: (at / ".minisd-saving.json").write_text("{}") and finish_saving(at),
    "a journal": lambda at: (at / ".minisd-saving.json").write_text("{}") and UNet.from_pretrained(at / "unet"),
    "no JSON": lambda at: read_json(at.parent / "file"),
    "no text": lambda at: read_text(at / "x"),
    "no file": lambda at: check_regular(at),
    "an export": lambda at: to_onnx(StableDiffusion.from_pretrained(at), at.parent / "file"),
    "no site": lambda at: find_site(at),
    "no data": lambda at: emoji.EmojiData(folder=at),
    "no world": lambda at: world.EmojiData(folder=at),
    "no trained model": lambda at: trained_folder("vae", str(at / "x")),
    "a prompt": lambda at: StableDiffusion.from_pretrained(at).text_to_image(NASTY + "\ud800"),
}


@pytest.mark.parametrize("what", CALLS)
def test_no_message_commands_a_terminal(nasty, what):
    with pytest.raises((ValueError, OSError)) as raised:
        CALLS[what](nasty)
    assert str(raised.value).isprintable()


def test_no_line_of_the_command_line_does(nasty, capsys):
    for arguments in (["info", nasty / "x"], ["generate", "a cat", "--model", nasty, "--out", nasty.parent / "file"],
                      ["img2img", "a cat", nasty / "x.png"], ["inpaint", "a cat", nasty / "x", nasty / "y"],
                      ["evaluate", "--out", nasty.parent / "file"], ["export", "onnx", "--model", nasty / "x"],
                      ["play", "--site", nasty], ["generate", "a", "--lora", nasty / "x", "--out", nasty / "o"],
                      ["train", "unet", "--vae", nasty / "x", "--out", nasty.parent / "run"]):
        assert main([str(one) for one in arguments]) == 2
    assert main(["generate", "a cat", "--model", str(nasty), "--out", str(nasty / "o"), "--steps", "1"]) == 0
    assert main(["info", str(nasty)]) == 0
    shown = capsys.readouterr()
    for line in (shown.out + shown.err).splitlines():
        assert all(c.isprintable() for c in line.rpartition("\r")[2]), line  # \r: the progress bar


LONG = "\x1b[2J" * 10_000


@pytest.mark.parametrize(("file", "content"), [
    ("tokenizer/merges.txt", f"{LONG} {LONG}"),
    ("tokenizer/added_tokens.json", json.dumps({LONG: 5})),
    ("tokenizer/added_tokens.json", json.dumps({"<cat>": LONG})),
    ("tokenizer/tokenizer_config.json", json.dumps({"added_tokens_decoder": {LONG: {"content": "<cat>"}}})),
    ("tokenizer/tokenizer_config.json", json.dumps({"added_tokens_decoder": {"5": {"content": LONG}}})),
    ("tokenizer/tokenizer_config.json", json.dumps({"added_tokens_decoder": {"5": [LONG]}})),
    ("tokenizer/tokenizer_config.json", json.dumps({"pad_token": LONG})),
    ("tokenizer/special_tokens_map.json", json.dumps({"pad_token": {"content": [LONG]}})),
    ("tokenizer/tokenizer.json", json.dumps({"added_tokens": [{"content": LONG, "id": LONG}]})),
    ("tokenizer/vocab.json", json.dumps({LONG: LONG})),
    ("text_encoder/config.json", json.dumps({"hidden_act": LONG})),
    ("text_encoder/config.json", json.dumps({"bos_token_id": LONG})),
    ("unet/config.json", json.dumps({"down_block_types": [LONG]})),
    ("unet/config.json", json.dumps({"addition_embed_type": LONG})),
    ("vae/config.json", json.dumps({"down_block_types": [LONG]})),
    ("scheduler/scheduler_config.json", json.dumps({"beta_start": LONG})),
    ("scheduler/scheduler_config.json", json.dumps({"num_train_timesteps": LONG})),
    ("scheduler/scheduler_config.json", json.dumps({"predict_epsilon": False, "prediction_type": LONG})),
    ("scheduler/scheduler_config.json", json.dumps({"_class_name": "LCMScheduler", "timestep_scaling": LONG})),
    ("scheduler/scheduler_config.json", json.dumps({"sigma_max": LONG})),
    ("model_index.json", json.dumps({"_class_name": LONG})),
    ("model_index.json", json.dumps({"_class_name": "StableDiffusionPipeline", "_guidance_scale": LONG})),
])
def test_what_is_in_a_file_is_escaped_and_cut(tiny, tmp_path, file, content):
    path = shutil.copytree(tiny["sd1"], tmp_path / "sd1") / file
    if path.exists() and path.suffix == ".json" and "tokenizer/" not in file:
        content = json.dumps(json.loads(path.read_text()) | json.loads(content))
    path.write_text(content)
    for other in ("tokenizer_config.json", "special_tokens_map.json"):  # which would count instead
        if "tokenizer/" in file and path.name != other:
            (path.parent / other).unlink()
    with pytest.raises(ValueError, match="sd1") as raised:
        StableDiffusion.from_pretrained(tmp_path / "sd1")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("settings", [{"lora_alpha": LONG}, {"alpha_pattern": {LONG: 1}}])
def test_so_is_what_is_in_a_loras_settings(tiny, tmp_path, settings):
    from safetensors.torch import save_file

    sd = StableDiffusion.from_pretrained(tiny["sd1"])
    name = "base_model.model.unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{name}.lora_A.weight": torch.zeros(1, 64), f"{name}.lora_B.weight": torch.zeros(64, 1)},
              tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"alpha") as raised:
        sd.load_lora(tmp_path)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 2000
