/**
 * Which model a checkpoint holds, by its configuration.
 *
 * Deliberately absent: dtypes and devices, which are the caller's choice.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { Config } from "./config.ts";
import { loadGpt2 } from "./gpt2.ts";
import { loadGptNeo } from "./gpt_neo.ts";
import type { CausalModel } from "./model.ts";
import type { SeddModel } from "./sedd.ts";
import { loadSedd } from "./sedd_loading.ts";
import type { LoadOptions } from "./uploads.ts";
import type { Weights } from "./weights.ts";

/** A model of either kind. */
export type LoadedModel =
  | {
    readonly kind: "causal";
    readonly model: CausalModel;
    /** Tokens that end a text (`eos_token_id`), those of the vocabulary. */
    readonly stopTokens: readonly number[];
  }
  | { readonly kind: "diffusion"; readonly model: SeddModel };

/**
 * Loads whatever the configuration says: `model_type` `gpt2` or `gpt_neo`, or a SEDD, which has `graph`
 * instead.
 *
 * @throws {CheckpointError} if it is none of them, or not as expected
 */
export async function loadModel(
  weights: Weights,
  backend: Backend,
  options?: LoadOptions,
): Promise<LoadedModel> {
  const config = Config.of(weights);
  if (config.has("graph")) return { kind: "diffusion", model: await loadSedd(weights, backend, options) };
  const load = config.choice("model_type", ["gpt2", "gpt_neo"]) === "gpt2" ? loadGpt2 : loadGptNeo;
  const ends = [weights.config.eos_token_id ?? []].flat();
  if (!ends.every(Number.isInteger)) throw config.fault("eos_token_id", "a token's id, or a list of them");
  const model = await load(weights, backend, options);
  const { vocabSize } = model.shape;
  return { kind: "causal", model, stopTokens: (ends as number[]).filter((id) => id >= 0 && id < vocabSize) };
}
