"""Full-size Stable Diffusion: every name and shape, the parameter counts, and one call of each network.

Nothing is downloaded: the configs are the published ones, the weights random.
"""

import pytest
import torch

from minisd import VAE, TextEncoder, UNet
from tests.tiny import quietly

SD15_UNET = {  # the config.json of stable-diffusion-v1-5, with its own fields
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
UNETS = {
    "SD 1.5": SD15_UNET,
    "SD 1.5 inpainting": SD15_UNET | {"in_channels": 9},
    "SD 2.1": SD15_UNET | {
        "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "dual_cross_attention": False,
        "num_class_embeds": None, "only_cross_attention": False, "sample_size": 96, "upcast_attention": True,
        "use_linear_projection": True},
}
UNET_PARAMETERS = {"SD 1.5": 859_520_964, "SD 1.5 inpainting": 859_520_964 + 5 * 320 * 9, "SD 2.1": 865_910_724}
VAE_CONFIG = {
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu", "in_channels": 3,
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "latent_channels": 4,
    "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_ENCODERS = {
    "SD 1.5": {
        "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu",
        "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768,
        "torch_dtype": "float32", "transformers_version": "4.22.0.dev0", "vocab_size": 49408},
    "SD 2.1": {
        "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_size": 1024, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 4096,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
        "num_attention_heads": 16, "num_hidden_layers": 23, "pad_token_id": 1, "projection_dim": 512,
        "torch_dtype": "float32", "transformers_version": "4.25.0.dev0", "vocab_size": 49408},
}
TEXT_PARAMETERS = {"SD 1.5": 123_060_480, "SD 2.1": 340_387_840}


def their_network(name: str, config: dict):
    """The reference's network on the meta device, its parameters under the published names."""
    diffusers, transformers = quietly(__import__, "diffusers"), quietly(__import__, "transformers")
    fields = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        if name == "text_encoder":
            return transformers.CLIPTextModel(transformers.CLIPTextConfig(**fields)).eval()
        return getattr(diffusers, config["_class_name"])(**fields).eval()


def shapes(network, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + name: tuple(tensor.shape) for name, tensor in network.state_dict().items()
            if not name.endswith("position_ids")}


@pytest.mark.parametrize("version", UNETS)
def test_unet_names_shapes_and_count(version):
    with torch.device("meta"):
        ours = UNet(**UNETS[version])
    assert shapes(ours) == shapes(their_network("unet", UNETS[version]))
    assert ours.num_parameters() == UNET_PARAMETERS[version]


def test_vae_names_shapes_and_count():
    with torch.device("meta"):
        ours = VAE(**VAE_CONFIG)
    assert shapes(ours) == shapes(their_network("vae", VAE_CONFIG))
    assert ours.num_parameters() == 83_653_863


@pytest.mark.parametrize("version", TEXT_ENCODERS)
def test_text_encoder_names_shapes_and_count(version):
    with torch.device("meta"):
        ours = TextEncoder(**TEXT_ENCODERS[version])
    # transformers 5 omits the prefix that all published files have
    assert shapes(ours) == shapes(their_network("text_encoder", TEXT_ENCODERS[version]), "text_model.")
    assert ours.num_parameters() == TEXT_PARAMETERS[version]


def fill(network, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of sensible magnitude for all parameters of a network on the meta device."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:  # small biases, norm scales around one
            weights[name] = torch.full(tensor.shape, 1.0 if name.endswith("weight") else 0.01)
        else:
            fan_in = tensor[0].numel()
            weights[name] = torch.empty(tensor.shape).uniform_(-1, 1, generator=generator) * (3 / fan_in) ** 0.5
    return weights


def both(name: str, ours_class, config: dict):
    """Our network and theirs, sharing the very same tensors."""
    theirs = their_network(name, config)
    weights = fill(theirs)
    theirs.load_state_dict(weights, assign=True)
    return ours_class.from_state_dict(config, weights), theirs


def test_full_size_unet_once():
    ours, theirs = both("unet", UNet, SD15_UNET)
    torch.manual_seed(0)
    latents, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 768)
    with torch.no_grad():
        expected = theirs(latents, 500, context).sample
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(latents, 500, context), expected, rtol=0, atol=1e-5)


def test_full_size_vae_once():
    """In float64, because in float32 theirs differs from itself by 1.8e-5 in another memory layout on some CPUs."""
    ours, theirs = both("vae", VAE, VAE_CONFIG)
    ours, theirs = ours.double(), theirs.double()
    torch.manual_seed(0)
    with torch.no_grad():
        images = torch.rand(1, 3, 32, 32, dtype=torch.float64) * 2 - 1
        expected = theirs.encode(images).latent_dist.mean
        torch.testing.assert_close(ours.encode(images).mean, expected, rtol=0, atol=1e-10)
        again = theirs.decode(expected).sample
        assert again.std() > 0.01
        torch.testing.assert_close(ours.decode(expected), again, rtol=0, atol=1e-10)


@pytest.mark.parametrize("version", TEXT_ENCODERS)
def test_full_size_text_encoder_once(version):
    config = TEXT_ENCODERS[version]
    ours = TextEncoder.from_state_dict(config, fill(make_on_meta(config)))
    theirs = their_network("text_encoder", config)
    theirs.load_state_dict({name.removeprefix("text_model."): t for name, t in ours.state_dict().items()}, assign=True)
    if hasattr(theirs.embeddings, "position_ids"):
        theirs.embeddings.position_ids = torch.arange(77)[None]
    ids = torch.randint(0, 49408, (1, 77), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).last_hidden_state, rtol=0, atol=1e-5)


def make_on_meta(config: dict) -> TextEncoder:
    with torch.device("meta"):
        return TextEncoder(**config)
