/**
 * Which drafted tokens are kept, and what replaces the first that is not: the rules of speculative decoding,
 * pure functions of the draft, the target's laws and a source of random decisions.
 *
 * Throughout, x_j is the drafted token at index j (from 0), p_j the target's law given the text and x_0 …
 * x_{j−1}, q_j the law x_j was drawn from, t_j the step that revealed it. A round emits the accepted tokens
 * and one more: the corrected token at the first rejection, or the bonus token from p_n when all n were
 * accepted.
 *
 * Why a test is exact. If, given the accepted tokens x_0 … x_{j−1} and the tests they passed, x_j still has
 * law q_j, then accepting it with probability min(1, p_j(x_j)/q_j(x_j)) and otherwise drawing from
 * norm(max(0, p_j − q_j)) emits a token of law p_j (Leviathan et al. 2023; Chen et al. 2023). In an any-order
 * draft that premise fails for a token revealed *before* one of its left neighbours: the neighbour was drawn,
 * and tested, in sight of it. What never fails is the same test with a point mass at x_j in place of q_j,
 * accept with probability p_j(x_j), else draw from p_j without x_j, whatever x_j came from. `ordered` uses
 * the first test where the premise holds and the second elsewhere. Its conditions: which positions a step
 * reveals may depend on laws but not on tokens drawn in that step; revealed tokens are not changed; how much
 * of a draft is verified does not depend on drafted values; and q_j is the very vector x_j was drawn from.
 *
 * Deliberately absent: trees, several drafts per round, and thresholds that trade exactness for speed.
 *
 * @module
 */

import type { Distributions, Law } from "./distributions.ts";
import type { Draft } from "./drafter.ts";
import { Purpose, type RandomSource } from "./random.ts";

/**
 * - `ordered`: the ratio test where every left neighbour was revealed no later, a point-mass test elsewhere.
 *   Exact for any reveal order that does not look at the tokens drawn in the same step.
 * - `ratio`: accept with probability min(1, p/q), else draw from norm(max(0, p − q)) (Leviathan et al. 2023).
 *   Exact for one-step and left-to-right drafts.
 * - `block`: all tokens of a draft are tested jointly; never accepts fewer in expectation than `ratio`
 *   (Sun et al. 2024, arXiv 2403.10444). Exact where `ratio` is.
 * - `match`: the target draws its own token at each position; drafted ones are kept while they equal it.
 *   Exact for any draft at all.
 * - `coupled`: `match`, with a drafter that draws with the target's noise (Daliri et al. 2024, arXiv
 *   2408.07978). Exact for any draft at all; like `match`, its text equals that of plain decoding with the
 *   same seed.
 * - `paper`: the ratio test with the q recorded at reveal, whatever the order, as in SpecDiff (Christopher et
 *   al. 2024, arXiv 2408.05636). Not exact for any-order drafts in several steps.
 */
export type Rule = "ordered" | "ratio" | "block" | "match" | "coupled" | "paper";

/** All rules, the default first. */
export const rules: readonly Rule[] = ["ordered", "ratio", "block", "match", "coupled", "paper"];

/**
 * Whether the text has the target's law under `rule`.
 *
 * @param leftToRight what the drafter says of itself: {@linkcode Drafter.leftToRight}
 */
export function isExact(rule: Rule, leftToRight: boolean): boolean {
  return leftToRight || rule === "ordered" || rule === "match" || rule === "coupled";
}

/** What a rule decided about a draft. */
export interface Verdict {
  /** How many drafted tokens are kept, from the left. */
  readonly accepted: number;
  /** The token emitted after them. */
  readonly token: number;
  /** Whether `token` follows a draft that was kept as a whole, instead of correcting it. */
  readonly bonus: boolean;
}

/**
 * Applies a rule to a draft of n tokens. Rows of p and q are read only as far as the decision needs them.
 *
 * @param draft what was proposed; without q, each token is a point mass
 * @param p the target's laws, n + 1 rows
 * @param random decides; `match` and `coupled` ask only for races, the others only for tests and choices
 * @param position absolute position of the first drafted token
 * @throws {RangeError} if a law has no mass or is not a number, or a token was drafted with probability 0
 */
export function verify(
  rule: Rule,
  draft: Draft,
  p: Distributions,
  random: RandomSource,
  position: number,
): Verdict {
  switch (rule) {
    case "ordered":
      return verifyEach(draft, recordPositions(draft.steps), p, random, position);
    case "ratio":
    case "paper":
      return verifyEach(draft, undefined, p, random, position);
    case "block":
      return verifyBlock(draft, p, random, position);
    case "match":
    case "coupled":
      return verifyByDrawing(draft, p, random, position);
    default:
      throw new TypeError(`Cannot verify a draft: unknown rule "${rule satisfies never}"`);
  }
}

/** For each position, whether every position left of it was revealed no later. */
function recordPositions(steps: Int32Array): boolean[] {
  let latest = -Infinity;
  return Array.from(steps, (step) => {
    latest = Math.max(latest, step);
    return step === latest;
  });
}

/**
 * One test after the other.
 *
 * @param useQ [n] where the recorded q may be used (default: everywhere); elsewhere the token is a point mass
 */
function verifyEach(
  draft: Draft,
  useQ: readonly boolean[] | undefined,
  p: Distributions,
  random: RandomSource,
  position: number,
): Verdict {
  const { tokens, q } = draft;
  for (let j = 0; j < tokens.length; j++) {
    const pj = p.row(j), qj = useQ === undefined || useQ[j] ? q?.row(j) : undefined;
    if (!random.bernoulli(ratio(pj, qj, tokens[j]), Purpose.accept, position + j)) {
      return corrected(j, residual(pj, qj, tokens[j], 1), pj, random, position);
    }
  }
  return bonus(tokens.length, p, random, position);
}

/**
 * Block verification. With b_0 = 1 and b_{j+1} = min(1, b_j·p_j(x_j)/q_j(x_j)), the whole draft passes with
 * probability b_n, its first j < n tokens with h_j = r_j/(r_j + 1 − b_j), r_j the mass of max(0, b_j·p_j −
 * q_j), from which the corrected token is drawn; the longest prefix that passes is kept. So the tests are
 * made from the right, and only as many as needed.
 */
function verifyBlock(draft: Draft, p: Distributions, random: RandomSource, position: number): Verdict {
  const { tokens, q } = draft;
  const n = tokens.length;
  const b = [1]; // [n + 1]
  for (let j = 0; j < n; j++) b.push(Math.min(1, b[j] * ratio(p.row(j), q?.row(j), tokens[j])));
  // positions right of the kept prefix are tested again in a later round: its start tells rounds apart
  const passes = (j: number, probability: number): boolean =>
    j === 0 || random.bernoulli(probability, Purpose.accept, position + j - 1, position);
  if (passes(n, b[n])) return bonus(n, p, random, position);
  for (let j = n - 1;; j--) {
    const weights = residual(p.row(j), q?.row(j), tokens[j], b[j]);
    const r = sum(weights);
    // r = 0 and b = 1, hence 0/0: q meets p here, and but for rounding the next longer prefix had passed
    if (passes(j, r > 0 ? r / (r + 1 - b[j]) : 0)) return corrected(j, weights, p.row(j), random, position);
  }
}

/** The target draws its own tokens; the draft only decides how many of them one pass pays for. */
function verifyByDrawing(draft: Draft, p: Distributions, random: RandomSource, position: number): Verdict {
  const n = draft.tokens.length;
  for (let j = 0; j < n; j++) {
    const token = random.race(p, j, position + j);
    if (token !== draft.tokens[j]) return { accepted: j, token, bonus: false };
  }
  return { accepted: n, token: random.race(p, n, position + n), bonus: true };
}

function corrected(j: number, weights: Law, pj: Law, random: RandomSource, position: number): Verdict {
  // nothing is left if q equals p up to rounding: a rejection then is itself a rounding error, of a
  // probability that no choice of token could make visible, and p draws no token that the target excludes
  const law = sum(weights) > 0 ? weights : pj;
  return { accepted: j, token: random.choose(law, Purpose.residual, position + j), bonus: false };
}

function bonus(n: number, p: Distributions, random: RandomSource, position: number): Verdict {
  return { accepted: n, token: random.choose(p.row(n), Purpose.residual, position + n), bonus: true };
}

/** p(x)/q(x), both normalised, for rows of f32 sum to 1 only up to rounding. Without q: p(x). */
function ratio(p: Law, q: Law | undefined, x: number): number {
  const px = p[x] / mass(p);
  if (q === undefined) return px;
  if (!(q[x] > 0)) {
    throw new RangeError(
      `Cannot verify a draft: token ${x} has probability ${q[x]} in the law it was drawn from`,
    );
  }
  return px * mass(q) / q[x];
}

/** max(0, scale·p − q), both normalised, [V], for scale ≤ 1; without q, q is a point mass at x. */
function residual(p: Law, q: Law | undefined, x: number, scale: number): Float64Array {
  const left = new Float64Array(p.length);
  const scaleP = scale / mass(p);
  if (q === undefined) {
    for (let v = 0; v < p.length; v++) left[v] = p[v] * scaleP;
    left[x] = 0;
  } else {
    const scaleQ = 1 / mass(q);
    for (let v = 0; v < p.length; v++) left[v] = Math.max(0, p[v] * scaleP - q[v] * scaleQ);
  }
  return left;
}

function mass(law: Law): number {
  const total = sum(law);
  if (!(total > 0 && total < Infinity)) {
    throw new RangeError(`Cannot verify a draft: a law sums to ${total}, expected a positive finite number`);
  }
  return total;
}

function sum(weights: Law): number {
  let total = 0;
  for (let v = 0; v < weights.length; v++) total += weights[v];
  return total;
}
