"""What the U-Net of a single file predicts, noise or v, and at which size: no tensor's shape tells.

Stable Diffusion 1 and the inpainting models predict the noise. Of Stable Diffusion 2 there are two kinds, which differ
in nothing but their numbers: the base models, of 512 pixels, predict the noise; the others, of 768, predict v.
"""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from minisd.cautions import warn

BASE_STEP = 875000  # the training step at which SD 2 base was published, which its .ckpt file names
SPELLINGS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


def prediction_and_size(path: Path, weights: dict[str, Tensor], global_step: int | None, two_kinds: bool,
                        asked: str | None = None) -> tuple[str, int]:
    """The prediction type, and height and width of the latents.

    It is what the caller asked for, or else what the file says: `modelspec.prediction_type` and `modelspec.resolution`
    among a .safetensors file's notes, a tensor named v_pred, or a .ckpt file's training step. Where it says nothing
    and there are two kinds, v is assumed, as in diffusers, with a warning.

    Args:
        two_kinds: whether it is Stable Diffusion 2, and does not inpaint.
    """
    notes = read_notes(path)
    said, resolution = SPELLINGS.get(notes.get("modelspec.prediction_type", "")), notes.get("modelspec.resolution", "")
    if said is None and "v_pred" in weights:
        said = "v_prediction"
    if not two_kinds:
        return asked or said or "epsilon", 64
    if said is None and (resolution == "512x512" or global_step == BASE_STEP):
        said = "epsilon"
    if said is None and resolution == "768x768":
        said = "v_prediction"
    if asked is None and said is None:
        warn(f"{path} does not say what its U-Net predicts, and is taken for a model of 768 pixels that predicts v. If "
             "it was made from Stable Diffusion 2 base, pictures come out as noise; then call StableDiffusion."
             f"from_pretrained({str(path)!r}, prediction_type=\"epsilon\"), or minisd with --prediction-type epsilon. "
             "(\"v_prediction\" there confirms what is assumed, and spares this warning.)")
    predicts = asked or said or "v_prediction"
    width, _, height = resolution.partition("x")
    if asked is None and width == height and width.isdecimal() and int(width) % 8 == 0 and 0 < int(width) <= 4096:
        return predicts, int(width) // 8
    return predicts, 96 if predicts == "v_prediction" else 64


def read_notes(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors file."""
    if path.suffix.lower() != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
