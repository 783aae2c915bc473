/**
 * Lossless speculative decoding with discrete-diffusion drafters: a small diffusion model drafts, an
 * autoregressive target verifies, and the text has exactly the target's law.
 *
 * @example Generate with the embedded pair
 * ```ts ignore
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
