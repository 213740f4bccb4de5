"""The world that the course's miniature model draws: captioned emoji, and the classifier that judges the pictures.

Nothing here is part of Stable Diffusion, which is in the parent package.
"""

from minisd.emoji.classifier import Classifier
from minisd.emoji.clip import CLIP, contrastive_loss
from minisd.emoji.data import (
    BACKGROUNDS,
    PLACES,
    SIZES,
    STYLES,
    EmojiData,
    Scene,
    background_of,
    is_held_out,
)
from minisd.emoji.evaluation import Judge, evaluate, fixed_scenes, nearest_drawing, retrieval, write_report

__all__ = [
    "BACKGROUNDS", "CLIP", "PLACES", "SIZES", "STYLES", "Classifier", "EmojiData", "Judge", "Scene", "background_of",
    "contrastive_loss", "evaluate", "fixed_scenes", "is_held_out", "nearest_drawing", "retrieval", "write_report",
]
