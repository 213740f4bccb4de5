"""Published weights in, minisd weights out: bundled models, folders, single files, and the Hub."""

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minisd import schedulers, single_file
from minisd.files import assets_folder, atomic_folder, read_json
from minisd.text_encoder import TextEncoder
from minisd.tokenizer import Tokenizer
from minisd.unet import UNet
from minisd.vae import VAE

if TYPE_CHECKING:
    from minisd.pipeline import StableDiffusion

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
BUNDLED = ("mini", "mini-inpaint")
NETWORKS = {"unet": UNet, "vae": VAE, "text_encoder": TextEncoder}
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
             "StableDiffusionInpaintPipelineLegacy")
GUIDANCE_SCALE = 7.5  # of a model that does not say which is best for it
BASE_STEP = 875000  # the training step at which SD 2 base was published, which its .ckpt file names


def load(source: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None,
         variant: str | None = None) -> dict:
    """The five parts of a pipeline and its guidance scale, by name, from wherever `source` points.

    Raises:
        FileNotFoundError: nothing there, or a download that failed; the message says what to do instead.
        ValueError: a checkpoint of another kind, a damaged one, a device that is not there, or half precision on a
            CPU.
    """
    device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.float32 if str(source) in BUNDLED else fast_dtype(device))
    if device.type == "cpu" and dtype == torch.float16:
        raise ValueError("dtype=torch.float16 is about 100 times slower than float32 on a CPU; "
                         "use torch.float32 (an fp16 file is converted) or torch.bfloat16")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(f"dtype={dtype!r}; it must be torch.float32, torch.bfloat16, torch.float16 or torch.float64")
    path = locate(source, variant)
    with uncollected():
        return (load_folder if path.is_dir() else load_file)(path, device, dtype, variant)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: loading makes a hundred thousand objects, all to be kept, and each collection
    would look through all there are in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def usable_device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises depends on the device
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={str(name)!r} cannot be used on this computer ({reason}); 'cpu' always can") from None
    return device


def fast_dtype(device: torch.device) -> torch.dtype:
    """The precision in which a device computes fast: bfloat16 where it has instructions for it."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # since torch 2.10
        can = torch.cpu.get_capabilities()
        return torch.bfloat16 if can.get("amx_bf16") or can.get("avx512_bf16") else torch.float32
    return torch.float32


def locate(source: str | Path, variant: str | None = None) -> Path:
    """The folder or file that `source` means; a Hub id is downloaded, or found in the local cache."""
    if not isinstance(source, (str, Path)) or not str(source):
        raise TypeError(f"source is {source!r}; it must be {', '.join(BUNDLED)}, a folder, a file, or a Hub id")
    source = str(source)
    path = assets_folder() / source if source in BUNDLED else Path(source).expanduser()
    if path.exists():
        return path
    if source in BUNDLED:
        raise FileNotFoundError(f"the weights of {source} should lie in {path}, and do not; `minisd train` makes them")
    if path.suffix in (".safetensors", ".ckpt") or not HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"{source} is neither a file nor a folder, nor one of {', '.join(BUNDLED)}, "
                                "nor a Hub id such as org/name")
    return download(source, variant)


def download(repository: str, variant: str | None) -> Path:
    """Fetch from the Hub what the five parts need, and nothing else; the local cache serves offline."""
    from huggingface_hub import snapshot_download

    weights = ["*.safetensors", "*.index.json"]
    if variant:  # index files have been named both ways
        weights = [f"*.{variant}*.safetensors", f"*.index.{variant}.json", f"*.{variant}.*.index.json"]
    wanted = ["model_index.json", "scheduler/*", "tokenizer/*", *(f"{part}/config.json" for part in NETWORKS),
              *(f"{part}/{pattern}" for part in NETWORKS for pattern in weights)]
    unwanted = ["*non_ema*"] if variant else ["*non_ema*", "*.fp16*"]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=unwanted))
    except Exception as error:  # the Hub's client and its transport raise a dozen types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"there is no folder {repository} here, and it could not be fetched from the Hub ({reason}). On a computer "
            f"with network, run `hf download {repository} --include '*.json' '*.txt' '*/*.safetensors' --local-dir "
            f"{repository.split('/')[-1]}`, and pass that folder instead of the name; "
            "`hf auth login` first if the repository asks for it") from None


def load_folder(folder: Path, device: torch.device, dtype: torch.dtype, variant: str | None) -> dict:
    """The diffusers layout: `model_index.json` and one folder a part."""
    if (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"{folder} is one part of a model; give the folder that holds {', '.join(NETWORKS)}")
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") not in PIPELINES:
        raise ValueError(f"{folder / 'model_index.json'} describes a {index.get('_class_name')}; minisd opens "
                         f"{', '.join(PIPELINES)}")
    guidance_scale = index.get("_guidance_scale", GUIDANCE_SCALE)
    if type(guidance_scale) not in (int, float) or not 0 <= guidance_scale <= 1e4:
        raise ValueError(f"{folder / 'model_index.json'}: _guidance_scale is {guidance_scale!r}; it must be a number "
                         "from 0, the one that is best for this model")
    networks = {}
    for part, network in NETWORKS.items():
        part_dtype = dtype_of(part, read_json(folder / part / "config.json"), dtype)
        networks[part] = network.from_pretrained(folder / part, part_dtype, device, variant)
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler = schedulers.sampler_class(config.get("_class_name", "PNDMScheduler")).from_config(config)
    return {"tokenizer": Tokenizer.from_pretrained(folder / "tokenizer"), "scheduler": scheduler,
            "guidance_scale": guidance_scale, **networks}


def load_file(path: Path, device: torch.device, dtype: torch.dtype, variant: str | None) -> dict:
    """The original layout. It holds no tokenizer (CLIP's, which comes with minisd, is used) and does not say what the
    U-Net predicts: the noise in SD 1, in inpainting models and in SD 2 base .ckpt files, v in all other SD 2 files.
    For an SD 2 base .safetensors file, which cannot be told apart, pass a scheduler that predicts "epsilon"."""
    if variant is not None:
        raise ValueError(f"variant={variant!r} chooses among the files of a folder; {path} is a single file")
    weights, global_step = single_file.read_single_file(path)
    parts = single_file.split(weights, str(path))
    tokenizer = Tokenizer.from_pretrained(assets_folder() / "clip-tokenizer")
    schedule = schedulers.SD_SCHEDULE
    if parts["text_encoder"][0]["hidden_act"] == "gelu":  # SD 2
        tokenizer.pad_id = 0
        if parts["unet"][0]["in_channels"] == 4 and global_step != BASE_STEP:  # the 768-pixel models predict v
            schedule = schedulers.SD_SCHEDULE | {"prediction_type": "v_prediction"}
            parts["unet"][0]["sample_size"] = 96
    networks = {part: NETWORKS[part].from_state_dict(config, tensors, dtype_of(part, config, dtype), device,
                                                     source=f"{path} ({part})")
                for part, (config, tensors) in parts.items()}
    return {"tokenizer": tokenizer, "scheduler": schedulers.DDIMScheduler.from_config(schedule), **networks}


def dtype_of(part: str, config: dict, dtype: torch.dtype) -> torch.dtype:
    """The published VAEs overflow in float16, and say so by `force_upcast`, or by being older than that field."""
    return torch.float32 if part == "vae" and dtype == torch.float16 and config.get("force_upcast", True) else dtype


def save(sd: "StableDiffusion", folder: str | Path, dtype: torch.dtype | None = None,
         variant: str | None = None) -> None:
    """Write a pipeline as a folder that diffusers, too, opens."""
    with atomic_folder(folder) as new:
        (new / "model_index.json").write_text(json.dumps(index_of(sd), indent=2) + "\n")
        for part in NETWORKS:
            getattr(sd, part).save_pretrained(new / part, dtype, variant)
        sd.tokenizer.save_pretrained(new / "tokenizer")
        sd.scheduler.save_pretrained(new / "scheduler")


def index_of(sd: "StableDiffusion") -> dict[str, Any]:
    """The contents of `model_index.json`: which classes a folder's parts belong to, as diffusers names them."""
    inpaints = sd.unet.config.in_channels == 9
    return {
        "_class_name": "StableDiffusionInpaintPipeline" if inpaints else "StableDiffusionPipeline",
        "_diffusers_version": "0.15.1",  # whose layout this is; without it diffusers takes inpainting for an old kind
        "feature_extractor": [None, None], "safety_checker": [None, None], "requires_safety_checker": False,
        "scheduler": ["diffusers", type(sd.scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "_guidance_scale": sd.guidance_scale,  # minisd's own field; diffusers passes over what begins with "_"
    }
