/**
 * A causal model as the target of speculative decoding: a cache, and distributions from its logits.
 *
 * Deliberately absent: acceptance rules, and the model itself, which several targets may share.
 *
 * @module
 */

import type { Activation, Backend, DeviceRound, Sampling, TokenBuffer } from "../backend/backend.ts";
import { Growing, mostRows } from "../backend/buffers.ts";
import { UNKNOWN } from "../model/device_tokens.ts";
import type { CausalModel, FollowUp } from "../model/model.ts";
import { type Rule, testOf } from "./acceptance.ts";
import { CachedText } from "./cached_text.ts";
import { blaming, DeviceDistributions } from "./device_distributions.ts";
import type { Distributions } from "./distributions.ts";
import { type DeviceDraft, type DeviceVerdict, type Draft, isOnDevice, type Target } from "./drafter.ts";
import { Purpose } from "./random.ts";

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
  readonly #drafted: Growing<TokenBuffer>;
  readonly #useQ: Growing<TokenBuffer>;
  readonly #verdict: Growing<TokenBuffer>;
  #round: DeviceRound | undefined;
  #hiddenLayers: readonly number[] = [];
  /** For each layer, [context, C]. Row i belongs to token i, so a roll-back needs no change here. */
  #hidden: Activation[] = [];

  /**
   * Allocates a cache.
   * @param capacity the most tokens a text will have. @default the model's context, which it may not exceed
   */
  constructor(model: CausalModel, backend: Backend, capacity: number = model.shape.contextLength) {
    this.vocabSize = model.shape.vocabSize;
    this.contextLength = capacity;
    this.#model = model;
    this.#backend = backend;
    this.#text = new CachedText(model.newCache(capacity));
    this.#laws = new DeviceDistributions(backend, this.vocabSize, "the target");
    const tokens = () => new Growing((size) => backend.tokens(size));
    this.#drafted = tokens();
    this.#useQ = tokens();
    this.#verdict = tokens();
  }

  /** Distributions of the token after each of the last `rows` tokens; overwritten by the next call. */
  async score(
    tokens: Int32Array,
    rows: number,
    sampling: Sampling,
    signal?: AbortSignal,
  ): Promise<Distributions> {
    const fresh = await this.#catchUp(tokens, rows, signal);
    // before any await: the model's logits are those of its last pass, whichever text that was for
    this.#laws.resize(rows);
    this.#laws.fill(0, this.#read(fresh, rows), sampling);
    return this.#laws;
  }

  /** Begins a round, if the backend can make its decisions. */
  beginOnDevice(seed: bigint, start: number): DeviceRound | undefined {
    const { decisions } = this.#backend;
    if (decisions === undefined) return undefined;
    this.#round ??= decisions.round();
    this.#round.begin(seed, start);
    return this.#round;
  }

  /** Scores and tests a draft. The host reads only the tokens and the verdict, in one read. */
  async verifyOnDevice(
    text: Int32Array,
    draft: DeviceDraft | Draft,
    rule: Rule,
    sampling: Sampling,
    signal?: AbortSignal,
  ): Promise<DeviceVerdict> {
    const round = this.#round, { decisions } = this.#backend;
    if (round === undefined || decisions === undefined) {
      throw new Error("Cannot verify a draft on the device: no round was begun");
    }
    const { test, useQ } = testOf(rule, draft.steps), n = draft.steps.length;
    const proposal = new Int32Array(text.length + n).fill(UNKNOWN);
    proposal.set(text);
    let tokens: TokenBuffer, q: Activation | undefined;
    if (isOnDevice(draft)) {
      ({ tokens, q } = draft);
    } else {
      proposal.set(draft.tokens, text.length);
      tokens = this.#drafted.atLeast(n + 1);
      tokens.write(draft.tokens);
    }
    round.drafted();
    const fresh = await this.#catchUp(proposal, n + 1, signal);
    const pointMasses = q !== undefined && useQ?.includes(false) === true;
    const flags = pointMasses ? this.#useQ.atLeast(n) : undefined;
    flags?.write(useQ!.map(Number));
    const verdict = this.#verdict.atLeast(3 + n), p = this.#laws.resize(n + 1);
    this.#read(fresh, n + 1, tokens, {
      key: `${test} ${n} ${q !== undefined} ${JSON.stringify(sampling)}`,
      uses: [p, ...(q ? [q] : []), ...(flags ? [flags] : []), tokens, verdict, round],
      run: (logits) => {
        this.#laws.fill(0, logits, sampling);
        decisions.accept(verdict, { round, test, p, q, useQ: flags, draft: tokens, purposes: Purpose });
      },
    });
    const [accepted, token, bonus, ...ids] = blaming("the target", () => verdict.read(3 + n));
    const drafted = Int32Array.from(ids);
    if (isOnDevice(draft)) this.#text.committed(drafted);
    return { accepted, token, bonus: bonus === 1, draft: drafted, draftMs: round.draftMs };
  }

  /** Reads the new part of a text, except a piece with the last `rows` tokens, which need logits. */
  #catchUp(tokens: Int32Array, rows: number, signal: AbortSignal | undefined): Promise<Int32Array> {
    return this.#text.catchUp(tokens, {
      keep: rows,
      mostRows: mostRows(this.#backend),
      read: (piece) => this.#read(piece, 1),
      signal,
    });
  }

  /** One pass. Unknown tokens are not recorded. */
  #read(
    tokens: Int32Array,
    headRows: number,
    drafted?: TokenBuffer,
    followUp?: FollowUp<Activation>,
  ): Activation {
    const { length } = this.#text;
    const out = this.#hidden.map((states) => states.slice(length, tokens.length)); // [R, C] each
    const unknown = tokens.indexOf(UNKNOWN), known = unknown < 0 ? tokens.length : unknown;
    const logits = this.#model.forward(tokens, this.#text.cache, {
      headRows,
      hidden: out.length > 0 ? { layers: this.#hiddenLayers, out } : undefined,
      drafted: unknown < 0 || drafted === undefined ? undefined : { tokens: drafted, at: unknown },
      followUp,
    }); // [headRows, V]
    this.#text.committed(tokens.subarray(0, known));
    return logits;
  }

  /** Forgets everything after the first `length` tokens. */
  truncate(length: number): void {
    this.#text.truncate(length);
  }

  /**
   * Keeps the outputs of these blocks from now on. If the blocks change, the text is forgotten, so that it is computed
   * again with the outputs of all its tokens.
   *
   * @throws {RangeError} if there is no such block
   */
  keepHidden(layers: readonly number[]): void {
    const { layers: count, width } = this.#model.shape;
    for (const layer of layers) {
      if (!(Number.isInteger(layer) && layer >= 0 && layer < count)) {
        throw new RangeError(
          `Cannot keep hidden states: a layer is ${layer}, expected an integer in [0, ${count})`,
        );
      }
    }
    if (String(layers) === String(this.#hiddenLayers)) return;
    this.#freeHidden();
    try {
      for (const _ of layers) this.#hidden.push(this.#backend.activation(this.contextLength, width));
    } catch (error) {
      this.#freeHidden();
      throw error;
    }
    this.#hiddenLayers = [...layers];
    if (layers.length > 0) this.truncate(0);
  }

  /** The kept states of a text's tokens, [n, C] for each layer. Only unseen tokens are computed. */
  async hiddenOf(tokens: Int32Array, signal?: AbortSignal): Promise<readonly Activation[]> {
    const fresh = await this.#catchUp(tokens, 0, signal);
    if (fresh.length > 0) this.#read(fresh, 1);
    return this.#hidden.map((states) => states.slice(0, tokens.length));
  }

  #freeHidden(): void {
    for (const states of this.#hidden) states[Symbol.dispose]();
    this.#hidden = [];
    this.#hiddenLayers = [];
  }

  /** Frees the cache, the distributions and the hidden states. */
  [Symbol.dispose](): void {
    this.#text.cache[Symbol.dispose]();
    this.#laws[Symbol.dispose]();
    for (const tokens of [this.#drafted, this.#useQ, this.#verdict]) tokens[Symbol.dispose]();
    this.#round?.[Symbol.dispose]();
    this.#freeHidden();
  }
}
