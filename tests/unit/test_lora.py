"""LoRA files: what is merged, that it goes away again exactly, the folders they come in, and what is refused."""

import json
import os

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from minisd import StableDiffusion, cli
from tests import lora_files

QUICK = {"seed": 0, "num_inference_steps": 2, "output": "pt", "progress": False}
LAYERS = ["unet.conv_in", "unet.conv_out", "unet.time_embedding.linear_1", "unet.down_blocks.0.resnets.0.time_emb_proj",
          "unet.down_blocks.0.downsamplers.0.conv", "unet.down_blocks.1.resnets.0.conv_shortcut",
          "unet.down_blocks.0.attentions.0.proj_in", "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
          "text_encoder.text_model.encoder.layers.0.mlp.fc1"]


@pytest.fixture
def sd(tiny) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")


@pytest.fixture
def file(sd, tmp_path):
    return lora_files.write(tmp_path / "style.safetensors", lora_files.kohya(lora_files.random_lora(sd, ("attn",))))


def weights(sd):
    return {name: weight.detach().clone() for name, weight in sd._lora_layers().items()}


def assert_equal(sd, expected):
    for name, weight in sd._lora_layers().items():
        assert torch.equal(weight, expected[name]), name


# --- what is merged -------------------------------------------------------------------------------------------


def run(layer, x, weight, **convolution):
    return F.conv2d(x, weight, **convolution) if isinstance(layer, nn.Conv2d) else F.linear(x, weight)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_its_own_result_and_that_of_two_thin_ones(sd, tmp_path, name):
    part, _, inner = name.partition(".")
    layer = getattr(sd, part).get_submodule(inner)
    lora = lora_files.random_lora(sd, (inner,), alpha=7.0)
    (down, up, alpha), channels = lora[name], layer.weight.shape[1]
    convolution = {"stride": layer.stride, "padding": layer.padding} if isinstance(layer, nn.Conv2d) else {}
    x = torch.randn(2, channels, *[6] * (layer.weight.ndim - 2), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = layer(x) + 0.5 * alpha / len(down) * run(layer, run(layer, x, down, **convolution), up)
        sd.load_lora(lora_files.write(tmp_path / "one.safetensors", lora_files.kohya(lora)), scale=0.5)
        torch.testing.assert_close(layer(x), expected)


def test_every_layer_may_have_its_own_alpha(sd, tmp_path):
    lora = {name: (down, up, float(k)) for k, (name, (down, up, _)) in enumerate(lora_files.random_lora(sd).items())}
    before = weights(sd)
    sd.load_lora(lora_files.write(tmp_path / "all.safetensors", lora_files.kohya(lora)))
    for name, (down, up, alpha) in lora.items():
        change = (up.flatten(1) @ down.flatten(1)).reshape(before[name].shape) * alpha / len(down)
        torch.testing.assert_close(sd._lora_layers()[name].detach(), before[name] + change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unloading_brings_back_exactly_what_was_there(tiny, sd, file, tmp_path, dtype):
    checkpoint = tiny["sd1"] / "unet" / "diffusion_pytorch_model.safetensors"
    on_disk, sd = checkpoint.read_bytes(), StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", dtype=dtype)
    before, picture = weights(sd), sd.text_to_image("a cat", **QUICK)
    other = lora_files.write(tmp_path / "other.safetensors",
                             lora_files.diffusers(lora_files.random_lora(sd, ("conv", "to_q"), seed=1)))
    assert sd.load_lora(file).load_lora(other, 0.3).load_lora(file, -0.9) is sd
    assert (sd.text_to_image("a cat", **QUICK) - picture).abs().max() > 0.02
    sd.unload_lora()
    assert_equal(sd, before)
    assert torch.equal(sd.text_to_image("a cat", **QUICK), picture)
    sd.unload_lora()  # of nothing
    assert_equal(sd, before)
    assert checkpoint.read_bytes() == on_disk, "the weights are memory-mapped, and the file must stay"


def test_several_are_summed_before_they_are_rounded(tiny, sd, file):
    """A bfloat16 weight would swallow each of many small changes that together are not small."""
    small = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", dtype=torch.bfloat16)
    before = weights(small)
    for _ in range(8):
        small.load_lora(file, 0.002)
    together = weights(small)
    small.unload_lora().load_lora(file, 0.016)
    at_once = weights(small)
    changed = sum((at_once[name] != before[name]).sum().item() for name in before)
    differing = sum((at_once[name] != together[name]).sum().item() for name in before)
    assert changed > 10_000
    assert differing < changed / 100  # a tie of the rounding, here and there


def test_what_is_saved_is_what_runs(sd, file, tmp_path):
    sd.load_lora(file, 0.7)
    sd.save_pretrained(tmp_path / "merged")
    again = StableDiffusion.from_pretrained(tmp_path / "merged", device="cpu")
    assert_equal(again, weights(sd))
    assert torch.equal(again.text_to_image("a cat", **QUICK), sd.text_to_image("a cat", **QUICK))


def test_in_low_memory_mode(sd, file, tiny):
    expected = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu").load_lora(file).text_to_image("a", **QUICK)
    torch.testing.assert_close(sd.low_memory().load_lora(file).text_to_image("a", **QUICK), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compiled_networks_see_the_change(sd, file, tiny):
    expected = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu").load_lora(file).text_to_image("a", **QUICK)
    sd.compile(backend="aot_eager", mode=None)
    before = sd.text_to_image("a", **QUICK)
    torch.testing.assert_close(sd.load_lora(file).text_to_image("a", **QUICK), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(sd.unload_lora().text_to_image("a", **QUICK), before, rtol=0, atol=0)


# --- files and folders ----------------------------------------------------------------------------------------


@pytest.fixture
def lora(sd):
    return lora_files.random_lora(sd, ("conv_in",), alpha=8.0)


def change(sd, path):
    """What a LoRA adds to conv_in, against A and B alone with α = r."""
    before = sd.unet.conv_in.weight.detach().clone()
    down, up, _ = lora_files.random_lora(sd, ("unet.conv_in",))["unet.conv_in"]
    difference = sd.load_lora(path).unet.conv_in.weight - before
    plain = (up.flatten(1) @ down.flatten(1)).reshape(before.shape)
    factor = (difference * plain).sum() / (plain**2).sum()
    torch.testing.assert_close(difference, factor * plain, rtol=1e-4, atol=1e-6)
    return pytest.approx(factor.item(), rel=1e-4)


@pytest.mark.parametrize(("fields", "factor"), [
    ({}, 1), ({"lora_alpha": 8}, 4), ({"lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
    ({"lora_alpha": 8, "alpha_pattern": {"conv_in": 6, "in": 9}}, 3), ({"alpha_pattern": {"^conv_out": 6}}, 1)])
def test_a_folder_of_peft(sd, lora, tmp_path, fields, factor):
    """PEFT's own save_pretrained: one network, and α in adapter_config.json."""
    tensors = {f"base_model.model.{name.removeprefix('unet.')}": half for name, half in lora_files.peft(lora).items()}
    lora_files.write(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, **fields}))
    assert change(sd, tmp_path) == factor


def test_which_file_of_a_folder(sd, lora, tmp_path):
    torch.save(lora_files.kohya(lora), tmp_path / "any_name.bin")
    assert change(sd, tmp_path) == 4, "a pickle of tensors, if there is nothing else"
    sd.unload_lora()
    file = lora_files.write(tmp_path / "any_name.safetensors", lora_files.diffusers(lora))
    assert change(sd, str(tmp_path)) == 1, "safetensors first"
    sd.unload_lora()
    file.rename(tmp_path / "pytorch_lora_weights.safetensors")
    lora_files.write(tmp_path / "another.safetensors", lora_files.kohya(lora))
    assert change(sd, tmp_path) == 1, "the name that diffusers writes"
    (tmp_path / "pytorch_lora_weights.safetensors").rename(tmp_path / "mine.safetensors")
    with pytest.raises(FileNotFoundError, match=r"several files; give one of them: another\.s\w+, mine\.safetensors"):
        sd.load_lora(tmp_path)


def test_nothing_there(sd, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no LoRA .*nowhere"):
        sd.load_lora(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no \.safetensors file"):
        sd.load_lora(tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged"):
        sd.load_lora(tmp_path)


class Code:
    def __reduce__(self):
        return os.getcwd, ()


def test_a_pickle_that_could_run_code_is_not_opened(sd, tmp_path):
    torch.save({"state_dict": Code()}, tmp_path / "lora.ckpt")
    with pytest.raises(ValueError, match="which could run code"):
        sd.load_lora(tmp_path / "lora.ckpt")


# --- refusals -------------------------------------------------------------------------------------------------


def one_tensor(*keys):
    return {key: torch.zeros(4, 4) for key in keys}


Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
K = "lora_unet_" + Q.replace(".", "_")


@pytest.mark.parametrize(("tensors", "message"), [
    (one_tensor(f"{K}.hada_w1_a"), "is a LoHa; minisd merges LoRAs for Stable Diffusion 1 and 2"),
    (one_tensor(f"{K}.lokr_w1"), "is a LoKr"),
    (one_tensor(f"{K}.lora_down.weight", f"{K}.dora_scale"), "is a DoRA"),
    (one_tensor(f"unet.{Q}.lora_A.weight", f"unet.{Q}.lora_magnitude_vector"), "is a DoRA"),
    (one_tensor(f"{K}.lora_mid.weight"), "is a LoCon in three parts"),
    (one_tensor(f"{K}.oft_blocks"), "is an OFT"),
    (one_tensor(f"unet.{Q}.oft_R.weight"), "is an OFT"),
    (one_tensor(f"{K}.diff"), "differences of whole weights"),
    (one_tensor("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"), "is a LoRA for Stable Diffusion XL"),
    (one_tensor("text_encoder_2.encoder.layers.0.mlp.fc1.lora_A.weight"), "is a LoRA for Stable Diffusion XL"),
    (one_tensor("lora_unet_input_blocks_4_1_proj_in.lora_down.weight"), "is a LoRA for Stable Diffusion XL"),
    (one_tensor(f"unet.{Q.replace('blocks.0.attn', 'blocks.7.attn')}.lora_A.weight"), "for Stable Diffusion XL"),
    (one_tensor("transformer.x_embedder.lora_A.weight"), "for a transformer model, such as Flux"),
    (one_tensor("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"), "for a transformer model"),
    ({f"{K.replace('attn1_to_q', 'attn2_to_k')}.lora_down.weight": torch.zeros(4, 768)},
     "for Stable Diffusion 1, whose text has width 768; this model is one of width 64"),
    (one_tensor(f"{K}.lora_down.weight", "lora_unet_nowhere.alpha", "emb_params"),
     "belong to no layer of this model: emb_params, lora_unet_nowhere.alpha$"),
    ({f"{K}.lora_down.weight": torch.zeros(4, 32)}, f"not a LoRA for this model: unet.{Q} lacks up"),
    ({f"{K}.lora_down.weight": torch.zeros(4, 32), f"{K}.lora_up.weight": torch.zeros(32, 5)},
     r"to_q \(32, 5\)·\(4, 32\) does not fit \(32, 32\)"),
    ({f"{K}.lora_down.weight": torch.zeros(0, 32), f"{K}.lora_up.weight": torch.zeros(32, 0)}, "does not fit"),
    ({f"{K}.lora_down.weight": torch.full((4, 32), torch.inf), f"{K}.lora_up.weight": torch.zeros(32, 4)},
     "to_q is not finite"),
    ({f"{K}.lora_down.weight": torch.zeros(4, 32), f"{K}.lora_up.weight": torch.zeros(32, 4),
      f"{K}.alpha": torch.ones(2)}, r"an alpha of shape \(2,\)"),
    ({f"{K}.lora_down.weight": torch.zeros(4, 32), f"{K}.lora_up.weight": torch.zeros(32, 4),
      f"{K}.alpha": torch.tensor(torch.nan)}, "alpha of .*to_q is nan"),
    ({f"{K}.lora_down.weight": torch.zeros(4, 32), f"unet.{Q}.lora.down.weight": torch.zeros(4, 32)}, "no layer"),
])
def test_what_is_refused(sd, file, tmp_path, tensors, message):
    """By name, and without a change to what runs."""
    sd.load_lora(file)
    before = weights(sd)
    with pytest.raises(ValueError, match=message):
        sd.load_lora(lora_files.write(tmp_path / "bad.safetensors", tensors))
    assert_equal(sd, before)


def test_one_for_stable_diffusion_2(sd, tiny, tmp_path):
    """Its layers have the same names, and nearly all the same shapes."""
    other = StableDiffusion.from_pretrained(tiny["sd2"], device="cpu")
    file = lora_files.write(tmp_path / "two.safetensors", lora_files.kohya(lora_files.random_lora(other, ("attn2",))))
    with pytest.raises(ValueError, match="whose text has width 128; this model is one of width 64"):
        sd.load_lora(file)


@pytest.mark.parametrize("scale", ["1", None, True, float("nan"), float("inf")])
def test_bad_scales(sd, file, scale):
    with pytest.raises(ValueError, match=f"scale={scale!r}; it must be a number"):
        sd.load_lora(file, scale)


@pytest.mark.parametrize(("metadata", "message"), [
    ("{", "lora_adapter_metadata is not valid JSON"), ("3", "lora_adapter_metadata is not valid JSON"),
    (json.dumps({"unet.lora_alpha": "much"}), "alpha of unet.conv_in is 'much'"),
    (json.dumps({"unet.alpha_pattern": {"conv.*": 2}}), r"alpha_pattern has 'conv\.\*'; minisd reads names")])
def test_bad_metadata(sd, lora, tmp_path, metadata, message):
    with pytest.raises(ValueError, match=message):
        sd.load_lora(lora_files.write(tmp_path / "bad.safetensors", lora_files.peft(lora),
                                      {"lora_adapter_metadata": metadata}))


# --- the command line -----------------------------------------------------------------------------------------


def test_the_command_line_takes_several(tiny, sd, file, tmp_path):
    out = tmp_path / "picture.png"
    assert cli.main(["generate", "a cat", "--model", str(tiny["sd1"]), "--device", "cpu", "--seed", "1", "--steps", "2",
                     "--lora", f"{file}:0.5", "--lora", str(file), "--out", str(out)]) == 0
    sd.load_lora(file, 0.5).load_lora(file)
    expected, = sd.text_to_image("a cat", seed=1, num_inference_steps=2, progress=False)
    with Image.open(out) as picture:
        assert picture.tobytes() == expected.tobytes()
        assert picture.info["lora"] == f"{file}:0.5, {file}"


@pytest.mark.parametrize(("lora", "expected"), [
    ("a.safetensors", ("a.safetensors", 1.0)), ("a.safetensors:-0.5", ("a.safetensors", -0.5)),
    (r"C:\a.safetensors", (r"C:\a.safetensors", 1.0)), (r"C:\a.safetensors:2", (r"C:\a.safetensors", 2.0))])
def test_a_scale_after_a_colon(lora, expected):
    assert cli.split_scale(lora) == expected
