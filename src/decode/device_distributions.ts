/**
 * Laws that live on a device: the bridge from a model's logits to what the sampler reads.
 *
 * @module
 */

import type { Activation, Backend, NoiseKey, Sampling, TokenBuffer } from "../backend/backend.ts";
import { LogitsError } from "../backend/distribution.ts";
import type { Distributions, Law } from "./distributions.ts";

/** A growing buffer of laws, [rows, V], filled from logits. */
export class DeviceDistributions implements Distributions, Disposable {
  readonly #backend: Backend;
  readonly #vocabSize: number;
  readonly #model: string;
  readonly #drawn: TokenBuffer;
  #laws: Activation | undefined;
  #rows = 0;

  /**
   * @param vocabSize V; further columns of the logits (a mask) are left out
   * @param model what computes the logits, for messages
   */
  constructor(backend: Backend, vocabSize: number, model: string) {
    this.#backend = backend;
    this.#vocabSize = vocabSize;
    this.#model = model;
    this.#drawn = backend.tokens(1);
  }

  /** How many rows were asked for by {@linkcode resize}. */
  get rows(): number {
    return this.#rows;
  }

  /** Makes room for `rows` laws; what was there is lost. */
  resize(rows: number): void {
    if (this.#laws === undefined || this.#laws.rows < rows) {
      this.#laws?.[Symbol.dispose]();
      this.#laws = undefined;
      this.#laws = this.#backend.activation(rows, this.#vocabSize);
    }
    this.#rows = rows;
  }

  /**
   * Writes the laws of consecutive rows.
   * @param start first row written
   * @param logits [n, ≥ V]
   * @throws {LogitsError} if they stand for no law; the message names the model
   */
  fill(start: number, logits: Activation, sampling: Sampling): void {
    try {
      this.#backend.distribution(this.#slice(start, logits.rows), logits, sampling);
    } catch (error) {
      if (error instanceof LogitsError) {
        throw new LogitsError(`${error.fault}, as ${this.#model} computed it; its weights may be damaged`);
      }
      throw error;
    }
  }

  /** Makes row j a point mass. */
  pointMass(j: number, token: number): void {
    const law = new Float32Array(this.#vocabSize);
    law[token] = 1;
    this.#slice(j, 1).write(law);
  }

  /** @inheritdoc */
  row(j: number): Law {
    return this.#slice(j, 1).read();
  }

  /** @inheritdoc */
  race(j: number, key: NoiseKey): number {
    this.#backend.sample(this.#drawn, this.#slice(j, 1), key);
    return this.#drawn.read(1)[0];
  }

  #slice(start: number, count: number): Activation {
    if (this.#laws === undefined) throw new RangeError("Cannot use laws: no rows were asked for");
    return this.#laws.slice(start, count);
  }

  /** Frees the device's memory. */
  [Symbol.dispose](): void {
    this.#laws?.[Symbol.dispose]();
    this.#laws = undefined;
    this.#drawn[Symbol.dispose]();
  }
}
