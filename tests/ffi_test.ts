/**
 * The CUDA side without a GPU: the driver layer on a stand-in for libcuda, the emulation that the stand-in runs
 * kernels with, and how libraries are found. What the engine's own kernels compute is tested in
 * `backend_test.ts` and `parity_test.ts`.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { CudaError } from "../ffi/context.ts";
import { type CudaDevice, CudaDriver } from "../ffi/driver.ts";
import type { CudaModule } from "../ffi/launch.ts";
import { cudaSymbols } from "../ffi/libcuda.ts";
import { acceptedKernels } from "../ffi/resources.ts";
import type { CudaStream } from "../ffi/stream.ts";
import { loadEngine } from "../mod.ts";
import { createBackend } from "../src/backend/create.ts";
import { createCudaBackend } from "../src/backend/cuda/backend.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import { onStandIn } from "./cuda/standin.ts";
import { cycles } from "./stress/cycles.ts";
import { assertClose, assertSame, fixture } from "./helpers.ts";

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

onStandIn("a stream runs in order, and is timed between two marks", () => {
  using bench = new Bench();
  const { device, stream } = bench;
  const scale = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32", "f32"]);
  using begin = device.event(), end = device.event();
  const x = bench.put(new Float32Array([1, 2, 3])), y = device.allocate(12).pointer;
  stream.record(begin);
  stream.launch(scale, { grid: 1, block: 64 }, x, x, 3, 10);
  stream.launch(scale, { grid: 1, block: 64, dependent: true }, y, x, 3, 2);
  stream.fill(x, 0, 3);
  stream.copy(x + 4n, y, 8);
  stream.record(end);
  stream.synchronize();
  assert.ok(end.since(begin) >= 0);
  assert.deepEqual(bench.get(x, 3), new Float32Array([0, 20, 40]));
});

onStandIn(
  "pinned memory is the device's too, is copied when its turn comes, and cannot be used after disposal",
  () => {
    using bench = new Bench();
    const pinned = bench.device.pin(12), host = new Float32Array(pinned.buffer);
    assert.deepEqual(host, new Float32Array(3));
    const x = bench.device.allocate(12).pointer;
    host.set([1, 2, 3]);
    bench.stream.upload(x, host);
    host[1] = 5; // too early: nothing has waited for the copy
    assert.deepEqual(bench.get(x, 3), new Float32Array([1, 5, 3]));
    const scale = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32", "f32"]);
    bench.stream.launch(scale, { grid: 1, block: 64 }, pinned.pointer, x, 3, 2);
    bench.stream.synchronize();
    assert.deepEqual(host, new Float32Array([2, 10, 6]));
    pinned[Symbol.dispose]();
    assert.equal(host.length, 0);
  },
);

onStandIn("a captured graph runs nothing until it is launched, and then the same each time", (standIn) => {
  using bench = new Bench();
  const { stream } = bench;
  const scale = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32", "f32"]);
  const x = bench.put(new Float32Array([1, 2]));
  using graph = stream.capture(() => {
    for (const factor of [3, 2]) stream.launch(scale, { grid: 1, block: 2 }, x, x, 2, factor);
  });
  assert.deepEqual(bench.get(x, 2), new Float32Array([1, 2]));
  for (let i = 0; i < 2; i++) stream.run(graph);
  assert.deepEqual(bench.get(x, 2), new Float32Array([36, 72]));
  assert.equal(standIn.calls("cuLaunchKernelEx"), 2);
});

onStandIn("a capture that fails leaves no graph behind, and the stream usable", (standIn) => {
  using bench = new Bench();
  const { device, stream } = bench;
  assert.throws(() => stream.capture(() => device.allocate(4)), failedCall("cuMemAlloc_v2", 900));
  assert.throws(() => stream.capture(() => stream.synchronize()), failedCall("cuStreamSynchronize", 900));
  for (const name of ["cuStreamEndCapture", "cuGraphInstantiateWithFlags"]) {
    standIn.fail(name, 1, 2);
    assert.throws(() => stream.capture(() => {}), failedCall(name, 2));
  }
  using _graph = stream.capture(() => {});
  stream.synchronize();
});

onStandIn(
  "where the driver records no dependent launches they are recorded as plain ones, from then on",
  async (standIn) => {
    const shape = { grid: 1, block: 2, dependent: true };
    for (const refuses of [1, 2]) {
      await standIn.withMachine({ refuses }, () => {
        using bench = new Bench();
        const { stream } = bench, x = bench.put(new Float32Array([1, 2]));
        const scale = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32", "f32"]);
        const record = () => {
          standIn.reset();
          const graph = stream.capture(() => {
            for (const factor of [3, 2]) stream.launch(scale, shape, x, x, 2, factor);
          });
          return {
            graph,
            calls: ["cuLaunchKernelEx", "cuStreamBeginCapture_v2"].map((name) => standIn.calls(name)),
          };
        };
        // another failure is no refusal
        standIn.fail("cuStreamEndCapture", 2, 2);
        const twice = () => [1, 1].forEach((factor) => stream.launch(scale, shape, x, x, 2, factor));
        assert.throws(() => stream.capture(twice), CudaError);
        const first = record();
        assert.deepEqual(first.calls, [4, 2]); // the second launch is the first that depends on another
        assert.deepEqual(record().calls, [2, 1]);
        for (let i = 0; i < 2; i++) stream.run(first.graph);
        standIn.reset();
        for (let i = 0; i < 2; i++) stream.launch(scale, shape, x, x, 2, 1);
        assert.equal(standIn.calls("dependent launches"), 1, "what is not recorded stays dependent");
        assert.deepEqual(bench.get(x, 2), new Float32Array([36, 72]));
      });
    }
  },
);

onStandIn("a dependent launch is one after a kernel only, and not after other work or a graph", (standIn) => {
  using bench = new Bench();
  const { stream, device } = bench, x = bench.put(new Float32Array([1, 2]));
  const scale = bench.module.kernel("selftest_scale", ["pointer", "pointer", "i32", "f32"]);
  const launch = () => stream.launch(scale, { grid: 1, block: 2, dependent: true }, x, x, 2, 1);
  const dependent = () => {
    standIn.reset();
    launch();
    const first = standIn.calls("dependent launches");
    launch();
    return [first, standIn.calls("dependent launches")];
  };
  using event = device.event(), graph = stream.capture(() => assert.deepEqual(dependent(), [0, 1]));
  const others: readonly (() => void)[] = [
    () => stream.fill(x, 0, 1),
    () => stream.copy(x, x + 4n, 4),
    () => stream.upload(x, new Float32Array(2)),
    () => stream.download(new Float32Array(2), x),
    () => stream.record(event),
    () => stream.run(graph),
    () => stream.otherWork(),
  ];
  for (const other of [() => {}, ...others]) {
    other();
    assert.deepEqual(dependent(), [0, 1], `${other}`);
  }
  assert.deepEqual(dependent(), [1, 2]);
});

onStandIn(
  "an error names the call, the code, what the driver says of it, and what to do",
  async (standIn) => {
    using bench = new Bench();
    await standIn.withMachine(
      { memory: 1 << 20 },
      () =>
        assert.throws(() => bench.device.allocate(2 << 20), (error: CudaError) => {
          assert.equal(
            error.message,
            "CUDA 0 failed: cuMemAlloc_v2 returned 2 (CUDA_ERROR_OUT_OF_MEMORY, out of memory); " +
              "the device's memory is full: hold the weights in a smaller dtype, or end other programs on it",
          );
          return error.outOfMemory;
        }),
    );
    standIn.fail("cuStreamSynchronize", 1, 12345);
    assert.throws(() => bench.stream.synchronize(), {
      message: "CUDA 0 failed: cuStreamSynchronize returned 12345 (unknown to this driver)",
    });
    assert.throws(
      () => bench.module.kernel("no_such", []),
      failedCall('cuModuleGetFunction("no_such")', 500),
    );
    assert.throws(() => new CudaDriver().device(1), /Cannot open CUDA device 1: this machine has 1/);
  },
);

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

/** For `assert.throws`: a driver's call that returned `code`. */
function failedCall(call: string, code: number): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof CudaError, String(error));
    assert.deepEqual([error.call, error.code], [call, code]);
    return true;
  };
}

Deno.test("what the compiler reports of a kernel is accepted on both architectures, or not at all", () => {
  // as ptxas of CUDA 12 and 13 write it, with a function that is no kernel
  const kernel = (name: string, arch: string, stack = 0, stores = 0) =>
    `ptxas info    : Compiling entry function '${name}' for '${arch}'
ptxas info    : Function properties for ${name}
    ${stack} bytes stack frame, ${stores} bytes spill stores, 0 bytes spill loads
ptxas info    : Used 38 registers, used 0 barriers, 372 bytes cmem[0]
ptxas info    : Function properties for __internal_trig_reduction_slowpathd
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
`;
  const both = (name: string, stack?: number, stores?: number) =>
    ["sm_80", "sm_90a"].map((arch) => kernel(name, arch, stack, stores)).join("");
  assert.deepEqual(
    acceptedKernels(both("embed") + both("rotation", 40)).map((found) => Object.values(found)),
    [
      ["embed", "sm_80", 0, 0, 38],
      ["embed", "sm_90a", 0, 0, 38],
      ["rotation", "sm_80", 40, 0, 38],
      ["rotation", "sm_90a", 40, 0, 38],
    ],
  );
  for (
    const [report, message] of [
      ["", /kernels on sm_80 are none, on sm_90a none, expected the same/],
      ["ptxas info    : a report of another kind", /none.*none/],
      [kernel("embed", "sm_80"), /kernels on sm_80 are embed, on sm_90a none/],
      [both("embed") + kernel("pack", "sm_90a"), /kernels on sm_80 are embed, on sm_90a embed, pack/],
      [both("embed", 8), /^Error: Cannot accept embed on sm_80: 0 bytes spilled, 8 bytes of stack$/],
      [
        both("rotation", 40, 8),
        /^Error: Cannot accept rotation on sm_80: 8 bytes spilled, 40 bytes of stack$/,
      ],
    ] as const
  ) assert.throws(() => acceptedKernels(report), message);
});

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

onStandIn(
  "a machine without a GPU that serves is told so in one line, and auto computes on the CPU",
  async (standIn) => {
    const machines = [
      [{ devices: 0 }, 'Cannot open the device "cuda": Cannot open CUDA device 0: the driver sees no GPU'],
      [
        { version: 11080 },
        "Cannot use NVIDIA's driver: it serves CUDA 11.8, expected 12.0 or later: update it to 525",
      ],
      [{ major: 7 }, "its compute capability is 7.0, expected 8.0 (Ampere) or later"],
    ] as const;
    for (const [machine, words] of machines) {
      await standIn.withMachine(machine, async () => {
        await assert.rejects(createBackend("cuda"), (error: Error) => {
          assert.equal(error.name, "BackendUnavailableError");
          assert.ok(error.message.includes(words) && !error.message.includes("\n"), error.message);
          return true;
        });
        using backend = await createBackend("auto", { threads: 1 });
        assert.equal(backend.name, "wasm");
      });
    }
    using backend = await createBackend("auto");
    assert.equal(backend.name, "cuda");
  },
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

onStandIn(
  "the passes of a text are repeated as graphs: plain, drafted, and with hidden states for the drafter",
  async (standIn) => {
    const target = fixture("parity/gpt2-bare"), drafter = fileURLToPath(fixture("parity/sedd-target-tiny"));
    using engine = await loadEngine({ target, drafter, device: "cuda" });
    for (const [name, passes] of [[null, 1], [drafter, 2]] as const) {
      standIn.reset();
      const options = { drafter: name, temperature: 0, gamma: 3, maxTokens: 24, stopTokens: [] };
      const { stats } = await engine.generate([5, 6, 7, 8], options);
      assert.ok(stats.rounds > 12, `${stats.rounds} rounds`);
      // of each kind of pass the first runs as it is; near the end of a text drafts, and so passes, are shorter
      const graphs = standIn.calls("cuGraphLaunch");
      assert.ok(graphs >= passes * (stats.rounds - 5), `${graphs} graphs in ${stats.rounds} rounds`);
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
