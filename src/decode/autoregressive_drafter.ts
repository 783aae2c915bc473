/**
 * The classical drafter (Leviathan et al. 2023; Chen et al. 2023): a smaller autoregressive model with the
 * target's vocabulary that drafts token by token, in γ passes per draft.
 *
 * Deliberately absent: choosing γ, which is up to the loop.
 *
 * @module
 */

import type { Activation, Backend, DeviceRound, TokenBuffer } from "../backend/backend.ts";
import { Growing, mostRows } from "../backend/buffers.ts";
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
  /** Tokens drawn by the device. */
  readonly #drafted: Growing<TokenBuffer>;

  /**
   * Allocates a cache.
   * @param capacity the most tokens a text will have. @default the model's context, which it may not exceed
   */
  constructor(model: CausalModel, backend: Backend, capacity: number = model.shape.contextLength) {
    this.vocabSize = model.shape.vocabSize;
    this.#model = model;
    this.#backend = backend;
    this.#drafted = new Growing((size) => backend.tokens(size));
    this.#text = new CachedText(model.newCache(capacity));
    this.#q = new DeviceDistributions(backend, this.vocabSize, `the drafter (${this.name})`);
  }

  /** Reads the new part of the text, except the last piece. */
  async prepare(request: DraftRequest): Promise<void> {
    if (this.#length(request) === 0) return;
    await this.#text.catchUp(request.tokens, {
      keep: 1,
      mostRows: mostRows(this.#backend),
      read: (piece) => {
        this.#model.forward(piece, this.#text.cache);
        this.#text.committed(piece);
      },
      signal: request.signal,
    });
  }

  /** Drafts up to γ tokens; fewer near the end of its context, and none beyond it. */
  draft(request: DraftRequest): Draft {
    const tokens = new Int32Array(this.#length(request));
    if (tokens.length === 0) return NO_DRAFT;
    this.#run(request, tokens);
    return { tokens, q: this.#q, steps: tokens.map((_, j) => j), passes: tokens.length };
  }

  /** The same on the device, without waiting for the tokens. */
  draftOnDevice(request: DraftRequest, round: DeviceRound): DeviceDraft | undefined {
    const gamma = this.#length(request);
    if (round.backend !== this.#backend || gamma === 0) return undefined;
    const tokens = this.#drafted.atLeast(gamma);
    this.#run(request, new Int32Array(gamma).fill(UNKNOWN), { round, tokens });
    return {
      tokens,
      q: this.#q.slice(0, gamma),
      steps: Int32Array.from({ length: gamma }, (_, j) => j),
      passes: gamma,
      settle: (drafted) => this.#text.committed(drafted.subarray(0, gamma - 1)),
    };
  }

  /** The drafter never reads its last token, which may therefore be one past what the cache holds. */
  #length({ gamma, tokens }: DraftRequest): number {
    return Math.max(0, Math.min(gamma, this.#text.cache.capacity - tokens.length + 1));
  }

  /** Draws the tokens. Given a device, the device draws them, and `drafted` is unchanged. */
  #run(
    request: DraftRequest,
    drafted: Int32Array,
    device?: { readonly round: DeviceRound; readonly tokens: TokenBuffer },
  ): void {
    const { tokens, sampling, coupled } = request;
    const laws = this.#q.resize(drafted.length);
    let fresh = this.#text.rewind(tokens, tokens.length - 1);
    for (let j = 0; j < drafted.length; j++) {
      const law = (logits: Activation) => this.#q.fill(j, logits, sampling);
      const logits = this.#model.forward(fresh, this.#text.cache, {
        drafted: device && j > 0 ? { tokens: device.tokens.slice(j - 1, 1), at: 0 } : undefined,
        followUp: device && {
          key: `token ${j} ${coupled} ${JSON.stringify(sampling)}`,
          uses: [laws, device.tokens, device.round],
          run: (logits) => {
            law(logits);
            proposeOnDevice(this.#q, j, 1, request, device.round, device.tokens);
          },
        },
      });
      if (device === undefined) {
        law(logits);
        drafted[j] = propose(this.#q, j, request);
      }
      if (device === undefined || j === 0) this.#text.committed(fresh);
      fresh = drafted.subarray(j, j + 1);
    }
  }

  /** Forgets the text. */
  reset(): void {
    this.#text.truncate(0);
  }

  /** Frees the cache and q. */
  [Symbol.dispose](): void {
    this.#text.cache[Symbol.dispose]();
    this.#q[Symbol.dispose]();
    this.#drafted[Symbol.dispose]();
  }
}
