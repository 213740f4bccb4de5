"""Networks take floating-point inputs of any precision, and compute in their own."""

import pytest
import torch

from minisd import VAE, TextEncoder, UNet
from minisd.emoji.classifier import Classifier
from minisd.emoji.clip import CLIP
from minisd.emoji.judge import Judge

WORDS = {"concepts": ["cat", "dog"], "styles": ["flat"]}


def tiny_clip() -> CLIP:
    return CLIP(TextEncoder(vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                            num_attention_heads=2, projection_dim=16, bos_token_id=48, eos_token_id=49))


CALLS = {
    "unet": (lambda: UNet(block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                          up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32,
                          layers_per_block=1),
             lambda unet, latents, context: unet(latents, 7, context), [(2, 4, 8, 8), (2, 77, 32)]),
    "encode": (lambda: VAE(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4),
               lambda vae, pixels: vae.encode(pixels).mean, [(1, 3, 16, 16)]),
    "decode": (lambda: VAE(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4),
               lambda vae, latents: vae.decode(latents), [(1, 4, 8, 8)]),
    "judge": (lambda: Judge(**WORDS, channels=(8, 8, 8)),
              lambda judge, pixels: judge(pixels).style, [(1, 3, 128, 128)]),
    "classifier": (lambda: Classifier(**WORDS, backgrounds=["red"], channels=(8, 8, 8, 8), features=8),
                   lambda classifier, pixels: classifier(pixels)[0], [(1, 3, 64, 64)]),
    "clip": (lambda: tiny_clip().image_encoder, lambda encoder, pixels: encoder(pixels), [(1, 3, 32, 32)]),
}


@pytest.mark.parametrize("name", CALLS)
@torch.no_grad()
def test_inputs_of_any_precision(name):
    torch.manual_seed(0)
    make, call, shapes = CALLS[name]
    network, inputs = make().bfloat16(), [torch.randn(shape).clamp(-1, 1) for shape in shapes]
    expected = call(network, *(x.bfloat16() for x in inputs))
    assert expected.dtype == torch.bfloat16
    for given in (torch.float32, torch.float64):
        result = call(network, *(x.bfloat16().to(given) for x in inputs))
        assert result.dtype == torch.bfloat16
        assert torch.equal(result, expected)
    assert call(network.double(), *inputs).dtype == torch.float64


@pytest.mark.parametrize("name", CALLS)
def test_whole_numbers_are_refused(name):
    make, call, shapes = CALLS[name]
    with pytest.raises(ValueError, match=r"^\w+.*: .*the dtype is torch\.int64; it must be floating point, such as"):
        call(make(), *(torch.zeros(shape, dtype=torch.int64) for shape in shapes))


def test_a_clip_whose_text_half_has_another_precision():
    clip = tiny_clip()
    clip.text_encoder.bfloat16()
    assert clip.embed_text(torch.full((1, 77), 49)).isfinite().all()


def test_in_training_autocast_decides():
    """Half of the products in bfloat16, whatever the inputs are; weights and their gradients in float32."""
    make, call, shapes = CALLS["unet"]
    unet = make()
    with torch.autocast("cpu", torch.bfloat16):
        predicted = call(unet, torch.randn(shapes[0]), torch.randn(shapes[1]).bfloat16())
    assert predicted.dtype == torch.bfloat16
    predicted.float().square().mean().backward()
    assert {parameter.grad.dtype for parameter in unet.parameters()} == {torch.float32}
