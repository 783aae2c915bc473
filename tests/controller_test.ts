/**
 * γ chosen while decoding, against fixed γ: a drafter and a target that are nothing but rates of acceptance and
 * costs, on a clock that only these move.
 */

import assert from "node:assert/strict";
import { CostProfile, GammaController, measureCosts } from "../src/decode/controller.ts";
import { PhiloxSource, Purpose } from "../src/decode/random.ts";
import { type GammaPolicy, speculate } from "../src/decode/speculative.ts";
import { ToyPair } from "./toy.ts";

/** A machine with a pair of models on it. */
interface Pair {
  /** [longest draft + 1] time of a round by γ; of a plain step: 1. */
  readonly costs: readonly number[];
  /** Rate of acceptance of index j of a draft at a position of the text. */
  readonly rate: (j: number, position: number) => number;
  /** Time a drafter takes to read a token that came by a plain step. @default 0 */
  readonly reading?: number;
}

/** Passes over several rows cost dear; the drafter is cheap. The embedded GPT-2, roughly. */
const CPU = [1, 1.38, 1.85, 2.25, 2.65, 3.1, 3.5, 3.95, 4.4];
/** The same with a drafter that costs more, and little more for a longer draft. The embedded SEDD, roughly. */
const CPU_DIFFUSION = [1, 1.6, 1.9, 2.2, 2.6, 3, 3.4, 3.8, 4.2];
/** Rows cost next to nothing, a draft of any length as much as some plain steps. */
const GPU_DIFFUSION = Array.from({ length: 17 }, (_, gamma) => gamma === 0 ? 1 : 1.3 + 0.01 * gamma);
/** Rows cost next to nothing, a drafted token a tenth of a plain step. */
const GPU = Array.from({ length: 17 }, (_, gamma) => 1 + 0.1 * gamma);

const fixed = (gamma: number): GammaPolicy => ({ next: () => gamma, observe: () => {} });

/** The time that a text takes. */
function timeOf(
  { costs, rate, reading = 0 }: Pair,
  policy: GammaPolicy,
  tokens: number,
  seed: number,
): number {
  const random = new PhiloxSource(seed);
  let time = 0, unread = 0;
  for (let position = 0; position < tokens;) {
    const most = tokens - position - 1;
    const gamma = Math.min(policy.next(most), most);
    let accepted = 0;
    while (
      accepted < gamma &&
      random.uniform(Purpose.accept, position, accepted) < rate(accepted, position)
    ) accepted++;
    const draftMs = gamma > 0 ? unread * reading : 0, verifyMs = costs[gamma];
    const draft = new Int32Array(gamma);
    policy.observe({ draft, accepted, token: 0, origin: "target", draftPasses: 1, draftMs, verifyMs });
    unread = gamma > 0 ? 0 : unread + 1;
    time += draftMs + verifyMs;
    position += accepted + 1;
  }
  return time;
}

/** The mean time of some texts. */
function meanTime(pair: Pair, policy: () => GammaPolicy, tokens: number, texts: number): number {
  let sum = 0;
  for (let seed = 1; seed <= texts; seed++) sum += timeOf(pair, policy(), tokens, seed);
  return sum / texts;
}

/** The time that each fixed γ takes, the least of which the chosen ones are held to. */
function bestFixed(pair: Pair, tokens: number, texts: number): number {
  return Math.min(...pair.costs.map((_, gamma) => meanTime(pair, () => fixed(gamma), tokens, texts)));
}

const RATES: [string, Pair["rate"]][] = [
  ["0.95", () => 0.95],
  ["0.8", () => 0.8],
  ["0.62", () => 0.62],
  ["0.4", () => 0.4],
  ["falling", (j) => [0.56, 0.34, 0.27][j] ?? 0.25],
];

Deno.test("the chosen γ are within 5 % of the best fixed one, on any machine and for any drafter", () => {
  for (const costs of [CPU, CPU_DIFFUSION, GPU_DIFFUSION, GPU]) {
    for (const [label, rate] of RATES) {
      const pair = { costs, rate }, best = bestFixed(pair, 1000, 6);
      for (
        const make of [() => new GammaController(costs), () => new GammaController(new CostProfile(costs))]
      ) {
        const ratio = meanTime(pair, make, 1000, 6) / best;
        assert.ok(ratio < 1.05, `${costs.slice(0, 3)}, rate ${label}: ${ratio.toFixed(3)} times the best`);
      }
    }
  }
});

Deno.test("where acceptance changes within a text, the chosen γ beat every fixed one", () => {
  for (const costs of [CPU, CPU_DIFFUSION, GPU_DIFFUSION, GPU]) {
    const pair: Pair = { costs, rate: (_, position) => position % 600 < 300 ? 0.9 : 0.1 };
    const ratio = meanTime(pair, () => new GammaController(costs), 2400, 3) / bestFixed(pair, 2400, 3);
    assert.ok(ratio < 0.97, `${costs.slice(0, 3)}: ${ratio.toFixed(3)} times the best`);
  }
});

Deno.test("a text in which nothing is accepted takes at most 3 % longer than plainly decoded", () => {
  for (const costs of [CPU, CPU_DIFFUSION, GPU_DIFFUSION, GPU, [1, 4], [1, 1.01]]) {
    for (const tokens of [100, 128, 256, 1000, 4000]) {
      const pair: Pair = { costs, rate: () => 0, reading: 0.02 };
      const time = timeOf(pair, new GammaController(new CostProfile(costs)), tokens, 1);
      assert.ok(time <= 1.03 * tokens, `${costs.slice(0, 3)}, ${tokens} tokens: ${time / tokens}`);
    }
  }
});

Deno.test("costs that were thought too low are put right by the rounds' own times", () => {
  const pair: Pair = { costs: CPU, rate: () => 0.8 };
  const profile = new CostProfile(CPU.map((_, gamma) => 1 + 0.1 * gamma));
  meanTime(pair, () => new GammaController(profile), 1000, 5);
  const ratio = meanTime(pair, () => new GammaController(profile), 1000, 6) / bestFixed(pair, 1000, 6);
  assert.ok(ratio < 1.05, `${ratio.toFixed(3)} times the best`);
});

Deno.test("no draft is thought cheaper than a shorter one, nor a plain step dearer than a pass over more rows", () => {
  const profile = new CostProfile([2, 1.5, 3, 2.5]);
  assert.deepEqual([...profile.ms], [1.5, 1.5, 2.5, 2.5]);
  // nothing but drafts of 1 is ever made, and yet a plain step is found to be the faster one
  for (let i = 0; i < 100; i++) profile.observe({ draft: new Int32Array(1), draftMs: 0.5, verifyMs: 1 }, 0);
  assert.ok(Math.abs(profile.ms[0] - 1) < 0.01 && Math.abs(profile.ms[1] - 1.5) < 0.01, `${profile.ms}`);
  profile.observe({ draft: new Int32Array(1), draftMs: 100.5, verifyMs: 1 }, 100); // reads 100 tokens first
  assert.ok(profile.readingMs > 0.4 && profile.ms[1] < 1.6);
});

Deno.test("a pause of the program does not end drafting", () => {
  const controller = new GammaController(new CostProfile(CPU));
  const round = (verifyMs: number) => {
    const gamma = controller.next(100);
    const draft = new Int32Array(gamma);
    controller.observe({
      draft,
      accepted: gamma,
      token: 0,
      origin: "bonus",
      draftPasses: 1,
      draftMs: 0,
      verifyMs,
    });
    return gamma;
  };
  for (let i = 0; i < 20; i++) round(3);
  round(1000);
  assert.ok(round(3) > 0);
});

Deno.test("with costs that stand, the choice depends on acceptance alone", () => {
  const choices = (slow: number) => {
    const controller = new GammaController(CPU), random = new PhiloxSource(1);
    return Array.from({ length: 200 }, (_, i) => {
      const gamma = controller.next(100), draft = new Int32Array(gamma);
      const accepted = Math.floor(random.uniform(Purpose.accept, i) * (gamma + 1));
      const ms = { draftMs: slow * i, verifyMs: slow };
      controller.observe({ draft, accepted, token: 0, origin: "target", draftPasses: 1, ...ms });
      return gamma;
    });
  };
  assert.deepEqual(choices(1), choices(100));
  assert.ok(new Set(choices(1)).size > 1);
});

Deno.test("no more is drafted than there is room for, and nothing where nothing can be gained", () => {
  for (let most = 0; most < 4; most++) assert.ok(new GammaController(GPU).next(most) <= most);
  assert.equal(new GammaController([1]).next(10), 0);
  assert.equal(new GammaController([1, 2, 3, 4]).next(10), 0);
});

Deno.test("costs that are none are refused", () => {
  for (const costs of [[], [1, 0], [1, NaN], [-1], [1, Infinity]]) {
    assert.throws(() => new GammaController(costs), {
      name: "RangeError",
      message: /^Cannot choose gamma: costs are \[/,
    });
  }
  const draft = new Int32Array(2);
  const step = {
    draft,
    accepted: 0,
    token: 0,
    origin: "corrected",
    draftPasses: 1,
    draftMs: 1,
    verifyMs: 1,
  } as const;
  assert.throws(() => new GammaController([1, 1]).observe(step), /costs are known of up to 1/);
});

Deno.test("costs are measured from a plain step on, within the context, and leave no trace", async () => {
  for (const contextLength of [2, 6, 64]) {
    const pair = new ToyPair(2, 3, contextLength), fresh = new ToyPair(2, 3, contextLength);
    const drafter = pair.markov({ steps: 1, hotStart: true });
    const { ms } = await measureCosts(pair.target, drafter, { rule: "ordered", sampling: {} });
    assert.ok(ms.length >= 2 && ms.length <= 65 && ms.every((x) => x > 0));
    const textOf = async (...[target, drafter]: Parameters<typeof speculate>) => {
      const text: number[] = [];
      for await (const { tokens } of speculate(target, drafter, [1], { seed: 3, gamma: 2 })) {
        text.push(...tokens);
      }
      return text;
    };
    assert.deepEqual(
      await textOf(pair.target, drafter, []),
      await textOf(fresh.target, fresh.markov({ steps: 1, hotStart: true }), []),
    );
  }
  const pair = new ToyPair(2), signal = AbortSignal.abort(new Error("enough"));
  await assert.rejects(
    measureCosts(pair.target, pair.autoregressive(), { rule: "ordered", sampling: {}, signal }),
    /enough/,
  );
});
