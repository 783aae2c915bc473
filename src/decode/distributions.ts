/**
 * Distributions over tokens, one per row, as the sampler sees them: on the host, or on a device that copies a row only
 * on request.
 *
 * Deliberately absent: making a distribution from logits (`backend/distribution.ts`).
 *
 * @module
 */

import type { NoiseKey } from "../backend/backend.ts";
import { race } from "../backend/philox.ts";

/** Non-negative weights over the vocabulary, [V]. A distribution sums to 1; a residual need not. */
export type Law = Float32Array | Float64Array;

/**
 * The sum of the entries of a distribution or residual, in float64. It uses four independent chains of additions, which
 * hides their latency.
 *
 * @throws {RangeError} if it is not a positive finite number, or an entry is negative
 */
export function massOf(law: Law): number {
  const whole = law.length & ~3;
  let a = 0, b = 0, c = 0, d = 0, least = 0;
  for (let v = 0; v < whole; v += 4) {
    const wa = law[v], wb = law[v + 1], wc = law[v + 2], wd = law[v + 3];
    a += wa;
    b += wb;
    c += wc;
    d += wd;
    if (wa < 0 || wb < 0 || wc < 0 || wd < 0) least = -1;
  }
  for (let v = whole; v < law.length; v++) {
    a += law[v];
    if (law[v] < 0) least = -1;
  }
  const mass = (a + b) + (c + d);
  if (!(mass > 0 && mass < Infinity) || least < 0) {
    throw new RangeError(
      least < 0
        ? "Cannot use a law: an entry is negative"
        : `Cannot use a law: it sums to ${mass}, expected a positive finite number`,
    );
  }
  return mass;
}

/** Rows of distributions. */
export interface Distributions {
  /** Row j, [V]: the exact vector that is sampled from and tested. Do not modify it. */
  row(j: number): Law;
  /** The token that the noise under `key` selects from row j; `key.position` is the position of row j. */
  race(j: number, key: NoiseKey): number;
}

/** Distributions on the host. */
export class HostDistributions implements Distributions {
  readonly #laws: readonly Law[];

  /** Takes one distribution per row, each [V]. */
  constructor(laws: readonly Law[]) {
    this.#laws = laws;
  }

  /** Row j, [V], as given. */
  row(j: number): Law {
    return this.#laws[j];
  }

  /**
   * The token that the noise under `key` selects from row j.
   * @throws {RangeError} as {@linkcode massOf}
   */
  race(j: number, key: NoiseKey): number {
    massOf(this.#laws[j]);
    return race(this.#laws[j], key);
  }
}
