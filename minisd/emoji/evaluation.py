"""How good a model is, in numbers: does it draw what the prompt asks for, and does it draw like the data?

`minisd evaluate` calls `evaluate` and writes its table and figure.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from minisd.emoji.classifier import Classifier
from minisd.emoji.clip import CLIP
from minisd.emoji.data import EmojiData, Scene, background_of
from minisd.metrics import frechet_distance, psnr, top_k_accuracy
from minisd.saving import atomic_file
from minisd.schedulers import DISTILLED, SAMPLERS
from minisd.tokenizer import Tokenizer

if TYPE_CHECKING:
    from minisd.pipeline import StableDiffusion

FILES = ("metrics.csv", "metrics.md", "metrics.png")  # of a report
GUIDANCE_SCALES, STEPS = (1.0, 2.0, 3.0, 5.0, 7.5), (5, 10, 20, 50)


def nearest_drawing(picture: Tensor, background: str, data: EmojiData) -> tuple[str, str, float]:
    """Of all drawings in the data set, placed on a background, the one nearest to a picture (3, 64, 64) in [-1, 1].

    Returns:
        Its concept, its style, and the root mean square difference (pixels are in [-1, 1]).
    """
    colour = np.array(data.backgrounds[background], dtype=np.float32)
    sprites = data.sprites.reshape(-1, 64, 64, 4)[:, ::2, ::2].astype(np.float32)  # every other pixel is enough
    alpha = sprites[..., 3:] / 255
    drawings = torch.from_numpy((sprites[..., :3] * alpha + colour * (1 - alpha)) / 127.5 - 1).permute(0, 3, 1, 2)
    distances = (drawings - picture[:, ::2, ::2].cpu()).square().mean(dim=(1, 2, 3)).sqrt()
    concept, style = divmod(int(distances.argmin()), len(data.styles))
    return data.concepts[concept].name, data.styles[style], float(distances.min())


@torch.no_grad()
def retrieval(clip: CLIP, tokenizer: Tokenizer, data: EmojiData, split: str, count: int = 256) -> float:
    """The share of `count` captions of new scenes whose nearest picture, among all of them, is their own."""
    images, captions, _ = data.batch(range(count), seed=1_000_003, split=split, resolution=32)
    device = clip.logit_scale.device
    found = (clip.embed_text(tokenizer(captions).to(device)) @ clip.embed_images(images.to(device)).T).argmax(dim=1)
    return float((found.cpu() == torch.arange(count)).float().mean())


# --- the evaluation -------------------------------------------------------------------------------------------


def fixed_scenes(data: EmojiData, split: str, count: int, seed: int = 0) -> list[Scene]:
    """Scenes of a split ("train": combinations that were trained on; "heldout": never), usual size, centred."""
    rng = np.random.default_rng((seed, count))
    return [replace(data.scene(rng, split), size="usual", place="centre", paraphrase=0, says_background=True)
            for _ in range(count)]


@dataclass(frozen=True)
class Judge:
    """The classifier and the data with which pictures are measured."""

    classifier: Classifier
    data: EmojiData

    def __post_init__(self) -> None:
        config = self.classifier.config
        words = [*self.data.position, *self.data.styles]
        if unknown := [word for word in words if word not in (*config.concepts, *config.styles)]:
            raise ValueError(f"the classifier was never taught {', '.join(unknown[:5])}; it must know all of the data")

    @torch.no_grad()
    def scores(self, pictures: Tensor, scenes: list[Scene]) -> dict[str, float]:
        """Accuracies of pictures (B, 3, 64, 64) in [-1, 1] that should show the scenes; higher is better."""
        config = self.classifier.config
        concepts, styles, _ = self.classifier(pictures)
        wanted = torch.tensor([config.concepts.index(scene.concept) for scene in scenes])
        nearest = [nearest_drawing(picture, scene.background, self.data) for picture, scene in zip(pictures, scenes)]
        return {
            "concept": top_k_accuracy(concepts, wanted),
            "concept top 5": top_k_accuracy(concepts, wanted, 5),
            "style": top_k_accuracy(styles, torch.tensor([config.styles.index(scene.style) for scene in scenes])),
            # read off the pixels at the border, without a network
            "background": float(np.mean([background_of(p) == s.background for p, s in zip(pictures, scenes)])),
            "nearest": float(np.mean([found[:2] == (s.concept, s.style) for found, s in zip(nearest, scenes)])),
            "distance": float(np.mean([found[2] for found in nearest])),
        }

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        return self.classifier.features(pictures)


def draw(sd: "StableDiffusion", scenes: list[Scene], data: EmojiData, steps: int, guidance_scale: float,
         seed: int = 0) -> Tensor:
    """Pictures (B, 3, 64, 64) in [-1, 1] for scenes; picture k is drawn from seed + k."""
    parts = [sd.text_to_image([data.caption(scene) for scene in scenes[i: i + 32]], num_inference_steps=steps,
                              guidance_scale=guidance_scale, seed=seed + i, output="pt", progress=False)
             for i in range(0, len(scenes), 32)]
    return torch.cat([torch.as_tensor(part) for part in parts]) * 2 - 1


def evaluate(sd: "StableDiffusion", judge: Judge, count: int = 64, guidance_scale: float = 3.0, steps: int = 20,
             progress: bool = True) -> list[dict]:
    """A row of numbers for every setting: several guidance scales, then steps, then schedulers, one varied at a time.

    Each row is measured on `count` scenes that were trained on and `count` held-out ones, always the same, with the
    same seeds. The first row ("real") is the judge's verdict on real pictures, the ceiling. The second ("VAE") is for
    those pictures encoded and decoded. The Fréchet distance is to the real pictures of the same scenes.
    """
    data, scheduler = judge.data, sd.scheduler
    splits = {split: fixed_scenes(data, split, count) for split in ("train", "heldout")}
    real = {split: torch.stack([data.draw(scene) for scene in scenes]) for split, scenes in splits.items()}
    crowd = judge.features(torch.cat(list(real.values())))

    def row(name: str, value: object, pictures: dict[str, Tensor]) -> dict:
        result: dict[str, object] = {"setting": name, "value": value}
        for split, label in (("train", "seen"), ("heldout", "held out")):
            scores = judge.scores(pictures[split], splits[split])
            result |= {f"{key}, {label}": number for key, number in scores.items()}
        features = judge.features(torch.cat(list(pictures.values())))
        return result | {"Fréchet": frechet_distance(features, crowd)}

    with torch.no_grad():
        again = {split: sd.vae.decode(sd.vae.encode(images.to(sd.device, sd.dtype)).mode()).clamp(-1, 1).float().cpu()
                 for split, images in real.items()}
    rows = [row("real", "", real), row("VAE", f"{psnr(real['heldout'], again['heldout']):.1f} dB", again)]
    plan: list[tuple[str, object, int, float, str | None]] = [
        ("guidance", scale, steps, scale, None) for scale in GUIDANCE_SCALES]
    plan += [("steps", number, number, guidance_scale, None) for number in STEPS]
    plan += [("scheduler", name, steps, guidance_scale, name) for name in SAMPLERS
             if name not in DISTILLED]
    try:
        for name, value, number, scale, sampler in tqdm(plan, desc="settings", disable=not progress, leave=False):
            sd.scheduler = scheduler
            if sampler is not None:
                sd.set_scheduler(sampler)
            rows.append(row(name, value, {split: draw(sd, scenes, data, number, scale).cpu()
                                          for split, scenes in splits.items()}))
    finally:
        sd.scheduler = scheduler
    return rows


def write_report(rows: list[dict], folder: str | Path, remark: str = "") -> None:
    """Write `FILES`: all numbers, the table for people to read with the remark below it, and the figure."""
    folder = Path(folder)
    table_file, text_file, figure_file = (folder / name for name in FILES)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(table_file) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: f"{value:.4f}" if isinstance(value, float) and key not in ("value",) else value
                          for key, value in row.items()} for row in rows)
    with atomic_file(text_file) as new:
        new.write_text(table(rows) + remark, encoding="utf-8")
    with atomic_file(figure_file) as new:
        draw_report(rows, new)


def table(rows: list[dict]) -> str:
    """The rows as Markdown; accuracies in per cent, "seen / held out"."""
    shown = ("concept", "concept top 5", "style", "background", "nearest")
    lines = ["| setting | " + " | ".join(shown) + " | Fréchet |", "|---" * (len(shown) + 2) + "|"]
    for row in rows:
        cells = [f"{100 * row[f'{key}, seen']:.0f} / {100 * row[f'{key}, held out']:.0f}" for key in shown]
        lines.append(f"| {row['setting']} {row['value']} | " + " | ".join(cells) + f" | {row['Fréchet']:.1f} |")
    return "\n".join(lines) + "\n"


def draw_report(rows: list[dict], path: Path) -> None:
    """Accuracies against guidance scale, steps and scheduler, with the judge's ceiling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1.5))
    kinds = (("concept", "#0072b2", "o"), ("style", "#d55e00", "s"), ("background", "#009e73", "^"))
    for axis, name in zip(axes, ("guidance", "steps", "scheduler")):
        part = [row for row in rows if row["setting"] == name]
        places = range(len(part))
        for key, colour, marker in kinds:
            for split, line in (("seen", "-"), ("held out", "--")):
                axis.plot(places, [100 * row[f"{key}, {split}"] for row in part], line, color=colour, marker=marker,
                          markersize=5, label=f"{key}, {split}")
        axis.axhline(100 * rows[0]["concept, held out"], color="0.5", linewidth=1, linestyle=":",
                     label="concept, real pictures")
        axis.set_xticks(places, [str(row["value"]).removesuffix(".0") for row in part],
                        rotation=30 if name == "scheduler" else 0)
        axis.set(xlabel={"guidance": "guidance scale", "steps": "steps"}.get(name, name), ylim=(0, 103))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("judged right, per cent")
    axes[2].legend(loc="lower right", fontsize=8, ncols=2)
    figure.savefig(path, dpi=150)
