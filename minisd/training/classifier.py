"""Train the classifier that judges pictures in `minisd evaluate`, on real pictures only."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minisd.emoji.classifier import Classifier
from minisd.emoji.data import EmojiData, Scene
from minisd.training.loop import Batch
from minisd.training.task import HELD_OUT, Task, grid


@dataclass(frozen=True)
class Options:
    """The classifier has no options."""


class ClassifierTask(Task):
    """Loss: the sum of three cross-entropies, on randomly shifted, blurred and noised pictures."""

    adamw_names = ("convolutions.0.", "concept", "style", "background")

    def __init__(self, options: Options, data: EmojiData, seed: int = 0):
        super().__init__(seed)
        self.data = data
        self.classifier = Classifier(concepts=[c.name for c in data.concepts], styles=data.styles,
                                     backgrounds=list(data.backgrounds))

    def config(self) -> dict:
        return self.classifier.config.to_dict()

    def forward(self, batch: Batch) -> Tensor:
        images, _, scenes = self.data.batch(batch.indices, self.seed)
        images = augment(images, batch).to(self.classifier.device)
        answers = zip(self.classifier(images), labels(self.classifier, scenes))
        return sum(F.cross_entropy(scores.float(), label.to(scores.device)) for scores, label in answers)

    @torch.no_grad()
    def accuracy(self, count: int = 1024) -> tuple[float, float, float]:
        """The accuracy on concept, style and background, for real pictures of held-out combinations."""
        right = torch.zeros(3)
        for first in range(0, count, 128):
            images, _, scenes = self.data.batch(range(first, first + 128), HELD_OUT, split="heldout")
            answers = zip(self.classifier(images.to(self.classifier.device)), labels(self.classifier, scenes))
            right += torch.tensor([(scores.argmax(1).cpu() == label).sum() for scores, label in answers])
        return tuple((right / count).tolist())

    def picture(self) -> Image.Image:
        """Training pictures, augmented."""
        images, _, _ = self.data.batch(range(24), self.seed)
        batch = Batch(list(range(24)), 24, slice(0, 24), torch.Generator().manual_seed(0))
        return grid(list(augment(images, batch).view(2, 12, 3, 64, 64)))

    def export(self, folder: Path) -> str:
        self.classifier.save_pretrained(folder / "classifier", dtype=torch.float16)
        concept, style, background = self.accuracy()
        return (f"classifier: {self.classifier.num_parameters():,} parameters; right on real held-out pictures: "
                f"concept {concept:.1%}, style {style:.1%}, background {background:.1%}")


def labels(classifier: Classifier, scenes: list[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """The right answers for scenes, as indices into the classifier's words: three tensors (B,)."""
    config = classifier.config
    return (torch.tensor([config.concepts.index(scene.concept) for scene in scenes]),
            torch.tensor([config.styles.index(scene.style) for scene in scenes]),
            torch.tensor([config.backgrounds.index(scene.background) for scene in scenes]))


def augment(images: Tensor, batch: Batch) -> Tensor:
    """Shift by up to three pixels, blur about half of the pictures, add noise: how a decoder's pictures differ."""
    shift = (batch.draw(torch.rand, 2) * 7).long() - 3
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    images = torch.stack([image[:, 3 + y: 67 + y, 3 + x: 67 + x] for image, (y, x) in zip(padded, shift.tolist())])
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    part = batch.draw(torch.rand, 1, 1, 1) * (batch.draw(torch.rand, 1, 1, 1) < 0.5)
    images = images + part * (blurred - images)
    return images + 0.1 * batch.draw(torch.rand, 1, 1, 1) * batch.draw(torch.randn, 3, 64, 64)
