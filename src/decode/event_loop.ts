/**
 * Long work that others can interrupt: awaiting a promise that is settled already, as a loop over a CPU's passes
 * does, never leaves the current task, so that no timer, signal or key press would be heard before its end.
 *
 * @module
 */

/** Milliseconds of work after which the others get a turn. */
const TURN_MS = 10;

/**
 * Lets timers, signals and input have their turn if none has come for a while. A message costs microseconds;
 * `setTimeout` would cost milliseconds.
 *
 * @param since when they last had one, as `performance.now()` tells the time
 * @returns when they last had one now
 */
export async function takeTurns(since: number): Promise<number> {
  if (performance.now() - since <= TURN_MS) return since;
  const { promise, resolve } = Promise.withResolvers<void>();
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => resolve();
  port2.postMessage(undefined);
  await promise;
  port1.close();
  port2.close(); // the other's end does not end it: left open, it would be kept for ever
  return performance.now();
}
