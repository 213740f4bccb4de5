"""One file in the original CompVis or Stability layout, taken apart into U-Net, VAE and text encoder.

Those repositories number the U-Net's blocks consecutively (`input_blocks.4.1`) and count the decoder's levels from the
bottom; Stability's fuses the text encoder's query, key and value. Each line of the tables below is a pattern in an old
name and its replacement in the new one; only the U-Net's block numbers take a little arithmetic as well.
"""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minisd import kinds
from minisd.files import check_regular
from minisd.kinds import UNET_PREFIX
from minisd.messages import listed, shown
from minisd.text_encoder import TextEncoder
from minisd.weights import read_safetensors

VAE_PREFIX, TEXT_PREFIX = "first_stage_model.", "cond_stage_model."
TURBO_PREFIX = "conditioner.embedders.0."  # in place of TEXT_PREFIX in SD-Turbo, which a later code wrote

RESIDUAL_BLOCK_NAMES = [
    (r"\.in_layers\.0\.", ".norm1."), (r"\.in_layers\.2\.", ".conv1."), (r"\.emb_layers\.1\.", ".time_emb_proj."),
    (r"\.out_layers\.0\.", ".norm2."), (r"\.out_layers\.3\.", ".conv2."), (r"\.skip_connection\.", ".conv_shortcut."),
]
UNET_NAMES = [
    (r"^time_embed\.0\.", "time_embedding.linear_1."), (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^input_blocks\.0\.0\.", "conv_in."), (r"^out\.0\.", "conv_norm_out."), (r"^out\.2\.", "conv_out."),
    (r"^middle_block\.0\.", "mid_block.resnets.0."), (r"^middle_block\.1\.", "mid_block.attentions.0."),
    (r"^middle_block\.2\.", "mid_block.resnets.1."), *RESIDUAL_BLOCK_NAMES,
]
VAE_NAMES = [
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."), (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."), (r"\.nin_shortcut\.", ".conv_shortcut."),
]
TEXT_NAMES_V2 = [
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."), (r"\.ln_2\.", ".layer_norm2."), (r"\.attn\.", ".self_attn."),
    (r"\.c_fc\.", ".fc1."), (r"\.c_proj\.", ".fc2."),
]


class Ignored:
    """Stands in for what the training framework left in old .ckpt files; none of it is run or kept."""


# Besides tensors, the published .ckpt files hold a callback's class as a key, and NumPy scalars.
HARMLESS: list = [(Ignored, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
            (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"), np.float64(0).__reduce__()[0],
            np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.int64))]


def read_single_file(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """All tensors of a .safetensors or .ckpt file, memory-mapped, and the training step that a .ckpt may name.

    Raises:
        ValueError: a damaged file, or a pickle that holds anything but tensors: such a file can run code, and is
            not opened.
    """
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path), None
    check_regular(path)
    try:
        with torch.serialization.safe_globals(HARMLESS):  # zip files only: older ones cannot be memory-mapped
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of half a dozen types; its message advises switching the check off
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(f"{path} was not opened: it is damaged, or a pickle that holds more than tensors"
                         f"{f' ({shown(found[1])})' if found else ''}, which could run code on this computer. "
                         "Use the .safetensors file of the same model") from None
    content = plain_dict(content)
    step, weights = content.get("global_step"), plain_dict(content.get("state_dict", content))
    tensors = {name: Tensor.detach(value)  # a plain tensor: a pickle can give one attributes in place of its methods
               for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors under 'state_dict' or at its top")
    if odd := [name for name, tensor in tensors.items() if not is_stored(tensor)]:
        raise ValueError(f"{path}: the numbers of {listed(odd)} are not stored one by one (sparse, quantised, without "
                         "values, or one number for many); save them as plain dense tensors")
    return tensors, step if isinstance(step, int) else None


def plain_dict(content: object) -> dict:
    """What a pickle holds, as a dict that behaves like one: an OrderedDict can have attributes in place of methods."""
    return dict(dict.items(content)) if isinstance(content, dict) else {}


def is_stored(tensor: Tensor) -> bool:
    """Whether every number of a tensor is in the file: in a quantised model, or a hoax, they need not be."""
    return (tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
            and not tensor.is_nested and tensor.untyped_storage().nbytes() >= tensor.nbytes)


def split(weights: dict[str, Tensor], source: str) -> dict[str, tuple[dict, dict[str, Tensor]]]:
    """{"unet", "vae", "text_encoder"}: (config, weights under the published diffusers names).

    Sizes are inferred from shapes. If the file also holds averaged (EMA) weights of the U-Net, those are used: they are
    what is published in the folder layout.

    Raises:
        ValueError: not a whole Stable Diffusion 1 or 2 checkpoint.
    """
    kinds.check_file(weights, source)
    weights = {re.sub(f"^{re.escape(TURBO_PREFIX)}", TEXT_PREFIX, name): tensor for name, tensor in weights.items()}
    for prefix, part in ((UNET_PREFIX, "U-Net"), (VAE_PREFIX, "VAE"), (TEXT_PREFIX, "text encoder")):
        if not any(name.startswith(prefix) for name in weights):
            raise ValueError(f"{source} holds no {part} (no tensor's name begins with {prefix}); "
                             "it is not a whole Stable Diffusion 1.x or 2.x checkpoint")
    try:
        return {"unet": convert_unet(weights), "vae": convert_vae(weights), "text_encoder": convert_text(weights)}
    except (LookupError, TypeError, ValueError) as error:  # a tensor is missing that every checkpoint has
        raise ValueError(f"{source} is not a whole Stable Diffusion 1.x or 2.x checkpoint: "
                         f"its layout is a different one ({shown(error)})") from None


def without_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def rename(name: str, table: list[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def count(names: Iterable[str], pattern: str) -> int:
    """One more than the largest number that `pattern` finds in any name."""
    return 1 + max((int(match[1]) for name in names if (match := re.search(pattern, name))), default=-1)


def convert_unet(weights: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    old = without_prefix(weights, UNET_PREFIX)
    old = {name: weights.get("model_ema.diffusion_model" + name.replace(".", ""), tensor)
           for name, tensor in old.items()}

    # On the way down, each level is `layers` blocks and a downsampling layer; the last level has only blocks.
    downs = sorted(int(name.split(".")[1]) for name in old if name.endswith(".op.weight"))
    layers, levels = downs[0] - 1, len(downs) + 1
    new = {}
    for name, tensor in old.items():
        if match := re.match(r"input_blocks\.(\d+)\.(\d+)\.(op\.)?", name):
            level, i = divmod(int(match[1]) - 1, layers + 1)
            place = ("downsamplers.0.conv." if match[3] else
                     f"resnets.{i}." if match[2] == "0" else f"attentions.{i}.")
            if match[1] != "0":
                name = f"down_blocks.{level}.{place}{name[match.end():]}"
        elif match := re.match(r"output_blocks\.(\d+)\.(\d+)\.", name):
            level, i = divmod(int(match[1]), layers + 1)
            rest = name[match.end():]
            place = "resnets." if match[2] == "0" else "upsamplers." if rest.startswith("conv.") else "attentions."
            name = f"up_blocks.{level}.{place}{0 if place == 'upsamplers.' else i}.{rest}"
        new[rename(name, UNET_NAMES)] = tensor

    widths = [new[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
    attends = [f"down_blocks.{level}.attentions.0.proj_in.weight" in new for level in range(levels)]
    first = attends.index(True)
    linear = new[f"down_blocks.{first}.attentions.0.proj_in.weight"].ndim == 2  # SD 2
    return {
        "in_channels": new["conv_in.weight"].shape[1], "out_channels": new["conv_out.weight"].shape[0],
        "block_out_channels": widths, "layers_per_block": layers, "use_linear_projection": linear,
        "cross_attention_dim": new[f"down_blocks.{first}.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "attention_head_dim": [width // 64 for width in widths] if linear else 8,  # heads, despite the name
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
    }, new


def convert_vae(weights: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    old = without_prefix(weights, VAE_PREFIX)
    old = {name: tensor for name, tensor in old.items() if not name.startswith(("loss.", "model_ema."))}
    levels = count(old, r"^encoder\.down\.(\d+)\.")
    new = {}
    for name, tensor in old.items():
        name = re.sub(r"(?<=decoder\.up\.)\d+", lambda match: str(levels - 1 - int(match[0])), name)
        name = rename(name, VAE_NAMES)
        # the old attention was built from 1×1 convolutions, which are linear layers
        new[name] = tensor[:, :, 0, 0] if ".attentions." in name and tensor.ndim == 4 else tensor
    return {
        "in_channels": new["encoder.conv_in.weight"].shape[1], "out_channels": new["decoder.conv_out.weight"].shape[0],
        "latent_channels": new["post_quant_conv.weight"].shape[0],
        "block_out_channels": [new[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)],
        "layers_per_block": count(new, r"^encoder\.down_blocks\.0\.resnets\.(\d+)\."),
    }, new


def convert_text(weights: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    old = without_prefix(weights, f"{TEXT_PREFIX}model.")
    if not old:  # SD 1: transformers' own names, old or new
        new = TextEncoder.published_names(without_prefix(weights, f"{TEXT_PREFIX}transformer."))
        activation, layers = "quick_gelu", count(new, r"layers\.(\d+)\.")
    else:  # SD 2: OpenCLIP's names
        # The last of OpenCLIP's 24 blocks is not used. A file made from a folder lacks it, and the projection after it.
        activation, blocks = "gelu", count(old, r"resblocks\.(\d+)\.")
        layers = 23 if blocks in (23, 24) else blocks - ("text_projection" in old)
        new = {}
        for name, tensor in old.items():
            if name in ("text_projection", "logit_scale") or f"resblocks.{layers}." in name:
                continue
            name = rename(name, TEXT_NAMES_V2)
            if match := re.search(r"in_proj_(weight|bias)$", name):
                for letter, part in zip("qkv", tensor.chunk(3)):
                    new[f"{name[:match.start()]}{letter}_proj.{match[1]}"] = part
            else:
                new[name] = tensor
    vocab_size, width = new["text_model.embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": vocab_size, "hidden_size": width, "num_hidden_layers": layers, "hidden_act": activation,
        "intermediate_size": new["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_attention_heads": width // 64,  # every CLIP's heads are 64 wide
        "max_position_embeddings": new["text_model.embeddings.position_embedding.weight"].shape[0],
    }, new
