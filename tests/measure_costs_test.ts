/**
 * The first measurement of what rounds cost.
 *
 * @module
 */

import assert from "node:assert/strict";
import { measureCosts } from "../src/decode/measure_costs.ts";
import { HostDistributions } from "../src/decode/distributions.ts";
import type { Drafter, Target } from "../src/decode/drafter.ts";
import { PhiloxSource } from "../src/decode/random.ts";
import { speculate } from "../src/decode/speculative.ts";
import { ToyPair } from "./toy.ts";

Deno.test("costs are measured of drafts as long as might pay, and no longer", async () => {
  const own = performance.now;
  let now = 0;
  performance.now = () => now;
  using _ = { [Symbol.dispose]: () => void (performance.now = own) };
  for (
    const [cost, longest] of [
      [() => 1, 64], // one row or many
      [(gamma: number) => 1 + 0.1 * gamma, 16], // of nine of ten accepted, 8 would be the best
      [(gamma: number) => 1 + gamma, 4], // none pays: but so few are soon measured
      [(gamma: number) => gamma < 4 ? 1 : 0.5 * Math.floor(Math.log2(gamma)) + 0.5, 32], // tiles of rows
    ] as const
  ) {
    let drafted = 0;
    const met = new Set<number>();
    const target: Target = {
      vocabSize: 4,
      contextLength: 256,
      score(_, rows) {
        now += cost(rows - 1) * (met.has(rows) ? 1 : 3); // a slow first round of a length ends nothing
        met.add(rows);
        return new HostDistributions(new Array(rows).fill(new Float32Array(4).fill(0.25)));
      },
      truncate() {},
    };
    const drafter: Drafter = {
      name: "zeros",
      vocabSize: 4,
      leftToRight: true,
      draft({ gamma }) {
        drafted = Math.max(drafted, gamma);
        return { tokens: new Int32Array(gamma), steps: new Int32Array(gamma), passes: 1 };
      },
      reset() {},
      [Symbol.dispose]() {},
    };
    const { ms, readingMs } = await measureCosts(target, drafter, { rule: "ordered", sampling: {} });
    assert.deepEqual([ms.length - 1, drafted], [longest, longest]);
    assert.ok(readingMs < 1e-9);
    ms.forEach((x, gamma) => assert.ok(Math.abs(x - cost(gamma)) < 1e-9, `${gamma}: ${x}`));
  }
});

Deno.test("what a denoising step adds to a round is measured where a drafter has several T to choose from", async () => {
  const own = performance.now;
  let now = 0;
  performance.now = () => now;
  using _ = { [Symbol.dispose]: () => void (performance.now = own) };
  for (const slow of [1, 100]) {
    let passes = 0;
    const target: Target = {
      vocabSize: 4,
      contextLength: 256,
      score(_, rows) {
        passes++;
        now += slow * (1 + 0.02 * rows);
        return new HostDistributions(new Array(rows).fill(new Float32Array(4).fill(0.25)));
      },
      truncate() {},
    };
    const asked = new Set<number | undefined>();
    const drafter: Drafter = {
      name: "zeros",
      vocabSize: 4,
      leftToRight: true,
      stepChoices: [1, 2, 4],
      draft({ gamma, steps }) {
        asked.add(steps);
        now += slow * (0.1 + 0.3 * Math.min(steps!, gamma));
        return { tokens: new Int32Array(gamma), steps: new Int32Array(gamma), passes: 1 };
      },
      reset() {},
      [Symbol.dispose]() {},
    };
    const profile = await measureCosts(target, drafter, { rule: "ordered", sampling: {} });
    assert.deepEqual([...asked].sort(), [1, 2]);
    assert.deepEqual(profile.stepChoices, [1, 2, 4]);
    for (const gamma of [4, 8]) {
      for (const steps of [1, 2, 4]) {
        const ms = slow * (1.02 + 0.02 * gamma + 0.1 + 0.3 * steps);
        assert.ok(Math.abs(profile.cost(gamma, steps) - ms) < 1e-9 * slow, `γ ${gamma}, T ${steps}`);
      }
    }
    // of slow models no more than twice
    if (slow === 100) assert.ok(passes <= 1 + 2 + 2 * 13 + 2 * 2, `${passes} passes of the target`);
  }
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
  // nor is a draft gone on with that was made to measure, wherever the text ends
  const measured = new ToyPair(2, 3, 64), drafter = measured.markov({ steps: 1, hotStart: true });
  await measureCosts(measured.target, drafter, { rule: "ordered", sampling: {} });
  const random = new PhiloxSource(1), tokens = new Int32Array(32);
  const { steps } = drafter.draft({ tokens, gamma: 3, sampling: {}, random, coupled: false });
  assert.deepEqual([...steps], [0, 0, 0]);
  const pair = new ToyPair(2), signal = AbortSignal.abort(new Error("enough"));
  await assert.rejects(
    measureCosts(pair.target, pair.autoregressive(), { rule: "ordered", sampling: {}, signal }),
    /enough/,
  );
});
