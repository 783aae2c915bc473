/**
 * The fuzzer in a worker, so that an input that hangs hangs nobody else: told a format, a count and a seed, it posts
 * the number of each input before it is tried, and at the end the report or an error. For `watch.ts`.
 *
 * @module
 */

/// <reference lib="webworker" />

import { formats } from "./formats.ts";
import { fuzz } from "./fuzz.ts";

/** The message. */
export interface Order {
  readonly format: string;
  readonly count: number;
  readonly seed: number;
}

self.onmessage = async ({ data: { format: name, count, seed } }: MessageEvent<Order>) => {
  const folder = await Deno.makeTempDir();
  try {
    const format = (await formats(folder)).find((format) => format.name === name);
    if (format === undefined) throw new Error(`there is no format "${name}"`);
    self.postMessage(await fuzz(format, count, seed, (n) => self.postMessage(n)));
  } catch (error) {
    self.postMessage(error);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
};
