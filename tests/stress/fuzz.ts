/**
 * A seeded fuzzer. What happens to an input, told in a word, stands for the path it took: inputs that meet with
 * something new are kept and spoiled further. By hand for many inputs (`deno task fuzz --count 10000`), by
 * `stress_test.ts` for some.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { countBytes } from "./allocations.ts";
import { Choices } from "./choices.ts";
import { type Format, formats } from "./formats.ts";
import { watchFuzz } from "./watch.ts";

/** Bytes that no input may ask for: many times what any of them has, and less than what the largest unpacks to. */
const MOST_BYTES = 4 << 20;

/** What was seen. */
export interface FuzzReport {
  /** How often each thing happened. */
  readonly outcomes: ReadonlyMap<string, number>;
  /** Milliseconds of the slowest input. */
  readonly slowestMs: number;
  /** Bytes that the greediest asked for. */
  readonly mostBytes: number;
}

/**
 * Tries `count` spoiled inputs of a format.
 * @param told the number of each input, before it is tried
 * @throws {Error} with the input, at the first that makes happen what must not
 */
export async function fuzz(
  format: Format,
  count: number,
  seed: number,
  told: (input: number) => void = () => {},
): Promise<FuzzReport> {
  const choices = new Choices(seed);
  const kept = [...format.seeds], outcomes = new Map<string, number>();
  let slowestMs = 0, mostBytes = 0;
  for (let n = 0; n < count; n++) {
    // half of them from what is sound: what is spoiled once meets few other checks
    const origin = choices.one(choices.chance(0.5) ? format.seeds : kept);
    const input = n < format.seeds.length ? format.seeds[n] : format.mutate(origin, choices);
    await format.place?.(input);
    told(n);
    const began = performance.now();
    let outcome = "", bytes: number;
    try {
      bytes = await countBytes(async () => {
        outcome = await format.attempt(input);
      });
    } catch (error) {
      throw new Error(
        `${format.name}, seed ${seed}, input ${n}: ${error}; in base64: ${input.toBase64().slice(0, 4000)}`,
        { cause: error },
      );
    }
    if (bytes > MOST_BYTES) {
      throw new Error(`${format.name}, seed ${seed}, input ${n} asked for ${bytes} bytes of memory`);
    }
    slowestMs = Math.max(slowestMs, performance.now() - began);
    mostBytes = Math.max(mostBytes, bytes);
    if (!outcomes.has(outcome) && input.length < 1e5) kept.push(input);
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  return { outcomes, slowestMs, mostBytes };
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
      const count = Number(values.count ?? 10_000);
      const order = { format: format.name, count, seed: Number(values.seed ?? 1) };
      const { outcomes, slowestMs, mostBytes } = await watchFuzz(order);
      console.log(
        `${format.name}: ${count} inputs, ${outcomes.size} outcomes, slowest ${slowestMs.toFixed(0)} ms, ` +
          `greediest ${(mostBytes / 2 ** 20).toFixed(1)} MiB`,
      );
      if (values.verbose) console.log(outcomes);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
