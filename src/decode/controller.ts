/**
 * γ and T chosen while decoding: each round drafts as many tokens in as many denoising steps as promise the most text
 * per millisecond, or none where a plain step does. What a round of γ costs is measured once, before the first text,
 * and kept up to date by the rounds' own times; what it yields is estimated from how often each position was accepted
 * of late.
 *
 * A choice is made before anything of its round is drawn, from earlier rounds alone: it is non-anticipating, and
 * every rule that is exact for one γ and T is exact for these.
 *
 * Deliberately absent: choosing the rule. A rule costs no time, so there is nothing to weigh: `block` keeps the most of
 * any draft.
 *
 * @module
 */

import type { Sampling } from "../backend/backend.ts";
import type { Rule } from "./acceptance.ts";
import type { Drafter, Target } from "./drafter.ts";
import { takeTurns } from "./event_loop.ts";
import { holding, type Step } from "./loop.ts";
import { PhiloxSource } from "./random.ts";
import { shown } from "../shown.ts";
import { draftAndVerify, type DraftPlan, type DraftPolicy } from "./speculative.ts";

/** Assumed acceptance of a position never tried: hopeful, since only what is tried can be found wanting. */
const PRIOR_RATE = 0.8;
/** How many rounds that assumption weighs. */
const PRIOR_ROUNDS = 4;
/** Share of the rejections that the next larger T is thought to spare before it is tried: hope, as above. */
const STEPS_HOPE = 0.5;
/** What more steps must promise beyond what fewer do: the best of several estimates is mostly an overrated one. */
const STEPS_MARGIN = 1.03;
/** Rounds after which an observation weighs 1/e, whatever texts they are of. */
const MEMORY = 128;
/** The same of larger T: what a step adds is a matter of the models more than of the text. */
const STEPS_MEMORY = 4 * MEMORY;
/** What drafting may lose against plain decoding: this share of the time … */
const LOSS_SHARE = 0.015;
/** … or so many plain steps where that is more, so that the first rounds of a text can find out. */
const LOSS_STEPS = 2.5;
/** What an accepted token adds to that, in plain steps: where some are, bad luck is told from a hopeless text. */
const LOSS_PER_ACCEPTED = 0.25;
/** What gains make up for, in plain steps: enough for bad luck, too little for a text that has changed. */
const SAVED_STEPS = 8;
/** Into how many losses what may be lost is divided: all of it on one long draft would often end drafting at once. */
const STAKES = 3;
/** Weight of a round's time against those before it. */
const TIME_WEIGHT = 0.1;
/**
 * How fast costs that are not seen follow those that are: who else uses the machine slows all of them alike, and what
 * was thought of long drafts in a bad hour must not outlast it.
 */
const FOLLOW_WEIGHT = 0.25;
/** Rounds of a length after which a time that is not as expected is put down to the machine, not to the profile. */
const FAMILIAR = 8;
/** How much longer than expected a round is believed to have taken: a pause of the program says nothing about γ. */
const SLOWEST = 1.5;
/** The longest draft that is measured. */
const LONGEST = 64;
/** Unread tokens at which what reading one takes is half believed: what few take is drowned in noise. */
const BELIEVED_UNREAD = 8;
/** Tokens of the text that costs are measured on. */
const MEASURED_CONTEXT = 32;
/** How often each length is measured: at least twice, and no more often once so many milliseconds have passed. */
const MOST_TURNS = 7, PATIENCE_MS = 100;

/**
 * What a round costs by the length of its draft, on this machine, kept up to date, and how often drafts were accepted
 * of late. It outlives a text, so that the next one need not find out again.
 */
export class CostProfile {
  /** [longest draft + 1] milliseconds of a round that drafts γ tokens, by γ, ascending; index 0: a plain step. */
  readonly ms: Float64Array;
  /** Milliseconds a drafter takes to read a token that came by a plain step. */
  readingMs: number;
  /** T that may be chosen, ascending; absent: the drafter's own alone. */
  readonly stepChoices: readonly number[] | undefined;
  /** What each denoising step but the first adds to a round, in plain steps. */
  #step: number;
  /** For each T, [longest draft] in how many rounds a position was tested, and accepted, the older the less. */
  readonly #tested: readonly Float64Array[];
  readonly #accepted: readonly Float64Array[];
  /** [longest draft + 1] what each costs in plain steps, in the long run. */
  readonly #ratios: Float64Array;
  /** [longest draft + 1] rounds that were timed. */
  readonly #timed: Float64Array;
  /** [longest draft + 1] milliseconds of verifying γ tokens, from above. */
  readonly #verifyMs: Float64Array;

  /**
   * A profile to begin with.
   *
   * @param ms for each γ from 0 on; where a shorter draft is said to cost more than a longer one, that is a mistake
   * of the measurement
   * @param readingMs as above
   * @param steps T that may be chosen, ascending from 1, and the milliseconds that each step but the first adds to a
   * round; absent: the drafter's own T alone
   * @throws {RangeError} if there are no costs, not all of them are positive, or `readingMs`, T or what it adds make no
   * sense
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
        `Cannot choose T: it is one of [${choices}], each step taking ${stepMs} ms, expected them ascending from 1, and ` +
          "at least 0 ms",
      );
    }
    this.stepChoices = choices;
    this.#step = stepMs / this.ms[0];
    for (let gamma = this.ms.length - 2; gamma >= 0; gamma--) this.#noMoreThan(gamma, this.ms[gamma + 1]);
    this.#ratios = this.ms.map((ms) => ms / this.ms[0]);
    this.#timed = new Float64Array(this.ms.length);
    this.#verifyMs = this.ms.slice();
    const each = () => (choices ?? [1]).map(() => new Float64Array(this.ms.length - 1));
    this.#tested = each();
    this.#accepted = each();
  }

  /** What a round of γ tokens in T steps is expected to cost, in milliseconds. */
  cost(gamma: number, steps: number): number {
    return this.ms[gamma] + this.#step * this.ms[0] * Math.max(0, Math.min(steps, gamma) - 1);
  }

  /**
   * Takes a round's time into account.
   * @param unread tokens that the drafter had to read besides those of the round before
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
    // a plain step that is never made is known by the passes over more rows, which on average take no less; held to
    // each of them, it would be thought as fast as the luckiest
    const before = this.#verifyMs[gamma];
    this.#verifyMs[gamma] += TIME_WEIGHT * (believed(verifyMs, before) - before);
    this.#noMoreThan(0, this.#verifyMs[gamma]);
  }

  #observeOneStep(gamma: number, ms: number): void {
    const timed = this.#timed[gamma]++;
    this.ms[gamma] += Math.max(TIME_WEIGHT, 1 / (timed + 2)) *
      (believed(ms, this.ms[gamma]) - this.ms[gamma]);
    this.#ratios[gamma] += (this.ms[gamma] / this.ms[0] - this.#ratios[gamma]) /
      Math.min(MEMORY, timed + 2);
    const step = this.ms[gamma] / this.#ratios[gamma], follow = FOLLOW_WEIGHT * timed / (timed + FAMILIAR);
    for (let other = 0; other < this.ms.length; other++) {
      if (other === gamma) continue;
      this.ms[other] += follow * (step * this.#ratios[other] - this.ms[other]);
      if (other < gamma) this.#noMoreThan(other, this.ms[gamma]);
      else this.ms[other] = Math.max(this.ms[other], this.ms[gamma]);
    }
  }

  /** Remembers of a round how far its draft was accepted; of a plain one, that time has passed. */
  remember(gamma: number, accepted: number, steps: number = 1): void {
    for (let t = 0; t < this.#tested.length; t++) {
      const tests = this.#tested[t], accepts = this.#accepted[t];
      const made = this.stepChoices === undefined || this.stepChoices[t] === steps;
      const kept = Math.exp(-1 / (t === 0 ? MEMORY : STEPS_MEMORY));
      for (let j = 0; j < tests.length; j++) {
        // the first token is drawn in the first step, whatever T is: what becomes of it is noted once
        const tested = (j === 0 ? t === 0 : made) && j < gamma && j <= accepted;
        tests[j] = tests[j] * kept + (tested ? 1 : 0);
        accepts[j] = accepts[j] * kept + (tested && j < accepted ? 1 : 0);
      }
    }
  }

  /**
   * How often index j of a draft in the T at index t is accepted if all before it are. What is not known of it is taken
   * from the index before it; of the first T it is hoped to be as with the others, of another to be better than with
   * the one before it, but for the first index, of which all T have the same law.
   *
   * @param before that of the index before
   * @param fewer that of this index with the T before
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

/** A rate of acceptance, from what was seen and what was assumed. */
function estimate(tested: number, accepted: number, prior: number): number {
  return (accepted + PRIOR_ROUNDS * prior) / (tested + PRIOR_ROUNDS);
}

/** A time as far as it is believed. */
function believed(ms: number, expected: number): number {
  return Math.min(ms, SLOWEST * expected);
}

/**
 * Measures what rounds cost: a few drafts and passes over a made-up text, the lengths doubled for as long as a
 * drafter that has nine of ten tokens accepted would gain by it. Target and drafter forget what they held.
 *
 * @param options how the text to come is decoded
 * @throws {Error} if target or drafter are in the middle of a round of a text
 * @throws the signal's reason, and whatever target and drafter throw
 */
export function measureCosts(
  target: Target,
  drafter: Drafter,
  options: MeasureOptions,
): Promise<CostProfile> {
  return holding(
    target,
    "the target",
    () => holding(drafter, `the drafter "${drafter.name}"`, () => measure(target, drafter, options)),
  );
}

/** What {@linkcode measureCosts} is told of the text to come. */
export interface MeasureOptions {
  /** How drafts will be tested. */
  readonly rule: Rule;
  /** How the laws will be made. */
  readonly sampling: Sampling;
  /** Ends the measurement with its reason. */
  readonly signal?: AbortSignal | undefined;
}

async function measure(
  target: Target,
  drafter: Drafter,
  { rule, sampling, signal }: MeasureOptions,
): Promise<CostProfile> {
  // it repeats itself, so that a drafter which looks for repetitions has something to say
  const length = Math.min(MEASURED_CONTEXT, target.contextLength - 1);
  const text = Int32Array.from({ length }, (_, i) => i % Math.min(4, target.vocabSize));
  const random = new PhiloxSource(0);
  let turn = performance.now();
  const longest = Math.min(LONGEST, target.contextLength - length);
  const choices = drafter.stepChoices?.filter((choice) => choice <= longest);
  const timed = async (gamma: number, steps = choices?.[0]): Promise<Step> => {
    turn = await takeTurns(turn);
    signal?.throwIfAborted();
    const settings = { text, random, rule, sampling, signal, steps };
    const step = await draftAndVerify(target, drafter, gamma, settings);
    target.truncate(length - 1);
    return step;
  };
  const round = async (gamma: number) => {
    const { draftMs, verifyMs } = await timed(gamma);
    return draftMs + verifyMs;
  };
  target.keepHidden?.(drafter.hiddenLayers ?? []);
  if (length > 1) await target.score(text.subarray(0, length - 1), 1, sampling, signal);
  await round(1); // what is only just loaded is slow
  drafter.reset();
  const first = await round(1); // the drafter reads the text
  const known: [gamma: number, ms: number[]][] = [];
  for (let gamma = 0, before = 0; gamma <= longest; gamma = Math.max(1, 2 * gamma)) {
    const ms = await round(gamma);
    known.push([gamma, [ms]]);
    const rate = (1 - 0.9 ** (gamma + 1)) / ms;
    if (gamma > 1 && rate < before) break;
    before = rate;
  }
  // again, taking turns, against mishaps
  const began = performance.now();
  for (let turns = 1; turns < 2 || turns < MOST_TURNS && performance.now() - began < PATIENCE_MS; turns++) {
    for (const [gamma, times] of known) times.push(await round(gamma));
  }
  const costs = interpolated(known.map(([gamma, times]) => [gamma, lowerMedian(times)]));
  const stepMs = choices?.[1] === undefined ? 0 : await measureStep(choices[1]);
  target.truncate(0);
  drafter.reset();
  const steps = choices === undefined ? undefined : { choices, ms: stepMs };
  return new CostProfile(costs, Math.max(0, first - costs[1]) / length, steps);

  /** What a further denoising step takes, which is much the same for all γ: between one and so many. */
  async function measureStep(many: number): Promise<number> {
    const gamma = Math.min(longest, Math.max(many, 4)), once: number[] = [], often: number[] = [];
    const began = performance.now();
    for (let turns = 0; turns < 2 || turns < MOST_TURNS && performance.now() - began < PATIENCE_MS; turns++) {
      once.push((await timed(gamma)).draftMs);
      often.push((await timed(gamma, many)).draftMs);
    }
    return Math.max(0, lowerMedian(often) - lowerMedian(once)) / (many - 1);
  }
}

/** Of two in the middle, the lower one. */
function lowerMedian(values: number[]): number {
  return values.sort((a, b) => a - b)[(values.length - 1) >> 1];
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
 * Chooses γ and T for the rounds of one text: those with the largest E[τ(γ, T)] / cost(γ, T), where
 * E[τ(γ, T)] = 1 + a₁ + a₁a₂ + … + a₁⋯a_γ and a_j is how often position j was accepted when all before it were.
 *
 * Observations are forgotten, in plain rounds too, so that what once failed is tried again; but only drafts are
 * made whose failure can be afforded: one token if a single failure can, more of them if three such failures can.
 * By the costs as they are known, drafting then loses no more than 1.5 % of the time of plain decoding, or 2.5 steps
 * of it in a short text, and a quarter of a step for each token that is accepted, beyond the drafter's one reading of
 * the prompt. A drafter that takes long to read what plain steps have added is therefore given up sooner, and may not
 * be tried again.
 */
export class DraftController implements DraftPolicy {
  readonly #costs: CostProfile;
  readonly #live: boolean;
  /** Plain steps that drafting has cost beyond what it brought and what it may. */
  #lost = 0;
  #tokens = 0;
  /** [longest draft] rates of acceptance, with the T last looked at. */
  readonly #rates: Float64Array;
  /** Plain rounds since the last draft, whose tokens the drafter has yet to read. */
  #unread = 0;
  #drafted = false;

  /**
   * For one text.
   *
   * @param costs a profile, which is kept up to date; or the milliseconds of a round for each γ from 0 on, which
   * stand: then γ depends on nothing but what was accepted of this text, and the same seed gives the same text
   * @throws {RangeError} as {@linkcode CostProfile}
   */
  constructor(costs: CostProfile | ArrayLike<number>) {
    this.#live = costs instanceof CostProfile;
    this.#costs = costs instanceof CostProfile ? costs : new CostProfile(costs);
    this.#rates = new Float64Array(this.#costs.ms.length - 1);
  }

  /** γ, 0 … most, and T of the next round. */
  next(most: number): DraftPlan {
    const { ms, stepChoices } = this.#costs, longest = Math.min(most, ms.length - 1), rates = this.#rates;
    const stake = Math.max(LOSS_STEPS, LOSS_SHARE * this.#tokens) - this.#lost;
    let bestGamma = 0, bestSteps = 1, bestRate = 1 / ms[0];
    for (let t = 0; t < (stepChoices?.length ?? 1); t++) {
      const steps = stepChoices?.[t] ?? 1, atLeast = bestGamma > 0 ? STEPS_MARGIN * bestRate : bestRate;
      let rate = PRIOR_RATE, reached = 1, expected = 1;
      for (let gamma = 1; gamma <= longest; gamma++) {
        rate = rates[gamma - 1] = this.#costs.rate(t, gamma - 1, rate, rates[gamma - 1]);
        reached *= rate;
        expected += reached;
        const cost = this.#costs.cost(gamma, steps), promise = expected / cost;
        const affordableMs = (1 + stake / (gamma === 1 ? 1 : STAKES)) * ms[0];
        if (gamma < steps || cost + this.#readingMs > affordableMs) continue;
        if (promise > bestRate && (bestSteps === steps || promise > atLeast)) {
          [bestGamma, bestSteps, bestRate] = [gamma, steps, promise];
        }
      }
    }
    return stepChoices === undefined ? { gamma: bestGamma } : { gamma: bestGamma, steps: bestSteps };
  }

  /**
   * Learns from a finished round.
   * @throws {RangeError} if it drafted more than there are costs for
   */
  observe(step: Step, { steps = 1 }: DraftPlan = { gamma: 0 }): void {
    const { draft: { length: gamma }, accepted } = step;
    if (gamma >= this.#costs.ms.length) {
      throw new RangeError(
        `Cannot learn from a draft of ${gamma} tokens: costs are known of up to ${this.#costs.ms.length - 1}`,
      );
    }
    this.#costs.remember(gamma, accepted, steps);
    this.#tokens += accepted + 1;
    if (gamma > 0) {
      // by what a round takes as a rule: that others have used the machine meanwhile is no loss to drafting
      const cost = (this.#costs.cost(gamma, steps) + this.#readingMs) / this.#costs.ms[0];
      const lost = cost - (accepted + 1) - LOSS_PER_ACCEPTED * accepted;
      this.#lost = Math.max(-SAVED_STEPS, this.#lost + lost);
    }
    // the drafter's reading of the prompt is no fault of γ
    const timed = this.#live && (gamma === 0 || this.#drafted);
    if (gamma > 0) this.#drafted = true;
    if (timed) this.#costs.observe(step, this.#unread, steps);
    this.#unread = gamma > 0 ? 0 : this.#unread + 1;
  }

  /** What the drafter's reading of plain rounds' tokens is expected to add to its next round. */
  get #readingMs(): number {
    return this.#costs.readingMs * this.#unread;
  }
}
