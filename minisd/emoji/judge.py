"""The judge of pictures: which things they show, what is worn, which style, which pattern. Trained on real ones only.

Colours, places and numbers need no network: see reading.py.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from minisd.emoji.heads import WORN
from minisd.emoji.scene import PATTERNS
from minisd.emoji.world import EmojiData
from minisd.network import Network, NetworkConfig

AT_ONCE = 32         # pictures judged together
STRIDES = (4, 2, 2)  # 128 pixels → 32 → 16 → 8
RARE = -9.0          # initial bias of concepts, as most are absent (Lin et al. 2017, "Focal Loss", section 4.1)


@dataclass(frozen=True)
class JudgeConfig(NetworkConfig):
    """The words that the judge knows, in the order of its scores."""

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    worn: tuple[str, ...] = ("", *WORN)  # "": nothing
    patterns: tuple[str, ...] = PATTERNS
    channels: tuple[int, ...] = (64, 128, 256)


class Scores(NamedTuple):
    """Logits. The picture is divided into 8 × 8 places."""

    concept: Tensor  # (B, concepts), each yes or no
    style: Tensor    # (B, styles), one of them
    worn: Tensor     # (B, worn), one of them
    pattern: Tensor  # (B, patterns), one of them
    places: Tensor   # (B, concepts, 8, 8), summed up in `concept`


class Answers(NamedTuple):
    """What the judge says about pictures, in words."""

    concepts: Tensor     # (B, concepts), how sure it is that each is there, 0 to 1
    style: list[str]
    worn: list[str]      # "" for nothing
    pattern: list[str]
    heights: Tensor      # (B, concepts), how far down each is, if it is there: 0 is the top, 1 the bottom


class Residual(nn.Module):
    """x + f(x), with f two convolutions (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
                                  nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Judge(Network):
    """A convolutional network, independent of all parts of the mini model.

    Concepts are scored at each place of the last map and then summed up, log Σ exp, so that a small thing counts as
    much as a large one. This also tells where each of them is, although no one taught it that (Oquab et al. 2015, "Is
    Object Localization for Free?").
    """

    CONFIG = JudgeConfig
    CLASS_NAME = {"_class_name": "EmojiJudge"}
    WEIGHTS = "model"
    config: JudgeConfig

    def __init__(self, **config: Any):
        super().__init__(**config)
        channels = self.config.channels
        layers: list[nn.Module] = []
        for before, after, stride in zip((3, *channels), channels, STRIDES):
            layers += [nn.Conv2d(before, after, 2 * stride - 1, stride, padding=stride - 1), Residual(after)]
        self.convolutions = nn.Sequential(*layers, nn.GroupNorm(8, channels[-1]), nn.SiLU())
        self.concept = nn.Conv2d(channels[-1], len(self.config.concepts), 1)
        nn.init.constant_(self.concept.bias, RARE)
        self.style = nn.Linear(2 * channels[-1], len(self.config.styles))
        self.worn = nn.Linear(2 * channels[-1], len(self.config.worn))
        self.pattern = nn.Linear(2 * channels[-1], len(self.config.patterns))

    @classmethod
    def of(cls, data: EmojiData) -> Self:
        """An untrained judge for the words of a data set."""
        return cls(concepts=[concept.name for concept in data.concepts], styles=data.styles)

    def last_map(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, 128, 128) in [-1, 1] → (B, channels, 8, 8). ValueError for another shape."""
        if pixels.ndim != 4 or pixels.shape[1:] != (3, 128, 128):
            raise ValueError(f"Judge: pixels have shape {tuple(pixels.shape)}; they must be (B, 3, 128, 128)")
        return self.convolutions(pixels)

    def forward(self, pixels: Tensor) -> Scores:
        last = self.last_map(pixels)
        places = self.concept(last).float()                                      # (B, concepts, 8, 8)
        pooled = torch.cat([last.mean(dim=(2, 3)), last.amax(dim=(2, 3))], dim=1)
        return Scores(places.flatten(2).logsumexp(dim=2), self.style(pooled), self.worn(pooled), self.pattern(pooled),
                      places)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """What the Fréchet distance compares: the means of the last map, (B, channels). Pixels as in `last_map`."""
        return torch.cat([self.last_map(part.to(self.device)).mean(dim=(2, 3)).float().cpu()
                          for part in pixels.split(AT_ONCE)])

    @torch.no_grad()
    def look(self, pixels: Tensor) -> Answers:
        """Say what pictures (B, 3, 128, 128) in [-1, 1] show."""
        parts = [self(part.to(self.device)) for part in pixels.split(AT_ONCE)]
        scores = Scores(*(torch.cat([part[i].float().cpu() for part in parts]) for i in range(len(Scores._fields))))
        shares = scores.places.flatten(2).softmax(dim=2).view_as(scores.places).sum(dim=3)      # (B, concepts, 8)
        rows = (torch.arange(shares.shape[2]) + 0.5) / shares.shape[2]
        style, worn, pattern = ([words[i] for i in logits.argmax(dim=1)] for logits, words in (
            (scores.style, self.config.styles), (scores.worn, self.config.worn),
            (scores.pattern, self.config.patterns)))
        return Answers(scores.concept.sigmoid(), style, worn, pattern, shares @ rows)
