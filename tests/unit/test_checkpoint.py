"""Loading and saving checkpoints: variants, shards, round trips, failing saves, and the memory that loading takes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import minisd
from minisd import StableDiffusion, Tokenizer, UNet, checkpoint
from tests.tiny import quietly

PARTS = ("text_encoder", "unet", "vae")
UNET_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of a tiny checkpoint, to be changed."""
    return shutil.copytree(tiny["sd1"], tmp_path / "checkpoint")


def assert_same_weights(one: StableDiffusion, other: StableDiffusion) -> None:
    for part in PARTS:
        ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def content(folder) -> dict:
    """Every file in a folder, hidden ones too, and its contents."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def divide(folder, stem: str, index_name: str) -> dict[str, str]:
    """Split a weight file into three shards and an index. Returns tensor → shard."""
    weights = load_file(folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").unlink()
    names = sorted(weights)
    where = {name: f"{stem}-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: weights[name] for name in names if where[name] == shard}, folder / shard)
    (folder / index_name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return where


# --- variants and shards --------------------------------------------------------------------------------------


def test_variant_fp16(tiny, tmp_path):
    original = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    original.save_pretrained(tmp_path, dtype=torch.float16, variant="fp16")
    assert (tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    assert not (tmp_path / "unet" / UNET_FILE).exists()
    half = StableDiffusion.from_pretrained(tmp_path, device="cpu", variant="fp16")
    for part in PARTS:  # rounded to half precision, then converted to what a CPU computes in
        assert getattr(half, part).dtype == torch.float32
        rounded = {name: tensor.half().float() for name, tensor in getattr(original, part).state_dict().items()}
        assert all(torch.equal(rounded[name], tensor) for name, tensor in getattr(half, part).state_dict().items())
    assert UNet.from_pretrained(tmp_path / "unet", variant="fp16").dtype == torch.float16  # as in the file


def test_both_variants_in_one_folder(tiny, folder):
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    sd.save_pretrained(folder, dtype=torch.float16, variant="fp16")
    assert_same_weights(StableDiffusion.from_pretrained(folder, device="cpu"), sd)
    assert not torch.equal(UNet.from_pretrained(folder / "unet", variant="fp16").conv_in.weight.float(),
                           sd.unet.conv_in.weight)


def test_dtype(tiny):
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", dtype=torch.bfloat16)
    assert {tensor.dtype for part in PARTS for tensor in getattr(sd, part).parameters()} == {torch.bfloat16}
    assert sd.text_to_image("a red apple", seed=0, num_inference_steps=1, progress=False)[0].size == (64, 64)


@pytest.mark.parametrize(("variant", "index"), [
    (None, "diffusion_pytorch_model.safetensors.index.json"),
    ("fp16", "diffusion_pytorch_model.safetensors.index.fp16.json"),  # today's name
    ("fp16", "diffusion_pytorch_model.fp16.safetensors.index.json")])  # an older name
def test_shards(tiny, tmp_path, variant, index):
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    sd.unet.save_pretrained(tmp_path, variant=variant)
    divide(tmp_path, f"diffusion_pytorch_model{'.fp16' if variant else ''}", index)
    again = UNet.from_pretrained(tmp_path, variant=variant)
    assert all(torch.equal(tensor, sd.unet.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_shards_that_diffusers_wrote(tiny, tmp_path):
    import diffusers

    theirs = quietly(diffusers.UNet2DConditionModel.from_pretrained, tiny["sd1"] / "unet", low_cpu_mem_usage=False)
    quietly(theirs.save_pretrained, tmp_path, max_shard_size="500KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = UNet.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_shards_that_are_not_whole(folder):
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    where = divide(folder / "unet", "diffusion_pytorch_model", index.name)
    shard = folder / "unet" / where["conv_in.weight"]
    weights = load_file(shard)
    save_file({name: tensor for name, tensor in weights.items() if name != "conv_in.weight"}, shard)
    with pytest.raises(ValueError, match=r"index\.json names tensors that no shard holds: conv_in\.weight"):
        StableDiffusion.from_pretrained(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"names {shard.name}, which is not there"):
        StableDiffusion.from_pretrained(folder)
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../secret.safetensors"}}))
    with pytest.raises(ValueError, match=r"names '\.\./\.\./secret\.safetensors', which is not a safetensors file"):
        StableDiffusion.from_pretrained(folder)


# --- round trips and saves that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sd1", "sd1-inpaint", "sd2"])
def test_round_trip(tiny, tmp_path, kind):
    sd = StableDiffusion.from_pretrained(tiny[kind], device="cpu")
    sd.save_pretrained(tmp_path / "new" / "folder")
    again = StableDiffusion.from_pretrained(tmp_path / "new" / "folder", device="cpu")
    assert_same_weights(sd, again)
    for part in PARTS:
        assert getattr(again, part).config == getattr(sd, part).config
    assert (type(again.scheduler), dict(again.scheduler.config)) == (type(sd.scheduler), dict(sd.scheduler.config))
    assert (again.tokenizer.vocab, again.tokenizer.merges) == (sd.tokenizer.vocab, sd.tokenizer.merges)
    assert again.tokenizer.pad_id == sd.tokenizer.pad_id
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]  # nothing is left beside it
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["folder"]


def test_saving_into_the_folder_that_it_came_from(folder):
    """Weights are memory-mapped, so files must be replaced, not overwritten."""
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    before = {name: tensor.clone() for name, tensor in sd.unet.state_dict().items()}
    sd.save_pretrained(folder)
    assert all(torch.equal(before[name], tensor) for name, tensor in sd.unet.state_dict().items())
    assert_same_weights(StableDiffusion.from_pretrained(folder, device="cpu"), sd)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "ctrl-c"])
def test_a_failed_save_leaves_everything_as_it_was(tiny, folder, tmp_path, monkeypatch, error):
    sd = StableDiffusion.from_pretrained(tiny["sd2"], device="cpu")
    before = content(tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(Tokenizer, "save_pretrained", fail)  # after all networks have been written
    for target in (folder, tmp_path / "new"):
        with pytest.raises(type(error)):
            sd.save_pretrained(target)
    monkeypatch.setattr(minisd.network, "save_weights", fail)  # and between config and weights
    with pytest.raises(type(error)):
        sd.unet.save_pretrained(folder / "unet")
    assert content(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint"]  # no empty folder either


def test_a_full_disk(tiny, tmp_path):
    """A real limit on file sizes, which is hit while safetensors writes."""
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    code = ("import sys, resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "from minisd import UNet; unet = UNet.from_pretrained(sys.argv[1])\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try: unet.save_pretrained(sys.argv[2])\n"
            "except OSError as error: print('refused:', error)")
    sd.unet.save_pretrained(tmp_path / "old")
    before = content(tmp_path)
    done = subprocess.run([sys.executable, "-c", code, *[tmp_path / "old"] * 2], capture_output=True, text=True)
    assert done.stdout == (f"refused: {tmp_path / 'old' / UNET_FILE} could not be saved: File too large; the disk or a "
                           "limit does not allow files of that size; name another folder\n"), done.stderr
    assert content(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_file_where_the_folder_should_be(tiny, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError, match="taken is a file; name another folder"):
        StableDiffusion.from_pretrained(tiny["sd1"]).save_pretrained(tmp_path / "taken")
    assert content(tmp_path) == {(tmp_path / "taken").relative_to(tmp_path): b"mine"}


def test_saving_over_shards_leaves_none_that_contradict(folder):
    divide(folder / "unet", "diffusion_pytorch_model", "diffusion_pytorch_model.safetensors.index.json")
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    with torch.no_grad():
        sd.unet.conv_out.bias.fill_(3)
    sd.save_pretrained(folder)
    assert [p.name for p in sorted((folder / "unet").iterdir())] == ["config.json", UNET_FILE]
    assert_same_weights(StableDiffusion.from_pretrained(folder, device="cpu"), sd)


# --- the Hub --------------------------------------------------------------------------------------------------


def test_hub_ids_fetch_the_five_parts_and_nothing_else(tiny, monkeypatch):
    import huggingface_hub

    asked = {}

    def fetch(repository, allow_patterns, ignore_patterns):
        files = ["model_index.json", "README.md", "v1-5-pruned.ckpt", "safety_checker/model.safetensors",
                 "scheduler/scheduler_config.json", "tokenizer/vocab.json", "unet/config.json", f"unet/{UNET_FILE}",
                 "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.non_ema.safetensors",
                 "unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors",
                 "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
                 "vae/diffusion_pytorch_model.safetensors.index.json",
                 "vae/diffusion_pytorch_model.safetensors.index.fp16.json",
                 "text_encoder/model.fp16.safetensors.index.json"]
        asked["repository"] = repository
        asked["files"] = set(huggingface_hub.utils.filter_repo_objects(
            files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return tiny["sd1"]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert StableDiffusion.from_pretrained("org/name").unet.config.sample_size == 8
    assert asked["repository"] == "org/name"
    small = {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "unet/config.json"}
    assert asked["files"] == small | {
        f"unet/{UNET_FILE}", "text_encoder/model.safetensors", "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors.index.json"}
    with pytest.raises(FileNotFoundError, match="fp16"):  # the tiny folder has no half-precision files
        StableDiffusion.from_pretrained("org/name", variant="fp16")
    assert asked["files"] == small | {
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors.index.fp16.json",
        "text_encoder/model.fp16.safetensors.index.json"}


@pytest.mark.parametrize("error", [OSError("no route to host\nand so on"), RuntimeError(), ConnectionError("refused")])
def test_failed_downloads_say_what_to_do(monkeypatch, error):
    import huggingface_hub

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match=r"^there is no folder org/name here, and it could not be fetched from "
                       r"the Hub \(.*\)\. On a computer with network, run `hf download org/name --include .* "
                       r"--local-dir name`, and pass that folder .*`hf auth login`"):
        StableDiffusion.from_pretrained("org/name")


# --- memory ---------------------------------------------------------------------------------------------------

MEASURE = """
import sys
import torch
from minisd import UNet

def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

def touch(network):  # memory-mapped pages count once they are read
    return sum(float(p.sum()) for p in network.parameters())

torch.set_num_threads(1)
touch(UNet(block_out_channels=(32, 64, 64, 64)).bfloat16())  # what torch itself takes at first use
everything, own = status("VmRSS"), status("RssAnon")
network = UNet.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
touch(network)
print(status("VmHWM") - everything, status("RssAnon") - own, sum(p.nbytes for p in network.parameters()))
"""


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """A U-Net in a file of 400 MB."""
    folder = tmp_path_factory.mktemp("large")
    with torch.device("meta"):
        unet = UNet(block_out_channels=(128, 256, 512, 512), layers_per_block=1, cross_attention_dim=512)
    weights = {name: torch.full(tensor.shape, 0.01) for name, tensor in unet.state_dict().items()}
    unet.load_state_dict(weights, assign=True)
    unet.save_pretrained(folder)
    size = (folder / UNET_FILE).stat().st_size
    assert 3.5e8 < size < 4.5e8
    yield folder
    shutil.rmtree(folder)


def measure(folder, dtype: str) -> list[int]:
    """In its own process: the peak memory of loading, the memory that is not a mapped file, the size of the weights."""
    done = subprocess.run([sys.executable, "-c", MEASURE, folder, dtype], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
def test_loading_takes_the_memory_of_the_weights_and_no_more(large_file):
    """At most 1.1 times the weights, even at the peak and with every weight read; nothing is copied."""
    peak, own, weights = measure(large_file, "float32")
    assert 0.9 * weights < peak <= 1.1 * weights
    assert own < 0.1 * weights


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
def test_converting_takes_the_memory_of_the_result(large_file):
    """What was read of the file stays mapped until the end, but the system can reclaim those pages at any time."""
    peak, own, weights = measure(large_file, "bfloat16")
    assert 0.9 * weights < own <= 1.1 * weights
    assert peak <= 1.1 * weights + (large_file / UNET_FILE).stat().st_size


@pytest.mark.parametrize(("instructions", "expected"), [
    ({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)])
def test_the_precision_that_a_cpu_is_fast_in(monkeypatch, instructions, expected):
    monkeypatch.undo()  # of float32_unless_said
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert checkpoint.fast_dtype(torch.device("cpu")) == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert checkpoint.fast_dtype(torch.device("cpu")) == torch.float32


def test_where_no_dtype_is_given(tiny, monkeypatch):
    monkeypatch.setattr("minisd.checkpoint.fast_dtype", lambda device: torch.bfloat16)
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    assert sd.dtype == torch.bfloat16
    assert sd.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert StableDiffusion.from_pretrained("mini", device="cpu").dtype == torch.float32


def test_convolutions_lie_channels_last_unless_that_would_read_the_whole_file(tiny):
    halves = StableDiffusion.from_pretrained("mini", device="cpu", dtype=torch.float32)  # converted, so copied anyway
    mapped = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu", dtype=torch.float32)
    for sd, expected in ((halves, True), (mapped, False)):
        for network in (sd.unet, sd.vae):
            weights = [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
            assert {p.is_contiguous(memory_format=torch.channels_last) for p in weights} == {expected}
    noise = torch.randn(2, 4, 16, 16)
    assert halves.unet(noise, 500, torch.randn(2, 77, 128)).is_contiguous()
