"""The guidance scale that suits a model best is the model's own default, and is saved with it."""

import json
import shutil

import pytest
import torch
from PIL import Image

from minisd import StableDiffusion
from minisd.cli import main


@pytest.fixture
def at_three(tiny, tmp_path):
    """A folder whose model says that 3 is best for it."""
    folder = tmp_path / "three"
    shutil.copytree(tiny["sd1"], folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_guidance_scale": 3}))
    return folder


def draw(sd, **options):
    return sd.text_to_image("a cat", num_inference_steps=2, seed=0, output="latent", progress=False, **options)


def test_a_job_takes_the_models_own_scale(at_three):
    sd = StableDiffusion.from_pretrained(at_three, "cpu")
    assert sd.guidance_scale == 3
    assert torch.equal(draw(sd), draw(sd, guidance_scale=3))
    assert not torch.equal(draw(sd), draw(sd, guidance_scale=7.5))
    sd.guidance_scale = 1
    assert torch.equal(draw(sd), draw(sd, guidance_scale=1))


def test_all_jobs_take_it(at_three, tiny):
    image, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    shared = {"num_inference_steps": 2, "seed": 0, "output": "latent", "progress": False}
    for folder, job, arguments in ((at_three, "image_to_image", (image,)), (at_three, "inpaint", (image, mask))):
        sd = StableDiffusion.from_pretrained(folder, "cpu")
        run = getattr(sd, job)
        assert torch.equal(run("a cat", *arguments, **shared), run("a cat", *arguments, guidance_scale=3, **shared))


def test_a_model_that_does_not_say_takes_stable_diffusions(tiny):
    assert StableDiffusion.from_pretrained(tiny["sd1"], "cpu").guidance_scale == 7.5


def test_it_is_saved_with_the_model(at_three, tmp_path):
    sd = StableDiffusion.from_pretrained(at_three, "cpu")
    sd.guidance_scale = 2.5
    sd.save_pretrained(tmp_path / "again")
    assert StableDiffusion.from_pretrained(tmp_path / "again", "cpu").guidance_scale == 2.5


@pytest.mark.parametrize("scale", ["strong", -1e5, float("nan"), float("inf"), True])
def test_what_cannot_be_a_scale_is_refused_by_name(at_three, scale):
    index = json.loads((at_three / "model_index.json").read_text())
    (at_three / "model_index.json").write_text(json.dumps(index | {"_guidance_scale": scale}))
    with pytest.raises(ValueError, match=rf"model_index\.json: _guidance_scale is {scale!r}; it must be a number"):
        StableDiffusion.from_pretrained(at_three, "cpu")


def test_the_command_line_takes_and_records_it(at_three, tmp_path, capsys):
    drawn = []
    for options in ([], ["--guidance", "3"], ["--guidance", "4"]):
        out = tmp_path / f"{len(drawn)}.png"
        assert main(["generate", "a cat", "--model", str(at_three), "--steps", "2", "--seed", "0", "--device", "cpu",
                     "--out", str(out), *options]) == 0
        with Image.open(out) as image:
            drawn.append((float(image.text["guidance_scale"]), image.tobytes()))
    assert [scale for scale, _ in drawn] == [3, 3, 4]
    assert drawn[0] == drawn[1]
    assert drawn[0][1] != drawn[2][1]
    capsys.readouterr()
    assert main(["info", str(at_three)]) == 0
    assert "guidance scale 3" in capsys.readouterr().out
