"""What is compared, row by row."""

import json
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from minisd import StableDiffusion, TextEncoder, Tokenizer, UNet, plot
from minisd.checkpoint import fast_dtype
from minisd.files import assets_folder
from minisd.schedulers import SD_SCHEDULE, DDIMScheduler
from minisd.training.loop import fast_attention
from minisd.vae import VAE
from tests.benchmarks.measure import Row, fresh, peak, seconds

GROUPS = ("import", "loading", "U-Net", "VAE", "picture", "training", "growth")
FIGURE = Path(__file__).resolve().parents[2] / "assets" / "figures" / "growth.png"
SD21 = {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True}
SD21_TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
             "hidden_act": "gelu"}


def all_rows(size: str, device: torch.device, folder: Path, only: Sequence[str]) -> Iterator[Row]:
    """The rows of these groups. Only mini has training rows; only Stable Diffusion has rows for growing sizes."""
    functions = import_rows, loading_rows, unet_rows, vae_rows, picture_rows, training_rows, growth_rows
    groups = dict(zip(GROUPS, functions))
    del groups["growth" if size == "mini" else "training"]
    source = weights(size, folder)
    torch.manual_seed(0)
    for name, group in groups.items():
        if name in only:
            yield from group(size, device, source)


def weights(size: str, folder: Path) -> Path:
    """A folder in the published layout: mini's, or random float32 weights of Stable Diffusion's size."""
    if size == "mini":
        return assets_folder() / "mini"
    torch.manual_seed(0)
    sd21 = size == "sd21"
    sd = StableDiffusion(
        Tokenizer.from_pretrained(assets_folder() / "clip-tokenizer"), TextEncoder(**SD21_TEXT if sd21 else {}),
        UNet(sample_size=96 if sd21 else 64, **SD21 if sd21 else {}), VAE(), DDIMScheduler.from_config(SD_SCHEDULE))
    sd.save_pretrained(folder / size)
    return folder / size


def pipelines(source: Path, device: torch.device, dtype: torch.dtype):
    """(ours, theirs): two pipelines with the same weights and the same sampler."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = StableDiffusionPipeline.from_pretrained(source, safety_checker=None, torch_dtype=dtype)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    theirs.to(device)
    return StableDiffusion.from_pretrained(source, device, dtype, scheduler="ddim"), theirs


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Compare to 1e-4 in float32; in bfloat16, which has three digits, compare the mean difference only."""
    apart = (one.float() - other.float()).abs()
    assert apart.max() < 1e-4 if one.dtype == torch.float32 else apart.mean() < 0.02, apart.max()


def import_rows(size, device, source) -> Iterator[Row]:
    code = [("", "from minisd import StableDiffusion"), ("", "from diffusers import StableDiffusionPipeline")]
    (time, memory), (their_time, their_memory) = fresh(*code, turns=5)
    yield Row("import in a fresh process: time", time, their_time, "s", 0.4)
    yield Row("import: memory", memory, their_memory, "MB", 0.6)


def loading_rows(size, device, source) -> Iterator[Row]:
    ours = ("import torch; from minisd import StableDiffusion; torch.zeros(1)",
            f"sd = StableDiffusion.from_pretrained({str(source)!r}, 'cpu', torch.float32)")
    theirs = ("import torch; from diffusers import StableDiffusionPipeline; torch.zeros(1)",
              f"p = StableDiffusionPipeline.from_pretrained({str(source)!r}, safety_checker=None)")
    (time, _), (their_time, _) = fresh(ours, theirs, turns=3)
    yield Row(f"loading {size}, float32: time", time, their_time, "s", 0.5)
    for part in ("unet", "vae", "text_encoder"):  # weights stay in the file until they are used, so use them
        ours = (ours[0], ours[1] + f"; [x.sum() for x in sd.{part}.parameters()]")
        theirs = (theirs[0], theirs[1] + f"; [x.sum() for x in p.{part}.parameters()]")
    (time, memory), (their_time, _) = fresh(ours, theirs, turns=3)
    yield Row(f"loading {size}, and reading every weight: time", time, their_time, "s")
    size_of_files = sum(path.stat().st_size for path in source.glob("*/*.safetensors")) / 2**20
    if size != "mini":  # mini's files are in half precision
        yield Row("loading: peak memory, against the size of the weights", memory, size_of_files, "MB", 1.1)


def inputs(unet, batch: int, device, dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents, context = torch.randn(batch, 4, side, side), torch.randn(batch, 77, width)
    return latents.to(device, dtype), torch.tensor(500, device=device), context.to(device, dtype)


@torch.no_grad()
def unet_rows(size, device, source) -> Iterator[Row]:
    fast = fast_dtype(device)
    base = torch.float32 if device.type == "cpu" else fast
    ours, theirs = (pipeline.unet for pipeline in pipelines(source, device, base))
    given = inputs(ours, 2, device, base)
    assert_close(ours(*given), theirs(*given).sample)
    times = seconds(lambda: ours(*given), lambda: theirs(*given), device)
    goal = 0.95 if device.type == "cpu" else 0.85
    yield Row(f"U-Net {size}, one step with guidance, {name(base)}", *times, "s", goal)
    if size != "mini" and device.type == "cpu":  # mini's files are in half precision anyway
        ours.to(memory_format=torch.channels_last)  # what from_pretrained does with weights that it converts
        times = seconds(lambda: ours(*given), lambda: theirs(*given), device)
        yield Row(f"U-Net {size}, {name(base)}, from files in half precision", *times, "s", goal)
    if fast != base:
        quick = UNet.from_pretrained(source / "unet", fast, device)
        quick_given = [x.to(fast) if x.is_floating_point() else x for x in given]
        assert_close(quick(*quick_given), ours(*given).to(fast))
        times = seconds(lambda: quick(*quick_given), lambda: theirs(*given), device)
        yield Row(f"U-Net {size}, our {name(fast)} against their {name(base)} (the defaults)", *times, "s",
                  0.65 if size != "mini" else None)
    if device.type == "cuda":
        ours.compile(mode="reduce-overhead", fullgraph=True)
        theirs.compile(mode="reduce-overhead", fullgraph=True)
        times = seconds(lambda: ours(*given), lambda: theirs(*given), device, turns=20)
        yield Row(f"U-Net {size}, both compiled", *times, "s", 1.0)


@torch.no_grad()
def vae_rows(size, device, source) -> Iterator[Row]:
    base = torch.float32 if device.type == "cpu" else fast_dtype(device)
    ours, theirs = (pipeline.vae for pipeline in pipelines(source, device, base))
    side = 16 if size == "mini" else 64
    latents = torch.randn(1, 4, side, side, device=device, dtype=base)
    assert_close(ours.decode(latents), theirs.decode(latents).sample)
    pixels = side * ours.downscale
    times = seconds(lambda: ours.decode(latents), lambda: theirs.decode(latents), device, turns=3)
    yield Row(f"VAE, decode to {pixels}²: time", *times, "s", 0.95)
    memory, usual = peak(lambda: ours.decode(latents), device), peak(lambda: theirs.decode(latents), device)
    yield Row("VAE, decode: peak memory", memory, usual, "MB", 0.7)
    banded = ours.decode(latents, in_bands=True)
    assert_close(banded, ours.decode(latents))  # no seam: the same picture
    yield Row("VAE, decode in bands (the same picture): peak memory",
              peak(lambda: ours.decode(latents, in_bands=True), device), usual, "MB", 0.3 if size != "mini" else None)
    times = seconds(lambda: ours.decode(latents, in_bands=True), lambda: theirs.decode(latents), device, turns=1)
    yield Row("VAE, decode in bands: time", *times, "s")


def picture_rows(size, device, source) -> Iterator[Row]:
    base = torch.float32 if device.type == "cpu" else fast_dtype(device)
    steps = 20 if size == "mini" or device.type == "cuda" else 2
    ours, theirs = pipelines(source, device, base)
    side = ours.unet.config.sample_size
    latents = torch.randn(1, 4, side, side)
    settings = {"guidance_scale": 3.0, "latents": latents.to(device, base), "negative_prompt": ""}

    def draw_ours(sd=ours, steps=steps):
        return sd.text_to_image("a red apple", num_inference_steps=steps, progress=False, output="pt", **settings)

    def draw_theirs(steps=steps):
        images = theirs("a red apple", num_inference_steps=steps, output_type="pt", **settings).images
        return images.to(base)

    assert_close(draw_ours().to(base), draw_theirs())
    times = seconds(draw_ours, draw_theirs, device, turns=5 if size == "mini" else 2)
    yield Row(f"text to picture, {size}, {steps} steps, {name(base)}", *times, "s", 0.7 if size == "mini" else None)
    held = sum(p.numel() * p.element_size() for n in (ours.unet, ours.vae, ours.text_encoder) for p in n.parameters())
    held /= 2**20
    memory = peak(lambda: draw_ours(steps=1), device), peak(lambda: draw_theirs(steps=1), device)
    yield Row("text to picture: peak memory, weights included", *(held + m for m in memory), "MB",
              0.95 if size != "mini" else None)
    yield Row("text to picture: peak memory on top of the weights", *memory, "MB")
    if (fast := fast_dtype(device)) != base:
        quick = StableDiffusion.from_pretrained(source, device, fast, scheduler="ddim")
        times = seconds(lambda: draw_ours(quick), draw_theirs, device, turns=5 if size == "mini" else 2)
        yield Row(f"text to picture, our {name(fast)} against their {name(base)}", *times, "s",
                  0.7 if size == "mini" else None)
        yield Row(f"text to picture, our {name(fast)}: peak memory, weights included",
                  held / 2 + peak(lambda: draw_ours(quick, 1), device), held + memory[1], "MB", 0.95)


def training_rows(size, device, source) -> Iterator[Row]:
    """A step with our settings (autocast, fused AdamW) against one with PyTorch's defaults, batch 32.

    Then against a step of diffusers' `train_text_to_image.py`, which encodes pictures and captions every time;
    `minisd train` encodes them once, in advance.
    """
    from diffusers import UNet2DConditionModel

    _, pipeline = pipelines(source, device, torch.float32)
    config = json.loads((source / "unet" / "config.json").read_text())
    theirs = UNet2DConditionModel.from_config(config).to(device)
    ours = UNet(**config).to(device)
    ours.load_state_dict(theirs.state_dict())
    given = inputs(ours, 32, device, torch.float32)
    target = torch.randn_like(given[0])
    assert_close(ours(*given).detach(), theirs(*given).sample.detach())
    fused, plain = torch.optim.AdamW(ours.parameters(), fused=True), torch.optim.AdamW(theirs.parameters())

    def step(optimizer, predict):
        loss = nn.functional.mse_loss(predict(*given).float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    bf16 = fast_dtype(device) == torch.bfloat16

    def our_step():
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16), fast_attention(device, bf16):
            step(fused, ours)

    times = seconds(our_step, lambda: step(plain, lambda *given: theirs(*given).sample), device)
    yield Row("training step of the mini U-Net, our settings against PyTorch's defaults", *times, "s", 0.75)

    side = given[0].shape[-1] * pipeline.vae_scale_factor
    images = torch.rand(32, 3, side, side, device=device) * 2 - 1
    ids = torch.full((32, 77), pipeline.tokenizer.eos_token_id, device=device)

    def their_step():
        with torch.no_grad():
            latents = pipeline.vae.encode(images).latent_dist.sample() * pipeline.vae.config.scaling_factor
            context = pipeline.text_encoder(ids)[0]
        step(plain, lambda *_: theirs(latents, given[1], context).sample)

    times = seconds(our_step, their_step, device)
    yield Row("training step, ours on latents encoded in advance against diffusers' script, which encodes each time",
              *times, "s", 0.75)


@torch.no_grad()
def growth_rows(size, device, source) -> Iterator[Row]:
    """U-Net and decoder at four sizes, both sides in the dtype that is fast on the device; draws the figure, too."""
    dtype = fast_dtype(device)
    ours, theirs = pipelines(source, device, dtype)
    def compare(job: str, pixels: int, our_job, their_job) -> Iterator[Row]:
        found[job, pixels] = (seconds(our_job, their_job, device, turns=1),
                              (peak(our_job, device), peak(their_job, device)))
        for kind, values, unit in zip(("time", "peak memory"), found[job, pixels], ("s", "MB")):
            yield Row(f"growth, {name(dtype)}: {job} at {pixels}², {kind}", *values, unit, 1.0)

    found = {}
    for pixels in (256, 512, 768, 1024):
        _, t, context = inputs(ours.unet, 1, device, dtype)
        latents = torch.randn(1, 4, pixels // 8, pixels // 8).to(device, dtype)
        given = latents, t, context
        yield from compare("U-Net", pixels, partial(ours.unet, *given), partial(theirs.unet, *given))
        yield from compare("decode", pixels, partial(ours.vae.decode, latents), partial(theirs.vae.decode, latents))
    draw_growth(found)


def draw_growth(found: dict) -> None:
    made, axes = plot.figure(2, 2, width=8, height=5)
    for row, job in zip(axes, ("U-Net", "decode")):
        sizes = [pixels for name, pixels in found if name == job]
        for axis, kind, unit in zip(row, (0, 1), ("time in s", "peak memory in MB")):
            for side, who in enumerate(("minisd", "diffusers")):
                axis.plot(sizes, [found[job, pixels][kind][side] for pixels in sizes], label=who,
                          color=plot.COLOURS[1 + side], marker=plot.MARKERS[side])
            axis.set(title=f"{job}: {unit}", xticks=sizes, ylim=(0, None), xlabel="pixels a side")
    axes[0, 0].legend()
    FIGURE.parent.mkdir(exist_ok=True)
    made.savefig(FIGURE, dpi=110)


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
