/**
 * Loading, generating and disposing, over and over: memory must stay flat and no worker may be left. Run by hand
 * for many cycles (`deno task cycles 1000`, on a GPU `deno task cycles 1000 cuda`), by tests for a few. Without a GPU,
 * on the stand-in, as `ffi/README.md` says.
 *
 * @module
 */

import { loadEngine } from "../../mod.ts";
import { type Device, isDevice } from "../../src/backend/mod.ts";
import { fixture } from "../helpers.ts";

/** What a process holds after a cycle. */
export interface Held {
  /** Bytes of memory that are in use. */
  readonly rss: number;
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
    all.push({ rss: Deno.memoryUsage().rss, workers: CountedWorker.live });
    told(cycle, all[cycle - 1]);
  }
  return all;
}

if (import.meta.main) {
  const count = Number(Deno.args[0] ?? 1000), device = Deno.args[1] ?? "wasm";
  if (!isDevice(device)) throw new TypeError(`Cannot run cycles: "${device}" is no device`);
  const all = await cycles(count, (cycle, { rss, workers }) => {
    if (cycle % Math.ceil(count / 20) === 0) {
      console.log(`${cycle} cycles: ${(rss / 2 ** 20).toFixed(0)} MiB, ${workers} workers`);
    }
  }, device);
  // what the first cycles fill (compiled code, free lists) is no leak
  const settled = Math.max(...all.slice(0, Math.ceil(count / 2)).map(({ rss }) => rss));
  const rest = Math.max(...all.slice(-Math.ceil(count / 2)).map(({ rss }) => rss));
  console.log(`Most in the first half ${settled >> 20} MiB, in the second ${rest >> 20} MiB`);
  if (rest > 1.25 * settled || all[count - 1].workers > 0) Deno.exit(1);
}
