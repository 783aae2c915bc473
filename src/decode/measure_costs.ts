/**
 * The first measurement of what rounds cost, for `cost_profile.ts` to keep up to date.
 *
 * @module
 */

import type { Sampling } from "../backend/backend.ts";
import type { Rule } from "./acceptance.ts";
import { CostProfile } from "./cost_profile.ts";
import type { Drafter, Target } from "./drafter.ts";
import { takeTurns } from "./event_loop.ts";
import { holding, type Step } from "./loop.ts";
import { PhiloxSource } from "./random.ts";
import { draftAndVerify } from "./speculative.ts";

/** The longest draft that is measured. */
const LONGEST = 64;
/** Length of the text that costs are measured on, in tokens. */
const MEASURED_CONTEXT = 32;
/** Each length is measured at least twice, at most MOST_TURNS times, and not again after PATIENCE_MS. */
const MOST_TURNS = 7, PATIENCE_MS = 200;

/**
 * Measures the cost of rounds by drafting and verifying a made-up text. γ is doubled, at least to 4, for as long as a
 * drafter with an acceptance of 90 % would gain by it. Devices compute rows in tiles, so that a pass over one row more
 * than a power of two costs much more: one token fewer than each power is measured too. Target and drafter forget their
 * text.
 *
 * @param options how the following text is decoded
 * @throws {Error} if target or drafter are in the middle of another text's round
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

/** How {@linkcode measureCosts} drafts and verifies. */
export interface MeasureOptions {
  /** The acceptance rule. */
  readonly rule: Rule;
  /** The sampling options. */
  readonly sampling: Sampling;
  /** Aborts the measurement with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

async function measure(
  target: Target,
  drafter: Drafter,
  { rule, sampling, signal }: MeasureOptions,
): Promise<CostProfile> {
  // a repetitive text, so that an n-gram drafter finds something to propose
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
  const twice = async (gamma: number) => [await round(gamma), await round(gamma)];
  target.keepHidden?.(drafter.hiddenLayers ?? []);
  if (length > 1) await target.score(text.subarray(0, length - 1), 1, sampling, signal);
  await round(1); // warm-up
  drafter.reset();
  const first = await round(1); // the drafter reads the text
  const known: [gamma: number, ms: number[]][] = [], began = performance.now();
  for (let gamma = 0, before = 0; gamma <= longest; gamma = Math.max(1, 2 * gamma)) {
    if (gamma > 3) known.push([gamma - 1, await twice(gamma - 1)]);
    const times = await twice(gamma);
    known.push([gamma, times]);
    const rate = (1 - 0.9 ** (gamma + 1)) / Math.min(...times); // one slow round must not end the search
    if (gamma > 2 && rate < before) break;
    before = rate;
  }
  // repeated, taking turns, to reduce noise
  for (let turns = 2; turns < MOST_TURNS && performance.now() - began < PATIENCE_MS; turns++) {
    for (const [gamma, times] of known) times.push(await round(gamma));
  }
  const costs = interpolated(known.map(([gamma, times]) => [gamma, lowerQuartile(times)]));
  const stepMs = choices?.[1] === undefined ? 0 : await measureStep(choices[1]);
  target.truncate(0);
  drafter.reset();
  const steps = choices === undefined ? undefined : { choices, ms: stepMs };
  return new CostProfile(costs, Math.max(0, first - costs[1]) / length, steps);

  /** Milliseconds of one more denoising step, about the same for all γ: from one step and `many`. */
  async function measureStep(many: number): Promise<number> {
    const gamma = Math.min(longest, Math.max(many, 4)), once: number[] = [], often: number[] = [];
    const began = performance.now();
    for (let turns = 0; turns < 2 || turns < MOST_TURNS && performance.now() - began < PATIENCE_MS; turns++) {
      once.push((await timed(gamma)).draftMs);
      often.push((await timed(gamma, many)).draftMs);
    }
    return Math.max(0, lowerQuartile(often) - lowerQuartile(once)) / (many - 1);
  }
}

/** The first quartile, rounded down to one of the values: what disturbs a measurement only makes it longer. */
function lowerQuartile(values: number[]): number {
  return values.sort((a, b) => a - b)[(values.length - 1) >> 2];
}

/** Interpolates known values linearly, at 0, 1, … up to the last known one. */
function interpolated(known: readonly (readonly [at: number, value: number])[]): number[] {
  const values = [known[0][1]];
  for (let i = 1; i < known.length; i++) {
    const [from, a] = known[i - 1], [to, b] = known[i];
    for (let x = from + 1; x <= to; x++) values.push(a + (b - a) * (x - from) / (to - from));
  }
  return values;
}
