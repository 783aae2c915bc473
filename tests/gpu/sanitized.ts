/**
 * What runs under compute-sanitizer, which makes every kernel slow: products that are long enough for each ring of
 * stages to turn, with sums that blocks share, then speculation, for many rounds. The embedded pair has attention over
 * several chunks, that is merged, and prompts of many rows; the smallest models there are have sizes that nothing
 * divides. Options: `--rounds`, `--seconds`; whichever comes first ends it, after a text of each. Prints the rounds made.
 * `main.ts` also makes these rounds without compute-sanitizer.
 *
 * @module
 */

import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { noiseActivation, noiseMatrix } from "../../bench/kernels.ts";
import { loadEngine } from "../../mod.ts";
import type { Backend } from "../../src/backend/backend.ts";
import { createCudaBackend } from "../../src/backend/cuda/backend.ts";
import { rules } from "../../src/decode/acceptance.ts";
import { fixture } from "../helpers.ts";

/** The folders of the smallest models, target and drafters. */
export const SMALL_PAIR: { readonly target: URL; readonly drafter: readonly (URL | string)[] } = {
  target: fixture("parity/gpt2-bare/"),
  drafter: [fixture("parity/sedd-target-tiny/"), fixture("parity/gpt2-untied/"), "ngram"],
};

/** Rounds that a soak is to make. */
export const MOST_ROUNDS = 10_000;

/** Two blocks share a sum, in which each warp has six steps of 16 inputs: more than the longest ring has stages. */
const OUTPUTS = 66 * 64, INPUTS = 2 * 8 * 6 * 16;

/** Rows that each of the kernels takes. */
const ROWS = [1, 12, 24, 48, 64, 80];

/** Normed products of {@linkcode ROWS}, whose first row is the same for all. */
async function multiply(backend: Backend): Promise<void> {
  using matrix = await noiseMatrix(backend, OUTPUTS, INPUTS, "f16");
  const gain = backend.vector(Float32Array.from({ length: INPUTS }, (_, i) => 1 + i % 7 / 8));
  const norm = { gain, shift: gain, epsilon: 1e-5 };
  using x = noiseActivation(backend, Math.max(...ROWS), INPUTS);
  const firsts = ROWS.map((rows) => {
    using out = backend.activation(rows, OUTPUTS);
    backend.project(out, x.slice(0, rows), { norm, matrix });
    return out.slice(0, 1).read().slice();
  });
  for (const first of firsts) assert.deepEqual(first, firsts[0]);
}

/**
 * Makes rounds of speculation until there are `most`, or `performance.now()` is `end`, and a text of each pair at least.
 * @returns how many were made
 */
export async function makeRounds(most: number, end: number): Promise<number> {
  const halves = { device: "cuda", dtype: "f16", draftDtype: "bf16" } as const;
  using pair = await loadEngine({ ...halves, drafter: ["sedd-target", "gpt2", "sedd"] });
  using small = await loadEngine({ ...SMALL_PAIR, ...halves });
  let rounds = 0;
  for (let seed = 0; seed < 2 || rounds < most && performance.now() < end; seed++) {
    const [engine, prompt] = seed % 2 === 0 ? [pair, 150] : [small, 5];
    const drafter = engine.drafters[(seed >> 1) % engine.drafters.length];
    const rule = rules[(seed >> 1) % rules.length], gamma = 1 + seed % 7, maxTokens = 12;
    const tokens = Array.from({ length: prompt }, (_, i) => 3 + i % 5);
    const options = { drafter, rule, gamma, seed, maxTokens, stopTokens: [] };
    const { tokens: found, stats } = await engine.generate(tokens, options);
    assert.equal(found.length, maxTokens);
    rounds += stats.rounds;
  }
  return rounds;
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { rounds: { type: "string" }, seconds: { type: "string" } } });
  const end = performance.now() + 1e3 * Number(values.seconds ?? 60);
  {
    using backend = createCudaBackend();
    await multiply(backend);
  }
  console.log(await makeRounds(Number(values.rounds ?? MOST_ROUNDS), end));
}
