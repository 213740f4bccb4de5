"""Bad input of every kind gets an error that says what is wrong and what would be right."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import minisd
from minisd import VAE, StableDiffusion, TextEncoder, UNet

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sd(tiny) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of a tiny checkpoint, to be damaged."""
    return shutil.copytree(tiny["sd1"], tmp_path / "checkpoint")


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def grey(height: int = 64, width: int = 64, mode: str = "L") -> Image.Image:
    return Image.fromarray(np.full((height, width), 128, np.uint8)).convert(mode)


# --- weight files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [
    lambda data: data[: len(data) // 2],  # truncated
    lambda data: data[:5],  # cut off before the end of the header
    lambda data: b"",
    lambda data: data + b"\0" * 8,  # longer than its header says
    lambda data: b"\xff" * 8 + data[8:],  # a header of absurd length
    lambda data: b"<!DOCTYPE html><html>Not found</html>",  # a web page saved under that name
], ids=["half", "no-header", "empty", "too-long", "absurd-header", "web-page"])
def test_damaged_safetensors(folder, damage):
    path = folder / UNET_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is damaged or not a safetensors file"):
        StableDiffusion.from_pretrained(folder)


def test_missing_extra_and_misshapen_tensors_are_all_named(folder):
    weights = load_file(folder / UNET_FILE)
    del weights["conv_in.weight"]
    weights["conv_in.weights"] = torch.zeros(3)
    weights["conv_out.bias"] = torch.zeros(7)
    save_file(weights, folder / UNET_FILE)
    with pytest.raises(ValueError, match="the weights do not fit the config") as raised:
        StableDiffusion.from_pretrained(folder)
    message = str(raised.value)
    assert str(folder / "unet") in message
    assert "missing: conv_in.weight;" in message
    assert "not part of this network: conv_in.weights;" in message
    assert "wrong shape: conv_out.bias (7,) instead of (4,)" in message


def test_only_the_first_of_many_missing_tensors_are_listed(folder):
    weights = load_file(folder / UNET_FILE)
    save_file({"conv_in.bias": weights["conv_in.bias"]}, folder / UNET_FILE)
    with pytest.raises(ValueError, match=rf"missing: conv_in\.weight, .* and {len(weights) - 1 - 5} more$"):
        UNet.from_pretrained(folder / "unet")


def test_quantised_weights(folder):
    weights = load_file(folder / UNET_FILE)
    save_file(weights | {"conv_in.weight": weights["conv_in.weight"].to(torch.int8)}, folder / UNET_FILE)
    with pytest.raises(ValueError, match=r"as in a quantised model: conv_in\.weight \(torch\.int8\)"):
        StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a.safetensors"]}, {"weight_map": {"conv_in.weight": 1}}])
def test_an_index_that_maps_nothing(folder, index):
    (folder / UNET_FILE).unlink()
    (folder / f"{UNET_FILE}.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="weight_map must map each tensor to the name of its file"):
        StableDiffusion.from_pretrained(folder)


def test_a_dtype_by_its_name(sd, tmp_path):
    with pytest.raises(TypeError, match=r"dtype='float16'; it must be a torch dtype such as torch\.float16"):
        sd.save_pretrained(tmp_path / "new", dtype="float16")
    assert not (tmp_path / "new").exists()


class Attack:
    """When it is unpickled without care, this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))],
                         ids=["torch", "pickle"])
def test_a_malicious_pickle_is_not_run(tmp_path, save):
    file = tmp_path / "model.ckpt"
    save({"state_dict": {"model.diffusion_model.out.0.bias": torch.zeros(3)}, "x": Attack(tmp_path / "owned")}, file)
    with pytest.raises(ValueError, match=r"model\.ckpt was not opened: .* run code .* Use the \.safetensors file"):
        StableDiffusion.from_pretrained(file)
    assert not (tmp_path / "owned").exists()
    if save is torch.save:  # the attack does work
        torch.load(file, weights_only=False)
        assert (tmp_path / "owned").is_dir()


def test_bin_files_are_not_opened(folder):
    (folder / UNET_FILE).rename(folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"there is diffusion_pytorch_model\.bin \(\.bin files are pickles"):
        StableDiffusion.from_pretrained(folder)


def test_no_weights_and_no_config(folder):
    (folder / UNET_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"no diffusion_pytorch_model\.safetensors in .*no weight file at all"):
        StableDiffusion.from_pretrained(folder)
    shutil.rmtree(folder / "unet")
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist, and neither does the folder"):
        StableDiffusion.from_pretrained(folder)


def test_an_fp16_file_that_is_not_there(folder):
    with pytest.raises(FileNotFoundError, match=r"holds no fp16 weights; StableDiffusion\.from_pretrained\(.*\) opens"):
        StableDiffusion.from_pretrained(folder, variant="fp16")


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize(("tensors", "part"), [
    ({"alphas": torch.ones(3)}, "U-Net"),
    ({"model.diffusion_model.out.0.bias": torch.ones(3)}, "VAE"),
    ({"model.diffusion_model.out.0.bias": torch.ones(3), "first_stage_model.x": torch.ones(3)}, "text encoder")])
def test_a_single_file_of_another_model(tmp_path, name, tensors, part):
    (torch.save if name.endswith("ckpt") else save_file)(tensors, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} holds no {part} .* not a whole Stable Diffusion"):
        StableDiffusion.from_pretrained(tmp_path / name)


def test_a_single_file_of_another_layout(tmp_path):
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.")
    save_file({f"{prefix}layer.weight": torch.ones(3) for prefix in prefixes}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"not a whole Stable Diffusion .* checkpoint: its layout is a different one"):
        StableDiffusion.from_pretrained(tmp_path / "model.safetensors")


def test_a_single_file_without_tensors_or_with_a_variant(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "empty.ckpt")
    with pytest.raises(ValueError, match="holds no tensors under 'state_dict'"):
        StableDiffusion.from_pretrained(tmp_path / "empty.ckpt")
    with pytest.raises(ValueError, match="variant='fp16' chooses among the files of a folder"):
        StableDiffusion.from_pretrained(tmp_path / "empty.ckpt", variant="fp16")


# --- configs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "changes", "message"), [
    ("unet", {"_class_name": "UNet2DModel"}, "config.json is that of a UNet2DModel, not of a UNet"),
    ("vae", {"_class_name": "AsymmetricAutoencoderKL"}, "is that of a AsymmetricAutoencoderKL, not of a VAE"),
    ("text_encoder", {"model_type": "bert"}, "is that of a bert, not of a TextEncoder"),
    # Stable Diffusion XL's U-Net and text encoder
    ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type='text_time' is not supported; it must be None"),
    ("unet", {"transformer_layers_per_block": [1, 2, 10]}, r"transformer_layers_per_block=\[1, 2, 10\] is not supp"),
    ("unet", {"number_of_layers": 3}, "unknown field 'number_of_layers' .value 3.; known are .*layers_per_block"),
    ("unet", {"act_fn": "gelu"}, "act_fn='gelu' is not supported; it must be 'silu'"),
    ("unet", {"down_block_types": ["DownBlock2D", "SimpleCrossAttnDownBlock2D"]}, "down_block_types=.* must be 2 nam"),
    ("unet", {"attention_head_dim": [8, 8, 8]}, r"attention_head_dim=\(8, 8, 8\) must be one number or 2"),
    ("vae", {"use_quant_conv": False}, "use_quant_conv=False is not supported; it must be True"),
    ("vae", {"down_block_types": ["DownBlock2D"] * 4}, "down_block_types=.* must be 'DownEncoderBlock2D' 4 times"),
    ("text_encoder", {"hidden_act": "relu"}, "hidden_act='relu' is not supported; it must be 'quick_gelu' or 'gelu'"),
    ("unet", {"block_out_channels": [32, 96]}, "wrong shape: .* instead of"),
    # values of the wrong type, or absurd
    ("unet", {"block_out_channels": "wide"}, "block_out_channels='wide' makes no sense; it must be a list, each"),
    ("unet", {"block_out_channels": []}, r"block_out_channels=\[\] makes no sense; it must be a list, each a wh"),
    ("unet", {"block_out_channels": [32, -64]}, r"block_out_channels=\[32, -64\] makes no sense"),
    ("unet", {"layers_per_block": 10**9}, "layers_per_block=1000000000 makes no sense"),
    ("unet", {"layers_per_block": 101}, "layers_per_block=101 makes no sense; it must be a whole number from 1 to 100"),
    ("text_encoder", {"num_hidden_layers": 101}, "num_hidden_layers=101 makes no sense"),
    ("text_encoder", {"pad_token_id": -1}, "pad_token_id=-1 makes no sense; it must be a whole number from 0"),
    ("unet", {"in_channels": True}, "in_channels=True makes no sense"),
    ("unet", {"attention_head_dim": "8"}, "attention_head_dim='8' .* a whole number from .* or a list, each a w"),
    ("vae", {"scaling_factor": "0.18"}, "scaling_factor='0.18' makes no sense; it must be a positive number"),
    ("vae", {"scaling_factor": float("nan")}, "scaling_factor=nan makes no sense"),
    ("text_encoder", {"num_attention_heads": 3}, "num_attention_heads=3 does not divide hidden_size=64"),
])
def test_config_of_another_model(folder, part, changes, message):
    edit(folder / part / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as raised:
        StableDiffusion.from_pretrained(folder)
    assert {"unet": "UNet", "vae": "VAE", "text_encoder": "TextEncoder"}[part] in str(raised.value) or \
        str(folder / part) in str(raised.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"beta_start": "small"}, "beta_start='small', .* both must be between 0 and 1"),
    ({"beta_end": float("nan")}, "beta_end=nan; both must be"),
    ({"num_train_timesteps": 10**9}, "num_train_timesteps=1000000000; it must be a whole number from 2 to 100000"),
    ({"trained_betas": "0.1"}, "trained_betas must be a list of numbers between 0 and 1"),
    ({"_class_name": "DDIMScheduler", "clip_sample_range": None}, "clip_sample_range=None; it must be a number above"),
])
def test_scheduler_configs_without_sense(folder, changes, message):
    edit(folder / "scheduler/scheduler_config.json", **changes)
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(folder)


def test_damaged_tokenizers(folder):
    vocab = json.loads((folder / "tokenizer/vocab.json").read_text())
    for wrong in (vocab | {"!": 1.5}, vocab | {"!": vocab["a"]}, vocab | {"!": [0]}, vocab | {"!": -1}):
        (folder / "tokenizer/vocab.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="vocab must give every token a different whole number, 0 or more"):
            StableDiffusion.from_pretrained(folder)
    (folder / "tokenizer/merges.txt").write_bytes(b"#version: 0.2\n\xff\xfe t h")
    with pytest.raises(ValueError, match=r"merges\.txt is damaged: it is not UTF-8 text"):
        StableDiffusion.from_pretrained(folder)


def test_pipelines_and_schedulers_of_other_models(folder):
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    edit(folder / "scheduler/scheduler_config.json", _class_name="UniPCMultistepScheduler")
    with pytest.raises(ValueError, match=r"'UniPCMultistepScheduler' is not known; minisd has ddpm \(DDPMScheduler\)"):
        StableDiffusion.from_pretrained(folder)
    edit(folder / "scheduler/scheduler_config.json", _class_name=["DDIMScheduler"])
    with pytest.raises(ValueError, match=r"\['DDIMScheduler'\] is not known"):
        StableDiffusion.from_pretrained(folder)
    edit(folder / "scheduler/scheduler_config.json", **scheduler, shifts=3.0)
    with pytest.raises(ValueError, match=r"unknown field 'shifts' \(value 3\.0\)"):
        StableDiffusion.from_pretrained(folder)
    edit(folder / "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(ValueError, match="describes a StableDiffusionXLPipeline; minisd opens StableDiffusionPipel"):
        StableDiffusion.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="unet is one part of a model; give the folder that holds unet, vae"):
        StableDiffusion.from_pretrained(folder / "unet")


@pytest.mark.parametrize("content", ["{", "[1]", "", "[" * 100_000])
def test_configs_that_are_no_json(folder, content):
    (folder / "unet/config.json").write_text(content)
    with pytest.raises(ValueError, match=r"unet/config\.json (is not valid JSON|holds a list, not an object)"):
        StableDiffusion.from_pretrained(folder)


def test_parts_that_do_not_belong_together(tiny, folder, sd):
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
        shutil.copytree(tiny["sd2"] / part, folder / part)
    with pytest.raises(ValueError, match="the U-Net attends to text of width 64, the text encoder's is 128"):
        StableDiffusion.from_pretrained(folder)
    size = sd.tokenizer.vocab_size
    vocab = sd.tokenizer.vocab | {"one more": size}
    with pytest.raises(ValueError, match=f"the tokenizer's ids go up to {size}, the text encoder has {size} tokens"):
        StableDiffusion(minisd.Tokenizer(vocab, sd.tokenizer.merges), sd.text_encoder, sd.unet, sd.vae, sd.scheduler)


# --- where a checkpoint comes from ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["nothing-here", "folder/that/is/not/there", "sd15.ckpt", "models/sd15.safetensors",
                                    "/no/folder"])
def test_sources_that_do_not_exist(source):
    with pytest.raises(FileNotFoundError, match=f"{source} is neither a file nor a folder, nor one of mini, mini-inp"):
        StableDiffusion.from_pretrained(source)


def test_bundled_weights_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(minisd.checkpoint, "assets_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"the weights of mini should lie in .*; `minisd train` makes them"):
        StableDiffusion.from_pretrained("mini")


def test_no_network():
    with pytest.raises(FileNotFoundError) as raised:
        StableDiffusion.from_pretrained("someone/some-model")
    message = str(raised.value)
    assert message.startswith("there is no folder someone/some-model here, and it could not be fetched from the Hub (")
    assert "run `hf download someone/some-model --include " in message
    assert " --local-dir some-model`, and pass that folder" in message
    assert "\n" not in message


@pytest.mark.parametrize(("keywords", "message"), [
    ({"dtype": torch.float16}, "float16 is about 100 times slower than float32 on a CPU; use torch.float32"),
    ({"device": "toaster"}, "device='toaster' cannot be used on this computer .*'cpu' always can"),
    ({"device": "cuda:99"}, "device='cuda:99' cannot be used on this computer"),
    ({"scheduler": "best"}, r"scheduler 'best' is not known; minisd has ddpm \(DDPMScheduler\), ddim"),
])
def test_keywords_of_from_pretrained(tiny, keywords, message):
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(tiny["sd1"], **{"device": "cpu"} | keywords)


# --- the three jobs -------------------------------------------------------------------------------------------


SHARED = [
    ({"prompt": 5}, TypeError, "prompt must be a string or a list of strings, not int"),
    ({"prompt": None}, TypeError, "prompt must be a string or a list of strings, not NoneType"),
    ({"prompt": ["a", 5]}, TypeError, "prompt must be a string or a list of strings; item 1 is a int"),
    ({"prompt": b"a cat"}, TypeError, "prompt must be a string or a list of strings, not bytes"),
    ({"prompt": "half a \ud83c"}, ValueError, "prompt: item 0, .* contains an unpaired surrogate"),
    ({"prompt": []}, ValueError, "prompt is an empty list; give at least one"),
    ({"negative_prompt": 5}, TypeError, "negative_prompt must be a string or a list of strings, not int"),
    ({"negative_prompt": None}, TypeError, "negative_prompt must be a string or a list of strings, not NoneType"),
    ({"negative_prompt": ["a", "b"]}, ValueError, "negative_prompt: 2 for 1 prompts; give one, or one for each"),
    ({"num_inference_steps": 0}, ValueError, "num_inference_steps=0; it must be a whole number from 1 to 1000"),
    ({"num_inference_steps": -3}, ValueError, "num_inference_steps=-3; it must be"),
    ({"num_inference_steps": 2000}, ValueError, "num_inference_steps=2000; it must be a whole number from 1 to 1000"),
    ({"num_inference_steps": 7.5}, ValueError, "num_inference_steps=7.5; it must be a whole number"),
    ({"guidance_scale": -1e5}, ValueError, "guidance_scale=-100000.0; it must be a number from -10,000"),
    ({"guidance_scale": float("nan")}, ValueError, "guidance_scale=nan; it must be"),
    ({"guidance_scale": float("inf")}, ValueError, "guidance_scale=inf; it must be"),
    ({"num_inference_steps": True}, ValueError, "num_inference_steps=True; it must be a whole number"),
    ({"num_images": 0}, ValueError, "num_images=0; it must be a whole number from 1"),
    ({"num_images": 1.5}, ValueError, "num_images=1.5; it must be"),
    ({"seed": -1}, ValueError, "seed=-1; it must be a whole number from 0"),
    ({"seed": 2**63}, ValueError, "seed=9223372036854775808; it must be"),
    ({"seed": 1.0}, ValueError, "seed=1.0; it must be"),
    ({"seed": 1, "generator": torch.Generator()}, ValueError, "seed and generator were both given"),
    ({"generator": 7}, TypeError, "generator is a int; it must be a torch.Generator or a list of them"),
    ({"generator": [None]}, TypeError, r"generator\[0\] is a NoneType; it must be a torch.Generator"),
    ({"generator": [torch.Generator()] * 2}, ValueError, "generator: a list of 2 for a batch of 1; give one"),
    ({"latents": torch.zeros(1, 4, 8, 9)}, ValueError, r"latents have shape \(1, 4, 8, 9\); .* must be \(1, 4, 8, 8\)"),
    ({"latents": torch.zeros(2, 4, 8, 8)}, ValueError, r"latents have shape \(2, 4, 8, 8\)"),
    ({"output": "jpeg"}, ValueError, "output='jpeg'; it must be 'pil', 'pt' or 'latent'"),
]
REDRAW = [
    ({"strength": 0}, ValueError, "strength=0; it must be above 0 and at most 1"),
    ({"strength": -0.5}, ValueError, "strength=-0.5; it must be"),
    ({"strength": 1.01}, ValueError, "strength=1.01; it must be"),
    ({"strength": float("nan")}, ValueError, "strength=nan; it must be"),
    ({"strength": 0.2}, ValueError, "strength=0.2 of 4 steps leaves none to run; it must be at least 0.25"),
    ({"strength": 0.333, "num_inference_steps": 3}, ValueError, "leaves none to run; it must be at least 0.334"),
    ({"image": "cat.png"}, TypeError, "image must be a Pillow image, a list of them or a tensor, not str"),
    ({"image": np.zeros((64, 64, 3))}, TypeError, "image must be a Pillow image, .* not ndarray"),
    ({"image": [grey(mode="RGB"), None]}, TypeError, "image must be a Pillow image, .* not NoneType"),
    ({"image": []}, ValueError, "image is an empty list; give at least one"),
    ({"image": grey(mode="L")}, ValueError, r"image has mode L; convert it first: image\.convert\('RGB'\)"),
    ({"image": grey(mode="RGBA")}, ValueError, "image has mode RGBA; convert it first"),
    ({"image": grey(mode="P")}, ValueError, "image has mode P; convert it first"),
    ({"image": grey().convert("I")}, ValueError, r"image has more than 8 bits per channel \(mode I\)"),
    ({"image": grey(60, 64, "RGB")}, ValueError, "image: height is 60 pixels; .* divisible by 8, for example 64"),
    ({"image": grey(64, 3, "RGB")}, ValueError, "image: width is 3 pixels; it must be divisible by 8, for example 8"),
    ({"image": [grey(64, 64, "RGB"), grey(64, 72, "RGB")]}, ValueError, r"different sizes, \(64, 64\) and \(72, 64\)"),
    ({"image": [grey(64, 64, "RGB")] * 2}, ValueError, "image: 2 for a batch of 1; give one, or one for each prompt"),
    ({"image": torch.zeros(3, 64, 64)}, ValueError, r"image has shape \(3, 64, 64\); a tensor must be \(B, 3, H, W\)"),
    ({"image": torch.zeros(1, 1, 64, 64)}, ValueError, r"image has shape \(1, 1, 64, 64\)"),
    ({"image": torch.zeros(0, 3, 64, 64)}, ValueError, r"image has shape \(0, 3, 64, 64\)"),
    ({"image": torch.full((1, 3, 64, 64), 255)}, ValueError, r"image has dtype torch\.int64; .* floating point"),
    ({"image": torch.full((1, 3, 64, 64), 255.0)}, ValueError, r"values from 255\.00 .* must be in \[-1, 1\]"),
    ({"image": torch.full((1, 3, 64, 64), torch.nan)}, ValueError, "values from nan to nan"),
]
MASKS = [
    ({"mask": grey(64, 72)}, ValueError, "mask is 72×64 pixels, the image 64×64; they must have the same size"),
    ({"mask": grey(mode="RGB")}, ValueError, r"mask has mode RGB; it must be greyscale, white to repaint"),
    ({"mask": grey().convert("F")}, ValueError, r"mask has more than 8 bits per channel \(mode F\)"),
    ({"mask": torch.zeros(0, 1, 64, 64)}, ValueError, r"mask has shape \(0, 1, 64, 64\)"),
    ({"mask": torch.zeros(64, 64)}, ValueError, r"mask has shape \(64, 64\); a tensor must be \(B, 1, H, W\)"),
    ({"mask": torch.zeros(1, 3, 64, 64)}, ValueError, r"mask has shape \(1, 3, 64, 64\)"),
    ({"mask": torch.zeros(1, 1, 8, 8)}, ValueError, "mask is 8×8 pixels, the image 64×64"),
    ({"mask": torch.full((1, 1, 64, 64), 255.0)}, ValueError, r"values from 255\.00 .* must be in \[0, 1\]"),
    ({"mask": torch.full((1, 1, 64, 64), torch.nan)}, ValueError, "mask has values from nan to nan"),
    ({"mask": torch.zeros(2, 1, 64, 64)}, ValueError, "mask: 2 for a batch of 1; give one"),
    ({"mask": None}, TypeError, "mask must be a Pillow image or a tensor, not NoneType"),
]
SIZES = [
    ({"height": 60}, ValueError, "height is 60 pixels; it must be divisible by 8, for example 64"),
    ({"width": 4}, ValueError, "width is 4 pixels; it must be divisible by 8, for example 8"),
    ({"height": 0}, ValueError, "height is 0 pixels; it must be divisible by 8"),
    ({"width": -64}, ValueError, "width is -64 pixels; it must be divisible by 8"),
    ({"height": 64.0}, ValueError, "height is 64.0; it must be a whole number of pixels divisible by 8"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), SHARED + SIZES)
def test_text_to_image(sd, arguments, error, message):
    with pytest.raises(error, match=message):
        sd.text_to_image(**{"prompt": "a cat", "num_inference_steps": 4, "progress": False} | arguments)


@pytest.mark.parametrize(("arguments", "error", "message"), SHARED + REDRAW)
def test_image_to_image(sd, arguments, error, message):
    given = {"prompt": "a cat", "image": grey(mode="RGB"), "num_inference_steps": 4, "progress": False}
    with pytest.raises(error, match=message):
        sd.image_to_image(**given | arguments)


@pytest.mark.parametrize(("arguments", "error", "message"), SHARED + REDRAW + MASKS)
def test_inpaint(sd, arguments, error, message):
    given = {"prompt": "a cat", "image": grey(mode="RGB"), "mask": grey(), "num_inference_steps": 4, "progress": False}
    with pytest.raises(error, match=message):
        sd.inpaint(**given | arguments)


# --- the networks by themselves -------------------------------------------------------------------------------


def test_shapes_that_networks_refuse(sd):
    latents, context = torch.zeros(2, 4, 8, 8), torch.zeros(2, 77, 64)
    for bad in (torch.zeros(2, 9, 8, 8), torch.zeros(4, 8, 8)):
        with pytest.raises(ValueError, match=r"UNet: latents have shape .* must be \(B, 4, h, w\)"):
            sd.unet(bad, 1, context)
    for bad in (torch.zeros(1, 77, 64), torch.zeros(2, 77, 32), torch.zeros(2, 64)):
        with pytest.raises(ValueError, match=r"UNet: context has shape .* must be \(2, tokens, 64\)"):
            sd.unet(latents, 1, bad)
    with pytest.raises(ValueError, match=r"VAE\.encode: x has shape .* divisible by 8"):
        sd.vae.encode(torch.zeros(1, 3, 64, 60))
    with pytest.raises(ValueError, match=r"VAE\.decode: z has shape .* must be \(B, 4, h, w\)"):
        sd.vae.decode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"TextEncoder: token ids have shape \(1, 78\); .* at most 77"):
        sd.text_encoder(torch.zeros(1, 78, dtype=torch.long))
    with pytest.raises(ValueError, match="TextEncoder: token ids from 99999 to 99999; they must be from 0 to"):
        sd.text_encoder(torch.full((1, 77), 99999))
    with pytest.raises(ValueError, match="TextEncoder: token ids from -1 to 3; they must be from 0 to"):
        sd.text_encoder(torch.tensor([[-1, 3]]))
    for bad, what in ((torch.ones(1, 77), "torch.float32"), (torch.ones(1, 77).bool(), "torch.bool"), ([[1]], "list")):
        with pytest.raises(TypeError, match=f"token ids are {what}; they must be a tensor of whole numbers"):
            sd.text_encoder(bad)


@pytest.mark.parametrize(("network", "config", "message"), [
    (UNet, {"in_chanels": 4}, "UNetConfig: unknown field 'in_chanels'"),
    (UNet, {"attention_head_dim": 7}, "7 heads do not divide 320 channels"),
    (VAE, {"latents": 4}, "VAEConfig: unknown field 'latents'"),
    (TextEncoder, {"width": 512}, "TextEncoderConfig: unknown field 'width'"),
])
def test_configs_that_networks_refuse(network, config, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        network(**config)


def test_networks_called_with_shapes_that_do_not_fit(sd):
    latents, context = torch.zeros(2, 4, 8, 8), torch.zeros(2, 77, 64)
    with pytest.raises(ValueError, match=r"UNet: timesteps have shape \(3,\); give one number, or \(2,\)"):
        sd.unet(latents, torch.tensor([1, 2, 3]), context)
    with pytest.raises(ValueError, match=r"latents have shape \(2, 9, 8, 8\); they must be \(B, 4, h, w\)"):
        sd.unet(torch.zeros(2, 9, 8, 8), 1, context)


def test_an_inpainting_model_does_nothing_else(tiny):
    inpainter = StableDiffusion.from_pretrained(tiny["sd1-inpaint"], device="cpu")
    for call in (lambda: inpainter.text_to_image("a cat"),
                 lambda: inpainter.image_to_image("a cat", grey(mode="RGB"))):
        with pytest.raises(ValueError, match=r"this model inpaints .*: call inpaint\(\), or load a model with 4"):
            call()


def test_a_result_that_is_not_finite_is_not_handed_out_as_a_picture(tiny):
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    with torch.no_grad():
        sd.unet.conv_out.bias.fill_(torch.nan)
    for output in ("pil", "pt", "latent"):
        with pytest.raises(FloatingPointError, match=r"the result is not finite: neither are these weights, "
                                                     r"unet/conv_out\.bias; fetch the model again$"):
            sd.text_to_image("a cat", num_inference_steps=2, output=output, progress=False)
    with pytest.raises(FloatingPointError, match=r"not finite: a setting is far out of range, or half precision over"):
        StableDiffusion.from_pretrained(tiny["sd1"], device="cpu").decode_latents(torch.full((1, 4, 8, 8), 3e38))
