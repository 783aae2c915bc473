/**
 * What of each method the rows of `compare` do not have: the time to its first token, taking turns with the others; and
 * its peak memory, for which it has a process of its own with the target and no drafter but its own.
 *
 * Part of `deno task bench`; as a program (`bench/alone.ts plain`, or a drafter) it is that process.
 *
 * @module
 */

import { type Engine, loadEngine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { embeddedDrafters } from "../src/pair.ts";
import { ownDeno } from "./own_process.ts";
import { peakBytes } from "./peak.ts";
import type { Alone } from "./report.ts";
import { spreadOf } from "./spread.ts";

const PLAIN = "plain", TOKENS = 16, REPETITIONS = 5;
/** After which a process counts as lost. */
const SECONDS = 120;

/** Plain decoding, as `plain`, and each embedded drafter with what its configuration asks for. */
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

/** Null where the system does not tell. */
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
