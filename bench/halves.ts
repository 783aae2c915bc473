/**
 * The embedded target in f16, the precision of its checkpoint, compared with f32. Both have the same logits, so the
 * texts must be equal; only the speed differs, with and without a drafter.
 *
 * Part of `deno task bench`.
 *
 * @module
 */

import { deepStrictEqual } from "node:assert/strict";
import { type Engine, loadEngine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { draftingOf } from "../src/drafting.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { embeddedDrafter } from "../src/pair.ts";
import type { Section } from "./kernels.ts";
import { perTurn, type Spread } from "./spread.ts";

const DRAFTER = "sedd-target", TOKENS = 128, REPETITIONS = 5;

/** Plain decoding and drafting with each, taking turns. */
export async function halves(): Promise<Section> {
  using checkpoint = await openCheckpoint(embeddedDrafter(DRAFTER)!);
  const { gamma } = draftingOf(checkpoint);
  using f32 = await loadEngine({ drafter: DRAFTER, dtype: "f32" });
  using f16 = await loadEngine({ drafter: DRAFTER });
  const none = (): Record<"f32" | "f16", number[]> => ({ f32: [], f16: [] });
  const speeds = { plain: none(), drafted: none() };
  for (let seed = 0; seed <= REPETITIONS; seed++) {
    for (const prompt of PROMPTS) {
      for (const [method, drafter] of [["plain", null], ["drafted", DRAFTER]] as const) {
        const generate = (engine: Engine) =>
          engine.generate(prompt, { drafter, gamma, seed, maxTokens: TOKENS, stopTokens: [] });
        const a = await generate(f32), b = await generate(f16);
        deepStrictEqual(b.tokens, a.tokens);
        // the first runs warm up
        if (seed > 0) {
          speeds[method].f32.push(a.stats.tokensPerSecond);
          speeds[method].f16.push(b.stats.tokensPerSecond);
        }
      }
    }
  }
  const { plain, drafted } = speeds;
  const ratio = (what: string, spread: Spread) => ({ what, ...spread, unit: "×", told: true } as const);
  return {
    title: "the embedded target held as f16, its checkpoint's dtype, which gives the same texts",
    figures: [
      ratio("plain decoding, against that in f32", perTurn(plain.f16, plain.f32)),
      ratio(`${DRAFTER} at γ = ${gamma}, against that in f32`, perTurn(drafted.f16, drafted.f32)),
    ],
  };
}
