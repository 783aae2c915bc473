/**
 * A worker that is watched: it has to say something now and then. It is how a hang is told from work, and no measure
 * of speed: the silence that is put up with is many times what the slowest machine needs.
 *
 * @module
 */

import type { FuzzReport } from "./fuzz.ts";
import type { Order } from "./fuzz_worker.ts";

/** Milliseconds of silence after which a worker is given up. */
const PATIENCE_MS = 120_000;

/**
 * Sends a worker an order, and waits for its answer: the first message that is no number. Numbers say how far it is.
 * @throws {Error} what the worker posts as its answer, or that it hangs and where
 */
export async function watch(
  module: URL | string,
  order: unknown,
  patienceMs = PATIENCE_MS,
): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const worker = new Worker(module, { type: "module" });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const heard = (at: string) => {
    clearTimeout(timer);
    timer = setTimeout(() => reject(new Error(`hangs ${at}`)), patienceMs);
  };
  worker.onmessage = ({ data }) => {
    if (typeof data === "number") heard(`at ${data}`);
    else if (data instanceof Error) reject(data);
    else resolve(data);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    reject(new Error(event.message));
  };
  heard("before it says anything");
  try {
    worker.postMessage(order);
    return await promise;
  } finally {
    clearTimeout(timer);
    worker.terminate();
  }
}

/** {@linkcode fuzz}, with an eye on it. */
export async function watchFuzz(order: Order): Promise<FuzzReport> {
  try {
    return await watch(new URL("fuzz_worker.ts", import.meta.url), order) as FuzzReport;
  } catch (error) {
    throw new Error(`${order.format}, seed ${order.seed}: ${(error as Error).message}`, { cause: error });
  }
}
