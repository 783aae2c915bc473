/**
 * Laws over tokens, one per row, as the sampler sees them: on the host, or on a device that hands a row over
 * only when asked.
 *
 * @module
 */

import type { NoiseKey } from "../backend/backend.ts";
import { race } from "../backend/philox.ts";

/** Non-negative weights over the vocabulary, [V]; a law sums to 1, a residual need not. */
export type Law = Float32Array | Float64Array;

/** Some rows of laws. */
export interface Distributions {
  /** How many rows. */
  readonly rows: number;
  /** Row j, [V]. The very vector that is sampled from and tested. Do not modify. */
  row(j: number): Law;
  /** The token that the noise under `key` picks from row j; `key.position` is row j's own position. */
  race(j: number, key: NoiseKey): number;
}

/** Laws held by the host. */
export class HostDistributions implements Distributions {
  readonly #laws: readonly Law[];

  /** Takes one law per row, each [V]. */
  constructor(laws: readonly Law[]) {
    this.#laws = laws;
  }

  /** How many rows. */
  get rows(): number {
    return this.#laws.length;
  }

  /** Row j, [V], as it was given. */
  row(j: number): Law {
    return this.#laws[j];
  }

  /** The token that the noise under `key` picks from row j. */
  race(j: number, key: NoiseKey): number {
    return race(this.#laws[j], key);
  }
}
