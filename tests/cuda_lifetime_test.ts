/**
 * What of a device is left when a call fails, it is lost, its memory ends or it is used a thousand times: nothing.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { CudaError } from "../ffi/context.ts";
import { cudaSymbols } from "../ffi/libcuda.ts";
import { loadEngine } from "../mod.ts";
import { createCudaBackend } from "../src/backend/cuda/backend.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import { onStandIn } from "./cuda/standin.ts";
import { cycles } from "./stress/cycles.ts";
import { fixture } from "./helpers.ts";
import { failedCall, numbers } from "./cuda/bench.ts";

/** Calls whose failure is no error of theirs: it says that earlier work failed. */
const RELEASING = /Free|Destroy|Unload|Release|cuCtxSynchronize/;

/** Opens the backend, lets it allocate, copy and compute a little, and closes it. */
async function useBackend(): Promise<Float32Array> {
  using backend = createCudaBackend();
  using matrix = await backend.matrix({ outputs: 24, inputs: 8, dtype: "f16" }, [numbers(24 * 8)]);
  using bias = backend.vector(numbers(24));
  using cache = backend.cache({ layers: 1, width: 8, capacity: 4 });
  using x = backend.activation(2, 8), qkv = backend.activation(2, 24), out = backend.activation(2, 8);
  using tokens = backend.tokens(2);
  tokens.write([3, 5]);
  backend.embed(x, { tokens, table: matrix, cache });
  backend.project(qkv, x, { matrix, bias });
  backend.attention(x, qkv, { cache, layer: 0, heads: 2, scale: 1, causalRows: 2 });
  cache.advance(2);
  backend.copy(out, x);
  tokens.read();
  return out.read();
}

onStandIn(
  "whichever call fails, there is one error that names it, and nothing is left on the device",
  async (standIn) => {
    await useBackend();
    const counts = Object.keys(cudaSymbols).map((name) => [name, standIn.calls(name)] as const);
    let failed = 0;
    for (const [name, count] of counts) {
      for (let nth = 1; nth <= count; nth++) {
        standIn.reset();
        standIn.fail(name, nth, 999);
        const error = await useBackend().then(() => undefined, (error: unknown) => error);
        if (RELEASING.test(name)) assert.equal(error, undefined, name);
        else {
          assert.ok(error instanceof CudaError, `call ${nth} of ${name} failed, but not the use: ${error}`);
          assert.equal(error.call.replace(/\(.*/, ""), name);
          failed++;
        }
        assert.equal(standIn.live(), 0, `left after call ${nth} of ${name} failed`);
      }
    }
    assert.ok(failed > 50, `only ${failed} calls were made to fail`);
  },
);

onStandIn(
  "a device that is lost while a text is generated ends it with one error, and can be opened again",
  async (standIn) => {
    const load = () =>
      loadEngine({
        target: fixture("parity/gpt2-tiny"),
        drafter: fileURLToPath(fixture("parity/sedd-tiny")),
        device: "cuda",
        tokenizer: { encode: () => [1], decode: (ids) => "·".repeat(ids.length) },
      });
    const options = { maxTokens: 7, gamma: 2, seed: 1 };
    {
      using engine = await load();
      standIn.reset();
      standIn.fail("cuStreamSynchronize", 2, 700); // in the second round
      await assert.rejects(engine.generate([1, 2, 3], options), failedCall("cuStreamSynchronize", 700));
    }
    assert.equal(standIn.live(), 0);
    standIn.reset();
    standIn.fail("cuMemAlloc_v2", 20, 719);
    await assert.rejects(load(), failedCall("cuMemAlloc_v2", 719));
    assert.equal(standIn.live(), 0);
    using engine = await load();
    assert.equal((await engine.generate([1, 2, 3], options)).tokens.length, 7);
  },
);

onStandIn(
  "memory that does not suffice: the message names a dtype that would fit",
  (standIn) =>
    standIn.withMachine({ memory: 1 << 20 }, async () => {
      using backend = createCudaBackend();
      await assert.rejects(
        backend.matrix({ outputs: 700, inputs: 512, dtype: "f32" }, []),
        /Cannot hold a \[700, 512\] f32 matrix: .*int8 needs/,
      );
      // whatever it is for
      for (
        const [what, allocate] of [
          ["an activation", () => backend.activation(700, 512)],
          ["a cache", () => backend.cache({ layers: 2, width: 512, capacity: 700 })],
        ] as const
      ) {
        assert.throws(allocate, {
          name: "OutOfMemoryError",
          message: new RegExp(`^Cannot hold ${what} of .* MiB: .* are free on CUDA 0: `),
        });
      }
    }),
);

onStandIn("1,000 times opened, used and closed, nothing is left", async (standIn) => {
  for (let i = 0; i < 100; i++) await useBackend();
  const before = Deno.memoryUsage().rss;
  for (let i = 100; i < 1000; i++) await useBackend();
  assert.equal(standIn.calls("cuDevicePrimaryCtxRetain"), 1000);
  assert.equal(standIn.live(), 0);
  const grown = (Deno.memoryUsage().rss - before) / 900;
  assert.ok(grown < 100_000, `${grown} bytes of the host stay with each`);
});

onStandIn(
  "models loaded, used and disposed of, over and over, leave nothing, nor do texts",
  async (standIn) => {
    await cycles(6, (cycle) => assert.equal(standIn.live(), 0, `after cycle ${cycle}`), "cuda");
    const used = ["cuGraphLaunch", "cuMemAlloc_v2", "cuMemHostAlloc"].map((name) => standIn.calls(name));
    assert.ok(used[0] >= 10 && used[1] > 400 && used[2] > 100, String(used));

    const target = fixture("parity/gpt2-tiny"), drafter = fileURLToPath(fixture("parity/sedd-tiny"));
    {
      using engine = await loadEngine({ target, drafter, device: "cuda" });
      const held: number[] = [];
      for (let text = 0; text < 4; text++) {
        await engine.generate([5, 6, 7, 8], { maxTokens: 8, gamma: 3, seed: 1 });
        held.push(standIn.live());
      }
      assert.deepEqual(held, held.map(() => held[0]), "what an engine holds after each text");
    }
    {
      using backend = createCudaBackend();
      const held: number[] = [];
      for (let model = 0; model < 3; model++) {
        {
          using checkpoint = await openCheckpoint(target);
          using loaded = (await loadModel(checkpoint, backend)).model;
          using _cache = loaded.newCache();
        }
        held.push(standIn.live());
      }
      assert.deepEqual(held, held.map(() => held[0]), "what a device holds after each model");
    }
  },
);
