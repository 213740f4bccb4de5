"""Single files in the original layout: every tensor arrives, and the picture is the same as from the folder."""

import os
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from minisd import DDIMScheduler, StableDiffusion, UNet, single_file
from minisd.cli import main
from tests.parity.test_full_size import UNETS as FULL_UNETS
from tests.parity.test_full_size import VAE_CONFIG, their_network
from tests.tiny import CAPTIONS, quietly

RESIDUAL = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
            "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
TOP = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
       "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
       "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
       "mid_block.resnets.1": "middle_block.2"}


def original_unet(unet) -> dict[str, torch.Tensor]:
    """The weights under CompVis's names: derived from its `openaimodel.py`, not from our table."""
    layers, old = unet.config.layers_per_block, {}
    attends_up = ["Attn" in name for name in unet.config.up_block_types]
    for name, tensor in unet.state_dict().items():
        if match := re.match(r"down_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
            level, kind, i, rest = int(match[1]), match[2], int(match[3]), match[4]
            number = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else i)
            place = 1 if kind == "attentions" else 0
            name = f"input_blocks.{number}.{place}.{rest.replace('conv.', 'op.') if kind == 'downsamplers' else rest}"
        elif match := re.match(r"up_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
            level, kind, i, rest = int(match[1]), match[2], int(match[3]), match[4]
            number = level * (layers + 1) + (layers if kind == "upsamplers" else i)
            place = {"resnets": 0, "attentions": 1, "upsamplers": 2 if attends_up[level] else 1}[kind]
            name = f"output_blocks.{number}.{place}.{rest}"
        else:
            start = next(start for start in sorted(TOP, key=len, reverse=True) if name.startswith(start + "."))
            name = TOP[start] + name[len(start):]
        for new, before in RESIDUAL.items():
            if ".transformer_blocks." not in name:  # their norms keep their names
                name = name.replace(f".{new}.", f".{before}.")
        old[name] = tensor
    return old


def original_vae(vae) -> dict[str, torch.Tensor]:
    last, old = len(vae.config.block_out_channels) - 1, {}
    for name, tensor in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in name:
            for new, before in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                                ("to_out.0", "proj_out")):
                name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{before}.")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor  # 1×1 convolutions
        old[name] = tensor.clone()
    return old


def original_text(encoder, sd2: bool) -> dict[str, torch.Tensor]:
    if not sd2:
        return {f"transformer.{name}": tensor for name, tensor in encoder.state_dict().items()} | {
            "transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    state, old, width = encoder.state_dict(), {}, encoder.config.hidden_size
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
             "mlp.fc2": "mlp.c_proj"}
    for i in range(encoder.config.num_hidden_layers):
        layer = f"text_model.encoder.layers.{i}."
        for kind in ("weight", "bias"):
            parts = [state[f"{layer}self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            old[f"model.transformer.resblocks.{i}.attn.in_proj_{kind}"] = torch.cat(parts)
            for new, before in names.items():
                old[f"model.transformer.resblocks.{i}.{before}.{kind}"] = state[f"{layer}{new}.{kind}"]
    last = f"model.transformer.resblocks.{encoder.config.num_hidden_layers}."  # OpenCLIP's last layer, which is unused
    old |= {last + name.split(".0.", 1)[1]: torch.zeros_like(tensor)
            for name, tensor in list(old.items()) if ".resblocks.0." in name}
    return old | {
        "model.positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "model.token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "model.ln_final.weight": state["text_model.final_layer_norm.weight"],
        "model.ln_final.bias": state["text_model.final_layer_norm.bias"],
        "model.text_projection": torch.zeros(width, width), "model.logit_scale": torch.tensor(1.0)}


def original(sd: StableDiffusion) -> dict[str, torch.Tensor]:
    parts = (("model.diffusion_model.", original_unet(sd.unet)), ("first_stage_model.", original_vae(sd.vae)),
             ("cond_stage_model.", original_text(sd.text_encoder, sd.text_encoder.config.hidden_act == "gelu")))
    weights = {prefix + name: tensor for prefix, part in parts for name, tensor in part.items()}
    return weights | {"betas": torch.zeros(1000), "model_ema.decay": torch.tensor(0.9999)}


def assert_same_weights(ours: StableDiffusion, folder: StableDiffusion) -> None:
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(folder, part).state_dict()
        actual = getattr(ours, part).state_dict()
        assert actual.keys() == expected.keys()
        for name in expected:
            assert torch.equal(actual[name], expected[name]), f"{part}: {name}"


@pytest.fixture(params=["sd1", "sd1-inpaint", "sd2"])
def folder(request, tiny) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny[request.param])


@pytest.fixture
def small_vocabulary(monkeypatch, folder):
    """Replace CLIP's tokenizer, which comes with minisd: the tiny models have a small vocabulary."""
    from minisd import checkpoint

    monkeypatch.setattr(checkpoint.Tokenizer, "from_pretrained", lambda path: folder.tokenizer)


@pytest.mark.filterwarnings("ignore:.* does not say what its U-Net predicts")
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_every_tensor_arrives_and_the_picture_is_the_same(folder, small_vocabulary, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": original(folder), "global_step": 470000}, path)
    else:
        save_file(original(folder), path)
    ours = StableDiffusion.from_pretrained(path)
    assert_same_weights(ours, folder)
    assert ours.unet.config.in_channels == folder.unet.config.in_channels
    assert ours.unet.config.heads == folder.unet.config.heads
    if folder.unet.config.in_channels == 4:
        ours.set_scheduler(folder.scheduler)
        settings = {"num_inference_steps": 3, "seed": 0, "height": 64, "width": 64, "output": "pt", "progress": False}
        assert torch.equal(ours.text_to_image(CAPTIONS[0], **settings), folder.text_to_image(CAPTIONS[0], **settings))


def test_averaged_weights_are_preferred(tiny, monkeypatch, tmp_path):
    folder = StableDiffusion.from_pretrained(tiny["sd1"])
    weights = original(folder)
    for name in [name for name in weights if name.startswith("model.diffusion_model.")]:
        ema = "model_ema." + name.removeprefix("model.").replace(".", "")
        weights[ema], weights[name] = weights[name], torch.zeros_like(weights[name])
    save_file(weights, tmp_path / "model.safetensors")
    config, unet = single_file.split(single_file.read_single_file(tmp_path / "model.safetensors")[0], "file")["unet"]
    expected = folder.unet.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in unet.items())
    assert config["layers_per_block"] == 2


@pytest.fixture
def written(tiny, monkeypatch, tmp_path):
    """written(kind, suffix, step, notes, more tensors) → a single file of a tiny checkpoint."""
    from minisd import checkpoint

    def write(kind="sd2", suffix=".safetensors", step=None, notes=None, more=()):
        folder = StableDiffusion.from_pretrained(tiny[kind])
        monkeypatch.setattr(checkpoint.Tokenizer, "from_pretrained", lambda path: folder.tokenizer)
        path, weights = tmp_path / f"model{suffix}", original(folder) | {name: torch.zeros(()) for name in more}
        if suffix == ".ckpt":
            torch.save({"state_dict": weights, "global_step": step}, path)
        else:
            save_file(weights, path, notes)
        return path

    return write


def assert_predicts(sd: StableDiffusion, predicts: str, side: int) -> None:
    assert (sd.scheduler.config.prediction_type, sd.unet.config.sample_size) == (predicts, side)


@pytest.mark.parametrize(("suffix", "step"), [(".safetensors", None), (".ckpt", 110000)])
def test_an_sd2_file_that_does_not_say_what_it_predicts(written, capsys, suffix, step):
    """diffusers' rule: v and 768 pixels; but with a warning, whose advice is right."""
    path = written(suffix=suffix, step=step)
    with pytest.warns(UserWarning, match="does not say what its U-Net predicts") as caught:
        assert_predicts(StableDiffusion.from_pretrained(path), "v_prediction", 96)
    advice = f'StableDiffusion.from_pretrained({str(path)!r}, prediction_type="epsilon")'
    assert (advice in str(caught[0].message), caught[0].filename) == (True, __file__)
    sd = eval(advice)
    assert_predicts(sd, "epsilon", 64)
    assert sd.tokenizer.pad_id == 0
    assert_predicts(StableDiffusion.from_pretrained(path, prediction_type="v_prediction"), "v_prediction", 96)
    assert_predicts(StableDiffusion.from_pretrained(path, scheduler=DDIMScheduler()), "epsilon", 64)
    assert main(["info", str(path), "--prediction-type", "epsilon"]) == 0
    assert "predicts epsilon\n  pictures 512×512" in capsys.readouterr().out


@pytest.mark.parametrize(("file", "predicts", "side"), [
    ({"suffix": ".ckpt", "step": 875000}, "epsilon", 64),  # that of SD 2 base
    ({"notes": {"modelspec.prediction_type": "epsilon"}}, "epsilon", 64),
    ({"notes": {"modelspec.prediction_type": "v"}}, "v_prediction", 96),
    ({"notes": {"modelspec.prediction_type": "epsilon", "modelspec.resolution": "640x640"}}, "epsilon", 80),
    ({"notes": {"modelspec.resolution": "512x512"}}, "epsilon", 64),
    ({"notes": {"modelspec.resolution": "768x768"}}, "v_prediction", 96),
    ({"notes": {"modelspec.prediction_type": "v", "modelspec.resolution": "768x512"}}, "v_prediction", 96),
    ({"more": ["v_pred"]}, "v_prediction", 96), ({"more": ["v_pred"], "suffix": ".ckpt"}, "v_prediction", 96),
    ({"more": ["v_pred"], "notes": {"modelspec.resolution": "512x512"}}, "v_prediction", 64),
    ({"kind": "sd1", "more": ["v_pred"]}, "v_prediction", 64), ({"kind": "sd1"}, "epsilon", 64),
    ({"kind": "sd1-inpaint", "notes": {"modelspec.prediction_type": "v"}}, "v_prediction", 64)])
def test_files_that_say_what_they_predict(written, file, predicts, side):
    path = written(**file)
    assert_predicts(StableDiffusion.from_pretrained(path), predicts, side)
    asked = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[predicts]  # what the caller says counts for more
    sizes = {"epsilon": 64, "v_prediction": 64 if "kind" in file else 96}
    assert_predicts(StableDiffusion.from_pretrained(path, prediction_type=asked), asked, sizes[asked])


def test_a_file_with_what_its_trainer_left_in_it(tiny, tmp_path, monkeypatch):
    """As in the published .ckpt files: callbacks with a class as their key, NumPy numbers; none of it is run."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    trainer = types.ModuleType(name)
    trainer.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    with monkeypatch.context() as patched:
        for module in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            patched.setitem(sys.modules, module, trainer)
        torch.save({"state_dict": original(StableDiffusion.from_pretrained(tiny["sd1"])), "global_step": 470000,
                    "callbacks": {trainer.ModelCheckpoint: {"best": np.float64(0.5), "step": np.int64(3)}}},
                   tmp_path / "model.ckpt")
    weights, step = single_file.read_single_file(tmp_path / "model.ckpt")
    assert step == 470000
    assert "first_stage_model.quant_conv.weight" in weights


# --- full size, names only ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", FULL_UNETS)
def test_full_size_unet_names(version):
    """Our name map and diffusers' converter agree on every name in full-size U-Nets."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        ours = UNet(**FULL_UNETS[version])
    old = {"model.diffusion_model." + name: tensor for name, tensor in original_unet(ours).items()}
    config, new = single_file.convert_unet(old)
    published = dict(their_network("unet", FULL_UNETS[version]).config)
    theirs = quietly(convert_ldm_unet_checkpoint, dict(old), published)
    assert {name: t.shape for name, t in new.items()} == {name: t.shape for name, t in theirs.items()}
    for field, value in config.items():
        assert value == published[field] or (field == "attention_head_dim" and value in (8, [5, 10, 20, 20])), field


def test_full_size_vae_names():
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    from minisd import VAE

    with torch.device("meta"):
        ours = VAE(**VAE_CONFIG)
    old = {"first_stage_model." + name: tensor for name, tensor in original_vae(ours).items()}
    config, new = single_file.convert_vae(old)
    theirs = convert_ldm_vae_checkpoint(dict(old), dict(VAE_CONFIG))
    expected = {name: tuple(t.shape[:2]) if "attentions" in name else tuple(t.shape) for name, t in theirs.items()}
    assert {name: tuple(t.shape) for name, t in new.items()} == expected
    assert config["block_out_channels"] == VAE_CONFIG["block_out_channels"]
    assert config["layers_per_block"] == 2


# --- files that are not what they should be -------------------------------------------------------------------


class Touch:
    """When unpickled, this creates a file: a stand-in for something worse."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_malicious_pickle_does_not_run(tmp_path):
    path, proof = tmp_path / "model.ckpt", tmp_path / "it-ran"
    torch.save({"state_dict": {"model.diffusion_model.x": Touch(proof)}}, path)
    with pytest.raises(ValueError, match=r"was not opened: .*could run code on this computer"):
        StableDiffusion.from_pretrained(path)
    assert not proof.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_truncated_file(tiny, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    weights = original(StableDiffusion.from_pretrained(tiny["sd1"]))
    torch.save(weights, path) if suffix == ".ckpt" else save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"model\{suffix} .*damaged"):
        StableDiffusion.from_pretrained(path)


def test_a_file_without_a_vae(tiny, tmp_path):
    weights = original(StableDiffusion.from_pretrained(tiny["sd1"]))
    save_file({name: t for name, t in weights.items() if not name.startswith("first_stage_model.")},
              tmp_path / "unet-only.safetensors")
    with pytest.raises(ValueError, match=r"holds no VAE .*not a whole Stable Diffusion"):
        StableDiffusion.from_pretrained(tmp_path / "unet-only.safetensors")


def test_a_variant_of_a_single_file(tiny, tmp_path):
    save_file(original(StableDiffusion.from_pretrained(tiny["sd1"])), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"variant='fp16' .* single file"):
        StableDiffusion.from_pretrained(tmp_path / "model.safetensors", variant="fp16")
