/**
 * The noise of the whole engine: Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*,
 * SC 2011), a pure function of (seed, purpose, position, draw). No state, no global generator: any row of any
 * pass on any device can compute its own noise, and a rejected draft leaves no trace in it.
 *
 * @module
 */

const M0 = 0xD2511F53;
const M1 = 0xCD9E8D57;
const W0 = 0x9E3779B9;
const W1 = 0xBB67AE85;

/** High 32 bits of the unsigned product a·b. */
function mulhi(a: number, b: number): number {
  const al = a & 0xffff, ah = a >>> 16, bl = b & 0xffff, bh = b >>> 16;
  const mid = ah * bl + ((al * bl) >>> 16);
  const low = (mid & 0xffff) + al * bh;
  return (ah * bh + Math.floor(mid / 0x10000) + (low >>> 16)) >>> 0;
}

/**
 * Ten rounds of Philox4x32. Writes four unsigned 32-bit numbers to `out`.
 *
 * @param out receives the block, [4]
 * @param c0 counter word 0, here which block of a draw's numbers: four of 32 bits for {@linkcode race}, where the draw is
 * the token; two uniforms of 52 bits for `PhiloxSource.uniform`
 * @param c1 counter word 1, here the absolute position
 * @param c2 counter word 2, here the purpose
 * @param c3 counter word 3, here 0
 * @param k0 low 32 bits of the seed
 * @param k1 high 32 bits of the seed
 */
export function philox(
  out: Uint32Array,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
): void {
  for (let round = 0; round < 10; round++) {
    const h0 = mulhi(M0, c0 >>> 0), l0 = Math.imul(M0, c0);
    const h1 = mulhi(M1, c2 >>> 0), l1 = Math.imul(M1, c2);
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 = (k0 + W0) | 0;
    k1 = (k1 + W1) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** The low 64 bits of a seed as two unsigned words. */
export function seedWords(seed: bigint): [low: number, high: number] {
  const bits = BigInt.asUintN(64, seed);
  return [Number(bits & 0xffffffffn), Number(bits >> 32n)];
}

/** A 32-bit number k as a uniform in (0, 1): (k + ½)·2⁻³², never 0 nor 1, exact in float64. */
export function toUniform(k: number): number {
  return (k + 0.5) * 2 ** -32;
}

/** A uniform u as a standard exponential: −log1p(−u), accurate at both ends. */
export function toExponential(u: number): number {
  return -Math.log1p(-u);
}

/**
 * Draws from unnormalised weights as argmin over v of E_v/w_v, the lowest id among equals, E_v the
 * exponential noise of (seed, purpose, position, v). This is the Gumbel trick, argmax of log w_v + G_v with
 * G = −log E, at one logarithm for each of the few entries that can still win.
 *
 * E_v comes of 32 bits, so that an entry of probability λ·2⁻³² is drawn with 2⁻³²/(2·sinh(1/(2λ))): exact where λ is
 * large, 4 % too rarely at λ = 1, and next to never far below.
 *
 * @param weights [V], non-negative; entries of 0 are never drawn
 * @throws {RangeError} if no weight is positive
 */
export function race(
  weights: Float32Array | Float64Array,
  key: { readonly seed: bigint; readonly purpose: number; readonly position: number },
): number {
  const [low, high] = seedWords(key.seed);
  const block = new Uint32Array(4);
  let best = Infinity, winner = -1;
  for (let v = 0; v < weights.length; v++) {
    if ((v & 3) === 0) philox(block, v >>> 2, key.position, key.purpose, 0, low, high);
    const u = toUniform(block[v & 3]);
    // −log1p(−u) ≥ u: an entry that loses with u in place of its exponential cannot win
    if (weights[v] > 0 && u < best * weights[v]) {
      const time = toExponential(u) / weights[v];
      if (time < best) {
        best = time;
        winner = v;
      }
    }
  }
  if (winner < 0) throw new RangeError("Cannot draw a token: no weight is positive");
  return winner;
}
