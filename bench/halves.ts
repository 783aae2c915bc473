/**
 * The embedded target held as its checkpoint has it, as f16, beside the same held as f32: both have the same logits, so
 * the texts must be the same, and whoever wants speed alone should know which is faster, drafting or not.
 *
 * Part of `deno task bench`.
 *
 * @module
 */

import { deepStrictEqual } from "node:assert/strict";
import { quantile } from "../src/cli/measure.ts";
import { type Engine, loadEngine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { draftingOf } from "../src/drafting.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { embeddedDrafter } from "../src/pair.ts";
import type { Section } from "./kernels.ts";

const DRAFTER = "sedd-target", TOKENS = 128, REPETITIONS = 5;

/** Plain decoding and drafting with each, taking turns. */
export async function halves(): Promise<Section> {
  using checkpoint = await openCheckpoint(embeddedDrafter(DRAFTER)!);
  const { gamma } = draftingOf(checkpoint);
  using f32 = await loadEngine({ drafter: DRAFTER, dtype: "f32" });
  using f16 = await loadEngine({ drafter: DRAFTER });
  const speeds: Record<"plain" | "drafted", [number, number][]> = { plain: [], drafted: [] }; // f32, f16
  for (let seed = 0; seed <= REPETITIONS; seed++) {
    for (const prompt of PROMPTS) {
      for (const [method, drafter] of [["plain", null], ["drafted", DRAFTER]] as const) {
        const generate = (engine: Engine) =>
          engine.generate(prompt, { drafter, gamma, seed, maxTokens: TOKENS, stopTokens: [] });
        const a = await generate(f32), b = await generate(f16);
        deepStrictEqual(b.tokens, a.tokens);
        // the first are to warm up
        if (seed > 0) speeds[method].push([a.stats.tokensPerSecond, b.stats.tokensPerSecond]);
      }
    }
  }
  const median = (method: keyof typeof speeds, of: 0 | 1): number => {
    return quantile(speeds[method].map((pair) => pair[of]).sort((a, b) => a - b), 0.5);
  };
  const [plain32, plain16] = [median("plain", 0), median("plain", 1)];
  const [drafted32, drafted16] = [median("drafted", 0), median("drafted", 1)];
  const ratio = (what: string, value: number) => ({ what, value, unit: "×", told: true } as const);
  return {
    title: "the embedded target held as f16, its checkpoint's dtype, which gives the same texts",
    figures: [
      ratio("plain decoding, against that in f32", plain16 / plain32),
      ratio(`${DRAFTER} at γ = ${gamma}, against that in f32`, drafted16 / drafted32),
      ratio(`${DRAFTER} at γ = ${gamma}, against plain decoding in f16`, drafted16 / plain16),
    ],
  };
}
