/**
 * Passes over one row against passes over many, for `deno bench`: what verifying a draft costs, which decides what
 * speculation can win.
 *
 * @module
 */

import { createWasmBackend } from "../src/backend/wasm/backend.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { embeddedTarget } from "../src/pair.ts";
import { loadAsCausal } from "../tools/shapes.ts";
import { Gpt2Shape, modelPasses } from "./kernels.ts";

const context = 100;
const backend = await createWasmBackend();

using checkpoint = await openCheckpoint(embeddedTarget());
const target = await loadAsCausal(checkpoint, backend, { dtype: "f32" });
const embedded = modelPasses(target, target.newCache(), context);
for (const rows of [1, 2, 3, 4, 5, 8, 9, 16, 41]) {
  Deno.bench(
    `embedded target, ${rows} rows`,
    { group: "embedded target, f32", baseline: rows === 1 },
    embedded(rows),
  );
}

for (const dtype of ["f32", "int8"] as const) {
  const shape = await Gpt2Shape.open(backend, dtype);
  for (const rows of [1, 2, 4, 5, 8, 9, 16]) {
    Deno.bench(
      `GPT-2 124M shape, ${dtype}, ${rows} rows`,
      { group: `GPT-2 124M shape, ${dtype}`, baseline: rows === 1, n: 10, warmup: 2 },
      shape.pass(rows, context),
    );
  }
}
