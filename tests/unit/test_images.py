"""Pictures as students have them: turned by the camera, closed too early, cut off on the way."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import StableDiffusion
from minisd.images import image_to_tensor, mask_to_tensor


def photograph(mode: str = "RGB", orientation: int = 6) -> tuple[Image.Image, np.ndarray]:
    """A picture as a camera that was held upright stores it, lying on its side, and how it looks."""
    pixels = np.random.default_rng(0).integers(0, 2, (16, 24), dtype=np.uint8) * 255
    shown = np.rot90(pixels, -1) if orientation == 6 else pixels
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG", exif=exif)
    return Image.open(io.BytesIO(file.getvalue())), shown


@pytest.mark.parametrize("orientation", [1, 6])
def test_photographs_and_masks_are_turned_as_they_look(orientation):
    image, shown = photograph("RGB", orientation)
    shown = torch.from_numpy(shown.copy()).float() / 255
    torch.testing.assert_close(image_to_tensor(image), (2 * shown - 1).expand(1, 3, -1, -1), rtol=0, atol=0)
    mask, _ = photograph("L", orientation)
    torch.testing.assert_close(mask_to_tensor(mask, shown.shape), shown[None, None], rtol=0, atol=0)
    assert image.size == mask.size == (24, 16)  # the caller's are as they were


def test_a_photograph_with_its_mask_and_one_drawn_on_what_one_sees(tiny):
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    turned, mask = photograph("RGB")[0], photograph("L")[0]
    settings = {"num_inference_steps": 2, "seed": 0, "progress": False}
    upright = Image.fromarray(np.rot90(np.asarray(turned), -1))
    for one, other in ((sd.inpaint("x", turned, mask, **settings), sd.inpaint(
            "x", upright, Image.fromarray(photograph()[1]), **settings)),
            (sd.image_to_image("x", turned, **settings), sd.image_to_image("x", upright, **settings))):
        assert one[0].size == (16, 24)
        assert np.array_equal(one[0], other[0])


def closed(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.close()
    return image


def used_after_with(file: bytes) -> Image.Image:
    with Image.open(io.BytesIO(file)) as image:
        return image


def truncated(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file[: len(file) // 2]))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("spoil", [closed, truncated, used_after_with])
def test_pictures_that_cannot_be_read(form, spoil):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name, call in (("image", image_to_tensor), ("mask", lambda mask: mask_to_tensor(mask, (64, 64)))):
        file = io.BytesIO()
        Image.fromarray(pixels if name == "image" else pixels[..., 0]).save(file, form)
        with pytest.raises(ValueError, match=rf"^{name} cannot be read \(.+\); open it again and do not close it"):
            call(spoil(file.getvalue()))
