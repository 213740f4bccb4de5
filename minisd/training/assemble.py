"""Assemble trained parts into a folder that `StableDiffusion.from_pretrained` opens.

    python -m minisd.training.assemble assets/mini --runs runs/vae64
    python -m minisd.training.assemble assets/mini-inpaint --vae assets/mini --clip assets/mini --unet runs/inpaint

Besides the weights, in half precision, the folder gets `samples.png`, which shows what the model draws, and a folder
`training/` with the log (every tenth line), scores and last progress picture of each run, and all training curves.
"""

import argparse
import csv
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from minisd import VAE, DDIMScheduler, StableDiffusion, TextEncoder, Tokenizer, UNet
from minisd.emoji.scene import STYLES, Scene
from minisd.emoji.world import EmojiData
from minisd.images import tensor_to_images
from minisd.saving import check_files
from minisd.training.unet import SCHEDULE

SHOWN = ("a red apple on a blue background", "a cat face wearing a top hat on a yellow background",
         "a rocket on a striped red and white background", "a panda next to a pizza on a white background",
         "three bananas on a pink background", "a small frog at the top left on a green background")


def assemble(folder: Path, vae: Path, clip: Path, unet: Path, runs: Sequence[Path] = (),
             guidance: float = 3.0) -> None:
    """Write the five parts in fp16, and the history of the runs that trained them: logs, scores, pictures, curves.

    Args:
        vae, clip, unet: the folder of the run, or of an assembled model, to take each part from.
        runs: folders of further runs that belong to the model's history.
        guidance: the scale that suits the model best, which becomes its default.
    """
    history = folder / "training"
    check_files([folder / "samples.png", history / "curves.png"])
    sd = StableDiffusion(
        tokenizer=Tokenizer.from_pretrained(clip / "tokenizer"),
        text_encoder=TextEncoder.from_pretrained(clip / "text_encoder", torch.float32),
        unet=UNet.from_pretrained(unet / "unet", torch.float32), vae=VAE.from_pretrained(vae / "vae", torch.float32),
        scheduler=DDIMScheduler(**SCHEDULE), guidance_scale=guidance)
    sd.save_pretrained(folder, dtype=torch.float16)
    history.mkdir(exist_ok=True)
    logs = {run.name: read_log(run / "log.csv") for run in (*runs, vae, clip, unet) if (run / "log.csv").exists()}
    for name, rows in logs.items():
        write_thinned(rows, history / f"{name}.csv")
    for run in (*runs, vae, clip, unet):
        if (run / "scores.csv").exists():
            shutil.copyfile(run / "scores.csv", history / f"{run.name}-scores.csv")
        if pictures := sorted(run.glob("picture-*.png")):
            shutil.copyfile(pictures[-1], history / f"{run.name}.png")
    if logs:
        draw_curves(logs, history / "curves.png")
    draw = draw_samples if sd.unet.config.in_channels == 4 else draw_inpainted
    draw(sd, folder / "samples.png")


def read_log(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_thinned(rows: list[dict[str, str]], path: Path, every: int = 10) -> None:
    """Write every tenth line of a log, and the last."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows[::every] + ([] if (len(rows) - 1) % every == 0 else rows[-1:]))


def draw_curves(runs: dict[str, list[dict[str, str]]], path: Path) -> None:
    """Loss against samples seen, one panel per run: every step in grey, a moving mean over 1 % of it in colour."""
    figure = Figure(figsize=(4.2 * len(runs), 3.2), layout="constrained")
    axes = figure.subplots(1, len(runs), squeeze=False)
    for axis, (name, rows) in zip(axes[0], runs.items()):
        samples = np.array([float(row["samples"]) for row in rows]) / 1000
        loss = np.array([float(row["loss"]) for row in rows])
        window = max(1, len(loss) // 100)
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        axis.plot(samples, loss, color="0.8", linewidth=0.6, label="each step")
        axis.plot(samples[window - 1:], smooth, color="#0072b2", label=f"mean of {window} steps")
        axis.set(title=f"{name}: {float(rows[-1]['seconds']) / 60:.0f} minutes", xlabel="samples seen, in thousands",
                 ylabel="loss", yscale="log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


def draw_samples(sd: StableDiffusion, path: Path) -> None:
    """A table of pictures, all drawn with seed 0: styles down, things across."""
    figure = Figure(figsize=(12, 8.6), layout="constrained")
    axes = figure.subplots(len(STYLES), len(SHOWN))
    for row, style in zip(axes, STYLES.values()):
        prompts = [f"a {style} of {things}" for things in SHOWN]
        images = sd.text_to_image(prompts, seed=0, progress=False)
        for axis, image in zip(row, images):
            axis.imshow(image.resize((256, 256), Image.Resampling.LANCZOS))
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"a {style} of", fontsize=11)
    for axis, things in zip(axes[0], SHOWN):
        axis.set_title("\n".join(textwrap.wrap(things, 22)), fontsize=10)
    figure.savefig(path, dpi=120)


def draw_inpainted(sd: StableDiffusion, path: Path) -> None:
    """Pictures with a hole, and with the hole filled by the same thing, another ground, or another thing."""
    data = EmojiData()
    cat = Scene("cat face", "flat", "blue")
    examples = [  # the picture; its hole (top, left, bottom, right of 128; None: all but the thing); the prompt
        (Scene("pizza", "3d", "cyan"), (40, 40, 92, 92), "a pizza"),
        (replace(cat, pattern="striped", second="white"), (0, 64, 128, 128), "a cat face"),
        (Scene("rocket", "cartoon", "yellow"), (0, 48, 80, 128), "a rocket"),
        (Scene("robot", "sticker", "green"), None, "a robot on a purple background"),
        (Scene("sunflower", "3d"), (8, 8, 120, 120), "a red apple"),
        (Scene("panda", "flat", "pink"), (0, 20, 50, 108), "a panda wearing a top hat")]
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    axes = figure.subplots(2, len(examples))
    for column, (given, box, wanted) in zip(axes.T, examples):
        image, mask = data.draw(given)[None], torch.zeros(1, 1, data.resolution, data.resolution)
        if box is None:
            mask = (data.mask(given)[None] < 0.5).float()
        else:
            mask[..., box[0]: box[2], box[1]: box[3]] = 1
        filled = sd.inpaint(wanted, image, mask, seed=0, output="pt", progress=False)
        for axis, pixels in zip(column, (image * (1 - mask) / 2 + 0.5, filled)):
            picture, = tensor_to_images(torch.as_tensor(pixels))
            axis.imshow(picture.resize((256, 256), Image.Resampling.LANCZOS))
            axis.set(xticks=[], yticks=[])
        column[1].set_xlabel("\n".join(textwrap.wrap(wanted, 22)), fontsize=10)
    axes[0, 0].set_ylabel("given", fontsize=11)
    axes[1, 0].set_ylabel("filled", fontsize=11)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write")
    for part in ("vae", "clip", "unet"):
        parser.add_argument(f"--{part}", type=Path, default=Path("runs") / part, help="the run's folder (%(default)s)")
    parser.add_argument("--runs", type=Path, nargs="*", default=(), help="further runs in the model's history")
    parser.add_argument("--guidance", type=float, default=3.0, help="the model's default guidance scale (%(default)s)")
    assemble(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
