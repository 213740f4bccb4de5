"""Train the tokenizer and a small CLIP; its text tower is the mini model's text encoder."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from minisd.emoji.clip import CLIP, contrastive_loss
from minisd.emoji.data import BACKGROUNDS, STYLES, EmojiData
from minisd.emoji.evaluation import retrieval
from minisd.text_encoder import TextEncoder
from minisd.tokenizer import Tokenizer
from minisd.training.loop import Batch
from minisd.training.vae import HELD_OUT, grid

MINI = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
        "projection_dim": 128, "hidden_act": "quick_gelu"}
VOCAB_SIZE = 2562  # 512 byte symbols, 2,048 merges, start and end


@dataclass(frozen=True)
class Options:
    subset: str = "core"


class CLIPTask(nn.Module):
    """Loss: who belongs to whom in the batch, over pictures of 32 pixels and their captions."""

    def __init__(self, options: Options, data: EmojiData, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.options, self.data, self.seed = options, data, seed
        # The tokenizer always learns from the full set, so that every model of the course shares one.
        every = EmojiData("full")
        rng = np.random.default_rng(seed)
        self.tokenizer = Tokenizer.train([every.caption(every.scene(rng, "all")) for _ in range(20_000)], VOCAB_SIZE)
        config = MINI | {"vocab_size": self.tokenizer.vocab_size, "bos_token_id": self.tokenizer.start_id,
                         "eos_token_id": self.tokenizer.end_id, "pad_token_id": self.tokenizer.pad_id}
        self.clip = CLIP(TextEncoder(**config))

    def config(self) -> dict:
        # Other captions make another tokenizer, with which weights that were trained before mean nothing.
        words = hashlib.sha256(json.dumps(self.tokenizer.vocab).encode()).hexdigest()[:12]
        return {"subset": self.options.subset, "vocabulary": words} | self.clip.text_encoder.config.to_dict()

    def forward(self, batch: Batch) -> Tensor:
        text, images = self.embed(batch.indices, self.seed, "train")
        if dist.is_initialized():  # the wrong answers are those of all processes
            text, images = (torch.cat(all_gather(vectors.contiguous())) for vectors in (text, images))
        return contrastive_loss(text, images, self.clip.scale())

    def embed(self, indices: list[int], seed: int, split: str) -> tuple[Tensor, Tensor]:
        images, captions, _ = self.data.batch(indices, seed, split=split, resolution=32)
        device = self.clip.logit_scale.device
        return self.clip.embed_text(self.tokenizer(captions).to(device)), self.clip.embed_images(images.to(device))

    @torch.no_grad()
    def zero_shot(self, what: str, count: int = 64) -> float:
        """How many held-out pictures find the right word among all captions that differ in nothing else.

        Args:
            what: "concept", "style" or "background".
        """
        choices = {"concept": list(self.data.position), "style": list(STYLES), "background": list(BACKGROUNDS)}[what]
        images, _, scenes = self.data.batch(range(count), HELD_OUT, split="heldout", resolution=32)
        images = self.clip.embed_images(images.to(self.clip.logit_scale.device))
        right = 0
        for image, scene in zip(images, scenes):
            plain = replace(scene, paraphrase=0, says_background=True)
            captions = [self.data.caption(replace(plain, **{what: word})) for word in choices]
            text = self.clip.embed_text(self.tokenizer(captions).to(image.device))
            right += choices[int((text @ image).argmax())] == getattr(scene, what)
        return right / count

    @torch.no_grad()
    def picture(self) -> Image.Image:
        """The similarity of 64 captions (down) and their 64 pictures (across): bright is alike."""
        text, images = self.embed(range(64), HELD_OUT, "heldout")
        table = (text @ images.T)[None, None].expand(1, 3, 64, 64).repeat_interleave(6, 2).repeat_interleave(6, 3)
        return grid([table])

    def export(self, folder: Path) -> None:
        self.clip.text_encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.clip.save_pretrained(folder / "clip", dtype=torch.float16)
        print(f"CLIP: {self.clip.text_encoder.num_parameters():,} parameters in the text tower; of 256 captions "
              f"{retrieval(self.clip, self.tokenizer, self.data, 'train'):.1%} find their picture among new scenes, "
              f"{retrieval(self.clip, self.tokenizer, self.data, 'heldout'):.1%} among held-out combinations; "
              "there, zero-shot, "
              + ", ".join(f"{what} {self.zero_shot(what):.1%}" for what in ("concept", "style", "background")))
