/**
 * Devices: the contract that models are written over, the backends that meet it, and what they share.
 *
 * @module
 */

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
} from "./backend.ts";
export { BackendUnavailableError, createBackend, type Device, devices } from "./create.ts";
export { checkSampling, LogitsError, writeDistribution } from "./distribution.ts";
export { philox, race, toExponential, toUniform } from "./philox.ts";
export { createReferenceBackend } from "./reference.ts";
export { createWasmBackend, type WasmOptions } from "./wasm/backend.ts";
