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
  /** Whether the head is the embedding; if not, it is `lm_head.weight`. */
  readonly tied: boolean;
  /** Uploads block i apart from its norms; the names of its tensors begin with `name`. */
  readonly block: (
    uploads: Uploads,
    name: string,
    i: number,
  ) => Promise<Omit<Block, "attentionNorm" | "mlpNorm">>;
}

/**
 * Loads a causal model.
 *
 * @throws {CheckpointError} if a tensor is missing, or not as expected
 */
export function loadCausal(
  weights: Weights,
  backend: Backend,
  options: LoadOptions,
  architecture: CausalArchitecture,
): Promise<CausalModel> {
  const { shape, epsilon, tied } = architecture;
  const { vocabSize, contextLength, width } = shape;
  const body = weights.has("transformer.wte.weight") ? "transformer." : "";
  checkLast(weights, `${body}h.${shape.layers}.ln_1.weight`, shape.layers);
  return Uploads.collect(weights, backend, options, async (uploads) => {
    const norm = async (name: string) => ({
      gain: await uploads.vector(`${name}.weight`, width),
      shift: await uploads.vector(`${name}.bias`, width),
      epsilon,
    });
    // a position's entry is added to every token's: held at full precision, as it is small
    const positions = await uploads.matrix(`${body}wpe.weight`, contextLength, width, "f32");
    const embedding = await uploads.matrix(`${body}wte.weight`, vocabSize, width);
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
    const head = tied ? embedding : await uploads.matrix("lm_head.weight", vocabSize, width);
    const all = { embedding, positions, blocks, finalNorm, head };
    return new CausalTransformer(backend, shape, all, uploads, options.chunkRows);
  });
}
