"""An app around any model, in a browser: text to image, image to image, inpainting with a brush.

Needs Gradio, the extra `play`. One picture is drawn at a time; others wait in a queue.
"""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import torch
from PIL import Image, ImageOps

from minisd import StableDiffusion
from minisd.images import save_png, tensor_to_images
from minisd.schedulers import SAMPLERS

WORDS, PICTURE, HOLE = "words", "a picture", "a hole in a picture"
OWN = "the model's own"
STRIP = 8  # steps that the strip shows; each costs a call of the decoder
CSS = """
.drawn img { width: 100%; height: 100%; object-fit: contain }  /* Gradio would show a small picture small */
.strip .grid-wrap { height: auto !important; min-height: 0 !important }
.strip .grid-container { grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)) !important }
"""


class Stopped(Exception):
    """The reader pressed Stop."""


class Studio:
    """A model, and what is needed to draw with it from a page: the jobs, the strip of steps, and a way to stop.

    Its pictures are written into `folder`.
    """

    def __init__(self, sd: StableDiffusion, name: str, folder: str | Path):
        self.sd, self.name, self.folder = sd, name, Path(folder)
        self.own = sd.scheduler
        self.stop = Event()
        self.side = sd.unet.config.sample_size * sd.vae.downscale
        self.jobs = [HOLE] if sd.unet.config.in_channels == 9 else [WORDS, PICTURE, HOLE]

    def draw(self, job: str, prompt: str, negative: str, canvas: dict[str, Any] | None, strength: float, steps: int,
             guidance: float, seed: int | None, sampler: str, *,
             progress: Callable[[tuple[int, int]], Any] = lambda _: None) -> tuple[str, list[Image.Image], int]:
        """One drawing: the path of its PNG, which carries all settings; the strip of steps; and the seed.

        Raises:
            ValueError: no picture, or no hole in it.
            Stopped: `stop` was set meanwhile.
        """
        self.stop.clear()
        seed = random.randrange(2**32) if seed is None else int(seed)
        self.sd.scheduler = self.own
        if sampler != OWN:
            self.sd.set_scheduler(sampler)
        expected: list[torch.Tensor] = []

        def after_step(step: int, t: Any, latents: torch.Tensor, x0: torch.Tensor) -> None:
            if self.stop.is_set():
                raise Stopped
            expected.append(x0.cpu())
            progress((len(expected), int(steps)))

        settings = {"negative_prompt": negative, "num_inference_steps": int(steps), "guidance_scale": guidance,
                    "seed": seed}
        options: dict[str, Any] = settings | {"callback": after_step, "progress": False}
        if job == WORDS:
            image = self.sd.text_to_image(prompt, **options)[0]
        else:
            settings["strength"] = strength
            picture, mask = self.read(canvas)
            if job == PICTURE:
                image = self.sd.image_to_image(prompt, picture, strength, **options)[0]
            elif mask.getbbox() is None:
                raise ValueError("Brush over a part of the picture: that part is painted anew.")
            else:
                image = self.sd.inpaint(prompt, picture, mask, strength, **options)[0]
        file = self.folder / f"minisd-{seed}-{random.randrange(10**6)}.png"
        assert isinstance(image, Image.Image)  # a tensor only if asked for
        save_png(image, file, {"prompt": prompt, **settings, "model": self.name,
                               "scheduler": type(self.sd.scheduler).__name__})
        return str(file), self.strip(expected), seed

    def read(self, canvas: dict[str, Any] | None) -> tuple[Image.Image, Image.Image]:
        """The editor's picture, cropped to the model's size, and where it was brushed over, as a mask."""
        if not canvas or canvas["background"] is None:
            raise ValueError("Open a picture first.")
        background = canvas["background"].convert("RGBA")
        size = (self.side, self.side)
        picture = Image.alpha_composite(Image.new("RGBA", background.size, "white"), background).convert("RGB")
        mask = Image.new("L", background.size)
        for layer in canvas["layers"]:
            mask.paste(255, mask=layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 * (alpha > 0)))
        return ImageOps.fit(picture, size), ImageOps.fit(mask, size, Image.Resampling.NEAREST)

    def strip(self, expected: list[torch.Tensor]) -> list[Image.Image]:
        """What the network expected after a few of the steps, the last among them."""
        count = min(STRIP, len(expected))
        chosen = [expected[round((i + 1) * len(expected) / count) - 1] for i in range(count)]
        return [image for x0 in chosen
                for image in tensor_to_images(self.sd.decode_latents(x0.to(self.sd.device, self.sd.dtype)))]


def read_notes(file: str | Path) -> dict[str, Any]:
    """The settings that a PNG of minisd carries, for the page's controls.

    Raises:
        ValueError: it carries none.
    """
    with Image.open(file) as image:
        notes = dict(getattr(image, "text", {}))
    if "prompt" not in notes:
        raise ValueError("This picture carries no settings of minisd.")
    names = {sampler.__name__: short for short, sampler in SAMPLERS.items()}
    return {"prompt": notes["prompt"], "negative": notes.get("negative_prompt", ""),
            "steps": int(notes.get("num_inference_steps", 20)), "guidance": float(notes.get("guidance_scale", 7.5)),
            "seed": notes.get("seed", ""), "strength": float(notes.get("strength", 0.8)),
            "sampler": names.get(notes.get("scheduler", ""), OWN)}


# --- the page -------------------------------------------------------------------------------------------------


def launch(model: str, host: str, port: int) -> None:
    """Open `model` and serve the app until Ctrl + C.

    Raises:
        ImportError: Gradio is not installed.
    """
    import_gradio()  # before the model, which takes longer
    sd = StableDiffusion.from_pretrained(model)
    with tempfile.TemporaryDirectory(prefix="minisd-") as folder:
        app, options = make_app(Studio(sd, model, folder))
        app.launch(server_name=host, server_port=port or None, **options)


def import_gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"the app needs {error.name}: pip install gradio") from None
    return gradio


def make_app(studio: Studio) -> tuple[Any, dict[str, Any]]:
    """The page, and what its `launch` needs: fonts of this computer, and nothing that reports to anyone."""
    gr = import_gradio()
    guidance = studio.sd.guidance_scale

    def draw(*values: Any, progress: Any = gr.Progress()) -> tuple[Any, Any, str]:  # noqa: B008
        *others, seed, sampler = values  # in the order of Studio.draw's parameters
        if seed.strip() and not seed.strip().isdecimal():
            raise gr.Error(f"The seed is {seed!r}; it must be a whole number, or empty for another each time.")
        try:
            given = [*others, int(seed) if seed.strip() else None, sampler]
            file, strip, used = studio.draw(*given, progress=lambda done: progress(done, desc="Step", unit="steps"))
        except Stopped:
            return gr.skip(), gr.skip(), "Stopped."
        except (ValueError, TypeError, RuntimeError) as error:
            raise gr.Error(" ".join(str(error).split())) from None
        return file, strip, f"Seed {used}."

    def load_notes(file: str | None) -> list[Any]:
        if file is None:
            return [gr.skip()] * 7
        try:
            return list(read_notes(file).values())
        except (ValueError, OSError) as error:
            raise gr.Error(str(error)) from None

    with gr.Blocks(title=f"minisd: {studio.name}", analytics_enabled=False) as app:
        gr.Markdown(f"# Draw with {studio.name}\nEverything is computed on the computer that serves this page.")
        with gr.Row():
            with gr.Column():
                job = gr.Radio(studio.jobs, value=studio.jobs[0], label="Begin with")
                prompt = gr.Textbox(label="Prompt", lines=2)
                with gr.Row():
                    start = gr.Button("Draw", variant="primary", min_width=100)
                    stop = gr.Button("Stop", min_width=100)
                with gr.Group(visible=studio.jobs[0] != WORDS) as board:
                    gr.Markdown("**The picture.** Brush over what is to be painted anew.", padding=True)
                    canvas = gr.ImageEditor(label="The picture", show_label=False, type="pil",
                                            brush=gr.Brush(colors=["#d8232e"], color_mode="fixed"))
                    strength = gr.Slider(0.05, 1, 0.8, step=0.05, label="Strength")
            with gr.Column():
                picture = gr.Image(label="Picture", show_label=False, type="filepath", format="png", height=448,
                                   interactive=False, buttons=["download", "fullscreen"], elem_classes="drawn")
                state = gr.Markdown("")
        gr.Markdown("What the network expected the picture to be, step by step:")
        strip = gr.Gallery(label="What the network expected", show_label=False, columns=STRIP, interactive=False,
                           buttons=["download_all", "fullscreen"], elem_classes="strip")
        with gr.Row():
            with gr.Column():
                negative = gr.Textbox(label="Negative prompt")
                steps = gr.Slider(1, 100, 20, step=1, label="Steps")
                scale = gr.Slider(0, 15, guidance, step=0.5, label="Guidance")
            with gr.Column():
                seed = gr.Textbox(label="Seed", placeholder="another each time")  # a gr.Number cannot be empty
                sampler = gr.Dropdown([OWN, *SAMPLERS], value=OWN, label="Sampler")
                notes = gr.UploadButton("Read the settings of a PNG that minisd drew", file_types=[".png"])
        job.change(lambda chosen: gr.Group(visible=chosen != WORDS), job, board)
        controls = [job, prompt, negative, canvas, strength, steps, scale, seed, sampler]
        gr.on([start.click, prompt.submit], draw, controls, [picture, strip, state], concurrency_limit=1)
        stop.click(studio.stop.set, queue=False)
        notes.upload(load_notes, notes, [prompt, negative, steps, scale, seed, strength, sampler])
    app.queue(default_concurrency_limit=1)
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return app, {"theme": theme, "css": CSS, "share": False, "show_error": True, "footer_links": ["gradio", "settings"]}
