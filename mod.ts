/**
 * Lossless speculative decoding with discrete-diffusion drafters: a small diffusion model drafts, an autoregressive
 * target verifies, and the text has exactly the target's distribution.
 *
 * @example Generate with the embedded pair, in a checkout; elsewhere, name a `target` and a `drafter`
 * ```ts
 * import { loadEngine } from "@specdiff/specdiff";
 *
 * using engine = await loadEngine();
 * const { text, stats } = await engine.generate("The captain came on deck", { seed: 7 });
 * console.log(text, stats.tokensPerSecond, stats.meanAcceptanceLength);
 * ```
 *
 * @module
 */

export {
  type Chunk,
  Engine,
  type EngineOptions,
  type GenerateOptions,
  type Generation,
  loadEngine,
  type Piece,
} from "./src/engine.ts";
export type { LoadProgress, WatchOptions } from "./src/watched_weights.ts";
// types in the signatures above, and their errors
export type * from "./src/backend/backend.ts";
export { BackendUnavailableError, type Device } from "./src/backend/create.ts";
export { LogitsError } from "./src/backend/distribution.ts";
export { OutOfMemoryError } from "./src/backend/out_of_memory.ts";
export type { Rule } from "./src/decode/acceptance.ts";
export type { ContextCache } from "./src/decode/context_cache.ts";
export type { DiffusionDrafterOptions } from "./src/decode/diffusion_drafter.ts";
export type { FinishReason, Origin } from "./src/decode/loop.ts";
export type { Statistics } from "./src/decode/metrics.ts";
export type { RevealOrder } from "./src/decode/reveal.ts";
export type { Score } from "./src/decode/score.ts";
export { HubError } from "./src/hub/client.ts";
export type { DownloadProgress, HubOptions } from "./src/hub/options.ts";
export type { Tokenizer } from "./src/hub/tokenizer.ts";
export type { CausalModel, FollowUp, ForwardOptions, HiddenTap, ModelShape } from "./src/model/model.ts";
export type { DeviceTokens } from "./src/model/device_tokens.ts";
export { CheckpointError } from "./src/model/weights.ts";
