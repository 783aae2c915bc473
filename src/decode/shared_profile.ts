/**
 * A cost profile that several texts use and improve, without one text telling another what it is about to draw.
 *
 * Deliberately absent: costs and acceptance themselves (`cost_profile.ts`).
 *
 * @module
 */

import type { CostProfile } from "./cost_profile.ts";

/** After so many texts, all that they taught is forgotten along with their seeds. */
const MOST_SEEDS = 4096;

/**
 * Hands a {@linkcode CostProfile} to each text. Texts with the same seed have the same noise: what one of them accepted
 * tells which tokens another, at the same positions, will accept. A choice of γ that depended on it would not be
 * non-anticipating, and the text's distribution would be wrong. So of texts with one seed, only the first shares the
 * profile; the others get one that has learned nothing.
 */
export class SharedProfile {
  #profile: CostProfile;
  readonly #seeds = new Set<bigint>();

  /**
   * Shares a profile.
   * @param profile as it was measured
   */
  constructor(profile: CostProfile) {
    this.#profile = profile;
  }

  /** The profile for a text with this seed, which is about to begin. */
  of(seed: bigint): CostProfile {
    if (this.#seeds.has(seed)) return this.#profile.fresh();
    if (this.#seeds.size === MOST_SEEDS) {
      this.#seeds.clear();
      this.#profile = this.#profile.fresh();
    }
    this.#seeds.add(seed);
    return this.#profile;
  }
}
