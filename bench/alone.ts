/**
 * Figures of each method that `compare` lacks: the time to the first token, interleaved with the other methods, and the
 * peak memory, in a separate process that loads only the target and this drafter.
 *
 * Part of `deno task bench`. Run as a program (`bench/alone.ts plain`, or a drafter's name), it is that process.
 *
 * @module
 */

import { type Engine, loadEngine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { embeddedDrafters } from "../src/pair.ts";
import { ownDeno } from "../tools/own_process.ts";
import { peakBytes } from "./peak.ts";
import type { Alone } from "./report.ts";
import { spreadOf } from "./spread.ts";

const PLAIN = "plain", TOKENS = 16, REPETITIONS = 5;
/** The time limit of such a process. */
const SECONDS = 120;

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
    found[method] = { firstMs: spreadOf(first[i]), peakBytes: await peakOf(method) };
  }
  return found;
}

/** The peak memory of a method; null if unknown. */
async function peakOf(method: string): Promise<number | null> {
  let printed = "";
  const reason = await ownDeno(new URL(import.meta.url), [method], SECONDS, (line) => printed += line);
  if (reason !== undefined) throw new Error(`Cannot measure the memory of ${method}: ${reason}`);
  return JSON.parse(printed);
}

if (import.meta.main) {
  const [method] = Deno.args;
  using engine = await loadEngine({ drafter: method === PLAIN ? null : method });
  await engine.generate(PROMPTS[0], { maxTokens: 128 });
  console.log(JSON.stringify(peakBytes()));
}
