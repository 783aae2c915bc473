/**
 * A causal model as the target of speculative decoding: a cache, and laws from its logits.
 *
 * @module
 */

import type { Activation, Backend, Sampling } from "../backend/backend.ts";
import type { CausalModel } from "../model/model.ts";
import { CachedText } from "./cached_text.ts";
import { DeviceDistributions } from "./device_distributions.ts";
import type { Distributions } from "./distributions.ts";
import type { Target } from "./drafter.ts";
import { takeTurns } from "./event_loop.ts";

/** The most tokens per pass over what is only read, a prompt: between passes others have their turn. */
const READ_ROWS = 128;

/** One sequence of a causal model. The model is borrowed: disposing of this leaves it alone. */
export class ModelTarget implements Target, Disposable {
  /** V */
  readonly vocabSize: number;
  /** The most tokens a text may have. */
  readonly contextLength: number;
  readonly #model: CausalModel;
  readonly #backend: Backend;
  readonly #text: CachedText;
  readonly #laws: DeviceDistributions;
  #hiddenLayers: readonly number[] = [];
  /** For each layer, [context, C]: row i belongs to token i, so that a roll-back leaves nothing to be done. */
  #hidden: readonly Activation[] = [];

  /** Allocates a cache for the model's whole context. */
  constructor(model: CausalModel, backend: Backend) {
    this.vocabSize = model.shape.vocabSize;
    this.contextLength = model.shape.contextLength;
    this.#model = model;
    this.#backend = backend;
    this.#text = new CachedText(model.newCache());
    this.#laws = new DeviceDistributions(backend, this.vocabSize, "the target");
  }

  /** Laws of the token that follows each of the last `rows` tokens; overwritten by the next call. */
  async score(tokens: Int32Array, rows: number, sampling: Sampling): Promise<Distributions> {
    // rows that need logits must be in the last pass, however much of the text the cache holds
    let fresh = this.#text.rewind(tokens, tokens.length - rows);
    for (let turn = performance.now(); fresh.length > READ_ROWS + rows; turn = await takeTurns(turn)) {
      this.#read(fresh.subarray(0, READ_ROWS), 1);
      fresh = fresh.subarray(READ_ROWS);
    }
    const logits = this.#read(fresh, rows);
    this.#laws.resize(rows);
    this.#laws.fill(0, logits, sampling);
    return this.#laws;
  }

  /** One pass. */
  #read(tokens: Int32Array, headRows: number): Activation {
    const { length } = this.#text;
    const out = this.#hidden.map((states) => states.slice(length, tokens.length)); // [R, C] each
    const hidden = { layers: this.#hiddenLayers, out };
    const logits = this.#model.forward(tokens, this.#text.cache, { headRows, hidden }); // [headRows, V]
    this.#text.committed(tokens);
    return logits;
  }

  /** Forgets everything after the first `length` tokens. */
  truncate(length: number): void {
    this.#text.truncate(length);
  }

  /**
   * Keeps the outputs of these blocks from now on. If they are others than before, the text is forgotten, so that
   * those of all its tokens will be there.
   *
   * @throws {RangeError} if there is no such block
   */
  keepHidden(layers: readonly number[]): void {
    const { layers: count, width } = this.#model.shape;
    for (const layer of layers) {
      if (!(Number.isInteger(layer) && layer >= 0 && layer < count)) {
        throw new RangeError(`Cannot keep hidden states: layer ${layer} is not in [0, ${count})`);
      }
    }
    if (String(layers) === String(this.#hiddenLayers)) return;
    this.#freeHidden();
    this.#hidden = layers.map(() => this.#backend.activation(this.contextLength, width));
    this.#hiddenLayers = [...layers];
    if (layers.length > 0) this.truncate(0);
  }

  /** What is kept, [n, C] for each layer, of the n tokens seen; nothing before there are any. */
  get hidden(): readonly Activation[] | undefined {
    const { length } = this.#text;
    return length > 0 && this.#hidden.length > 0
      ? this.#hidden.map((states) => states.slice(0, length))
      : undefined;
  }

  #freeHidden(): void {
    for (const states of this.#hidden) states[Symbol.dispose]();
    this.#hidden = [];
    this.#hiddenLayers = [];
  }

  /** Frees the cache, the laws and the hidden states. */
  [Symbol.dispose](): void {
    this.#text.cache[Symbol.dispose]();
    this.#laws[Symbol.dispose]();
    this.#freeHidden();
  }
}
