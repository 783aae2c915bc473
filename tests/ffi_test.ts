/**
 * The driver layer, without a GPU: streams, launches, graphs, errors, how libraries are found, and what the compiler reports.
 *
 * @module
 */

import assert from "node:assert/strict";
import { CudaError } from "../ffi/context.ts";
import { CudaDriver } from "../ffi/driver.ts";
import { acceptedKernels } from "../ffi/resources.ts";
import { createBackend } from "../src/backend/create.ts";
import { onStandIn } from "./cuda/standin.ts";
import { Bench, failedCall } from "./cuda/bench.ts";

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
