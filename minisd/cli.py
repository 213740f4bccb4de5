"""The command line, also as `python -m minisd`: `minisd generate`, `img2img`, `inpaint` and so on."""

import argparse
import os
import random
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from minisd import StableDiffusion
from minisd.console import forgiving_console
from minisd.files import assets_folder, check_regular
from minisd.images import check_depth, check_size, save_png
from minisd.messages import ShownPath, shown
from minisd.pipeline import Images
from minisd.saving import check_files
from minisd.schedulers import FIELDS, SAMPLERS

SIDE_HELP = "in pixels; default: the model's own size"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Errors are one line on stderr, and exit status 2."""
    with forgiving_console():
        return run_command(sys.argv[1:] if arguments is None else list(arguments))


def run_command(arguments: list[str]) -> int:
    options = make_parser(training="train" in arguments[:1]).parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"minisd: {plain(message)}", file=sys.stderr)
            options.run(options)
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError, MemoryError) as error:
        print(f"minisd: {plain(error) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minisd: stopped", file=sys.stderr)
        return 130
    return 0


def plain(message: object) -> str:
    """A message in one line, without what could command a terminal: a file's name, or what is in the file, may."""
    return shown(" ".join(str(message).split()), 10_000)


def make_parser(training: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands. Imports inside functions of this file take 0.2 s, and `--help` does not need them."""
    parser = argparse.ArgumentParser(prog="minisd", description="Stable Diffusion, from scratch.")
    commands = parser.add_subparsers(required=True, metavar="generate|img2img|inpaint|train|evaluate|export|play|info")
    for name, run, what in (("generate", generate, "draw pictures from words"),
                            ("img2img", img2img, "redraw a picture according to a prompt"),
                            ("inpaint", inpaint, "repaint the white part of a mask")):
        sub = commands.add_parser(name, help=what, description=what)
        sub.set_defaults(run=run)
        sub.add_argument("prompt", help="what to draw")
        if name != "generate":
            sub.add_argument("image", help="the picture to start from")
        if name == "inpaint":
            sub.add_argument("mask", help="a picture of the same size, white where to repaint")
        if name != "generate":
            sub.add_argument("--strength", type=float, default=0.8 if name == "img2img" else 1.0,
                             help="how far to depart from the picture, above 0 and at most 1 (%(default)s)")
        add_shared_options(sub, "mini-inpaint" if name == "inpaint" else "mini")
    train = commands.add_parser("train", help="train one of the mini networks")
    train.set_defaults(run=train_network)
    if training:
        from minisd.training.command import add_arguments

        add_arguments(train)
    sub = commands.add_parser("evaluate", help="measure how well a mini model draws")
    sub.set_defaults(run=evaluate)
    sub.add_argument("--model", default="mini", help="mini, or a folder (%(default)s)")
    sub.add_argument("--classifier", help="the judge's folder; default: the one that comes with minisd")
    sub.add_argument("--count", type=int, default=64, help="seen and held-out prompts per setting, each (%(default)s)")
    sub.add_argument("--out", default="out/metrics", help="folder for the table and the figure (%(default)s)")
    sub = commands.add_parser("export", help="write a model in another format")
    sub.set_defaults(run=export)
    sub.add_argument("format", choices=["onnx"], help="onnx: four files that onnxruntime reads, in a browser, too")
    sub.add_argument("--model", default="mini", help="as for generate (%(default)s)")
    sub.add_argument("--out", default="out/onnx", help="folder to write (%(default)s)")
    sub.add_argument("--weights", choices=["fp32", "fp16", "int8"], default="fp16",
                     help="how the weights are stored; computed in float32 all the same (%(default)s)")
    sub.add_argument("--attention", action="store_true", help="give the U-Net its attention maps as more outputs")
    sub = commands.add_parser("play", help="open the page that draws, in a browser")
    sub.set_defaults(run=play)
    sub.add_argument("--site", help="the folder that `make site` built; default: out/site, or the handout's")
    sub.add_argument("--model", help="instead of the site, an app around this model; as for generate")
    sub.add_argument("--port", type=int, default=8000, help="0: any free one (%(default)s)")
    sub.add_argument("--host", default="127.0.0.1",
                     help="the address to listen on; the default is this computer alone, 0.0.0.0 lets in everyone "
                          "whose computer can reach it over the network (%(default)s)")
    sub = commands.add_parser("info", help="describe a checkpoint")
    sub.set_defaults(run=info)
    sub.add_argument("model", nargs="?", default="mini", help="as for generate --model (%(default)s)")
    add_loading_options(sub)
    return parser


def add_loading_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--variant", help='"fp16": the half-precision files of a folder')
    sub.add_argument("--prediction-type", choices=FIELDS["prediction_type"],
                     help="what the U-Net predicts, if the checkpoint does not say so: in Stable Diffusion 2, epsilon "
                          "for base models, v_prediction for those of 768 pixels")


def add_shared_options(sub: argparse.ArgumentParser, model: str) -> None:
    sub.add_argument("--model", default=model, help="mini, mini-inpaint, a folder, a .safetensors or .ckpt file, or a "
                                                    "Hub id such as org/name (%(default)s)")
    sub.add_argument("--lora", action="append", default=[], metavar="FILE[:SCALE]",
                     help="a LoRA file or folder that changes the model, and how much of it (1); may be repeated")
    sub.add_argument("--steps", type=int, default=20, help="denoising steps (%(default)s)")
    sub.add_argument("--guidance", type=float,
                     help="how strongly to follow the prompt; 1 turns guidance off; default: the model's own")
    sub.add_argument("--seed", type=int, help="picture k is drawn from seed + k; default: random, and printed")
    sub.add_argument("--scheduler", help=f"{', '.join(SAMPLERS)}; default: the checkpoint's")
    sub.add_argument("--negative", default="", help="what to steer away from")
    sub.add_argument("--num", type=int, default=1, help="how many pictures (%(default)s)")
    sub.add_argument("--out", default="out", help="a .png file, or a folder for several (%(default)s)")
    sub.add_argument("--device", help="cpu, cuda or mps; default: a GPU if there is one")
    sub.add_argument("--dtype", choices=("float32", "bfloat16", "float16"),
                     help="default: what is fast on the device; float32 for mini")
    add_loading_options(sub)
    sub.add_argument("--height", type=int, help=SIDE_HELP)
    sub.add_argument("--width", type=int, help=SIDE_HELP)


# --- the commands ---------------------------------------------------------------------------------------------


def generate(options: Namespace) -> None:
    files, sd, settings = prepare(options)
    images = sd.text_to_image(options.prompt, height=options.height, width=options.width, **settings)
    save(files, images, options, sd, settings)


def img2img(options: Namespace) -> None:
    image = open_image(options.image)  # before the model, so that a wrong name costs no loading time
    files, sd, settings = prepare(options)
    settings["strength"] = options.strength
    images = sd.image_to_image(options.prompt, crop_and_resize(image, sd, options), **settings)
    save(files, images, options, sd, settings)


def inpaint(options: Namespace) -> None:
    image, mask = open_image(options.image), open_image(options.mask)
    if mask.size != image.size:
        raise ValueError(f"{options.mask} is {mask.width}×{mask.height} pixels, {options.image} is "
                         f"{image.width}×{image.height}; they must have the same size")
    files, sd, settings = prepare(options)
    settings["strength"] = options.strength
    image, mask = crop_and_resize(image, sd, options), crop_and_resize(mask, sd, options).convert("L")
    save(files, sd.inpaint(options.prompt, image, mask, **settings), options, sd, settings)


def train_network(options: Namespace) -> None:
    from minisd.training.command import run

    run(options)


def evaluate(options: Namespace) -> None:
    from minisd.emoji import CLIP, Classifier, EmojiData, evaluation

    if options.count < 2:
        raise ValueError(f"--count is {options.count}; it must be at least 2, or there is no Fréchet distance")
    out = ShownPath(options.out).expanduser()
    check_files(out / name for name in evaluation.FILES)
    classifier = Classifier.from_pretrained(options.classifier or assets_folder() / "classifier", dtype=torch.float32)
    sd = StableDiffusion.from_pretrained(options.model, device="cpu")
    if (side := sd.unet.config.sample_size * sd.vae.downscale) != 64:
        raise ValueError(f"--model {options.model} draws {side}×{side} pixels; the judge knows pictures of 64×64 only")
    data = EmojiData("core")
    rows = evaluation.evaluate(sd, evaluation.Judge(classifier, data), options.count)
    remark = f"\nSeen / held-out combinations, per cent; {options.count} pictures each.\n"
    if (assets_folder() / "clip").is_dir():  # CLIP's other half, which the model does not need
        clip = CLIP.from_pretrained(assets_folder() / "clip", sd.text_encoder)
        new, heldout = (evaluation.retrieval(clip, sd.tokenizer, data, split) for split in ("train", "heldout"))
        remark += f"CLIP: of 256 captions, {new:.1%} / {heldout:.1%} find their own picture among all.\n"
    evaluation.write_report(rows, out, remark)
    print(evaluation.table(rows) + remark + f"Also in {out}.")


def export(options: Namespace) -> None:
    from minisd.export import check_out, to_onnx

    out = ShownPath(options.out).expanduser()
    check_out(out)  # before the model is loaded
    sd = StableDiffusion.from_pretrained(options.model, device="cpu", dtype=torch.float32)
    differences = to_onnx(sd, out, options.weights, options.attention)
    for name, difference in differences.items():
        size = sum(path.stat().st_size for path in (out / name).glob("model.onnx*"))
        print(f"{name:13}{size / 2**20:>9,.1f} MB, differs from PyTorch by at most {difference:.1e} of its largest "
              "value")


def play(options: Namespace) -> None:
    from minisd.play import play

    if options.model is not None and options.site is not None:
        raise ValueError("--site and --model exclude each other: the site holds its own models")
    play(options.model, options.site, options.host, options.port)


def info(options: Namespace) -> None:
    sd = StableDiffusion.from_pretrained(options.model, device="cpu", variant=options.variant,
                                         prediction_type=options.prediction_type)
    side = sd.unet.config.sample_size * sd.vae.downscale
    width = sd.text_encoder.config.hidden_size
    version = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}.get(width, "a mini model")
    kind = ", inpainting" if sd.unet.config.in_channels == 9 else ""
    print(f"{shown(options.model, 1000)}: {version}{kind}, predicts {sd.scheduler.config.prediction_type}")
    print(f"  pictures {side}×{side}, latents {sd.vae.config.latent_channels}×{side // sd.vae.downscale}×"
          f"{side // sd.vae.downscale}, text {sd.tokenizer.context_length}×{width}, "
          f"vocabulary {sd.tokenizer.vocab_size:,}")
    print(f"  scheduler {type(sd.scheduler).__name__}, guidance scale {sd.guidance_scale:g}")
    total = 0
    for name in ("text_encoder", "unet", "vae"):
        parameters = getattr(sd, name).num_parameters()
        total += parameters
        print(f"  {name:13}{parameters:>15,} parameters")
    sizes = ", ".join(f"{total * dtype.itemsize / 2**20:,.0f} MB in {str(dtype).removeprefix('torch.')}"
                      for dtype in (torch.float32, torch.float16))
    print(f"  {'together':13}{total:>15,} parameters: {sizes}")


# --- what they share ------------------------------------------------------------------------------------------


def prepare(options: Namespace) -> tuple[list[Path], StableDiffusion, dict[str, Any]]:
    """What all three drawing commands need: the files to write, the model, and the arguments that all jobs share."""
    if options.seed is None:
        options.seed = random.randrange(2**32)
    files = name_files(options)  # first, so that a wrong --out does not cost a picture
    sd = StableDiffusion.from_pretrained(
        options.model, device=options.device, dtype=getattr(torch, options.dtype) if options.dtype else None,
        scheduler=options.scheduler, variant=options.variant, prediction_type=options.prediction_type)
    for lora in options.lora:
        sd.load_lora(*split_scale(lora))
    return files, sd, {"negative_prompt": options.negative, "num_inference_steps": options.steps,
                       "guidance_scale": sd.guidance_scale if options.guidance is None else options.guidance,
                       "num_images": options.num, "seed": options.seed}


def split_scale(lora: str) -> tuple[str, float]:
    """FILE[:SCALE] → (file, scale); a colon that no number follows belongs to the file's name, as in "C:\\x"."""
    path, _, scale = lora.rpartition(":")
    try:
        return (path, float(scale)) if path else (lora, 1.0)
    except ValueError:
        return lora, 1.0


def name_files(options: Namespace) -> list[Path]:
    """--out is a .png file or a folder; the names of several pictures carry their seeds."""
    if options.num > 10_000:
        raise ValueError(f"--num is {options.num}; it must be a whole number from 1 to 10,000")
    out, seeds = ShownPath(options.out).expanduser(), range(options.seed, options.seed + options.num)
    if out.suffix.lower() == ".png" and not os.path.isdir(out):
        names = [out.name] if options.num == 1 else [f"{out.stem}-{seed}.png" for seed in seeds]
        out = out.parent
    elif out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"--out is {out}; pictures are saved as .png files, which remember their prompt")
    else:
        words = "".join(c if c.isalnum() else " " for c in options.prompt).split()
        names = [f"{'-'.join(words)[:50] or 'picture'}-{seed}.png" for seed in seeds]
    files: list[Path] = [out / name for name in names]
    check_files(files)
    return files


def open_image(path: str) -> Image.Image:
    """Open a picture as RGB, rotated as its EXIF data say.

    Raises:
        FileNotFoundError, ValueError: no picture, a damaged one, or one that would lose something as 8-bit RGB.
    """
    check_regular(path)
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture {path}") from None
    except Exception as error:  # Pillow raises half a dozen types for damaged files
        raise ValueError(f"{path} is not a picture that can be opened: {error}") from None
    check_depth(image.mode, path)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise ValueError(f"{path} has transparent parts; save it without transparency, for example on white")
    return image.convert("RGB")


def crop_and_resize(image: Image.Image, sd: StableDiffusion, options: Namespace) -> Image.Image:
    """Crop a picture around its centre to the shape of --width × --height (default: the model's), and resize it."""
    side = sd.unet.config.sample_size * sd.vae.downscale
    width = side if options.width is None else options.width
    height = side if options.height is None else options.height
    check_size(height, width, sd.vae.downscale, "size")
    return ImageOps.fit(image, (width, height))


def save(files: list[Path], images: Images, options: Namespace, sd: StableDiffusion, settings: dict) -> None:
    """Write PNG files that carry the prompt and all settings, and print their paths."""
    assert isinstance(images, list)  # of Pillow images; tensors only if asked for
    settings = {"prompt": options.prompt, **settings, "num_images": 1, "height": images[0].height,
                "width": images[0].width, "model": options.model, "variant": options.variant,
                "scheduler": type(sd.scheduler).__name__, "dtype": str(sd.dtype).removeprefix("torch.")}
    if options.lora:
        settings["lora"] = ", ".join(options.lora)
    if options.prediction_type:
        settings["prediction_type"] = options.prediction_type
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for k, (file, image) in enumerate(zip(files, images, strict=True)):
        save_png(image, file, settings | {"seed": options.seed + k})
        print(f"{file}  (seed {options.seed + k})")
