/**
 * Figures of each method that `compare` lacks: the time to the first token, interleaved with the other methods, and the
 * peak memory, in a separate process that loads only the target and this drafter.
 *
 * Part of `deno task bench` and `bench:paper`. Run as a program, it is that process.
 *
 * @module
 */

import { type Engine, type EngineOptions, loadEngine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { embeddedDrafters } from "../src/pair.ts";
import { ownDeno } from "../tools/own_process.ts";
import { madeUpText } from "../tools/shapes.ts";
import { peakBytes } from "./peak.ts";
import type { Alone } from "./report.ts";
import { spreadOf } from "./spread.ts";

const PLAIN = "plain", TOKENS = 16, REPETITIONS = 5;
/** The time limit of such a process: large models take long to load. */
const SECONDS = 600;

/** Plain decoding (`plain`), and each embedded drafter with its configured options. */
export async function alone(engine: Engine): Promise<Record<string, Alone>> {
  const methods = [PLAIN, ...embeddedDrafters], first = methods.map((): number[] => []);
  for (let seed = 1; seed <= REPETITIONS; seed++) {
    for (const prompt of PROMPTS) {
      for (const [i, method] of methods.entries()) {
        const drafter = method === PLAIN ? null : method;
        const { stats } = await engine.generate(prompt, { drafter, seed, maxTokens: TOKENS });
        first[i].push(stats.timeToFirstTokenMs);
      }
    }
  }
  const found: Record<string, Alone> = {};
  for (const [i, method] of methods.entries()) {
    const drafter = method === PLAIN ? null : method;
    found[method] = { firstMs: spreadOf(first[i]), peakBytes: await peakOf({ drafter }) };
  }
  return found;
}

/** The peak memory of a process that loads these and generates a text; null if unknown. */
export async function peakOf(
  models: Pick<EngineOptions, "dtype"> & { target?: string | undefined; drafter: string | null },
): Promise<number | null> {
  let printed = "";
  const args = [JSON.stringify(models)];
  const reason = await ownDeno(new URL(import.meta.url), args, SECONDS, (line) => printed += line);
  if (reason !== undefined) throw new Error(`Cannot measure the memory of ${args}: ${reason}`);
  return JSON.parse(printed);
}

if (import.meta.main) {
  using engine = await loadEngine(JSON.parse(Deno.args[0]));
  const { vocabSize, contextLength } = engine.target.shape;
  const maxTokens = Math.min(128, contextLength - TOKENS);
  await engine.generate(madeUpText(TOKENS, vocabSize), { maxTokens, stopTokens: [] });
  console.log(JSON.stringify(peakBytes()));
}
