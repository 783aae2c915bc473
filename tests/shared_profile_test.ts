/**
 * Texts that share what they learn of costs and acceptance, with γ chosen: each still has the target's law, also if
 * two have the same seed.
 */

import assert from "node:assert/strict";
import { CostProfile, DraftController, SharedProfile, speculate } from "../src/decode/mod.ts";
import { loadEngine } from "../mod.ts";
import { totalVariation } from "./enumeration.ts";
import { ToyPair } from "./toy.ts";

Deno.test("texts with different seeds share a profile; another one with a known seed has learned nothing", () => {
  const profile = new CostProfile([1, 2, 3], 0.5, { choices: [1, 2], ms: 0.25 });
  const shared = new SharedProfile(profile);
  assert.equal(shared.of(1n), profile);
  assert.equal(shared.of(2n), profile);
  const step = { draft: new Int32Array(1), draftMs: 1, verifyMs: 9 };
  for (let round = 0; round < 20; round++) {
    profile.observe(step, 0);
    profile.remember(1, 0);
  }
  profile.readingMs = 3;
  const again = shared.of(1n);
  assert.notEqual(again, shared.of(1n));
  assert.deepEqual([...again.ms], [1, 2, 3]);
  assert.equal(again.readingMs, 0.5);
  assert.deepEqual(again.stepChoices, [1, 2]);
  assert.equal(again.cost(2, 2), 3.25);
  assert.ok(profile.rate(0, 0, 0.8, 0) < 0.2);
  assert.equal(again.rate(0, 0, 0.8, 0), 0.8);
});

Deno.test("seeds are not remembered for ever: what they taught is forgotten with them", () => {
  const profile = new CostProfile([1, 2]), shared = new SharedProfile(profile);
  for (let seed = 0n; seed < 4096n; seed++) assert.equal(shared.of(seed), profile);
  const next = shared.of(4096n);
  assert.notEqual(next, profile);
  assert.equal(shared.of(0n), next); // nothing of its first text is left
});

Deno.test("a second text with the same seed has the target's law, and would not if it knew the first", async () => {
  const pair = new ToyPair(5), drafter = pair.markov({ steps: 1 }), law = pair.model.joint([1], 2);
  /** How far the second of two texts is from the target's law, over many seeds. */
  const distance = async (profiles: () => (seed: bigint) => CostProfile) => {
    const runs = 6000, found = new Map<string, number>();
    for (let seed = 0n; seed < runs; seed++) {
      const profileOf = profiles();
      let second = "";
      for (let text = 0; text < 2; text++) {
        const tokens: number[] = [], gamma = new DraftController(profileOf(seed));
        for await (const round of speculate(pair.target, drafter, [1], { gamma, maxTokens: 2, seed })) {
          tokens.push(...round.tokens);
        }
        second = tokens.join();
      }
      found.set(second, (found.get(second) ?? 0) + 1 / runs);
    }
    return totalVariation(found, law);
  };
  const costs = [1, 1.7];
  const shared = await distance(() => {
    const profile = new SharedProfile(new CostProfile(costs));
    return (seed) => profile.of(seed);
  });
  const known = await distance(() => {
    const profile = new CostProfile(costs);
    return () => profile;
  });
  assert.ok(shared < 0.025, `total variation ${shared.toFixed(4)}`); // chance makes 0.02
  assert.ok(known > 0.05, `total variation ${known.toFixed(4)}: this test finds nothing`);
});

Deno.test("an engine's texts with one seed do not learn from one another", async () => {
  using engine = await loadEngine({ drafter: "gpt2", threads: 1 });
  const profiles = new Set<CostProfile>(), remember = CostProfile.prototype.remember;
  using _ = { [Symbol.dispose]: () => void (CostProfile.prototype.remember = remember) };
  CostProfile.prototype.remember = function (...round) {
    profiles.add(this);
    remember.apply(this, round);
  };
  const used = async (seed: number) => {
    profiles.clear();
    await engine.generate("The captain", { gamma: "auto", seed, maxTokens: 8, stopTokens: [] });
    assert.equal(profiles.size, 1);
    return [...profiles][0];
  };
  const a = await used(1), b = await used(2), c = await used(1), d = await used(3);
  assert.equal(a, b);
  assert.notEqual(a, c);
  assert.equal(a, d);
});
