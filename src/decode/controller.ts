/**
 * Chooses γ and T while decoding: each round uses those with the most expected tokens per millisecond, or makes a plain
 * step if that is faster. Costs and acceptance come from a {@linkcode CostProfile}.
 *
 * A choice is made before anything of its round is drawn, and depends on earlier rounds alone: of this text, and of
 * others with independent noise (`shared_profile.ts`). It is thus non-anticipating, and every rule that is exact for a
 * fixed γ and T stays exact.
 *
 * Deliberately absent: choosing the rule. Rules cost no time, and `block` accepts the most of any draft.
 *
 * @module
 */

import { CostProfile } from "./cost_profile.ts";
import type { Step } from "./loop.ts";
import type { DraftPlan, DraftPolicy } from "./policy.ts";

/** Prior acceptance rate of an untried position. Optimistic, because only what is tried can be found wanting. */
const PRIOR_RATE = 0.8;
/**
 * How much better a larger T must look than the best smaller one: the maximum of several estimates is biased upwards.
 */
const STEPS_MARGIN = 1.03;
/** What drafting may lose against plain decoding: this share of the time … */
const LOSS_SHARE = 0.015;
/** … or this many plain steps, if that is more: a budget for exploration in the first rounds of a text. */
const LOSS_STEPS = 2.5;
/** Plain steps that each accepted token adds to the budget, to tell bad luck from a hopeless text. */
const LOSS_PER_ACCEPTED = 0.25;
/** The most plain steps of gains that count against later losses: enough for bad luck, too few if the text changes. */
const SAVED_STEPS = 8;
/** A long draft may risk this fraction of the budget: risking all of it would often end drafting at once. */
const STAKES = 3;

/**
 * Chooses γ and T for the rounds of one text: those with the largest E[τ(γ, T)] / cost(γ, T). Here
 * E[τ(γ, T)] = 1 + a₁ + a₁a₂ + … + a₁⋯a_γ, and a_j is the acceptance rate of position j given that all before it were
 * accepted.
 *
 * Observations decay, in plain rounds too, so a draft that failed is tried again later, and one draft in 32 is a token
 * longer or shorter than looks best, to put wrong costs right. But a draft is made only if the loss budget covers its
 * failure: one failure for a draft of one token, three for a longer draft. According to the known costs, drafting thus
 * loses at most 1.5 % of the time of plain decoding (2.5 plain steps in a short text), plus a quarter of a step per
 * accepted token and the drafter's one reading of the prompt. A drafter that is slow to read the tokens of plain steps
 * is therefore given up sooner, and may not be tried again.
 */
export class DraftController implements DraftPolicy {
  readonly #costs: CostProfile;
  readonly #live: boolean;
  /** Net loss of drafting so far, in plain steps, after the allowance for accepted tokens. */
  #lost = 0;
  #tokens = 0;
  /** [longest draft] acceptance rates, for the T considered last. */
  readonly #rates: Float64Array;
  /** Plain rounds since the last draft; the drafter has yet to read their tokens. */
  #unread = 0;
  #drafted = false;

  /**
   * For one text.
   *
   * @param costs a profile, which is updated, and which another text with the same seed must not have used
   * ({@linkcode SharedProfile}); or fixed milliseconds of a round for each γ from 0 on. With fixed costs,
   * γ depends only on acceptance in this text, so the same seed gives the same text
   * @throws {RangeError} as {@linkcode CostProfile}
   */
  constructor(costs: CostProfile | ArrayLike<number>) {
    this.#live = costs instanceof CostProfile;
    this.#costs = costs instanceof CostProfile ? costs : new CostProfile(costs);
    this.#rates = new Float64Array(this.#costs.ms.length - 1);
  }

  /** γ in 0 … most, and T, for the next round. */
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
        if (gamma < steps || !this.#affordable(gamma, cost, stake)) continue;
        if (promise > bestRate && (bestSteps === steps || promise > atLeast)) {
          [bestGamma, bestSteps, bestRate] = [gamma, steps, promise];
        }
      }
    }
    if (this.#live && bestGamma > 0) {
      const trial = Math.min(this.#costs.orTrial(bestGamma), longest);
      const cost = this.#costs.cost(trial, bestSteps);
      if (trial >= bestSteps && this.#affordable(trial, cost, stake)) bestGamma = trial;
    }
    return stepChoices === undefined ? { gamma: bestGamma } : { gamma: bestGamma, steps: bestSteps };
  }

  /** Whether the loss budget covers the failure of a draft. */
  #affordable(gamma: number, cost: number, stake: number): boolean {
    return cost + this.#readingMs <= (1 + stake / (gamma === 1 ? 1 : STAKES)) * this.#costs.ms[0];
  }

  /**
   * Learns from a finished round.
   * @throws {RangeError} if its draft was longer than the costs cover
   */
  observe(step: Step, { steps = 1 }: DraftPlan): void {
    const { draft: { length: gamma }, accepted } = step;
    if (gamma >= this.#costs.ms.length) {
      throw new RangeError(
        `Cannot learn from a round: its draft has ${gamma} tokens, expected at most ${
          this.#costs.ms.length - 1
        }, the longest with a cost`,
      );
    }
    this.#costs.remember(gamma, accepted, steps);
    this.#tokens += accepted + 1;
    if (gamma > 0) {
      // by the usual cost of a round: time that other processes took is not a loss of drafting
      const cost = (this.#costs.cost(gamma, steps) + this.#readingMs) / this.#costs.ms[0];
      const lost = cost - (accepted + 1) - LOSS_PER_ACCEPTED * accepted;
      this.#lost = Math.max(-SAVED_STEPS, this.#lost + lost);
    }
    // the first draft's time includes reading the prompt, which does not depend on γ
    const timed = this.#live && (gamma === 0 || this.#drafted);
    if (gamma > 0) this.#drafted = true;
    if (timed) this.#costs.observe(step, this.#unread, steps);
    this.#unread = gamma > 0 ? 0 : this.#unread + 1;
  }

  /** Expected milliseconds in which the drafter reads the tokens of plain rounds, in its next round. */
  get #readingMs(): number {
    return this.#costs.readingMs * this.#unread;
  }
}
