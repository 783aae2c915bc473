/**
 * Target and drafter on different devices: two GPUs (on the stand-in), a GPU and the CPU, any two backends. The text
 * is the target's as ever; what the drafter takes from the target reaches it; and each device's calls go to it alone.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { CudaDriver } from "../ffi/driver.ts";
import { loadEngine } from "../mod.ts";
import type { Backend } from "../src/backend/backend.ts";
import { createBackend, type Device, isOn } from "../src/backend/create.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { DiffusionDrafter } from "../src/decode/diffusion_drafter.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { PhiloxSource } from "../src/decode/random.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadGpt2, loadSedd } from "../src/model/mod.ts";
import { onStandIn } from "./cuda/standin.ts";
import { assertClose, fixture } from "./helpers.ts";

const PROMPT = [5, 6, 7, 8, 9];

/** Laws of a draft by a drafter that its target feeds and lends its matrices, each on its own backend, [3, V]. */
async function draftedLaws(there: Backend, here: Backend): Promise<Float32Array> {
  using targetFile = await openCheckpoint(fixture("parity/gpt2-bare"));
  using drafterFile = await openCheckpoint(fixture("parity/sedd-target-tiny"));
  using model = await loadGpt2(targetFile, there);
  using fed = await loadSedd(drafterFile, here, { target: model, targetBackend: there });
  using target = new ModelTarget(model, there), drafter = new DiffusionDrafter(fed, here);
  target.keepHidden(drafter.hiddenLayers);
  const tokens = Int32Array.from(PROMPT), random = new PhiloxSource(1);
  const laws: number[] = [];
  for (const length of [3, 5]) { // the second is fed what is new alone
    const text = tokens.subarray(0, length);
    await target.score(text.subarray(0, -1), 1, {});
    const request = {
      tokens: text,
      gamma: 3,
      sampling: {},
      random,
      coupled: false,
      hidden: await target.hiddenOf(text.subarray(0, -1)),
    };
    const draft = drafter.draft(request);
    laws.push(...[0, 1, 2].flatMap((j) => [...draft.q!.row(j)]));
  }
  return Float32Array.from(laws);
}

/** The same text from an engine whose drafters are there or elsewhere: under each rule, and plain. */
async function textsWith(device: Device, draftDevice: Device): Promise<unknown[]> {
  const drafters = ["sedd-target-tiny", "gpt2-bare"].map((name) => fileURLToPath(fixture(`parity/${name}`)));
  using engine = await loadEngine({
    target: fixture("parity/gpt2-bare"),
    drafter: drafters,
    draftDtype: "f32",
    device,
    draftDevice,
    threads: 1,
  });
  assert.equal(engine.device === engine.draftDevice, device === draftDevice);
  const all: unknown[] = [];
  for (const rule of ["coupled", "ordered"] as const) {
    const { tokens: plain } = await engine.generate(PROMPT, { drafter: null, seed: 3, maxTokens: 12 });
    for (const drafter of drafters) {
      const { tokens, stats } = await engine.generate(PROMPT, {
        drafter,
        rule,
        seed: 3,
        gamma: 3,
        maxTokens: 12,
      });
      if (rule === "coupled") assert.deepEqual(tokens, plain, drafter);
      all.push([tokens, stats.acceptedTokens]);
    }
  }
  return all;
}

Deno.test("a drafter on another device drafts what it would beside its target: the oracle and WebAssembly", async () => {
  using oracle = createReferenceBackend();
  using wasm = await createBackend("wasm", { threads: 1 });
  const expected = await draftedLaws(oracle, oracle);
  for (const [there, here] of [[oracle, wasm], [wasm, oracle]]) {
    assertClose(await draftedLaws(there, here), expected, 1e-4, `${there.name}, ${here.name}`);
  }
  assert.deepEqual(await textsWith("wasm", "reference"), await textsWith("wasm", "wasm"));
});

onStandIn(
  "a drafter on another device drafts what it would beside its target: two GPUs, a GPU and the CPU",
  (standIn) =>
    standIn.withMachine({ devices: 2 }, async () => {
      using oracle = createReferenceBackend();
      const expected = await draftedLaws(oracle, oracle);
      for (
        const [device, draftDevice] of [["cuda:0", "cuda:1"], ["cuda:1", "wasm"], ["wasm", "cuda:1"]] as const
      ) {
        using there = await createBackend(device), here = await createBackend(draftDevice);
        assert.deepEqual([there.device, here.device], [device, draftDevice]);
        assertClose(await draftedLaws(there, here), expected, 1e-4, `${device}, ${draftDevice}`);
      }
      assert.deepEqual(await textsWith("cuda:1", "cuda:0"), await textsWith("cuda:1", "cuda:1"));
      assert.deepEqual(await textsWith("wasm", "cuda:1"), await textsWith("wasm", "wasm"));
      assert.deepEqual(await textsWith("cuda:0", "wasm"), await textsWith("cuda:0", "cuda:0"));
    }),
);

onStandIn("a drafter whose device is the target's shares its backend", async (standIn) => {
  const target = fixture("parity/gpt2-tiny");
  for (const draftDevice of ["auto", "cuda", "cuda:0"] as const) {
    standIn.reset();
    using engine = await loadEngine({ target, device: "cuda", draftDevice });
    assert.equal(engine.draftDevice, engine.device);
    assert.equal(standIn.calls("cuDevicePrimaryCtxRetain"), 1);
  }
  standIn.reset();
  using backend = await createBackend("cuda:0");
  assert.deepEqual([isOn("cuda:0", backend), isOn("cuda:1", backend), isOn("wasm", backend)], [
    true,
    false,
    false,
  ]);
});

onStandIn(
  "calls to two GPUs in turn each find their own context, and losing one leaves the other",
  (standIn) =>
    standIn.withMachine({ devices: 2 }, () => {
      const driver = new CudaDriver();
      using first = driver.device(0);
      const streams: [ReturnType<typeof first.stream>, bigint][] = [];
      using second = driver.device(1);
      for (const device of [first, second]) streams.push([device.stream(), device.allocate(64).pointer]);
      standIn.reset();
      for (let turn = 0; turn < 3; turn++) {
        for (const [stream, memory] of streams) {
          stream.fill(memory, turn, 16);
          stream.fill(memory, turn + 1, 8);
        }
      }
      assert.equal(standIn.calls("cuCtxSetCurrent"), 6, "once for each turn");
      const words = new Int32Array(16);
      for (const [stream, memory] of streams) {
        stream.download(words, memory);
        stream.synchronize();
        assert.deepEqual([words[7], words[8]], [3, 2]);
      }
      assert.equal(second.memory().free, 2 ** 33 - 64);

      standIn.fail("cuMemsetD32Async", 1, 700);
      const lost = {
        name: "CudaError",
        message: /^CUDA 1 failed: cuMemsetD32Async returned 700 .*the device is lost/,
      };
      assert.throws(() => streams[1][0].fill(streams[1][1], 0, 1), lost);
      streams[0][0].fill(streams[0][1], 9, 16);
      assert.throws(() => streams[1][0].synchronize(), lost);
      streams[0][0].download(words, streams[0][1]);
      streams[0][0].synchronize();
      assert.equal(words[0], 9);
    }),
);

onStandIn(
  "the stand-in objects to what belongs to another device",
  (standIn) =>
    standIn.withMachine({ devices: 2 }, () => {
      const driver = new CudaDriver();
      using first = driver.device(0), second = driver.device(1);
      const memory = first.allocate(64).pointer, stream = second.stream(), own = second.allocate(64).pointer;
      const refused = { name: "CudaError", message: /^CUDA 1 failed: \w+ returned (1|400) / };
      assert.throws(() => stream.fill(memory, 0, 1), refused);
      assert.throws(() => stream.copy(own, memory, 4), refused);
      assert.throws(() => stream.record(first.event()), refused);
      const parameters = ["pointer", "pointer", "i32", "f32"] as const, shape = { grid: 1, block: 64 };
      const [here, there] = [second, first].map((device) =>
        device.load(new Uint8Array(16)).kernel("selftest_scale", parameters)
      );
      assert.throws(() => stream.launch(there, shape, own, own, 1, 1), refused);
      assert.throws(() => stream.launch(here, shape, own, memory, 1, 1), refused);
      stream.launch(here, shape, own, own, 1, 1);
      stream.synchronize();
      assert.deepEqual(standIn.complaints(), [
        "cuMemsetD32Async: of device 0, in the context of 1",
        "cuMemcpyDtoDAsync_v2: of device 0, in the context of 1",
        "cuEventRecord: of device 0, in the context of 1",
        "cuLaunchKernelEx: of device 0, in the context of 1",
        "selftest_scale: of device 0, in the context of 1",
      ]);
    }),
);

onStandIn("a device is opened by its number; auto is the first GPU that can be used", async (standIn) => {
  await standIn.withMachine({ devices: 3, "major.0": 7, "memory.2": 1 << 20 }, async () => {
    using first = await createBackend("auto"), second = await createBackend("cuda:2");
    assert.deepEqual([first.device, second.device], ["cuda:1", "cuda:2"]);
    assert.deepEqual([first.room, second.room], [2 ** 33, 2 ** 20]);
    for (
      const [device, words] of [
        [
          "cuda:0",
          "Cannot use CUDA device 0, stand-in: its compute capability is 7.0, expected 8.0 (Ampere) or later",
        ],
        ["cuda:3", "Cannot open CUDA device 3: this machine has 3, counted from 0"],
      ] as const
    ) {
      await assert.rejects(createBackend(device), {
        name: "BackendUnavailableError",
        message: `Cannot open the device "${device}": ${words}`,
      });
    }
    await assert.rejects(
      second.matrix({ outputs: 700, inputs: 512, dtype: "f32" }, []),
      /Cannot hold a \[700, 512\] f32 matrix: .* are free on CUDA 2: stand-in and/,
    );
  });
  await assert.rejects(createBackend("cuda:x" as Device), {
    name: "TypeError",
    message:
      'Cannot open a device: its name is "cuda:x", expected one of auto, wasm, reference, cuda or cuda:N',
  });
});
