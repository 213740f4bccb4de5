"""Train the judge of `minisd evaluate`, on real pictures only."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minisd.emoji.judge import Judge, JudgeConfig
from minisd.emoji.scene import Scene
from minisd.emoji.world import EmojiData
from minisd.training.loop import Batch
from minisd.training.task import HELD_OUT, Task, grid

SHIFT = 4  # pixels, at most


@dataclass(frozen=True)
class Options:
    """The judge has no options."""


class JudgeTask(Task):
    """Loss: Σ over concepts of binary cross-entropy, plus three cross-entropies, on pictures that are degraded as by a
    VAE's decoder."""

    adamw_names = ("convolutions.0.", "concept", "style", "worn", "pattern")

    def __init__(self, options: Options, data: EmojiData, seed: int = 0):
        super().__init__(seed)
        self.data = data
        self.judge = Judge.of(data)

    def config(self) -> dict:
        return self.judge.config.to_dict()

    def forward(self, batch: Batch) -> Tensor:
        images, _, scenes = self.data.batch(batch.indices, self.seed)
        scores = self.judge(augment(images, batch).to(self.judge.device))
        concepts, *others = (label.to(self.judge.device) for label in labels(self.judge.config, scenes))
        loss = F.binary_cross_entropy_with_logits(scores.concept, concepts, reduction="sum") / len(scenes)
        answers = (scores.style, scores.worn, scores.pattern)
        return loss + sum(F.cross_entropy(logits.float(), label) for logits, label in zip(answers, others))

    @torch.no_grad()
    def accuracy(self, count: int) -> dict[str, float]:
        """How often each is right on real held-out pictures: all things, the style, what is worn, the pattern."""
        right: dict[str, list[bool]] = {"things": [], "style": [], "worn": [], "pattern": []}
        for first in range(0, count, 64):
            images, _, scenes = self.data.batch(range(first, min(first + 64, count)), HELD_OUT, "heldout")
            answers, config = self.judge.look(images), self.judge.config
            for i, scene in enumerate(scenes):
                best = answers.concepts[i].topk(len(scene.things)).indices
                right["things"].append({config.concepts[k] for k in best} == set(scene.things))
                for part in ("style", "worn", "pattern"):
                    right[part].append(getattr(answers, part)[i] == getattr(scene, part))
        return {part: sum(found) / len(found) for part, found in right.items()}

    def score(self) -> tuple[str, float]:
        """The share of real held-out pictures for which all things are right."""
        return "things right", self.accuracy(256)["things"]

    def picture(self) -> Image.Image:
        """Training pictures, degraded as in training."""
        images, _, _ = self.data.batch(range(24), self.seed)
        batch = Batch(list(range(24)), 24, slice(0, 24), torch.Generator().manual_seed(0))
        return grid(list(augment(images, batch).view(2, 12, 3, 128, 128)))

    def export(self, folder: Path) -> str:
        self.judge.save_pretrained(folder / "judge", dtype=torch.float16)
        shares = ", ".join(f"{part} {share:.1%}" for part, share in self.accuracy(1024).items())
        return f"judge: {self.judge.num_parameters():,} parameters; right on real held-out pictures: {shares}"


def labels(config: JudgeConfig, scenes: list[Scene]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The right answers: concepts (B, concepts) of zeros and ones; style, worn and pattern as indices, (B,)."""
    concepts = torch.zeros(len(scenes), len(config.concepts))
    for row, scene in zip(concepts, scenes):
        for name in scene.things:
            row[config.concepts.index(name)] = 1
    return (concepts, torch.tensor([config.styles.index(scene.style) for scene in scenes]),
            torch.tensor([config.worn.index(scene.worn) for scene in scenes]),
            torch.tensor([config.patterns.index(scene.pattern) for scene in scenes]))


def augment(images: Tensor, batch: Batch) -> Tensor:
    """Degrade pictures (B, 3, 128, 128) as a VAE's decoder does: with a little shift, blur, stains and noise."""
    size = images.shape[-1]
    shift = (batch.draw(torch.rand, 2) * (2 * SHIFT + 1)).long()
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    images = torch.stack([image[:, y: y + size, x: x + size] for image, (y, x) in zip(padded, shift.tolist())])
    # half of the pictures are blended with a half-size copy of themselves, enlarged: at most as soft as that
    soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear")
    images = images.lerp(soft, batch.draw(torch.rand, 1, 1, 1) * (batch.draw(torch.rand, 1, 1, 1) < 0.5))
    stains = F.interpolate(batch.draw(torch.randn, 3, 8, 8), size=images.shape[-2:], mode="bilinear")
    noise = batch.draw(torch.randn, *images.shape[1:])
    return images + 0.1 * (batch.draw(torch.rand, 1, 1, 1) * stains + batch.draw(torch.rand, 1, 1, 1) * noise)
