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
  const window = local.includes(true) ? config.size("window_size") : undefined;

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
        window: local[i] ? window : undefined,
        up: await uploads.matrix(`${name}.mlp.c_fc.weight`, inner, width),
        upBias: await uploads.vector(`${name}.mlp.c_fc.bias`, inner),
        down: await uploads.matrix(`${name}.mlp.c_proj.weight`, width, inner),
        downBias: await uploads.vector(`${name}.mlp.c_proj.bias`, width),
      };
    },
  });
}

/** Which layers see a window only: `attention_layers`, or `attention_types` written out. */
function localLayers(config: Config, layers: number): boolean[] {
  const name = config.has("attention_layers") ? "attention_layers" : "attention_types";
  const expected = `"global" or "local" for each of ${layers} layers`;
  const kinds: unknown[] = [];
  for (const entry of config.list(name)) {
    if (name === "attention_layers") {
      kinds.push(entry);
      continue;
    }
    // [["global", "local"], 12]: a pattern, and how often it is repeated
    if (!Array.isArray(entry) || !Array.isArray(entry[0]) || !(entry[1] <= layers)) {
      throw config.fault(name, expected);
    }
    for (let time = 0; time < entry[1]; time++) kinds.push(...entry[0]);
  }
  if (kinds.length !== layers || !kinds.every((kind) => kind === "global" || kind === "local")) {
    throw config.fault(name, expected);
  }
  return kinds.map((kind) => kind === "local");
}
