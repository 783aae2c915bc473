/**
 * How a drafter draws a token from q, on the host or on the device. All randomness of drafted tokens is here.
 *
 * Deliberately absent: acceptance tests.
 *
 * @module
 */

import type { DeviceRound, TokenBuffer } from "../backend/backend.ts";
import type { DeviceDistributions } from "./device_distributions.ts";
import type { Distributions } from "./distributions.ts";
import type { DraftRequest } from "./drafter.ts";
import { Purpose } from "./random.ts";

/**
 * Draws the token at index j of a draft from row j of q: under `coupled` with the target's noise at that position,
 * otherwise with the drafter's own noise.
 *
 * A position after a rejected one is drafted again in a later round. Its noise must then be fresh, because tokens
 * emitted in between may depend on the first draw. The noise is therefore keyed by the length of the text too, which
 * differs between rounds.
 */
export function propose(q: Distributions, j: number, request: DraftRequest): number {
  const start = request.tokens.length;
  return request.coupled
    ? request.random.race(q, j, start + j)
    : request.random.choose(q.row(j), Purpose.draft, start + j, start);
}

/** Enqueues the same draws on the device for rows [j, j + count) of q, and writes them to `out` from index j on. */
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
