/**
 * The classical drafter (Leviathan et al. 2023; Chen et al. 2023): a smaller autoregressive model with the
 * target's vocabulary that drafts token by token, γ passes to a draft.
 *
 * @module
 */

import type { Backend, DeviceRound, TokenBuffer } from "../backend/backend.ts";
import { Growing } from "../model/block.ts";
import { UNKNOWN } from "../model/device_tokens.ts";
import type { CausalModel } from "../model/model.ts";
import { CachedText } from "./cached_text.ts";
import { DeviceDistributions } from "./device_distributions.ts";
import { type DeviceDraft, type Draft, type Drafter, type DraftRequest, NO_DRAFT } from "./drafter.ts";
import { propose, proposeOnDevice } from "./propose.ts";

/** Drafts with a causal model. The model is borrowed: disposing of this leaves it alone. */
export class AutoregressiveDrafter implements Drafter {
  /** For people and statistics. */
  readonly name: string = "autoregressive";
  /** V */
  readonly vocabSize: number;
  /** Every token is drawn given all tokens left of it. */
  readonly leftToRight: boolean = true;
  readonly #model: CausalModel;
  readonly #backend: Backend;
  readonly #text: CachedText;
  readonly #q: DeviceDistributions;
  /** What the device drew. */
  readonly #drafted: Growing<TokenBuffer>;

  /** Allocates a cache for the model's whole context. */
  constructor(model: CausalModel, backend: Backend) {
    this.vocabSize = model.shape.vocabSize;
    this.#model = model;
    this.#backend = backend;
    this.#drafted = new Growing((size) => backend.tokens(size));
    this.#text = new CachedText(model.newCache());
    this.#q = new DeviceDistributions(backend, this.vocabSize, `the drafter (${this.name})`);
  }

  /** Drafts up to γ tokens, fewer at the end of its context and none beyond it. */
  draft(request: DraftRequest): Draft {
    const tokens = new Int32Array(this.#length(request));
    if (tokens.length === 0) return NO_DRAFT;
    this.#run(request, tokens.length, (j) => tokens[j] = propose(this.#q, j, request));
    return { tokens, q: this.#q, steps: tokens.map((_, j) => j), passes: tokens.length };
  }

  /** The same without waiting for any of the tokens. */
  draftOnDevice(request: DraftRequest, round: DeviceRound): DeviceDraft | undefined {
    const gamma = this.#length(request);
    if (round.backend !== this.#backend || gamma === 0) return undefined;
    const tokens = this.#drafted.atLeast(gamma);
    this.#run(request, gamma, (j) => {
      proposeOnDevice(this.#q, j, 1, request, round, tokens);
      return tokens.slice(j, 1);
    });
    return {
      tokens,
      q: this.#q.slice(0, gamma),
      steps: Int32Array.from({ length: gamma }, (_, j) => j),
      passes: gamma,
      settle: (drafted) => this.#text.committed(drafted.subarray(0, gamma - 1)),
    };
  }

  /** The last drafted token is never read by the drafter, so it may stand one past the context. */
  #length({ gamma, tokens }: DraftRequest): number {
    return Math.max(0, Math.min(gamma, this.#model.shape.contextLength - tokens.length + 1));
  }

  /** @param draw the token at an index, from its row of q, or where the device has it */
  #run(
    { tokens, sampling }: DraftRequest,
    gamma: number,
    draw: (j: number) => number | TokenBuffer,
  ): void {
    this.#q.resize(gamma);
    let fresh = this.#text.rewind(tokens, tokens.length - 1);
    let drafted: TokenBuffer | undefined; // the token of `fresh`, if only the device knows it
    for (let j = 0; j < gamma; j++) {
      const options = { drafted: drafted && { tokens: drafted, at: 0 } };
      this.#q.fill(j, this.#model.forward(fresh, this.#text.cache, options), sampling);
      if (drafted === undefined) this.#text.committed(fresh);
      const drawn = draw(j);
      drafted = typeof drawn === "number" ? undefined : drawn;
      fresh = Int32Array.of(typeof drawn === "number" ? drawn : UNKNOWN);
    }
  }

  /** Forgets the text. */
  reset(): void {
    this.#text.truncate(0);
  }

  /** Frees the cache and the laws. */
  [Symbol.dispose](): void {
    this.#text.cache[Symbol.dispose]();
    this.#q[Symbol.dispose]();
    this.#drafted[Symbol.dispose]();
  }
}
