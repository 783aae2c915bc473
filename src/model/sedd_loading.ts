/**
 * Loads a SEDD. The configuration is the original one, nested, with `tokens` and `graph.type: absorb`. Its part
 * `specdiff` names differences from the published form:
 *
 * - `prefix_attention`: `bidirectional` (default), `causal`, or `target`, which comes with `target_layers` and
 *   `target_width`;
 * - `shares: ["embedding", "head"]`: those are the target's, and only the mask's embedding and the head's bias its own;
 * - `markov_head.rank`.
 *
 * `drafting.ts` reads `specdiff.drafting`, which the configuration of any drafter may have.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { Config, headSize } from "./config.ts";
import type { ModelShape } from "./model.ts";
import { type MarkovHead, Sedd, type SeddModel, type StaticBlock } from "./sedd.ts";
import { Conditioning, NORM_EPSILON } from "./sedd_conditioning.ts";
import { loadPrefix, sharedTarget, targetLayers } from "./target_prefix.ts";
import { type LoadOptions, Uploads } from "./uploads.ts";
import { checkLast, type Weights } from "./weights.ts";

/** Whether a checkpoint is a drafter that cannot be loaded without its target. */
export function needsTarget(weights: Weights): boolean {
  const specdiff = Config.of(weights).object("specdiff", {});
  return prefixOf(specdiff) === "target" || specdiff.has("shares");
}

function prefixOf(specdiff: Config): SeddModel["prefixAttention"] {
  return specdiff.choice("prefix_attention", ["bidirectional", "causal", "target"], "bidirectional");
}

/**
 * Loads a SEDD. One that its target feeds, or that shares the target's matrices, needs it as `options.target`.
 *
 * @throws {CheckpointError} if the configuration or a tensor is not as expected, or the target is not
 */
export async function loadSedd(
  weights: Weights,
  backend: Backend,
  options: LoadOptions = {},
): Promise<SeddModel> {
  const config = Config.of(weights), model = config.object("model");
  config.object("graph").choice("type", ["absorb"]);
  const width = model.size("hidden_size"), heads = model.size("n_heads");
  const size = headSize(model, "n_heads", heads, width); // D
  if (size % 2 !== 0) throw model.fault("n_heads", "heads of even size, as rotary embeddings turn pairs");
  const condition = model.size("cond_dim"), length = model.size("length");
  if (length < 2) throw model.fault("length", "at least 2: a token of the text, and one that is drafted");
  const shape: ModelShape = {
    vocabSize: config.size("tokens"),
    contextLength: length,
    layers: model.size("n_blocks"),
    width,
    heads,
  };
  checkLast(weights, `blocks.${shape.layers}.attn_qkv.weight`, shape.layers);
  const specdiff = config.object("specdiff", {});
  const rank = specdiff.has("markov_head") ? specdiff.object("markov_head").size("rank") : undefined;
  const prefixAttention = prefixOf(specdiff);
  const { target, targetBackend = backend } = options;
  const elsewhere = targetBackend === backend ? undefined : targetBackend;
  const hiddenLayers = prefixAttention === "target" ? targetLayers(specdiff, target) : [];
  const shared = sharedTarget(specdiff, shape, target);
  const kind = { scaleBySigma: model.flag("scale_by_sigma"), prefixAttention, hiddenLayers };

  return await Uploads.collect(weights, backend, options, async (uploads) => {
    const columns = shape.vocabSize + (shared === undefined ? 1 : 0); // of logits
    // first, as its shape proves the width of the configuration
    const embedding = shared === undefined
      ? await uploads.matrix("vocab_embed.embedding", columns, width)
      : await uploads.borrow(shared.embedding, elsewhere, shared.embedding.dtype);
    const mask = shared && await uploads.row("vocab_embed.mask", width);
    const rotary = uploads.values(
      Float32Array.from({ length: size / 2 }, (_, j) => 10000 ** (-2 * j / size)),
    );
    const blocks: StaticBlock[] = [];
    for (let i = 0; i < shape.layers; i++) {
      const name = `blocks.${i}`;
      blocks.push({
        qkv: await uploads.matrix(`${name}.attn_qkv.weight`, 3 * width, width),
        attentionOut: await uploads.matrix(`${name}.attn_out.weight`, width, width),
        scale: 1 / Math.sqrt(size),
        rotary,
        up: await uploads.matrix(`${name}.mlp.0.weight`, 4 * width, width),
        upBias: await uploads.vector(`${name}.mlp.0.bias`, 4 * width),
        down: await uploads.matrix(`${name}.mlp.2.weight`, width, 4 * width),
        downBias: await uploads.vector(`${name}.mlp.2.bias`, width),
      });
    }
    const prefix = prefixAttention === "target"
      ? await loadPrefix(uploads, shape, rotary, {
        layers: hiddenLayers.length,
        width: specdiff.size("target_width"),
        elsewhere: elsewhere !== undefined,
      })
      : undefined;
    const markov: MarkovHead | undefined = rank === undefined ? undefined : {
      norm: { gain: await uploads.vector("output_layer.norm_final.weight", width), epsilon: NORM_EPSILON },
      a: await uploads.matrix("markov_head.a.weight", rank, width),
      aBias: await uploads.vector("markov_head.a.bias", rank),
      b: await uploads.matrix("markov_head.b.weight", shape.vocabSize, rank),
      w: shared === undefined
        ? await uploads.padded("markov_head.w.weight", shape.vocabSize, rank)
        : await uploads.matrix("markov_head.w.weight", shape.vocabSize, rank),
    };
    const head = shared === undefined
      ? await uploads.matrix("output_layer.linear.weight", columns, width)
      : await uploads.borrow(shared.head, elsewhere);
    const headBias = await uploads.vector("output_layer.linear.bias", columns);
    const conditioning = await Conditioning.load(backend, uploads, {
      width,
      condition,
      blocks: shape.layers,
    });
    const all = { embedding, mask, blocks, conditioning, head, headBias, markov, prefix };
    return new Sedd(backend, shape, kind, all, uploads, options.chunkRows);
  });
}
