/**
 * The classical drafter (Leviathan et al. 2023; Chen et al. 2023): a smaller autoregressive model with the
 * target's vocabulary that drafts token by token, γ passes to a draft.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { CausalModel } from "../model/model.ts";
import { CachedText } from "./cached_text.ts";
import { DeviceDistributions } from "./device_distributions.ts";
import type { Draft, Drafter, DraftRequest } from "./drafter.ts";
import { propose } from "./propose.ts";

/** Drafts with a causal model. The model is borrowed: disposing of this leaves it alone. */
export class AutoregressiveDrafter implements Drafter {
  /** For people and statistics. */
  readonly name: string = "autoregressive";
  /** V */
  readonly vocabSize: number;
  /** Every token is drawn given all tokens left of it. */
  readonly leftToRight: boolean = true;
  readonly #model: CausalModel;
  readonly #text: CachedText;
  readonly #q: DeviceDistributions;

  /** Allocates a cache for the model's whole context. */
  constructor(model: CausalModel, backend: Backend) {
    this.vocabSize = model.shape.vocabSize;
    this.#model = model;
    this.#text = new CachedText(model.newCache());
    this.#q = new DeviceDistributions(backend, this.vocabSize, `the drafter (${this.name})`);
  }

  /** Drafts up to γ tokens, fewer at the end of its context. */
  draft(request: DraftRequest): Draft {
    const { tokens, sampling } = request;
    // the last drafted token is never read by the drafter, so it may stand one past the context
    const gamma = Math.max(0, Math.min(request.gamma, this.#model.shape.contextLength - tokens.length + 1));
    const drafted = new Int32Array(gamma);
    this.#q.resize(gamma);
    let fresh = gamma > 0 ? this.#text.rewind(tokens, tokens.length - 1) : tokens;
    for (let j = 0; j < gamma; j++) {
      this.#q.fill(j, this.#model.forward(fresh, this.#text.cache), sampling);
      this.#text.committed(fresh);
      drafted[j] = propose(this.#q, j, request);
      fresh = drafted.subarray(j, j + 1);
    }
    return { tokens: drafted, q: this.#q, steps: Int32Array.from(drafted, (_, j) => j), passes: gamma };
  }

  /** Forgets the text. */
  reset(): void {
    this.#text.truncate(0);
  }

  /** Frees the cache and the laws. */
  [Symbol.dispose](): void {
    this.#text.cache[Symbol.dispose]();
    this.#q[Symbol.dispose]();
  }
}
