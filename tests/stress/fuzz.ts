/**
 * A seeded fuzzer. What happens to an input, told in a word, stands for the path it took: inputs that meet with
 * something new are kept and spoiled further. By hand for many inputs (`deno task fuzz --count 10000`), by
 * `stress_test.ts` for some.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { Choices } from "./choices.ts";
import { type Format, formats } from "./formats.ts";

/** Milliseconds that no input may take. */
const HANG_MS = 5000;

/** Bytes that no input may take more than there were: many times what any of them has. */
const MOST_BYTES = 64 << 20;

/** What was seen. */
export interface FuzzReport {
  /** How often each thing happened. */
  readonly outcomes: ReadonlyMap<string, number>;
  /** Milliseconds of the slowest input. */
  readonly slowestMs: number;
}

/**
 * Tries `count` spoiled inputs of a format.
 * @throws {Error} with the input, at the first that makes happen what must not
 */
export async function fuzz(format: Format, count: number, seed: number): Promise<FuzzReport> {
  const choices = new Choices(seed);
  const kept = [...format.seeds], outcomes = new Map<string, number>();
  let slowestMs = 0;
  for (let n = 0; n < count; n++) {
    // half of them from what is sound: what is spoiled once meets few other checks
    const origin = choices.one(choices.chance(0.5) ? format.seeds : kept);
    const input = n < format.seeds.length ? format.seeds[n] : format.mutate(origin, choices);
    await format.place?.(input);
    const before = Deno.memoryUsage().rss, began = performance.now();
    let outcome: string;
    try {
      outcome = await format.attempt(input);
    } catch (error) {
      throw new Error(
        `${format.name}, seed ${seed}, input ${n}: ${error}; in base64: ${input.toBase64().slice(0, 4000)}`,
        { cause: error },
      );
    }
    const took = performance.now() - began;
    if (took > HANG_MS) {
      throw new Error(`${format.name}, seed ${seed}, input ${n} took ${took.toFixed(0)} ms`);
    }
    const grown = Deno.memoryUsage().rss - before;
    if (grown > MOST_BYTES) {
      throw new Error(`${format.name}, seed ${seed}, input ${n} took ${grown} bytes of memory`);
    }
    slowestMs = Math.max(slowestMs, took);
    if (!outcomes.has(outcome) && input.length < 1e5) kept.push(input);
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  return { outcomes, slowestMs };
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      count: { type: "string" },
      seed: { type: "string" },
      format: { type: "string" },
      verbose: { type: "boolean" },
    },
  });
  const folder = await Deno.makeTempDir();
  try {
    for (const format of await formats(folder)) {
      if (values.format !== undefined && values.format !== format.name) continue;
      const count = Number(values.count ?? 10_000), before = Deno.memoryUsage().rss;
      const { outcomes, slowestMs } = await fuzz(format, count, Number(values.seed ?? 1));
      const grown = (Deno.memoryUsage().rss - before) / 2 ** 20;
      console.log(
        `${format.name}: ${count} inputs, ${outcomes.size} outcomes, slowest ${slowestMs.toFixed(0)} ms, ` +
          `memory ${grown.toFixed(0)} MiB more`,
      );
      if (values.verbose) console.log(outcomes);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
