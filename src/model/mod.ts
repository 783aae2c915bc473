/**
 * Models: GPT-2 and GPT-Neo, SEDD, and what is computed from SEDD's logits. A model runs on any backend.
 *
 * @example The likeliest next token
 * ```ts
 * import { createReferenceBackend } from "@specdiff/specdiff/backend";
 * import { openCheckpoint } from "@specdiff/specdiff/hub";
 * import { loadGpt2 } from "@specdiff/specdiff/model";
 *
 * using backend = createReferenceBackend();
 * using checkpoint = await openCheckpoint("fixtures/parity/gpt2-tiny");
 * using model = await loadGpt2(checkpoint, backend);
 * using cache = model.newCache();
 * const logits = model.forward([1, 2, 3], cache, { headRows: 1 }).read(); // [1, V]
 * console.log(logits.indexOf(Math.max(...logits)));
 * ```
 *
 * @module
 */

// what the signatures below mention
export type * from "../backend/backend.ts";
export type * from "./model.ts";
export { type DeviceTokens, UNKNOWN } from "./device_tokens.ts";
export { CheckpointError, type Weights } from "./weights.ts";
export type { LoadOptions } from "./uploads.ts";
export { type LoadedModel, loadModel } from "./load.ts";
export { loadGpt2 } from "./gpt2.ts";
export { loadGptNeo } from "./gpt_neo.ts";
export type { SeddModel } from "./sedd.ts";
export { loadSedd } from "./sedd_loading.ts";
export {
  analyticProbabilities,
  denoiserProbabilities,
  logLinearRate,
  logLinearSigma,
  logScores,
  type Scored,
  scoreEntropy,
  weightedLoss,
} from "./sedd_score.ts";
