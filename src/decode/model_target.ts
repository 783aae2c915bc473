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

/** Options of {@linkcode ModelTarget}. */
export interface ModelTargetOptions {
  /** Blocks whose outputs are kept at each pass, for a drafter that wants them. Default: none. */
  readonly hiddenLayers?: readonly number[] | undefined;
}

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
  readonly #hiddenLayers: readonly number[];
  #buffers: Activation[] = [];
  #hidden: readonly Activation[] | undefined;

  /** Allocates a cache for the model's whole context. */
  constructor(model: CausalModel, backend: Backend, options: ModelTargetOptions = {}) {
    this.vocabSize = model.shape.vocabSize;
    this.contextLength = model.shape.contextLength;
    this.#model = model;
    this.#backend = backend;
    this.#hiddenLayers = options.hiddenLayers ?? [];
    this.#text = new CachedText(model.newCache());
    this.#laws = new DeviceDistributions(backend, this.vocabSize);
  }

  /** Hidden states of the rows of the last pass, [R, C] for each layer asked for. */
  get hidden(): readonly Activation[] | undefined {
    return this.#hidden;
  }

  /** Laws of the token that follows each of the last `rows` tokens; overwritten by the next call. */
  score(tokens: Int32Array, rows: number, sampling: Sampling): Distributions {
    // rows that need logits must be in this pass, however much of the text the cache holds
    const fresh = this.#text.rewind(tokens, tokens.length - rows);
    const hidden = this.#tap(fresh.length);
    const logits = this.#model.forward(fresh, this.#text.cache, { headRows: rows, ...hidden });
    this.#text.committed(fresh);
    this.#laws.resize(rows);
    this.#laws.fill(0, logits, sampling);
    return this.#laws;
  }

  /** Forgets everything after the first `length` tokens. */
  truncate(length: number): void {
    this.#text.truncate(length);
  }

  /** Buffers for the hidden states of a pass of R rows. */
  #tap(rows: number): { hidden?: { layers: readonly number[]; out: readonly Activation[] } } {
    if (this.#hiddenLayers.length === 0) return {};
    if (this.#buffers.length === 0 || this.#buffers[0].rows < rows) {
      for (const buffer of this.#buffers) buffer[Symbol.dispose]();
      this.#buffers = this.#hiddenLayers.map(() => this.#backend.activation(rows, this.#model.shape.width));
    }
    this.#hidden = this.#buffers.map((buffer) => buffer.slice(0, rows));
    return { hidden: { layers: this.#hiddenLayers, out: this.#hidden } };
  }

  /** Frees the cache and the laws. */
  [Symbol.dispose](): void {
    this.#text.cache[Symbol.dispose]();
    this.#laws[Symbol.dispose]();
    for (const buffer of this.#buffers) buffer[Symbol.dispose]();
    this.#buffers = [];
    this.#hidden = undefined;
  }
}
