/**
 * Long work that others can interrupt: awaiting a promise that is settled already, as a loop over a CPU's passes
 * does, never leaves the current task, so that no timer, signal or key press would be heard before its end.
 *
 * @module
 */

/** Milliseconds of work after which the others get a turn. */
const TURN_MS = 10;

/**
 * Lets timers, signals and input have their turn if none has come for a while. Immediates cost some tens of
 * microseconds, `setTimeout` would cost milliseconds.
 *
 * @param since when they last had one, as `performance.now()` tells the time
 * @returns when they last had one now
 */
export async function takeTurns(since: number): Promise<number> {
  if (performance.now() - since <= TURN_MS) return since;
  // the first may come before timers that are due; between it and the second everybody has had a turn
  await new Promise<void>((resolve) => setImmediate(() => setImmediate(resolve)));
  return performance.now();
}

/**
 * What a promise comes to, or the signal's reason as soon as that is aborted; the promise goes on.
 * @throws the signal's reason, and whatever the promise is rejected with
 */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const end = () => reject(signal.reason);
  signal.addEventListener("abort", end);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", end);
  }
}
