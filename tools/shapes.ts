/**
 * Models of the published shapes with random weights, on which the cost of a pass does not depend. The noise is
 * generated once and reused at many offsets, so that billions of weights take seconds. The output of such a model is
 * noise as well, so acceptance cannot be measured with it. Also texts and loaders that benchmarks and tests share.
 *
 * @module
 */

import type { Backend, Dtype } from "../src/backend/backend.ts";
import { loadModel } from "../src/model/load.ts";
import type { CausalModel } from "../src/model/model.ts";
import type { SeddModel } from "../src/model/sedd.ts";
import type { LoadOptions } from "../src/model/uploads.ts";
import type { Weights } from "../src/model/weights.ts";

/** GPT-2's shapes in the terms of its configuration. */
interface Gpt2Size {
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly context: number;
  readonly vocabSize: number;
}

/** Models and sizes to measure. */
export interface Shapes {
  readonly xl: Gpt2Size;
  /** Configuration of the larger target. */
  readonly neo: Readonly<Record<string, unknown>>;
  /** Configuration of the drafter, published form. */
  readonly sedd: Readonly<Record<string, unknown>>;
  /** Positions that passes come after; with the rows of a pass, no more than the targets see. */
  readonly context: number;
  /** Rows of a pass that verifies, the token ahead of the draft included. */
  readonly verifyRows: number;
  /** Positions that the drafter without a cache sees before its window. */
  readonly draftContext: number;
  /** Length of the prompts that texts continue, and of what they add to it. */
  readonly prompt: number;
  readonly text: number;
  /** Length of the prompt that is read in passes of many rows. */
  readonly prefill: number;
  /** Products of many rows: inputs and outputs, each for as many rows as stand below. */
  readonly products: readonly (readonly [inputs: number, outputs: number])[];
  readonly productRows: readonly number[];
}

const VOCABULARY = 50257;

/** The shapes of the paper. */
export const published: Shapes = {
  xl: { layers: 48, width: 1600, heads: 25, context: 1024, vocabSize: VOCABULARY },
  neo: neo(32, 2560, 20, 2048, VOCABULARY),
  sedd: sedd(12, 768, 12, 128, 1024, VOCABULARY),
  context: 976,
  verifyRows: 48,
  draftContext: 1024,
  prompt: 640,
  text: 320,
  prefill: 512,
  products: [[768, 2304], [768, 768], [768, 3072], [3072, 768], [1600, 4800], [1600, 1600], [1600, 6400], [
    6400,
    1600,
  ]],
  productRows: [64, 128, 256, 552, 1064],
};

/** Shapes that a stand-in computes in seconds, to see whether everything runs. */
export const tiny: Shapes = {
  xl: { layers: 2, width: 32, heads: 2, context: 64, vocabSize: 97 },
  neo: neo(2, 32, 2, 64, 97),
  sedd: sedd(1, 32, 2, 16, 32, 97),
  context: 40,
  verifyRows: 8,
  draftContext: 32,
  prompt: 12,
  text: 10,
  prefill: 60,
  products: [[32, 2100]],
  productRows: [20, 130],
};

/** Configuration of a GPT-2. */
export function gpt2({ layers, width, heads, context, vocabSize }: Gpt2Size): Record<string, unknown> {
  return {
    model_type: "gpt2",
    vocab_size: vocabSize,
    n_positions: context,
    n_layer: layers,
    n_embd: width,
    n_head: heads,
  };
}

function neo(
  layers: number,
  width: number,
  heads: number,
  context: number,
  vocabSize: number,
): Record<string, unknown> {
  return {
    model_type: "gpt_neo",
    vocab_size: vocabSize,
    max_position_embeddings: context,
    num_layers: layers,
    hidden_size: width,
    num_heads: heads,
    attention_types: [[["global", "local"], layers / 2]],
    window_size: 256,
  };
}

function sedd(
  blocks: number,
  width: number,
  heads: number,
  condition: number,
  length: number,
  vocabSize: number,
): Record<string, unknown> {
  return {
    tokens: vocabSize,
    graph: { type: "absorb" },
    model: {
      hidden_size: width,
      cond_dim: condition,
      length,
      n_blocks: blocks,
      n_heads: heads,
      scale_by_sigma: true,
    },
  };
}

/** The same drafter with a prefix that a cache keeps. */
export function causal(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return { ...config, specdiff: { prefix_attention: "causal" } };
}

/** Uniform in ±0.035, the spread of GPT-2's initial weights, without denormals. A prime length delays repetition. */
const noise = Float32Array.from({ length: 1_999_993 }, (_, i) => {
  const hash = Math.imul(i + 1, 0x9e3779b1) ^ Math.imul(i + 1, 0x85ebca6b) >>> 15;
  return ((hash >>> 8) / 2 ** 24 - 0.5) * 0.07;
});

/** Entries of a piece of a matrix. */
const PIECE = 1 << 20;

/** A checkpoint of noise, except norms. It has every tensor that is requested, and no optional ones. */
export function noiseWeights(config: Readonly<Record<string, unknown>>): Weights {
  let at = 0; // offset of the next piece, so that no two matrices are equal
  const next = (length: number): Float32Array => {
    if (length > noise.length) return Float32Array.from({ length }, (_, i) => noise[i % noise.length]);
    at = (at + 7919) % (noise.length - length + 1);
    return noise.subarray(at, at + length);
  };
  async function* pieces(rows: number, columns: number): AsyncGenerator<Float32Array> {
    const most = Math.max(1, Math.floor(PIECE / columns));
    for (let row = 0; row < rows; row += most) yield next(Math.min(most, rows - row) * columns);
  }
  return {
    origin: "noise",
    config,
    has: () => false,
    read: (name, shape) => {
      const length = shape.reduce((product, n) => product * n, 1);
      const isGain = /(ln_\w+|norm\w*)\.weight$/.test(name);
      return Promise.resolve(isGain ? new Float32Array(length).fill(1) : next(length).slice());
    },
    rows: (_, [rows, columns]) => pieces(rows, columns),
    transposed: (_, [inputs, outputs]) => pieces(outputs, inputs),
  };
}

/**
 * Loads weights as a causal model.
 * @throws {TypeError} if they are of another kind
 */
export async function loadAsCausal(
  weights: Weights,
  backend: Backend,
  options: LoadOptions,
): Promise<CausalModel> {
  const loaded = await loadModel(weights, backend, options);
  if (loaded.kind !== "causal") {
    throw new TypeError(`Cannot measure "${weights.origin}": it is a diffusion model, expected a causal one`);
  }
  return loaded.model;
}

/** A causal model of noise. */
export function loadCausal(
  backend: Backend,
  config: Readonly<Record<string, unknown>>,
  dtype: Dtype,
  chunkRows?: number,
): Promise<CausalModel> {
  return loadAsCausal(noiseWeights(config), backend, { dtype, chunkRows });
}

/** A diffusion model of noise. */
export async function loadDiffusion(
  backend: Backend,
  config: Readonly<Record<string, unknown>>,
  dtype: Dtype,
): Promise<SeddModel> {
  const loaded = await loadModel(noiseWeights(config), backend, { dtype, anyOrder: true });
  if (loaded.kind !== "diffusion") {
    throw new TypeError("Cannot measure: the configuration is a causal model, expected a diffusion model");
  }
  return loaded.model;
}

/** Arbitrary tokens in place of a text. */
export function madeUpText(length: number, vocabSize: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => (i * 761 + 13) % vocabSize);
}
