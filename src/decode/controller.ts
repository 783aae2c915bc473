/**
 * γ chosen while decoding: each round drafts as many tokens as promise the most text per millisecond, or none
 * where a plain step does. What a round of γ costs is measured once, before the first text, and kept up to date
 * by the rounds' own times; what it yields is estimated from how often each position was accepted of late.
 *
 * A choice is made before anything of its round is drawn, from earlier rounds alone: it is non-anticipating, and
 * every rule that is exact for one γ is exact for these.
 *
 * Deliberately absent: choosing T and the rule. A second denoising step costs another pass of the drafter, and
 * left to right it raised the accepted tokens per draft of 8 from 0.64 to 0.65 (SEDD without a Markov head; with
 * one, the head does the same within one pass): no cost profile of a CPU or GPU makes that a gain. The rule costs
 * no time, so there is nothing to weigh.
 *
 * @module
 */

import type { Sampling } from "../backend/backend.ts";
import type { Rule } from "./acceptance.ts";
import type { Drafter, Target } from "./drafter.ts";
import { takeTurns } from "./event_loop.ts";
import type { Step } from "./loop.ts";
import { PhiloxSource } from "./random.ts";
import { draftAndVerify, type GammaPolicy } from "./speculative.ts";

/** Assumed acceptance of a position never tried: hopeful, since only what is tried can be found wanting. */
const PRIOR_RATE = 0.8;
/** How many rounds that assumption weighs. */
const PRIOR_ROUNDS = 4;
/** Rounds after which an observation weighs 1/e. */
const MEMORY = 64;
/** What drafting may lose against plain decoding: this share of the time … */
const LOSS_SHARE = 0.015;
/** … or so many plain steps where that is more, so that the first rounds of a text can find out. */
const LOSS_STEPS = 2.5;
/** What gains make up for, in plain steps: enough for bad luck, too little for a text that has changed. */
const SAVED_STEPS = 8;
/** Weight of a round's time against those before it. */
const TIME_WEIGHT = 0.1;
/** How much longer than expected a round is believed to have taken: a pause of the program says nothing about γ. */
const SLOWEST = 1.5;
/** The longest draft that is measured. */
const LONGEST = 64;
/** Tokens of the text that costs are measured on. */
const MEASURED_CONTEXT = 32;

/** What a round costs by the length of its draft, on this machine, kept up to date. */
export class CostProfile {
  /** [longest draft + 1] milliseconds of a round that drafts γ tokens, by γ, ascending; index 0: a plain step. */
  readonly ms: Float64Array;
  /** Milliseconds a drafter takes to read a token that came by a plain step. */
  readingMs: number;

  /**
   * A profile to begin with.
   *
   * @param ms for each γ from 0 on; where a shorter draft is said to cost more than a longer one, that is a mistake
   * of the measurement
   * @param readingMs as above
   * @throws {RangeError} if there are no costs, or not all of them are positive
   */
  constructor(ms: ArrayLike<number>, readingMs: number = 0) {
    this.ms = Float64Array.from(ms);
    this.readingMs = readingMs;
    if (this.ms.length === 0 || !this.ms.every((x) => x > 0 && x < Infinity)) {
      throw new RangeError(
        `Cannot choose gamma: costs are [${this.ms}], expected the milliseconds of a round for each gamma from 0 on`,
      );
    }
    for (let gamma = this.ms.length - 2; gamma >= 0; gamma--) this.#noMoreThan(gamma, this.ms[gamma + 1]);
  }

  /** A round's time as far as it is believed. */
  believed(gamma: number, ms: number): number {
    return Math.min(ms, SLOWEST * this.ms[gamma]);
  }

  /**
   * Takes a round's time into account.
   * @param unread tokens that the drafter had to read besides those of the round before
   */
  observe({ draft, draftMs, verifyMs }: Pick<Step, "draft" | "draftMs" | "verifyMs">, unread: number): void {
    const gamma = draft.length, ms = draftMs + verifyMs;
    if (gamma > 0 && unread > 0) {
      const reading = Math.max(0, ms - this.ms[gamma]) / unread;
      this.readingMs += (reading - this.readingMs) / 2; // seldom seen, so that each counts
      return;
    }
    this.ms[gamma] += TIME_WEIGHT * (this.believed(gamma, ms) - this.ms[gamma]);
    // a plain step that is never made is known by the passes over more rows, which take no less
    const plain = this.ms[0];
    if (gamma > 0) this.#noMoreThan(0, plain + TIME_WEIGHT * (verifyMs - plain));
    for (let other = 0; other < gamma; other++) this.#noMoreThan(other, this.ms[gamma]);
    for (let other = gamma + 1; other < this.ms.length; other++) {
      this.ms[other] = Math.max(this.ms[other], this.ms[gamma]);
    }
  }

  #noMoreThan(gamma: number, ms: number): void {
    this.ms[gamma] = Math.min(this.ms[gamma], ms);
  }
}

/**
 * Measures what rounds cost: a few drafts and passes over a made-up text, the lengths doubled for as long as a
 * drafter that has nine of ten tokens accepted would gain by it. Target and drafter forget what they held.
 *
 * @param options how the text to come is decoded
 * @throws the signal's reason, and whatever target and drafter throw
 */
export async function measureCosts(
  target: Target,
  drafter: Drafter,
  options: {
    readonly rule: Rule;
    readonly sampling: Sampling;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<CostProfile> {
  const { rule, sampling, signal } = options;
  // it repeats itself, so that a drafter which looks for repetitions has something to say
  const length = Math.min(MEASURED_CONTEXT, target.contextLength - 1);
  const text = Int32Array.from({ length }, (_, i) => i % Math.min(4, target.vocabSize));
  const random = new PhiloxSource(0);
  let turn = performance.now();
  const round = async (gamma: number): Promise<number> => {
    turn = await takeTurns(turn);
    signal?.throwIfAborted();
    const step = await draftAndVerify(target, drafter, gamma, { text, random, rule, sampling });
    target.truncate(length - 1);
    return step.draftMs + step.verifyMs;
  };
  target.keepHidden?.(drafter.hiddenLayers ?? []);
  if (length > 1) await target.score(text.subarray(0, length - 1), 1, sampling);
  const longest = Math.min(LONGEST, target.contextLength - length);
  await round(1); // what is only just loaded is slow
  drafter.reset();
  const first = await round(1); // the drafter reads the text
  const known: [gamma: number, ms: number][] = [];
  for (let gamma = 0, before = 0; gamma <= longest; gamma = Math.max(1, 2 * gamma)) {
    const ms = await round(gamma);
    known.push([gamma, ms]);
    const rate = (1 - 0.9 ** (gamma + 1)) / ms;
    if (gamma > 1 && rate < before) break;
    before = rate;
  }
  for (const entry of known) entry[1] = Math.min(entry[1], await round(entry[0])); // once more, against mishaps
  target.truncate(0);
  drafter.reset();
  return new CostProfile(interpolated(known), Math.max(0, first - known[1][1]) / length);
}

/** The values between some that are known, at 0, 1, …, the last one known. */
function interpolated(known: readonly (readonly [at: number, value: number])[]): number[] {
  const values = [known[0][1]];
  for (let i = 1; i < known.length; i++) {
    const [from, a] = known[i - 1], [to, b] = known[i];
    for (let x = from + 1; x <= to; x++) values.push(a + (b - a) * (x - from) / (to - from));
  }
  return values;
}

/**
 * Chooses γ for the rounds of one text: the one with the largest E[τ(γ)] / cost(γ), where
 * E[τ(γ)] = 1 + a₁ + a₁a₂ + … + a₁⋯a_γ and a_j is how often position j was accepted when all before it were.
 *
 * Observations are forgotten, in plain rounds too, so that what once failed is tried again; but only drafts are
 * made whose failure can be afforded. Whatever the drafter does, drafting loses no more than 1.5 % of the time of
 * plain decoding, or 2.5 steps of it in a short text, beyond the drafter's one reading of the prompt. A drafter that
 * takes long to read what plain steps have added is therefore given up sooner, and may not be tried again.
 */
export class GammaController implements GammaPolicy {
  readonly #costs: CostProfile;
  readonly #live: boolean;
  /** [longest draft] in how many rounds a position was tested, and accepted, the older the less. */
  readonly #tested: number[] = [];
  readonly #accepted: number[] = [];
  /** Plain steps that drafting has cost beyond what it brought. */
  #lost = 0;
  #tokens = 0;
  /** Plain rounds since the last draft, whose tokens the drafter has yet to read. */
  #unread = 0;
  #drafted = false;

  /**
   * For one text.
   *
   * @param costs a profile, which is kept up to date; or the milliseconds of a round for each γ from 0 on, which
   * stand: then γ depends on nothing but what was accepted, and the same seed gives the same text
   * @throws {RangeError} as {@linkcode CostProfile}
   */
  constructor(costs: CostProfile | ArrayLike<number>) {
    this.#live = costs instanceof CostProfile;
    this.#costs = costs instanceof CostProfile ? costs : new CostProfile(costs);
  }

  /** γ of the next round, 0 … most. */
  next(most: number): number {
    const { ms } = this.#costs;
    const affordableMs = (Math.max(LOSS_STEPS, LOSS_SHARE * this.#tokens) - this.#lost + 1) * ms[0];
    let best = 0, bestRate = 1 / ms[0];
    let rate = PRIOR_RATE, reached = 1, expected = 1;
    for (let gamma = 1; gamma <= Math.min(most, ms.length - 1); gamma++) {
      // what is not known of a position is taken from the one before it
      rate = ((this.#accepted[gamma - 1] ?? 0) + PRIOR_ROUNDS * rate) /
        ((this.#tested[gamma - 1] ?? 0) + PRIOR_ROUNDS);
      reached *= rate;
      expected += reached;
      if (expected / ms[gamma] > bestRate && this.#cost(gamma) <= affordableMs) {
        best = gamma;
        bestRate = expected / ms[gamma];
      }
    }
    return best;
  }

  /**
   * Learns from a finished round.
   * @throws {RangeError} if it drafted more than there are costs for
   */
  observe(step: Step): void {
    const { draft: { length: gamma }, accepted, draftMs, verifyMs } = step;
    if (gamma >= this.#costs.ms.length) {
      throw new RangeError(
        `Cannot learn from a draft of ${gamma} tokens: costs are known of up to ${this.#costs.ms.length - 1}`,
      );
    }
    for (let j = 0; j < Math.max(gamma, this.#tested.length); j++) {
      const tested = j < gamma && j <= accepted;
      this.#tested[j] = (this.#tested[j] ?? 0) * Math.exp(-1 / MEMORY) + (tested ? 1 : 0);
      this.#accepted[j] = (this.#accepted[j] ?? 0) * Math.exp(-1 / MEMORY) + (j < accepted ? 1 : 0);
    }
    this.#tokens += accepted + 1;
    // the drafter's reading of the prompt is no fault of γ
    const timed = this.#live && (gamma === 0 || this.#drafted);
    if (gamma > 0) {
      const ms = draftMs + verifyMs;
      const cost = !timed ? this.#cost(gamma) : this.#unread > 0 ? ms : this.#costs.believed(gamma, ms);
      this.#lost = Math.max(-SAVED_STEPS, this.#lost + cost / this.#costs.ms[0] - (accepted + 1));
      this.#drafted = true;
    }
    if (timed) this.#costs.observe(step, this.#unread);
    this.#unread = gamma > 0 ? 0 : this.#unread + 1;
  }

  /** What a round of γ > 0 is expected to cost now, in milliseconds. */
  #cost(gamma: number): number {
    return this.#costs.ms[gamma] + this.#costs.readingMs * this.#unread;
  }
}
