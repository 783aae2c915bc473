/**
 * Loading, generating and disposing, over and over: memory must stay flat and no worker may be left. Run by hand
 * for many cycles (`deno task cycles 1000`, on a GPU `deno task cycles 1000 cuda`), by tests for a few. Without a GPU,
 * on the stand-in, as `ffi/README.md` says.
 *
 * The task interprets what it runs: compiled code is on the same heap as objects, and V8 goes on compiling for
 * hundreds of cycles, which looks like a leak of one or two kilobytes each. Of the rest of a process's memory, tens of
 * MiB come and go: V8's young generation, WebAssembly's memories that wait to be collected, malloc's free lists.
 *
 * @module
 */

import { loadEngine } from "../../mod.ts";
import { type Device, isDevice } from "../../src/backend/mod.ts";
import { refuse } from "../../tools/arguments.ts";
import { fixture } from "../helpers.ts";

/** What a process holds after a cycle. */
export interface Held {
  /** Bytes of memory that are in use. */
  readonly rss: number;
  /** Bytes of them that are JavaScript's; with `--v8-flags=--expose-gc` those that are still needed. */
  readonly heap: number;
  /** Workers that were started and not ended. */
  readonly workers: number;
}

/** Counts the workers that live. */
class CountedWorker extends Worker {
  static live = 0;

  constructor(...parameters: ConstructorParameters<typeof Worker>) {
    super(...parameters);
    CountedWorker.live++;
  }

  override terminate(): void {
    super.terminate();
    CountedWorker.live--;
  }
}

/**
 * Runs cycles, each with an engine of its own, of a CPU on two threads, and a drafter that is a model.
 * @returns what was held after each; all texts of one seed were the same
 */
export async function cycles(
  count: number,
  told: (cycle: number, held: Held) => void = () => {},
  device: Device = "wasm",
): Promise<Held[]> {
  const all: Held[] = [];
  let first: readonly number[] | undefined;
  const own = globalThis.Worker;
  globalThis.Worker = CountedWorker;
  using _ = { [Symbol.dispose]: () => void (globalThis.Worker = own) };
  for (let cycle = 1; cycle <= count; cycle++) {
    const target = fixture("parity/gpt2-tiny/"), drafter = fixture("parity/sedd-tiny/");
    using engine = await loadEngine({ target, drafter, device, threads: 2 });
    const { tokens } = await engine.generate([5, 6, 7, 8], { maxTokens: 8, gamma: 3, seed: 1 });
    if (String(tokens) !== String(first ??= tokens)) {
      throw new Error(`Cycle ${cycle}: the tokens are ${tokens}, expected ${first}`);
    }
    const workers = device === "wasm" ? 1 : 0;
    if (CountedWorker.live !== workers) {
      throw new Error(`Cycle ${cycle}: ${CountedWorker.live} workers live, expected ${workers}`);
    }
    engine[Symbol.dispose]();
    (globalThis as { gc?: () => void }).gc?.();
    const { rss, heapUsed: heap } = Deno.memoryUsage();
    all.push({ rss, heap, workers: CountedWorker.live });
    told(cycle, all[cycle - 1]);
  }
  return all;
}

if (import.meta.main) {
  const count = Number(Deno.args[0] ?? 1000), device = Deno.args[1] ?? "wasm";
  if (!isDevice(device)) refuse(`Cannot run cycles: "${device}" is no device`);
  if (!(Number.isInteger(count) && count >= 2)) {
    refuse(`Cannot run cycles: their number is ${Deno.args[0]}, expected an integer of at least 2`);
  }
  const all = await cycles(count, (cycle, { rss, heap, workers }) => {
    if (cycle % Math.ceil(count / 20) === 0) {
      const [held, objects] = [rss, heap].map((bytes) => (bytes / 2 ** 20).toFixed(2));
      console.log(`${cycle} cycles: ${held} MiB, ${objects} of them JavaScript's, ${workers} workers`);
    }
  }, device);
  // what the first cycles fill (free lists, tables) is no leak
  const half = Math.ceil(count / 2), last = all[count - 1];
  const settled = Math.max(...all.slice(0, half).map(({ rss }) => rss));
  const rest = Math.max(...all.slice(-half).map(({ rss }) => rss));
  const grown = (last.heap - all[half - 1].heap) / (count - half);
  console.log(`Most in the first half ${settled >> 20} MiB, in the second ${rest >> 20} MiB`);
  console.log(`Of each cycle of the second half ${grown.toFixed(0)} bytes of JavaScript's stay`);
  if (rest > 1.25 * settled || grown > 1000 || last.workers > 0) Deno.exit(1);
}
