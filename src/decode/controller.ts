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
/** Rounds of each length that are measured, the fastest of which counts. */
const MEASURED_ROUNDS = 2;

/** What a round costs by the length of its draft, on this machine, kept up to date. */
export class CostProfile {
  /** [longest draft + 1] milliseconds of a round that drafts γ tokens, by γ; index 0: a plain step. */
  readonly ms: Float64Array;

  /**
   * A profile to begin with.
   * @param ms for each γ, from 0 on
   * @throws {RangeError} if it is empty or not all of it is positive
   */
  constructor(ms: ArrayLike<number>) {
    this.ms = Float64Array.from(ms);
    if (this.ms.length === 0 || !this.ms.every((x) => x > 0 && x < Infinity)) {
      throw new RangeError(
        `Cannot choose gamma: costs are [${this.ms}], expected the milliseconds of a round for each gamma from 0 on`,
      );
    }
  }

  /** A round's time as far as it is believed. */
  believed(gamma: number, ms: number): number {
    return Math.min(ms, SLOWEST * this.ms[gamma]);
  }

  /** Takes a round's time into account. */
  observe(gamma: number, ms: number): void {
    this.ms[gamma] += TIME_WEIGHT * (this.believed(gamma, ms) - this.ms[gamma]);
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
  await round(1); // the drafter reads the text
  const known: [gamma: number, ms: number][] = [];
  for (let gamma = 0, before = 0; gamma <= longest; gamma = Math.max(1, 2 * gamma)) {
    let ms = Infinity;
    for (let i = 0; i < MEASURED_ROUNDS; i++) ms = Math.min(ms, await round(gamma));
    known.push([gamma, ms]);
    const rate = (1 - 0.9 ** (gamma + 1)) / ms;
    if (gamma > 1 && rate < before) break;
    before = rate;
  }
  target.truncate(0);
  drafter.reset();
  return new CostProfile(interpolated(known));
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
 * made whose failure can be afforded. Whatever the drafter does, drafting therefore loses no more than 1.5 % of the
 * time of plain decoding, or 2.5 steps of it in a short text, and what a drafter needs to catch up with the text.
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
  /** Plain rounds since the last draft; infinitely many before the first. */
  #plainRounds = Infinity;

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
    const affordable = Math.max(LOSS_STEPS, LOSS_SHARE * this.#tokens) - this.#lost;
    let best = 0, bestRate = 1 / ms[0];
    let rate = PRIOR_RATE, reached = 1, expected = 1;
    for (let gamma = 1; gamma <= Math.min(most, ms.length - 1); gamma++) {
      // what is not known of a position is taken from the one before it
      rate = ((this.#accepted[gamma - 1] ?? 0) + PRIOR_ROUNDS * rate) /
        ((this.#tested[gamma - 1] ?? 0) + PRIOR_ROUNDS);
      reached *= rate;
      expected += reached;
      if (expected / ms[gamma] > bestRate && ms[gamma] / ms[0] - 1 <= affordable) {
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
  observe({ draft, accepted, draftMs, verifyMs }: Step): void {
    const gamma = draft.length, ms = draftMs + verifyMs;
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
    if (gamma > 0) {
      const steps = this.#cost(gamma, ms) / this.#costs.ms[0];
      this.#lost = Math.max(-SAVED_STEPS, this.#lost + steps - (accepted + 1));
    }
    // after plain steps a drafter has more to read than after a draft
    if (this.#live && (gamma === 0 || this.#plainRounds === 0)) this.#costs.observe(gamma, ms);
    this.#plainRounds = gamma > 0 ? 0 : this.#plainRounds + 1;
  }

  /** What a draft's round has cost, in milliseconds. */
  #cost(gamma: number, ms: number): number {
    // the drafter's first reading of the text, its prompt above all, is no fault of γ
    if (!this.#live || this.#plainRounds === Infinity) return this.#costs.ms[gamma];
    return this.#plainRounds === 0 ? this.#costs.believed(gamma, ms) : ms;
  }
}
