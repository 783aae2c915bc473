/**
 * What a run of decoding was worth: counts and times of its rounds under the names that vLLM made common.
 * Where plain rounds are among them, two of the values are not vLLM's, which divides by the number of drafts.
 *
 * Deliberately absent: clocks. The loop takes the times; this adds them up.
 *
 * @module
 */

import { isExact, type Rule } from "./acceptance.ts";
import type { Drafter } from "./drafter.ts";
import type { FinishReason, Round } from "./loop.ts";

/** What the statistics are of. */
export interface RunDescription {
  /** Length of the prompt. */
  readonly promptTokens: number;
  /** Who drafts; absent: plain decoding. */
  readonly drafter?: Pick<Drafter, "name" | "leftToRight"> | undefined;
  /** The rule, if there is a drafter. */
  readonly rule?: Rule | undefined;
  /** The seed, for whoever wants the same text again. */
  readonly seed?: number | bigint | undefined;
}

/**
 * Counts, rates and times of a run. Everything counts only what was emitted: accepted tokens that a stop
 * token cut off are not among them. Rates without a denominator are 0.
 */
export interface Statistics {
  /** Who drafts; `none` in plain decoding. */
  readonly drafter: string;
  /** How drafts were tested; `none` in plain decoding. */
  readonly rule: Rule | "none";
  /**
   * `exact`: the text has the law of the target alone. `lossy`: it does not, because any-order drafts in
   * several steps were tested by the `paper` rule.
   */
  readonly exactness: "exact" | "lossy";
  /** In decimal, since it may exceed what a JSON number holds; absent if it was not told. */
  readonly seed?: string | undefined;
  /** Why the text ended; absent while it has not, and where its reader has left it. */
  readonly finishReason?: FinishReason | undefined;

  /** Length of the prompt. */
  readonly promptTokens: number;
  /** Tokens emitted. */
  readonly tokens: number;
  /** Passes of the target, the one over the prompt not counted. */
  readonly rounds: number;
  /** Rounds without a draft. */
  readonly plainRounds: number;
  /** Tokens drafted. */
  readonly draftTokens: number;
  /** Drafted tokens that were emitted. */
  readonly acceptedTokens: number;
  /** Network evaluations of the drafter. */
  readonly draftPasses: number;
  /** draftPasses / rounds with a draft: T, for a diffusion drafter. */
  readonly meanDraftPasses: number;
  /** acceptedTokens / draftTokens. */
  readonly draftAcceptanceRate: number;
  /** draftTokens / rounds: γ on average, a plain step counted as 0. */
  readonly meanGamma: number;
  /**
   * τ, tokens per round: 1 + acceptedTokens/rounds, but for what a stop token cuts off. Rounds without a draft count;
   * vLLM's is 1 + acceptedTokens/drafts.
   */
  readonly meanAcceptanceLength: number;
  /** acceptedTokens / rounds: the same without corrected and bonus tokens. */
  readonly meanAcceptedDraftTokens: number;
  /** [longest draft] how often index j of a draft was drafted. */
  readonly draftedPerPosition: readonly number[];
  /** [longest draft] how often index j of a draft was accepted. */
  readonly acceptedPerPosition: readonly number[];
  /**
   * [longest draft] acceptedPerPosition / draftedPerPosition: of the drafts that had an index j. vLLM's is of all
   * drafts, also of those that were shorter.
   */
  readonly acceptanceRatePerPosition: readonly number[];
  /** [longest draft + 1] in how many of the rounds with a draft k tokens were accepted. */
  readonly acceptanceHistogram: readonly number[];

  /** Milliseconds in the first pass over the prompt. */
  readonly prefillMs: number;
  /** Milliseconds in the drafter. */
  readonly draftMs: number;
  /** Milliseconds in the target and the test of drafts. */
  readonly verifyMs: number;
  /** Milliseconds elsewhere in the loop. */
  readonly otherMs: number;
  /**
   * Milliseconds in all, with what other texts computed meanwhile, but for what the consumer of the stream spent between
   * rounds, and for the measuring of costs before the first text with `gamma: "auto"`.
   */
  readonly totalMs: number;
  /** Milliseconds of the first pass over the prompt and of the first round. */
  readonly timeToFirstTokenMs: number;
  /** tokens per second of totalMs − prefillMs: every emitted token is timed, the prompt is not. */
  readonly tokensPerSecond: number;
}

/** Adds rounds up. */
export class StatisticsCollector {
  readonly #run: RunDescription;
  readonly #drafted: number[] = [];
  readonly #accepted: number[] = [];
  readonly #histogram: number[] = [];
  #finishReason: FinishReason | undefined;
  #tokens = 0;
  #rounds = 0;
  #draftPasses = 0;
  #prefillMs = 0;
  #draftMs = 0;
  #verifyMs = 0;
  #decodeMs = 0;
  #firstMs = 0;
  #plainRounds = 0;

  /** Starts at nothing. */
  constructor(run: RunDescription) {
    this.#run = run;
  }

  /** Counts a round. */
  add(round: Round): void {
    this.#tokens += round.tokens.length;
    this.#draftPasses += round.draftPasses;
    this.#prefillMs += round.prefillMs;
    this.#draftMs += round.draftMs;
    this.#verifyMs += round.verifyMs;
    this.#decodeMs += round.totalMs;
    if (this.#rounds++ === 0) this.#firstMs = round.prefillMs + round.totalMs;
    for (let j = 0; j < round.draft.length; j++) {
      increment(this.#drafted, j, 1);
      increment(this.#accepted, j, j < round.accepted ? 1 : 0);
    }
    if (round.draft.length === 0) {
      this.#plainRounds++;
    } else {
      increment(this.#histogram, round.draft.length, 0);
      increment(this.#histogram, round.accepted, 1);
    }
    this.#finishReason = round.finishReason;
  }

  /** The statistics of the rounds counted so far. */
  statistics(): Statistics {
    const { promptTokens, drafter, rule, seed } = this.#run;
    const exact = drafter === undefined || rule === undefined || isExact(rule, drafter.leftToRight);
    const draftTokens = total(this.#drafted), acceptedTokens = total(this.#accepted);
    return {
      drafter: drafter?.name ?? "none",
      rule: rule ?? "none",
      exactness: exact ? "exact" : "lossy",
      seed: seed?.toString(),
      finishReason: this.#finishReason,
      promptTokens,
      tokens: this.#tokens,
      rounds: this.#rounds,
      plainRounds: this.#plainRounds,
      draftTokens,
      acceptedTokens,
      draftPasses: this.#draftPasses,
      meanDraftPasses: rate(this.#draftPasses, this.#rounds - this.#plainRounds),
      draftAcceptanceRate: rate(acceptedTokens, draftTokens),
      meanGamma: rate(draftTokens, this.#rounds),
      meanAcceptanceLength: rate(this.#tokens, this.#rounds),
      meanAcceptedDraftTokens: rate(acceptedTokens, this.#rounds),
      draftedPerPosition: [...this.#drafted],
      acceptedPerPosition: [...this.#accepted],
      acceptanceRatePerPosition: this.#accepted.map((accepted, j) => rate(accepted, this.#drafted[j])),
      acceptanceHistogram: [...this.#histogram],
      prefillMs: this.#prefillMs,
      draftMs: this.#draftMs,
      verifyMs: this.#verifyMs,
      otherMs: this.#decodeMs - this.#draftMs - this.#verifyMs,
      totalMs: this.#prefillMs + this.#decodeMs,
      timeToFirstTokenMs: this.#firstMs,
      tokensPerSecond: rate(1000 * this.#tokens, this.#decodeMs),
    };
  }
}

/** Adds to an entry of a list that grows with zeros. */
function increment(counts: number[], index: number, by: number): void {
  while (counts.length <= index) counts.push(0);
  counts[index] += by;
}

function total(counts: readonly number[]): number {
  return counts.reduce((sum, count) => sum + count, 0);
}

function rate(count: number, of: number): number {
  return of > 0 ? count / of : 0;
}
