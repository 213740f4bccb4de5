"""The text encoder: 77 token ids in, 77 vectors out, one for each token in the context of those before it.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (CLIP),
section 2.4; SD 2 uses the same architecture with other sizes (OpenCLIP ViT-H).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisd.attention import multi_head_attention
from minisd.messages import quoted
from minisd.network import Network
from minisd.network_config import Epsilon, LayerCount, NetworkConfig, TokenId


@dataclass(frozen=True)
class TextEncoderConfig(NetworkConfig):
    """The fields of a published CLIP text model's `config.json`."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: LayerCount = 12  # 23 in SD 2: OpenCLIP's 24 without the last
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"  # "gelu" in SD 2
    layer_norm_eps: Epsilon = 1e-5
    projection_dim: int = 768  # width of the space that CLIP shares with images; not used for conditioning
    bos_token_id: TokenId = 49406
    eos_token_id: TokenId = 49407
    pad_token_id: TokenId | None = 1

    FIXED = {
        "attention_dropout": (0.0,), "dropout": (0.0,), "initializer_factor": (1.0,), "initializer_range": (0.02,),
    }

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"TextEncoderConfig: hidden_act={quoted(self.hidden_act)} is not supported; "
                             f"it must be {' or '.join(map(repr, ACTIVATIONS))}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"TextEncoderConfig: num_attention_heads={self.num_attention_heads} does not divide "
                             f"hidden_size={self.hidden_size}")


# Other tensors of a CLIP: the half that looks at pictures, the projections into the common space, and a buffer.
NOT_TEXT = re.compile(r"^(vision_model\.|visual_projection\.|text_projection(\.weight)?$|logit_scale$)|position_ids$")


def quick_gelu(x: Tensor) -> Tensor:
    """x · σ(1.702 x), OpenAI's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class Embeddings(nn.Module):
    """A vector for each token plus a vector for each position."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        for embedding in (self.token_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)  # as in CLIP; PyTorch's default is 1

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.token_embedding(token_ids) + self.position_embedding.weight[: token_ids.shape[1]]


class CausalSelfAttention(nn.Module):
    """Each token attends to itself and to those before it."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(multi_head_attention(q, k, v, self.num_heads, causal=True))


class MLP(nn.Module):
    """Expand to a greater width (four times, in published models) and back, the same for every token."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = CausalSelfAttention(config.hidden_size, config.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TextTransformer(nn.Module):
    """Embeddings, layers, a final layer norm."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])})
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, token_ids: Tensor) -> Tensor:
        x = self.embeddings(token_ids)
        for layer in self.encoder["layers"]:
            x = layer(x)
        return self.final_layer_norm(x)


class TextEncoder(Network):
    """CLIP's text half; `TextEncoder(**config)` with the fields of `TextEncoderConfig`."""

    CONFIG = TextEncoderConfig
    CLASS_NAME = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
    WEIGHTS = "model"
    config: TextEncoderConfig

    def __init__(self, **config: Any):
        super().__init__(**config)
        self.text_model = TextTransformer(self.config)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Token ids (B, N), N up to 77 → (B, N, hidden_size), after the final layer norm.

        Raises:
            TypeError: token ids that are not whole numbers.
            ValueError: token ids of the wrong shape or outside the vocabulary.
        """
        if not isinstance(token_ids, Tensor) or token_ids.dtype not in (torch.int64, torch.int32):
            given = token_ids.dtype if isinstance(token_ids, Tensor) else type(token_ids).__name__
            raise TypeError(f"TextEncoder: token ids are {given}; they must be a tensor of whole numbers, as the "
                            "tokenizer gives them")
        if token_ids.ndim != 2 or token_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(f"TextEncoder: token ids have shape {tuple(token_ids.shape)}; "
                             f"they must be (B, at most {self.config.max_position_embeddings})")
        try:
            return self.text_model(token_ids)
        except IndexError:  # on a CPU; a GPU reports it later, if at all
            raise ValueError(f"TextEncoder: token ids from {int(token_ids.min())} to {int(token_ids.max())}; they must "
                             f"be from 0 to {self.config.vocab_size - 1}, the vocabulary. "
                             "Does the tokenizer belong to this text encoder?") from None

    @staticmethod
    def published_config(config: dict) -> dict:
        """A whole CLIP's config holds that of its text half, from which fields with transformers' defaults are absent,
        and in which old releases of transformers put eighty of their own."""
        text = config.get("text_config")
        if config.get("model_type") != "clip" or not isinstance(text, dict):
            return config
        known = {field.name for field in fields(TextEncoderConfig)} | TextEncoderConfig.FIXED.keys()
        return {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "projection_dim": 512,
                **{name: value for name, value in text.items() if name in known}}

    @staticmethod
    def published_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop what only CLIP's comparison with pictures needs, and the old `position_ids` buffer; put back the prefix
        that transformers 5 leaves out."""
        weights = {name: tensor for name, tensor in weights.items() if not NOT_TEXT.search(name)}
        if not any(name.startswith("text_model.") for name in weights):
            weights = {f"text_model.{name}": tensor for name, tensor in weights.items()}
        return weights
