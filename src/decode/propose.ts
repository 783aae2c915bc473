/**
 * How a drafter draws a token from the law it computed, on the host or on the device: the one place where drafts meet
 * randomness.
 *
 * Deliberately absent: what a draft is tested by.
 *
 * @module
 */

import type { DeviceRound, TokenBuffer } from "../backend/backend.ts";
import type { DeviceDistributions } from "./device_distributions.ts";
import type { Distributions } from "./distributions.ts";
import type { DraftRequest } from "./drafter.ts";
import { Purpose } from "./random.ts";

/**
 * Draws the token at index j of a draft from row j of q: with the target's noise at that position under
 * `coupled`, otherwise with noise of the drafter's own.
 *
 * A position beyond a rejected one is drafted again in a later round. Its noise must then be fresh: what was
 * emitted in between may depend on the first draw. The length of the text tells rounds apart, since every
 * round adds to it.
 */
export function propose(q: Distributions, j: number, request: DraftRequest): number {
  const start = request.tokens.length;
  return request.coupled
    ? request.random.race(q, j, start + j)
    : request.random.choose(q.row(j), Purpose.draft, start + j, start);
}

/** Enqueues the same draws for rows [j, j + count) of q; they are written to `out` from index j on. */
export function proposeOnDevice(
  q: DeviceDistributions,
  j: number,
  count: number,
  request: DraftRequest,
  round: DeviceRound,
  out: TokenBuffer,
): void {
  const [purpose, by] = request.coupled
    ? [Purpose.token, "race"] as const
    : [Purpose.draft, "inversion"] as const;
  q.draw(out.slice(j, count), j, count, { round, purpose, offset: j, by });
}
