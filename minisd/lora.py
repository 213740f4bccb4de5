"""LoRA: a small file that changes a large model. For each weight that it changes it holds two thin matrices, A and B:

    W' = W + scale · α/r · B·A        W: (out, in)    A: (r, in)    B: (out, r)    r: the rank, 4 to 128

A convolution's kernel is a matrix, too, (out, in·k·k), so A is a k×k convolution to r channels, and B a 1×1 one.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

import json
import math
import re
from collections import defaultdict
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from minisd.files import read_json
from minisd.messages import ShownPath, listed, quoted
from minisd.network import Network
from minisd.single_file import read_single_file, rename


class Change(NamedTuple):
    """What a LoRA adds to one weight."""

    down: Tensor   # A: (r, in), or (r, in, k, k)
    up: Tensor     # B: (out, r), or (out, r, 1, 1)
    factor: float  # scale · α/r

    def added_to(self, weight: Tensor) -> Tensor:
        """weight + scale · α/r · B·A, in the weight's precision."""
        up, down = (half.flatten(1).to(weight) for half in (self.up, self.down))
        return weight + self.factor * (up @ down).reshape(weight.shape)


Lora = dict[str, Change]  # by the names of `layers`


def layers(**networks: Network) -> dict[str, nn.Parameter]:
    """The weights that a LoRA can change, those of all linear layers and convolutions, by names such as "unet.conv_in"
    and "text_encoder.text_model.encoder.layers.0.mlp.fc1"."""
    return {f"{part}.{name}": module.weight for part, network in networks.items()
            for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}


@torch.no_grad()
def merge(weights: dict[str, nn.Parameter], originals: dict[str, Tensor], loras: list[Lora]) -> None:
    """Make every weight its original plus what these LoRAs add, computed in float32 or better and rounded once.

    Args:
        originals: the weights as they were before any LoRA; kept here on the first change of each, and forgotten
            once no LoRA is left. Nothing is ever subtracted, so they come back exactly.
    """
    for name in {*originals, *(name for lora in loras for name in lora)}:
        weight = weights[name]
        if name not in originals:
            originals[name] = weight.detach().clone()
        exact = originals[name].to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        for lora in loras:
            if name in lora:
                exact = lora[name].added_to(exact)
        weight.copy_(exact)  # in place: compiled networks know where their weights are
    if not loras:
        originals.clear()


# --- reading a file -------------------------------------------------------------------------------------------

# What a layer's tensors are called: a pattern, and its replacement.
NAMES = [
    (r"^base_model\.model\.", ""),                                                      # PEFT
    (r"\.processor\.to_(q|k|v|out)_lora\.", r".to_\1.lora."),                           # diffusers until 2023: U-Net,
    (r"\.self_attn\.to_(q|k|v|out)_lora\.", r".self_attn.\1_proj.lora."),               # text encoder
    (r"\.to_out\.lora\.", ".to_out.0.lora."),
    (r"\.(lora_down|lora\.down|lora_linear_layer\.down|lora_A(\.\w+)?)\.weight$", ".down"),  # kohya, diffusers, PEFT
    (r"\.(lora_up|lora\.up|lora_linear_layer\.up|lora_B(\.\w+)?)\.weight$", ".up"),
]
PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}  # kohya's, which has underscores for dots
# What else such files may hold, by what is in a tensor's name.
OTHERS = [
    (r"\.hada_", "a LoHa"), (r"\.lokr_", "a LoKr"), (r"\.dora_scale|\.lora_magnitude_vector", "a DoRA"),
    (r"\.lora_mid\.", "a LoCon in three parts (Tucker or CP)"), (r"\.oft_|\.oft_R", "an OFT"),
    (r"\.diff(_b)?$", "a set of differences of whole weights"),
    (r"^(lora_te[12]_|text_encoder_2\.|lora_unet_(input|middle|output)_block)|transformer_blocks[._][1-9]",
     "a LoRA for Stable Diffusion XL"),
    (r"^(lora_)?transformer[._]|^diffusion_model\.|^lora_unet_(double|single|joint)_blocks|^lora_te3_",
     "a LoRA for a transformer model, such as Flux or Stable Diffusion 3"),
]
OF_TEXT = ("attn2.to_k", "attn2.to_v", ".q_proj", ".k_proj", ".v_proj")  # layers whose input is as wide as the text
MODELS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}  # by the text's width


def read_lora(path: str | Path, scale: float, weights: dict[str, nn.Parameter]) -> Lora:
    """What a LoRA file, or the one in a folder, adds to these weights.

    The layouts: kohya's ("lora_unet_….lora_down.weight"), diffusers' ("unet.….lora.down.weight", and until 2023
    "….processor.to_q_lora.down.weight"), and PEFT's ("….lora_A.weight").

    Raises:
        FileNotFoundError: no such file, or no LoRA in the folder.
        ValueError: a bad scale; a damaged file, or one of another kind or for another model; tensors that match no
            layer, which are never dropped.
    """
    if not isinstance(scale, Real) or isinstance(scale, bool) or not math.isfinite(scale):
        raise ValueError(f"scale={scale!r}; it must be a number, and is 1 as a rule")
    file = find_file(path)
    tensors, _ = read_single_file(file)
    for pattern, kind in OTHERS:
        if any(re.search(pattern, key) for key in tensors):
            raise ValueError(f"{file} is {kind}; minisd merges LoRAs for Stable Diffusion 1 and 2")
    halves, strays = by_layer(tensors, weights)
    for name, parts in halves.items():
        if name.endswith(OF_TEXT) and "down" in parts and parts["down"].ndim > 1:
            theirs, ours = parts["down"].shape[1], weights[name].shape[1]
            if theirs != ours:
                raise ValueError(f"{file} is a LoRA for {MODELS.get(theirs, 'another model')}, whose text has width "
                                 f"{theirs}; this model is {MODELS.get(ours, 'one')} of width {ours}")
    if strays or not halves:
        raise ValueError(f"{file}: " + (f"these tensors belong to no layer of this model: {listed(strays, 20)}"
                                        if strays else "it holds no tensors"))
    if bad := [f"{name} {why}" for name, parts in halves.items() if (why := fault(parts, weights[name]))]:
        raise ValueError(f"{file}: not a LoRA for this model: {listed(bad, 20)}")
    settings = peft_settings(file)
    return {name: Change(parts["down"], parts["up"], float(scale) * strength(name, parts, settings, file))
            for name, parts in halves.items()}


def find_file(path: str | Path) -> Path:
    """The file itself, or the LoRA in a folder: safetensors first, in the names that diffusers and PEFT give them."""
    path = ShownPath(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"there is no LoRA {path}; give a file, or the folder that holds it")
    for suffix in ("safetensors", "bin", "ckpt", "pt"):
        for name in ("pytorch_lora_weights", "adapter_model", "*"):
            found = sorted(path.glob(f"{name}.{suffix}"))
            if len(found) > 1:
                raise FileNotFoundError(f"{path} holds several files; give one of them: "
                                        f"{listed(file.name for file in found)}")
            if found:
                return found[0]
    raise FileNotFoundError(f"{path} holds no .safetensors file; give the folder of a LoRA, or its file")


def by_layer(tensors: dict[str, Tensor], names: dict[str, nn.Parameter]
             ) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Tensors by the name of their layer, then "down", "up" or "alpha"; and the keys that fit nowhere."""
    places: dict[str, str] = {}  # from what files call a layer
    for name in names:
        part, _, layer = name.partition(".")
        for inner in (layer, layer.removeprefix("text_model.")):  # which transformers dropped in version 5
            places |= {f"{part}.{inner}": name, inner: name, PREFIXES[part] + inner.replace(".", "_"): name}
    halves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    strays = []
    for key, tensor in tensors.items():
        layer, _, half = rename(key, NAMES).rpartition(".")
        if layer not in places or half not in ("down", "up", "alpha") or half in halves[places[layer]]:
            strays.append(key)
        else:
            halves[places[layer]][half] = tensor
    return halves, strays


def fault(parts: dict[str, Tensor], weight: Tensor) -> str | None:
    """What keeps a layer's tensors from being merged, in words."""
    if missing := {"down", "up"} - parts.keys():
        return f"lacks {' and '.join(sorted(missing))}"
    down, up = parts["down"], parts["up"]
    if min(down.ndim, up.ndim) < 2 or not len(down) or (
            (up.flatten(1).shape, down.flatten(1).shape)
            != ((len(weight), len(down)), (len(down), weight[0].numel()))):
        return f"{tuple(up.shape)}·{tuple(down.shape)} does not fit {tuple(weight.shape)}"
    if "alpha" in parts and parts["alpha"].numel() != 1:
        return f"has an alpha of shape {tuple(parts['alpha'].shape)}"
    if not all(part.is_floating_point() and part.float().isfinite().all() for part in (down, up)):
        return "is not finite"
    return None


# --- α --------------------------------------------------------------------------------------------------------


def peft_settings(file: Path) -> dict[str, dict]:
    """PEFT's LoraConfig for each network: in the file's metadata, or in adapter_config.json beside it."""
    if file.suffix.lower() == ".safetensors":
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get("lora_adapter_metadata")
        if text:
            try:
                flat = dict(json.loads(text))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(f"{file}: its metadata lora_adapter_metadata is not valid JSON: {error}") from None
            return {part: {key.removeprefix(f"{part}."): value for key, value in flat.items()
                           if key.startswith(f"{part}.")} for part in PREFIXES}
    beside = file.parent / "adapter_config.json"
    config = read_json(beside) if beside.is_file() else {}
    return {part: config for part in PREFIXES}


def strength(name: str, parts: dict[str, Tensor], settings: dict[str, dict], file: Path) -> float:
    """α/r. α is beside the matrices, or in PEFT's settings, where some layers may have their own; else it is r."""
    rank = len(parts["down"])
    if "alpha" in parts:
        alpha, divisor = parts["alpha"].item(), float(rank)
    else:
        part, _, layer = name.partition(".")
        config = settings[part]
        alpha, divisor = config.get("lora_alpha", rank), rank**0.5 if config.get("use_rslora") else float(rank)
        for pattern, value in reversed((config.get("alpha_pattern") or {}).items()):  # the first that fits counts
            if not re.fullmatch(r"\^?[\w.]+", pattern):
                raise ValueError(f"{file}: alpha_pattern has {quoted(pattern)}; minisd reads names of layers only")
            whole = pattern[1:] in (layer, layer.removeprefix("text_model."))
            if whole if pattern.startswith("^") else f".{layer}".endswith(f".{pattern}"):
                alpha = value
    if not isinstance(alpha, Real) or not math.isfinite(alpha):
        raise ValueError(f"{file}: alpha of {name} is {quoted(alpha)}; it must be a number")
    return float(alpha) / divisor
