/* The worker behind minisd.js: it fetches a model, runs it in onnxruntime, and answers the page's messages. */

import { StableDiffusion } from "./pipeline.js";

const CACHE = "minisd-models";
class Missing extends Error {}

let sd = null;
let queue = Promise.resolve(); // one job at a time
const controllers = new Map(); // of the jobs asked for, by id

self.onmessage = ({ data: { id, method, args, stop } }) => {
  if (stop) return void controllers.get(stop)?.abort();
  const controller = new AbortController();
  controllers.set(id, controller);
  queue = queue.then(() => answer(id, method, args, controller.signal));
};

async function answer(id, method, args, signal) {
  const tell = (kind, value) => self.postMessage({ id, kind, value });
  try {
    tell("result", await (method === "load" ? load(...args, tell) : draw(method, args, signal, tell)));
  } catch (error) {
    tell("error", { name: error.name ?? "Error", message: inWords(error) });
  }
  controllers.delete(id);
}

async function draw(job, args, signal, tell) {
  const options = args.pop();
  const onStep = async (step) => {
    const preview = options.preview && { x0: await sd.decode(step.x0, step.shape),
      state: await sd.decode(step.latents, step.shape) };
    tell("onStep", { ...step, preview });
    await new Promise((resolve) => setTimeout(resolve)); // so that a message to stop can come in
  };
  return sd[job](...args, { ...options, signal, onStep });
}

async function load(folder, engine, tell) {
  if (engine === "auto" && await hasWebGPU()) {
    try {
      return await load(folder, "webgpu", tell);
    } catch (error) { // a graphics driver may refuse what its browser promises
      if (error instanceof Missing) throw error;
      return load(folder, "wasm", tell);
    }
  }
  const webgpu = engine === "webgpu";
  const ort = await import(webgpu ? "./vendor/ort.webgpu.min.mjs" : "./vendor/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  ort.env.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;
  ort.env.logLevel = "error";
  const progress = { loaded: 0, total: 0 };
  const read = (path) => fetched(new URL(path, folder), progress, tell);
  const start = (weights) => ort.InferenceSession.create(weights, { executionProviders: [webgpu ? "webgpu" : "wasm"] });
  sd = await StableDiffusion.load(ort, read, start);
  return { side: sd.side, downscale: sd.downscale, inpaints: sd.inpaints, guidanceScale: sd.guidanceScale,
    scheduler: sd.schedule._class_name, layers: sd.layers, engine: webgpu ? "webgpu" : "wasm", bytes: progress.total };
}

async function hasWebGPU() {
  return Boolean(await self.navigator.gpu?.requestAdapter().catch(() => null));
}

/** A file of the model: from the browser's cache if it is still the server's, else fetched, counting bytes. */
async function fetched(url, progress, tell) {
  const cache = await self.caches?.open(CACHE), kept = await cache?.match(url); // only https and localhost have them
  if (kept && await isCurrent(kept, url)) return kept;
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Missing(`the model could not be fetched: ${url.pathname} (${response.status})`);
  progress.total += Number(response.headers.get("content-length"));
  const counted = response.body.pipeThrough(new TransformStream({
    transform(chunk, controller) {
      progress.loaded += chunk.length;
      tell("onProgress", { ...progress });
      controller.enqueue(chunk);
    },
  }));
  const answer = (body) => new Response(body, { headers: response.headers });
  if (!cache) return answer(counted);
  const [now, later] = counted.tee();
  cache.put(url, answer(later)).catch(() => {}); // a full or forbidden cache costs only the next visit
  return answer(now);
}

/** Whether the server's file is still the one that was kept; without a network, what was kept must do. */
async function isCurrent(kept, url) {
  try {
    const head = await fetch(url, { method: "HEAD", cache: "no-cache" });
    return ["etag", "last-modified", "content-length"].every(
      (name) => !head.headers.has(name) || head.headers.get(name) === kept.headers.get(name));
  } catch {
    return true;
  }
}

function inWords(error) {
  const message = String(error?.message ?? error);
  if (error instanceof RangeError && /memory|allocation|buffer/i.test(message) || /out of memory|bad_alloc/i.test(message)) {
    return "There is not enough memory for the model in this browser. Closing other tabs may help.";
  }
  return message;
}
