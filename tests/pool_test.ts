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
import { type Pool, startPool } from "../src/backend/wasm/pool.ts";
import { Control, joinThreads, kernelNames } from "../src/backend/wasm/worker.ts";

/** A pool, and 1 MiB to read. */
async function openPool(threads: number): Promise<{ heap: Heap; pool: Pool; data: number }> {
  const heap = new Heap(reservedPages), module = await WebAssembly.compile(Uint8Array.fromBase64(relaxed));
  const pool = await startPool(heap, module, threads);
  pool.reserveScratch(4096);
  return { heap, pool, data: heap.allocateZeroed(16 * 65536) };
}

for (const threads of [2, 3, 7]) {
  Deno.test(`${threads} threads: each chunk of a job is done once, of thousands of jobs in a row`, async () => {
    using backend = await createWasmBackend({ threads });
    const inputs = 512, sizes = [1, 47, 96, 480, 1013], jobs = 800;
    const x = backend.activation(3, inputs);
    x.write(new Float32Array(3 * inputs).map((_, i) => i % inputs === 0 ? 1 : 0));
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

Deno.test("other threads do their share, and come when they were asleep", async () => {
  const { pool, data, heap } = await openPool(3);
  try {
    const counters = [1, 2].map((thread) => Control.thread + thread * Control.threadWords + Control.done);
    const control = new Int32Array(heap.memory.buffer, reservedPages * 65536); // what a pool allocates first
    const done = () => counters.map((at) => control[at]);
    for (let asleep = 0; asleep < 2; asleep++) {
      const before = done();
      // how soon they come is the system's matter, but not whether
      for (let tries = 0; done().some((count, i) => count === before[i]); tries++) {
        assert.ok(tries < 200_000);
        pool.run("probe_read", [data], 16, 1e6);
      }
      await new Promise((resolve) => setTimeout(resolve, 20)); // by then they sleep
    }
  } finally {
    pool.dispose();
  }
});

Deno.test("a thread that is about to sleep does not, if it is called or told to end", async () => {
  const heap = new Heap(reservedPages),
    address = heap.allocateZeroed((Control.thread + 2 * Control.threadWords) * 4);
  const thread = joinThreads({
    module: await WebAssembly.compile(Uint8Array.fromBase64(relaxed)),
    memory: heap.memory,
    layout: Control,
    kernels: kernelNames,
    control: address,
    thread: 1,
    threads: 2,
  });
  const control = new Int32Array(heap.memory.buffer, address);
  const part = Control.thread + Control.threadWords + Control.part;
  control[part] = 4 << 16 | 8;
  assert.ok(thread.called());
  thread.sleep(); // or this never ends
  control[part] = 8 << 16 | 8;
  assert.ok(!thread.called());
  control[Control.stop] = 1;
  control[part] = -1;
  assert.ok(!thread.called());
  thread.sleep();
  assert.equal(control[Control.sleepers], 0);
});

Deno.test("a pool can be disposed of whatever its threads are about to do", async () => {
  for (let i = 0; i < 40; i++) {
    const { pool, data } = await openPool(2);
    pool.run("probe_read", [data], 16, 1e6);
    // threads look for work for some 250 µs and then fall asleep: about then
    for (const end = performance.now() + i / 100; performance.now() < end;);
    pool.dispose();
  }
});

Deno.test("a kernel that fails is an error, on whichever threads, and nobody waits for it", async () => {
  const { heap, pool, data } = await openPool(3);
  try {
    const read = (address: number) => pool.run("probe_read", [address], 16, 1e6);
    read(data);
    const beyond = heap.memory.buffer.byteLength - 65536; // the first unit is within the memory, the others are not
    assert.throws(() => read(beyond), /^Error: Cannot run probe_read: the kernel failed$/);
    // what it left cannot be trusted any more
    assert.throws(() => read(data), /^Error: Cannot run probe_read: a kernel has failed before$/);
  } finally {
    pool.dispose();
  }
});
