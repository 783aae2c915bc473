/**
 * What the paper's pairs would be worth on this machine if their acceptance were as the paper has it: arithmetic on
 * measured costs, since the weights are not here. Nothing in it is a measurement of those models.
 *
 * What is measured: passes of GPT-2 124M's shape over different numbers of rows, with noise for weights, on the
 * backend that the product uses. What is assumed: a pass over another shape costs as much more as it reads more
 * weights; SEDD small costs what GPT-2 124M costs, and is charged γ rows per denoising step, its prefix cached; and
 * every tested token is accepted with the same chance α.
 *
 * @module
 */

import type { Backend } from "../../src/backend/backend.ts";
import { Gpt2Shape, medians } from "../kernels.ts";
import { expectedPrefix, targets, type TargetTitle } from "./paper.ts";

/** What passes cost: `ms[i]` of one over `rows[i]` rows, ascending from 1. */
export interface PassCosts {
  readonly rows: readonly number[];
  readonly ms: readonly number[];
}

/** Weights of the head and the blocks, all of which a pass reads. */
function weightsOf({ layers, width }: { readonly layers: number; readonly width: number }): number {
  return 12 * layers * width ** 2 + Gpt2Shape.vocabSize * width;
}

/** Measures passes of GPT-2 124M's shape, f32, at a context of 128. */
export async function measurePasses(
  backend: Backend,
  rows: readonly number[],
  turns: number,
): Promise<PassCosts> {
  using model = await Gpt2Shape.open(backend, "f32");
  const time = medians(turns, Object.fromEntries(rows.map((n) => [n, model.pass(n, 128)])));
  return { rows, ms: rows.map((n) => time[n]) };
}

/** Milliseconds of a pass, between two that were measured on the line that joins them. */
export function passMs({ rows, ms }: PassCosts, n: number): number {
  const after = Math.min(Math.max(1, rows.findIndex((row) => row >= n)), rows.length - 1);
  if (n < rows[0] || n > rows[rows.length - 1]) {
    throw new RangeError(
      `Cannot say what a pass over ${n} rows costs: known are ${rows[0]} to ${rows.at(-1)}`,
    );
  }
  const before = after - 1, share = (n - rows[before]) / (rows[after] - rows[before]);
  return ms[before] + share * (ms[after] - ms[before]);
}

/**
 * Speed-up over plain decoding of a target of the paper.
 *
 * @param method `classical`: γ passes of GPT-2 124M over one row; a number: T passes of SEDD small over γ rows
 */
export function virtualSpeedup(
  costs: PassCosts,
  target: TargetTitle,
  method: "classical" | number,
  gamma: number,
  alpha: number,
): number {
  const times = weightsOf(targets.find(({ title }) => title === target)!) / weightsOf(Gpt2Shape);
  const draft = method === "classical" ? gamma * passMs(costs, 1) : method * passMs(costs, gamma);
  const verify = times * passMs(costs, gamma + 1);
  return (1 + expectedPrefix(alpha, gamma)) * times * passMs(costs, 1) / (draft + verify);
}
