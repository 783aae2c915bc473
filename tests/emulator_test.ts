/**
 * The stand-in for libcuda: the emulation that it runs kernels with, and what it objects to.
 *
 * @module
 */

import assert from "node:assert/strict";
import { createCudaBackend } from "../src/backend/cuda/backend.ts";
import { onStandIn } from "./cuda/standin.ts";
import { assertClose, assertSame } from "./helpers.ts";
import { Bench, failedCall, numbers } from "./cuda/bench.ts";

onStandIn("kernels without barriers run for every thread of every block, up to a ragged end", () => {
  using bench = new Bench();
  const x = numbers(150);
  const out = bench.put(new Float32Array(150));
  const scale = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32", "f32"]);
  bench.stream.launch(scale, { grid: 3, block: 64 }, out, bench.put(x), 149, 0.5);
  const expected = x.map((value) => value / 2);
  expected[149] = 0;
  assert.deepEqual(bench.get(out, 150), expected);
});

onStandIn("shuffles and barriers add up a block", () => {
  using bench = new Bench();
  const x = numbers(384), out = bench.put(new Float32Array(3));
  const sum = bench.module.kernel("selftest_sum", ["pointer", "pointer"]);
  bench.stream.launch(sum, { grid: 3, block: 128 }, out, bench.put(x));
  const expected = [0, 1, 2].map((block) =>
    x.subarray(128 * block, 128 * block + 128).reduce((s, v) => s + v)
  );
  assertClose(bench.get(out, 3), expected, 1e-5, "sums");
});

onStandIn("mma multiplies the fragments the PTX manual describes", () => {
  using bench = new Bench();
  // exact in bf16, and the products in f32
  const a = numbers(256).map((v) => Math.round(v * 64) / 64),
    b = numbers(128).map((v) => Math.round(v * 32) / 32);
  const expected = Float32Array.from({ length: 128 }, (_, at) => {
    const row = at >> 3, column = at & 7;
    let sum = 0;
    for (let k = 0; k < 16; k++) sum += a[row * 16 + k] * b[k * 8 + column];
    return sum;
  });
  for (const type of ["f16", "bf16"]) {
    const out = bench.put(new Float32Array(128));
    const product = bench.module.kernel(`selftest_product_${type}`, ["pointer", "pointer", "pointer"]);
    bench.stream.launch(product, { grid: 1, block: 32 }, out, bench.put(a), bench.put(b));
    assert.deepEqual(bench.get(out, 128), expected, type);
  }
});

onStandIn("an asynchronous copy lands when it is waited for, and not before", () => {
  using bench = new Bench();
  const x = numbers(128), out = bench.put(new Float32Array(128)), input = bench.put(x);
  const staged = bench.module.kernel("selftest_staged", ["pointer", "pointer", "i32"]);
  bench.stream.launch(staged, { grid: 1, block: 8, shared: 256 }, out, input, 1);
  assert.deepEqual(bench.get(out, 128), x.map((_, i) => x[i - i % 32 + 31 - i % 32]));
  bench.stream.launch(staged, { grid: 1, block: 8, shared: 256 }, out, input, 0);
  assert.ok(bench.get(out, 128).every(Number.isNaN), "shared memory that nothing has written is NaN");
});

onStandIn("16-bit floats are rounded to the nearest, ties to even", () => {
  using bench = new Bench();
  const x = new Float32Array([
    1,
    -1 / 3,
    65519,
    65520,
    2 ** -24,
    2 ** -25,
    3 * 2 ** -25,
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
  ]);
  const f16 = bench.put(new Float32Array(x.length)), bf16 = bench.put(new Float32Array(x.length));
  const convert = bench.module.kernel("selftest_convert", ["pointer", "pointer", "pointer", "i32"]);
  bench.stream.launch(convert, { grid: 1, block: 32 }, f16, bf16, bench.put(x), x.length);
  assert.deepEqual(bench.get(f16, x.length), Float32Array.from(new Float16Array(x)));
  assert.deepEqual(bench.get(bf16, 4), new Float32Array([1, -0.333984375, 65536, 65536]));
});

onStandIn("the stand-in objects to what a driver may let pass", (standIn) => {
  using bench = new Bench();
  const { device, stream } = bench;
  const scale = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32", "f32"]);
  const wrong = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32"]);
  const x = bench.put(new Float32Array(64));
  const launch = failedCall("cuLaunchKernelEx", 1);
  assert.throws(() => stream.launch(wrong, { grid: 1, block: 64 }, x, x, 64), launch);
  assert.throws(() => stream.launch(scale, { grid: 1, block: 65 }, x, x, 64, 1), launch);
  assert.throws(() => stream.launch(scale, { grid: 0, block: 64 }, x, x, 64, 1), launch);
  assert.throws(() => stream.launch(scale, { grid: 1, block: 64, shared: 49 << 10 }, x, x, 64, 1), launch);
  assert.throws(() => stream.copy(x, x + 4n, 256), failedCall("cuMemcpyDtoDAsync_v2", 1));
  const gone = device.allocate(64);
  gone[Symbol.dispose]();
  assert.throws(() => stream.fill(gone.pointer, 0, 1), failedCall("cuMemsetD32Async", 1));
  assert.deepEqual(standIn.complaints(), [
    "selftest_scale: 20 bytes of parameters, expected 24",
    "selftest_scale: a block of 65 threads, expected up to 64",
    "selftest_scale: a grid of [0, 1, 1] blocks",
    "selftest_scale: 50176 bytes of shared memory, 49152 are allowed",
    "cuMemcpyDtoDAsync_v2: 256 bytes are not within an allocation",
    "cuMemsetD32Async: 4 bytes are not within an allocation",
  ]);
});

onStandIn(
  "a kernel that goes out of bounds or never ends its barrier loses the device, until it is reopened",
  (standIn) => {
    const faults = [["selftest_scale", 700, "memory was written outside"], [
      "selftest_stuck",
      719,
      "wait at a barrier",
    ]];
    for (const [name, code, complaint] of faults) {
      using bench = new Bench();
      const out = bench.put(new Float32Array(64));
      if (name === "selftest_stuck") {
        bench.stream.launch(bench.module.kernel(name, ["pointer"]), { grid: 1, block: 64 }, out);
      } else {
        const scale = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32", "f32"]);
        bench.stream.launch(scale, { grid: 1, block: 64 }, out + 4n, out, 64, 1);
      }
      const first = failedCall("cuStreamSynchronize", Number(code));
      assert.throws(() => bench.stream.synchronize(), first);
      assert.throws(() => bench.device.allocate(4), first, "the first error, not that of a later call");
      assert.match(standIn.complaints().join(), new RegExp(String(complaint)));
    }
  },
);

onStandIn(
  "a kernel that goes beyond its shared memory, or copies from or to an odd place, fails",
  (standIn) => {
    const staged = (shared: number, shift: bigint) => (bench: Bench, x: bigint) => {
      const kernel = bench.module.kernel("selftest_staged", ["pointer", "pointer", "i32"]);
      bench.stream.launch(kernel, { grid: 1, block: 8, shared }, x, x + shift, 1);
    };
    const beside = (place: number) => (bench: Bench, x: bigint) => {
      const kernel = bench.module.kernel("selftest_beside", ["pointer", "i32"]);
      bench.stream.launch(kernel, { grid: 1, block: 1 }, x, place);
    };
    const dynamic = "selftest_staged: dynamic shared memory was written beyond what the launch has of it";
    const array = "selftest_beside: shared memory was written outside an array";
    const copy = "selftest_staged: an asynchronous copy is not from and to multiples of 16 bytes";
    const runs: readonly [run: (bench: Bench, x: bigint) => void, complaint?: string][] = [
      [staged(256, 0n)],
      [staged(252, 0n), dynamic],
      [staged(128, 0n), dynamic],
      [staged(0, 0n), dynamic],
      [staged(256, 4n), copy],
      [staged(256, 0n)], // after a block that had more, and what went beyond it
      [beside(2)],
      [beside(3), array],
      [beside(-1), array],
      [beside(0)],
    ];
    for (const [run, complaint] of runs) {
      using bench = new Bench();
      run(bench, bench.put(new Float32Array(256)));
      if (complaint === undefined) bench.stream.synchronize();
      else assert.throws(() => bench.stream.synchronize(), failedCall("cuStreamSynchronize", 719));
      assert.deepEqual(standIn.complaints(), complaint === undefined ? [] : [complaint]);
    }
  },
);

/** Products and attention that are shared among blocks, and draws: all bits of their results. */
async function sharedWork(): Promise<Float32Array> {
  using backend = createCudaBackend();
  const results: number[] = [];
  for (const dtype of ["f32", "f16", "bf16", "int8"] as const) {
    using matrix = await backend.matrix({ outputs: 48, inputs: 512, dtype }, [numbers(48 * 512)]);
    using gain = backend.vector(numbers(512));
    for (const rows of [1, 17]) {
      using x = backend.activation(rows, 512), out = backend.activation(rows, 48);
      x.write(numbers(rows * 512));
      backend.project(out, x, { matrix, norm: { gain, epsilon: 1e-5 } });
      results.push(...out.read());
    }
  }
  using wide = await backend.matrix({ outputs: 1400, inputs: 40, dtype: "f16" }, [numbers(1400 * 40)]);
  using from = backend.activation(150, 40), to = backend.activation(150, 1400);
  from.write(numbers(150 * 40));
  backend.project(to, from, { matrix: wide });
  for (const y of to.read()) results.push(y);
  using halves = backend.cache({ layers: 1, width: 16, capacity: 160, halfHeads: 2 });
  using singles = backend.cache({ layers: 1, width: 16, capacity: 160 });
  for (const [cache, rows] of [[halves, 150], [halves, 3], [singles, 150], [singles, 3]] as const) {
    using qkv = backend.activation(rows, 48),
      out = backend.activation(rows, 16),
      law = backend.activation(rows, 16);
    qkv.write(numbers(rows * 48));
    backend.attention(out, qkv, { cache, layer: 0, heads: 2, scale: 1, causalRows: rows });
    cache.advance(rows);
    results.push(...out.read());
    if (rows > 3) continue;
    using tokens = backend.tokens(rows);
    backend.distribution(law, out, { temperature: 0.5, topP: 0.9 });
    backend.sample(tokens, law, { seed: 3n, purpose: 1, position: 0 });
    results.push(...law.read(), ...tokens.read());
    using round = backend.decisions.round(), verdict = backend.tokens(rows + 2);
    round.begin(7n, 9);
    backend.decisions.draw(tokens, law, { round, purpose: 2, offset: 0, by: "inversion" });
    const options = { round, p: law, draft: tokens, purposes: { accept: 1, residual: 3, token: 0 } };
    for (const test of ["each", "joint", "drawn"] as const) {
      backend.decisions.accept(verdict, { ...options, test });
      results.push(...verdict.read());
    }
  }
  return Float32Array.from(results);
}

onStandIn("kernels compute the same bits in whichever order blocks and threads run", async (standIn) => {
  const expected = await sharedWork();
  await standIn.withMachine(
    { reversed: 1 },
    async () => assertSame(await sharedWork(), expected, "reversed"),
  );
});
