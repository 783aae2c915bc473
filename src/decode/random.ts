/**
 * The random decisions of decoding, named by their purpose. The sampler uses only this interface, so a test can replace
 * it by exact enumeration.
 *
 * Deliberately absent: state. No decision depends on the number of earlier ones.
 *
 * @module
 */

import { philox, seedWords } from "../backend/philox.ts";
import { shown } from "../shown.ts";
import { type Distributions, type Law, massOf } from "./distributions.ts";

/**
 * The purpose of noise. Streams with different purposes are independent. Sharing one under the ratio rule would bias
 * the text (the bug fixed in vLLM PR#54282). Under `coupled`, drafter and target share `token`.
 */
export const Purpose = {
  /** Which token the target emits. Shared with the drafter under `coupled`. */
  token: 0,
  /** Whether a drafted token is accepted. */
  accept: 1,
  /** Which token the drafter proposes. */
  draft: 2,
  /** Which token replaces a rejected one, and the bonus token, under the ratio rules. */
  residual: 3,
  /** Which masked positions a denoising step opens. */
  reveal: 4,
} as const;

/** One of {@linkcode Purpose}. */
export type Purpose = typeof Purpose[keyof typeof Purpose];

/** The decisions. All are functions of (seed, purpose, absolute position, draw) alone. */
export interface RandomSource {
  /**
   * Set only if the decisions equal those of {@linkcode PhiloxSource} with this seed, so that a device may make them.
   */
  readonly seed?: bigint | undefined;
  /** True with the given probability (≥ 1: always, ≤ 0: never). */
  bernoulli(probability: number, purpose: Purpose, position: number, draw?: number): boolean;
  /** An index drawn in proportion to `weights`, which need not be normalised, but must not all be 0. */
  choose(weights: Law, purpose: Purpose, position: number, draw?: number): number;
  /** The token that the shared noise of `position` selects from row `row` of `laws`. */
  race(laws: Distributions, row: number, position: number): number;
}

/** The default source: decisions from Philox, keyed by a seed. */
export class PhiloxSource implements RandomSource {
  /** The 64-bit seed. */
  readonly seed: bigint;
  readonly #block: Uint32Array = new Uint32Array(4);
  readonly #low: number;
  readonly #high: number;

  /**
   * A source of the decisions of a seed.
   * @param seed any integer, also as decimal text; only the low 64 bits count; default: a random one
   * @throws {RangeError} if `seed` is not an integer, or a number too large to be exact
   */
  constructor(seed: number | bigint | string = crypto.getRandomValues(new BigUint64Array(1))[0]) {
    const whole = typeof seed === "number" ? Number.isSafeInteger(seed) : /^-?\d+$/.test(String(seed));
    if (!whole) {
      throw new RangeError(
        `Cannot draw random numbers: the seed is ${shown(seed)}, ` +
          "expected an integer, beyond 2^53 as a bigint or in decimal",
      );
    }
    this.seed = BigInt.asUintN(64, BigInt(seed));
    [this.#low, this.#high] = seedWords(this.seed);
  }

  /**
   * The uniform in (0, 1) of (purpose, position, draw), with 52 bits. With 32, draws over V tokens would have an error
   * of up to V·2⁻³³, 6·10⁻⁶ for GPT-2.
   */
  uniform(purpose: Purpose, position: number, draw: number = 0): number {
    philox(this.#block, draw >>> 1, position, purpose, 0, this.#low, this.#high);
    const [high, low] = this.#block.subarray((draw & 1) * 2);
    return (high * 2 ** 20 + (low >>> 12) + 0.5) * 2 ** -52;
  }

  /** True with the given probability: the uniform is below it. */
  bernoulli(probability: number, purpose: Purpose, position: number, draw: number = 0): boolean {
    return this.uniform(purpose, position, draw) < probability;
  }

  /** An index drawn in proportion to `weights`, by inversion of one uniform. */
  choose(weights: Law, purpose: Purpose, position: number, draw: number = 0): number {
    return invert(weights, this.uniform(purpose, position, draw));
  }

  /** The token that the noise of (seed, `token`, position) selects from row `row`. */
  race(laws: Distributions, row: number, position: number): number {
    return laws.race(row, { seed: this.seed, purpose: Purpose.token, position });
  }
}

/**
 * The index i at which the running sum of `weights` first exceeds u times their total: inversion of the cumulative
 * distribution. An entry of weight 0 is never returned.
 *
 * @param u in [0, 1)
 * @throws {RangeError} if no weight is positive, or one is negative or not a number
 */
export function invert(weights: Law, u: number): number {
  const threshold = u * massOf(weights);
  let sum = 0, last = -1;
  for (let i = 0; i < weights.length; i++) {
    if (weights[i] > 0) {
      sum += weights[i];
      last = i;
      if (sum > threshold) break;
    }
  }
  return last;
}
