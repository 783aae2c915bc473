/**
 * Loading, generating and disposing, over and over: memory must stay flat and no worker may be left. Run by hand
 * for many cycles (`deno task cycles 1000`), by `stress_test.ts` for a few.
 *
 * @module
 */

import { loadEngine } from "../../mod.ts";
import { fixture } from "../helpers.ts";

/** What a process holds after a cycle. */
export interface Held {
  /** Bytes of memory that are in use. */
  readonly rss: number;
  /** Threads of the process; undefined where the system does not tell. */
  readonly threads: number | undefined;
}

/**
 * Runs cycles, each with an engine of its own on two threads, and a drafter that is a model.
 * @returns what was held after each; all texts of one seed were the same
 */
export async function cycles(
  count: number,
  told: (cycle: number, held: Held) => void = () => {},
): Promise<Held[]> {
  const all: Held[] = [];
  let first: readonly number[] | undefined;
  for (let cycle = 1; cycle <= count; cycle++) {
    const target = fixture("parity/gpt2-tiny/"), drafter = fixture("parity/sedd-tiny/");
    using engine = await loadEngine({ target, drafter, threads: 2 });
    const { tokens } = await engine.generate([5, 6, 7, 8], { maxTokens: 8, gamma: 3, seed: 1 });
    if (String(tokens) !== String(first ??= tokens)) {
      throw new Error(`Cycle ${cycle}: the tokens are ${tokens}, expected ${first}`);
    }
    engine[Symbol.dispose]();
    all.push(held());
    told(cycle, all[cycle - 1]);
  }
  return all;
}

function held(): Held {
  const threads = Deno.build.os === "linux" ? [...Deno.readDirSync("/proc/self/task")].length : undefined;
  return { rss: Deno.memoryUsage().rss, threads };
}

if (import.meta.main) {
  const count = Number(Deno.args[0] ?? 1000);
  await cycles(count, (cycle, { rss, threads }) => {
    if (cycle % Math.ceil(count / 20) === 0) {
      console.log(`${cycle} cycles: ${(rss / 2 ** 20).toFixed(0)} MiB, ${threads} threads`);
    }
  });
}
