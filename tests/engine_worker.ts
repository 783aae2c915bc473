/**
 * An engine in a worker, for a program whose event loop must stay free: told what to load and to generate, it posts
 * chunks as they come, and an error if there is one; told anything else, it stops. For `worker_test.ts`.
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

const stop = new AbortController();

self.onmessage = async ({ data: { load, prompt, generate } }: MessageEvent<Order>) => {
  self.onmessage = () => stop.abort();
  try {
    using engine = await loadEngine(load);
    for await (const chunk of engine.stream(prompt, { ...generate, signal: stop.signal })) {
      self.postMessage(chunk);
    }
    self.postMessage("done");
  } catch (error) {
    self.postMessage(error);
  }
};
