/**
 * The acceptance rules of speculative decoding: which drafted tokens are kept, and what replaces the first that is not.
 * Pure functions of the draft, the target's distributions and a source of random decisions.
 *
 * Notation: x_j is the drafted token at index j (from 0). p_j is the target's distribution given the text and x_0 …
 * x_{j−1}, q_j is the distribution x_j was drawn from, and t_j is the step that revealed it. A round emits the accepted
 * tokens and one more: the corrected token at the first rejection, or the bonus token from p_n if all n were accepted.
 *
 * **Why a test is exact.** Suppose that x_j follows q_j, given the accepted tokens x_0 … x_{j−1} and the tests they
 * passed. Accept it with probability min(1, p_j(x_j)/q_j(x_j)), otherwise draw from norm(max(0, p_j − q_j)): the emitted
 * token follows p_j (Leviathan et al. 2023; Chen et al. 2023). In an any-order draft, the premise fails for a token
 * revealed *before* one of its left neighbours, because that neighbour was drawn, and tested, given this token. The same
 * test with a point mass at x_j in place of q_j never fails, whatever x_j came from: accept with probability p_j(x_j),
 * otherwise draw from p_j without x_j. `ordered` and `block` use q_j where the premise holds, and a point mass elsewhere.
 *
 * They are exact under six conditions. Which positions a step reveals may depend on distributions, but not on tokens
 * drawn in that step. Within a step, a token may depend on tokens to its left, but not to its right. Revealed tokens do
 * not change. The number of verified tokens does not depend on drafted values. The noise of a round's draws and tests is
 * independent of whatever chose its γ and T. And q_j is the very vector that x_j was drawn from.
 *
 * **Why this holds for `block`**, which looks at the whole draft at once. Let s_j = max(t_0 … t_j), and let I_j consist
 * of x_0 … x_{j−1} and all tokens revealed before step s_j, on either side; I_n is the whole draft. The I_j grow with j.
 * If t_j = s_j, then x_j follows q_j given I_j, since it was drawn given earlier steps and tokens to its left only.
 * Otherwise x_j belongs to I_j, and is a point mass given I_j. Block verification needs no more than such a sequence. By
 * induction from I_n, with the tower property, at least j tokens are kept with probability b_j given I_j. The token at
 * index j is then y, drafted or corrected, with probability min(q_j(y), b_j·p_j(y)) + max(0, b_j·p_j(y) − q_j(y)) =
 * b_j·p_j(y).
 *
 * Deliberately absent: trees, several drafts per round, and thresholds that trade exactness for speed.
 *
 * @module
 */

import type { AcceptOptions } from "../backend/backend.ts";
import { type Distributions, type Law, massOf } from "./distributions.ts";
import type { Draft } from "./drafter.ts";
import { Purpose, type RandomSource } from "./random.ts";

/**
 * - `block`: tests all tokens of a draft jointly, with a point mass where `ordered` has one. Accepts at least as many
 *   tokens in expectation as `ordered` (Sun et al. 2024, arXiv 2403.10444, for left-to-right drafts). Exact where
 *   `ordered` is.
 * - `ordered`: the ratio test where every left neighbour was revealed no later, a point-mass test elsewhere. Exact for
 *   any reveal order that does not depend on tokens drawn in the same step.
 * - `ratio`: accepts with probability min(1, p/q), otherwise draws from norm(max(0, p − q)) (Leviathan et al. 2023).
 *   Exact for one-step and left-to-right drafts.
 * - `match`: the target draws its own token at each position, and drafted tokens are kept while they equal it. Exact for
 *   any draft.
 * - `coupled`: `match`, with a drafter that draws with the target's noise (Daliri et al. 2024, arXiv 2408.07978). Exact
 *   for any draft. Like `match`, its text equals that of plain decoding with the same seed.
 * - `paper`: the ratio test with the q recorded at reveal, whatever the order, as in SpecDiff (Christopher et al. 2024,
 *   arXiv 2408.05636). Not exact for any-order drafts in several steps.
 */
export type Rule = "block" | "ordered" | "ratio" | "match" | "coupled" | "paper";

/** All rules, the default first ({@linkcode DEFAULT_RULE}). */
export const rules: readonly Rule[] = ["block", "ordered", "ratio", "match", "coupled", "paper"];

/** The default rule: exact for every reveal order, with the highest acceptance. */
export const DEFAULT_RULE: Rule = rules[0];

/**
 * Whether the text has the target's distribution under `rule`.
 *
 * @param leftToRight the drafter's {@linkcode Drafter.leftToRight}
 */
export function isExact(rule: Rule, leftToRight: boolean): boolean {
  return leftToRight || (rule !== "ratio" && rule !== "paper");
}

/** A rule's decision about a draft. */
export interface Verdict {
  /** How many drafted tokens are kept, from the left. */
  readonly accepted: number;
  /** The token that is emitted after them. */
  readonly token: number;
  /** Whether all of the draft was kept, so that `token` follows it instead of correcting it. */
  readonly bonus: boolean;
}

/**
 * Applies a rule to a draft of n tokens. Rows of p and q are read only as far as the decision needs them.
 *
 * @param draft the proposal; without q, each token is a point mass
 * @param p the target's distributions, n + 1 rows
 * @param random the source of decisions; `match` and `coupled` use only its races, the others only tests and choices
 * @param position absolute position of the first drafted token
 * @throws {RangeError} if a distribution has no mass or is not a number, one of q is shorter than the target's, or a
 * token was drafted with probability 0
 */
export function verify(
  rule: Rule,
  draft: Draft,
  p: Distributions,
  random: RandomSource,
  position: number,
): Verdict {
  const { test, useQ } = testOf(rule, draft.steps);
  switch (test) {
    case "each":
      return verifyEach(draft, useQ, p, random, position);
    case "joint":
      return verifyBlock(draft, useQ, p, random, position);
    case "drawn":
      return verifyByDrawing(draft, p, random, position);
  }
}

/**
 * How a rule tests a draft, here or on a device (`Decisions.accept` of the backend): each token in turn, all jointly,
 * or by comparison with the target's own draws. `useQ` [n] says where the recorded q is used; absent: everywhere.
 *
 * @param steps of the draft
 * @throws {TypeError} if the rule is unknown
 */
export function testOf(
  rule: Rule,
  steps: Int32Array,
): { readonly test: AcceptOptions["test"]; readonly useQ?: readonly boolean[] } {
  switch (rule) {
    case "ordered":
      return { test: "each", useQ: recordPositions(steps) };
    case "ratio":
    case "paper":
      return { test: "each" };
    case "block":
      return { test: "joint", useQ: recordPositions(steps) };
    case "match":
    case "coupled":
      return { test: "drawn" };
    default:
      throw new TypeError(
        `Cannot verify a draft: unknown rule "${rule satisfies never}", expected one of ${rules.join(", ")}`,
      );
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
  const n = draft.tokens.length;
  for (let j = 0; j < n; j++) {
    const pair = pairAt(draft, j, useQ, p);
    if (!random.bernoulli(ratio(pair), Purpose.accept, position + j)) {
      return corrected(j, residual(pair, 1), pair.p, random, position);
    }
  }
  return bonus(n, p, random, position);
}

/**
 * Block verification. With b_0 = 1 and b_{j+1} = min(1, b_j·p_j(x_j)/q_j(x_j)), the whole draft passes with
 * probability b_n, its first j < n tokens with h_j = r_j/(r_j + 1 − b_j), r_j the mass of max(0, b_j·p_j −
 * q_j), from which the corrected token is drawn; the longest prefix that passes is kept. So the tests are
 * made from the right, and only as many as needed.
 *
 * @param useQ as above
 */
function verifyBlock(
  draft: Draft,
  useQ: readonly boolean[] | undefined,
  p: Distributions,
  random: RandomSource,
  position: number,
): Verdict {
  const n = draft.tokens.length;
  const pairs = Array.from(draft.tokens, (_, j) => pairAt(draft, j, useQ, p));
  const b = [1]; // [n + 1]
  for (let j = 0; j < n; j++) b.push(Math.min(1, b[j] * ratio(pairs[j])));
  // positions right of the kept prefix are tested again in a later round: its start tells rounds apart
  const passes = (j: number, probability: number): boolean =>
    j === 0 || random.bernoulli(probability, Purpose.accept, position + j - 1, position);
  if (passes(n, b[n])) return bonus(n, p, random, position);
  for (let j = n - 1;; j--) {
    const left = residual(pairs[j], b[j]);
    const r = left.mass;
    // r = 0 and b = 1, hence 0/0: q meets p here, and but for rounding the next longer prefix had passed
    if (passes(j, r > 0 ? r / (r + 1 - b[j]) : 0)) return corrected(j, left, pairs[j].p, random, position);
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

function corrected(j: number, left: Residual, pj: Law, random: RandomSource, position: number): Verdict {
  // nothing is left if q equals p up to rounding: a rejection then is itself a rounding error, of a
  // probability that no choice of token could make visible, and p draws no token that the target excludes
  const law = left.mass > 0 ? left.weights : pj;
  return { accepted: j, token: random.choose(law, Purpose.residual, position + j), bonus: false };
}

function bonus(n: number, p: Distributions, random: RandomSource, position: number): Verdict {
  return { accepted: n, token: random.choose(p.row(n), Purpose.residual, position + n), bonus: true };
}

/** The two laws at one position of a draft, and what their entries sum to: f32 rows sum to 1 only nearly. */
interface Pair {
  readonly p: Law;
  readonly pMass: number;
  /** Absent: a point mass at x. */
  readonly q: Law | undefined;
  readonly qMass: number;
  /** The drafted token. */
  readonly x: number;
}

function pairAt(draft: Draft, j: number, useQ: readonly boolean[] | undefined, laws: Distributions): Pair {
  const p = laws.row(j), q = useQ === undefined || useQ[j] ? draft.q?.row(j) : undefined;
  if (q !== undefined && q.length < p.length) {
    throw new RangeError(
      `Cannot verify a draft: a law of it has ${q.length} entries, expected the target's ${p.length}`,
    );
  }
  return { p, pMass: massOf(p), q, qMass: q === undefined ? 1 : massOf(q), x: draft.tokens[j] };
}

/** p(x)/q(x), both normalised. */
function ratio({ p, pMass, q, qMass, x }: Pair): number {
  const px = p[x] / pMass;
  if (q === undefined) return px;
  if (!(q[x] > 0)) {
    throw new RangeError(
      `Cannot verify a draft: token ${x} has probability ${q[x]} in the law it was drawn from`,
    );
  }
  return px * qMass / q[x];
}

/** What a rejected token is replaced from. */
interface Residual {
  /** [V] */
  readonly weights: Float64Array;
  /** Their sum; 0 if there is nothing left. */
  readonly mass: number;
}

/** max(0, scale·p − q), both normalised, for scale ≤ 1. */
function residual({ p, pMass, q, qMass, x }: Pair, scale: number): Residual {
  const weights = new Float64Array(p.length);
  const scaleP = scale / pMass, scaleQ = 1 / qMass;
  let mass = 0;
  for (let v = 0; v < p.length; v++) {
    const left = p[v] * scaleP - (q === undefined ? 0 : q[v] * scaleQ);
    if (left > 0) {
      weights[v] = left;
      mass += left;
    }
  }
  if (q === undefined) {
    mass -= weights[x];
    weights[x] = 0;
  }
  return { weights, mass };
}
