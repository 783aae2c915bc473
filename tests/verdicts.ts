/**
 * Made-up drafts, and what a device says of them beside what the host says: for the stand-in, and for a GPU.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { TokenBuffer } from "../src/backend/backend.ts";
import type { CudaBackend } from "../src/backend/cuda/backend.ts";
import { type Rule, rules, testOf, type Verdict, verify } from "../src/decode/acceptance.ts";
import { HostDistributions } from "../src/decode/distributions.ts";
import { PhiloxSource, Purpose } from "../src/decode/random.ts";

/** Numbers of a sequence, for made-up cases. */
export class Numbers {
  readonly #random = new PhiloxSource(77);
  #drawn = 0;

  /** In (0, 1). */
  next(): number {
    return this.#random.uniform(Purpose.reveal, 0, this.#drawn++);
  }

  /** An integer in [0, n). */
  below(n: number): number {
    return Math.floor(this.next() * n);
  }

  /** A law over n tokens in f32: flat or peaked, some entries 0, never all; perhaps not quite normalised. */
  law(n: number): Float32Array {
    const power = [0, 1, 6][this.below(3)], zeros = [0, 0.3, 0.9][this.below(3)];
    const weights = Float32Array.from(
      { length: n },
      () => this.next() < zeros ? 0 : this.next() ** power + 1e-30,
    );
    weights[this.below(n)] = 1;
    const total = weights.reduce((sum, w) => sum + w, 0) * (1 + 1e-6 * (this.next() - 0.5));
    return weights.map((w) => w / total);
  }
}

/** A draft, and what it is tested against. */
export interface Case {
  /** Laws of the target, [n + 1][V]. */
  readonly p: readonly Float32Array[];
  /** Laws of the draft, [n][V]; undefined: point masses. */
  readonly q: readonly Float32Array[] | undefined;
  readonly tokens: readonly number[];
  /** When each was revealed. */
  readonly steps: readonly number[];
}

/** What {@linkcode verdictOf} needs of a device, for drafts of up to so many tokens. */
export interface Buffers {
  readonly out: TokenBuffer;
  readonly draft: TokenBuffer;
  readonly flags: TokenBuffer;
}

/** Those of a device, which die with it. */
export function buffersFor(backend: CudaBackend, most: number): Buffers {
  return { out: backend.tokens(3 + most), draft: backend.tokens(most), flags: backend.tokens(most) };
}

/** What a device says of a draft. */
export function verdictOf(
  backend: CudaBackend,
  { out, draft, flags }: Buffers,
  rule: Rule,
  { p, q, tokens, steps }: Case,
  seed: number,
  start: number,
): Verdict {
  const { decisions } = backend, n = tokens.length, columns = p[0].length;
  const rowsOf = (laws: readonly Float32Array[]) => {
    const rows = backend.activation(laws.length, columns);
    rows.write(Float32Array.from(laws.flatMap((law) => [...law])));
    return rows;
  };
  using round = decisions.round(), deviceP = rowsOf(p);
  using deviceQ = q && n > 0 ? rowsOf(q) : undefined;
  const { test, useQ } = testOf(rule, Int32Array.from(steps));
  draft.write(tokens);
  if (useQ !== undefined) flags.write(useQ.map(Number));
  round.begin(BigInt(seed), start);
  decisions.accept(out, {
    round,
    test,
    p: deviceP,
    q: deviceQ,
    useQ: useQ && flags,
    draft,
    purposes: Purpose,
  });
  const [accepted, token, bonus, ...ids] = out.read(3 + n);
  assert.deepEqual(ids, tokens);
  return { accepted, token, bonus: bonus === 1 };
}

/** A draft of n tokens that have a chance in q; p is often close to q, or the same. */
function caseOf(numbers: Numbers, n: number, columns: number): Case {
  const q = Array.from({ length: n }, () => numbers.law(columns));
  const p = Array.from({ length: n + 1 }, (_, j) => {
    const other = numbers.law(columns), kind = numbers.below(4);
    if (j === n || kind === 0) return other;
    if (kind === 1) return q[j].slice();
    if (kind === 2) { // twice as heavy as a law should be, which changes nothing
      return q[j].map((w) => 2 * w);
    }
    return q[j].map((w, v) => 0.9 * w + 0.1 * other[v]);
  });
  const pointMasses = numbers.below(4) === 0;
  const tokens = q.map((law) => {
    let v = numbers.below(columns);
    while (!(law[v] > 0)) v = (v + 1) % columns;
    return v;
  });
  return { p, q: pointMasses ? undefined : q, tokens, steps: tokens.map(() => numbers.below(3)) };
}

/** The longest draft that {@linkcode compareVerdicts} makes. */
const LONGEST = 47;

/**
 * A device's verdicts of drafts, revealed in any order, under every rule: those of the host. At least a thousand, so that
 * under each rule some are kept as a whole, some in part, and some not at all.
 *
 * @param large one law in so many has this many tokens
 * @returns how many were compared
 */
export function compareVerdicts(
  backend: CudaBackend,
  cases: number,
  large: { readonly every: number; readonly columns: number } = { every: 50, columns: 2085 },
): string {
  const numbers = new Numbers(), buffers = buffersFor(backend, LONGEST);
  const seen = new Map<string, number>();
  const count = (kind: string) => seen.set(kind, (seen.get(kind) ?? 0) + 1);
  for (let i = 0; i < cases; i++) {
    const columns = i % large.every === 0 ? large.columns : [3, 5, 32, 33, 45, 70][i % 6];
    const n = i % 25 === 1 ? LONGEST - numbers.below(8) : numbers.below(6);
    const made = caseOf(numbers, n, columns), { p, q, tokens, steps } = made;
    const rule = rules[numbers.below(rules.length)], start = numbers.below(50);
    const draft = {
      tokens: Int32Array.from(tokens),
      steps: Int32Array.from(steps),
      q: q && new HostDistributions(q),
      passes: 1,
    };
    const expected = verify(rule, draft, new HostDistributions(p), new PhiloxSource(i), start);
    const found = verdictOf(backend, buffers, rule, made, i, start);
    assert.deepEqual(found, expected, `case ${i}: ${rule}, ${columns} tokens, a draft of ${n}`);
    const kind = expected.bonus ? "bonus" : expected.accepted === 0 ? "none" : "some";
    count(`${rule} ${kind}`);
    if (q !== undefined && steps.some((step, j) => step < steps[j - 1])) count(`${rule} out of order`);
  }
  for (const rule of rules) {
    for (const kind of ["bonus", "some", "none", "out of order"]) {
      const times = seen.get(`${rule} ${kind}`) ?? 0;
      assert.ok(times > cases / 150, `${rule}: ${kind} in ${times} of ${cases}`);
    }
  }
  return `${cases} drafts`;
}
