/**
 * Models: GPT-2 and GPT-Neo, SEDD, and what is computed from SEDD's logits. A model runs on any backend.
 *
 * @module
 */

// what the signatures below mention
export type {
  Activation,
  AppendOptions,
  AttentionOptions,
  Backend,
  Cache,
  Dtype,
  EmbedOptions,
  Matrix,
  NoiseKey,
  Norm,
  ProjectOptions,
  ProjectResidualOptions,
  Sampling,
  TokenBuffer,
  Vector,
} from "../backend/backend.ts";
export type { CausalModel, DiffusionModel, DiffusionPass, HiddenTap, ModelShape } from "./model.ts";
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
