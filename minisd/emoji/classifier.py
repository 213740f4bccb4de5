"""The judge of pictures: which concept, which style, which background? It was trained on real pictures only."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from minisd.network import Network, in_precision_of
from minisd.network_config import NetworkConfig


@dataclass(frozen=True)
class ClassifierConfig(NetworkConfig):
    """The words that the judge knows, in the order of its scores."""

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    backgrounds: tuple[str, ...]
    channels: tuple[int, ...] = (32, 64, 128, 192)
    features: int = 256


class Classifier(Network):
    """A convolutional network with three outputs, independent of every part of the mini model."""

    CONFIG = ClassifierConfig
    CLASS_NAME = {"_class_name": "EmojiClassifier"}
    WEIGHTS = "model"
    config: ClassifierConfig

    def __init__(self, **config: Any):
        super().__init__(**config)
        channels = self.config.channels
        layers = []
        for before, after in zip((3, *channels), channels):  # each halves height and width: 64 → 4
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU(),
                       nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(16 * channels[-1], self.config.features)
        self.concept = nn.Linear(self.config.features, len(self.config.concepts))
        self.style = nn.Linear(self.config.features, len(self.config.styles))
        self.background = nn.Linear(self.config.features, len(self.config.backgrounds))

    def features(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64) in [-1, 1] → the features that all three answers are computed from, (B, features)."""
        if pixels.ndim != 4 or pixels.shape[1:] != (3, 64, 64):
            raise ValueError(f"Classifier: pixels have shape {tuple(pixels.shape)}; they must be (B, 3, 64, 64)")
        pixels = in_precision_of(self.dense.weight, pixels, "Classifier: pixels")
        return F.silu(self.dense(self.convolutions(pixels).flatten(1)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (logits) of all concepts, styles and backgrounds: (B, concepts), (B, styles), (B, backgrounds)."""
        features = self.features(pixels)
        return self.concept(features), self.style(features), self.background(features)
