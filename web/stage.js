/* What a drawing looks like while it is made, and afterwards: the picture, the steps, and where each word looks. */

export class Stage {
  /** @param {HTMLElement} root @param {string} caption @param {number} side of the picture, in pixels */
  constructor(root, caption, side) {
    this.side = side;
    this.steps = []; // { x0, state, attention } of each
    const figure = document.createElement("figure");
    figure.innerHTML = `<div class="main"><canvas class="picture" role="img"></canvas><canvas class="heat"></canvas></div>
      <div class="small-pair"><div><canvas class="state" role="img"></canvas>what it has</div>
      <div><canvas class="x0" role="img"></canvas>what it expects</div></div><figcaption></figcaption>`;
    figure.querySelector("figcaption").textContent = caption;
    [this.picture, this.heat, this.state, this.x0] = figure.querySelectorAll("canvas");
    for (const canvas of [this.picture, this.state, this.x0]) canvas.width = canvas.height = side;
    this.picture.ariaLabel = caption;
    this.state.ariaLabel = "The latents at this step, decoded";
    this.x0.ariaLabel = "The picture that the network expects at this step";
    root.append(figure);
  }

  add(step) {
    this.steps.push(step);
    this.show(this.steps.length);
  }

  /** Show the drawing as it was after step n, from 1. */
  show(n) {
    const { preview } = this.steps[Math.min(n, this.steps.length) - 1];
    paint(this.state, preview.state);
    paint(this.x0, preview.x0);
    paint(this.picture, n >= this.steps.length && this.result ? this.result : preview.state);
  }

  finish(result) {
    this.result = result;
    this.show(this.steps.length);
  }

  /** Lay the attention to some tokens over the picture that step n expects; no tokens: take it away. */
  attend(tokens, n) {
    const context = this.heat.getContext("2d");
    context.clearRect(0, 0, this.heat.width, this.heat.height);
    const step = this.steps[Math.min(n, this.steps.length) - 1];
    if (!tokens.length || !step?.attention?.length) return this.show(n);
    paint(this.picture, step.preview.x0); // what the network made of the words, without the noise
    const { map, side } = meanMap(step.attention, tokens);
    const top = map.reduce((a, b) => Math.max(a, b)), low = map.reduce((a, b) => Math.min(a, b));
    const image = new ImageData(side, side);
    map.forEach((value, i) => {
      const share = (value - low) / (top - low || 1);
      image.data.set([20, 12, 40, Math.round(215 * (1 - share))], 4 * i); // dark where the word is not looked at
    });
    const small = new OffscreenCanvas(side, side);
    small.getContext("2d").putImageData(image, 0, 0);
    this.heat.width = this.heat.height = 512;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, 512, 512);
  }

  thumbnail(n) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = this.side;
    paint(canvas, this.steps[n - 1].preview.state);
    return canvas;
  }
}

export function paint(canvas, { pixels, width, height }) {
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

/** The mean of all layers' maps of some tokens, at the largest layer's resolution. Coarser maps are repeated. */
function meanMap(layers, tokens) {
  const side = Math.sqrt(Math.max(...layers.map(({ positions }) => positions)));
  const map = new Float32Array(side * side);
  for (const { positions, tokens: row, weights } of layers) {
    const here = Math.sqrt(positions), scale = side / here;
    for (let i = 0; i < map.length; i++) {
      const at = Math.floor(Math.floor(i / side) / scale) * here + Math.floor((i % side) / scale);
      for (const token of tokens) map[i] += weights[at * row + token] / layers.length;
    }
  }
  return { map, side };
}
