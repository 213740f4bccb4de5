/* A board to sketch on, or to brush a mask over a picture. */

/** The twelve grounds of the course's pictures, which are its palette, too. */
export const COLOURS = { red: "#d8232e", orange: "#ff8c1a", yellow: "#ffdf2e", green: "#2a9d3f", cyan: "#45d6dc",
  blue: "#2456d8", purple: "#7a2aa8", pink: "#ff94c8", brown: "#784a24", white: "#ffffff", grey: "#808080",
  black: "#161616" };

export class Board {
  /** @param {HTMLCanvasElement} canvas what the reader sees and draws on */
  constructor(canvas) {
    this.canvas = canvas;
    this.picture = layer(canvas); // the sketch, or the picture with the hole
    this.hole = layer(canvas); // white where it is to be painted anew
    this.masking = false;
    this.colour = COLOURS.red;
    this.size = 48;
    this.clear();
    let last = null;
    const place = ({ offsetX, offsetY }) => [offsetX * canvas.width / canvas.clientWidth,
      offsetY * canvas.height / canvas.clientHeight];
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      last = place(event);
      this.line(last, last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const here = place(event);
      this.line(last, here);
      last = here;
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  }

  line(from, to) {
    const context = this.masking ? this.hole : this.picture;
    context.strokeStyle = this.masking ? "#fff" : this.colour;
    context.lineWidth = this.size;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    this.show();
  }

  /** An empty sheet; or, with a mask on it, the picture without its hole. */
  clear() {
    const { width, height } = this.canvas;
    this.hole.clearRect(0, 0, width, height);
    if (!this.masking) {
      this.picture.fillStyle = "#fff";
      this.picture.fillRect(0, 0, width, height);
    }
    this.show();
  }

  /** Put a picture on the board, cropped around its middle to a square. */
  put(image) {
    const side = Math.min(image.width, image.height), { width, height } = this.canvas;
    this.picture.imageSmoothingQuality = "high";
    this.picture.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, width, height);
    this.hole.clearRect(0, 0, width, height);
    this.show();
  }

  show() {
    const context = this.canvas.getContext("2d"), { width, height } = this.canvas;
    context.drawImage(this.picture.canvas, 0, 0);
    if (!this.masking) return;
    context.globalAlpha = 0.75;
    context.drawImage(this.hole.canvas, 0, 0, width, height);
    context.globalAlpha = 1;
  }

  get isEmpty() {
    const { width, height } = this.canvas;
    return !this.hole.getImageData(0, 0, width, height).data.some((value) => value);
  }

  /** The picture, and the mask, at the model's size, as ImageData. */
  read(side) {
    const small = (source) => {
      const canvas = new OffscreenCanvas(side, side), context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      context.drawImage(source.canvas, 0, 0, side, side);
      return context.getImageData(0, 0, side, side);
    };
    const mask = small(this.hole);
    for (let i = 0; i < mask.data.length; i += 4) mask.data.fill(mask.data[i + 3], i, i + 3); // its opacity, as grey
    return { image: small(this.picture), mask };
  }
}

function layer({ width, height }) {
  return new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
}
