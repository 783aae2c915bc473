/**
 * What rounds cost and how much of their drafts is accepted: a model of both, kept up to date by every round, from
 * which `controller.ts` chooses γ and T.
 *
 * Deliberately absent: the first measurement, which is in `measure_costs.ts`.
 *
 * @module
 */

import { shown } from "../shown.ts";
import type { Step } from "./loop.ts";

/** Weight of the prior acceptance rate, in rounds. */
const PRIOR_ROUNDS = 4;
/**
 * Prior for a larger T: the share of the next smaller T's rejections that it avoids. Optimistic, so that it is tried.
 */
const STEPS_HOPE = 0.5;
/** Rounds after which the weight of an observation drops to 1/e, across texts. */
const MEMORY = 128;
/** The same for larger T, whose gain depends on the models more than on the text. */
const STEPS_MEMORY = 4 * MEMORY;
/** Weight of a new time in its running average. */
const TIME_WEIGHT = 0.1;
/**
 * How fast the costs of lengths that are not tried follow those that are. A busy machine slows all lengths alike, and
 * one bad hour must not leave long drafts looking expensive for ever.
 */
const FOLLOW_WEIGHT = 0.25;
/** For about so many timed rounds, the long-run cost of a length is its average itself, and follows it slowly later. */
const NEW = 5;
/** Drafts from one that is a token shorter or longer than the best to the next. */
const TRIAL_EVERY = 32;
/** Timed rounds of a length after which an unexpected time is attributed to the machine rather than to the profile. */
const FAMILIAR = 8;
/** Longer times are capped at this multiple of the expected one: a pause of the program says nothing about γ. */
const SLOWEST = 1.5;
/** At this many unread tokens, a new estimate of the reading time per token gets half the weight: fewer are noisy. */
const BELIEVED_UNREAD = 8;

/**
 * The cost of a round by γ and T on this machine, and recent acceptance rates. It outlives a text, so that the next one
 * starts from what is known ({@linkcode SharedProfile}).
 */
export class CostProfile {
  /** [longest draft + 1] milliseconds of a round with γ tokens, by γ, non-decreasing; index 0: a plain step. */
  readonly ms: Float64Array;
  /** Milliseconds in which the drafter reads one token that a plain step added. */
  readingMs: number;
  /** The T to choose from, ascending; absent: the drafter's own. */
  readonly stepChoices: readonly number[] | undefined;
  /** Cost of each denoising step after the first, in plain steps. */
  #step: number;
  /** For each T, [longest draft]: decayed counts of rounds that tested, and accepted, each position. */
  readonly #tested: readonly Float64Array[];
  readonly #accepted: readonly Float64Array[];
  /** [longest draft + 1] long-run cost of each γ in plain steps. */
  readonly #ratios: Float64Array;
  /** [longest draft + 1] number of timed rounds. */
  readonly #timed: Float64Array;
  /** [longest draft + 1] milliseconds of verifying γ tokens: an upper estimate. */
  readonly #verifyMs: Float64Array;
  readonly #first: ConstructorParameters<typeof CostProfile>;
  /** Drafts so far. */
  #drafts = 0;

  /**
   * Starts from measured costs.
   *
   * @param ms for each γ from 0 on; if a shorter draft costs more than a longer one, its cost is lowered to match
   * @param readingMs as above
   * @param steps the T to choose from, ascending from 1, and the milliseconds of each step after the first; absent:
   * only the drafter's own T
   * @throws {RangeError} if there are no costs, a cost is not positive, or `readingMs` or `steps` is out of range
   */
  constructor(
    ms: ArrayLike<number>,
    readingMs: number = 0,
    steps?: { readonly choices: readonly number[]; readonly ms: number },
  ) {
    this.ms = Float64Array.from(ms);
    this.readingMs = readingMs;
    if (this.ms.length === 0 || !this.ms.every((x) => x > 0 && x < Infinity)) {
      throw new RangeError(
        `Cannot choose gamma: costs are [${this.ms}], expected the milliseconds of a round for each gamma from 0 on`,
      );
    }
    if (!(readingMs >= 0 && readingMs < Infinity)) {
      throw new RangeError(
        `Cannot choose gamma: readingMs is ${shown(readingMs)}, expected milliseconds of at least 0`,
      );
    }
    const { choices, ms: stepMs } = steps ?? { choices: undefined, ms: 0 };
    const ascending = choices === undefined ||
      choices[0] === 1 && choices.every((T, t) => Number.isInteger(T) && T > (choices[t - 1] ?? 0));
    if (!ascending || !(stepMs >= 0 && stepMs < Infinity)) {
      throw new RangeError(
        `Cannot choose T: the choices are [${choices}] at ${stepMs} ms per step, expected integers ascending from 1, ` +
          "and at least 0 ms",
      );
    }
    this.stepChoices = choices;
    this.#first = [this.ms.slice(), readingMs, steps];
    this.#step = stepMs / this.ms[0];
    for (let gamma = this.ms.length - 2; gamma >= 0; gamma--) this.#noMoreThan(gamma, this.ms[gamma + 1]);
    this.#ratios = this.ms.map((ms) => ms / this.ms[0]);
    this.#timed = new Float64Array(this.ms.length);
    this.#verifyMs = this.ms.slice();
    const each = () => (choices ?? [1]).map(() => new Float64Array(this.ms.length - 1));
    this.#tested = each();
    this.#accepted = each();
  }

  /**
   * The γ to draft where `best` looks best: `best`, but now and then the next longer or shorter one. A wrong cost that
   * keeps a length from being tried would otherwise never be corrected.
   */
  orTrial(best: number): number {
    if (++this.#drafts % TRIAL_EVERY > 0) return best;
    const shorter = best > 1 && this.#drafts / TRIAL_EVERY % 2 === 0;
    return Math.min(shorter ? best - 1 : best + 1, this.ms.length - 1);
  }

  /** A profile with the first costs of this one, which has learned nothing. */
  fresh(): CostProfile {
    return new CostProfile(...this.#first);
  }

  /** Expected milliseconds of a round with γ tokens in T steps. */
  cost(gamma: number, steps: number): number {
    return this.ms[gamma] + this.#step * this.ms[0] * Math.max(0, Math.min(steps, gamma) - 1);
  }

  /**
   * Updates the costs with a round's time.
   * @param unread tokens of plain steps that the drafter had to read first
   * @param steps T
   */
  observe(
    { draft, draftMs, verifyMs }: Pick<Step, "draft" | "draftMs" | "verifyMs">,
    unread: number,
    steps: number = 1,
  ): void {
    const gamma = draft.length, ms = draftMs + verifyMs, more = Math.min(steps, gamma) - 1;
    if (gamma > 0 && unread > 0) {
      const reading = (ms - this.cost(gamma, steps)) / unread;
      const weight = unread / (unread + BELIEVED_UNREAD);
      this.readingMs = Math.max(0, this.readingMs + weight * (reading - this.readingMs));
      return;
    }
    if (more > 0) {
      const found = (believed(ms, this.cost(gamma, steps)) - this.ms[gamma]) / more / this.ms[0];
      this.#step = Math.max(0, this.#step + TIME_WEIGHT * (found - this.#step));
    } else {
      this.#observeOneStep(gamma, ms);
    }
    if (gamma === 0) return;
    // If plain steps are never made, verifying more rows bounds their cost, since on average it cannot be cheaper. The
    // bound is an average: bounding by each pass would keep the luckiest one.
    const before = this.#verifyMs[gamma];
    this.#verifyMs[gamma] += TIME_WEIGHT * (believed(verifyMs, before) - before);
    this.#noMoreThan(0, this.#verifyMs[gamma]);
  }

  #observeOneStep(gamma: number, ms: number): void {
    const timed = this.#timed[gamma]++;
    this.ms[gamma] += Math.max(TIME_WEIGHT, 1 / (timed + 2)) *
      (believed(ms, this.ms[gamma]) - this.ms[gamma]);
    // the time of a length that is seldom tried returns to its long-run cost in between
    this.#ratios[gamma] += (this.ms[gamma] / this.ms[0] - this.#ratios[gamma]) /
      Math.max(1, Math.min(MEMORY, timed - NEW));
    const step = this.ms[gamma] / this.#ratios[gamma], follow = FOLLOW_WEIGHT * timed / (timed + FAMILIAR);
    for (let other = 0; other < this.ms.length; other++) {
      if (other === gamma) continue;
      this.ms[other] += follow * (step * this.#ratios[other] - this.ms[other]);
      if (other < gamma) this.#noMoreThan(other, this.ms[gamma]);
      else this.ms[other] = Math.max(this.ms[other], this.ms[gamma]);
    }
  }

  /** Updates the acceptance counts with a round. A plain round only lets them decay. */
  remember(gamma: number, accepted: number, steps: number = 1): void {
    for (let t = 0; t < this.#tested.length; t++) {
      const tests = this.#tested[t], accepts = this.#accepted[t];
      const made = this.stepChoices === undefined || this.stepChoices[t] === steps;
      const kept = Math.exp(-1 / (t === 0 ? MEMORY : STEPS_MEMORY));
      for (let j = 0; j < tests.length; j++) {
        // the first token is drawn in the first step whatever T is, so it is counted once
        const tested = (j === 0 ? t === 0 : made) && j < gamma && j <= accepted;
        tests[j] = tests[j] * kept + (tested ? 1 : 0);
        accepts[j] = accepts[j] * kept + (tested && j < accepted ? 1 : 0);
      }
    }
  }

  /**
   * Estimated probability that index j is accepted, given that all before it were, for the T at index t. Where too
   * little was seen, a prior fills in. For the first T, it is the other T's rate at j, or else the rate at j − 1. For a
   * larger T, it is somewhat better than the next smaller T. Index 0 is drawn in the first step whatever T is, so all T
   * share its rate.
   *
   * @param before the rate at j − 1
   * @param fewer the rate at j for the next smaller T
   */
  rate(t: number, j: number, before: number, fewer: number): number {
    if (t > 0 && j === 0) return fewer;
    let prior = t > 0 ? 1 - (1 - STEPS_HOPE) * (1 - fewer) : before;
    if (t === 0 && this.#tested.length > 1) {
      let tested = 0, accepted = 0;
      for (let other = 1; other < this.#tested.length; other++) {
        tested += this.#tested[other][j];
        accepted += this.#accepted[other][j];
      }
      prior = estimate(tested, accepted, before);
    }
    return estimate(this.#tested[t][j], this.#accepted[t][j], prior);
  }

  #noMoreThan(gamma: number, ms: number): void {
    this.ms[gamma] = Math.min(this.ms[gamma], ms);
  }
}

/** An acceptance rate, from counts and a prior. */
function estimate(tested: number, accepted: number, prior: number): number {
  return (accepted + PRIOR_ROUNDS * prior) / (tested + PRIOR_ROUNDS);
}

/** A time, capped relative to the expected one. */
function believed(ms: number, expected: number): number {
  return Math.min(ms, SLOWEST * expected);
}
