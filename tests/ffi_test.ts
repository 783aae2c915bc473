/**
 * The CUDA side without a GPU: the driver layer on a stand-in for libcuda, the emulation that the stand-in runs
 * kernels with, and how libraries are found. What the engine's own kernels compute is tested in
 * `backend_test.ts` and `parity_test.ts`.
 *
 * @module
 */

import assert from "node:assert/strict";
import { CudaDevice, CudaDriver, CudaModule, CudaStream } from "../ffi/driver.ts";
import { standIn, whyNoStandIn } from "./cuda/standin.ts";
import { assertClose } from "./helpers.ts";

/** A test on the stand-in. Afterwards nothing may be left on it, and it may have objected to nothing but `objections`. */
function onStandIn(
  name: string,
  body: (standIn: NonNullable<typeof import("./cuda/standin.ts").standIn>) => unknown,
): void {
  Deno.test(name + whyNoStandIn, { ignore: standIn === undefined }, async () => {
    standIn!.reset();
    await body(standIn!);
    assert.deepEqual(standIn!.complaints(), []);
    assert.equal(standIn!.live(), 0, "what was made and not given back");
  });
}

/** A device with what a test of a kernel needs. */
class Bench implements Disposable {
  readonly device: CudaDevice;
  readonly module: CudaModule;
  readonly stream: CudaStream;

  constructor() {
    this.device = new CudaDriver().device(0);
    this.module = this.device.load(new Uint8Array(16));
    this.stream = this.device.stream();
  }

  /** Numbers on the device. */
  put(values: Float32Array<ArrayBuffer>): bigint {
    const { pointer } = this.device.allocate(values.byteLength);
    this.stream.upload(pointer, values);
    return pointer;
  }

  /** Waits, and reads numbers back. */
  get(pointer: bigint, count: number): Float32Array {
    const values = new Float32Array(count);
    this.stream.download(values, pointer);
    this.stream.synchronize();
    return values;
  }

  [Symbol.dispose](): void {
    this.device[Symbol.dispose]();
  }
}

/** Numbers in (−1, 1), the same each time. */
function numbers(count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(i * i + 1));
}

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
