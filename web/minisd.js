/* Stable Diffusion for web pages: a worker computes, so the page never freezes.

     import { load } from "./minisd.js";
     const sd = await load("mini");
     const { pixels, width, height } = await sd.textToImage("a red apple", { seed: 1 });
     context.putImageData(new ImageData(pixels, width, height), 0, 0);
*/

import { noise } from "./noise.js";
import { Tokenizer } from "./tokenizer.js";

export { DISTILLED, SAMPLERS } from "./scheduler.js";

/** What this browser lacks, as a sentence for its user; null if nothing. */
export function lacking() {
  // a function of one SIMD instruction: WebAssembly without SIMD would take minutes for a picture
  const simd = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0,
    253, 15, 253, 98, 11);
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(simd)) {
    return "This browser cannot run the model: it lacks WebAssembly with SIMD. Any browser from 2023 on has it.";
  }
  if (typeof Worker !== "function") {
    return "This browser cannot run the model: it has no workers, which compute while the page goes on.";
  }
  return null;
}

/** Open a model: a name, for the folder models/<name>/ beside this file, or the address of any folder that
    `minisd export onnx` wrote.
    @param {object} options onProgress: called with { loaded, total } bytes while the model is fetched;
      engine: "webgpu", "wasm", or "auto" (WebGPU where the browser has it) */
export async function load(model, { onProgress = () => {}, engine = "auto" } = {}) {
  const sentence = lacking();
  if (sentence) throw new Error(sentence);
  const beside = /^[\w-]+$/.test(model);
  const folder = new URL(`${beside ? `models/${model}` : model}/`.replace(/\/+$/, "/"),
    beside ? import.meta.url : document.baseURI);
  const sd = new Model(new Worker(new URL("worker.js", import.meta.url), { type: "module" }));
  try {
    Object.assign(sd, await sd.ask("load", [folder.href, engine], { onProgress }));
    sd.tokenizer = await Tokenizer.load((name) => fetch(new URL(`tokenizer/${name}`, folder)));
  } catch (error) {
    sd.close();
    throw error;
  }
  return sd;
}

/** A model in a worker. Its side, guidanceScale, scheduler and whether it inpaints are read from the model. */
class Model {
  constructor(worker) {
    this.worker = worker;
    this.pending = new Map();
    this.asked = 0;
    worker.onmessage = ({ data: { id, kind, value } }) => this.pending.get(id)?.[kind]?.(value);
    worker.onerror = (event) => this.fail(new Error(event.message || "the worker could not be started"));
    this.noise = noise;
  }

  /** A picture from words: { pixels, width, height }, pixels as in ImageData.
      @param {object} options seed, steps (20), guidance (the model's own), negativePrompt, scheduler (the command
        line's names; the model's own), width, height; preview: whether each step is decoded; attention: whether each
        step has the attention maps; signal: an AbortSignal, upon which it throws an error named "Stopped";
        onStep: called after each step with { step, steps, t, latents, x0, preview: { x0, state }, attention } */
  textToImage(prompt, options = {}) {
    return this.run("textToImage", [prompt], options);
  }

  /** Redraw a picture (ImageData); options.strength, above 0 and at most 1, says how much (0.8). */
  imageToImage(prompt, image, options = {}) {
    return this.run("imageToImage", [prompt, plain(image)], options);
  }

  /** Paint the white part of a mask (ImageData of the picture's size) anew. */
  inpaint(prompt, image, mask, options = {}) {
    return this.run("inpaint", [prompt, plain(image), plain(mask)], options);
  }

  run(job, args, { onStep, signal, ...options }) {
    if (signal?.aborted) return Promise.reject(Object.assign(new Error("stopped"), { name: "Stopped" }));
    const id = this.asked + 1;
    signal?.addEventListener("abort", () => this.worker.postMessage({ stop: id }), { once: true });
    return this.ask(job, [...args, { ...options, steps: options.steps ?? 20 }], { onStep });
  }

  ask(method, args, { onStep, onProgress } = {}) {
    const id = ++this.asked;
    return new Promise((resolve, reject) => {
      const done = (settle) => (value) => { this.pending.delete(id); settle(value); };
      this.pending.set(id, { onStep, onProgress, result: done(resolve),
        error: done(({ name, message }) => reject(Object.assign(new Error(message), { name }))) });
      this.worker.postMessage({ id, method, args });
    });
  }

  fail(error) {
    for (const { error: reject } of [...this.pending.values()]) reject(error);
  }

  /** Give the memory back. */
  close() {
    this.worker.terminate();
    this.fail(new Error("the model was closed"));
  }
}

/** ImageData, or anything like it, as what can be sent to a worker. */
function plain({ data, width, height }) {
  return { data, width, height };
}
