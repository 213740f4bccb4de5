"""Tiny random checkpoints in the published layout, made by the reference libraries."""

import warnings
from pathlib import Path

import torch

BLOCKS = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
          "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "block_out_channels": (32, 64)}
# Small networks that differ from one another as the published ones do.
UNETS = {
    "sd1": BLOCKS | {"sample_size": 8, "cross_attention_dim": 64, "layers_per_block": 2, "attention_head_dim": 8},
    "sd1-inpaint": BLOCKS | {"sample_size": 8, "cross_attention_dim": 64, "layers_per_block": 1, "in_channels": 9,
                             "attention_head_dim": 8},
    "sd2": BLOCKS | {"sample_size": 8, "cross_attention_dim": 128, "layers_per_block": 1,
                     "block_out_channels": (64, 128), "attention_head_dim": [1, 2],
                     "use_linear_projection": True, "upcast_attention": True},
}
TEXT_ENCODERS = {
    "sd1": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1,
            "hidden_act": "quick_gelu"},
    "sd2": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
            "hidden_act": "gelu"},
}
TEXT_ENCODERS["sd1-inpaint"] = TEXT_ENCODERS["sd1"]
VAE = {"block_out_channels": (32, 32, 64, 64), "down_block_types": ("DownEncoderBlock2D",) * 4,
       "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 1, "sample_size": 64}
CAPTIONS = ["a 3d render of a red apple on a blue background", "a sticker of a small cat face at the bottom"]


def quietly(function, *args, **kwargs):
    """Call a reference library, whose warnings are none of our business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def save_tiny(kind: str, folder: Path):
    """Write a tiny random checkpoint of this kind with diffusers and transformers. Returns their pipeline."""
    diffusers, transformers = quietly(__import__, "diffusers"), quietly(__import__, "transformers")
    from minisd import Tokenizer
    from minisd.schedulers import SD_SCHEDULE

    torch.manual_seed(0)
    tokenizer = Tokenizer.train(CAPTIONS, 600)
    if kind == "sd2":
        tokenizer.pad_id = 0
    tokenizer.save_pretrained(folder / "tokenizer")
    tokenizer_ = quietly(transformers.CLIPTokenizer.from_pretrained, folder / "tokenizer")
    text = transformers.CLIPTextConfig(**TEXT_ENCODERS[kind], vocab_size=tokenizer.vocab_size,
                                       bos_token_id=tokenizer.start_id, eos_token_id=tokenizer.end_id)
    pipeline = {"sd1-inpaint": diffusers.StableDiffusionInpaintPipeline}.get(kind, diffusers.StableDiffusionPipeline)
    scheduler = diffusers.PNDMScheduler.from_config(SD_SCHEDULE)
    if kind == "sd2":
        scheduler = diffusers.DDIMScheduler.from_config(SD_SCHEDULE, prediction_type="v_prediction")
    theirs = quietly(
        pipeline, vae=diffusers.AutoencoderKL(**VAE), text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer_, unet=diffusers.UNet2DConditionModel(**UNETS[kind]), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    quietly(theirs.save_pretrained, folder)
    return theirs


def channels_last(vae) -> None:
    """Give a diffusers VAE the memory format of ours.

    Other formats use other kernels, which round differently (by 1.6e-5 at full size); only the formula is compared.
    """
    for half in (vae.encoder, vae.decoder):
        half.register_forward_pre_hook(
            lambda module, inputs: (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:]))
        half.register_forward_hook(lambda module, inputs, output: output.contiguous())
