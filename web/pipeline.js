/* Stable Diffusion, the whole way from words to pixels; the twin of minisd/pipeline.py.

     prompt → tokenizer → text encoder ─┐
     noise → (U-Net ⇄ scheduler) × steps → VAE decoder → picture

   The four networks run in onnxruntime; everything else is here and in tokenizer.js, scheduler.js and noise.js. */

import { Generator } from "./noise.js";
import { makeScheduler, sum } from "./scheduler.js";
import { Tokenizer } from "./tokenizer.js";

export const NETWORKS = ["text_encoder", "unet", "vae_decoder", "vae_encoder"];
const GUIDANCE_SCALE = 7.5; // of a model that does not say which is best for it

/** Thrown where the caller's signal asked to stop. */
export class Stopped extends Error {
  constructor() {
    super("stopped");
    this.name = "Stopped";
  }
}

export class StableDiffusion {
  /** Open the folder that `minisd export onnx` wrote.
      @param ort onnxruntime
      @param {(path: string) => Promise<Response>} read fetches a file of the folder
      @param {(weights: Uint8Array) => Promise<object>} start makes an onnxruntime session of a file */
  static async load(ort, read, start) {
    const json = (path) => read(path).then((file) => file.json());
    const sd = new StableDiffusion();
    sd.ort = ort;
    [sd.index, sd.schedule, sd.unet, sd.vae] = await Promise.all([
      "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae_decoder/config.json"].map(json));
    sd.tokenizer = await Tokenizer.load((name) => read(`tokenizer/${name}`));
    const files = await Promise.all(NETWORKS.map((name) => read(`${name}/model.onnx`)));
    const weights = await Promise.all(files.map((file) => file.arrayBuffer()));
    sd.sessions = {};
    for (const [i, name] of NETWORKS.entries()) sd.sessions[name] = await start(new Uint8Array(weights[i]));
    sd.downscale = 2 ** (sd.vae.block_out_channels.length - 1);
    sd.side = sd.unet.sample_size * sd.downscale;
    sd.guidanceScale = sd.index._guidance_scale ?? GUIDANCE_SCALE;
    sd.layers = sd.sessions.unet.outputNames.filter((name) => name.startsWith("attention."));
    return sd;
  }

  get inpaints() {
    return this.unet.in_channels === 9;
  }

  // --- the three jobs -----------------------------------------------------------------------------------------

  /** A picture from words, { pixels, width, height }; pixels as in ImageData.
      @param {object} options seed, steps (20), guidance (the model's), negativePrompt, scheduler (the model's), width,
        height, attention (whether onStep gets the maps), signal (an AbortSignal), onStep: called after each step with
        { step, steps, t, latents, x0, shape, attention }, and awaited */
  async textToImage(prompt, options = {}) {
    if (this.inpaints) throw new Error("this model inpaints: call inpaint with a picture and a mask");
    const run = this.begin({ steps: 20, ...options });
    const shape = this.latentShape(options.height ?? this.side, options.width ?? this.side);
    const noise = run.draw(shape);
    const latents = sum([run.scheduler.initNoiseSigma, noise]);
    return this.denoise(prompt, latents, shape, run);
  }

  /** Redraw a picture; `strength`, above 0 and at most 1, says how far towards noise it goes first. */
  async imageToImage(prompt, image, options = {}) {
    if (this.inpaints) throw new Error("this model inpaints: call inpaint with a picture and a mask");
    const run = this.begin({ steps: 20, strength: 0.8, ...options });
    const shape = this.latentShape(image.height, image.width);
    const clean = await this.encode(toPixels(image), image, () => run.draw(shape));
    const latents = run.scheduler.addNoise(clean, run.draw(shape), run.first);
    return this.denoise(prompt, latents, shape, run);
  }

  /** Paint the white part of the mask (ImageData of the picture's size) anew. */
  async inpaint(prompt, image, mask, options = {}) {
    if (mask.width !== image.width || mask.height !== image.height) {
      throw new RangeError(`the mask is ${mask.width}×${mask.height}, the picture ${image.width}×${image.height}`);
    }
    const run = this.begin({ steps: 20, strength: 1, ...options });
    const shape = this.latentShape(image.height, image.width), [, , h, w] = shape;
    const pixels = toPixels(image), white = toMask(mask), repaints = run.strength < 1;
    const clean = repaints || !this.inpaints ? await this.encode(pixels, image, () => run.draw(shape)) : null;
    const noise = run.draw(shape);
    const latents = repaints ? run.scheduler.addNoise(clean, noise, run.first)
      : sum([run.scheduler.initNoiseSigma, noise]);
    const small = new Float32Array(h * w); // the mask at the latents' size, the nearest pixel of each
    for (let i = 0; i < h * w; i++) {
      small[i] = white[Math.floor(i / w) * this.downscale * image.width + (i % w) * this.downscale];
    }
    if (this.inpaints) {
      const known = pixels.map((value, i) => value * (1 - white[i % white.length]));
      const masked = await this.encode(known, image, () => run.draw(shape));
      run.shown = Float32Array.from([...small, ...masked]);
    } else {
      // after each step, the known part is put back with as much noise as the latents hold by then
      run.after = (i, x) => {
        const last = i + 1 === run.scheduler.timesteps.length;
        const known = last ? clean : run.scheduler.addNoise(clean, noise, i + 1);
        return x.map((value, k) => (small[k % small.length] ? value : known[k]));
      };
    }
    return this.denoise(prompt, latents, shape, run);
  }

  // --- the loop -----------------------------------------------------------------------------------------------

  /** From noise to a picture, one U-Net call and one scheduler step at a time. */
  async denoise(prompt, latents, shape, run) {
    const { scheduler, guidance, signal, onStep } = run, guided = guidance !== 1;
    const context = await this.embed(guided ? [run.negativePrompt, prompt] : [prompt]);
    const layers = run.attention ? this.layers : [];
    for (let i = run.first; i < scheduler.timesteps.length; i++) {
      if (signal?.aborted) throw new Stopped();
      const t = scheduler.timesteps[i], seen = scheduler.scaleModelInput(latents, i);
      const input = run.shown ? Float32Array.from([...seen, ...run.shown]) : seen;
      const outputs = await this.sessions.unet.run({
        sample: this.tensor(guided ? Float32Array.from([...input, ...input]) : input,
          [guided ? 2 : 1, this.unet.in_channels, ...shape.slice(2)]),
        timestep: this.tensor(Float32Array.of(t), []), encoder_hidden_states: context,
      }, ["out_sample", ...layers]);
      let output = outputs.out_sample.data;
      if (guided) { // away from the negative prompt, towards the prompt
        const [negative, positive] = halves(output);
        output = sum([1 - guidance, negative], [guidance, positive]);
      }
      const step = scheduler.step(output, i, latents, () => run.draw(shape));
      latents = run.after ? run.after(i, step.x) : step.x;
      await onStep?.({ step: i - run.first + 1, steps: scheduler.timesteps.length - run.first, t, latents, x0: step.x0,
        shape, attention: layers.map((name) => readMap(name, outputs[name], guided)) });
    }
    return { ...(await this.decode(latents, shape)), latents };
  }

  /** What a run needs: the scheduler, where it begins, and its source of noise. */
  begin({ seed = randomSeed(), steps, strength = 1, guidance = this.guidanceScale, negativePrompt = "",
    scheduler = null, ...rest }) {
    if (!(guidance >= 0 && guidance <= 1e4)) throw new RangeError(`guidance is ${guidance}; it must be a number from 0`);
    if (!(strength > 0 && strength <= 1)) throw new RangeError(`strength is ${strength}; it must be above 0 and at most 1`);
    const sampler = makeScheduler(this.schedule, scheduler), generator = new Generator(seed);
    sampler.setTimesteps(steps);
    const taken = Math.floor(steps * strength), calls = scheduler === "heun" ? 2 : 1; // Heun calls twice a step
    if (taken === 0) throw new RangeError(`strength ${strength} of ${steps} steps leaves none to run`);
    return { ...rest, guidance, negativePrompt, strength, scheduler: sampler, first: (steps - taken) * calls,
      draw: (shape) => generator.normal(shape.reduce((a, b) => a * b)) };
  }

  // --- the networks -------------------------------------------------------------------------------------------

  tensor(data, shape) {
    return new this.ort.Tensor("float32", data, shape);
  }

  /** Texts → (B, 77, width). */
  async embed(texts) {
    const ids = Int32Array.from(texts.flatMap((text) => this.tokenizer.row(text)));
    const input = new this.ort.Tensor("int32", ids, [texts.length, ids.length / texts.length]);
    return (await this.sessions.text_encoder.run({ input_ids: input })).last_hidden_state;
  }

  /** Pixels in [-1, 1] → a sample of the VAE's latents, scaled. */
  async encode(pixels, { height, width }, draw) {
    const output = await this.sessions.vae_encoder.run({ sample: this.tensor(pixels, [1, 3, height, width]) });
    const [mean, logVariance] = halves(output.latent_parameters.data), noise = draw();
    return mean.map((value, i) => (value + Math.exp(logVariance[i] / 2) * noise[i]) * this.vae.scaling_factor);
  }

  /** Scaled latents → { pixels, width, height }. */
  async decode(latents, shape) {
    const z = this.tensor(sum([1 / this.vae.scaling_factor, latents]), shape);
    const { data, dims: [, , height, width] } = (await this.sessions.vae_decoder.run({ latent_sample: z })).sample;
    return { pixels: toBytes(data), width, height };
  }

  latentShape(height, width) {
    for (const side of [height, width]) {
      if (!Number.isInteger(side) || side < this.downscale || side % this.downscale) {
        throw new RangeError(`${width}×${height} pixels: both sides must be divisible by ${this.downscale}`);
      }
    }
    return [1, this.vae.latent_channels, height / this.downscale, width / this.downscale];
  }
}

// --- between pictures and numbers -----------------------------------------------------------------------------

/** RGBA bytes → red, green and blue planes in [-1, 1]. */
export function toPixels({ data, width, height }) {
  return Float32Array.from({ length: 3 * width * height }, (_, i) => {
    const plane = Math.floor(i / (width * height)), pixel = i % (width * height);
    return data[4 * pixel + plane] / 127.5 - 1;
  });
}

/** RGBA bytes → 1 where the picture is at least half white (grey as Pillow makes it), else 0. */
function toMask({ data, width, height }) {
  return Float32Array.from({ length: width * height }, (_, i) => {
    const grey = (19595 * data[4 * i] + 38470 * data[4 * i + 1] + 7471 * data[4 * i + 2] + 32768) >> 16;
    return grey / 255 >= 0.5 ? 1 : 0;
  });
}

/** Planes in [-1, 1] → RGBA bytes. */
function toBytes(planes) {
  const count = planes.length / 3, bytes = new Uint8ClampedArray(4 * count);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) bytes[4 * i + c] = (planes[c * count + i] / 2 + 0.5) * 255; // rounds and clamps
    bytes[4 * i + 3] = 255;
  }
  return bytes;
}

function halves(array) {
  return [array.subarray(0, array.length / 2), array.subarray(array.length / 2)];
}

/** One layer's attention to the prompt: { layer, positions, tokens, weights }, a row of weights for each position. */
function readMap(name, { data, dims: [batch, positions, tokens] }, guided) {
  const weights = guided ? data.slice(data.length / batch) : data.slice();
  return { layer: name.replace("attention.", ""), positions, tokens, weights };
}

export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}
