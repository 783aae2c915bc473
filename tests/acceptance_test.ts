import assert from "node:assert/strict";
import { isExact, type Rule, rules, verify } from "../src/decode/acceptance.ts";
import { type Distributions, HostDistributions } from "../src/decode/distributions.ts";
import type { Draft } from "../src/decode/drafter.ts";
import { PhiloxSource, Purpose, type RandomSource } from "../src/decode/random.ts";
import { enumerate, mean, totalVariation } from "./enumeration.ts";

const P = [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]];
const Q = [[0.4, 0.4, 0.2], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]];

function laws(rows: readonly (readonly number[])[]): HostDistributions {
  return new HostDistributions(rows.map((row) => Float64Array.from(row)));
}

function draftOf(tokens: number[], q?: Distributions, steps = tokens.map(() => 0)): Draft {
  return { tokens: Int32Array.from(tokens), q, steps: Int32Array.from(steps), passes: 1 };
}

/** Decides by a list of outcomes, and notes what was asked. */
class Scripted implements RandomSource {
  readonly asked: string[] = [];
  readonly #outcomes: number[];

  constructor(outcomes: number[] = []) {
    this.#outcomes = outcomes;
  }

  bernoulli(probability: number, purpose: Purpose, position: number): boolean {
    this.asked.push(`accept ${purpose} at ${position} with ${probability.toFixed(3)}`);
    return this.#outcomes.shift() === 1;
  }

  choose(weights: Float32Array | Float64Array, purpose: Purpose, position: number): number {
    const total = Array.from(weights).reduce((sum, w) => sum + w, 0);
    this.asked.push(
      `choose ${purpose} at ${position} from ${Array.from(weights, (w) => (w / total).toFixed(3))}`,
    );
    return this.#outcomes.shift() ?? 0;
  }

  race(_: Distributions, row: number, position: number): number {
    this.asked.push(`race row ${row} at ${position}`);
    return this.#outcomes.shift() ?? 0;
  }
}

Deno.test("ratio accepts with p/q and corrects from what p has more than q", () => {
  const random = new Scripted([1, 0, 2]);
  const verdict = verify("ratio", draftOf([1, 0, 2], laws(Q)), laws(P), random, 10);
  assert.deepEqual(verdict, { accepted: 1, token: 2, bonus: false });
  assert.deepEqual(random.asked, [
    "accept 1 at 10 with 0.750",
    "accept 1 at 11 with 0.333",
    "choose 3 at 11 from 0.000,0.000,1.000",
  ]);
});

Deno.test("a draft that is accepted as a whole is followed by a bonus token from the next row", () => {
  for (const rule of ["ratio", "ordered", "block", "paper"] as const) {
    const random = new Scripted([1, rule === "block" ? 2 : 1, 1, 2]);
    const verdict = verify(rule, draftOf([1, 0, 2], laws(Q)), laws(P), random, 10);
    assert.deepEqual(verdict, { accepted: 3, token: 2, bonus: true }, rule);
    assert.equal(random.asked.at(-1), "choose 3 at 13 from 0.100,0.100,0.800");
  }
});

Deno.test("a token without q is a point mass: accepted with p, corrected from p without it", () => {
  for (const rule of ["ratio", "ordered"] as const) {
    const random = new Scripted([0, 2]);
    verify(rule, draftOf([1]), laws(P), random, 4);
    assert.deepEqual(random.asked, ["accept 1 at 4 with 0.300", "choose 3 at 4 from 0.714,0.000,0.286"]);
  }
});

Deno.test("ordered uses q where all left neighbours were revealed no later, and point masses elsewhere", () => {
  const asked = (rule: Rule, steps: number[]) => {
    const random = new Scripted([1, 1, 1, 0]);
    verify(rule, draftOf([1, 0, 2], laws(Q), steps), laws(P), random, 0);
    return random.asked.slice(0, 3).map((question) => question.slice(-5));
  };
  const recorded = ["0.750", "0.333", "0.143"];
  assert.deepEqual(asked("ordered", [0, 0, 0]), recorded);
  assert.deepEqual(asked("ordered", [0, 1, 2]), recorded);
  assert.deepEqual(asked("ordered", [1, 0, 1]), ["0.750", "0.200", "0.143"]);
  assert.deepEqual(asked("ordered", [2, 1, 0]), ["0.750", "0.200", "0.100"]);
  assert.deepEqual(asked("ordered", [0, 2, 1]), ["0.750", "0.333", "0.100"]);
  assert.deepEqual(asked("ordered", [2, 0, 1]), ["0.750", "0.200", "0.100"]); // the left neighbours are all of them
  assert.deepEqual(asked("paper", [2, 1, 0]), recorded);
});

Deno.test("match and coupled emit the target's own draws, by races alone", () => {
  for (const rule of ["match", "coupled"] as const) {
    const rejected = new Scripted([1, 2]);
    assert.deepEqual(verify(rule, draftOf([1, 0, 2]), laws(P), rejected, 7), {
      accepted: 1,
      token: 2,
      bonus: false,
    });
    assert.deepEqual(rejected.asked, ["race row 0 at 7", "race row 1 at 8"]);
    const kept = new Scripted([1, 0, 2, 1]);
    assert.deepEqual(verify(rule, draftOf([1, 0, 2]), laws(P), kept, 7), {
      accepted: 3,
      token: 1,
      bonus: true,
    });
    assert.equal(kept.asked.at(-1), "race row 3 at 10");
  }
});

Deno.test("rows are read no further than the decision needs them", () => {
  const reads: number[] = [];
  const host = laws(P);
  const p: Distributions = {
    row: (j) => (reads.push(j), host.row(j)),
    race: (j, key) => (reads.push(j), host.race(j, key)),
  };
  for (const rule of ["ratio", "ordered", "paper"] as const) {
    verify(rule, draftOf([1, 0, 2], laws(Q)), p, new Scripted([1, 0, 2]), 0);
    assert.deepEqual(reads.splice(0), [0, 1], rule);
  }
});

Deno.test("an empty draft leaves a plain step", () => {
  for (const rule of rules) {
    const random = new Scripted([2]);
    assert.deepEqual(verify(rule, draftOf([]), laws(P), random, 3), { accepted: 0, token: 2, bonus: true });
    assert.equal(random.asked.length, 1);
  }
});

Deno.test("at temperature 0 every rule accepts while the draft is the target's choice", () => {
  const greedy = [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]];
  for (const rule of rules) {
    for (let accepted = 0; accepted <= 3; accepted++) {
      const tokens = [1, 2, 0].map((token, j) => j < accepted ? token : (token + 1) % 3);
      const pointMasses = laws(tokens.map((token) => [0, 1, 2].map((v) => v === token ? 1 : 0)));
      for (const q of [undefined, pointMasses, laws(Q)]) {
        for (let seed = 0; seed < 5; seed++) {
          const verdict = verify(rule, draftOf(tokens, q), laws(greedy), new PhiloxSource(seed), 5);
          assert.deepEqual(verdict, { accepted, token: [1, 2, 0, 1][accepted], bonus: accepted === 3 }, rule);
        }
      }
    }
  }
});

Deno.test("a rejection although q equals p, as rounding may bring about, draws from p", () => {
  for (const rule of ["ratio", "ordered", "block", "paper"] as const) {
    const random = new Scripted([0, rule === "block" ? 0 : 2, 0, 2]);
    const verdict = verify(rule, draftOf([0, 1, 2], laws(P)), laws(P), random, 0);
    assert.equal(verdict.accepted, 0, rule);
    assert.equal(random.asked.at(-1), "choose 3 at 0 from 0.500,0.300,0.200");
  }
});

Deno.test("laws that are none are refused", () => {
  const bad = (rule: Rule, p: number[][], q: number[][]) => () =>
    verify(rule, draftOf([1], laws(q)), laws([...p, P[3]]), new PhiloxSource(1), 0);
  for (const rule of ["ratio", "ordered", "block", "paper"] as const) {
    assert.throws(bad(rule, [[NaN, 0.5, 0.5]], [Q[0]]), /it sums to NaN/);
    assert.throws(bad(rule, [P[0]], [[NaN, 0.5, 0.5]]), /it sums to NaN/);
    assert.throws(bad(rule, [[0, 0, 0]], [Q[0]]), /it sums to 0/);
    assert.throws(
      bad(rule, [P[0]], [[0.5, 0, 0.5]]),
      /token 1 has probability 0 in the law it was drawn from/,
    );
  }
  for (const rule of ["match", "coupled"] as const) {
    assert.throws(bad(rule, [[NaN, 0.5, 0.5]], [Q[0]]), /it sums to NaN/);
    assert.throws(bad(rule, [[0, 0, 0]], [Q[0]]), /it sums to 0/);
    assert.throws(bad(rule, [[2, -0.5, -0.5]], [Q[0]]), /an entry is negative/);
  }
  const unknown = "medusa" as Rule;
  assert.throws(() => verify(unknown, draftOf([1]), laws(P), new PhiloxSource(1), 0), TypeError);
});

Deno.test("rows need not sum to 1: rounding of f32 costs no exactness", async () => {
  const lawOf = (rule: Rule, scaleP: number, scaleQ: number) =>
    enumerate((random) => {
      const q = laws(Q.map((row) => row.map((w) => w * scaleQ)));
      const p = laws(P.map((row) => row.map((w) => w * scaleP)));
      const draft = draftOf(Q.map((_, j) => random.choose(q.row(j), Purpose.draft, j)), q);
      return Promise.resolve(JSON.stringify(verify(rule, draft, p, random, 0)));
    });
  for (const rule of ["ratio", "block"] as const) {
    assert.ok(totalVariation(await lawOf(rule, 1, 1), await lawOf(rule, 1.25, 0.7)) < 1e-12);
  }
});

Deno.test("block accepts 11/9 tokens where ratio accepts 10/9", async () => {
  // the example of Sun et al. (arXiv 2403.10444, §2), p = (1/3, 2/3) and q = (2/3, 1/3) at both of two positions
  const p = laws([[1 / 3, 2 / 3], [1 / 3, 2 / 3], [1 / 3, 2 / 3]]),
    q = laws([[2 / 3, 1 / 3], [2 / 3, 1 / 3]]);
  const accepted = async (rule: Rule) =>
    mean(
      await enumerate((random) => {
        const draft = draftOf([0, 1].map((j) => random.choose(q.row(j), Purpose.draft, j)), q);
        return Promise.resolve(`${verify(rule, draft, p, random, 0).accepted}`);
      }),
    );
  assert.ok(Math.abs(await accepted("ratio") - 10 / 9) < 1e-12);
  assert.ok(Math.abs(await accepted("block") - 11 / 9) < 1e-12);
});

/** P(both races are won by one token) = Σ_i 1/Σ_j max(p_j/p_i, q_j/q_i): both winners are i if all others are late. */
function coupledRate(p: readonly number[], q: readonly number[]): number {
  let rate = 0;
  for (let i = 0; i < p.length; i++) {
    if (p[i] > 0 && q[i] > 0) rate += 1 / p.reduce((sum, pj, j) => sum + Math.max(pj / p[i], q[j] / q[i]), 0);
  }
  return rate;
}

function randomLaw(size: number, random: PhiloxSource, position: number): number[] {
  const weights = Array.from({ length: size }, (_, v) => random.uniform(Purpose.draft, position, v) ** 2);
  const total = weights.reduce((sum, w) => sum + w, 0);
  return weights.map((w) => w / total);
}

/** Whether `coupled` accepts a token that was drawn from q with the noise of `position`. */
function coupledAccepts(p: Distributions, q: Distributions, random: RandomSource, position: number): boolean {
  const draft = draftOf([random.race(q, 0, position)], q);
  return verify("coupled", draft, p, random, position).accepted === 1;
}

Deno.test("coupled accepts at the rate of its closed form, exactly", async () => {
  const pairs = [[[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]], [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], [[0.9, 0.1, 0], [
    0,
    0.5,
    0.5,
  ]]];
  for (let i = 0; i < 20; i++) {
    pairs.push([randomLaw(3, new PhiloxSource(1), 2 * i), randomLaw(3, new PhiloxSource(1), 2 * i + 1)]);
  }
  assert.ok(Math.abs(coupledRate(pairs[0][0], pairs[0][1]) - 0.8818) < 1e-4);
  for (const [p, q] of pairs) {
    const accepted = await enumerate((random) =>
      Promise.resolve(coupledAccepts(laws([p, p]), laws([q]), random, 0) ? "1" : "0")
    );
    assert.ok(Math.abs(mean(accepted) - coupledRate(p, q)) < 1e-12, `${p} and ${q}`);
    const overlap = p.reduce((sum, pi, i) => sum + Math.min(pi, q[i]), 0);
    assert.ok(mean(accepted) > overlap / (2 - overlap) - 1e-12 && mean(accepted) < overlap + 1e-12);
  }
});

Deno.test("coupled accepts at the rate of its closed form, with the noise that ships", () => {
  const n = 4000;
  for (const size of [3, 10, 50]) {
    let hits = 0, expected = 0;
    for (let i = 0; i < n; i++) {
      const pair = i % 20;
      const p = randomLaw(size, new PhiloxSource(2), 2 * pair),
        q = randomLaw(size, new PhiloxSource(2), 2 * pair + 1);
      if (coupledAccepts(laws([p, p]), laws([q]), new PhiloxSource(i), 17)) hits++;
      expected += coupledRate(p, q);
    }
    assert.ok(Math.abs(hits - expected) < 4 * Math.sqrt(n / 4), `V = ${size}: ${hits}, expected ${expected}`);
  }
});

Deno.test("isExact tells which rule takes which drafter", () => {
  assert.deepEqual(rules.filter((rule) => isExact(rule, true)), rules);
  assert.deepEqual(rules.filter((rule) => isExact(rule, false)), ["block", "ordered", "match", "coupled"]);
});
