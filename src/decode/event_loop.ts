/**
 * Long work that others can interrupt: awaiting a promise that is settled already, as a loop over a CPU's passes
 * does, never leaves the current task, so that no timer, signal or key press would be heard before its end.
 *
 * @module
 */

/** Milliseconds of work after which timers get a turn. */
const TURN_MS = 10;
/** Milliseconds of work after which signals and input get one as well. */
const REST_MS = 100;

/** When all had a turn. */
let rested = 0;

/**
 * Lets timers have their turn if none has come for a while, which costs some tens of microseconds, and more rarely
 * signals and input, which are looked for only where there is nothing else to do: that costs a millisecond or two.
 *
 * @param since when they last had one, as `performance.now()` tells the time
 * @returns when they last had one now
 */
export async function takeTurns(since: number): Promise<number> {
  const now = performance.now();
  if (now - since <= TURN_MS) return since;
  if (now - rested > REST_MS) {
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
    return rested = performance.now();
  }
  // the first may come before timers that are due; between it and the second all of those have had a turn
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
