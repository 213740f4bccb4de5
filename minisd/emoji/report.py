"""The full report on a model: the table of figures, a comparison of settings, and a sheet to judge by eye."""

import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from minisd.emoji import figures, likeness, prompts
from minisd.emoji.figures import Bench, Figure
from minisd.emoji.scene import Scene, ground_words
from minisd.images import tensor_to_images

if TYPE_CHECKING:
    from minisd.pipeline import StableDiffusion

ROWS: tuple[Callable[[Bench], list[Figure]], ...] = (
    likeness.vae, figures.one_thing, figures.small_thing, figures.worn, figures.two_things, figures.number,
    likeness.variety, figures.no_words, likeness.stain, likeness.frechet, figures.warm_time)
SCHEDULERS = ("ddpm", "ddim", "pndm", "lms", "euler", "euler-ancestral", "heun", "dpm++")
GUIDANCE_SCALES, STEPS = (1.0, 2.0, 3.0, 5.0, 7.5), (5, 10, 20, 50)
SETTINGS_COUNT, BLIND_COUNT, COLUMNS = 64, 40, 8
CELL, LABEL = 192, 18     # pixels of a picture on the blind sheet, and of the line above it


def report(bench: Bench, folder: str | Path, inpaint: "StableDiffusion | None" = None, model: str | None = None,
           progress: bool = True) -> list[Figure]:
    """Measure everything and write it into a folder. This draws about 3,300 pictures; with a count of 16, about 470.

    Args:
        inpaint: the inpainting pipeline, with nine channels, if there is one.
        model: the name or folder of `bench.sd`, to time a command that draws one picture; None leaves this out.

    Returns:
        The figures, which are also in figures.csv and figures.md. settings.csv and settings.png compare guidance, steps
        and samplers; blind.png is to be judged by eye, and blind-key.csv has the answers.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Figure] = []
    for row in tqdm(ROWS, desc="figures", disable=not progress, leave=False):
        found += row(bench)
    if inpaint is not None:
        found += likeness.inpainting(bench, inpaint)
    if model is not None:
        found += cold_time(model)
    write_table(folder, found, bench.count)
    rows = compare_settings(replace(bench, count=min(bench.count, SETTINGS_COUNT)), progress)
    write_csv(folder / "settings.csv", rows)
    draw_settings(rows, folder / "settings.png")
    blind_sheet(bench, folder, min(bench.count, BLIND_COUNT))
    return found


def cold_time(model: str) -> list[Figure]:
    """Seconds for a command that draws one picture, from the start of Python to the file."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "minisd", "generate", "a cat face", "--model", model, "--seed", "0",
                        "--out", folder], check=True, capture_output=True)
        seconds = time.perf_counter() - start
    return [Figure("time for a picture, cold", seconds, "s", aim="≤ 4 s", reached=seconds <= 4)]


# --- the table ------------------------------------------------------------------------------------------------

def write_table(folder: Path, found: list[Figure], count: int) -> None:
    write_csv(folder / "figures.csv", [asdict(figure) for figure in found])
    remark = (f"\n{count} prompts per figure, half of them with combinations that were held out of training. \"Real\" "
              "is the same figure for real pictures: the best that the judge's own errors allow.\n")
    (folder / "figures.md").write_text(table(found) + remark, encoding="utf-8")


def table(found: list[Figure]) -> str:
    """Markdown."""
    lines = ["| figure | model | seen / held out | real | aim | reached |", "|---" * 6 + "|"]
    for figure in found:
        halves = "" if figure.seen is None else " / ".join(
            in_words(half, figure.unit).removesuffix(" %") for half in (figure.seen, figure.held_out))
        lines.append(f"| {figure.name} | {in_words(figure.value, figure.unit)} | {halves} | "
                     f"{in_words(figure.ceiling, figure.unit)} | {figure.aim} | "
                     f"{ {True: 'yes', False: 'no', None: ''}[figure.reached]} |")
    return "\n".join(lines) + "\n"


def in_words(value: float | None, unit: str) -> str:
    """A number with its unit; nothing for None."""
    if value is None:
        return ""
    return {"%": f"{100 * value:.1f} %", "dB": f"{value:.1f} dB", "s": f"{value:.2f} s", "p": f"p = {value:.3f}",
            "×": f"{value:.2f}"}.get(unit, f"{value:.3g}")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()}
                         for row in rows)


# --- settings compared ----------------------------------------------------------------------------------------

def compare_settings(bench: Bench, progress: bool = True) -> list[dict[str, Any]]:
    """How often the thing is right with one setting changed and the others at their defaults; last, real pictures."""
    sd, scheduler = bench.sd, bench.sd.scheduler
    scenes = prompts.one_thing(bench.data, bench.rng(), bench.count)
    plan: list[tuple[str, Any, dict]] = [("guidance", scale, {"guidance_scale": scale}) for scale in GUIDANCE_SCALES]
    plan += [("steps", number, {"num_inference_steps": number}) for number in STEPS]
    plan += [("scheduler", name, {}) for name in SCHEDULERS]
    rows = []
    try:
        for name, value, changed in tqdm(plan, desc="settings", disable=not progress, leave=False):
            sd.scheduler = scheduler
            if name == "scheduler":
                sd.set_scheduler(value)
            verdicts = figures.right_thing(bench.judge, bench.draw(scenes, **changed), scenes)
            rows.append({"setting": name, "value": value, "thing": float(np.mean(verdicts["thing"]))})
    finally:
        sd.scheduler = scheduler
    real = figures.right_thing(bench.judge, bench.real(scenes), scenes)
    return [*rows, {"setting": "real", "value": "", "thing": float(np.mean(real["thing"]))}]


def draw_settings(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the share of right things against guidance scale, steps and sampler, with the judge's ceiling."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(10, 3.4), layout="constrained")
    axes = drawing.subplots(1, 3, sharey=True, width_ratios=(1, 0.8, 1.5))
    for axis, name, line in zip(axes, ("guidance", "steps", "scheduler"), ("-", "-", "")):
        part = [row for row in rows if row["setting"] == name]
        axis.plot(range(len(part)), [100 * row["thing"] for row in part], line, color="#0072b2", marker="o")
        axis.axhline(100 * rows[-1]["thing"], color="0.4", linestyle=":", label="real pictures")
        axis.set_xticks(range(len(part)), [str(row["value"]).removesuffix(".0") for row in part],
                        rotation=30 if name == "scheduler" else 0, ha="right" if name == "scheduler" else "center")
        axis.set(title={"guidance": "guidance scale", "scheduler": "sampler"}.get(name, name), ylim=(-3, 104))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right thing, per cent")
    axes[0].legend(loc="lower right")
    drawing.savefig(path, dpi=150)


# --- to be judged by eye --------------------------------------------------------------------------------------

def blind_sheet(bench: Bench, folder: Path, count: int = BLIND_COUNT) -> None:
    """Pictures of random prompts, with numbers but no words (blind.png), and what they should show (blind-key.csv)."""
    rng = bench.rng()
    scenes = prompts.anything(bench.data, rng, count)
    scenes = [scenes[i] for i in rng.permutation(count)]
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 8), rows * (CELL + LABEL + 8)), "white")
    pen = ImageDraw.Draw(sheet)
    large = F.interpolate(bench.draw(scenes) / 2 + 0.5, size=CELL, mode="bicubic").clamp(0, 1)
    for i, picture in enumerate(tensor_to_images(large)):
        left, top = i % COLUMNS * (CELL + 8) + 4, i // COLUMNS * (CELL + LABEL + 8) + 4
        pen.text((left, top), str(i + 1), fill="black", font_size=LABEL - 4)
        sheet.paste(picture, (left, top + LABEL))
    sheet.save(folder / "blind.png")
    write_csv(folder / "blind-key.csv", [key(i + 1, scene, bench) for i, scene in enumerate(scenes)])


def key(number: int, scene: Scene, bench: Bench) -> dict[str, Any]:
    """What a picture of the blind sheet should show."""
    return {"number": number, "things": " and ".join(scene.things), "count": scene.count, "worn": scene.worn,
            "style": scene.style, "ground": ground_words(scene)[2], "caption": bench.data.caption(scene)}
