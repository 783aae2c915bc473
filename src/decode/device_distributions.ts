/**
 * Distributions on a device: made there from a model's logits, and read by the sampler.
 *
 * Deliberately absent: decisions. Only requested rows are read.
 *
 * @module
 */

import type {
  Activation,
  Backend,
  DrawOptions,
  NoiseKey,
  Sampling,
  TokenBuffer,
} from "../backend/backend.ts";
import { Growing } from "../backend/buffers.ts";
import { LogitsError } from "../backend/distribution.ts";
import type { Distributions, Law } from "./distributions.ts";

/**
 * Runs `body`. If it throws a LogitsError, at once or reported late by a device, the error is rethrown with the name of
 * the model that computed the logits.
 * @param model what computed them, unless the device blames the drafter
 * @throws {LogitsError} naming the model
 */
export function blaming<T>(model: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (!(error instanceof LogitsError)) throw error;
    throw new LogitsError(
      `${error.fault}, as ${
        error.drafted ? "the drafter" : model
      } computed it; its weights may be damaged, or its ` +
        "dtype too narrow",
    );
  }
}

/** A growing buffer of distributions, [rows, V], filled from logits. */
export class DeviceDistributions implements Distributions, Disposable {
  readonly #backend: Backend;
  readonly #vocabSize: number;
  readonly #model: string;
  readonly #drawn: Growing<TokenBuffer>;
  #laws: Activation | undefined;
  /** Rows that hold distributions. */
  readonly #filled = new Set<number>();
  /** Tokens of rows from `first` on, drawn in advance with the noise of row 0's `key`. */
  #ahead: { readonly key: NoiseKey; readonly first: number; readonly tokens: Int32Array } | undefined;

  /**
   * @param vocabSize V; further columns of the logits (the mask) are ignored
   * @param model what computes the logits, for messages
   */
  constructor(backend: Backend, vocabSize: number, model: string) {
    this.#backend = backend;
    this.#vocabSize = vocabSize;
    this.#model = model;
    this.#drawn = new Growing((size) => backend.tokens(size));
  }

  /** Makes room for `rows` distributions, [rows, V], and discards the previous ones. */
  resize(rows: number): Activation {
    if (this.#laws === undefined || this.#laws.rows < rows) {
      this.#laws?.[Symbol.dispose]();
      this.#laws = undefined;
      this.#laws = this.#backend.activation(rows, this.#vocabSize);
    }
    this.#filled.clear();
    this.#ahead = undefined;
    return this.slice(0, rows);
  }

  /**
   * Writes the distributions of consecutive rows.
   * @param start first row written
   * @param logits [n, ≥ V]
   * @throws {LogitsError} if they do not define a distribution; the message names the model
   */
  fill(start: number, logits: Activation, sampling: Sampling): void {
    this.#changes(start, logits.rows);
    blaming(this.#model, () => {
      this.#backend.distribution(this.slice(start, logits.rows), logits, sampling);
    });
  }

  /** Makes row j a point mass. */
  pointMass(j: number, token: number): void {
    const law = new Float32Array(this.#vocabSize);
    law[token] = 1;
    this.#changes(j, 1);
    this.slice(j, 1).write(law);
  }

  /** @inheritdoc */
  row(j: number): Law {
    return blaming(this.#model, () => this.slice(j, 1).read());
  }

  /** @inheritdoc */
  race(j: number, key: NoiseKey): number {
    const drawn = this.#ahead, origin = key.position - j;
    if (
      drawn !== undefined && j >= drawn.first && j < drawn.first + drawn.tokens.length &&
      drawn.key.seed === key.seed && drawn.key.purpose === key.purpose && drawn.key.position === origin
    ) {
      return drawn.tokens[j - drawn.first];
    }
    let end = j + 1;
    while (this.#backend.decisions !== undefined && this.#filled.has(end)) end++;
    const count = end - j, buffer = this.#drawn.atLeast(count);
    this.#backend.sample(buffer, this.slice(j, count), key);
    const tokens = blaming(this.#model, () => buffer.read(count).slice());
    this.#ahead = { key: { ...key, position: origin }, first: j, tokens };
    return tokens[0];
  }

  /** Enqueues draws from rows [start, start + count) on a device that has {@linkcode Backend.decisions}. */
  draw(out: TokenBuffer, start: number, count: number, options: DrawOptions): void {
    this.#backend.decisions!.draw(out, this.slice(start, count), options);
  }

  #changes(start: number, count: number): void {
    for (let j = start; j < start + count; j++) this.#filled.add(j);
    this.#ahead = undefined;
  }

  /** Rows [start, start + count) on the device, [count, V]. */
  slice(start: number, count: number): Activation {
    if (this.#laws === undefined) {
      throw new RangeError("Cannot use distributions: there are no rows, expected a call of resize");
    }
    return this.#laws.slice(start, count);
  }

  /** Frees the device's memory. */
  [Symbol.dispose](): void {
    this.#laws?.[Symbol.dispose]();
    this.#laws = undefined;
    this.#drawn[Symbol.dispose]();
  }
}
