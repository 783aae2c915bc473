/**
 * The law of the text, measured end to end: the embedded pair, the CPU backend, real q and p. The proof is the
 * enumeration in `exactness_test.ts`; this would catch what only the real path can get wrong, such as a q that
 * is not the one sampled from, or noise that is used twice across rounds.
 */

import assert from "node:assert/strict";
import { createBackend } from "../src/backend/mod.ts";
import type { Backend } from "../src/backend/backend.ts";
import { DiffusionDrafter, type Drafter, ModelTarget, type Rule, speculate } from "../src/decode/mod.ts";
import { AutoregressiveDrafter } from "../src/decode/mod.ts";
import { openCheckpoint } from "../src/hub/mod.ts";
import { loadModel } from "../src/model/mod.ts";
import { embeddedDrafter, embeddedTarget } from "../src/pair.ts";

/** Few tokens at each position, so that the joint law of three has few enough cells to count. */
const SAMPLING = { temperature: 1.2, topK: 4 };
const PROMPT = Int32Array.of(312, 900, 45, 1203, 77);
const LENGTH = 3;
const RUNS = 800;

async function load(folder: URL, backend: Backend) {
  using checkpoint = await openCheckpoint(folder);
  // whose law the texts are to have is all the same, and this one is the fastest
  return await loadModel(checkpoint, backend, { dtype: "int8" });
}

/** Probability of every text of three tokens under the target. */
async function jointLaw(target: ModelTarget): Promise<Map<string, number>> {
  const law = new Map<string, number>();
  const extend = async (text: number[], probability: number) => {
    if (text.length === LENGTH) {
      law.set(text.join(" "), probability);
      return;
    }
    const laws = await target.score(Int32Array.of(...PROMPT, ...text), 1, SAMPLING);
    for (const [token, weight] of [...laws.row(0)].entries()) {
      if (weight > 0) await extend([...text, token], probability * weight);
    }
  };
  await extend([], 1);
  return law;
}

/** Upper 1e-4 quantile of χ² (Wilson–Hilferty). */
function critical(degrees: number): number {
  const c = 2 / (9 * degrees);
  return degrees * (1 - c + 3.719 * Math.sqrt(c)) ** 3;
}

Deno.test("the joint law of three tokens is the target's, by χ², for each drafter and rule", async () => {
  using backend = await createBackend();
  const loaded = await load(embeddedTarget(), backend);
  assert.ok(loaded.kind === "causal");
  using target = new ModelTarget(loaded.model, backend);
  const law = await jointLaw(target);
  assert.ok(Math.abs([...law.values()].reduce((sum, p) => sum + p) - 1) < 1e-5);

  const causal = await load(embeddedDrafter("sedd-causal")!, backend);
  const sedd = await load(embeddedDrafter("sedd")!, backend);
  const gpt2 = await load(embeddedDrafter("gpt2")!, backend);
  assert.ok(causal.kind === "diffusion" && sedd.kind === "diffusion" && gpt2.kind === "causal");
  const anyOrder = { steps: 2, order: "random", draftContext: 8 } as const;
  const kept = { steps: 2, contextCache: { recent: 1, refresh: 4 } } as const;
  const cases: [string, Rule, Drafter][] = [
    ["causal prefix, Markov head", "ordered", new DiffusionDrafter(causal.model, backend)],
    ["causal prefix, Markov head", "block", new DiffusionDrafter(causal.model, backend)],
    ["random order, two steps", "block", new DiffusionDrafter(sedd.model, backend, anyOrder)],
    ["a context that is kept", "ordered", new DiffusionDrafter(sedd.model, backend, kept)],
    ["hot start", "block", new DiffusionDrafter(causal.model, backend, { hotStart: true })],
    ["autoregressive", "coupled", new AutoregressiveDrafter(gpt2.model, backend)],
  ];
  for (const [name, rule, drafter] of cases) {
    const counts = new Map<string, number>();
    for (let seed = 0; seed < RUNS; seed++) {
      // what is left of another text is no start for this one
      if (name === "hot start") drafter.reset();
      const text: number[] = [];
      // one token more than is counted, so that the third can lie inside a draft
      const options = { sampling: SAMPLING, rule, gamma: 3, maxTokens: LENGTH + 1, seed };
      for await (const round of speculate(target, drafter, PROMPT, options)) text.push(...round.tokens);
      const key = text.slice(0, LENGTH).join(" ");
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    let chi = 0, degrees = -1, rare = 0, rareCount = 0;
    for (const [text, probability] of law) {
      const expected = probability * RUNS, count = counts.get(text) ?? 0;
      counts.delete(text);
      if (expected < 5) { // pooled: χ² needs expected counts of some size
        rare += expected;
        rareCount += count;
        continue;
      }
      chi += (count - expected) ** 2 / expected;
      degrees++;
    }
    if (rare > 0) {
      chi += (rareCount - rare) ** 2 / rare;
      degrees++;
    }
    assert.equal(counts.size, 0, `${name}, ${rule}: a text outside the law's support`);
    assert.ok(degrees >= 10);
    assert.ok(chi < critical(degrees), `${name}, ${rule}: χ² = ${chi.toFixed(1)} of ${degrees} degrees`);
    drafter[Symbol.dispose]();
  }
  for (const { model } of [loaded, causal, sedd, gpt2]) model[Symbol.dispose]();
});
