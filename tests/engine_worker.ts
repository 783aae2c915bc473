/**
 * An engine in a worker, for a program whose event loop must stay free: told what to load and to generate, it posts
 * chunks, each when it is told to go on after the one before, and a {@linkcode Failure} if there is one; told `stop`, it
 * stops. For `worker_test.ts`.
 *
 * @module
 */

/// <reference lib="webworker" />

import { type EngineOptions, type GenerateOptions, loadEngine } from "../mod.ts";

/** The first message. */
export interface Order {
  readonly load: EngineOptions;
  readonly prompt: readonly number[];
  readonly generate: GenerateOptions;
}

/** What is posted of an error: a class and name of this library's own would be lost. */
export interface Failure {
  readonly name: string;
  readonly message: string;
}

/** The next message. */
function told(): Promise<unknown> {
  return new Promise((resolve) => self.onmessage = ({ data }) => resolve(data));
}

self.onmessage = async ({ data: { load, prompt, generate } }: MessageEvent<Order>) => {
  const stop = new AbortController();
  try {
    using engine = await loadEngine(load);
    for await (const chunk of engine.stream(prompt, { ...generate, signal: stop.signal })) {
      self.postMessage(chunk);
      if (await told() === "stop") stop.abort();
    }
    self.postMessage("done");
  } catch (error) {
    const { name, message } = error as Error;
    self.postMessage({ name, message } satisfies Failure);
  }
};
