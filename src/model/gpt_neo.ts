/**
 * GPT-Neo as Hugging Face publishes it, 125M to 2.7B: its configuration, and where its tensors differ from
 * GPT-2's. Attention is not scaled, local layers see a window of keys, and q, k and v come apart, without bias.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { loadCausal, TANH_GELU } from "./causal_loading.ts";
import { Config, headSize } from "./config.ts";
import type { CausalModel } from "./model.ts";
import type { LoadOptions } from "./uploads.ts";
import type { Weights } from "./weights.ts";

/**
 * Loads a GPT-Neo. Names may or may not begin with `transformer.`; tensors that are not asked for, such as
 * mask buffers, are left alone.
 *
 * @throws {CheckpointError} if the configuration or a tensor is not as expected
 */
export function loadGptNeo(
  weights: Weights,
  backend: Backend,
  options: LoadOptions = {},
): Promise<CausalModel> {
  const config = Config.of(weights);
  config.choice("activation_function", TANH_GELU, "gelu_new");
  const width = config.size("hidden_size"); // C
  const heads = config.size("num_heads"); // H
  const inner = config.size("intermediate_size", 4 * width); // F
  headSize(config, "num_heads", heads, width);
  const layers = config.size("num_layers");
  const local = localLayers(config, layers);
  const window = local === undefined ? undefined : config.size("window_size");

  return loadCausal(weights, backend, options, {
    shape: {
      vocabSize: config.size("vocab_size"),
      contextLength: config.size("max_position_embeddings"),
      layers,
      width,
      heads,
    },
    epsilon: config.positive("layer_norm_epsilon", 1e-5),
    tied: config.flag("tie_word_embeddings", true),
    block: async (uploads, name, i) => {
      const attention = `${name}.attn.attention`;
      const parts = ["q", "k", "v"].map((letter) => `${attention}.${letter}_proj.weight`);
      return {
        qkv: await uploads.stacked(parts, width, width),
        attentionOut: await uploads.matrix(`${attention}.out_proj.weight`, width, width),
        attentionOutBias: await uploads.vector(`${attention}.out_proj.bias`, width),
        scale: 1,
        window: local?.(i) ? window : undefined,
        up: await uploads.matrix(`${name}.mlp.c_fc.weight`, inner, width),
        upBias: await uploads.vector(`${name}.mlp.c_fc.bias`, inner),
        down: await uploads.matrix(`${name}.mlp.c_proj.weight`, width, inner),
        downBias: await uploads.vector(`${name}.mlp.c_proj.bias`, width),
      };
    },
  });
}

/** Whether layer i sees a window only, by `attention_layers` or `attention_types`; undefined if none does. */
function localLayers(config: Config, layers: number): ((i: number) => boolean) | undefined {
  const name = config.has("attention_layers") ? "attention_layers" : "attention_types";
  const list = config.list(name);
  // [["global", "local"], 12]: a pattern, and how often it is repeated; it is not written out, for 12 may be 10¹²
  const entries = name === "attention_layers" ? [[list, 1]] : list;
  if (
    !entries.every(isPattern) || entries.reduce((sum, [kinds, n]) => sum + kinds.length * n, 0) !== layers
  ) {
    throw config.fault(name, `"global" or "local" for each of ${layers} layers`);
  }
  if (!entries.some(([kinds, n]) => n > 0 && kinds.includes("local"))) return undefined;
  return (i) => {
    for (const [kinds, n] of entries) {
      if (i < kinds.length * n) return kinds[i % kinds.length] === "local";
      i -= kinds.length * n;
    }
    return false;
  };
}

function isPattern(entry: unknown): entry is [kinds: readonly string[], times: number] {
  return Array.isArray(entry) && Array.isArray(entry[0]) &&
    entry[0].every((kind) => kind === "global" || kind === "local") &&
    Number.isSafeInteger(entry[1]) && entry[1] >= 0;
}
