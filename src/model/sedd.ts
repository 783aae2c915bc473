/**
 * SEDD-Absorb (Lou et al. 2024): a masked discrete-diffusion model, once its weights are on the device. Beside the
 * published, bidirectional form there is one whose clean prefix attends causally, so that a cache keeps it, one
 * whose prefix is made of the target's hidden states, and for each a Markov head.
 *
 * Deliberately absent: names and configuration (`sedd_loading.ts`), sampling, the noise schedule, and the step
 * from logits to scores (`sedd_score.ts`).
 *
 * @module
 */

import type { Activation, Backend, Cache, Matrix, Norm, TokenBuffer, Vector } from "../backend/backend.ts";
import { Growing, mostRows } from "../backend/buffers.ts";
import { checkSizes } from "../backend/check.ts";
import { type Block, enqueue, newCache, type PassBuffers, runBlock, Workspace } from "./block.ts";
import { checkHead, checkRoom, checkTokens } from "./check.ts";
import { type DeviceTokens, writeTokens } from "./device_tokens.ts";
import type { DenoiseOptions, DiffusionModel, DiffusionPass, FollowUp, ModelShape } from "./model.ts";
import { indicesOf, type Run, runs } from "./runs.ts";
import type { Conditioning } from "./sedd_conditioning.ts";
import { type PrefixWeights, TargetPrefix } from "./target_prefix.ts";
import type { Uploads } from "./uploads.ts";

/** A SEDD, and the flag that the step from its logits to scores needs. */
export interface SeddModel extends DiffusionModel {
  /** Whether scores are the logits less a function of σ (see `logScores`). */
  readonly scaleBySigma: boolean;
}

/** A block without its modulation by σ. */
export type StaticBlock = Omit<Block, "attentionNorm" | "mlpNorm">;

/** A head whose logits depend on the token to the left (`DiffusionModel.markovLogits`). */
export interface MarkovHead {
  /** The final norm before its modulation, [C]. */
  readonly norm: Norm;
  /** [rank, C] */
  readonly a: Matrix;
  /** [rank] */
  readonly aBias: Vector;
  /** [V, rank] */
  readonly b: Matrix;
  /** [V+1, rank], the mask's row is 0; [V, rank] where the logits are [V]. */
  readonly w: Matrix;
}

/** The weights of a SEDD, on the device. */
export interface SeddWeights {
  /** [V+1, C]; [V, C] if it is the target's. */
  readonly embedding: Matrix;
  /** [1, C], the mask's embedding beside one that is the target's. */
  readonly mask: Matrix | undefined;
  /** One per layer. */
  readonly blocks: readonly StaticBlock[];
  /** The modulation by σ. */
  readonly conditioning: Conditioning;
  /** [V+1, C]; [V, C] if it is the target's. */
  readonly head: Matrix;
  /** One per row of `head`. */
  readonly headBias: Vector;
  /** If the checkpoint has one. */
  readonly markov: MarkovHead | undefined;
  /** If the target makes it. */
  readonly prefix: PrefixWeights | undefined;
}

/** The model; `chunkRows` cuts only causal prefixes, as the rows of a denoising window see one another. */
export class Sedd implements SeddModel {
  readonly shape: ModelShape;
  readonly bytes: number;
  readonly scaleBySigma: boolean;
  readonly prefixAttention: SeddModel["prefixAttention"];
  readonly hiddenLayers: readonly number[];
  readonly hasMarkovHead: boolean;
  readonly #backend: Backend;
  readonly #weights: SeddWeights;
  readonly #chunkRows: number;
  readonly #prefix: TargetPrefix | undefined;
  readonly #workspace: Workspace;
  readonly #logits: Growing<Activation>;
  readonly #markov: Growing<Activation>;
  readonly #previous: Growing<Activation>;
  /** Stays as it is allocated. */
  readonly #zeros: Growing<TokenBuffer>;
  readonly #owned: DisposableStack = new DisposableStack();

  constructor(
    backend: Backend,
    shape: ModelShape,
    kind: Pick<SeddModel, "scaleBySigma" | "prefixAttention" | "hiddenLayers">,
    weights: SeddWeights,
    uploads: Uploads,
    chunkRows: number = mostRows(backend),
  ) {
    checkSizes("load a model", { chunkRows });
    this.shape = shape;
    this.bytes = uploads.bytes;
    this.scaleBySigma = kind.scaleBySigma;
    this.prefixAttention = kind.prefixAttention;
    this.hiddenLayers = kind.hiddenLayers;
    this.hasMarkovHead = weights.markov !== undefined;
    this.#backend = backend;
    this.#weights = weights;
    this.#chunkRows = chunkRows;
    const rank = weights.markov?.a.outputs ?? 0;
    const owned = this.#owned;
    owned.use(uploads);
    owned.use(weights.conditioning);
    this.#workspace = owned.use(new Workspace(backend, shape.width, 4 * shape.width));
    this.#prefix = weights.prefix &&
      owned.use(new TargetPrefix(backend, weights.prefix, shape.heads, chunkRows));
    this.#logits = owned.use(new Growing((rows) => backend.activation(rows, weights.head.outputs)));
    this.#markov = owned.use(new Growing((rows) => backend.activation(rows, rank)));
    this.#previous = owned.use(new Growing((rows) => backend.activation(rows, rank)));
    this.#zeros = owned.use(new Growing((rows) => backend.tokens(rows)));
  }

  newCache(capacity: number = this.shape.contextLength): Cache {
    return newCache(this.#backend, this.#weights.blocks[0], this.shape, capacity);
  }

  feed(hidden: readonly Activation[], cache: Cache): void {
    if (this.#prefix === undefined) {
      throw new Error(`Cannot feed a prefix: the checkpoint's is ${this.prefixAttention}, expected target`);
    }
    this.#prefix.feed(hidden, cache);
  }

  denoise(
    tokens: ArrayLike<number>,
    cache: Cache,
    sigma: number,
    options: DenoiseOptions,
  ): DiffusionPass {
    const rows = tokens.length, { cleanRows, head, window, keep = 0, drafted, followUp } = options;
    const causal = this.prefixAttention === "causal";
    checkTokens(tokens, this.shape.vocabSize + 1, drafted);
    checkHead(head, rows);
    if (!(sigma > 0 && sigma < Infinity)) {
      throw new RangeError(`Cannot run the model: sigma is ${sigma}, expected a positive number`);
    }
    const mostClean = this.prefixAttention === "target" ? 0 : rows;
    if (!(Number.isInteger(cleanRows) && cleanRows >= 0 && cleanRows <= mostClean)) {
      throw new RangeError(
        `Cannot run the model: cleanRows is ${cleanRows}, expected an integer within [0, ${mostClean}]`,
      );
    }
    const mostKept = this.prefixAttention === "bidirectional" ? cleanRows : 0;
    if (!(Number.isInteger(keep) && keep >= 0 && keep <= mostKept)) {
      throw new RangeError(
        `Cannot run the model: keep is ${keep}, expected an integer within [0, ${mostKept}]`,
      );
    }
    checkRoom("cache", cache.length, rows, cache.capacity);
    const { blocks, finalNorm } = this.#weights.conditioning.at(sigma);
    const modulated = this.#weights.blocks.map((block, i) => ({ ...block, ...blocks[i], window }));
    const wanted = head.length;
    const logits = this.#logits.atLeast(wanted).slice(0, wanted); // [wanted, V+1 or V]
    const markov = this.#weights.markov && this.#markov.atLeast(wanted).slice(0, wanted); // [wanted, rank]
    const ids = Int32Array.from(tokens);
    const prefix = causal ? cleanRows : 0;
    for (let start = 0, at = 0; start < rows;) {
      const clean = Math.min(prefix - start, this.#chunkRows);
      // the masked rows come with the last chunk of the prefix, in one piece
      const end = start + clean < prefix ? start + clean : rows;
      const first = Math.min(end, head[at] ?? end); // the first row that has a head
      const chunk = ids.subarray(start, end), which = `sigma ${sigma} window ${window}`;
      const of = drafted && { tokens: drafted.tokens, at: drafted.at - start };
      const from = at, origin = start;
      while (at < wanted && head[at] < end) at++;
      const heads = head.slice(from, at);
      const finish = (x: Activation) => {
        let to = from;
        for (const [row, count] of runs(heads)) {
          const run = x.slice(row - origin, count); // [count, C]
          this.#project(logits.slice(to, count), markov?.slice(to, count), run, finalNorm);
          to += count;
        }
      };
      // with a follow-up the heads are part of the recorded pass, as both are then the same each time
      const last = end < rows || followUp === undefined ? undefined : {
        key: `heads ${heads} then ${followUp.key}`,
        uses: [logits, ...(markov ? [markov] : []), ...followUp.uses],
        run: (x: Activation) => {
          finish(x);
          followUp.run({ logits, markov });
        },
      };
      const x = this.#chunk(chunk, of, cache, modulated, clean, first - start, which, last);
      if (last === undefined) finish(x);
      cache.advance(causal ? clean : keep);
      start = end;
    }
    return { logits, markov };
  }

  /**
   * The residual stream, after all blocks from row `head` on, the first that has a head. The first `clean` rows
   * attend causally.
   *
   * @param which tells `blocks` from those of other passes
   */
  #chunk(
    tokens: Int32Array,
    drafted: DeviceTokens | undefined,
    cache: Cache,
    blocks: readonly Block[],
    clean: number,
    head: number,
    which: string,
    followUp: FollowUp<Activation> | undefined,
  ): Activation {
    const rows = tokens.length;
    const buffers = this.#workspace.pass(rows);
    const masks = this.#weights.mask === undefined ? [] : runs(indicesOf(tokens, this.shape.vocabSize));
    // where the mask has a table of its own, any token may stand for it in the other
    const ids = masks.length === 0 ? tokens : tokens.map((id) => id % this.shape.vocabSize);
    writeTokens(this.#backend, buffers.tokens, ids, drafted);
    const zeros = this.#zeros.atLeast(rows);
    const key = `${which} clean ${clean} head ${head} masks ${masks} ${followUp?.key}`;
    enqueue(this.#backend, { cache, rows, key, uses: followUp?.uses }, () => {
      this.#embed(buffers, masks, zeros, cache);
      blocks.forEach((block, layer) => {
        const from = layer === blocks.length - 1 ? head : 0, { heads } = this.shape;
        runBlock(this.#backend, buffers, block, { cache, layer, heads, causalRows: clean, from });
      });
      followUp?.run(buffers.x);
    });
    return buffers.x;
  }

  /** x[r] = the embedding of token r; then, of the rows in `masks`, the mask's own. */
  #embed({ x, tokens }: PassBuffers, masks: readonly Run[], zeros: TokenBuffer, cache: Cache): void {
    const { embedding, mask } = this.#weights;
    this.#backend.embed(x, { tokens, table: embedding, cache });
    if (mask === undefined) return;
    for (const [start, count] of masks) {
      this.#backend.embed(x.slice(start, count), { tokens: zeros, table: mask, cache });
    }
  }

  #project(logits: Activation, markov: Activation | undefined, x: Activation, norm: Norm): void {
    const { head: matrix, headBias: bias } = this.#weights;
    this.#backend.project(logits, x, { norm, matrix, bias });
    if (markov === undefined || this.#weights.markov === undefined) return;
    const { norm: plain, a, aBias } = this.#weights.markov;
    this.#backend.project(markov, x, { norm: plain, matrix: a, bias: aBias });
  }

  markovLogits(pass: DiffusionPass, row: number, previous: number | TokenBuffer): void {
    const head = this.#weights.markov;
    if (head === undefined || pass.markov === undefined) {
      throw new Error("Cannot add the Markov head's logits: the checkpoint has no Markov head");
    }
    let tokens = previous;
    if (typeof tokens === "number") {
      checkTokens([tokens], this.shape.vocabSize);
      const id = tokens;
      tokens = this.#workspace.pass(1).tokens;
      tokens.write([id]);
    }
    const mixed = this.#previous.atLeast(1); // [1, rank]
    this.#backend.multiplyEmbedding(mixed, pass.markov.slice(row, 1), { table: head.b, tokens });
    this.#backend.projectResidual(pass.logits.slice(row, 1), mixed, { matrix: head.w });
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}
