/**
 * How a drafter draws a token from the law it computed: the one place where drafts meet randomness.
 *
 * @module
 */

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
