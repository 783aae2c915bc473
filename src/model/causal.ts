/**
 * An autoregressive transformer over the contract, for GPT-2 and GPT-Neo, whose weights are on the device. It knows no
 * names of tensors and reads no configuration.
 *
 * @module
 */

import type { Activation, Backend, Cache, Matrix, Norm } from "../backend/backend.ts";
import { Growing, mostRows } from "../backend/buffers.ts";
import { checkSizes } from "../backend/check.ts";
import { type Block, enqueue, newCache, runBlock, Workspace } from "./block.ts";
import { checkHeadRows, checkRoom, checkTokens } from "./check.ts";
import { type DeviceTokens, writeTokens } from "./device_tokens.ts";
import type { CausalModel, FollowUp, ForwardOptions, HiddenTap, ModelShape } from "./model.ts";
import type { Uploads } from "./uploads.ts";

/** The weights of a causal model, on the device. */
export interface CausalWeights {
  /** [V, C] */
  readonly embedding: Matrix;
  /** [positions, C] */
  readonly positions: Matrix;
  /** One per layer. */
  readonly blocks: readonly Block[];
  /** Before the head, [C]. */
  readonly finalNorm: Norm;
  /** [V, C]; the embedding itself where they are tied. */
  readonly head: Matrix;
}

/** A causal model: embedding, blocks, head. */
export class CausalTransformer implements CausalModel {
  /** Its shape. */
  readonly shape: ModelShape;
  /** Bytes of weights held on the device. */
  readonly bytes: number;
  /** [V, C] */
  readonly embedding: Matrix;
  /** [V, C] */
  readonly head: Matrix;
  readonly #backend: Backend;
  readonly #weights: CausalWeights;
  readonly #uploads: Uploads;
  readonly #chunkRows: number;
  readonly #workspace: Workspace;
  readonly #logits: Growing<Activation>;
  /** Hidden states of a pass, one layer's below the other's: the same place each time, so that it can be repeated. */
  readonly #tapped: Growing<Activation>;

  /**
   * @param uploads what holds `weights`; freed with the model
   * @param chunkRows the most rows computed at once
   */
  constructor(
    backend: Backend,
    shape: ModelShape,
    weights: CausalWeights,
    uploads: Uploads,
    chunkRows: number = mostRows(backend),
  ) {
    checkSizes("load a model", { chunkRows });
    this.shape = shape;
    this.bytes = uploads.bytes;
    this.embedding = weights.embedding;
    this.head = weights.head;
    this.#backend = backend;
    this.#weights = weights;
    this.#uploads = uploads;
    this.#chunkRows = chunkRows;
    this.#workspace = new Workspace(backend, shape.width, weights.blocks[0].up.outputs);
    this.#logits = new Growing((rows) => backend.activation(rows, shape.vocabSize));
    this.#tapped = new Growing((rows) => backend.activation(rows, shape.width));
  }

  /** @inheritdoc */
  newCache(capacity: number = this.shape.contextLength): Cache {
    return newCache(this.#backend, this.#weights.blocks[0], this.shape, capacity);
  }

  /** @inheritdoc */
  forward(tokens: ArrayLike<number>, cache: Cache, options: ForwardOptions = {}): Activation {
    const rows = tokens.length, { headRows = 1, hidden, drafted, followUp } = options;
    checkTokens(tokens, this.shape.vocabSize, drafted);
    checkHeadRows(headRows, rows);
    if (hidden !== undefined) this.#checkTap(hidden, rows);
    checkRoom("context", cache.length, rows, this.shape.contextLength);
    checkRoom("cache", cache.length, rows, cache.capacity);
    const logits = this.#logits.atLeast(headRows).slice(0, headRows); // [headRows, V]
    const ids = Int32Array.from(tokens);
    for (let start = 0; start < rows; start += this.#chunkRows) {
      const count = Math.min(this.#chunkRows, rows - start);
      const end = start + count, first = Math.min(end, Math.max(start, rows - headRows));
      const of = drafted && { tokens: drafted.tokens, at: drafted.at - start };
      const out = first < end ? logits.slice(first - (rows - headRows), end - first) : undefined;
      const last = end === rows && followUp !== undefined
        ? { ...followUp, run: () => followUp.run(logits) }
        : undefined;
      this.#chunk(ids.subarray(start, end), of, cache, { start, logits: out, hidden, followUp: last });
    }
    return logits;
  }

  /**
   * Runs and commits tokens that stand at `start` of this pass. The last of them have a head, as many as `logits` has
   * rows; the last block stops after attention for the others.
   */
  #chunk(
    tokens: Int32Array,
    drafted: DeviceTokens | undefined,
    cache: Cache,
    { start, logits, hidden, followUp }: {
      readonly start: number;
      readonly logits: Activation | undefined;
      readonly hidden: HiddenTap | undefined;
      readonly followUp: FollowUp<void> | undefined;
    },
  ): void {
    const rows = tokens.length, head = rows - (logits?.rows ?? 0);
    const buffers = this.#workspace.pass(rows);
    const { embedding: table, positions, blocks, finalNorm: norm, head: matrix } = this.#weights;
    const layers = hidden?.layers ?? [];
    const all = layers.length > 0 ? this.#tapped.atLeast(layers.length * rows) : undefined;
    const tapped = layers.map((_, i) => all!.slice(i * rows, rows)); // [R, C] each
    writeTokens(this.#backend, buffers.tokens, tokens, drafted);
    const key = `head ${head} hidden ${layers} then ${followUp?.key}`;
    const uses = [...(logits ? [logits] : []), ...(followUp?.uses ?? [])];
    enqueue(this.#backend, { cache, rows, key, uses }, () => {
      this.#backend.embed(buffers.x, { tokens: buffers.tokens, table, positions, cache });
      blocks.forEach((block, layer) => {
        const from = layer === blocks.length - 1 && !layers.includes(layer) ? head : 0;
        const { heads } = this.shape;
        runBlock(this.#backend, buffers, block, { cache, layer, heads, causalRows: rows, from });
        layers.forEach((wanted, i) => {
          if (wanted === layer) this.#backend.copy(tapped[i], buffers.x);
        });
      });
      if (logits !== undefined) {
        this.#backend.project(logits, buffers.x.slice(head, rows - head), { norm, matrix });
      }
      followUp?.run();
    });
    // outside the recorded pass, as the caller may give other buffers each time
    tapped.forEach((states, i) => this.#backend.copy(hidden!.out[i].slice(start, rows), states));
    cache.advance(rows);
  }

  #checkTap({ layers, out }: HiddenTap, rows: number): void {
    if (layers.length !== out.length) {
      throw new RangeError(`Cannot tap ${layers.length} blocks: there are ${out.length} buffers for them`);
    }
    layers.forEach((layer, i) => {
      if (!(Number.isInteger(layer) && layer >= 0 && layer < this.shape.layers)) {
        throw new RangeError(`Cannot tap block ${layer}: it is not in [0, ${this.shape.layers})`);
      }
      if (out[i].rows !== rows || out[i].columns !== this.shape.width) {
        throw new RangeError(
          `Cannot tap block ${layer}: its buffer has shape [${out[i].rows}, ${out[i].columns}], ` +
            `expected [${rows}, ${this.shape.width}]`,
        );
      }
    });
  }

  /** Frees weights and buffers; caches are their owners'. */
  [Symbol.dispose](): void {
    this.#uploads[Symbol.dispose]();
    this.#workspace[Symbol.dispose]();
    this.#logits[Symbol.dispose]();
    this.#tapped[Symbol.dispose]();
  }
}
