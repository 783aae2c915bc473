/**
 * Starts a thread from the text of its program. Deno, Bun and browsers have web workers, so it is a blob worker. Node
 * has none, so it is a thread of `node:worker_threads` with the globals of a worker. Deliberately no more than a pool
 * needs: one message there, one answer back.
 *
 * @module
 */

/** A thread that was started. */
export interface Spawned {
  /** The first message that it sends; rejects if it fails before. */
  readonly answer: Promise<unknown>;
  /** Sends it its message. */
  postMessage(message: unknown): void;
  /** Ends it. */
  terminate(): void;
}

/** Gives a Node thread the globals of a web worker, for a program that waits for one message. */
const NODE_WORLD = `
const { parentPort } = require("node:worker_threads");
globalThis.postMessage = (message) => parentPort.postMessage(message);
globalThis.close = () => process.exit();
parentPort.once("message", (data) => globalThis.onmessage({ data }));
`;

/**
 * Starts a thread.
 * @param program an expression that sets `globalThis.onmessage`, and refers to nothing but globals
 * @param name for debuggers
 */
export async function spawn(program: string, name: string): Promise<Spawned> {
  const { promise: answer, resolve, reject } = Promise.withResolvers<unknown>();
  if (typeof Worker === "undefined") {
    const { Worker: NodeWorker } = await import("node:worker_threads");
    const worker = new NodeWorker(NODE_WORLD + program, { eval: true, name });
    worker.once("message", resolve);
    worker.once("error", reject);
    return {
      answer,
      postMessage: (message) => worker.postMessage(message),
      terminate: () => void worker.terminate(),
    };
  }
  const url = URL.createObjectURL(new Blob([program], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module", name });
  worker.onmessage = ({ data }) => resolve(data);
  worker.onmessageerror = () => reject(new Error("the shared memory cannot be sent to it"));
  worker.onerror = (event) => {
    event.preventDefault();
    reject(new Error(event.message));
  };
  return {
    answer: answer.finally(() => URL.revokeObjectURL(url)),
    postMessage: (message) => worker.postMessage(message),
    terminate: () => worker.terminate(),
  };
}
