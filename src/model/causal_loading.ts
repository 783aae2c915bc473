/**
 * Loading of GPT-2 and GPT-Neo, whose checkpoints name embeddings, norms and head alike.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { Block } from "./block.ts";
import { CausalTransformer } from "./causal.ts";
import type { CausalModel, ModelShape } from "./model.ts";
import { type LoadOptions, Uploads } from "./uploads.ts";
import { checkLast, type Weights } from "./weights.ts";

/** Names under which Hugging Face knows the tanh form of GELU, the only one here. */
export const TANH_GELU = ["gelu_new", "gelu_pytorch_tanh"] as const;

/** The part of loading that differs from one architecture to the other. */
export interface CausalArchitecture {
  /** Its shape. */
  readonly shape: ModelShape;
  /** Of all norms. */
  readonly epsilon: number;
  /** Whether the head is the embedding, unless the checkpoint has another one. */
  readonly tied: boolean;
  /** Uploads block i apart from its norms; the names of its tensors begin with `name`. */
  readonly block: (
    uploads: Uploads,
    name: string,
    i: number,
  ) => Promise<Omit<Block, "attentionNorm" | "mlpNorm">>;
}

/** The name of the head. */
const HEAD = "lm_head.weight";

/**
 * Loads a causal model. Of a tied embedding and head, a checkpoint may hold either, or both: if these differ, both are
 * used, whatever the configuration says, as transformers does.
 *
 * @throws {CheckpointError} if a tensor is missing, or not as expected
 */
export async function loadCausal(
  weights: Weights,
  backend: Backend,
  options: LoadOptions,
  architecture: CausalArchitecture,
): Promise<CausalModel> {
  const { shape, epsilon, tied } = architecture;
  const { vocabSize, contextLength, width } = shape;
  const body = ["wte", "wpe"].some((name) => weights.has(`transformer.${name}.weight`)) ? "transformer." : "";
  const table = `${body}wte.weight`, hasHead = weights.has(HEAD);
  const headOnly = tied && hasHead && !weights.has(table);
  const shared = headOnly || tied && (!hasHead || await weights.equal?.(table, HEAD, [vocabSize, width]));
  checkLast(weights, `${body}h.${shape.layers}.ln_1.weight`, shape.layers);
  return await Uploads.collect(weights, backend, options, async (uploads) => {
    const norm = async (name: string) => ({
      gain: await uploads.vector(`${name}.weight`, width),
      shift: await uploads.vector(`${name}.bias`, width),
      epsilon,
    });
    // a position's entry is added to every token's: held at full precision, as it is small
    const positions = await uploads.matrix(`${body}wpe.weight`, contextLength, width, "f32");
    const embedding = await uploads.matrix(headOnly ? HEAD : table, vocabSize, width);
    const blocks: Block[] = [];
    for (let i = 0; i < shape.layers; i++) {
      const name = `${body}h.${i}`;
      blocks.push({
        attentionNorm: await norm(`${name}.ln_1`),
        mlpNorm: await norm(`${name}.ln_2`),
        ...await architecture.block(uploads, name, i),
      });
    }
    const finalNorm = await norm(`${body}ln_f`);
    const head = shared ? embedding : await uploads.matrix(HEAD, vocabSize, width);
    const all = { embedding, positions, blocks, finalNorm, head };
    return new CausalTransformer(backend, shape, all, uploads, options.chunkRows);
  });
}
