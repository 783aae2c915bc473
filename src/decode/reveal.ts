/**
 * Which masked positions a denoising step reveals. The choice may depend on distributions, but never on tokens drawn in
 * the same step: a condition for `ordered` and `block` to be exact (see `acceptance.ts`).
 *
 * Deliberately absent: drawing tokens, which is in `propose.ts`.
 *
 * @module
 */

import { Purpose, type RandomSource } from "./random.ts";

/**
 * - `left-to-right`: the leftmost ones, in T chunks of nearly equal size. Every rule is exact for it.
 * - `random`: each with probability 1/(steps left), independently; SEDD's own reverse process, whose reveal
 *   probability is dt/t for log-linear noise (Lou et al. 2024, §4; MDLM and RADD likewise).
 * - `confidence`: those whose distributions have the largest maximum, in T chunks of nearly equal size.
 */
export type RevealOrder = "left-to-right" | "random" | "confidence";

/** All orders, the default first. */
export const revealOrders: readonly RevealOrder[] = ["left-to-right", "random", "confidence"];

/** The state on which {@linkcode reveal} decides. */
export interface RevealRequest {
  /** Indices in the draft that are masked, ascending. */
  readonly masked: readonly number[];
  /** The step being made, 0 … steps − 1. */
  readonly step: number;
  /** T. */
  readonly steps: number;
  /** The largest probability at an index; called only for `confidence`. */
  readonly confidence: (index: number) => number;
  /** Source of the decisions of `random`. */
  readonly random: RandomSource;
  /** Length of the committed text: index j is position start + j. */
  readonly start: number;
}

/** The indices to reveal, ascending. The last step reveals all that are left; before, `random` may reveal none. */
export function reveal(order: RevealOrder, request: RevealRequest): number[] {
  const { masked, step, steps, random, start } = request;
  const stepsLeft = steps - step;
  if (stepsLeft <= 1) return [...masked];
  const count = Math.ceil(masked.length / stepsLeft);
  switch (order) {
    case "left-to-right":
      return masked.slice(0, count);
    case "random":
      // (start + j, j) distinguishes rounds as in propose.ts, whatever their γ and T
      return masked.filter((j) =>
        random.bernoulli(1 / stepsLeft, Purpose.reveal, start + j, j * 0x10000 + step)
      );
    case "confidence": {
      const ranked = masked.map((j) => ({ j, confidence: request.confidence(j) }));
      ranked.sort((a, b) => b.confidence - a.confidence || a.j - b.j);
      return ranked.slice(0, count).map(({ j }) => j).sort((a, b) => a - b);
    }
    default:
      throw new TypeError(
        `Cannot order the reveal: unknown order "${order satisfies never}", expected one of ${
          revealOrders.join(", ")
        }`,
      );
  }
}
