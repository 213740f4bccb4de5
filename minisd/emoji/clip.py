"""A small CLIP: a text tower and an image tower that learn to agree on which caption belongs to which picture.

Its text tower then becomes the text encoder of the mini model, frozen, as in Stable Diffusion.
Source: Radford et al. 2021, figures 1 and 3.
"""

import math
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisd.files import atomic_folder
from minisd.text_encoder import TextEncoder
from minisd.weights import load_weights, save_weights


class ImageEncoder(nn.Module):
    """A small convolutional network: (B, 3, R, R) in [-1, 1] → (B, width)."""

    def __init__(self, width: int, resolution: int = 32, channels: tuple[int, ...] = (32, 64, 128, 256)):
        super().__init__()
        layers = []
        for before, after in zip((3, *channels), channels):  # each halves height and width
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU(),
                       nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.features = nn.Sequential(*layers)  # → (B, 256, R/16, R/16); not averaged, so that positions are kept
        self.projection = nn.Linear((resolution // 2 ** len(channels)) ** 2 * channels[-1], width, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(self.features(images).flatten(1))


class CLIP(nn.Module):
    """Both towers, their projections into one space, and a learnt temperature."""

    def __init__(self, text_encoder: TextEncoder, resolution: int = 32):
        """resolution: of the image tower's pictures."""
        super().__init__()
        config = text_encoder.config
        self.text_encoder = text_encoder
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.image_encoder = ImageEncoder(config.projection_dim, resolution)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @classmethod
    def from_pretrained(cls, folder: str | Path, text_encoder: TextEncoder, resolution: int = 32) -> Self:
        """Put a given text tower together with the saved image tower and projections.

        Raises:
            FileNotFoundError, ValueError: no weights in the folder, or weights that are damaged or of other sizes.
        """
        clip = cls(text_encoder, resolution)
        weights = load_weights(folder, "model") | {
            f"text_encoder.{name}": tensor for name, tensor in text_encoder.state_dict().items()}
        try:
            clip.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{folder}: {' '.join(str(error).split())}") from None
        return clip.eval()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write everything but the text tower, which has a folder of its own."""
        weights = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("text_encoder.")}
        with atomic_folder(folder) as new:
            save_weights(new, "model", weights, dtype)

    def embed_text(self, token_ids: Tensor) -> Tensor:
        """Token ids (B, 77) → unit vectors (B, projection_dim), taken at the end token, which has seen all words."""
        end = (token_ids == self.text_encoder.config.eos_token_id).int().argmax(dim=1)  # the first one
        # No position attends to later ones, so nothing after the last end token needs to be computed.
        hidden = self.text_encoder(token_ids[:, : int(end.max()) + 1])
        return F.normalize(self.text_projection(hidden[torch.arange(len(end)), end]).float(), dim=-1)

    def embed_images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, R, R) in [-1, 1] → unit vectors (B, projection_dim)."""
        return F.normalize(self.image_encoder(images).float(), dim=-1)

    def scale(self) -> Tensor:
        """The factor on all similarities: 1 / temperature, at most 100 (section 2.5)."""
        return self.logit_scale.exp().clamp(max=100)


def contrastive_loss(text: Tensor, images: Tensor, scale: Tensor, wrong: Tensor | None = None) -> Tensor:
    """Cross-entropy of matching every caption to its picture and every picture to its caption (figure 3).

    Args:
        text, images: (B, width) unit vectors; row k of one belongs to row k of the other.
        wrong: (B, width), one more caption for each picture, which does not describe it.
    """
    logits = scale * text @ images.T  # (B, B): captions down, pictures across
    partner = torch.arange(text.shape[0], device=text.device)
    answers = logits.T
    if wrong is not None:
        answers = torch.cat([answers, scale * (images * wrong).sum(dim=1, keepdim=True)], dim=1)  # (B, B + 1)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(answers, partner)) / 2
