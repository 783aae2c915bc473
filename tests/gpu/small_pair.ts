/**
 * Speculation with the smallest models there are, for many rounds: what runs under compute-sanitizer, which makes
 * every kernel slow. Options: `--rounds`, `--seconds`; whichever comes first ends it. Prints the rounds made.
 *
 * @module
 */

import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { loadEngine } from "../../mod.ts";
import { isExact, rules } from "../../src/decode/acceptance.ts";
import { fixture } from "../helpers.ts";

/** The models' folders, target and drafters. */
export const SMALL_PAIR: { readonly target: URL; readonly drafter: readonly (URL | string)[] } = {
  target: fixture("parity/gpt2-bare/"),
  drafter: [fixture("parity/sedd-target-tiny/"), fixture("parity/gpt2-untied/"), "ngram"],
};

if (import.meta.main) {
  const { values } = parseArgs({ options: { rounds: { type: "string" }, seconds: { type: "string" } } });
  const most = Number(values.rounds ?? 10_000), end = performance.now() + 1e3 * Number(values.seconds ?? 60);
  using engine = await loadEngine({ ...SMALL_PAIR, device: "cuda", dtype: "f16", drafterDtype: "bf16" });
  let rounds = 0;
  const exact = rules.filter((rule) => isExact(rule, true));
  for (let seed = 0; rounds < most && performance.now() < end; seed++) {
    const drafter = engine.drafters[seed % engine.drafters.length];
    const options = { drafter, rule: exact[seed % exact.length], gamma: 1 + seed % 7, seed, maxTokens: 40 };
    const { tokens, stats } = await engine.generate([3, 1, 4, 1, 5], { ...options, stopTokens: [] });
    assert.equal(tokens.length, 40);
    rounds += stats.rounds;
  }
  console.log(rounds);
}
