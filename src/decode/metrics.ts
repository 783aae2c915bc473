/**
 * Statistics of a decoding run: counts and times of its rounds, under vLLM's names. If there are plain rounds, two
 * values differ from vLLM's, which divides by the number of drafts.
 *
 * Deliberately absent: clocks. The loop measures times; this adds them up.
 *
 * @module
 */

import { isExact, type Rule } from "./acceptance.ts";
import type { Drafter } from "./drafter.ts";
import type { FinishReason, Round } from "./loop.ts";

/** The run that statistics describe. */
export interface RunDescription {
  /** Length of the prompt. */
  readonly promptTokens: number;
  /** The drafter; absent: plain decoding. */
  readonly drafter?: Pick<Drafter, "name" | "leftToRight"> | undefined;
  /** The rule, if there is a drafter. */
  readonly rule?: Rule | undefined;
  /** The seed, to reproduce the text. */
  readonly seed?: number | bigint | undefined;
}

/**
 * Counts, rates and times of a run. Only emitted tokens count: accepted tokens cut off by a stop token do not. Rates
 * with a denominator of 0 are 0.
 */
export interface Statistics {
  /** The drafter's name; `none` in plain decoding. */
  readonly drafter: string;
  /** The acceptance rule; `none` in plain decoding. */
  readonly rule: Rule | "none";
  /**
   * `exact`: the text has the distribution of the target alone. `lossy`: it does not, because the `paper` rule tested
   * drafts made in several steps in any order.
   */
  readonly exactness: "exact" | "lossy";
  /** In decimal, since it may exceed the range of JSON numbers; absent if unknown. */
  readonly seed?: string | undefined;
  /** Why the text ended; absent if it has not, or its consumer stopped early. */
  readonly finishReason?: FinishReason | undefined;

  /** Length of the prompt. */
  readonly promptTokens: number;
  /** Tokens emitted. */
  readonly tokens: number;
  /** Passes of the target, excluding the one over the prompt. */
  readonly rounds: number;
  /** Rounds without a draft. */
  readonly plainRounds: number;
  /** Tokens drafted. */
  readonly draftTokens: number;
  /** Drafted tokens that were emitted. */
  readonly acceptedTokens: number;
  /** Network evaluations of the drafter. */
  readonly draftPasses: number;
  /** draftPasses / rounds with a draft: T for a diffusion drafter. */
  readonly meanDraftPasses: number;
  /** acceptedTokens / draftTokens. */
  readonly draftAcceptanceRate: number;
  /** draftTokens / rounds: the mean γ, where a plain step counts as 0. */
  readonly meanGamma: number;
  /**
   * τ, tokens per round: 1 + acceptedTokens/rounds, less what a stop token cuts off. Rounds without a draft count; vLLM
   * has 1 + acceptedTokens/drafts.
   */
  readonly meanAcceptanceLength: number;
  /** acceptedTokens / rounds: τ without corrected and bonus tokens. */
  readonly meanAcceptedDraftTokens: number;
  /** [longest draft] how often index j of a draft was drafted. */
  readonly draftedPerPosition: readonly number[];
  /** [longest draft] how often index j of a draft was accepted. */
  readonly acceptedPerPosition: readonly number[];
  /**
   * [longest draft] acceptedPerPosition / draftedPerPosition, over the drafts that reach index j. vLLM divides by the
   * number of all drafts, including shorter ones.
   */
  readonly acceptanceRatePerPosition: readonly number[];
  /** [longest draft + 1] number of rounds with a draft in which k tokens were accepted. */
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
   * Total milliseconds. This includes work for other texts in the meantime. It excludes the consumer's time between
   * rounds, and measuring costs before the first text with `gamma: "auto"`.
   */
  readonly totalMs: number;
  /** Milliseconds of the first pass over the prompt and of the first round. */
  readonly timeToFirstTokenMs: number;
  /** Tokens per second of totalMs − prefillMs: all emitted tokens, without the prompt. */
  readonly tokensPerSecond: number;
}

/** Accumulates the statistics of rounds. */
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

  /** Starts without rounds. */
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
