/**
 * What the program says about devices: `doctor`, and what `--device cuda` answers where there is none. GPUs are those
 * of the stand-in.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type CudaKernel, CudaModule } from "../ffi/launch.ts";
import { CudaStream } from "../ffi/stream.ts";
import type { Backend } from "../src/backend/backend.ts";
import { createCudaBackend } from "../src/backend/cuda/backend.ts";
import { createWasmBackend } from "../src/backend/wasm/backend.ts";
import { doctor } from "../src/cli/doctor.ts";
import {
  casesOf,
  checkOperation,
  isRight,
  NOT_TRIED,
  type OperationCheck,
  selfTest,
} from "../src/cli/self_test.ts";
import { Output } from "../src/cli/terminal.ts";
import { onStandIn, standIn, whyNoStandIn, withStandInNamed } from "./cuda/standin.ts";

/** The program, with no permission but to read and those given. */
async function program(
  args: readonly string[],
  permissions: readonly string[],
  library?: string,
  machine?: string,
  cublas?: string,
): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", "--allow-read=fixtures", ...permissions, "cli.ts", ...args],
    cwd: fileURLToPath(new URL("..", import.meta.url)),
    env: {
      NO_COLOR: "1",
      ...(library === undefined ? {} : { SPECDIFF_LIBCUDA: library, SPECDIFF_LIBCUBLAS: library }),
      ...(cublas === undefined ? {} : { SPECDIFF_LIBCUBLAS: cublas }),
      ...(machine === undefined ? {} : { SPECDIFF_STANDIN: machine }),
    },
  }).output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

/** What `doctor` prints in this process, where it fails with such a message. */
async function failingDoctor(message: RegExp, values: { json?: boolean } = {}): Promise<string> {
  let told = "";
  const sink = {
    writeSync: (bytes: Uint8Array) => (told += new TextDecoder().decode(bytes), bytes.length),
    isTerminal: () => false,
  };
  const terminal = { out: new Output(sink), err: new Output(sink), input: () => Promise.resolve("") };
  await assert.rejects(async () => await doctor.run({ command: "doctor", words: [], values }, terminal), {
    message,
  });
  return told;
}

const MAY_LOAD = ["--allow-ffi", "--allow-env=SPECDIFF_LIBCUDA,SPECDIFF_LIBCUBLAS"];

Deno.test("--device cuda says in one line what is missing: a permission, or a library and where it was looked for", async () => {
  const args = ["generate", "a", "--device", "cuda"];
  for (
    const [permissions, library, words] of [
      [[], undefined, /libraries may not be loaded, run with --allow-ffi$/],
      [["--allow-ffi=/tmp/libcuda.so"], undefined, /libraries may not be loaded, run with --allow-ffi$/],
      [MAY_LOAD, "/nowhere/libcuda.so", /Cannot load libcuda: \/nowhere\/libcuda.so \(.+\)\. Either install/],
      [
        MAY_LOAD,
        fileURLToPath(import.meta.url),
        /Cannot load libcuda: .*doctor_test\.ts \(.+\)\. Either install/,
      ],
    ] as const
  ) {
    const { code, out, err } = await program(args, permissions, library);
    assert.equal(code, 1);
    assert.equal(out, "");
    assert.match(err.trimEnd(), words);
    assert.match(err, /^error: Cannot open the device "cuda": [^\n]*\n$/);
  }
});

Deno.test("doctor: no GPU is one line and no failure; the self test of what is there passes", async () => {
  const { code, out, err } = await program(["doctor"], MAY_LOAD, "/nowhere/libcuda.so");
  assert.equal(code, 0, err);
  assert.equal(out.match(/^GPU .*$/gm)?.length, 1);
  assert.match(out, /^GPU +none: Cannot load libcuda: .*\nauto +wasm\n/m);
  assert.match(out, /^ {2}attention, causal, 5 rows +\d/m);
});

Deno.test("doctor: an operation that a device computes wrongly is marked, named and a failure", async () => {
  using backend = await createWasmBackend({ threads: 1 });
  const shipped: Backend = Object.getPrototypeOf(backend), { distribution } = shipped;
  shipped.distribution = function (out, logits, sampling) {
    distribution.call(this, out, logits, { ...sampling, temperature: 3 });
  };
  let told = "";
  try {
    told = await failingDoctor(
      /^Cannot rely on this machine: wrong results in (.*; )?wasm: [^;]*distribution/,
    );
  } finally {
    shipped.distribution = distribution;
  }
  assert.match(told, /^ {2}distribution .*\d WRONG /m);
  assert.doesNotMatch(told, /^ {2}copy .*WRONG/m);
});

Deno.test(`doctor: the stand-in's device is found, chosen and tested${whyNoStandIn}`, {
  ignore: standIn === undefined,
}, async () => {
  const { code, out, err } = await program(["doctor", "--json"], MAY_LOAD, standIn!.path);
  assert.equal(code, 0, err);
  const { driver, auto, tests } = JSON.parse(out);
  assert.deepEqual([driver.cuda, auto], ["13.0", "cuda:0"]);
  assert.deepEqual(driver.devices[0].capability, "9.0");
  assert.deepEqual(tests.map(({ device }: { device: string }) => device), ["cuda:0", "wasm"]);
  for (const { operations } of tests) {
    assert.ok(operations.length >= 19);
    for (const check of operations) assert.ok(isRight(check), check.operation);
  }
});

Deno.test(
  `doctor: each of several GPUs is named, and tested or said to be of no use and why${whyNoStandIn}`,
  {
    ignore: standIn === undefined,
  },
  async () => {
    const doctor = (machine: string) => program(["doctor"], MAY_LOAD, standIn!.path, machine);
    const several = await doctor("devices=3,major.0=7,minor.0=5,memory.2=1073741824");
    assert.equal(several.code, 0, several.err);
    const old =
      'Cannot open the device "cuda:0": Cannot use CUDA device 0, stand-in: its compute capability is 7.5, ' +
      "expected 8.0 (Ampere) or later";
    for (
      const line of [
        "GPU 0    stand-in, compute capability 7.5, 4 multiprocessors, 8.0 GiB of 8.0 GiB free",
        "GPU 2    stand-in, compute capability 9.0, 4 multiprocessors, 1.0 GiB of 1.0 GiB free",
        "auto     cuda:1: the first usable GPU",
        "cuda:2   CUDA 2: stand-in",
        `cuda:0   not used: ${old}`,
      ]
    ) {
      assert.ok(several.out.split("\n").includes(line), `"${line}" is not in\n${several.out}`);
    }
    assert.match(several.out, /^ {2}operation +cuda:1 +cuda:2 +wasm +allowed$/m);

    const machines = [
      ["devices=0", /^GPU +the driver sees none\nauto +wasm: the driver sees no GPU$/m],
      ["major=7", /^auto +wasm: Cannot open the device "cuda:0": .* capability is 7\.0, expected 8\.0/m],
      [
        "version=11080",
        /^auto +wasm: .* driver: it serves CUDA 11\.8, expected 12\.0 or later: update it to 525/m,
      ],
    ] as const;
    for (const [machine, words] of machines) {
      const { code, out, err } = await doctor(machine);
      assert.equal(code, 0, err);
      assert.match(out, words);
    }
  },
);

Deno.test(`doctor: cuBLAS is named, or why it is not used; that is no failure${whyNoStandIn}`, {
  ignore: standIn === undefined,
}, async () => {
  const cases = [
    [standIn!.path, "devices=1", /^cuBLAS +13\.1\.0, \S*libcuda-\w+\.so$/m],
    [
      "/nowhere/libcublas.so.13",
      "devices=1",
      /^cuBLAS +none, .*: Cannot load cuBLAS: \/nowhere\/libcublas\.so\.13 \(/m,
    ],
    [
      standIn!.path,
      "memory=30000000",
      /^cuBLAS +none, .* cuMemAlloc_v2 returned 2 \(CUDA_ERROR_OUT_OF_MEMORY/m,
    ],
  ] as const;
  for (const [cublas, machine, words] of cases) {
    const { code, out, err } = await program(["doctor"], MAY_LOAD, standIn!.path, machine, cublas);
    assert.equal(code, 0, err);
    assert.match(out, words);
    assert.match(out, /^ {2}project in any order, bf16, 300 rows +\d/m);
  }
});

onStandIn("the self test runs every kernel there is", async (standIn) => {
  const names: string[] = [], { kernel } = CudaModule.prototype;
  using _ = { [Symbol.dispose]: () => void (CudaModule.prototype.kernel = kernel) };
  CudaModule.prototype.kernel = function (name, parameters) {
    names.push(name);
    return kernel.call(this, name, parameters) as CudaKernel<typeof parameters>;
  };
  using backend = createCudaBackend();
  assert.ok(names.length > 15);
  standIn.reset();
  for (const check of await selfTest(backend)) assert.ok(isRight(check), check.operation);
  assert.deepEqual(names.filter((name) => standIn.calls(name) === 0), []);
});

onStandIn(
  "the self test finds out if blocks that share a sum or a softmax do not come together",
  async (standIn) => {
    await standIn.withMachine({ loses: 1 }, async () => {
      using backend = createCudaBackend();
      const wrong = (await selfTest(backend)).filter((check) => !isRight(check));
      assert.deepEqual(wrong.map(({ operation }) => operation), [
        "project, shared sums, f16, 1 row",
        "project, shared sums, f16, 12 rows",
        "project, shared sums, bf16, 1 row",
        "project, shared sums, bf16, 12 rows",
        "attention, f32, 5 rows after 300",
        "attention, f16, 5 rows after 300",
        "a pass, three times",
      ]);
    });
  },
);

onStandIn("the self test finds out if what was recorded is not run", async () => {
  const { run } = CudaStream.prototype;
  using _ = { [Symbol.dispose]: () => void (CudaStream.prototype.run = run) };
  for (const left of [1, 2]) { // launches of the graph: where it has just been recorded, and where it is used again
    let launched = 0;
    CudaStream.prototype.run = function (graph) {
      if (++launched !== left) run.call(this, graph);
    };
    using backend = createCudaBackend();
    const thrice = casesOf(backend).find(([operation]) => operation === "a pass, three times")!;
    assert.ok(!isRight(await checkOperation(backend, thrice)), `launch ${left} is left out`);
    assert.equal(launched, 2);
    assert.deepEqual(backend.graphs, { recorded: 1, dependent: true });
  }
});

onStandIn(
  "doctor: an operation that a device cannot do fails by itself, with its reason",
  async (standIn) => {
    const { code, out, err } = await program(["doctor"], MAY_LOAD, standIn.path, "memory=2000000");
    assert.equal(code, 1);
    assert.match(err, /^error: Cannot rely on this machine: no results of cuda:0: project, f16, 1024 rows; /);
    assert.match(out, /^ {2}operation +cuda:0 +wasm +allowed$/m);
    assert.match(out, /^ {2}project, f16, 1 row +\d\S+ +\d/m);
    assert.match(out, /^ {2}project, f16, 8448 rows +FAILED +\d/m);
    assert.match(out, /^What failed, and why\n( {2}cuda:0, .*\n)*$/m);
    assert.match(out, /^ {2}cuda:0, project, f16, 8448 rows: Cannot hold an activation of 6\.70 MiB: /m);
    assert.doesNotMatch(out, /WRONG|not tried/);
  },
);

onStandIn(
  "doctor: of a device that is lost nothing more is tried, and the others are tested",
  async (standIn) => {
    await withStandInNamed(standIn.path, async () => {
      const failed = /^Cannot rely on this machine: no results of cuda:0: project, f32, 17 rows$/;
      const reason = "CUDA 0 failed: cuLaunchKernelEx returned 719 ";
      const lose = () => standIn.fail("cuLaunchKernelEx", 6, 719);
      lose();
      const told = await failingDoctor(failed);
      assert.match(told, /^cuBLAS +none, .*: CUDA 0 failed: /m);
      assert.match(told, /^ {2}project, f32, 1 row +\d\S+ +\d/m);
      assert.match(told, /^ {2}project, f32, 17 rows +FAILED +\d/m);
      assert.match(told, /^ {2}copy +not tried +\d/m);
      assert.ok(told.includes(`\nWhat failed, and why\n  cuda:0, project, f32, 17 rows: ${reason}`), told);

      lose();
      const { tests } = JSON.parse(await failingDoctor(failed, { json: true }));
      const [lost, wasm] = tests.map(({ operations }: { operations: OperationCheck[] }) => operations);
      assert.ok(wasm.length > 40 && wasm.every(isRight));
      const problems = lost.map(({ problem }: OperationCheck) => problem);
      assert.equal(problems[0], undefined);
      assert.ok(problems[1].startsWith(reason), problems[1]);
      assert.deepEqual([...new Set(problems.slice(2))], [NOT_TRIED]);
      assert.ok(problems.length > 40);
    });
  },
);
