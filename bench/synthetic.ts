/**
 * Synthetic acceptance: the speed of speculation if drafts were accepted at a given rate. Models with random weights
 * never agree, so the outcome of each acceptance test is drawn at random. Everything else is the shipped code doing its
 * full work. The texts are meaningless and do not have the target's distribution; only the time of a round is measured.
 *
 * @module
 */

import type { DeviceRound, Sampling } from "../src/backend/backend.ts";
import type { Rule } from "../src/decode/acceptance.ts";
import type {
  DeviceDraft,
  DeviceVerdict,
  Draft,
  Drafter,
  DraftRequest,
  Target,
} from "../src/decode/drafter.ts";
import type { Distributions } from "../src/decode/distributions.ts";
import { PhiloxSource, Purpose, type RandomSource } from "../src/decode/random.ts";

/** The probability α for which drafts of γ tokens yield τ tokens per round: (1 − α^{γ+1})/(1 − α) = τ. */
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

/**
 * For decisions on the host: a drafter whose tokens are accepted at random, and also the random source that does it.
 */
export class SyntheticAcceptance implements Drafter, RandomSource {
  readonly name: string;
  readonly vocabSize: number;
  readonly leftToRight = true;
  readonly #drafter: Drafter;
  readonly #alpha: number;
  readonly #random: PhiloxSource;
  /** The last draft and the position of its first token. */
  #draft: { readonly tokens: Int32Array; readonly start: number } | undefined;

  /**
   * @param alpha the probability that a token is accepted if all left of it were
   */
  constructor(drafter: Drafter, alpha: number, seed: number) {
    this.name = `synthetic acceptance ${alpha.toFixed(3)}, ${drafter.name}`;
    this.vocabSize = drafter.vocabSize;
    this.#drafter = drafter;
    this.#alpha = alpha;
    this.#random = new PhiloxSource(seed);
  }

  async draft(request: DraftRequest): Promise<Draft> {
    this.#draft = undefined; // draws of the drafter itself are not changed
    const draft = await this.#drafter.draft(request);
    this.#draft = { tokens: draft.tokens, start: request.tokens.length };
    return draft;
  }

  bernoulli(probability: number, purpose: Purpose, position: number, draw?: number): boolean {
    return this.#random.bernoulli(
      purpose === Purpose.accept ? this.#alpha : probability,
      purpose,
      position,
      draw,
    );
  }

  choose(...request: Parameters<RandomSource["choose"]>): number {
    return this.#random.choose(...request);
  }

  /**
   * Draws a token. At a drafted position, it returns the drafted token with probability α, for `match` and `coupled`.
   */
  race(laws: Distributions, row: number, position: number): number {
    const drawn = this.#random.race(laws, row, position);
    const drafted = this.#draft?.tokens[position - this.#draft.start];
    if (drafted === undefined) return drawn;
    if (this.#random.bernoulli(this.#alpha, Purpose.accept, position)) return drafted;
    return drawn === drafted ? (drafted + 1) % this.vocabSize : drawn;
  }

  reset(): void {
    this.#drafter.reset();
  }

  [Symbol.dispose](): void {
    this.#drafter[Symbol.dispose]();
  }
}

/** A target whose device decides. */
export type DeviceTarget = Target & Required<Pick<Target, "beginOnDevice" | "verifyOnDevice">>;

/** For decisions on the device: a target whose real verdicts are replaced by random ones. */
export class SyntheticVerdicts implements Target {
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
