/**
 * A drafter's default drafting options, from its `config.json`. Any kind of drafter may have this section, and every
 * field is optional:
 *
 *     "specdiff": { "drafting": { "gamma": 2, "draft_context": 32 } }
 *
 * @module
 */

import { Config } from "./model/config.ts";
import type { Weights } from "./model/weights.ts";

/** The options with which a drafter is fastest, as far as they are known. */
export interface Drafting {
  /** γ (`gamma`). */
  readonly gamma: number | undefined;
  /** The most tokens of the text that a diffusion drafter sees (`draft_context`): more cost time, with little gain. */
  readonly draftContext: number | undefined;
}

/**
 * Reads a drafter's configuration.
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
