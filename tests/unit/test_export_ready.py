"""torch.export accepts the networks as they are, with a dynamic batch size: exports for other runtimes need that."""

import pytest
import torch
from torch import Tensor, nn

from minisd import VAE, TextEncoder, UNet

BATCH = torch.export.Dim("batch", min=1, max=64)


class Encode(nn.Module):
    """`VAE.encode` as a module that returns tensors."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        distribution = self.vae.encode(x)
        return distribution.mean, distribution.std


class Decode(Encode):
    def forward(self, z: Tensor) -> Tensor:
        return self.vae.decode(z)


def check(network: nn.Module, inputs) -> None:
    """Export with a batch of two, then compare batches of one and three. inputs: batch → the network's arguments."""
    network.eval().requires_grad_(False)
    arguments = inputs(2)
    shapes = tuple({0: BATCH} if x.ndim else None for x in arguments)
    exported = torch.export.export(network, arguments, dynamic_shapes=shapes, strict=False).module()
    for batch in (1, 3):
        arguments = inputs(batch)
        torch.testing.assert_close(exported(*arguments), network(*arguments))


@pytest.mark.slow
@pytest.mark.parametrize("timesteps", ["one for all", "one each"])
def test_unet(timesteps):
    """At 32 × 32 pixels, the feed-forward layers compute a batch of two in one part, and one of three in two parts."""
    torch.manual_seed(0)
    unet = UNet(block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=64, layers_per_block=1)
    check(unet, lambda batch: (
        torch.randn(batch, 4, 32, 32), torch.tensor(7) if timesteps == "one for all" else torch.arange(batch),
        torch.randn(batch, 77, 64)))


@pytest.mark.parametrize(("job", "shape"), [(Encode, (3, 32, 32)), (Decode, (4, 8, 8))])
def test_vae(job, shape):
    torch.manual_seed(0)
    vae = VAE(block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=4)
    check(job(vae), lambda batch: (torch.randn(batch, *shape),))


def test_text_encoder():
    torch.manual_seed(0)
    text_encoder = TextEncoder(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                               num_attention_heads=2)
    check(text_encoder, lambda batch: (torch.randint(50, (batch, 77)),))
