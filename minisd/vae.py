"""The variational autoencoder: from pixels to latents, 8 times smaller along each side in Stable Diffusion, and back.

Sources: Kingma & Welling 2014 (VAE); Rombach et al. 2022, "High-Resolution Image Synthesis with Latent
Diffusion Models", section 3.1 and appendix G (this architecture).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisd.attention import Attention
from minisd.bands import decode_in_bands
from minisd.blocks import Downsample, ResidualBlock, Upsample
from minisd.messages import quoted
from minisd.network import Network, channels_last, in_precision_of
from minisd.network_config import LayerCount, NetworkConfig, Side, check_blocks
from minisd.randomness import Generators, randn

EPS = 1e-6  # of every group norm in the VAE


@dataclass(frozen=True)
class VAEConfig(NetworkConfig):
    """The fields of a published VAE's `config.json`."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)  # one per resolution, the full one first
    layers_per_block: LayerCount = 2
    norm_num_groups: int = 32
    sample_size: Side = 512
    scaling_factor: float = 0.18215  # 1 / standard deviation of the latents (Rombach et al., appendix G)
    force_upcast: bool = True  # the published VAEs overflow in fp16

    down_block_types: tuple[str, ...] = ()
    up_block_types: tuple[str, ...] = ()

    FIXED = {
        "act_fn": ("silu",), "latents_mean": (None,), "latents_std": (None,), "shift_factor": (None,),
        "mid_block_add_attention": (True,), "use_quant_conv": (True,), "use_post_quant_conv": (True,),
    }

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        check_blocks("VAEConfig", levels, self.layers_per_block)
        for field, name in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            if (getattr(self, field) or (name,) * levels) != (name,) * levels:
                raise ValueError(f"VAEConfig: {field}={quoted(getattr(self, field))} must be {name!r} {levels} times")
            object.__setattr__(self, field, (name,) * levels)


class DiagonalGaussian:
    """The encoder's output for an image: a mean and a standard deviation for each latent value."""

    def __init__(self, moments: Tensor):
        """moments: (B, 2·latent_channels, h, w), means first, then log-variances."""
        self.mean, log_variance = moments.chunk(2, dim=1)
        self.log_variance = log_variance.clamp(-30, 20)

    @property
    def std(self) -> Tensor:
        return (0.5 * self.log_variance).exp()

    def sample(self, generator: Generators = None) -> Tensor:
        """mean + std · ε with ε ~ N(0, I): the reparameterisation trick (Kingma & Welling, section 2.4)."""
        return self.mean + self.std * randn(self.mean.shape, generator, self.mean.device, self.mean.dtype)

    def mode(self) -> Tensor:
        """The most probable latents: the mean."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(N(mean, std²) ‖ N(0, 1)) summed over each image's latents, in nats: (B,) (appendix B)."""
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance).sum(dim=(1, 2, 3))


class SelfAttention2d(Attention):
    """Each pixel attends to all pixels, with one head; the result is added to the input."""

    def __init__(self, channels: int, groups: int):
        super().__init__(channels, num_heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, EPS)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # a map instead of a sequence, and no context
        pixels = self.group_norm(x.flatten(2)).transpose(1, 2)  # (B, C, H, W) → (B, H·W, C)
        return x + super().forward(pixels).transpose(1, 2).view_as(x)


class MidBlock(nn.Module):
    """At the lowest resolution: residual, attention, residual."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.attentions = nn.ModuleList([SelfAttention2d(channels, groups)])
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels, groups, EPS) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class DownBlock(nn.Module):
    """Residual blocks at one resolution, then downsampling to half of it (unless this is the last block).

    It has no `forward`: the encoder runs the `layers` of all blocks in one loop. If it called a block's `forward`
    instead, it would keep that block's input in memory all the while, up to 134 MB at 512² pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, is_last: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList([ResidualBlock(a, b, groups, EPS) for a, b in pairwise(widths)])
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(out_channels, asymmetric=True)])

    @property
    def layers(self) -> list[nn.Module]:
        return [*self.resnets, *self.downsamplers]


class UpBlock(nn.Module):
    """Residual blocks at one resolution, then upsampling to twice it (unless this is the last block).

    It has no `forward` either: the decoder would keep a block's input in memory, up to 268 MB at 512² pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, is_last: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList([ResidualBlock(a, b, groups, EPS) for a, b in pairwise(widths)])
        self.upsamplers = nn.ModuleList([] if is_last else [Upsample(out_channels)])

    @property
    def layers(self) -> list[nn.Module]:
        return [*self.resnets, *self.upsamplers]


class Encoder(nn.Module):
    """(B, 3, H, W) → (B, 2·latent_channels, H/8, W/8) for four resolutions, /4 for three."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList([
            DownBlock(widths[max(i - 1, 0)], width, config.layers_per_block, groups, is_last=i == last)
            for i, width in enumerate(widths)])
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(in_precision_of(self.conv_in.weight, x, "VAE.encoder: x"))
        for block in self.down_blocks:
            for layer in block.layers:
                x = layer(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """(B, latent_channels, h, w) → (B, 3, 8h, 8w) for four resolutions, ×4 for three."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups)
        self.up_blocks = nn.ModuleList([
            UpBlock(widths[max(i - 1, 0)], width, config.layers_per_block + 1, groups, is_last=i == last)
            for i, width in enumerate(widths)])
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(in_precision_of(self.conv_in.weight, z, "VAE.decoder: z")))
        for block in self.up_blocks:
            for layer in block.layers:
                x = layer(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VAE(Network):
    """Encoder, diagonal Gaussian and decoder; `VAE(**config)` with the fields of `VAEConfig`."""

    CONFIG = VAEConfig
    CLASS_NAME = {"_class_name": "AutoencoderKL"}
    WEIGHTS = "diffusion_pytorch_model"
    config: VAEConfig

    def __init__(self, **config: Any):
        super().__init__(**config)
        channels = self.config.latent_channels
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    @property
    def downscale(self) -> int:
        """The downscaling factor along each side: 8 in Stable Diffusion."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Pixels in [-1, 1], (B, 3, H, W) → distribution of *unscaled* latents (B, 4, H/8, W/8).

        Raises:
            ValueError: another shape, or numbers that are not floating point (any precision is taken).
        """
        channels, multiple = self.config.in_channels, self.downscale
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(f"VAE.encode: x has shape {tuple(x.shape)}; "
                             f"it must be (B, {channels}, H, W) with H and W divisible by {multiple}")
        x = in_precision_of(self.quant_conv.weight, x, "VAE.encode: x")
        return DiagonalGaussian(self.quant_conv(self.encoder(convolution_format(x))).contiguous())

    def decode(self, z: Tensor, in_bands: bool = False) -> Tensor:
        """*Unscaled* latents (B, 4, h, w) → pixels (B, 3, 8h, 8w), about [-1, 1].

        Args:
            in_bands: compute the large maps in bands of rows: the same picture, slower but in a third of the memory.

        Raises:
            ValueError: another shape, or numbers that are not floating point (any precision is taken).
        """
        if z.ndim != 4 or z.shape[1] != self.config.latent_channels:
            raise ValueError(f"VAE.decode: z has shape {tuple(z.shape)}; "
                             f"it must be (B, {self.config.latent_channels}, h, w)")
        z = in_precision_of(self.post_quant_conv.weight, z, "VAE.decode: z")
        z = self.post_quant_conv(convolution_format(z))
        return (decode_in_bands(self.decoder, z) if in_bands else self.decoder(z)).contiguous()

    @staticmethod
    def published_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Files from before 2023 call the attention's four layers query, key, value and proj_attn."""
        old = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
        renamed = {}
        for name, tensor in weights.items():
            for before, after in old.items():
                name = name.replace(before, after)
            renamed[name] = tensor
        return renamed


def convolution_format(x: Tensor) -> Tensor:
    """Channels last, except in training: group norm's backward pass is slow in that format."""
    return x if torch.is_grad_enabled() else channels_last(x)
