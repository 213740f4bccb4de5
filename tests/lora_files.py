"""Random LoRAs for the tiny models, and the layouts in which they are written."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from minisd import StableDiffusion

Halves = dict[str, tuple[Tensor, Tensor, float]]  # A, B and α by the name of a layer, such as "unet.conv_in"


def random_lora(sd: StableDiffusion, only: tuple[str, ...] = ("",), alpha: float = 3.0, seed: int = 0) -> Halves:
    """A LoRA for all layers whose names hold one of `only`, of ranks from 2 to 5, large enough to be seen."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for k, (name, weight) in enumerate(sd._lora_layers().items()):
        if any(part in name for part in only):
            rank = 2 + k % 4
            down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
            up = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=generator) / 4
            found[name] = (down, up, alpha)
    return found


def attention_only(lora: Halves) -> Halves:
    wanted = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
    return {name: halves for name, halves in lora.items() if name.endswith(wanted)}


def kohya(lora: Halves) -> dict[str, Tensor]:
    tensors = {}
    for name, (down, up, alpha) in lora.items():
        part, _, layer = name.partition(".")
        key = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + layer.replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    return tensors


def diffusers(lora: Halves) -> dict[str, Tensor]:
    """As diffusers 0.22 and later write them; α is r."""
    tensors = {}
    for name, (down, up, _) in lora.items():
        key = f"{name}.lora" if name.startswith("unet.") else f"{name}.lora_linear_layer"
        tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return tensors


def diffusers_2023(lora: Halves) -> dict[str, Tensor]:
    """As diffusers wrote them until 0.21, for attention only; α is r."""
    tensors = {}
    for name, (down, up, _) in attention_only(lora).items():
        layer, _, last = name.removesuffix(".0").rpartition(".")
        last = f"to_{last.removesuffix('_proj')}" if name.startswith("text_encoder.") else f"processor.{last}"
        tensors |= {f"{layer}.{last}_lora.down.weight": down, f"{layer}.{last}_lora.up.weight": up}
    return tensors


def peft(lora: Halves) -> dict[str, Tensor]:
    """As diffusers' training scripts write them today, with transformers 5; α is in the metadata, or r."""
    tensors = {}
    for name, (down, up, _) in lora.items():
        name = name.replace("text_model.", "")
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return tensors


def peft_metadata(lora: Halves, alpha: float, patterns: dict[str, float], **more) -> dict[str, str]:
    """What diffusers writes beside PEFT's tensors: its LoraConfig of each network."""
    fields: dict = {}
    for part in {name.partition(".")[0] for name in lora}:
        ranks = {name.replace("text_model.", "").partition(".")[2]: len(down)
                 for name, (down, _, _) in lora.items() if name.startswith(part)}
        fields |= {f"{part}.r": 4, f"{part}.lora_alpha": alpha, f"{part}.target_modules": sorted(ranks),
                   f"{part}.rank_pattern": {f"^{layer}": rank for layer, rank in ranks.items()},
                   f"{part}.alpha_pattern": patterns if part == "unet" else {}}
        fields |= {f"{part}.{field}": value for field, value in more.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(fields)}


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path
