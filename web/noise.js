/* Random numbers as PyTorch draws them on a CPU, so that a seed means the same picture here and in Python.

   A Mersenne Twister (Matsumoto & Nishimura 1998) makes uniform numbers; the Box-Muller transform makes normal ones of
   them, sixteen at a time. In Python: torch.Generator and torch.randn. */

const N = 624, M = 397;

export class Generator {
  /** @param {number} seed a whole number, 0 or more; as in PyTorch, its lowest 32 bits count. */
  constructor(seed) {
    if (!Number.isSafeInteger(seed) || seed < 0) throw new RangeError(`seed is ${seed}; it must be a whole number from 0`);
    this.state = new Uint32Array(N);
    this.state[0] = Number(BigInt(seed) & 0xffffffffn);
    for (let i = 1; i < N; i++) {
      const before = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i;
    }
    this.next = N;
    this.spare = null; // the second of a pair of normal numbers, kept for the next call
  }

  /** 32 random bits, as a number from 0 to 2³² - 1. */
  bits() {
    if (this.next === N) this.twist();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  twist() {
    const s = this.state;
    for (let i = 0; i < N; i++) {
      const y = (s[i] & 0x80000000) | (s[(i + 1) % N] & 0x7fffffff);
      s[i] = s[(i + M) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  /** A uniform float32 in [0, 1): 24 random bits. */
  uniform() {
    return (this.bits() & 0xffffff) / 2 ** 24;
  }

  /** A uniform float64 in [0, 1): 53 random bits. */
  uniformDouble() {
    const high = this.bits(), low = this.bits();
    return ((high & 0x1fffff) * 2 ** 32 + low) / 2 ** 53;
  }

  /** n standard normal numbers, a Float32Array: those of torch.randn(n, generator=…). */
  normal(n) {
    if (n < 16) return Float32Array.from({ length: n }, () => this.oneNormal());
    const x = new Float32Array(n);
    for (let i = 0; i < n; i++) x[i] = this.uniform();
    for (let i = 0; i + 16 <= n; i += 16) boxMuller(x.subarray(i, i + 16));
    if (n % 16) { // the last sixteen once more, from fresh numbers
      const last = x.subarray(n - 16);
      for (let i = 0; i < 16; i++) last[i] = this.uniform();
      boxMuller(last);
    }
    return x;
  }

  oneNormal() {
    if (this.spare !== null) {
      const kept = this.spare;
      this.spare = null;
      return kept;
    }
    const angle = 2 * Math.PI * this.uniformDouble();
    const radius = Math.sqrt(-2 * Math.log1p(-this.uniformDouble()));
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}

/** Sixteen uniform numbers → sixteen normal ones, in place: the first eight give radii, the last eight angles. */
function boxMuller(x) {
  for (let i = 0; i < 8; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - x[i])), angle = 2 * Math.PI * x[i + 8];
    x[i] = radius * Math.cos(angle);
    x[i + 8] = radius * Math.sin(angle);
  }
}

/** Standard normal noise of a shape, from a seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)). */
export function noise(seed, shape) {
  return new Generator(seed).normal(shape.reduce((a, b) => a * b, 1));
}
