"""The U-Net: given noisy latents, the time and the text, predict the noise.

Sources: Ronneberger et al. 2015 (the U and its skips); Ho et al. 2020, appendix B (time, residual blocks).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisd.blocks import Downsample, ResidualBlock, Upsample
from minisd.messages import quoted
from minisd.network import Network, in_precision_of
from minisd.network_config import Epsilon, LayerCount, NetworkConfig, Side, check_blocks
from minisd.transformer import SpatialTransformer, TransformerBlock


@dataclass(frozen=True)
class UNetConfig(NetworkConfig):
    """The fields of a published U-Net's `config.json`."""

    sample_size: Side = 64  # height and width of the latents it was trained on
    in_channels: int = 4  # 9 for inpainting: noisy latents, mask, latents of the masked image
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: LayerCount = 2
    cross_attention_dim: int = 768  # width of the text encoder
    attention_head_dim: int | tuple[int, ...] = 8  # despite its name the *number* of heads, for all levels or per level
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    norm_num_groups: int = 32
    norm_eps: Epsilon = 1e-5
    use_linear_projection: bool = False  # True in SD 2: a transformer's projections are linear, not 1×1 convolutions

    FIXED = {
        "act_fn": ("silu",), "center_input_sample": (False,), "downsample_padding": (1,), "dropout": (0.0,),
        "flip_sin_to_cos": (True,), "freq_shift": (0,), "mid_block_scale_factor": (1,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",), "resnet_time_scale_shift": ("default",),
        "only_cross_attention": (False,), "dual_cross_attention": (False,), "attention_type": ("default",),
        "mid_block_only_cross_attention": (None, False), "cross_attention_norm": (None,),
        # scaled_dot_product_attention sums in fp32 whatever its inputs are, so all values mean the same here
        "upcast_attention": (False, True, None),
        "transformer_layers_per_block": (1,), "reverse_transformer_layers_per_block": (None,),
        "num_attention_heads": (None,), "class_embed_type": (None,), "num_class_embeds": (None,),
        "class_embeddings_concat": (False,), "projection_class_embeddings_input_dim": (None,),
        "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,), "addition_embed_type": (None,),
        "addition_time_embed_dim": (None,), "addition_embed_type_num_heads": (64,),
        "time_embedding_type": ("positional",), "time_embedding_dim": (None,), "time_embedding_act_fn": (None,),
        "timestep_post_act": (None,), "time_cond_proj_dim": (None,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
        "resnet_skip_time_act": (False,), "resnet_out_scale_factor": (1.0,),
    }

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        check_blocks("UNetConfig", levels, self.layers_per_block)
        for field, plain in (("down_block_types", "DownBlock2D"), ("up_block_types", "UpBlock2D")):
            names = getattr(self, field)
            if len(names) != levels or set(names) - {plain, f"CrossAttn{plain}"}:
                raise ValueError(f"UNetConfig: {field}={quoted(names)} must be {levels} names, "
                                 f"each {plain!r} or {'CrossAttn' + plain!r}")
        if len(self.heads) != levels:
            raise ValueError(f"UNetConfig: attention_head_dim={self.attention_head_dim!r} must be one number "
                             f"or {levels}, one per level")

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads at each level."""
        heads = self.attention_head_dim
        return (heads,) * len(self.block_out_channels) if isinstance(heads, int) else heads


def sinusoidal_embedding(timesteps: Tensor, channels: int) -> Tensor:
    """Times (B,) → (B, channels): cosines, then sines, of t at frequencies from 1 down to almost 1/10000.

    Source: Vaswani et al. 2017, section 3.5, applied to time by Ho et al. 2020.
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Two layers that turn the sinusoids of t into the embedding that the residual blocks add."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class UNetBlock(nn.Module):
    """What all blocks of the U share: residual blocks, each followed by a transformer if there is attention."""

    def __init__(self, widths: list[tuple[int, int]], heads: int | None, config: UNetConfig):
        """widths: (in, out) channels of each residual block; heads: None for no attention."""
        super().__init__()
        time = 4 * config.block_out_channels[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = nn.ModuleList([ResidualBlock(a, b, groups, eps, time) for a, b in widths])
        self.attentions = nn.ModuleList([] if heads is None else [
            SpatialTransformer(b, heads, config.cross_attention_dim, groups, config.use_linear_projection)
            for _, b in widths])

    def layer(self, i: int, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[i](x, time)
        return self.attentions[i](x, context) if len(self.attentions) else x


class DownBlock(UNetBlock):
    """Features at one resolution, then downsampling to half of it. Every map computed here is also kept as a skip."""

    def __init__(self, in_channels: int, out_channels: int, heads: int | None, is_last: bool, config: UNetConfig):
        widths = [in_channels] + [out_channels] * config.layers_per_block
        super().__init__(list(pairwise(widths)), heads, config)
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(out_channels)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor, skips: list[Tensor]) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.layer(i, x, time, context)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x


class MidBlock(UNetBlock):
    """At the lowest resolution: residual, transformer, residual."""

    def __init__(self, channels: int, heads: int, config: UNetConfig):
        super().__init__([(channels, channels)], heads, config)
        groups, eps, time = config.norm_num_groups, config.norm_eps, 4 * config.block_out_channels[0]
        self.resnets.append(ResidualBlock(channels, channels, groups, eps, time))

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.resnets[1](self.layer(0, x, time, context), time)


class UpBlock(UNetBlock):
    """Features at one resolution, each block also given a skip from the way down; then upsampling to twice it."""

    def __init__(self, in_channels: int, out_channels: int, skip_channels: list[int], heads: int | None,
                 is_last: bool, config: UNetConfig):
        before = [in_channels] + [out_channels] * config.layers_per_block
        widths = [(a + skip, out_channels) for a, skip in zip(before, skip_channels)]
        super().__init__(widths, heads, config)
        self.upsamplers = nn.ModuleList([] if is_last else [Upsample(out_channels)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor, skips: list[Tensor]) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.layer(i, torch.cat([x, skips.pop()], dim=1), time, context)
        for upsample in self.upsamplers:
            x = upsample(x, size=skips[-1].shape[-2:])
        return x


class UNet(Network):
    """The noise predictor; `UNet(**config)` with the fields of `UNetConfig`.

    Full-size SD 1.5 has 859,520,964 parameters: UNet() with all defaults.
    """

    CONFIG = UNetConfig
    CLASS_NAME = {"_class_name": "UNet2DConditionModel"}
    WEIGHTS = "diffusion_pytorch_model"
    config: UNetConfig

    def __init__(self, **fields: Any):
        super().__init__(**fields)
        config = self.config
        widths, heads = config.block_out_channels, config.heads
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], 4 * widths[0])

        self.down_blocks = nn.ModuleList()
        skip_channels = [widths[0]]
        for i, (width, name) in enumerate(zip(widths, config.down_block_types)):
            is_last = i == len(widths) - 1
            self.down_blocks.append(DownBlock(
                widths[max(i - 1, 0)], width, heads[i] if name == "CrossAttnDownBlock2D" else None, is_last, config))
            skip_channels += [width] * (config.layers_per_block + (not is_last))

        self.mid_block = MidBlock(widths[-1], heads[-1], config)

        self.up_blocks = nn.ModuleList()
        before = widths[-1]
        for i, (width, name) in enumerate(zip(widths[::-1], config.up_block_types)):
            skips = [skip_channels.pop() for _ in range(config.layers_per_block + 1)]
            self.up_blocks.append(UpBlock(
                before, width, skips, heads[-1 - i] if name == "CrossAttnUpBlock2D" else None, i == len(widths) - 1,
                config))
            before = width

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor, timesteps: Tensor | float, context: Tensor) -> Tensor:
        """Predict the noise (or the velocity, if trained for it).

        Args:
            latents: (B, in_channels, h, w), noisy; of any precision, like the context.
            timesteps: one number from 0 to 999, or (B,).
            context: (B, tokens, cross_attention_dim), the text encoder's output.

        Returns:
            (B, out_channels, h, w), in the network's own precision.

        Raises:
            ValueError: a shape that does not fit the config, or numbers that are not floating point.
        """
        times = torch.as_tensor(timesteps, device=latents.device)
        self._check(latents, times, context)
        latents = in_precision_of(self.conv_in.weight, latents, "UNet: latents")
        context = in_precision_of(self.conv_in.weight, context, "UNet: context")
        times = times.expand(latents.shape[0])
        time = sinusoidal_embedding(times, self.config.block_out_channels[0]).to(latents.dtype)
        time = self.time_embedding(time)  # (B, 4·C₀)

        x = self.conv_in(latents)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, time, context, skips)
        x = self.mid_block(x, time, context)
        for block in self.up_blocks:
            x = block(x, time, context, skips)
        return self.conv_out(F.silu(self.conv_norm_out(x))).contiguous()

    def _check(self, latents: Tensor, times: Tensor, context: Tensor) -> None:
        config = self.config
        if latents.ndim != 4 or latents.shape[1] != config.in_channels:
            raise ValueError(f"UNet: latents have shape {tuple(latents.shape)}; "
                             f"they must be (B, {config.in_channels}, h, w)")
        batch = latents.shape[0]  # torch.export would make a constant of len(latents)
        if times.ndim > 1 or times.numel() not in (1, batch):
            raise ValueError(f"UNet: timesteps have shape {tuple(times.shape)}; give one number, or ({batch},)")
        if context.ndim != 3 or context.shape[2] != config.cross_attention_dim or context.shape[0] != batch:
            raise ValueError(f"UNet: context has shape {tuple(context.shape)}; it must be "
                             f"({batch}, tokens, {config.cross_attention_dim})")

    @contextmanager
    def record_attention(self) -> Iterator[dict[str, list[Tensor]]]:
        """Collect the cross-attention maps of all calls inside the `with`, except those inside a nested one.

            with unet.record_attention() as maps:
                unet(latents, t, context)
            maps["mid_block.attentions.0"][0]        # (B, heads, h·w, 77), from the first call

        A map's row says how strongly one pixel of that level attends to each of the 77 tokens; it sums to 1.
        """
        layers = {name.removesuffix(".transformer_blocks.0"): module.attn2
                  for name, module in self.named_modules() if isinstance(module, TransformerBlock)}
        before = {name: layer.recorded for name, layer in layers.items()}
        maps: dict[str, list[Tensor]] = {name: [] for name in layers}
        try:
            for name, layer in layers.items():
                layer.recorded = maps[name]
            yield maps
        finally:
            for name, layer in layers.items():
                layer.recorded = before[name]
