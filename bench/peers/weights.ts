/**
 * The weights that all peers are given: a GPT-2 as a list of whole f32 tensors, each matrix as [outputs, inputs],
 * read from a checkpoint; and a checkpoint of noise in the shape of GPT-2 124M, as speed does not depend on values.
 *
 * @module
 */

import type { Weights } from "../../src/model/weights.ts";

/** How peers hold matrices. */
export type PeerDtype = "f32" | "f16" | "int8";

/** A GPT-2's sizes. */
export interface Gpt2Sizes {
  readonly layers: number;
  readonly heads: number;
  readonly width: number;
  readonly vocabSize: number;
  readonly positions: number;
  readonly epsilon: number;
}

/** A GPT-2's tensors. C is the width, V the vocabulary, P the positions. */
export interface Gpt2 extends Gpt2Sizes {
  /** By the names of the checkpoint without `transformer.`; Conv1D matrices are turned to [outputs, inputs]. */
  tensor(name: string): Promise<Tensor>;
}

/** A tensor in row-major order. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** What a configuration says of them. */
export function sizesIn(config: Weights["config"]): Gpt2Sizes {
  const size = (name: string) => Number(config[name]);
  return {
    layers: size("n_layer"),
    heads: size("n_head"),
    width: size("n_embd"),
    vocabSize: size("vocab_size"),
    positions: size("n_positions"),
    epsilon: size("layer_norm_epsilon"),
  };
}

/** A GPT-2 checkpoint as peers want it. */
export function gpt2Of(weights: Weights): Gpt2 {
  const sizes = sizesIn(weights.config), { width, positions, vocabSize } = sizes;
  const matrices: Record<string, [inputs: number, outputs: number]> = {
    "attn.c_attn": [width, 3 * width],
    "attn.c_proj": [width, width],
    "mlp.c_fc": [width, 4 * width],
    "mlp.c_proj": [4 * width, width],
  };
  return {
    ...sizes,
    async tensor(name) {
      const stored = weights.has(`transformer.${name}`) ? `transformer.${name}` : name;
      const [, part, kind] = /^(?:h\.\d+\.)?(.*)\.(weight|bias)$/.exec(name)!;
      const conv = matrices[part];
      if (conv !== undefined && kind === "weight") {
        const values = await gather(weights.transposed(stored, conv), conv[0] * conv[1]);
        return { shape: [conv[1], conv[0]], values };
      }
      const shape = name === "wte.weight"
        ? [vocabSize, width]
        : name === "wpe.weight"
        ? [positions, width]
        : [conv?.[1] ?? width];
      return { shape, values: await weights.read(stored, shape) };
    },
  };
}

async function gather(chunks: AsyncIterable<Float32Array>, length: number): Promise<Float32Array> {
  const all = new Float32Array(length);
  let at = 0;
  for await (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

/** GPT-2 124M with noise for weights: every tensor of such a model exists. */
export function noiseGpt2(): Weights {
  const noise = Float32Array.from({ length: 1 << 16 }, (_, i) => Math.sin(i * 12.9898 + i * i * 1e-3) * 0.04);
  const fill = (name: string, length: number) => {
    // norms have gains near 1; no two tensors begin alike
    const shift = /ln_.*weight/.test(name) ? 1 : 0;
    let start = 0;
    for (const letter of name) start = (start * 31 + letter.charCodeAt(0)) % noise.length;
    return Float32Array.from({ length }, (_, i) => shift + noise[(start + i) % noise.length]);
  };
  async function* rows(name: string, [rows, columns]: readonly [number, number]) {
    yield await fill(name, rows * columns);
  }
  return {
    origin: "noise in the shape of GPT-2 124M",
    config: {
      ...{ model_type: "gpt2", vocab_size: 50257, n_positions: 1024, n_embd: 768, n_layer: 12, n_head: 12 },
      ...{ activation_function: "gelu_new", layer_norm_epsilon: 1e-5 },
    },
    has: (name) => Number(/^h\.(\d+)\./.exec(name)?.[1] ?? 0) < 12 && !/^(transformer|lm_head)\./.test(name),
    read: (name, shape) => Promise.resolve(fill(name, shape.reduce((product, n) => product * n, 1))),
    rows,
    async *transposed(name, [inputs, outputs]) {
      const values = fill(name, inputs * outputs), turned = new Float32Array(values.length);
      for (let i = 0; i < inputs; i++) {
        for (let o = 0; o < outputs; o++) turned[o * inputs + i] = values[i * outputs + o];
      }
      yield await turned;
    },
  };
}
