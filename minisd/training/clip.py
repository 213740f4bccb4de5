"""Train the tokenizer and a small CLIP; its text tower is the mini model's text encoder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from minisd.emoji.clip import CLIP, contrastive_loss
from minisd.emoji.contrary import KINDS, contrary
from minisd.emoji.sampling import choose
from minisd.emoji.scene import Scene
from minisd.emoji.world import EmojiData, tokenizer_corpus
from minisd.text_encoder import TextEncoder
from minisd.tokenizer import Tokenizer
from minisd.training.loop import Batch
from minisd.training.task import HELD_OUT, Task, grid

MINI = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
        "projection_dim": 128, "hidden_act": "quick_gelu"}
VOCAB_SIZE = 2562  # 512 byte symbols, 2,048 merges, start and end
RESOLUTION = 64  # of the image tower's pictures


@dataclass(frozen=True)
class Options:
    """CLIP has no options."""


class CLIPTask(Task):
    """Loss: match the pictures and captions of a batch (Radford et al. 2021, figure 3). Besides the captions of the
    other pictures, each picture has one more wrong answer: its own caption with one word changed. So CLIP learns not
    only names, but also "above", "wearing" and "on the left" (Yuksekgonul et al. 2023, "When and Why Vision-Language
    Models Behave like Bags-of-Words", section 4).
    """

    adamw_names = ("embedding", "projection", "features.0.", "logit_scale")

    def __init__(self, options: Options, data: EmojiData, seed: int = 0):
        super().__init__(seed)
        self.data = data
        self.tokenizer = Tokenizer.train(tokenizer_corpus(seed), VOCAB_SIZE)
        config = MINI | {"vocab_size": self.tokenizer.vocab_size, "bos_token_id": self.tokenizer.start_id,
                         "eos_token_id": self.tokenizer.end_id, "pad_token_id": self.tokenizer.pad_id}
        self.clip = CLIP(TextEncoder(**config), RESOLUTION)

    def config(self) -> dict:
        # Other captions give another tokenizer, with which weights trained with the old one are useless.
        words = hashlib.sha256(json.dumps(self.tokenizer.vocab).encode()).hexdigest()[:12]
        return {"vocabulary": words} | self.clip.text_encoder.config.to_dict()

    def forward(self, batch: Batch) -> Tensor:
        text, images, wrong = self.embed(batch.indices, self.seed, "train")
        if dist.is_initialized():  # wrong answers come from all processes
            text, images, wrong = (torch.cat(all_gather(vectors.contiguous())) for vectors in (text, images, wrong))
        return contrastive_loss(text, images, self.clip.scale(), wrong)

    def embed(self, indices: Sequence[int], seed: int, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of captions, of their pictures, and of captions with one wrong word: each (B, 128)."""
        images, captions, scenes = self.data.batch(indices, seed, split, RESOLUTION)
        captions += [self.wrong_caption(scene, np.random.default_rng((seed, i))) for scene, i in zip(scenes, indices)]
        device = self.clip.logit_scale.device
        text, wrong = self.clip.embed_text(self.tokenizer(captions).to(device)).chunk(2)
        return text, self.clip.embed_images(images.to(device)), wrong

    def wrong_caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """The scene's caption with one word wrong: the thing's name, if the caption mentions nothing else."""
        changed = contrary(scene, rng)
        if changed is None:
            names = [concept.name for concept in self.data.concepts if concept.name not in scene.things]
            changed = replace(scene, concept=choose(rng, names), count=1, worn="")
        return self.data.caption(changed)

    # --- how good it is ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def retrieval(self, split: str, count: int = 256) -> float:
        """The share of captions of `count` new scenes for which the nearest of all their pictures is the right one."""
        text, images, _ = self.embed(range(count), HELD_OUT, split)
        return float(((text @ images.T).argmax(dim=1).cpu() == torch.arange(count)).float().mean())

    @torch.no_grad()
    def told_apart(self, kind: str | None = None, count: int = 256) -> float:
        """The share of `count` new pictures that are closer to their own caption than to one with a wrong word.

        Args:
            kind: what the wrong word is about, one of `contrary.KINDS`; None for any of them.
        """
        found: list[bool] = []
        rng, first = np.random.default_rng(HELD_OUT), 0
        while len(found) < count:
            images, captions, scenes = self.data.batch(range(first, first + count), HELD_OUT, "heldout", RESOLUTION)
            changed = [contrary(scene, rng, kind) for scene in scenes]
            wrong = {row: self.data.caption(scene) for row, scene in enumerate(changed) if scene is not None}
            if rows := list(wrong):
                device = self.clip.logit_scale.device
                texts = [captions[row] for row in rows] + [wrong[row] for row in rows]
                right, others = self.clip.embed_text(self.tokenizer(texts).to(device)).chunk(2)
                pictures = self.clip.embed_images(images[rows].to(device))
                found += ((right - others) * pictures).sum(dim=1).gt(0).tolist()
            first += count
        return sum(found[:count]) / count

    def score(self) -> tuple[str, float]:
        return "captions wrong in one word told apart", self.told_apart()

    @torch.no_grad()
    def picture(self) -> Image.Image:
        """The similarities of 64 captions (down) and their 64 pictures (across); bright is similar."""
        text, images, _ = self.embed(range(64), HELD_OUT, "heldout")
        table = (text @ images.T)[None, None].expand(1, 3, 64, 64).repeat_interleave(6, 2).repeat_interleave(6, 3)
        return grid([table])

    def export(self, folder: Path) -> str:
        self.clip.text_encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.clip.save_pretrained(folder / "clip", dtype=torch.float16)
        return (f"CLIP: {self.clip.text_encoder.num_parameters():,} parameters in the text tower; of 256 captions "
                f"{self.retrieval('train'):.1%} find their picture among new scenes, {self.retrieval('heldout'):.1%} "
                "among held-out combinations; of those, told apart from a caption that is wrong in one word: "
                + ", ".join(f"{kind} {self.told_apart(kind):.1%}" for kind in KINDS))
