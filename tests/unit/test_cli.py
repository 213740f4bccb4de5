"""The command line, run on a tiny checkpoint: pictures that carry their settings, and one-line errors."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import StableDiffusion, UNet
from minisd.cli import main, open_image
from tests.clock import PATIENCE
from tests.tiny import UNETS

PROMPT = "a 3d render of a red apple"


@pytest.fixture
def picture(tmp_path):
    """The file of a picture that is neither square nor of the model's size."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def mask(tmp_path):
    grey = np.zeros((90, 120), np.uint8)
    grey[20:70, 40:80] = 255
    Image.fromarray(grey).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def run(command: str, *positional, model, out, **options) -> int:
    """Call main() with three steps; `negative="x"` becomes `--negative x`."""
    options = {"steps": 3, "seed": 7, "device": "cpu"} | options
    named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return main([command, *map(str, positional), "--model", str(model), "--out", str(out), *named])


def apart(*arguments) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "minisd", *arguments], capture_output=True, text=True,
                          timeout=PATIENCE)


def test_generate_writes_pictures_that_remember_their_settings(tiny, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert run("generate", PROMPT, model=tiny["sd1"], out=out, num=2, guidance=4, negative="a cat — é",
               scheduler="euler") == 0
    paths = {seed: out / f"a-3d-render-of-a-red-apple-{seed}.png" for seed in (7, 8)}
    assert set(out.iterdir()) == set(paths.values())
    assert capsys.readouterr().out == "".join(f"{path}  (seed {seed})\n" for seed, path in paths.items())
    for seed, path in paths.items():
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((64, 64), "RGB")
            assert image.text == {
                "prompt": PROMPT, "negative_prompt": "a cat — é", "num_inference_steps": "3", "guidance_scale": "4.0",
                "num_images": "1", "seed": str(seed), "height": "64", "width": "64", "model": str(tiny["sd1"]),
                "variant": "None", "scheduler": "EulerDiscreteScheduler", "dtype": "float32"}


def test_a_picture_can_be_drawn_again_from_what_it_remembers(tiny, tmp_path):
    run("generate", PROMPT, model=tiny["sd1"], out=tmp_path, num=2, scheduler="dpm++")
    with Image.open(tmp_path / "a-3d-render-of-a-red-apple-8.png") as image:
        notes, pixels = image.text, np.asarray(image).astype(int)
    sd = StableDiffusion.from_pretrained(notes["model"], scheduler=notes["scheduler"], device="cpu")
    again, = sd.text_to_image(notes["prompt"], notes["negative_prompt"], int(notes["num_inference_steps"]),
                              float(notes["guidance_scale"]), seed=int(notes["seed"]), progress=False)
    assert np.abs(np.asarray(again).astype(int) - pixels).max() <= 1  # in a batch, sums may round differently


def test_out_may_be_a_file(tiny, tmp_path):
    assert run("generate", PROMPT, model=tiny["sd1"], out=tmp_path / "one" / "apple.png") == 0
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["apple.png"]
    assert run("generate", PROMPT, model=tiny["sd1"], out=tmp_path / "two" / "apple.png", num=2) == 0
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["apple-7.png", "apple-8.png"]


def test_generate_in_another_size(tiny, tmp_path):
    run("generate", PROMPT, model=tiny["sd1"], out=tmp_path / "wide.png", height=48, width=80)
    with Image.open(tmp_path / "wide.png") as image:
        assert image.size == (80, 48)


def test_without_a_seed_one_is_drawn_and_printed(tiny, tmp_path, capsys):
    out = str(tmp_path / "a.png")
    assert main(["generate", PROMPT, "--model", str(tiny["sd1"]), "--steps", "1", "--out", out]) == 0
    with Image.open(out) as image:
        assert f"(seed {image.text['seed']})" in capsys.readouterr().out


def test_img2img(tiny, tmp_path, picture):
    assert run("img2img", PROMPT, picture, model=tiny["sd1"], out=tmp_path / "new.png", strength=0.7) == 0
    with Image.open(tmp_path / "new.png") as image:
        assert image.size == (64, 64)
        assert image.text["strength"] == "0.7"


@pytest.mark.parametrize("kind", ["sd1", "sd1-inpaint"])
def test_inpaint(tiny, tmp_path, picture, mask, kind):
    assert run("inpaint", PROMPT, picture, mask, model=tiny[kind], out=tmp_path / "new.png", width=96, height=64) == 0
    with Image.open(tmp_path / "new.png") as image:
        assert image.size == (96, 64)


@pytest.mark.parametrize(("kind", "expected"), [
    ("sd1", "a mini model, predicts epsilon"), ("sd1-inpaint", "a mini model, inpainting, predicts epsilon"),
    ("sd2", "a mini model, predicts v_prediction")])
def test_info(tiny, capsys, kind, expected):
    assert main(["info", str(tiny[kind])]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{tiny[kind]}: {expected}\n")
    with torch.device("meta"):
        parameters = UNet(**UNETS[kind]).num_parameters()
    assert f"{parameters:,} parameters" in text
    assert "pictures 64×64, latents 4×8×8" in text
    assert "MB in float32" in text


@pytest.mark.parametrize(("options", "message"), [
    ({"model": "no/such/folder"}, "no/such/folder is neither a file nor a folder"),
    ({"steps": 0}, "num_inference_steps"),
    ({"guidance": -1e5}, "guidance_scale=-100000.0"),
    ({"num": 0}, "num_images=0"),
    ({"seed": -1}, "seed=-1"),
    ({"height": 60}, "height is 60 pixels; it must be divisible by 8, for example 64"),
    ({"scheduler": "fastest"}, "scheduler 'fastest' is not known; minisd has ddpm"),
    ({"dtype": "float16"}, "100 times slower"),
    ({"device": "toaster"}, "device='toaster'"),
    ({"variant": "fp16"}, "holds no fp16 weights; "),
    ({"out": "picture.jpg"}, "--out is picture.jpg; pictures are saved as .png files"),
    ({"out": __file__}, "is a file; name another folder"),
    ({"out": f"{__file__}/apple.png"}, "is a file; name another folder"),
    ({"num": 10**9}, "--num is 1000000000; it must be a whole number from 1 to 10,000"),
])
def test_errors_are_one_line_and_status_2(tiny, tmp_path, capsys, options, message):
    assert run("generate", PROMPT, **{"model": tiny["sd1"], "out": tmp_path / "out"} | options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("minisd: ")
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_an_error_without_words_is_said_by_its_name(tiny, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(StableDiffusion, "text_to_image", fail)
    assert run("generate", PROMPT, model=tiny["sd1"], out=tmp_path / "out") == 2
    assert capsys.readouterr().err == "minisd: MemoryError\n"


@pytest.mark.slow
def test_a_long_prompt_is_cut_with_one_line(tiny, tmp_path):
    arguments = ["generate", "cat " * 100, "--model", tiny["sd1"], "--steps", "1", "--out", tmp_path / "cat.png"]
    done = apart(*arguments)
    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if line.startswith("minisd: ")]
    assert len(said) == 1
    assert said[0].startswith("minisd: the text 'cat cat cat")
    assert "Warning" not in done.stderr


@pytest.mark.filterwarnings("ignore:the text")
def test_a_prompt_of_wide_letters_still_fits_a_file_name(tiny, tmp_path):
    assert run("generate", "𝕬" * 60, model=tiny["sd1"], out=tmp_path / "out", seed=2**62) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"{'𝕬' * 50}-{2**62}.png"]


def test_a_prompt_without_letters_still_has_a_file_name(tiny, tmp_path):
    assert run("generate", "?!", model=tiny["sd1"], out=tmp_path / "out") == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["picture-7.png"]


def test_mask_and_picture_of_different_sizes(tiny, tmp_path, picture, capsys):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "mask.png")
    assert run("inpaint", PROMPT, picture, tmp_path / "mask.png", model=tiny["sd1"], out=tmp_path / "out") == 2
    assert "mask.png is 64×64 pixels," in (error := capsys.readouterr().err)
    assert "picture.png is 120×90; they must have the same size" in error


def test_photographs_are_turned_as_their_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.new("RGB", (40, 20), "red").save(tmp_path / "photo.jpg", exif=exif)
    assert open_image(str(tmp_path / "photo.jpg")).size == (20, 40)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA"])
def test_pictures_of_other_modes_are_shown_as_they_look(tmp_path, mode):
    name = tmp_path / f"picture.{'tiff' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (8, 8), "white").convert(mode).save(name)
    assert open_image(str(name)).getpixel((0, 0)) == (255, 255, 255)


def test_a_width_that_the_model_cannot_draw(tiny, tmp_path, picture, capsys):
    for width, message in ((60, "width is 60 pixels; it must be divisible by 8"), (0, "width is 0 pixels")):
        assert run("img2img", PROMPT, picture, model=tiny["sd1"], out=tmp_path / "out", width=width) == 2
        assert message in capsys.readouterr().err


def test_pictures_that_cannot_be_opened(tiny, tmp_path, capsys, picture):
    (tmp_path / "words.png").write_text("these are words")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:5000])
    (tmp_path / "chunk.png").write_bytes(picture.read_bytes()[:33] + b"junk" * 9)
    grey = np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.fromarray((grey / 65535).astype(np.float32)).save(tmp_path / "deep.tiff")
    Image.new("RGBA", (64, 64), (255, 0, 0, 100)).save(tmp_path / "glass.png")
    for path, message in (("none.png", "there is no picture"), ("words.png", "is not a picture"),
                          ("half.png", "half.png is not a picture"), ("chunk.png", "chunk.png is not a picture"),
                          (".", "directory"), ("deep.png", "deep.png has more than 8 bits per channel (mode I;16)"),
                          ("deep.tiff", "deep.tiff has more than 8 bits per channel (mode F)"),
                          ("glass.png", "glass.png has transparent parts; save it without transparency")):
        # the model is not even looked up
        assert run("img2img", PROMPT, tmp_path / path, model="no/such/model", out=tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
    assert run("img2img", PROMPT, picture, model=tiny["sd1"], out=tmp_path / "out", strength=0) == 2
    assert "strength=0.0; it must be above 0" in capsys.readouterr().err


def test_ctrl_c_is_status_130(tiny, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(StableDiffusion, "text_to_image", interrupt)
    assert run("generate", PROMPT, model=tiny["sd1"], out=tmp_path / "out") == 130
    assert capsys.readouterr().err == "minisd: stopped\n"


def test_train_hands_its_options_to_training(monkeypatch):
    given = []
    monkeypatch.setattr("minisd.training.command.run", given.append)
    assert main(["train", "vae", "--steps", "3"]) == 0
    assert (given[0].what, given[0].steps) == ("vae", 3)


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate"], ["generate", "x", "--steps", "many"],
                                       ["generate", "x", "--dtype", "int8"], ["inpaint", "x", "image.png"]])
def test_wrong_usage_is_status_2_too(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: minisd" in capsys.readouterr().err


@pytest.mark.slow
def test_python_m_minisd():
    done = apart("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("generate", "img2img", "inpaint", "train", "info"):
        assert command in done.stdout
    done = apart("info", "no/such/model")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no/such/model" in done.stderr
