"""Checkpoints as they are found: old fields, extra tensors, missing variants, other models under the same roof."""

import collections
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from minisd import StableDiffusion, TextEncoder, UNet, cli, single_file
from minisd.files import assets_folder
from tests.tiny import CAPTIONS, TEXT_ENCODERS, quietly

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of a tiny checkpoint, to be changed."""
    return shutil.copytree(tiny["sd1"], tmp_path / "checkpoint")


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- configs of all years -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "changes"), [
    ("unet", {"sample_size": [8, 8], "layers_per_block": [2, 2], "cross_attention_dim": [64, 64],
              "transformer_layers_per_block": [1, 1], "only_cross_attention": [False, False]}),
    ("unet", {"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 100, "power": 0.75,
              "update_after_step": 0, "use_ema_warmup": False}),  # of diffusers' EMAModel
    ("vae", {"sample_size": [64, 64]}),
    ("text_encoder", {"use_cache": True, "return_dict": True, "gradient_checkpointing": False}),
])
def test_old_and_harmless_fields(tiny, folder, part, changes):
    edit(folder / part / "config.json", **changes)
    ours, before = (getattr(StableDiffusion.from_pretrained(one, device="cpu"), part) for one in (folder, tiny["sd1"]))
    assert ours.config == before.config


def test_no_padding_token_in_the_text_encoder(folder):
    edit(folder / "text_encoder/config.json", pad_token_id=None)
    assert TextEncoder.from_pretrained(folder / "text_encoder").config.pad_token_id is None


def test_a_byte_order_mark(folder):
    for path in folder.rglob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    merges = folder / "tokenizer/merges.txt"
    merges.write_bytes(b"\xef\xbb\xbf" + merges.read_bytes())
    StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize(("changes", "message"), [
    ({"layers_per_block": [2, 1]}, r"layers_per_block=\[2, 1\] makes no sense; it must be a whole number"),
    ({"layers_per_block": [2, 2, 2]}, r"layers_per_block=\[2, 2, 2\] makes no sense"),  # but two levels
    ({"sample_size": [8, 16]}, r"sample_size=\[8, 16\] makes no sense"),
    ({"norm_eps": 0.5}, r"norm_eps=0\.5 makes no sense; it must be a positive number from 1e-12 to 0\.001"),
    ({"sample_size": 1_000_000}, "sample_size=1000000 makes no sense; it must be a whole number from 1 to 8192"),
    ({"block_out_channels": [32] * 5000, "down_block_types": ["DownBlock2D"] * 5000,
      "up_block_types": ["UpBlock2D"] * 5000}, "block_out_channels=.* makes no sense; .* and of 10 at most"),
    ({"block_out_channels": [32] * 10, "down_block_types": ["CrossAttnDownBlock2D"] * 10, "layers_per_block": 90,
      "up_block_types": ["CrossAttnUpBlock2D"] * 10}, "10 levels, each of layers_per_block=90; .* not .* more than 50"),
])
def test_values_that_make_no_sense(folder, changes, message):
    edit(folder / "unet/config.json", **changes)
    with pytest.raises(ValueError, match=message) as raised:
        UNet.from_pretrained(folder / "unet")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(("part", "changes", "message"), [
    ("vae", {"scaling_factor": 1e30}, r"scaling_factor=1e\+30 makes no sense"),
    ("text_encoder", {"layer_norm_eps": 1}, "layer_norm_eps=1 makes no sense"),
    ("text_encoder", {"bos_token_id": 0}, r"config\.json: bos_token_id=0, but the tokenizer beside it has \d+"),
    ("text_encoder", {"eos_token_id": 3}, r"config\.json: eos_token_id=3, but the tokenizer beside it has \d+"),
])
def test_values_that_make_no_sense_in_other_parts(folder, part, changes, message):
    edit(folder / part / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(folder)


def test_the_ids_that_configs_of_2022_have(folder):
    """Those of Stable Diffusion 1.5 and 2.1: wrong, and used by nobody."""
    edit(folder / "text_encoder/config.json", bos_token_id=0, eos_token_id=2)
    StableDiffusion.from_pretrained(folder)


def test_an_infinite_clip_range(folder):
    edit(folder / "scheduler/scheduler_config.json", _class_name="DDIMScheduler", clip_sample_range=float("inf"))
    with pytest.raises(ValueError, match="clip_sample_range=inf; it must be a number above 0, and finite"):
        StableDiffusion.from_pretrained(folder)


def test_a_tokenizer_config_without_content(folder):
    (folder / "tokenizer/tokenizer_config.json").write_text("")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not valid JSON"):
        StableDiffusion.from_pretrained(folder)


# --- tensors of other networks --------------------------------------------------------------------------------


def test_the_projection_of_a_text_encoder_is_ignored(tiny, folder):
    path = folder / "text_encoder/model.safetensors"
    save_file(load_file(path) | {"text_projection.weight": torch.ones(64, 64)}, path)
    ours, before = (TextEncoder.from_pretrained(one / "text_encoder").state_dict() for one in (folder, tiny["sd1"]))
    assert ours.keys() == before.keys()
    assert all(torch.equal(ours[name], before[name]) for name in before)
    save_file(load_file(path) | {"projection.weight": torch.ones(64, 64)}, path)
    with pytest.raises(ValueError, match=r"not part of this network: text_model\.projection\.weight"):
        TextEncoder.from_pretrained(folder / "text_encoder")


def test_a_whole_clip_in_place_of_the_text_encoder(tmp_path):
    import transformers

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
              "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=TEXT_ENCODERS["sd1"] | {"vocab_size": 600, "num_attention_heads": 8},
                                     vision_config=vision)
    quietly(transformers.CLIPModel(config).save_pretrained, tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    del written["text_config"]["num_attention_heads"]  # 8 is transformers' own default, which it need not write
    written["text_config"] |= {"top_k": 50, "is_decoder": False}  # as releases of 2021 wrote
    path.write_text(json.dumps(written))
    theirs = quietly(transformers.CLIPTextModel.from_pretrained, tmp_path)
    ours, ids = TextEncoder.from_pretrained(tmp_path), torch.randint(600, (2, 77))
    assert ours.config.num_attention_heads == theirs.config.num_attention_heads == 8
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).last_hidden_state, atol=1e-5, rtol=0)


# --- variants, and what lies beside the files that are wanted -------------------------------------------------


def halve(folder, *parts, keep=True) -> None:
    """Write fp16 weights into a checkpoint's parts; `keep` the others."""
    for part in parts:
        path = next((folder / part).glob("*.safetensors"))
        half = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(half, path.with_suffix(".fp16.safetensors"))
        if not keep:
            path.unlink()


def test_a_variant_that_only_some_parts_have(folder):
    halve(folder, "unet", "text_encoder")
    with pytest.warns(UserWarning, match="has no fp16 weights of vae; the plain ones are used there"):
        sd = StableDiffusion.from_pretrained(folder, variant="fp16")
    half = load_file(folder / UNET_FILE)["conv_in.weight"].half().float()
    assert torch.equal(sd.unet.conv_in.weight, half)


def test_only_half_precision_files(folder):
    halve(folder, "unet", keep=False)
    with pytest.raises(FileNotFoundError) as raised:
        StableDiffusion.from_pretrained(folder)
    assert f"{folder} holds only diffusion_pytorch_model.fp16.safetensors; " in str(raised.value)
    call = str(raised.value).partition("; ")[2].removesuffix(" opens it")
    with pytest.warns(UserWarning, match="no fp16 weights of vae and text_encoder"):
        assert eval(call).unet.config.sample_size == 8  # the call is to be copied
    with pytest.raises(FileNotFoundError, match=r"from_pretrained\(.*, variant='fp16'\) opens what is there"):
        UNet.from_pretrained(folder / "unet")


def test_a_folder_that_holds_a_single_file(tmp_path):
    (tmp_path / "v1-5.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError) as raised:
        StableDiffusion.from_pretrained(tmp_path)
    assert "lacks model_index.json), but holds v1-5.safetensors; " in str(raised.value)
    assert f"StableDiffusion.from_pretrained({str(tmp_path / 'v1-5.safetensors')!r}) opens" in str(raised.value)


def test_the_hub_is_asked_again_for_what_has_no_variant(folder, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(repository, allow_patterns, ignore_patterns):
        asked.append(allow_patterns)
        return folder

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    halve(folder, "unet", "text_encoder", keep=False)
    with pytest.warns(UserWarning, match="no fp16 weights of vae"):
        StableDiffusion.from_pretrained("org/name", variant="fp16")
    assert asked[1:] == [["vae/*.safetensors", "vae/*.index.json"]]
    with pytest.raises(FileNotFoundError, match=r"no plain \.safetensors weights of unet and text_encoder .*"
                       r"StableDiffusion\.from_pretrained\('org/name', variant='fp16'\)"):
        StableDiffusion.from_pretrained("org/name")


# --- other models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "kind"), [
    ({"addition_embed_type": "text_time", "cross_attention_dim": 2048}, "Stable Diffusion XL"),
    ({"transformer_layers_per_block": [1, 10]}, "Stable Diffusion XL"),
    ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048}, "unCLIP"),
    ({"time_cond_proj_dim": 256}, r"a latent consistency model \(LCM\)"),
    ({"in_channels": 8}, "InstructPix2Pix"),
    ({"in_channels": 5}, "the depth-to-image model"),
    ({"in_channels": 7, "num_class_embeds": 1000}, "an upscaler"),
    ({"mid_block_type": None}, r"a distilled Stable Diffusion without a middle block \(small-sd"),
])
def test_unets_of_other_models(folder, changes, kind):
    edit(folder / "unet/config.json", **changes)
    with pytest.raises(ValueError, match=f"unet is the U-Net of {kind}.*; minisd opens Stable Diffusion 1.x and 2.x"):
        StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize(("name", "kind"), [
    ("StableDiffusionXLPipeline", "Stable Diffusion XL"), ("StableUnCLIPImg2ImgPipeline", "unCLIP"),
    ("LatentConsistencyModelPipeline", "a latent consistency model"),
    ("StableDiffusion3Pipeline", "Stable Diffusion 3"), ("StableDiffusionInstructPix2PixPipeline", "InstructPix2Pix"),
    ("StableDiffusionDepth2ImgPipeline", "the depth-to-image model"),
])
def test_pipelines_of_other_models(folder, name, kind):
    edit(folder / "model_index.json", _class_name=name)
    with pytest.raises(ValueError, match=f"describes a {name}; minisd opens .* 1.x and 2.x; this is {kind}"):
        StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize(("tensors", "kind"), [
    ({"conditioner.embedders.1.model.ln_final.bias": 3}, "Stable Diffusion XL"),
    ({"embedder.model.visual.proj": 3}, "unCLIP"),
    ({"model.diffusion_model.label_emb.0.0.weight": 3}, "unCLIP"),
    ({"model.diffusion_model.time_embed.cond_proj.weight": 3}, "a latent consistency model"),
    ({"model.diffusion_model.input_blocks.0.0.weight": 8}, "InstructPix2Pix"),
    ({"model.diffusion_model.input_blocks.0.0.weight": 5}, "the depth-to-image model"),
    ({"model.diffusion_model.input_blocks.0.0.weight": 4}, "a distilled Stable Diffusion without a middle block"),
    ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": 3}, "a LoRA"),
    ({"double_blocks.0.img_attn.norm.key_norm.scale": 3}, "FLUX"),
])
def test_single_files_of_other_models(tmp_path, tensors, kind):
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}
    save_file(weights | {name: torch.zeros(8, n, 3, 3) for name, n in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"model.safetensors is {kind}.*; minisd opens Stable Diffusion 1.x and 2.x"):
        StableDiffusion.from_pretrained(tmp_path / "model.safetensors")


# --- damage that was not seen ---------------------------------------------------------------------------------


def test_infinity_does_not_end_as_a_white_picture(folder):
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_out.bias"][0] = float("inf")
    save_file(weights, path)
    sd = StableDiffusion.from_pretrained(folder)
    with pytest.raises(FloatingPointError, match=r"neither are these weights, vae/decoder\.conv_out\.b"):
        sd.text_to_image(CAPTIONS[0], num_inference_steps=1, seed=0, progress=False)


@pytest.mark.parametrize("fault", ["twice", "elsewhere", "unlisted"])
def test_shards_that_contradict_their_index(folder, fault):
    weights = load_file(folder / UNET_FILE)
    (folder / UNET_FILE).unlink()
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {name: shards[i % 2] for i, name in enumerate(sorted(weights))}
    content = [{name: weights[name] for name in weights if places[name] == shard} for shard in shards]
    first, second = (next(name for name in sorted(places) if places[name] == shard) for shard in shards)
    if fault == "twice":
        content[1][first] = weights[first] + 1
    elif fault == "elsewhere":
        places |= {first: shards[1], second: shards[0]}
    else:
        del places[first]
    for shard, tensors in zip(shards, content):
        save_file(tensors, folder / "unet" / shard)
    index = folder / f"{UNET_FILE}.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match=r"-of-00002\.safetensors holds tensors which diffusion_pytorch_model\."
                       rf"safetensors\.index\.json places in another file, or in none: ({first}|{second})"):
        StableDiffusion.from_pretrained(folder)


def test_a_file_of_four_terabytes(folder):
    """A file with a hole in it, which takes no room on the disk."""
    size = 2**42
    header = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (folder / UNET_FILE).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    # which of the two depends on how much memory the system promises
    with pytest.raises(ValueError, match=r"safetensors cannot be mapped into memory|the weights do not fit the config"):
        UNet.from_pretrained(folder / "unet")
    os.truncate(folder / "unet/config.json", size)
    with pytest.raises(ValueError, match=r"unet/config\.json has 4,398,046,511,104 bytes; at most .* make sense"):
        UNet.from_pretrained(folder / "unet")


def test_names_and_values_that_would_command_a_terminal(folder):
    weights = load_file(folder / UNET_FILE)
    save_file(weights | {"\x1b]0;owned\x07" + "a" * 10_000: torch.zeros(1)}, folder / UNET_FILE)
    with pytest.raises(ValueError, match="not part of this network") as raised:
        UNet.from_pretrained(folder / "unet")
    assert r"\x1b]0;owned\x07aaa" in str(raised.value)
    assert len(str(raised.value)) < 500
    for changes in ({"\x1b[2J": "\x1b[2J"}, {"act_fn": "\x1b[2J" * 10_000}, {"_class_name": "\x1b[2J" * 10_000}):
        edit(folder / "unet/config.json", **changes)
        with pytest.raises(ValueError, match=r"x1b\[2J") as raised:
            UNet.from_pretrained(folder / "unet")
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 1200


def test_a_shard_whose_name_would_command_a_terminal(folder):
    (folder / UNET_FILE).unlink()
    (folder / f"{UNET_FILE}.index.json").write_text(json.dumps({"weight_map": {"a": "\x1b[2J.safetensors"}}))
    with pytest.raises(ValueError, match=r"names '\\x1b\[2J\.safetensors', which is not a safetensors file") as raised:
        UNet.from_pretrained(folder / "unet")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("make", [
    lambda: torch.eye(3).to_sparse(), lambda: torch.eye(3, device="meta"), lambda: torch.zeros(1).expand(10**6)],
    ids=["sparse", "meta", "one number for a million"])
def test_tensors_whose_numbers_are_not_in_the_file(tmp_path, make):
    torch.save({"state_dict": {"model.diffusion_model.out.0.bias": make()}}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"model\.ckpt: the numbers of model\.diffusion_model\.out\.0\.bias are not"):
        StableDiffusion.from_pretrained(tmp_path / "model.ckpt")


class Shadowed:
    """Is unpickled as an OrderedDict, or as a parameter, that has attributes in place of its methods."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        if isinstance(self.content, dict):
            instead = {"items": "x", "get": "x", "keys": "x"}
            return collections.OrderedDict, (), instead, None, iter(self.content.items())
        return torch._utils._rebuild_parameter_with_state, (self.content, False, None, {"to": "x", "detach": "x"})


def test_attributes_in_place_of_methods(tmp_path):
    weights = Shadowed({"a": Shadowed(torch.ones(3)), "b": torch.ones(2)})
    torch.save(Shadowed({"state_dict": weights, "global_step": 7}), tmp_path / "model.ckpt")
    tensors, step = single_file.read_single_file(tmp_path / "model.ckpt")
    assert (tensors["a"].to(torch.float64).tolist(), len(tensors["b"]), step) == ([1, 1, 1], 2, 7)


# --- what is no file ------------------------------------------------------------------------------------------


@pytest.fixture
def within_seconds():
    """Break off what hangs."""
    def give_up(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("within_seconds")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
class TestFIFOs:
    @pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
    def test_in_place_of_a_single_file(self, tmp_path, name):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is not a regular file, but a FIFO, a device or a socket"):
            StableDiffusion.from_pretrained(tmp_path / name)

    @pytest.mark.parametrize("name", ["model_index.json", "vae/config.json", UNET_FILE, "tokenizer/merges.txt"])
    def test_in_a_folder(self, folder, name):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        said = f"{name.split('/')[-1]}( is not a regular file| in )"
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            StableDiffusion.from_pretrained(folder)

    @pytest.mark.parametrize("device", [False, True])
    def test_in_place_of_a_picture_or_mask(self, tmp_path, capsys, device):
        path, picture = tmp_path / "picture.png", str(assets_folder() / "mini/samples.png")
        path.symlink_to("/dev/zero") if device else os.mkfifo(path)
        for arguments in (["img2img", "x", str(path)], ["inpaint", "x", picture, str(path)]):
            assert cli.main(arguments) == 2
            assert "picture.png is not a regular file, but a FIFO, a device or a socket" in capsys.readouterr().err

    def test_devices(self):
        with pytest.raises(ValueError, match="/dev/zero is not a regular file"):
            StableDiffusion.from_pretrained("/dev/zero")
