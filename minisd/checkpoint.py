"""Published weights in, minisd weights out: bundled models, folders, single files, and the Hub."""

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minisd import outdated, schedulers, single_file
from minisd.files import assets_folder, read_json
from minisd.layout import NETWORKS, check_ids, check_kind, variant_of_each
from minisd.messages import ShownPath, quoted, shown
from minisd.prediction import prediction_and_size
from minisd.saving import atomic_folder
from minisd.schedulers.base import Scheduler
from minisd.tokenizer import Tokenizer
from minisd.weights import find_weights

if TYPE_CHECKING:
    from minisd.pipeline import StableDiffusion

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
BUNDLED = ("mini", "mini-inpaint")
GUIDANCE_SCALE = 7.5  # of a model that does not say which is best for it


def load(source: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None,
         variant: str | None = None, scheduler: str | Scheduler | None = None,
         prediction_type: str | None = None) -> dict:
    """The five parts of a pipeline and its guidance scale, by name, from wherever `source` points.

    Args:
        scheduler: the one that is going to be used instead of the checkpoint's, if any.
        prediction_type: what the U-Net predicts, whatever the checkpoint says.

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
    prediction_type = agreed_prediction(prediction_type, scheduler)
    path = locate(source, variant)
    with uncollected():
        if path.is_dir():
            return load_folder(path, device, dtype, variant, scheduler, prediction_type)
        return load_file(path, device, dtype, variant, prediction_type)


def agreed_prediction(prediction_type: str | None, scheduler: str | Scheduler | None) -> str | None:
    """What the caller says of the U-Net, by name or by the scheduler that was given; None: nothing."""
    known = schedulers.FIELDS["prediction_type"] or ()
    if prediction_type is not None and prediction_type not in known:
        raise ValueError(f"prediction_type={prediction_type!r}; it must be {' or '.join(map(repr, known))}")
    theirs = getattr(getattr(scheduler, "config", None), "prediction_type", None)  # a name has no config
    if None not in (theirs, prediction_type) and theirs != prediction_type:
        raise ValueError(f"prediction_type={prediction_type!r}, but the scheduler that was given has {theirs!r}; "
                         "give one of the two, or make them agree")
    return prediction_type or theirs


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
    path = ShownPath(assets_folder() / source if source in BUNDLED else source).expanduser()
    if path.exists():
        return path
    if source in BUNDLED:
        raise FileNotFoundError(f"the weights of {source} should lie in {path}, and do not; `minisd train` makes them")
    if path.suffix in (".safetensors", ".ckpt") or not HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"{shown(source)} is neither a file nor a folder, nor one of {', '.join(BUNDLED)}, "
                                "nor a Hub id such as org/name")
    return download(source, variant)


def download(repository: str, variant: str | None) -> Path:
    """Fetch from the Hub what the five parts need, and nothing else; the local cache serves offline."""
    from huggingface_hub import snapshot_download

    plain = weights = ["*.safetensors", "*.index.json"]
    if variant:  # index files have been named both ways
        weights = [f"*.{variant}*.safetensors", f"*.index.{variant}.json", f"*.{variant}.*.index.json"]
    wanted = ["model_index.json", "scheduler/*", "tokenizer/*", *(f"{part}/config.json" for part in NETWORKS),
              *(f"{part}/{pattern}" for part in NETWORKS for pattern in weights)]
    unwanted = ["*non_ema*"] if variant else ["*non_ema*", "*.fp16*"]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=unwanted))
        lacking = [part for part, network in NETWORKS.items()
                   if variant not in find_weights(folder / part, network.WEIGHTS)]
        if variant and 0 < len(lacking) < len(NETWORKS):  # some parts of a model may have plain weights only
            snapshot_download(repository, allow_patterns=[f"{part}/{name}" for part in lacking for name in plain],
                              ignore_patterns=["*non_ema*"])
    except Exception as error:  # the Hub's client and its transport raise a dozen types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"there is no folder {repository} here, and it could not be fetched from the Hub ({reason}). On a computer "
            f"with network, run `hf download {repository} --include '*.json' '*.txt' '*/*.safetensors' --local-dir "
            f"{repository.split('/')[-1]}`, and pass that folder instead of the name; "
            "`hf auth login` first if the repository asks for it") from None
    if not variant and lacking:
        raise FileNotFoundError(
            f"{repository} on the Hub has no plain .safetensors weights of {' and '.join(lacking)} in the diffusers "
            f"layout. If it has half-precision ones, StableDiffusion.from_pretrained({repository!r}, variant='fp16') "
            f"opens them; a single file is fetched by `hf download {repository} FILE --local-dir .`, and opened by its "
            "path")
    return folder


def load_folder(folder: Path, device: torch.device, dtype: torch.dtype, variant: str | None,
                asked: str | Scheduler | None = None, prediction_type: str | None = None) -> dict:
    """The diffusers layout: `model_index.json` and one folder a part."""
    kind = check_kind(folder)
    variants = variant_of_each(folder, variant)
    guidance_scale = read_json(folder / "model_index.json").get("_guidance_scale", GUIDANCE_SCALE)
    if type(guidance_scale) not in (int, float) or not -1e4 <= guidance_scale <= 1e4:
        raise ValueError(f"{folder / 'model_index.json'}: _guidance_scale is {quoted(guidance_scale)}; it must be "
                         "a number, the one that is best for this model")
    networks = {}
    for part, network in NETWORKS.items():
        part_dtype = dtype_of(part, read_json(folder / part / "config.json"), dtype)
        networks[part] = network.from_pretrained(folder / part, part_dtype, device, variants[part])
    scheduler = load_scheduler(folder, asked, {"prediction_type": prediction_type} if prediction_type else {})
    outdated.correct(folder, kind, scheduler if scheduler is not asked else None, networks["unet"],
                     read_json(folder / "unet" / "config.json"))
    tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
    check_ids(folder / "text_encoder" / "config.json", tokenizer)
    return {"tokenizer": tokenizer, "scheduler": scheduler, "guidance_scale": guidance_scale, **networks}


def load_scheduler(folder: Path, asked: str | Scheduler | None, changes: dict) -> Scheduler:
    """The folder's; or the one that the caller asked for: an instance always, a name (which `set_scheduler` could still
    swap in) where minisd lacks the folder's."""
    if asked is not None and not isinstance(asked, str):
        return asked
    path = folder / "scheduler"
    config = read_json(path / "scheduler_config.json")
    try:
        return schedulers.sampler_class(config.get("_class_name", "PNDMScheduler")).from_config(config, **changes)
    except ValueError as error:
        if asked is None:
            raise ValueError(f"{path}: {error}{way_out(config, changes)}") from None
    sampler = schedulers.sampler_class(asked)
    try:
        return sampler.from_config(for_another_sampler(config), **changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def for_another_sampler(config: dict) -> dict:
    """A scheduler's fields, without those that say how its own solver moves."""
    fields = {field: value for field, value in config.items() if field not in schedulers.SOLVER_FIELDS}
    return {**schedulers.SD_SCHEDULE, **fields}


def way_out(config: dict, changes: dict) -> str:
    """What to do about a scheduler that minisd lacks: empty if no other sampler can stand in, as with flow matching,
    whose noise is not made by betas."""
    for name in ("ddim", "euler") if {"beta_start", "trained_betas"} & config.keys() else ():
        with suppress(ValueError):
            schedulers.sampler_class(name).from_config(for_another_sampler(config), **changes)
            return (f'. Another sampler may do with its noise schedule: pass scheduler="{name}", for example, or '
                    f"--scheduler {name} on the command line")
    return ""


def load_file(path: Path, device: torch.device, dtype: torch.dtype, variant: str | None,
              prediction_type: str | None = None) -> dict:
    """The original layout. It holds no tokenizer (CLIP's, which comes with minisd, is used) and no scheduler."""
    if variant is not None:
        raise ValueError(f"variant={variant!r} chooses among the files of a folder; {path} is a single file")
    weights, global_step = single_file.read_single_file(path)
    parts = single_file.split(weights, f"{path}")
    tokenizer = Tokenizer.from_pretrained(assets_folder() / "clip-tokenizer")
    version_2 = parts["text_encoder"][0]["hidden_act"] == "gelu"
    if version_2:
        tokenizer.pad_id = 0
    unet, turbo = parts["unet"][0], any(name.startswith(single_file.TURBO_PREFIX) for name in weights)
    predicts, unet["sample_size"] = prediction_and_size(
        path, weights, global_step, two_kinds=version_2 and unet["in_channels"] == 4 and not turbo,
        asked=prediction_type)
    schedule = schedulers.SD_SCHEDULE | {"prediction_type": predicts}
    if turbo:  # draws in a single step, which must begin at the very end
        schedule["timestep_spacing"] = "trailing"
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
