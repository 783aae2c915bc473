/**
 * Engines in workers: the same API there, on the CPU (whose threads are workers of the worker) and on a GPU (whose
 * context is the thread's), with chunks that can be posted, and errors by name and message.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type Chunk, loadEngine } from "../mod.ts";
import { onStandIn, withStandInNamed } from "./cuda/standin.ts";
import type { Failure, Order } from "./engine_worker.ts";
import { fixture } from "./helpers.ts";

const LOAD = {
  target: fileURLToPath(fixture("parity/gpt2-bare")),
  drafter: fileURLToPath(fixture("parity/sedd-target-tiny")),
  threads: 2,
} as const;
const GENERATE = { seed: 7, gamma: 3, maxTokens: 16, stopTokens: [] };
const PROMPT = [5, 6, 7, 8];

/** What a worker posted, up to its end, and how often this thread had its turn meanwhile. */
async function posted(
  order: Order,
  answer: "go on" | "stop" = "go on",
): Promise<{ chunks: Chunk[]; end: "done" | Failure; turns: number }> {
  const worker = new Worker(new URL("engine_worker.ts", import.meta.url), { type: "module" });
  const chunks: Chunk[] = [], { promise, resolve, reject } = Promise.withResolvers<"done" | Failure>();
  worker.onerror = (event) => reject(new Error(event.message));
  worker.onmessage = ({ data }: MessageEvent<Chunk | "done" | Failure>) => {
    if (data === "done" || "message" in data) return resolve(data);
    chunks.push(data);
    worker.postMessage(answer);
  };
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  try {
    worker.postMessage(order);
    return { end: await promise, chunks, turns };
  } finally {
    clearInterval(timer);
    worker.terminate();
  }
}

function tokensOf(chunks: readonly Chunk[]): number[] {
  return chunks.flatMap(({ pieces }) => pieces.map(({ token }) => token));
}

/** Texts from a worker are those from here; an abort and an error come through; nothing blocks this thread. */
async function worksOn(device: "wasm" | "cuda"): Promise<void> {
  const load = { ...LOAD, device };
  const { chunks, end, turns } = await posted({ load, prompt: PROMPT, generate: GENERATE });
  assert.equal(end, "done");
  assert.ok(turns > 10, `${turns} turns`);
  {
    using engine = await loadEngine(load);
    const { tokens, stats } = await engine.generate(PROMPT, GENERATE);
    assert.deepEqual(tokensOf(chunks), tokens);
    assert.equal(chunks.at(-1)!.stats.acceptedTokens, stats.acceptedTokens);
  }
  const stopped = await posted({ load, prompt: PROMPT, generate: GENERATE }, "stop");
  assert.equal((stopped.end as Failure).name, "AbortError");
  assert.equal(stopped.chunks.length, 1);
  const wrong = await posted({ load, prompt: [], generate: GENERATE });
  assert.deepEqual(wrong.end, {
    name: "RangeError",
    message: "Cannot decode: the prompt is empty, expected at least one token",
  });
  const nowhere = fileURLToPath(fixture("nowhere"));
  const missing = await posted({
    load: { ...load, target: nowhere },
    prompt: PROMPT,
    generate: GENERATE,
  });
  assert.deepEqual(missing.end, {
    name: "CheckpointError",
    message:
      `Cannot load checkpoint "${nowhere}": there is no such folder, expected one, or the name of a model on a hub as ` +
      "owner/name",
  });
}

Deno.test("an engine in a worker: WebAssembly", () => worksOn("wasm"));

onStandIn("an engine in a worker: CUDA", async (standIn) => {
  await withStandInNamed(standIn.path, () => worksOn("cuda")); // a worker looks for the library itself
  assert.equal(standIn.calls("cuDevicePrimaryCtxRetain"), 5);
});
