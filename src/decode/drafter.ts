/**
 * The interfaces of target and drafter, as the sampler sees them. Any implementation works with it: a diffusion model,
 * a smaller autoregressive one, an n-gram lookup, a table in a test.
 *
 * Throughout: p is the target's distribution, q the drafter's, γ (`gamma`) the length of a draft, T (`steps`) its
 * number of denoising steps.
 *
 * Deliberately absent: implementations, and loading them.
 *
 * @module
 */

import type { Activation, DeviceRound, Sampling, TokenBuffer } from "../backend/backend.ts";
import type { Rule, Verdict } from "./acceptance.ts";
import type { Distributions } from "./distributions.ts";
import type { RandomSource } from "./random.ts";

/** The model whose distribution the text has. It remembers the text it has seen and can be rolled back. */
export interface Target {
  /** V */
  readonly vocabSize: number;
  /** The maximum number of tokens of a text. */
  readonly contextLength: number;
  /**
   * Distributions of the token after each of the last `rows` tokens of `tokens`. The whole text is passed each time. A
   * prefix that the target has already seen, up to the last {@linkcode truncate}, is not computed again.
   *
   * @param tokens the committed text followed by the draft; read-only
   * @param rows the number of distributions, 1 … tokens.length
   * @param signal aborts with the signal's reason, before a pass
   * @throws {RangeError} if `tokens` exceeds the context, or one is outside the vocabulary
   */
  score(
    tokens: Int32Array,
    rows: number,
    sampling: Sampling,
    signal?: AbortSignal,
  ): Distributions | Promise<Distributions>;
  /** Forgets everything after the first `length` tokens. No effect if fewer were seen. */
  truncate(length: number): void;
  /**
   * Keeps the hidden states of these layers from now on, for {@linkcode Drafter.hiddenLayers}; an empty list: stops.
   * Called in each round, since texts may take turns on one target. A target without this method, or without
   * {@linkcode hiddenOf}, provides no hidden states.
   */
  keepHidden?(layers: readonly number[]): void;
  /**
   * Hidden states of a text in the kept layers: one [n, C] per layer, on the device, where row i belongs to token i.
   * Tokens that the target has not seen are computed. Valid until the next {@linkcode score}.
   *
   * @param tokens [n], at least one
   * @param signal as in {@linkcode score}
   */
  hiddenOf?(
    tokens: Int32Array,
    signal?: AbortSignal,
  ): readonly Activation[] | Promise<readonly Activation[]>;
  /**
   * Begins a round whose decisions are made on the target's device. Without this method, or if it returns nothing, the
   * host reads the distributions and decides.
   *
   * @param seed of the decisions
   * @param start length of the text
   */
  beginOnDevice?(seed: bigint, start: number): DeviceRound | undefined;
  /**
   * Scores and tests a draft in the round begun last. Returns the verdict of {@linkcode score} and `verify`, and the
   * drafted tokens.
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

/** A device's verdict on a draft. */
export interface DeviceVerdict extends Verdict {
  /** The drafted tokens, [n]. */
  readonly draft: Int32Array;
  /** Milliseconds that the device spent on the draft. */
  readonly draftMs: number;
}

/** The input of a drafter. */
export interface DraftRequest {
  /** The committed text, prompt included: a copy. */
  readonly tokens: Int32Array;
  /** γ, the number of tokens to draft; the drafter may return fewer. */
  readonly gamma: number;
  /** T, one of {@linkcode Drafter.stepChoices}. @default the drafter's own */
  readonly steps?: number | undefined;
  /** The sampling options that make q from the drafter's logits. */
  readonly sampling: Sampling;
  /** Source of random decisions. */
  readonly random: RandomSource;
  /** Draw with the target's noise (`coupled`) instead of the drafter's own. */
  readonly coupled: boolean;
  /**
   * The target's hidden states, if {@linkcode Drafter.hiddenLayers} names any: one [n, C] per layer, where row i
   * belongs to token i. n is tokens.length − 1, since the target has yet to see the last token. Absent if n is 0.
   */
  readonly hidden?: readonly Activation[] | undefined;
  /** Aborts long work with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** A draft of n ≤ γ tokens after the committed text. Its q is valid until the drafter's next draft. */
export interface Draft {
  /** [n] */
  readonly tokens: Int32Array;
  /** The exact distributions that the tokens were drawn from, n rows; absent: each token is a point mass. */
  readonly q?: Distributions | undefined;
  /**
   * [n] the denoising step that revealed each token; tokens revealed together share a number. Within a step, a token may
   * depend on tokens to its left, but not to its right: the conditions in `acceptance.ts`.
   */
  readonly steps: Int32Array;
  /** Number of network evaluations. */
  readonly passes: number;
}

/** An empty draft. */
export const NO_DRAFT: Draft = { tokens: new Int32Array(0), steps: new Int32Array(0), passes: 0 };

/** A draft of n ≤ γ tokens that the host has not read. Valid until the drafter's next draft. */
export interface DeviceDraft extends Pick<Draft, "steps" | "passes"> {
  /** The first n ids. */
  readonly tokens: TokenBuffer;
  /** The exact distributions that the tokens were drawn from, [≥ n, V]. */
  readonly q: Activation;
  /** Called with the tokens once the host has read them. */
  settle?(tokens: Int32Array): void;
}

/** Whether a draft is on the device and the host has not read it. */
export function isOnDevice(draft: Draft | DeviceDraft): draft is DeviceDraft {
  return !(draft.tokens instanceof Int32Array);
}

/** Proposes tokens. It may remember the text between drafts, but the given text is authoritative. */
export interface Drafter extends Disposable {
  /** A description for people and statistics: `diffusion (causal prefix, Markov head)`. */
  readonly name: string;
  /** V */
  readonly vocabSize: number;
  /**
   * Whether every position is always revealed no earlier than all positions left of it. If so, `ratio` is exact
   * (Leviathan et al. 2023; `ordered` generalises it).
   */
  readonly leftToRight: boolean;
  /** The target's blocks, 0-based, whose outputs it needs in {@linkcode DraftRequest.hidden}. */
  readonly hiddenLayers?: readonly number[] | undefined;
  /**
   * The T that a request may choose instead of the drafter's own, ascending from 1. `leftToRight` must hold for every
   * choice.
   */
  readonly stepChoices?: readonly number[] | undefined;
  /**
   * Reads the new part of the text in pieces, and leaves at most one piece to {@linkcode draft} or {@linkcode
   * draftOnDevice}, which are called next. Between pieces it yields to the event loop and checks the request's signal.
   * Absent if the drafter has nothing to read, or computes the text anew each time.
   */
  prepare?(request: DraftRequest): Promise<void>;
  /** Proposes tokens, whether or not the text was prepared. Must depend on the request alone. */
  draft(request: DraftRequest): Draft | Promise<Draft>;
  /**
   * Proposes the same tokens as {@linkcode draft}, drawn by the device itself, without waiting for them. Absent, or
   * returning nothing, if the host has to see q or it is on another device.
   *
   * @param round on the target's device
   */
  draftOnDevice?(request: DraftRequest, round: DeviceRound): DeviceDraft | undefined;
  /** Forgets the text. */
  reset(): void;
}
