"""Stable Diffusion: the one file that knows the whole data flow.

    prompt → tokenizer → text encoder ─┐
    noise → (U-Net ⇄ scheduler) × steps → VAE decoder → picture

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models"; guidance from Ho &
Salimans 2022, "Classifier-Free Diffusion Guidance".
"""

import inspect
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from minisd import checkpoint, lora, schedulers
from minisd.cautions import warn
from minisd.checkpoint import GUIDANCE_SCALE
from minisd.images import check_size, image_to_tensor, mask_to_tensor, tensor_to_images
from minisd.messages import listed
from minisd.network import Network
from minisd.randomness import Generators, randn
from minisd.schedulers.base import Scheduler
from minisd.text_encoder import TextEncoder
from minisd.tokenizer import Tokenizer, check_texts
from minisd.unet import UNet
from minisd.vae import VAE

Images = list[Image.Image] | Tensor
Steps = Generator[tuple[int, Tensor, Tensor, Tensor | None], None, None]  # i, t, latents, x0


class StableDiffusion:
    """The five parts, the loop that denoises, and the three jobs: text to image, image to image, inpainting.

    Arguments that all three jobs share:
        prompt: a string, or a list of them for a batch.
        negative_prompt: what to steer away from; one for all, or a list as long as `prompt`.
        num_inference_steps: denoising steps, 1 to 1000; 20 to 50 are usual.
        guidance_scale: how strongly to follow the prompt: noise = negative + scale · (positive − negative). None takes
            the model's own, the attribute of the same name, which for published models is 7.5. 1 turns guidance off,
            and halves the work; below 1, with a warning, the prompt counts for less than that, at 0 for nothing, and
            below 0 it is what to avoid. (diffusers takes all below 1 for 1.) In Ho & Salimans' notation it is w + 1.
        num_images: pictures for each prompt.
        seed: picture k of the batch is drawn with seed + k: the picture that seed=seed + k draws alone.
        generator: instead of a seed, a torch.Generator, or a list with one for each picture.
        latents: instead of random ones, the noise to begin with, (B, 4, h, w), standard normal.
        callback: called as callback(step, t, latents, x0_prediction) after every step.
        output: "pil" (list of Pillow images), "pt" (tensor (B, 3, H, W) in [0, 1]) or "latent" (scaled latents).
        progress: whether to show a progress bar.

    Attributes:
        guidance_scale: the one that suits the model best, which the jobs take by default. It is saved with the model.
    """

    def __init__(self, tokenizer: Tokenizer, text_encoder: TextEncoder, unet: UNet, vae: VAE,
                 scheduler: Scheduler, guidance_scale: float = GUIDANCE_SCALE):
        if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
            raise ValueError(f"the U-Net attends to text of width {unet.config.cross_attention_dim}, "
                             f"the text encoder's is {text_encoder.config.hidden_size}: they do not belong together")
        if max(tokenizer.vocab.values()) >= text_encoder.config.vocab_size:
            raise ValueError(f"the tokenizer's ids go up to {max(tokenizer.vocab.values())}, the text encoder has "
                             f"{text_encoder.config.vocab_size} tokens: they do not belong together")
        if unet.config.in_channels not in (4, 9) or unet.config.out_channels != vae.config.latent_channels:
            raise ValueError(f"the U-Net takes {unet.config.in_channels} channels and gives "
                             f"{unet.config.out_channels}, the VAE's latents have {vae.config.latent_channels}; "
                             "supported: 4 in and 4 out, or 9 in and 4 out (inpainting)")
        self.tokenizer, self.text_encoder, self.unet, self.vae = tokenizer, text_encoder, unet, vae
        self.scheduler = scheduler
        self.guidance_scale = check_guidance(guidance_scale)
        self._work_device: torch.device | None = None  # in low-memory mode, where networks work; they rest on the CPU
        self._compiled = False
        self._loras: list[lora.Lora] = []
        self._originals: dict[str, Tensor] = {}  # of the weights that LoRAs changed

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device | None = None,
                        dtype: torch.dtype | None = None, scheduler: str | Scheduler | None = None,
                        variant: str | None = None, prediction_type: str | None = None) -> Self:
        """Load "mini", "mini-inpaint", a folder, a single .safetensors or .ckpt file, or a Hub id "org/name".

        Args:
            device: None takes a GPU if there is one.
            dtype: None takes the fastest for the device: bfloat16 (float16 on older GPUs, float32 on older CPUs). The
                mini models are float32 by default, so that they draw the same on every computer.
            scheduler: a name ("euler", "EulerDiscreteScheduler", …) or an instance; None takes the checkpoint's. By a
                name, it gets the checkpoint's noise schedule, also where minisd lacks the checkpoint's own sampler.
            variant: "fp16" loads the half-precision files of a folder or a Hub repository.
            prediction_type: what the U-Net predicts, "epsilon" (noise) or "v_prediction", whatever the checkpoint says.
                Single files of Stable Diffusion 2 may not say it; it sets their size, too: 512 pixels, or 768 for v.
        """
        sd = cls(**checkpoint.load(source, device, dtype, variant, scheduler, prediction_type))
        if scheduler is not None:
            sd.set_scheduler(scheduler)
        return sd

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None, variant: str | None = None) -> None:
        """Write all parts in the diffusers layout; a failed save leaves `folder` as it was."""
        checkpoint.save(self, folder, dtype, variant)

    def set_scheduler(self, scheduler: str | Scheduler) -> None:
        """Swap the sampler and keep the noise schedule: a name such as "euler", or an instance.

        Fields missing from the present config are Stable Diffusion's; above all, latents are never clipped.
        """
        if not isinstance(scheduler, str) and (isinstance(scheduler, type) or not hasattr(scheduler, "set_timesteps")):
            raise TypeError(f"scheduler is {scheduler!r}; it must be a name such as 'euler', or an instance")
        if isinstance(scheduler, str):
            config = {**schedulers.SD_SCHEDULE, **self.scheduler.config}
            # from_config gives fields listed here the new class's defaults; the noise schedule must not be among them
            defaults = config.get("_use_default_values") or []
            config["_use_default_values"] = [field for field in defaults if field not in schedulers.NOISE_FIELDS]
            scheduler = schedulers.sampler_class(scheduler).from_config(config)
        self.scheduler = scheduler

    # --- LoRA -------------------------------------------------------------------------------------------------

    def load_lora(self, path: str | Path, scale: float = 1.0) -> Self:
        """Change the U-Net and the text encoder by a LoRA file (see `minisd.lora`); each call adds one more.

        The change is merged into the weights: it costs no time afterwards, and `save_pretrained` writes it.

        Args:
            path: a .safetensors file of kohya, diffusers or PEFT, a pickle of tensors only, or a folder with one.
            scale: how much of the change; 1 is what was trained.

        Raises:
            FileNotFoundError, ValueError: as `minisd.lora.read_lora`; the weights are as before.
        """
        self._merge([*self._loras, lora.read_lora(path, scale, self._lora_layers())])
        return self

    def unload_lora(self) -> Self:
        """Remove all LoRAs: the weights are exactly what they were."""
        self._merge([])
        return self

    def _merge(self, loras: list[lora.Lora]) -> None:
        """The one place where weights change after loading: whatever was made from them must be made again here."""
        lora.merge(self._lora_layers(), self._originals, loras)
        self._loras = loras

    def _lora_layers(self) -> dict[str, nn.Parameter]:
        return lora.layers(unet=self.unet, text_encoder=self.text_encoder)

    # --- faster, smaller --------------------------------------------------------------------------------------

    def compile(self, **options: Any) -> Self:
        """Compile the U-Net and the VAE's decoder; the first picture of each size then takes a minute more.

        Args:
            options: for torch.compile; by default one graph per network, replayed as a CUDA graph on a GPU.

        Raises:
            ValueError: after low_memory(), which moves networks; a compiled network must stay where it is.
        """
        if self._work_device:
            raise ValueError("compile() and low_memory() exclude each other: compiled networks stay where they are")
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        for network in (self.unet, self.vae.decoder):
            network.compile(**{"fullgraph": True, "mode": mode} | options)
        self._compiled = True
        return self

    def low_memory(self) -> Self:
        """Use as little memory as possible, and more time: a network is on the GPU only while it works, and the VAE
        decodes a few rows at a time (see `minisd.bands`). Pictures are the same.

        Raises:
            ValueError: after compile().
        """
        if self._compiled:
            raise ValueError("compile() and low_memory() exclude each other: compiled networks stay where they are")
        self._work_device = self.device
        for network in (self.text_encoder, self.unet, self.vae):
            network.to("cpu")
        return self

    @contextmanager
    def _at_work(self, network: Network) -> Iterator[torch.device]:
        """Keep a network on its working device, which is yielded, inside the `with`: in low-memory mode it is moved
        there and back; otherwise it is there already."""
        if self._work_device:
            network.to(self._work_device)
        try:
            yield self._work_device or network.device
        finally:
            if self._work_device:
                network.to("cpu")

    # --- encoding and decoding ----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, prompts: str | list[str]) -> Tensor:
        """Prompts → (B, 77, width), what the U-Net attends to."""
        prompts = check_texts("prompt", [prompts] if isinstance(prompts, str) else prompts)
        ids = self.tokenizer([self.tokenizer.spell_out(prompt) for prompt in prompts])
        with self._at_work(self.text_encoder) as device:
            return self.text_encoder(ids.to(device)).to(self.device)

    @torch.no_grad()
    def encode_image(self, images: Image.Image | list[Image.Image] | Tensor, generator: Generators = None) -> Tensor:
        """RGB images, or pixels in [-1, 1], (B, 3, H, W) → scaled latents from the posterior, (B, 4, H/8, W/8)."""
        pixels = image_to_tensor(images, self.vae.downscale)
        with self._at_work(self.vae) as device:
            latents = self.vae.encode(pixels.to(device, self.vae.dtype)).sample(generator).float()
        return latents.to(self.device) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) → pixels in [0, 1], (B, 3, 8h, 8w)."""
        with self._at_work(self.vae) as device:
            latents = latents.to(device, self.vae.dtype) / self.vae.config.scaling_factor
            pixels = self.vae.decode(latents, in_bands=self._work_device is not None).to(self.device)
        self._check_finite(pixels)  # before infinity becomes white
        return (pixels / 2 + 0.5).clamp(0, 1)

    # --- the loop ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def denoise(self, latents: Tensor, timesteps: Tensor, context: Tensor, guidance_scale: float,
                generator: Generators = None, shown: Tensor | None = None) -> Steps:
        """From noise to latents of a picture, one U-Net call and one scheduler step at a time:

            sd.scheduler.set_timesteps(20, device=sd.device)
            latents = torch.randn(1, 4, 64, 64, device=sd.device) * sd.scheduler.init_noise_sigma
            context = sd.encode_prompt(["", "a red apple"])
            for i, t, latents, x0 in sd.denoise(latents, sd.scheduler.timesteps, context, 7.5):
                ...
            picture = sd.decode_latents(latents)

        Latents stay in float32 whatever the networks' dtype: the change of a step can be too small for half precision.

        Args:
            latents: (B, 4, h, w), noise times `scheduler.init_noise_sigma`, or an image's latents, noised for
                timesteps[0]; not modified.
            timesteps: of the scheduler, after `set_timesteps`: all, or some that follow one another.
            context: (2B, 77, width), empty or negative prompts first; (B, 77, width) if guidance_scale is 1.
            guidance_scale, generator: as for the three jobs; only samplers that draw need a generator.
            shown: (B, 5, h, w), mask and masked image, for a 9-channel U-Net; doubled here under guidance.

        Yields:
            i, t, latents, x0: after step i, at timestep t, the new latents, and the clean latents that the network
                predicts (None with those of diffusers' schedulers that do not tell). The next step starts from this
                tensor: writing into it changes that step.
            You may stop iterating at any time. In low-memory mode the U-Net leaves the device when the loop ends or
            is closed. Arguments are checked at the first step.

        Raises:
            ValueError: timesteps that are not the scheduler's; a context, a guidance_scale or `shown` that does not
                fit.
        """
        check_guidance(guidance_scale)
        if guidance_scale < 1:
            share = float(guidance_scale)
            what = (f"the prompt counts for {share:.0%} only, the negative prompt (empty by default) for the rest"
                    if share >= 0 else "pictures are steered away from the prompt, to the negative prompt and beyond")
            warn(f"guidance_scale={share:g}: {what}. 1 is no guidance: the prompt alone, in half of the time; where "
                 "others say 0, as on the cards of Turbo models, it is 1 here")
        guided, batch = guidance_scale != 1, len(latents)
        if len(context) != (2 * batch if guided else batch):
            raise ValueError(f"context has length {len(context)}; for {batch} latents with guidance_scale="
                             f"{guidance_scale} it must be " + (f"{2 * batch}, negative prompts first" if guided
                                                                else f"{batch}, the prompts alone"))
        channels, wanted = latents.shape[1] + (0 if shown is None else shown.shape[1]), self.unet.config.in_channels
        if channels != wanted:
            raise ValueError(f"latents and shown have {channels} channels together; this U-Net takes {wanted}. Give "
                             "shown, (B, 5, h, w), to one that inpaints, which takes 9, and to no other")
        self._begin(timesteps)
        latents, context = latents.to(self.device, torch.float32), context.to(self.device, self.dtype)
        shown = None if shown is None else shown.to(latents)
        # All of ours take a generator; some of diffusers' deterministic ones, which may stand in for them, do not.
        draws: dict[str, Any] = {"generator": generator}
        if "generator" not in inspect.signature(self.scheduler.step).parameters:
            draws = {}
        with self._at_work(self.unet) as device:
            for i, t in enumerate(timesteps):
                if self._work_device and self.unet.device != device:  # closing an earlier loop moved it away
                    self.unet.to(device)
                inputs = self.scheduler.scale_model_input(latents, t)
                inputs = inputs if shown is None else torch.cat([inputs, shown], dim=1)
                inputs = (torch.cat([inputs] * 2) if guided else inputs).to(self.dtype)
                noise_pred = self.unet(inputs, t, context).to(torch.float32, copy=True)  # CUDA graphs reuse theirs
                if guided:
                    negative, positive = noise_pred.chunk(2)
                    noise_pred = negative + guidance_scale * (positive - negative)
                step = self.scheduler.step(noise_pred, t, latents, **draws)
                latents = step.prev_sample
                yield i, t, latents, getattr(step, "pred_original_sample", None)  # diffusers' PNDM has none

    def _begin(self, timesteps: Tensor) -> None:
        """Tell the scheduler at which of its timesteps a loop begins.

        If `timesteps` are a view of the scheduler's own, their offset says it; comparing values would wait for the GPU.
        """
        if not hasattr(self.scheduler, "set_begin_index"):  # not all of diffusers' have it
            return
        own, count = self.scheduler.timesteps, len(timesteps)
        start: int | None = int(timesteps.storage_offset() - own.storage_offset())
        if timesteps.untyped_storage().data_ptr() != own.untyped_storage().data_ptr() or timesteps.stride() != (1,):
            places = range(len(own) - count + 1)
            start = next((k for k in places if torch.equal(own[k: k + count], timesteps.to(own))), None)
        if start is None:
            raise ValueError("timesteps are not the scheduler's; they must be scheduler.timesteps after set_timesteps, "
                             "or some of them that follow one another")
        self.scheduler.set_begin_index(start)

    def _run(self, steps: Steps, timesteps: Tensor, callback: Callable | None, progress: bool) -> Tensor:
        """Run a loop to its end, with progress bar and callback. Returns its latents."""
        with closing(steps):  # on an interrupt the traceback keeps the loop alive, and with it the U-Net on the device
            for i, t, latents, x0 in tqdm(steps, total=len(timesteps), disable=not progress, leave=False):
                if callback is not None:
                    callback(i, t, latents, x0)
        return latents

    # --- the three jobs ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def text_to_image(self, prompt: str | list[str], negative_prompt: str | list[str] = "",
                      num_inference_steps: int = 20, guidance_scale: float | None = None,
                      height: int | None = None, width: int | None = None,
                      num_images: int = 1, seed: int | None = None, generator: Generators = None,
                      latents: Tensor | None = None, callback: Callable | None = None, output: str = "pil",
                      progress: bool = True) -> Images:
        """Draw pictures from words, beginning with pure noise.

        Args:
            height, width: in pixels, divisible by 8; None takes what the model was trained on.
        """
        self._refuse_inpainting_model()
        context, batch, guidance_scale = self._context(prompt, negative_prompt, guidance_scale, num_images)
        generator = make_generators(seed, generator, batch)
        check_output(output)
        height, width = self._size(height, width)
        timesteps = self._timesteps(num_inference_steps)
        latents = self._noise((batch, height, width), generator, latents) * self.scheduler.init_noise_sigma
        steps = self.denoise(latents, timesteps, context, guidance_scale, generator)
        return self._output(self._run(steps, timesteps, callback, progress), output)

    @torch.no_grad()
    def image_to_image(self, prompt: str | list[str], image: Image.Image | list[Image.Image] | Tensor,
                       strength: float = 0.8, negative_prompt: str | list[str] = "", num_inference_steps: int = 20,
                       guidance_scale: float | None = None, num_images: int = 1, seed: int | None = None,
                       generator: Generators = None, latents: Tensor | None = None, callback: Callable | None = None,
                       output: str = "pil", progress: bool = True) -> Images:
        """Redraw an image: add noise part of the way, then denoise with the prompt (Meng et al. 2021, SDEdit).

        Args:
            image: RGB, both sides divisible by 8; the result has its size.
            strength: how far towards noise, above 0 up to 1: that part of the steps is run.
        """
        self._refuse_inpainting_model()
        context, batch, guidance_scale = self._context(prompt, negative_prompt, guidance_scale, num_images)
        generator = make_generators(seed, generator, batch)
        check_output(output)
        timesteps = self._timesteps(num_inference_steps, strength)
        pixels = repeat(image_to_tensor(image, self.vae.downscale), batch, num_images, "image")
        clean = self.encode_image(pixels, generator)
        noise = self._noise((batch, *pixels.shape[-2:]), generator, latents)
        latents = self.scheduler.add_noise(clean, noise, timesteps[:1].repeat(batch))
        steps = self.denoise(latents, timesteps, context, guidance_scale, generator)
        return self._output(self._run(steps, timesteps, callback, progress), output)

    @torch.no_grad()
    def inpaint(self, prompt: str | list[str], image: Image.Image | list[Image.Image] | Tensor,
                mask: Image.Image | Tensor, strength: float = 1.0, negative_prompt: str | list[str] = "",
                num_inference_steps: int = 20, guidance_scale: float | None = None, num_images: int = 1,
                seed: int | None = None, generator: Generators = None, latents: Tensor | None = None,
                callback: Callable | None = None, output: str = "pil", progress: bool = True) -> Images:
        """Repaint the white part of the mask, as the prompt says.

        A 9-channel U-Net is shown the mask and the masked image beside the latents. With a 4-channel one, the known
        part is put back after every step, with as much noise as the latents hold by then (Lugmayr et al. 2022,
        RePaint, equation 8, without its resampling).

        Args:
            image: RGB, both sides divisible by 8; the result has its size.
            mask: grey, of the image's size; white is repainted, black is kept.
            strength: 1 forgets what was under the mask; below 1 begins from it, as image_to_image does.
        """
        context, batch, guidance_scale = self._context(prompt, negative_prompt, guidance_scale, num_images)
        generator = make_generators(seed, generator, batch)
        check_output(output)
        timesteps = self._timesteps(num_inference_steps, strength)
        pixels = repeat(image_to_tensor(image, self.vae.downscale), batch, num_images, "image").to(self.device)
        mask = repeat(mask_to_tensor(mask, pixels.shape[-2:]), batch, num_images, "mask").to(self.device)
        nine_channels = self.unet.config.in_channels == 9

        if strength < 1 or not nine_channels:
            clean = self.encode_image(pixels, generator)
        noise = self._noise((batch, *pixels.shape[-2:]), generator, latents)
        if strength < 1:
            latents = self.scheduler.add_noise(clean, noise, timesteps[:1].repeat(batch))
        else:
            latents = noise * self.scheduler.init_noise_sigma
        small_mask = F.interpolate(mask, size=noise.shape[-2:])  # (B, 1, h, w)

        if nine_channels:
            masked = self.encode_image(pixels * (1 - mask), generator)
            steps = self.denoise(latents, timesteps, context, guidance_scale, generator,
                                 shown=torch.cat([small_mask, masked], dim=1))
        else:
            steps = self.denoise(latents, timesteps, context, guidance_scale, generator)
            steps = self._put_back(steps, timesteps, clean, noise, small_mask)
        return self._output(self._run(steps, timesteps, callback, progress), output)

    def _put_back(self, steps: Steps, timesteps: Tensor, clean: Tensor, noise: Tensor,
                  mask: Tensor) -> Steps:
        """After each step, write the clean latents, noisy, into the state where the mask is 0."""
        for i, t, latents, x0 in steps:
            known = clean
            if i + 1 < len(timesteps):
                known = self.scheduler.add_noise(clean, noise, timesteps[i + 1: i + 2].repeat(len(clean)))
            latents.copy_((1 - mask) * known + mask * latents)
            yield i, t, latents, x0

    # --- arguments checked and prepared -----------------------------------------------------------------------

    def _context(self, prompt: str | list[str], negative_prompt: str | list[str], guidance_scale: float | None,
                 num_images: int) -> tuple[Tensor, int, float]:
        """(2B, 77, width), negative before positive, or (B, 77, width) without guidance; B; and the guidance scale."""
        if not isinstance(num_images, Integral) or isinstance(num_images, bool) or num_images < 1:
            raise ValueError(f"num_images={num_images!r}; it must be a whole number from 1")
        guidance_scale = check_guidance(self.guidance_scale if guidance_scale is None else guidance_scale)
        prompts = check_texts("prompt", [prompt] if isinstance(prompt, str) else prompt)
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else negative_prompt
        check_texts("negative_prompt", negatives)
        if not prompts:
            raise ValueError("prompt is an empty list; give at least one")
        if len(negatives) != len(prompts):
            raise ValueError(f"negative_prompt: {len(negatives)} for {len(prompts)} prompts; give one, or one for each")
        positive = self.encode_prompt(prompts).repeat_interleave(num_images, dim=0)
        if guidance_scale == 1:
            return positive, len(positive), guidance_scale
        negative = self.encode_prompt(negatives).repeat_interleave(num_images, dim=0)
        return torch.cat([negative, positive]), len(positive), guidance_scale

    def _refuse_inpainting_model(self) -> None:
        if self.unet.config.in_channels == 9:
            raise ValueError("this model inpaints (its U-Net has 9 input channels): call inpaint(), "
                             "or load a model with 4")

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        native = self.unet.config.sample_size * self.vae.downscale
        height, width = (native if side is None else side for side in (height, width))
        check_size(height, width, self.vae.downscale, "text_to_image")
        return height, width

    def _timesteps(self, num_inference_steps: int, strength: float = 1.0) -> Tensor:
        """The scheduler's timesteps, or their last part when strength is below 1."""
        if not is_number(strength) or not 0 < strength <= 1:
            raise ValueError(f"strength={strength!r}; it must be above 0 and at most 1")
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        run = int(num_inference_steps * strength)
        if run == 0:
            raise ValueError(f"strength={strength} of {num_inference_steps} steps leaves none to run; "
                             f"it must be at least {math.ceil(1000 / num_inference_steps) / 1000:g}")
        return self.scheduler.timesteps[(num_inference_steps - run) * self.scheduler.order:]  # Heun: two calls a step

    def _noise(self, size: tuple[int, int, int], generator: Generators, latents: Tensor | None) -> Tensor:
        batch, height, width = size
        shape = (batch, self.vae.config.latent_channels, height // self.vae.downscale, width // self.vae.downscale)
        if latents is None:
            return randn(shape, generator, self.device)
        if not isinstance(latents, Tensor) or not latents.is_floating_point():
            raise TypeError("latents must be a tensor of floating point, standard normal numbers")
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}; for this call it must be {shape}")
        return latents.to(self.device, torch.float32)

    def _output(self, latents: Tensor, output: str) -> Images:
        if output == "latent":
            self._check_finite(latents)
            return latents
        pixels = self.decode_latents(latents)
        return tensor_to_images(pixels) if output == "pil" else pixels

    def _check_finite(self, result: Tensor) -> None:
        """Only here are weights looked through for NaN and infinity: loading could take twice as long with it."""
        if result.isfinite().all():
            return
        bad = [f"{part}/{name}" for part in checkpoint.NETWORKS
               for name, weight in getattr(self, part).named_parameters() if not weight.isfinite().all()]
        raise FloatingPointError("the result is not finite: " + (
            f"neither are these weights, {listed(bad)}; fetch the model again" if bad else
            "a setting is far out of range, or half precision overflowed; try dtype=torch.float32"))

    @property
    def device(self) -> torch.device:
        return self._work_device or self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype


def make_generators(seed: int | None, generator: Generators, batch: int) -> Generators:
    """From a seed one generator for each picture, so that it does not depend on how many are drawn together."""
    if seed is not None and generator is not None:
        raise ValueError("seed and generator were both given; give one of them")
    if seed is None:
        return generator
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}; it must be a whole number from 0 to 2**63 - 1")
    return [torch.Generator().manual_seed(int(seed) + k) for k in range(batch)]


def repeat(tensor: Tensor, batch: int, num_images: int, name: str) -> Tensor:
    """Repeat one item, or one for each prompt, for the whole batch; one for each picture stays as it is."""
    if len(tensor) not in (1, batch // num_images, batch):
        raise ValueError(f"{name}: {len(tensor)} for a batch of {batch}; give one, or one for each prompt")
    return tensor.repeat_interleave(batch // len(tensor), dim=0)


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_guidance(scale: float) -> float:
    """The same number, if it can be a guidance scale."""
    if not is_number(scale) or not -1e4 <= scale <= 1e4:
        raise ValueError(f"guidance_scale={scale!r}; it must be a number from -10,000 to 10,000 (1 is no guidance, 7.5 "
                         "is usual)")
    return scale


def check_output(output: str) -> None:
    if output not in ("pil", "pt", "latent"):
        raise ValueError(f"output={output!r}; it must be 'pil', 'pt' or 'latent'")
