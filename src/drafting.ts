/**
 * With what a drafter is fastest: what its `config.json` says of that, for whoever does not say otherwise. The same
 * part stands in the configuration of any kind of drafter, and every field of it may be missing:
 *
 *     "specdiff": { "drafting": { "gamma": 2, "draft_context": 32 } }
 *
 * @module
 */

import { Config } from "./model/config.ts";
import type { Weights } from "./model/weights.ts";

/** With what a drafter is fastest, as far as it is known. */
export interface Drafting {
  /** γ (`gamma`). */
  readonly gamma: number | undefined;
  /** The most tokens of the text a diffusion drafter sees (`draft_context`): more hardly raises acceptance, and costs. */
  readonly draftContext: number | undefined;
}

/**
 * What a drafter's configuration says.
 * @throws {CheckpointError} if a field is not as expected
 */
export function draftingOf(weights: Weights): Drafting {
  const drafting = Config.of(weights).object("specdiff", {}).object("drafting", {});
  const size = (name: string) => drafting.has(name) ? drafting.size(name) : undefined;
  return {
    gamma: size("gamma"),
    draftContext: size("draft_context"),
  };
}
