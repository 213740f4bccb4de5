/* The samplers: how noisy latents become less noisy, step by step. Each is a formula; the tables come from the noise
   schedule. Twins of minisd/schedulers/*.py, where the papers and their equations are named. */

// --- the formulas: every step is a weighted sum ----------------------------------------------------------------

/** Σ weight·array, for pairs [weight, array]; a pair whose array is null counts nothing. */
export function sum(...pairs) {
  const used = pairs.filter(([, array]) => array !== null);
  return used[0][1].map((_, i) => used.reduce((total, [weight, array]) => total + weight * array[i], 0));
}

export function ddimStep(x0, eps, alphaBar, alphaBarNext) {
  return sum([Math.sqrt(alphaBarNext), x0], [Math.sqrt(1 - alphaBarNext), eps]);
}

export function ddpmStep(x, x0, alphaBar, alphaBarNext, noise) {
  const alpha = alphaBar / alphaBarNext, beta = 1 - alpha;
  const variance = (1 - alphaBarNext) / (1 - alphaBar) * beta;
  return sum([Math.sqrt(alphaBarNext) * beta / (1 - alphaBar), x0],
    [Math.sqrt(alpha) * (1 - alphaBarNext) / (1 - alphaBar), x], [Math.sqrt(variance), noise]);
}

export function eulerStep(x, eps, sigma, sigmaNext) {
  return sum([1, x], [sigmaNext - sigma, eps]);
}

export function eulerAncestralStep(x, eps, sigma, sigmaNext, noise) {
  const up = Math.sqrt(sigmaNext ** 2 * (sigma ** 2 - sigmaNext ** 2) / sigma ** 2);
  const down = Math.sqrt(sigmaNext ** 2 - up ** 2);
  return sum([1, x], [down - sigma, eps], [up, noise]);
}

export function heunStep(x, eps, epsNext, sigma, sigmaNext) {
  return sum([1, x], [(sigmaNext - sigma) / 2, eps], [(sigmaNext - sigma) / 2, epsNext]);
}

/** DPM-Solver++ (2M): sigmas are those at the step before (if there was one), now, and next; so are the x0s. */
export function dpmSolverStep(x, x0s, sigmas) {
  const [sigma, next] = sigmas.slice(-2), now = x0s.at(-1), alpha = 1 / Math.sqrt(next ** 2 + 1);
  const h = Math.log(sigma) - Math.log(next), phi = Math.expm1(-h);
  const ratio = (next * alpha) / (sigma / Math.sqrt(sigma ** 2 + 1));
  if (x0s.length === 1) return sum([ratio, x], [-alpha * phi, now]);
  const r = (Math.log(sigmas[0]) - Math.log(sigma)) / h;
  return sum([ratio, x], [-alpha * phi * (1 + 0.5 / r), now], [alpha * phi * 0.5 / r, x0s.at(-2)]);
}

export function pndmStep(x, eps, alphaBar, alphaBarNext) {
  const bottom = alphaBar * Math.sqrt(1 - alphaBarNext) + Math.sqrt(alphaBar * (1 - alphaBar) * alphaBarNext);
  return sum([Math.sqrt(alphaBarNext / alphaBar), x], [-(alphaBarNext - alphaBar) / bottom, eps]);
}

const ADAMS_BASHFORTH = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]];

/** LMS: the slope integrated as the polynomial through the last slopes; sigmas of each, the latest last, then the end. */
export function lmsStep(x, epss, sigmas) {
  const start = sigmas.at(-2), known = sigmas.slice(0, -1).map((sigma) => sigma - start).reverse();
  const weights = known.map((node, k) => {
    const others = known.filter((_, j) => j !== k);
    // coefficients of Π (σ - other), lowest first
    const polynomial = others.reduce((c, root) => [...c, 0].map((v, i) => (c[i - 1] ?? 0) - root * (c[i] ?? 0)), [1]);
    const at = (c, s) => c.reduce((total, v, i) => total + v * s ** i, 0);
    const integral = [0, ...polynomial.map((v, i) => v / (i + 1))];
    return at(integral, sigmas.at(-1) - start) / at(polynomial, node);
  });
  return sum([1, x], ...[...epss].reverse().map((eps, k) => [weights[k], eps]));
}

/** LCM: the picture that the network jumped to, with fresh noise. */
export function lcmStep(jump, alphaBarNext, noise) {
  return sum([Math.sqrt(alphaBarNext), jump], [Math.sqrt(1 - alphaBarNext), noise]);
}

/** f(x, t) of a consistency model: x itself at t = 0, nearly x0 soon after. */
export function consistency(x, x0, time) {
  const data = 0.5 ** 2, bottom = time ** 2 + data;
  return sum([data / bottom, x], [time / Math.sqrt(bottom), x0]);
}

// --- the noise schedule ---------------------------------------------------------------------------------------

/** ᾱ at all training times, with PyTorch's roundings to float32. */
function alphasCumprod(config) {
  const { beta_start: first, beta_end: last, num_train_timesteps: steps } = config, f = Math.fround;
  let betas = config.trained_betas;
  if (!betas && ["linear", "scaled_linear"].includes(config.beta_schedule)) {
    const root = config.beta_schedule === "scaled_linear" ? Math.sqrt : (value) => value;
    const start = f(root(first)), end = f(root(last)), step = f(f(end - start) / (steps - 1));
    const line = (i) => (i < steps / 2 ? f(start + f(step * i)) : f(end - f(step * (steps - 1 - i))));
    betas = Array.from({ length: steps }, (_, i) => (root === Math.sqrt ? f(line(i) ** 2) : line(i)));
  } else if (!betas) {
    const bar = (i) => Math.cos((i / steps + 0.008) / 1.008 * Math.PI / 2) ** 2;
    betas = Array.from({ length: steps }, (_, i) => f(Math.min(1 - bar(i + 1) / bar(i), 0.999)));
  }
  let product = 1;
  return Float32Array.from(betas, (beta) => (product *= f(1 - f(beta))));
}

/** The times that a sampler visits, from noisy to clean. */
function spacedTimes(spacing, steps, trained, offset) {
  if (spacing === "linspace") {
    return Array.from({ length: steps }, (_, i) => (steps === 1 ? 0 : (trained - 1) * (steps - 1 - i) / (steps - 1)));
  }
  if (spacing === "trailing") {
    return Array.from({ length: steps }, (_, i) => roundHalfEven(trained - i * trained / steps) - 1);
  }
  return Array.from({ length: steps }, (_, i) => (steps - 1 - i) * Math.floor(trained / steps) + offset);
}

/** As numpy rounds: 0.5 → 0, 1.5 → 2. */
function roundHalfEven(x) {
  return Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);
}

/** The value at a fractional index, on a straight line between its neighbours. */
function between(table, t) {
  const low = Math.min(Math.floor(t), table.length - 1), high = Math.min(low + 1, table.length - 1);
  return table[low] + (table[high] - table[low]) * (t - low);
}

// --- the samplers ---------------------------------------------------------------------------------------------

/** A sampler for a scheduler_config.json. A loop calls `setTimesteps`, then for each i of `timesteps`
    `scaleModelInput(x, i)`, the network, and `step`. */
class Scheduler {
  static defaults = { timestep_spacing: "leading" };
  byTime = false; // whether x is written as sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·ε at whole training times, or by σ
  rescaled = false; // whether x is x0 + σ·ε, which the network must see divided by sqrt(σ² + 1)

  constructor(config) {
    this.config = { ...COMMON, ...this.constructor.defaults, ...STABLE_DIFFUSION, ...config };
    if (!["epsilon", "v_prediction", "sample"].includes(this.config.prediction_type)) {
      throw new RangeError(`prediction_type is ${this.config.prediction_type}; it must be epsilon, v_prediction or sample`);
    }
    for (const [field, value] of Object.entries(ONLY)) {
      if (config[field] != null && config[field] !== value) {
        throw new RangeError(`${field} is ${config[field]}; the browser's samplers know only ${value}`);
      }
    }
    this.alphasCumprod = alphasCumprod(this.config);
    this.allSigmas = Array.from(this.alphasCumprod, (bar) => Math.fround(Math.sqrt((1 - bar) / bar)));
  }

  setTimesteps(steps) {
    const most = this.config.num_train_timesteps;
    if (!Number.isInteger(steps) || steps < 1 || steps > most) {
      throw new RangeError(`steps is ${steps}; it must be a whole number from 1 to ${most}`);
    }
    this.steps = steps;
    [this.timesteps, this.sigmas] = this.plan(steps);
    this.past = [];
  }

  /** Whole training times, and σ there and, 0, at the end. */
  planWhole(steps) {
    const { timestep_spacing: spacing, num_train_timesteps: trained, steps_offset: offset } = this.config;
    const times = spacedTimes(spacing, steps, trained, offset).map(roundHalfEven);
    if (times[0] >= trained) throw new RangeError(`${steps} steps begin after the end of training; take fewer`);
    return [times, [...times.map((t) => this.allSigmas[t]), 0]];
  }

  /** Times that may lie between two of training. */
  planBetween(steps) {
    const { timestep_spacing: spacing, num_train_timesteps: trained, steps_offset: offset } = this.config;
    const times = spacedTimes(spacing, steps, trained, offset).map(Math.fround);
    if (times[0] >= trained) throw new RangeError(`${steps} steps begin after the end of training; take fewer`);
    return [times, [...times.map((t) => Math.fround(between(this.allSigmas, t))), 0]];
  }

  get initNoiseSigma() {
    if (!this.rescaled) return 1;
    const largest = Math.max(...this.sigmas);
    return this.config.timestep_spacing === "leading" ? Math.sqrt(largest ** 2 + 1) : largest;
  }

  scaleModelInput(x, i) {
    return this.rescaled ? sum([1 / Math.sqrt(this.sigmas[i] ** 2 + 1), x]) : x;
  }

  /** [a, b] of x = a·x0 + b·ε at step i. */
  weights(i) {
    if (this.byTime) {
      const bar = this.alphasCumprod[this.timesteps[i]];
      return [Math.sqrt(bar), Math.sqrt(1 - bar)];
    }
    const sigma = this.sigmas[i], alpha = 1 / Math.sqrt(sigma ** 2 + 1);
    return this.rescaled ? [1, sigma] : [alpha, sigma * alpha];
  }

  addNoise(x0, noise, i) {
    const [a, b] = this.weights(i);
    return sum([a, x0], [b, noise]);
  }

  /** (x0, ε) from what the network said about x at step i. */
  predictions(output, x, [a, b]) {
    const scale = this.rescaled ? Math.sqrt(a ** 2 + b ** 2) : 1;
    [a, b] = [a / scale, b / scale];
    const seen = sum([1 / scale, x]);
    switch (this.config.prediction_type) {
      case "epsilon": return [sum([1 / a, seen], [-b / a, output]), output];
      case "v_prediction": return [sum([a, seen], [-b, output]), sum([a, output], [b, seen])];
      default: return [output, sum([1 / b, seen], [-a / b, output])];
    }
  }

  /** The predicted x0 that is used: clipped, where the config says so. */
  refine(x0) {
    const span = this.config.clip_sample_range;
    return this.config.clip_sample && this.byTime ? x0.map((value) => Math.min(Math.max(value, -span), span)) : x0;
  }

  /** One step, from index i to the next. `draw()` gives fresh noise. Returns { x, x0 }. */
  step(output, i, x, draw) {
    const [x0, eps] = this.predictions(output, x, this.weights(i));
    const now = { i, x, output, x0: this.refine(x0, x, i), eps };
    const next = this.move(now, draw);
    this.past = [...this.past, now].slice(-3);
    return { x: next, x0: now.x0 };
  }
}

class DDIM extends Scheduler {
  static defaults = { timestep_spacing: "leading", set_alpha_to_one: true };
  byTime = true;
  plan(steps) { return this.planWhole(steps); }
  /** ᾱ at a time that may lie before the first. */
  bar(t) {
    return t >= 0 ? this.alphasCumprod[t] : this.config.set_alpha_to_one ? 1 : this.alphasCumprod[0];
  }
  move({ i, x0, eps }) {
    const next = this.timesteps[i] - Math.floor(this.config.num_train_timesteps / this.steps);
    return ddimStep(x0, eps, this.bar(this.timesteps[i]), this.bar(next));
  }
}

class DDPM extends Scheduler {
  byTime = true;
  plan(steps) { return this.planWhole(steps); }
  move({ i, x, x0 }, draw) {
    const bar = (k) => (k < this.timesteps.length ? this.alphasCumprod[this.timesteps[k]] : 1);
    return ddpmStep(x, x0, bar(i), bar(i + 1), this.timesteps[i] > 0 ? draw() : null);
  }
}

class PNDM extends DDIM {
  static defaults = { timestep_spacing: "leading", set_alpha_to_one: false };
  plan(steps) {
    if (!this.config.skip_prk_steps) throw new RangeError("PNDM with Runge-Kutta steps is not supported here");
    const [times, sigmas] = this.planWhole(steps);
    return [[...times.slice(0, 2), ...times.slice(1)], [...sigmas.slice(0, 2), ...sigmas.slice(1)]]; // t0 t1 t1 t2 …
  }
  setTimesteps(steps) {
    super.setTimesteps(steps);
    this.outputs = [];
    this.calls = 0;
  }
  move({ i, x, output }) {
    const t = this.timesteps[i], delta = Math.floor(this.config.num_train_timesteps / this.steps);
    if (this.calls++ === 1) { // the first step again, along the mean of the slopes at both its ends
      const first = this.past.at(-1);
      return this.transfer(first.x, sum([0.5, output], [0.5, first.output]), t + delta, t);
    }
    this.outputs = [...this.outputs, output].slice(-4);
    const weights = ADAMS_BASHFORTH[this.outputs.length - 1];
    return this.transfer(x, sum(...[...this.outputs].reverse().map((o, k) => [weights[k], o])), t, t - delta);
  }
  transfer(x, output, t, next) {
    const bar = this.bar(t);
    const [, eps] = this.predictions(output, x, [Math.sqrt(bar), Math.sqrt(1 - bar)]);
    return pndmStep(x, eps, bar, this.bar(next));
  }
}

class Euler extends Scheduler {
  static defaults = { timestep_spacing: "linspace" };
  rescaled = true;
  plan(steps) { return this.planBetween(steps); }
  move({ i, x, eps }) { return eulerStep(x, eps, this.sigmas[i], this.sigmas[i + 1]); }
}

class EulerAncestral extends Euler {
  move({ i, x, eps }, draw) { return eulerAncestralStep(x, eps, this.sigmas[i], this.sigmas[i + 1], draw()); }
}

class LMS extends Euler {
  move({ i, x, eps }) {
    return lmsStep(x, [...this.past.map((earlier) => earlier.eps), eps], this.sigmas.slice(Math.max(0, i - 3), i + 2));
  }
}

class Heun extends Euler {
  plan(steps) {
    const twice = (list) => list.flatMap((value) => [value, value]).slice(1);
    const [times, sigmas] = this.planBetween(steps);
    return [twice(times), [...twice(sigmas.slice(0, -1)), 0]]; // t0 t1 t1 t2 t2 …
  }
  move({ i, x, eps }) {
    if (i % 2 === 0) return eulerStep(x, eps, this.sigmas[i], this.sigmas[i + 1]);
    const start = this.past.at(-1);
    return heunStep(start.x, start.eps, eps, this.sigmas[start.i], this.sigmas[i]);
  }
}

class DPMSolver extends Scheduler {
  static defaults = { timestep_spacing: "linspace" };
  plan(steps) {
    const { timestep_spacing: spacing, num_train_timesteps: trained, steps_offset: offset } = this.config;
    const points = spacing === "trailing" ? steps : steps + 1; // the end of the last step counts as one, too
    const times = spacedTimes(spacing, points, trained, offset).slice(0, steps).map(roundHalfEven);
    if (new Set(times).size < steps) throw new RangeError(`${steps} steps are too many for DPM-Solver; take fewer`);
    return [times, [...times.map((t) => this.allSigmas[t]), 0]];
  }
  move({ i, x, x0 }) {
    if (i + 1 === this.timesteps.length) return x0; // σ = 0: nothing but x0 is left
    const second = this.past.length > 0 && this.past.at(-1).i === i - 1;
    return dpmSolverStep(x, second ? [this.past.at(-1).x0, x0] : [x0], this.sigmas.slice(second ? i - 1 : i, i + 2));
  }
}

/** For networks that were distilled to draw in a few steps, without guidance. */
class LCM extends Scheduler {
  static defaults = { original_inference_steps: 50, timestep_scaling: 10 };
  byTime = true;
  plan(steps) {
    const { num_train_timesteps: trained, original_inference_steps: known } = this.config;
    if (steps > known) throw new RangeError(`steps is ${steps}; it must be a whole number from 1 to ${known} for LCM`);
    const times = Array.from({ length: steps }, (_, i) => {
      return (known - Math.floor(i * known / steps)) * Math.floor(trained / known) - 1;
    });
    return [times, [...times.map((t) => this.allSigmas[t]), 0]];
  }
  refine(x0, x, i) {
    return consistency(x, super.refine(x0), this.timesteps[i] * this.config.timestep_scaling);
  }
  move({ i, x0 }, draw) {
    return i + 1 === this.timesteps.length ? x0 : lcmStep(x0, this.alphasCumprod[this.timesteps[i + 1]], draw());
  }
}

const COMMON = { num_train_timesteps: 1000, beta_start: 0.0001, beta_end: 0.02, beta_schedule: "linear",
  trained_betas: null, prediction_type: "epsilon", steps_offset: 0, clip_sample_range: 1 };
// What every Stable Diffusion was trained with, where a config does not say.
const STABLE_DIFFUSION = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: "scaled_linear", steps_offset: 1,
  clip_sample: false, set_alpha_to_one: false, skip_prk_steps: true };

// Fields that Python's samplers have more values for.
const ONLY = { use_karras_sigmas: false, use_exponential_sigmas: false, use_beta_sigmas: false, thresholding: false,
  final_sigmas_type: "zero", algorithm_type: "dpmsolver++", solver_order: 2, solver_type: "midpoint",
  variance_type: "fixed_small", rescale_betas_zero_snr: false };

/** By the names of the command line. */
export const SAMPLERS = { ddpm: DDPM, ddim: DDIM, pndm: PNDM, lms: LMS, euler: Euler,
  "euler-ancestral": EulerAncestral, heun: Heun, "dpm++": DPMSolver, lcm: LCM };
const CLASS_NAMES = { DDPMScheduler: DDPM, DDIMScheduler: DDIM, PNDMScheduler: PNDM, LMSDiscreteScheduler: LMS,
  EulerDiscreteScheduler: Euler, EulerAncestralDiscreteScheduler: EulerAncestral, HeunDiscreteScheduler: Heun,
  DPMSolverMultistepScheduler: DPMSolver, LCMScheduler: LCM };

/** Of use only to networks that were distilled for it; pages do not offer it. */
export const DISTILLED = ["lcm"];

/** The sampler of this name, or the one that the config names, for a model's scheduler_config.json. */
export function makeScheduler(config, name = null) {
  const sampler = SAMPLERS[name] ?? CLASS_NAMES[name ?? config._class_name];
  if (!sampler) throw new RangeError(`scheduler is ${name ?? config._class_name}; it must be ${Object.keys(SAMPLERS).join(", ")}`);
  return new sampler(config);
}
