/**
 * GPT-2 as Hugging Face publishes it, 124M to XL: its configuration, and where its tensors differ from
 * GPT-Neo's. Conv1D matrices are stored [inputs, outputs] and turned over on the way to the device.
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
 * Loads a GPT-2. Names may or may not begin with `transformer.`; tensors that are not asked for, such as mask
 * buffers, are left alone.
 *
 * @throws {CheckpointError} if the configuration or a tensor is not as expected
 */
export function loadGpt2(
  weights: Weights,
  backend: Backend,
  options: LoadOptions = {},
): Promise<CausalModel> {
  const config = Config.of(weights);
  config.choice("activation_function", TANH_GELU, "gelu_new");
  const width = config.size("n_embd"); // C
  const heads = config.size("n_head"); // H
  const inner = config.size("n_inner", 4 * width); // F
  const size = headSize(config, "n_head", heads, width); // D
  const scale = config.flag("scale_attn_weights", true) ? 1 / Math.sqrt(size) : 1;
  const byLayer = config.flag("scale_attn_by_inverse_layer_idx", false);

  return loadCausal(weights, backend, options, {
    shape: {
      vocabSize: config.size("vocab_size"),
      contextLength: config.size("n_positions"),
      layers: config.size("n_layer"),
      width,
      heads,
    },
    epsilon: config.positive("layer_norm_epsilon", 1e-5),
    tied: config.flag("tie_word_embeddings", true),
    block: async (uploads, name, i) => ({
      qkv: await uploads.conv1d(`${name}.attn.c_attn.weight`, 3 * width, width),
      qkvBias: await uploads.vector(`${name}.attn.c_attn.bias`, 3 * width),
      attentionOut: await uploads.conv1d(`${name}.attn.c_proj.weight`, width, width),
      attentionOutBias: await uploads.vector(`${name}.attn.c_proj.bias`, width),
      scale: byLayer ? scale / (i + 1) : scale,
      up: await uploads.conv1d(`${name}.mlp.c_fc.weight`, inner, width),
      upBias: await uploads.vector(`${name}.mlp.c_fc.bias`, inner),
      down: await uploads.conv1d(`${name}.mlp.c_proj.weight`, width, inner),
      downBias: await uploads.vector(`${name}.mlp.c_proj.bias`, width),
    }),
  });
}
