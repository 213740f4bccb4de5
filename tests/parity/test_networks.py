"""Every network computes what diffusers and transformers compute, on the same random weights.

    python -m tests.parity.test_networks        # measures, and writes the table into README.md
"""

import re
from pathlib import Path

import pytest
import torch

from minisd import VAE, TextEncoder, UNet
from tests.tiny import TEXT_ENCODERS, UNETS, channels_last, quietly
from tests.tiny import VAE as SMALL_VAE

TOLERANCE = 1e-5
VAES = {"sd1": SMALL_VAE, "sd2": SMALL_VAE | {"layers_per_block": 2, "block_out_channels": (32, 64, 64, 64)}}


def references():
    diffusers, transformers = quietly(__import__, "diffusers"), quietly(__import__, "transformers")
    return diffusers, transformers


def unet_pair(kind: str):
    diffusers, _ = references()
    torch.manual_seed(1)
    theirs = diffusers.UNet2DConditionModel(**UNETS[kind]).eval()
    return theirs, UNet.from_state_dict(dict(theirs.config), theirs.state_dict())


def unet_difference(kind: str, size: tuple[int, int] = (8, 8)) -> float:
    theirs, ours = unet_pair(kind)
    latents = torch.randn(2, ours.config.in_channels, *size)
    context, t = torch.randn(2, 77, ours.config.cross_attention_dim), torch.tensor([3, 700])
    with torch.no_grad():
        expected = theirs(latents, t, context).sample
        assert expected.std() > 0.01
        return (ours(latents, t, context) - expected).abs().max().item()


def vae_differences(kind: str) -> tuple[float, float]:
    diffusers, _ = references()
    torch.manual_seed(2)
    theirs = diffusers.AutoencoderKL(**VAES[kind]).eval()
    ours = VAE.from_state_dict(dict(theirs.config), theirs.state_dict())
    channels_last(theirs)
    images, latents = torch.rand(2, 3, 64, 48) * 2 - 1, torch.randn(2, 4, 8, 6)
    with torch.no_grad():
        expected, posterior = theirs.encode(images).latent_dist, ours.encode(images)
        encoding = max((posterior.mean - expected.mean).abs().max(), (posterior.std - expected.std).abs().max())
        return encoding.item(), (ours.decode(latents) - theirs.decode(latents).sample).abs().max().item()


def text_difference(kind: str) -> float:
    _, transformers = references()
    torch.manual_seed(3)
    config = transformers.CLIPTextConfig(**TEXT_ENCODERS[kind], vocab_size=600, bos_token_id=598, eos_token_id=599)
    theirs = transformers.CLIPTextModel(config).eval()
    ours = TextEncoder.from_state_dict(config.to_diff_dict(), theirs.state_dict())
    ids = torch.randint(0, 600, (3, 77))
    with torch.no_grad():
        return (ours(ids) - theirs(ids).last_hidden_state).abs().max().item()


@pytest.mark.parametrize("kind", UNETS)
@pytest.mark.parametrize("size", [(8, 8), (16, 12), (9, 7)], ids=str)
def test_unet(kind, size):
    assert unet_difference(kind, size) <= TOLERANCE


@pytest.mark.parametrize("kind", VAES)
def test_vae(kind):
    assert max(vae_differences(kind)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_text_encoder(kind):
    assert text_difference(kind) <= TOLERANCE


def test_old_names_of_vae_attention_open_too():
    torch.manual_seed(0)
    vae = VAE(**SMALL_VAE)
    old = {}
    for name, tensor in vae.state_dict().items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = tensor
    assert sum("query" in name for name in old) == 4
    again = VAE.from_state_dict(vae.config.to_dict(), old)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in vae.state_dict().items())


def test_text_encoder_opens_with_and_without_prefix_and_position_ids():
    torch.manual_seed(0)
    encoder = TextEncoder(**TEXT_ENCODERS["sd1"], vocab_size=600)
    weights = dict(encoder.state_dict())
    bare = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    old = weights | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    ids = torch.randint(0, 600, (1, 77))
    with torch.no_grad():
        for variant in (bare, old):
            assert torch.equal(TextEncoder.from_state_dict(encoder.config.to_dict(), variant)(ids), encoder(ids))


def test_attention_maps_are_handed_out_and_change_nothing():
    _, unet = unet_pair("sd1")
    latents, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 64)
    with torch.no_grad():
        before = unet(latents, 500, context)
        with unet.record_attention() as maps:
            during = unet(latents, 500, context)
            with unet.record_attention() as inner:
                unet(latents, 300, context)
            unet(latents, 400, context)
        after = unet(latents, 500, context)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert set(maps) == {"down_blocks.0.attentions.0", "down_blocks.0.attentions.1", "mid_block.attentions.0",
                         "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "up_blocks.1.attentions.2"}
    for name, calls in maps.items():
        assert len(calls) == 2  # none from after the `with`, nor from the nested one
        assert len(inner[name]) == 1
        assert calls[0].shape == (2, 8, 16 if name.startswith("mid") else 64, 77)
        torch.testing.assert_close(calls[0].sum(-1), torch.ones(calls[0].shape[:-1]))


def test_attention_map_is_what_the_attention_does():
    from minisd.attention import Attention, attention_weights, split_heads

    torch.manual_seed(0)
    attention, x, context = Attention(32, 4, 16), torch.randn(2, 9, 32), torch.randn(2, 5, 16)
    with torch.no_grad():
        table = attention_weights(attention.to_q(x), attention.to_k(context), 4)
        by_hand = attention.to_out[0]((table @ split_heads(attention.to_v(context), 4)).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attention(x, context), by_hand)


# --- the README's table ---------------------------------------------------------------------------------------


def table() -> str:
    rows = ["| network | compared with | SD 1 | SD 1 inpainting | SD 2 |", "|---|---|---|---|---|"]
    unets = [f"{unet_difference(kind):.1g}" for kind in UNETS]
    vaes = {kind: vae_differences(kind) for kind in VAES}
    rows.append(f"| U-Net | diffusers `UNet2DConditionModel` | {' | '.join(unets)} |")
    for i, what in enumerate(("encode", "decode")):
        one, two = f"{vaes['sd1'][i]:.1g}", f"{vaes['sd2'][i]:.1g}"
        rows.append(f"| VAE, {what} | diffusers `AutoencoderKL` | {one} | as SD 1 | {two} |")
    one, two = f"{text_difference('sd1'):.1g}", f"{text_difference('sd2'):.1g}"
    rows.append(f"| text encoder | transformers `CLIPTextModel` | {one} | as SD 1 | {two} |")
    diffusers, transformers = references()
    versions = ", ".join(f"{library.__name__} {library.__version__.split('+')[0]}"
                         for library in (torch, diffusers, transformers))
    rows.append(f"\nSmall configs of each kind, with the same memory layout on both sides; measured with {versions}.")
    return "\n".join(rows)


if __name__ == "__main__":
    readme, new = Path(__file__).resolve().parents[2] / "README.md", table()
    print(new)
    text = readme.read_text(encoding="utf-8")
    text = re.sub(r"(<!-- parity -->).*(<!-- /parity -->)", lambda m: f"{m[1]}\n{new}\n{m[2]}", text, flags=re.DOTALL)
    readme.write_text(text, encoding="utf-8")
