/**
 * Yielding to the event loop during long work. A loop over passes on the CPU awaits only settled promises and never
 * leaves the current task, so timers, signals and input would otherwise wait until its end.
 *
 * @module
 */

/** Milliseconds of work after which to yield to timers. */
const TURN_MS = 10;
/** Milliseconds of work after which to yield to signals and input as well. */
const REST_MS = 100;

/** When all of them last had a turn. */
let rested = 0;

/**
 * Yields to the event loop if it has been blocked for 10 ms, so that timers run (tens of microseconds). Every 100 ms it
 * yields through a timeout, after which signals and input are polled too (1–2 ms).
 *
 * @param since the time of the last turn, by `performance.now()`
 * @returns the time of the last turn, now
 */
export async function takeTurns(since: number): Promise<number> {
  const now = performance.now();
  if (now - since <= TURN_MS) return since;
  if (now - rested > REST_MS) {
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
    return rested = performance.now();
  }
  // the first may run before due timers; all of those run between it and the second
  await new Promise<void>((resolve) => setImmediate(() => setImmediate(resolve)));
  return performance.now();
}

/**
 * Awaits a promise, but throws as soon as the signal is aborted. The promise itself continues.
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
