"""`minisd export onnx`, on tiny models: the layout, the names, the storage, and the same numbers as PyTorch's."""

import json

import numpy as np
import pytest
import torch

from minisd import VAE, StableDiffusion, TextEncoder, Tokenizer, UNet, export
from minisd.cli import main
from minisd.export import to_onnx
from minisd.schedulers import SD_SCHEDULE, DDIMScheduler

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NETWORKS = {"text_encoder": ["input_ids"], "unet": ["sample", "timestep", "encoder_hidden_states"],
            "vae_encoder": ["sample"], "vae_decoder": ["latent_sample"]}  # the inputs' names as in optimum


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red apple on a blue background"] * 2, 600)
    text_encoder = TextEncoder(vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64,
                               num_hidden_layers=1, num_attention_heads=2, bos_token_id=tokenizer.start_id,
                               eos_token_id=tokenizer.end_id)
    unet = UNet(block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32, layers_per_block=1,
                sample_size=8)
    vae = VAE(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8)
    return StableDiffusion(tokenizer, text_encoder, unet, vae, DDIMScheduler.from_config(SD_SCHEDULE), 3.0)


@pytest.fixture(scope="module")
def traced(sd):
    """Every part is traced once for the whole file, which takes seconds; each export gets a copy."""
    real, kept = export.traced, {}

    def once(part):
        key = part.name, len(part.outputs)
        if key not in kept:
            kept[key] = real(part)
        return kept[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "traced", once)
        yield


@pytest.fixture(scope="module")
def folder(sd, traced, tmp_path_factory):
    """An export with fp16 weights and attention maps."""
    folder = tmp_path_factory.mktemp("export") / "onnx"
    to_onnx(sd, folder, "fp16", attention=True, progress=False)
    return folder


def session(folder, name):
    return onnxruntime.InferenceSession(folder / name / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_the_layout_and_the_names_are_those_of_optimum(sd, folder):
    assert {path.name for path in folder.iterdir()} == {*NETWORKS, "tokenizer", "scheduler", "model_index.json"}
    for name, inputs in NETWORKS.items():
        assert {path.name for path in (folder / name).iterdir()} == {"model.onnx", "config.json"}
        onnx.checker.check_model(folder / name / "model.onnx")
        assert [one.name for one in session(folder, name).get_inputs()] == inputs
    assert [one.name for one in session(folder, "vae_encoder").get_outputs()] == ["latent_parameters"]
    assert json.loads((folder / "unet" / "config.json").read_text())["cross_attention_dim"] == 32
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == index["vae_decoder"] == ["diffusers", "OnnxRuntimeModel"]
    assert index["_guidance_scale"] == 3
    assert Tokenizer.from_pretrained(folder / "tokenizer")("a red apple").equal(sd.tokenizer("a red apple"))


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 8), (3, 6, 10)])
def test_any_batch_and_any_size(sd, folder, batch, height, width):
    torch.manual_seed(1)
    latents, pixels = torch.randn(batch, 4, height, width), torch.rand(batch, 3, 2 * height, 2 * width)
    ids = sd.tokenizer(["a red apple"] * batch)
    context = torch.randn(batch, 77, 32)
    with torch.no_grad():
        posterior = sd.vae.encode(pixels)
        wanted = {"text_encoder": sd.text_encoder(ids), "unet": sd.unet(latents, torch.tensor(7.0), context),
                  "vae_encoder": torch.cat([posterior.mean, posterior.log_variance], dim=1),
                  "vae_decoder": sd.vae.decode(latents)}
    given = {"text_encoder": [ids.int()], "unet": [latents, torch.tensor(7.0), context], "vae_encoder": [pixels],
             "vae_decoder": [latents]}
    for name, names in NETWORKS.items():
        found = session(folder, name).run(None, {key: x.numpy() for key, x in zip(names, given[name])})[0]
        assert found.shape == wanted[name].shape
        # eleven bits of each weight
        assert np.abs(found - wanted[name].numpy()).max() < 5e-3 * wanted[name].abs().max(), name


@pytest.mark.slow
def test_attention_maps_are_more_outputs(sd, folder):
    unet = session(folder, "unet")
    latents, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 32)
    _, *found = unet.run(None, {"sample": latents.numpy(), "timestep": np.array(7, dtype=np.float32),
                                    "encoder_hidden_states": context.numpy()})
    with torch.no_grad(), sd.unet.record_attention() as maps:
        sd.unet(latents, torch.tensor(7.0), context)
    assert [one.name for one in unet.get_outputs()] == ["out_sample", *(f"attention.{name}" for name in maps)]
    for weights, (expected,) in zip(found, maps.values()):
        torch.testing.assert_close(torch.from_numpy(weights), expected.mean(dim=1), atol=2e-3, rtol=0)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_fewer_bytes_cost_precision(sd, traced, tmp_path):
    sizes, differences = {}, {}
    for weights in ("fp32", "fp16", "int8"):
        differences[weights] = to_onnx(sd, tmp_path / weights, weights, True, progress=False)["unet"]
        sizes[weights] = (tmp_path / weights / "unet" / "model.onnx").stat().st_size
    counted = 4 * sd.unet.num_parameters()
    assert counted < sizes["fp32"]
    assert sizes["fp32"] - sizes["fp16"] == pytest.approx(counted / 2, rel=0.05)
    assert sizes["fp32"] - sizes["int8"] == pytest.approx(counted * 3 / 4, rel=0.05)
    assert differences["fp32"] < 1e-5 < differences["fp16"] < 5e-3 < differences["int8"] < 0.1


@pytest.mark.slow
def test_large_weights_lie_beside_the_model(sd, traced, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(export, "ONE_FILE", 1000)
        large = to_onnx(sd, tmp_path, "fp32", True, progress=False)
    data = tmp_path / "unet" / "model.onnx_data"
    assert data.stat().st_size > 0.9 * 4 * sd.unet.num_parameters()
    assert (tmp_path / "unet" / "model.onnx").stat().st_size < data.stat().st_size / 10
    assert to_onnx(sd, tmp_path, "fp32", True, progress=False) == large
    assert not data.exists(), "what an earlier export left contradicts the new one"


def test_errors_are_one_line(sd, monkeypatch, tmp_path, capsys):
    with pytest.raises(ValueError, match="weights='fp8'; it must be 'fp32', 'fp16', 'int8'"):
        to_onnx(sd, tmp_path / "onnx", "fp8")
    (tmp_path / "file").write_text("")
    assert main(["export", "onnx", "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    assert main(["export", "onnx", "--out", str(tmp_path / "onnx")]) == 2
    error = capsys.readouterr().err
    assert "pip install onnx onnxruntime onnxscript" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.slow
def test_an_export_that_computes_something_else_is_refused(sd, traced, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "TOLERANCE", export.TOLERANCE | {"int8": 1e-4})
    with pytest.raises(ValueError, match=r"the exported text_encoder differs from PyTorch's by .* of int8 weights"):
        to_onnx(sd, tmp_path / "onnx", "int8", True, progress=False)
    assert not list(tmp_path.iterdir()), "nothing is left of it"


@pytest.mark.slow
def test_the_command(sd, traced, tmp_path, capsys):
    sd.save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "onnx"), "--weights", "int8",
                 "--attention"]
    assert main(["export", "onnx", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NETWORKS)
    assert all(" MB, differs from PyTorch by at most " in line for line in lines)
    assert onnx.load(tmp_path / "onnx" / "unet" / "model.onnx").graph.node
