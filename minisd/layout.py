"""The diffusers layout, a folder with one folder for each part: whether it can be opened, and which of its files."""

from pathlib import Path

from minisd import kinds
from minisd.cautions import warn
from minisd.files import read_json
from minisd.messages import listed, quoted, shown
from minisd.text_encoder import TextEncoder
from minisd.tokenizer import Tokenizer
from minisd.unet import UNet
from minisd.vae import VAE
from minisd.weights import find_weights

NETWORKS = {"unet": UNet, "vae": VAE, "text_encoder": TextEncoder}
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
             "StableDiffusionInpaintPipelineLegacy")


def check_kind(folder: Path) -> str:
    """Make sure that a folder holds a Stable Diffusion 1.x or 2.x, and return the name of its pipeline's class.

    Raises:
        FileNotFoundError: it lacks `model_index.json`; the message says what can be opened instead, if anything can.
        ValueError: it is another model, whose kind the message names.
    """
    index = folder / "model_index.json"
    if not index.is_file() and (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is one part of a model; give the folder that holds {', '.join(NETWORKS)}")
    files = sorted(str(path) for path in folder.glob("*") if path.suffix in (".safetensors", ".ckpt"))
    if not index.is_file() and files:
        raise FileNotFoundError(f"{folder} is not in the diffusers layout (it lacks model_index.json), but holds "
                                f"{listed(Path(file).name for file in files)}; "
                                f"StableDiffusion.from_pretrained({files[0]!r}) opens such a file")
    name = read_json(index).get("_class_name")
    if name not in PIPELINES:
        kind = kinds.of_pipeline(name)
        raise ValueError(f"{index} describes a {shown(name)}; minisd opens {', '.join(PIPELINES)}, that is, Stable "
                         f"Diffusion 1.x and 2.x" + (f"; this is {kind}" if kind else ""))
    kinds.check_unet(read_json(folder / "unet" / "config.json"), str(folder / "unet"))
    return name


def variant_of_each(folder: Path, variant: str | None) -> dict[str, str | None]:
    """Which variant of each network's weights to open: the plain ones of a part that lacks those asked for.

    Raises:
        FileNotFoundError: the plain ones were asked for, and some part has only others.
    """
    there = {part: find_weights(folder / part, network.WEIGHTS) for part, network in NETWORKS.items()}
    for part, found in there.items():
        if variant is None and found and None not in found:
            only, file = next(iter(found.items()))
            raise FileNotFoundError(f"of the {part}'s weights, {folder} holds only {file.name}; "
                                    f"StableDiffusion.from_pretrained({str(folder)!r}, variant={only!r}) opens it")
    plain = [part for part, found in there.items() if variant not in found and None in found]
    if variant is not None and not any(variant in found for found in there.values()):
        others = sorted({str(other) for found in there.values() for other in found if other})
        raise FileNotFoundError(f"{folder} holds no {shown(variant)} weights; StableDiffusion.from_pretrained("
                                f"{str(folder)!r}" + (f", variant={others[0]!r}" if others and not plain else "")
                                + ") opens what is there")
    if plain:
        warn(f"{folder} has no {variant} weights of {' and '.join(plain)}; the plain ones are used there")
    return {part: None if part in plain else variant for part in there}


def check_ids(path: Path, tokenizer: Tokenizer) -> None:
    """The text encoder's config repeats the ids of the start and end tokens. In those of 2022 the end is 2, which is
    wrong, and by which transformers, too, knows them: they count for nothing.

    Raises:
        ValueError: ids other than the tokenizer's.
    """
    config = read_json(path)
    for field, right in (("bos_token_id", tokenizer.start_id), ("eos_token_id", tokenizer.end_id)):
        if config.get(field, right) != right and config.get("eos_token_id") != 2:
            raise ValueError(f"{path}: {field}={quoted(config[field])}, but the tokenizer beside it has {right}; "
                             "take both from the same model, or correct the number")
