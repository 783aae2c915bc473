/**
 * Texts of 64 tokens from end to end, for `deno bench`: the embedded target, plain against each drafter at several γ
 * and, for diffusion, T (1 unless named). One prompt and one seed: for figures to quote, take `bench` and `bench:paper`,
 * whose runs take turns.
 *
 * @module
 */

import { loadEngine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import type { GenerateOptions } from "../src/engine.ts";
import { embeddedDrafters } from "../src/pair.ts";

const engine = await loadEngine({ drafter: [...embeddedDrafters, "ngram"] });

function benchmark(name: string, group: string, options: GenerateOptions): void {
  Deno.bench(name, { group, baseline: options.drafter === null, n: 5, warmup: 1 }, async () => {
    await engine.generate(PROMPTS[0], { ...options, seed: 1, maxTokens: 64, stopTokens: [] });
  });
}

for (const drafter of engine.drafters) {
  const group = `64 tokens, ${drafter}`;
  benchmark(`plain, beside ${drafter}`, group, { drafter: null });
  const diffusion = drafter.startsWith("sedd");
  for (const gamma of [1, 2, 4, 8]) {
    benchmark(`${drafter}, γ = ${gamma}`, group, { drafter, gamma });
    if (diffusion && gamma > 1) {
      benchmark(`${drafter}, γ = ${gamma}, T = 2`, group, { drafter, gamma, steps: 2 });
    }
  }
  benchmark(`${drafter}, γ chosen`, group, { drafter, gamma: "auto" });
}
