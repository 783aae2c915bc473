/**
 * SEDD-Absorb (Lou et al. 2024): a masked discrete-diffusion model. Beside the published, bidirectional form
 * there is one whose clean prefix attends causally (`specdiff.prefix_attention` of the configuration), so that
 * a cache keeps it, and one with a Markov head (`specdiff.markov_head.rank`).
 *
 * Deliberately absent: sampling, the noise schedule, and the step from logits to scores (`sedd_score.ts`).
 *
 * @module
 */

import type { Activation, Backend, Cache, Matrix, Norm, Vector } from "../backend/backend.ts";
import { checkSizes } from "../backend/check.ts";
import { type Block, Growing, runBlock, Workspace } from "./block.ts";
import { checkHead, checkRoom, checkTokens } from "./check.ts";
import { Config, headSize } from "./config.ts";
import type { DiffusionModel, DiffusionPass, ModelShape } from "./model.ts";
import { Conditioning, EPSILON } from "./sedd_conditioning.ts";
import { type LoadOptions, Uploads } from "./uploads.ts";
import { checkLast, type Weights } from "./weights.ts";

/** A SEDD, and what the step from its logits to scores has to know. */
export interface SeddModel extends DiffusionModel {
  /** Whether scores are the logits less a function of σ (see `logScores`). */
  readonly scaleBySigma: boolean;
}

/** A block without what σ decides. */
type StaticBlock = Omit<Block, "attentionNorm" | "mlpNorm">;

interface MarkovHead {
  /** The final norm before its modulation, [C]. */
  readonly norm: Norm;
  /** [rank, C] */
  readonly a: Matrix;
  /** [rank] */
  readonly aBias: Vector;
  /** [V, rank] */
  readonly b: Matrix;
  /** [V+1, rank], the mask's row is 0. */
  readonly w: Matrix;
}

interface SeddWeights {
  /** [V+1, C] */
  readonly embedding: Matrix;
  readonly blocks: readonly StaticBlock[];
  readonly conditioning: Conditioning;
  /** [V+1, C] */
  readonly head: Matrix;
  /** [V+1] */
  readonly headBias: Vector;
  readonly markov: MarkovHead | undefined;
}

/**
 * Loads a SEDD: original configuration (nested, `tokens`, `graph.type: absorb`) and tensor names.
 *
 * @throws {CheckpointError} if the configuration or a tensor is not as expected
 */
export function loadSedd(weights: Weights, backend: Backend, options: LoadOptions = {}): Promise<SeddModel> {
  const config = Config.of(weights), model = config.object("model");
  config.object("graph").choice("type", ["absorb"]);
  const width = model.size("hidden_size"), heads = model.size("n_heads");
  const size = headSize(model, "n_heads", heads, width); // D
  if (size % 2 !== 0) throw model.fault("n_heads", "heads of even size, as rotary embeddings turn pairs");
  const condition = model.size("cond_dim");
  const shape: ModelShape = {
    vocabSize: config.size("tokens"),
    contextLength: model.size("length"),
    layers: model.size("n_blocks"),
    width,
    heads,
  };
  checkLast(weights, `blocks.${shape.layers}.attn_qkv.weight`, shape.layers);
  const specdiff = config.has("specdiff") ? config.object("specdiff") : undefined;
  const rank = specdiff?.has("markov_head") ? specdiff.object("markov_head").size("rank") : undefined;
  const kind = {
    scaleBySigma: model.flag("scale_by_sigma"),
    prefixAttention: specdiff?.choice("prefix_attention", ["bidirectional", "causal"], "bidirectional") ??
      "bidirectional",
  };

  return Uploads.collect(weights, backend, options.dtype, async (uploads) => {
    const columns = shape.vocabSize + 1;
    // first, as it shows whether the width is to be believed
    const embedding = await uploads.matrix("vocab_embed.embedding", columns, width);
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
    const markov = rank === undefined ? undefined : {
      norm: { gain: await uploads.vector("output_layer.norm_final.weight", width), epsilon: EPSILON },
      a: await uploads.matrix("markov_head.a.weight", rank, width),
      aBias: await uploads.vector("markov_head.a.bias", rank),
      b: await uploads.matrix("markov_head.b.weight", shape.vocabSize, rank),
      w: await uploads.padded("markov_head.w.weight", shape.vocabSize, rank),
    };
    const head = await uploads.matrix("output_layer.linear.weight", columns, width);
    const headBias = await uploads.vector("output_layer.linear.bias", columns);
    const conditioning = await Conditioning.load(backend, uploads, {
      width,
      condition,
      blocks: shape.layers,
    });
    const all = { embedding, blocks, conditioning, head, headBias, markov };
    return new Sedd(backend, shape, kind, all, uploads, options.chunkRows);
  });
}

/** The model; `chunkRows` cuts only causal prefixes, as the rows of a denoising window see one another. */
class Sedd implements SeddModel {
  readonly shape: ModelShape;
  readonly bytes: number;
  readonly scaleBySigma: boolean;
  readonly prefixAttention: "bidirectional" | "causal";
  readonly hasMarkovHead: boolean;
  readonly #backend: Backend;
  readonly #weights: SeddWeights;
  readonly #chunkRows: number;
  readonly #workspace: Workspace;
  readonly #logits: Growing<Activation>;
  readonly #markov: Growing<Activation>;
  readonly #previous: Growing<Activation>;
  readonly #owned: DisposableStack = new DisposableStack();

  constructor(
    backend: Backend,
    shape: ModelShape,
    kind: Pick<SeddModel, "scaleBySigma" | "prefixAttention">,
    weights: SeddWeights,
    uploads: Uploads,
    chunkRows: number = 128,
  ) {
    checkSizes("load a model", { chunkRows });
    this.shape = shape;
    this.bytes = uploads.bytes;
    this.scaleBySigma = kind.scaleBySigma;
    this.prefixAttention = kind.prefixAttention;
    this.hasMarkovHead = weights.markov !== undefined;
    this.#backend = backend;
    this.#weights = weights;
    this.#chunkRows = chunkRows;
    const rank = weights.markov?.a.outputs ?? 0;
    const owned = this.#owned;
    owned.use(uploads);
    owned.use(weights.conditioning);
    this.#workspace = owned.use(new Workspace(backend, shape.width, 4 * shape.width));
    this.#logits = owned.use(new Growing((rows) => backend.activation(rows, shape.vocabSize + 1)));
    this.#markov = owned.use(new Growing((rows) => backend.activation(rows, rank)));
    this.#previous = owned.use(new Growing((rows) => backend.activation(rows, rank)));
  }

  newCache(capacity: number = this.shape.contextLength): Cache {
    return this.#backend.cache({ layers: this.shape.layers, width: this.shape.width, capacity });
  }

  denoise(
    tokens: ArrayLike<number>,
    cache: Cache,
    sigma: number,
    options: {
      readonly cleanRows: number;
      readonly head: readonly number[];
      readonly window?: number | undefined;
    },
  ): DiffusionPass {
    const rows = tokens.length, { cleanRows, head, window } = options;
    const causal = this.prefixAttention === "causal";
    if (!causal) cache.truncate(0);
    checkTokens(tokens, this.shape.vocabSize + 1);
    checkHead(head, rows);
    if (!(sigma > 0 && sigma < Infinity)) {
      throw new RangeError(`Cannot run the model: sigma is ${sigma}, expected a positive number`);
    }
    if (!(Number.isInteger(cleanRows) && cleanRows >= 0 && cleanRows <= rows)) {
      throw new RangeError(
        `Cannot run the model: cleanRows is ${cleanRows}, expected an integer within [0, ${rows}]`,
      );
    }
    checkRoom("cache", cache.length, rows, cache.capacity);
    const { blocks, finalNorm } = this.#weights.conditioning.at(sigma);
    const modulated = this.#weights.blocks.map((block, i) => ({ ...block, ...blocks[i], window }));
    const wanted = head.length;
    const logits = this.#logits.atLeast(wanted).slice(0, wanted); // [wanted, V+1]
    const markov = this.#weights.markov && this.#markov.atLeast(wanted).slice(0, wanted); // [wanted, rank]
    const ids = Int32Array.from(tokens);
    const prefix = causal ? cleanRows : 0;
    for (let start = 0, at = 0; start < rows;) {
      const clean = Math.min(prefix - start, this.#chunkRows);
      // what is not prefix comes with the last of it, in one piece
      const end = start + clean < prefix ? start + clean : rows;
      const first = Math.min(end, head[at] ?? end); // the first row that has a head
      const x = this.#chunk(ids.subarray(start, end), cache, modulated, clean, first - start); // [end - start, C]
      while (at < wanted && head[at] < end) {
        const count = runLength(head, at, end);
        const run = x.slice(head[at] - start, count);
        this.#project(logits.slice(at, count), markov?.slice(at, count), run, finalNorm);
        at += count;
      }
      start = end;
    }
    return { logits, markov };
  }

  /**
   * The residual stream, after all blocks from row `head` on, the first that has a head. The first `clean` rows
   * are committed.
   */
  #chunk(
    tokens: Int32Array,
    cache: Cache,
    blocks: readonly Block[],
    clean: number,
    head: number,
  ): Activation {
    const buffers = this.#workspace.pass(tokens.length);
    buffers.tokens.write(tokens);
    this.#backend.embed(buffers.x, { tokens: buffers.tokens, table: this.#weights.embedding, cache });
    blocks.forEach((block, layer) => {
      const from = layer === blocks.length - 1 ? head : 0, { heads } = this.shape;
      runBlock(this.#backend, buffers, block, { cache, layer, heads, causalRows: clean, from });
    });
    cache.advance(clean);
    return buffers.x;
  }

  #project(logits: Activation, markov: Activation | undefined, x: Activation, norm: Norm): void {
    const { head: matrix, headBias: bias } = this.#weights;
    this.#backend.project(logits, x, { norm, matrix, bias });
    if (markov === undefined || this.#weights.markov === undefined) return;
    const { norm: plain, a, aBias } = this.#weights.markov;
    this.#backend.project(markov, x, { norm: plain, matrix: a, bias: aBias });
  }

  markovLogits(pass: DiffusionPass, row: number, previous: number): void {
    const head = this.#weights.markov;
    if (head === undefined || pass.markov === undefined) {
      throw new Error("Cannot add the Markov head's logits: the checkpoint has no Markov head");
    }
    checkTokens([previous], this.shape.vocabSize);
    const { tokens } = this.#workspace.pass(1);
    tokens.write([previous]);
    const mixed = this.#previous.atLeast(1); // [1, rank]
    this.#backend.multiplyEmbedding(mixed, pass.markov.slice(row, 1), { table: head.b, tokens });
    this.#backend.projectResidual(pass.logits.slice(row, 1), mixed, { matrix: head.w });
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

/** How many of `rows`, from index `at` on, follow one another below `end`. */
function runLength(rows: readonly number[], at: number, end: number): number {
  let count = 1;
  while (rows[at + count] === rows[at] + count && rows[at + count] < end) count++;
  return count;
}
