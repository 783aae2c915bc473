/**
 * Synthetic acceptance: what speculation would be worth if drafts were accepted at a given rate. Models of noise agree
 * on nothing, so the outcome of each test of a draft is drawn by lot. Everything else is the shipped code and does all
 * its work. The texts that come out have no meaning and no target's law; nothing but the time of a round is measured.
 *
 * @module
 */

import type { DeviceRound, Sampling } from "../../src/backend/backend.ts";
import type { Rule } from "../../src/decode/acceptance.ts";
import type { DeviceDraft, DeviceVerdict, Draft, Target } from "../../src/decode/drafter.ts";
import type { Distributions } from "../../src/decode/distributions.ts";
import { PhiloxSource, Purpose } from "../../src/decode/random.ts";

/** The probability α for which drafts of γ tokens yield τ tokens a round: (1 − α^{γ+1})/(1 − α) = τ. */
export function acceptanceFor(tau: number, gamma: number): number {
  let low = 0, high = 1;
  for (let i = 0; i < 60; i++) {
    const alpha = (low + high) / 2;
    let sum = 0;
    for (let j = 0; j <= gamma; j++) sum += alpha ** j;
    if (sum < tau) low = alpha;
    else high = alpha;
  }
  return low;
}

/** A target that leaves decisions to its device. */
export type DeviceTarget = Target & Required<Pick<Target, "beginOnDevice" | "verifyOnDevice">>;

/** A target whose device decides as ever, and is then overruled by lot. */
export class SyntheticAcceptance implements Target {
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly #target: DeviceTarget;
  readonly #alpha: number;
  readonly #lots: PhiloxSource;

  /**
   * @param alpha the probability that a token is accepted if all left of it were
   */
  constructor(target: DeviceTarget, alpha: number, seed: number) {
    this.vocabSize = target.vocabSize;
    this.contextLength = target.contextLength;
    this.#target = target;
    this.#alpha = alpha;
    this.#lots = new PhiloxSource(seed);
  }

  score(tokens: Int32Array, rows: number, sampling: Sampling): Distributions | Promise<Distributions> {
    return this.#target.score(tokens, rows, sampling);
  }

  truncate(length: number): void {
    this.#target.truncate(length);
  }

  beginOnDevice(seed: bigint, start: number): DeviceRound | undefined {
    return this.#target.beginOnDevice(seed, start);
  }

  async verifyOnDevice(
    text: Int32Array,
    draft: DeviceDraft | Draft,
    rule: Rule,
    sampling: Sampling,
  ): Promise<DeviceVerdict> {
    const verdict = await this.#target.verifyOnDevice(text, draft, rule, sampling), tokens = verdict.draft;
    let accepted = 0;
    while (
      accepted < tokens.length &&
      this.#lots.bernoulli(this.#alpha, Purpose.accept, text.length + accepted)
    ) accepted++;
    const bonus = accepted === tokens.length;
    const token = bonus ? verdict.token : (tokens[accepted] + 1) % this.vocabSize;
    return { ...verdict, accepted, token, bonus };
  }
}
