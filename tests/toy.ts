/**
 * Models small enough to know everything about: tables over three or four tokens behind the same interfaces
 * as GPT-2 and SEDD, so that the drafters, targets and loops that ship run over them unchanged.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Activation, Backend, Cache, Matrix, Sampling } from "../src/backend/backend.ts";
import { writeDistribution } from "../src/backend/distribution.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { AutoregressiveDrafter } from "../src/decode/autoregressive_drafter.ts";
import { DiffusionDrafter, type DiffusionDrafterOptions } from "../src/decode/diffusion_drafter.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { PhiloxSource, Purpose } from "../src/decode/random.ts";
import type {
  CausalModel,
  DiffusionModel,
  DiffusionPass,
  HiddenTap,
  ModelShape,
} from "../src/model/model.ts";

/** Rows of logits by key. */
export type Table = (key: string) => Float32Array;

/**
 * A table of random rows: logarithms of Dirichlet laws.
 *
 * @param columns V
 * @param concentration of the Dirichlet law: below 1, most weight is on few tokens
 */
export function randomTable(columns: number, seed: number, concentration = 0.7): Table {
  const rows = new Map<string, Float32Array>();
  const random = new PhiloxSource(seed);
  return (key) => {
    let row = rows.get(key);
    if (row === undefined) {
      const position = hash(key);
      let draw = 0;
      const uniform = (): number => random.uniform(Purpose.draft, position, draw++);
      row = Float32Array.from({ length: columns }, () => Math.log(gamma(concentration, uniform)));
      rows.set(key, row);
    }
    return row;
  };
}

/** FNV-1a, so that a row depends on its key alone. */
function hash(key: string): number {
  let state = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) state = Math.imul(state ^ key.charCodeAt(i), 0x01000193);
  return state >>> 0;
}

/** A gamma variate by rejection from a Weibull law (Devroye 1986, IX.3.6). */
function gamma(shape: number, uniform: () => number): number {
  const c = 1 / shape, d = shape ** (shape / (1 - shape)) * (1 - shape);
  for (;;) {
    const z = -Math.log(uniform()), e = -Math.log(uniform());
    const x = z ** c;
    if (z + e >= d + x) return x;
  }
}

/** exp, normalised, [V]. */
function softmax(logits: Float32Array): number[] {
  const weights = Array.from(logits, Math.exp);
  const total = weights.reduce((sum, w) => sum + w, 0);
  return weights.map((w) => w / total);
}

/** Remembers the tokens themselves in place of keys and values. */
class ToyCache implements Cache {
  readonly layers = 1;
  readonly width = 1;
  readonly capacity: number;
  readonly tokens: number[] = [];

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  get length(): number {
    return this.tokens.length;
  }

  append(tokens: readonly number[]): void {
    if (this.length + tokens.length > this.capacity) throw new RangeError("the cache is full");
    this.tokens.push(...tokens);
  }

  advance(): void {
    throw new Error("a toy commits by appending");
  }

  truncate(length: number): void {
    if (length > this.length) throw new RangeError(`cannot truncate ${this.length} to ${length}`);
    this.tokens.length = length;
  }

  [Symbol.dispose](): void {}
}

function tokensOf(cache: Cache): readonly number[] {
  return (cache as ToyCache).tokens;
}

/** Wide enough for a hidden state that is the text so far. */
function shape(vocabSize: number, contextLength: number): ModelShape {
  return { vocabSize, contextLength, layers: 1, width: contextLength, heads: 1 };
}

/** What stands after the text in a hidden state. */
const NOTHING = -1;

/** An autoregressive model whose logits are looked up by the whole text, and whose hidden states are the text. */
export class ToyCausalModel implements CausalModel {
  readonly shape: ModelShape;
  readonly bytes = 0;
  readonly #backend: Backend;
  readonly #table: Table;

  constructor(backend: Backend, table: Table, vocabSize: number, contextLength: number) {
    this.#backend = backend;
    this.#table = table;
    this.shape = shape(vocabSize, contextLength);
  }

  get embedding(): Matrix {
    throw new Error("a toy has no matrices");
  }

  get head(): Matrix {
    return this.embedding;
  }

  newCache(capacity: number = this.shape.contextLength): Cache {
    return new ToyCache(capacity);
  }

  /** Logits that follow a text, [V]. */
  logits(text: readonly number[]): Float32Array {
    return this.#table(text.join());
  }

  /** The law that follows a text, [V], in float64: what the rows of f32 stand for. */
  law(text: readonly number[], sampling: Sampling = {}): number[] {
    const row = new Float32Array(this.shape.vocabSize);
    writeDistribution(row, this.logits(text), sampling);
    const total = row.reduce((sum, p) => sum + p, 0);
    return Array.from(row, (p) => p / total);
  }

  /** The joint law of the `count` tokens that follow a text, by `tokens.join()`. */
  joint(text: readonly number[], count: number, sampling: Sampling = {}): Map<string, number> {
    let laws = new Map<string, number>([["", 1]]);
    for (let i = 0; i < count; i++) {
      const longer = new Map<string, number>();
      for (const [key, probability] of laws) {
        const tokens = key === "" ? [] : key.split(",").map(Number);
        this.law([...text, ...tokens], sampling).forEach((p, token) => {
          if (p > 0) longer.set([...tokens, token].join(), probability * p);
        });
      }
      laws = longer;
    }
    return laws;
  }

  forward(
    tokens: ArrayLike<number>,
    cache: Cache,
    { headRows = 1, hidden }: { readonly headRows?: number; readonly hidden?: HiddenTap | undefined } = {},
  ): Activation {
    if (headRows > tokens.length) {
      throw new RangeError(`${headRows} rows of logits from ${tokens.length} tokens`);
    }
    (cache as ToyCache).append(Array.from(tokens));
    const text = tokensOf(cache), first = text.length - tokens.length;
    for (const out of hidden?.out ?? []) {
      const states = new Float32Array(this.shape.width).fill(NOTHING);
      states.set(text.slice(0, first));
      for (let r = 0; r < tokens.length; r++) {
        states[first + r] = tokens[r];
        out.slice(r, 1).write(states);
      }
    }
    const logits = this.#backend.activation(headRows, this.shape.vocabSize);
    for (let r = 0; r < headRows; r++) {
      logits.slice(r, 1).write(this.logits(text.slice(0, text.length - headRows + 1 + r)));
    }
    return logits;
  }

  [Symbol.dispose](): void {}
}

/** How a {@linkcode ToyDiffusionModel} is made. */
export interface ToyDiffusionOptions {
  readonly prefixAttention?: DiffusionModel["prefixAttention"];
  /** Rows of [V], added to the logits by the token left of a position. */
  readonly markov?: Table;
  /** Mixes the target's own conditional laws into those of the table, with the weight `share`. */
  readonly informed?: { readonly target: ToyCausalModel; readonly share: number };
}

/** A diffusion model whose logits are looked up by the text and what is revealed of the window. */
export class ToyDiffusionModel implements DiffusionModel {
  readonly shape: ModelShape;
  readonly bytes = 0;
  readonly prefixAttention: DiffusionModel["prefixAttention"];
  readonly hiddenLayers: readonly number[];
  readonly hasMarkovHead: boolean;
  readonly #backend: Backend;
  readonly #table: Table;
  readonly #options: ToyDiffusionOptions;
  readonly #rows = new Map<string, Float32Array>();

  constructor(
    backend: Backend,
    table: Table,
    vocabSize: number,
    contextLength: number,
    options: ToyDiffusionOptions = {},
  ) {
    this.#backend = backend;
    this.#table = table;
    this.#options = options;
    this.shape = shape(vocabSize, contextLength);
    this.prefixAttention = options.prefixAttention ?? "bidirectional";
    this.hiddenLayers = this.prefixAttention === "target" ? [0] : [];
    this.hasMarkovHead = options.markov !== undefined;
  }

  newCache(capacity: number = this.shape.contextLength): Cache {
    return new ToyCache(capacity);
  }

  feed([states]: readonly Activation[], cache: Cache): void {
    for (let r = 0; r < states.rows; r++) {
      const text = Array.from(states.slice(r, 1).read()).filter((token) => token !== NOTHING);
      const last = text.pop()!;
      assert.deepEqual(tokensOf(cache), text, "fed the hidden states of another text");
      (cache as ToyCache).append([last]);
    }
  }

  denoise(
    tokens: ArrayLike<number>,
    cache: Cache,
    _sigma: number,
    options: { readonly cleanRows: number; readonly head: readonly number[]; readonly keep?: number },
  ): DiffusionPass {
    const { head, keep = 0 } = options;
    // fed by the target, the last token of the text is the first of the window
    const cleanRows = this.prefixAttention === "target" ? 1 : options.cleanRows;
    const clean = Array.from(tokens), window = clean.splice(cleanRows);
    const text = [...tokensOf(cache), ...clean];
    if (this.prefixAttention === "causal") (cache as ToyCache).append(clean);
    // a row that is kept tells of all that it saw
    (cache as ToyCache).append(
      clean.slice(0, keep).map((token) => hash(`${token} of ${text.join()} | ${window.join()}`)),
    );
    const logits = this.#backend.activation(head.length, this.shape.vocabSize + 1);
    for (let r = 0; r < head.length; r++) {
      const row = new Float32Array(this.shape.vocabSize + 1).fill(9); // the mask: likely, and never to be drawn
      row.set(this.#logits(text, window, head[r] - cleanRows));
      logits.slice(r, 1).write(row);
    }
    return { logits, markov: undefined };
  }

  markovLogits(pass: DiffusionPass, row: number, previous: number): void {
    const logits = pass.logits.slice(row, 1);
    const sum = logits.read().slice();
    this.#options.markov!(`${previous}`).forEach((y, v) => sum[v] += y);
    logits.write(sum);
  }

  #logits(text: readonly number[], window: readonly number[], index: number): Float32Array {
    const key = `${text.join()} | ${window.join()} | ${index}`;
    let row = this.#rows.get(key);
    if (row === undefined) {
      row = this.#table(key);
      if (this.#options.informed !== undefined) {
        const { target, share } = this.#options.informed;
        const other = softmax(row);
        row = Float32Array.from(
          conditional(target, text, window, index),
          (p, v) => Math.log(share * p + (1 - share) * other[v]),
        );
      }
      this.#rows.set(key, row);
    }
    return row;
  }

  [Symbol.dispose](): void {}
}

/** The target's law of a position given the text and the revealed tokens of a window, whatever side they are on. */
function conditional(
  target: ToyCausalModel,
  text: readonly number[],
  window: readonly number[],
  index: number,
): number[] {
  const { vocabSize } = target.shape; // also the mask
  const weights = new Array<number>(vocabSize).fill(0);
  for (const [key, probability] of target.joint(text, window.length)) {
    const tokens = key.split(",").map(Number);
    if (tokens.every((token, j) => window[j] === vocabSize || window[j] === token)) {
      weights[tokens[index]] += probability;
    }
  }
  const total = weights.reduce((sum, w) => sum + w, 0);
  return weights.map((w) => w / total);
}

const backend = createReferenceBackend();

/** A random target over V tokens and, from other tables, whatever drafts for it: all of it made by what ships. */
export class ToyPair {
  readonly model: ToyCausalModel;
  readonly target: ModelTarget;
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly #seed: number;

  constructor(seed: number, vocabSize = 3, contextLength = 32) {
    this.#seed = seed;
    this.vocabSize = vocabSize;
    this.contextLength = contextLength;
    this.model = this.#causal(0);
    this.target = new ModelTarget(this.model, backend);
  }

  /** A bidirectional diffusion drafter. */
  diffusion(options: DiffusionDrafterOptions & { readonly share?: number }): DiffusionDrafter {
    const { share = 0 } = options;
    return this.#diffusion(options, share > 0 ? { informed: { target: this.model, share } } : {});
  }

  /** A diffusion drafter with a causal prefix and a Markov head. */
  markov(options: DiffusionDrafterOptions): DiffusionDrafter {
    return this.#diffusion(options, { prefixAttention: "causal", markov: this.#table(2) });
  }

  /** A diffusion drafter with a prefix made of the target's hidden states, and a Markov head. */
  fed(options: DiffusionDrafterOptions): DiffusionDrafter {
    return this.#diffusion(options, { prefixAttention: "target", markov: this.#table(2) });
  }

  /** An autoregressive drafter. */
  autoregressive(): AutoregressiveDrafter {
    return new AutoregressiveDrafter(this.#causal(3), backend);
  }

  #causal(part: number): ToyCausalModel {
    return new ToyCausalModel(backend, this.#table(part), this.vocabSize, this.contextLength);
  }

  #diffusion(options: DiffusionDrafterOptions, model: ToyDiffusionOptions): DiffusionDrafter {
    const toy = new ToyDiffusionModel(backend, this.#table(1), this.vocabSize, this.contextLength, model);
    return new DiffusionDrafter(toy, backend, options);
  }

  #table(part: number): Table {
    return randomTable(this.vocabSize, 10 * this.#seed + part);
  }
}
