/**
 * The two parties of speculative decoding as the sampler sees them. Anything that meets these interfaces
 * works with it: a diffusion model, a smaller autoregressive one, a lookup of n-grams, a table in a test.
 *
 * Throughout: p is the target's law, q the drafter's, γ (`gamma`) the length of a draft.
 *
 * Deliberately absent: any drafter or target, and how they are loaded or named.
 *
 * @module
 */

import type { Activation, DeviceRound, Sampling, TokenBuffer } from "../backend/backend.ts";
import type { Rule, Verdict } from "./acceptance.ts";
import type { Distributions } from "./distributions.ts";
import type { RandomSource } from "./random.ts";

/** The model whose law the text has. It remembers the text it has seen and can be rolled back. */
export interface Target {
  /** V */
  readonly vocabSize: number;
  /** The most tokens a text may have. */
  readonly contextLength: number;
  /**
   * Laws of the token that follows each of the last `rows` tokens of `tokens`. The whole text is given each
   * time; what the target has already seen (a common prefix, up to the last {@linkcode truncate}) is not
   * computed again.
   *
   * @param tokens the committed text followed by the draft; not to be written to
   * @param rows how many laws, 1 … tokens.length
   * @param signal ends it with the signal's reason, before a pass
   * @throws {RangeError} if `tokens` exceeds the context, or one is outside the vocabulary
   */
  score(
    tokens: Int32Array,
    rows: number,
    sampling: Sampling,
    signal?: AbortSignal,
  ): Distributions | Promise<Distributions>;
  /** Forgets everything after the first `length` tokens. More than were seen: no effect. */
  truncate(length: number): void;
  /**
   * Keeps the hidden states of these layers from now on, for a drafter that asks for them by
   * {@linkcode Drafter.hiddenLayers}; of none: stops. Said anew for each round, as texts may take turns on one target.
   * A target without this method, or without {@linkcode hiddenOf}, has none to give.
   */
  keepHidden?(layers: readonly number[]): void;
  /**
   * Hidden states of a text, of the layers that are kept: one [n, C] per layer, on the device, where row i belongs to
   * token i of `tokens`. What the target has not seen of it is computed. Valid until the next {@linkcode score}.
   *
   * @param tokens [n], at least one
   * @param signal as in {@linkcode score}
   */
  hiddenOf?(
    tokens: Int32Array,
    signal?: AbortSignal,
  ): readonly Activation[] | Promise<readonly Activation[]>;
  /**
   * Begins a round whose decisions the target's device makes. A target without this method, or that returns nothing,
   * has its laws read.
   *
   * @param seed of the decisions
   * @param start length of the text
   */
  beginOnDevice?(seed: bigint, start: number): DeviceRound | undefined;
  /**
   * Scores and tests a draft of the round that was begun last: what {@linkcode score} and `verify` give, and what was
   * drafted.
   *
   * @param text the committed text
   * @param signal as in {@linkcode score}
   * @throws {RangeError} as {@linkcode score} and `verify`
   */
  verifyOnDevice?(
    text: Int32Array,
    draft: DeviceDraft | Draft,
    rule: Rule,
    sampling: Sampling,
    signal?: AbortSignal,
  ): Promise<DeviceVerdict>;
}

/** What a device decided about a draft. */
export interface DeviceVerdict extends Verdict {
  /** The drafted tokens, [n]. */
  readonly draft: Int32Array;
  /** Milliseconds of the device in the draft. */
  readonly draftMs: number;
}

/** What a drafter is asked for. */
export interface DraftRequest {
  /** The committed text, prompt included: a copy. */
  readonly tokens: Int32Array;
  /** γ, how many tokens to draft; fewer may come back. */
  readonly gamma: number;
  /** T, one of {@linkcode Drafter.stepChoices}. @default the drafter's own */
  readonly steps?: number | undefined;
  /** How q is made from the drafter's logits. */
  readonly sampling: Sampling;
  /** Source of its decisions. */
  readonly random: RandomSource;
  /** Draw with the noise the target will use (`coupled`), instead of noise of its own. */
  readonly coupled: boolean;
  /**
   * The target's hidden states, if {@linkcode Drafter.hiddenLayers} asked for them: one [n, C] per layer, row i
   * of which belongs to token i. n is tokens.length − 1, for the target has yet to see the last token; absent if
   * that is none.
   */
  readonly hidden?: readonly Activation[] | undefined;
  /** Ends long work with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** A draft of n ≤ γ tokens, for the positions that follow the committed text. Its laws are valid until the drafter's next. */
export interface Draft {
  /** [n] */
  readonly tokens: Int32Array;
  /** The very laws the tokens were drawn from, n rows; absent: each token is a point mass. */
  readonly q?: Distributions | undefined;
  /** [n] the denoising step at which each was revealed; positions revealed together share a number. */
  readonly steps: Int32Array;
  /** Network evaluations made. */
  readonly passes: number;
}

/** A draft of no tokens. */
export const NO_DRAFT: Draft = { tokens: new Int32Array(0), steps: new Int32Array(0), passes: 0 };

/** A draft of n ≤ γ tokens that the host has not seen. Valid until the drafter's next. */
export interface DeviceDraft extends Pick<Draft, "steps" | "passes"> {
  /** The first n ids. */
  readonly tokens: TokenBuffer;
  /** The very laws the tokens were drawn from, [≥ n, V]. */
  readonly q: Activation;
  /** Is told the tokens once the host knows them. */
  settle?(tokens: Int32Array): void;
}

/** Whether the host has yet to see a draft. */
export function isOnDevice(draft: Draft | DeviceDraft): draft is DeviceDraft {
  return !(draft.tokens instanceof Int32Array);
}

/** Whatever proposes tokens. It may remember the text between drafts; the text given is what counts. */
export interface Drafter extends Disposable {
  /** For people and statistics: `diffusion (causal prefix, Markov head)`. */
  readonly name: string;
  /** V */
  readonly vocabSize: number;
  /**
   * Whether every position, whatever the draws, is revealed no earlier than all positions left of it, so
   * that `ratio` is exact (reference: Leviathan et al. 2023; here `ordered` generalises it).
   */
  readonly leftToRight: boolean;
  /** Blocks of the target, 0-based, whose outputs it wants to be given: {@linkcode DraftRequest.hidden}. */
  readonly hiddenLayers?: readonly number[] | undefined;
  /**
   * T that may be asked of it instead of its own, ascending from 1, where that may pay. Whatever is asked,
   * `leftToRight` must be true of it.
   */
  readonly stepChoices?: readonly number[] | undefined;
  /**
   * Reads what is new of the text, a piece at a time, and leaves no more than a piece of it to {@linkcode draft} or
   * {@linkcode draftOnDevice}, which are asked next. Between pieces everybody has their turn, and the request's signal
   * is heard. Absent: a drafter that has nothing to read, or sees the text anew each time.
   */
  prepare?(request: DraftRequest): Promise<void>;
  /** Proposes tokens, of a text that was prepared for or not. Must not look at anything but the request. */
  draft(request: DraftRequest): Draft | Promise<Draft>;
  /**
   * Proposes the tokens that {@linkcode draft} would, by the device's own decisions and without waiting for them.
   * Absent, or nothing returned: the drafter has to see its laws, or they are elsewhere.
   *
   * @param round on the target's device
   */
  draftOnDevice?(request: DraftRequest, round: DeviceRound): DeviceDraft | undefined;
  /** Forgets the text. */
  reset(): void;
}
