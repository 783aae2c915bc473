/**
 * The threads of the WebAssembly backend: every chunk of every job is done once, whoever does it, and a kernel that
 * fails on some thread is an error and no hang.
 *
 * @module
 */

import assert from "node:assert/strict";
import { createWasmBackend } from "../src/backend/wasm/backend.ts";
import { relaxed, reservedPages } from "../src/backend/wasm/kernels.generated.ts";
import { Heap } from "../src/backend/wasm/memory.ts";
import { startPool } from "../src/backend/wasm/pool.ts";

for (const threads of [2, 3, 7]) {
  Deno.test(`${threads} threads: each chunk of a job is done once, of thousands of jobs in a row`, async () => {
    using backend = await createWasmBackend({ threads });
    const inputs = 512, sizes = [1, 47, 96, 480, 1013], jobs = 800;
    const ones = (rows: number) => {
      const x = backend.activation(rows, inputs);
      x.write(new Float32Array(rows * inputs).map((_, i) => i % inputs === 0 ? 1 : 0));
      return x;
    };
    const x = ones(3);
    const sums = await Promise.all(sizes.map(async (outputs) => {
      const values = new Float32Array(outputs * inputs).fill(1);
      return {
        matrix: await backend.matrix({ outputs, inputs, dtype: "f32" }, [values]),
        sum: backend.activation(3, outputs),
      };
    }));
    for (let job = 0; job < jobs; job++) {
      // each adds 1 to all of its entries: one that is left out or done twice shows
      for (const { matrix, sum } of sums) backend.projectResidual(sum, x, { matrix });
      if (job % 200 === 0) await new Promise((resolve) => setTimeout(resolve, 2)); // threads fall asleep
    }
    for (const { sum } of sums) assert.deepEqual(new Set(sum.read()), new Set([jobs]));
  });
}

Deno.test("a kernel that fails is an error, on whichever threads, and nobody waits for it", async () => {
  const heap = new Heap(reservedPages), bytes = Uint8Array.fromBase64(relaxed);
  const pool = await startPool(heap, await WebAssembly.compile(bytes), 3);
  try {
    pool.reserveScratch(4096);
    const data = heap.allocateZeroed(16 * 65536);
    const read = (address: number) => pool.run("probe_read", [address], 16, 1e6);
    read(data);
    const beyond = heap.memory.buffer.byteLength - 65536; // the first unit is within the memory, the others are not
    assert.throws(() => read(beyond), /^Error: Cannot run probe_read: the kernel failed$/);
    // what it wrote cannot be trusted any more
    assert.throws(() => read(data), /^Error: Cannot run probe_read: the kernel failed$/);
  } finally {
    pool.dispose();
  }
});
