/**
 * `doctor`: which devices there are, which one is chosen, and whether they compute correctly.
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import type { CudaBackend } from "../backend/cuda/backend.ts";
import { BackendUnavailableError, createBackend, type Device } from "../backend/create.ts";
import { describeGpus, type DriverDescription, NO_GPU } from "../backend/cuda/describe.ts";
import { UsageError } from "./args.ts";
import type { Command } from "./command.ts";
import { describeMachine } from "./machine.ts";
import { isRight, NOT_TRIED, type OperationCheck, selfTest } from "./self_test.ts";
import { table } from "./terminal.ts";

/** What a device was found to compute. */
interface Tested {
  /** Its name, for `--device`. */
  readonly device: Device;
  readonly description: string;
  readonly operations: readonly OperationCheck[];
  /** On a GPU: its cuBLAS, or why there is none. */
  readonly cublas?: CudaBackend["cublas"];
}

/** What `doctor --json` prints. */
interface Diagnosis {
  readonly machine: Omit<ReturnType<typeof describeMachine>, "device">;
  readonly driver: DriverDescription;
  /** What `--device auto` is here. */
  readonly auto: Device;
  readonly why: string;
  readonly tests: readonly Tested[];
  /** GPUs that cannot be used, and why. */
  readonly unusable: readonly { readonly device: Device; readonly problem: string }[];
}

/** The command. */
export const doctor: Command = {
  name: "doctor",
  words: "",
  summary: "List the devices, say which one is chosen, and check that they compute correctly.",
  details: [
    "Compares every operation of every device with the float64 reference. Finding a GPU needs --allow-ffi.",
    "Fails if an operation is off by more than rounding explains, or cannot be done. It is not a failure to have",
    "no GPU.",
  ],
  options: ["json"],
  examples: ["doctor", "doctor --json"],
  async run({ words, values }, { out }) {
    if (words.length > 0) throw new UsageError(`doctor takes no words, found ${words.length}`);
    const diagnosis = await diagnose();
    if (values.json) out.line(JSON.stringify(diagnosis, null, 2));
    else for (const line of render(diagnosis)) out.line(line);
    const wrong = operationsOf(diagnosis.tests, (check) => check.problem === undefined && !isRight(check));
    const failed = operationsOf(diagnosis.tests, hasFailed);
    const reasons = [
      ...(wrong.length > 0 ? [`wrong results in ${wrong.join("; ")}`] : []),
      ...(failed.length > 0 ? [`no results of ${failed.join("; ")}`] : []),
    ];
    if (reasons.length > 0) throw new Error(`Cannot rely on this machine: ${reasons.join("; ")}`);
  },
};

async function diagnose(): Promise<Diagnosis> {
  const { device: _, ...machine } = describeMachine("");
  const driver = describeGpus();
  const tests: Tested[] = [], unusable: { device: Device; problem: string }[] = [];
  for (const { ordinal } of "devices" in driver ? driver.devices : []) {
    const device: Device = `cuda:${ordinal}`;
    const opened = await createBackend(device).catch((error: unknown) => {
      if (error instanceof BackendUnavailableError) return error;
      throw error;
    });
    if (opened instanceof Error) unusable.push({ device, problem: opened.message });
    else tests.push(await test(opened));
  }
  tests.push(await test(await createBackend("wasm")));
  const [{ device: auto }] = tests;
  const none = "problem" in driver ? driver.problem : unusable[0]?.problem ?? NO_GPU;
  return {
    machine,
    driver,
    auto,
    why: auto === "wasm" ? none : "the first usable GPU",
    tests,
    unusable,
  };
}

/** Tests a backend, and disposes of it. */
async function test(backend: Backend): Promise<Tested> {
  using tested = backend;
  return {
    device: tested.device,
    description: tested.description,
    operations: await selfTest(tested),
    ...(tested.name === "cuda" ? { cublas: cublasOf(tested as CudaBackend) } : {}),
  };
}

/** A GPU's cuBLAS; a device that is lost has none. */
function cublasOf(backend: CudaBackend): CudaBackend["cublas"] {
  try {
    return backend.cublas;
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
}

/** Whether an operation was tried and has no result. */
function hasFailed({ problem }: OperationCheck): boolean {
  return problem !== undefined && problem !== NOT_TRIED;
}

/** Operations of which something is so, each with its device: `cuda:0: copy`. */
function operationsOf(tests: readonly Tested[], which: (check: OperationCheck) => boolean): string[] {
  return tests.flatMap(({ device, operations }) =>
    operations.filter(which).map(({ operation }) => `${device}: ${operation}`)
  );
}

function render({ machine, driver, auto, why, tests, unusable }: Diagnosis): string[] {
  const gibibytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const gpus = "problem" in driver ? [["GPU", `none: ${driver.problem}`]] : [
    ["driver", `${driver.path}, CUDA ${driver.cuda}`],
    ...driver.devices.map((gpu) => [
      `GPU ${gpu.ordinal}`,
      "problem" in gpu
        ? gpu.problem
        : `${gpu.name}, compute capability ${gpu.capability}, ${gpu.multiprocessors} multiprocessors, ` +
          `${gibibytes(gpu.freeBytes)} of ${gibibytes(gpu.totalBytes)} free`,
    ]),
    ...(driver.devices.length === 0 ? [["GPU", "the driver sees none"]] : []),
  ];
  const operations = [
    ...new Set(tests.flatMap((tested) => tested.operations.map((check) => check.operation))),
  ];
  const cell = (tested: Tested, operation: string): string => {
    const check = tested.operations.find((check) => check.operation === operation);
    if (check === undefined) return "on the host"; // decisions that a device leaves to the host
    if (check.problem === NOT_TRIED) return "not tried";
    if (check.problem !== undefined) return "FAILED";
    const error = check.error?.toExponential(1) ?? "no number";
    return isRight(check) ? error : `${error} WRONG`;
  };
  const failed = tests.flatMap(({ device, operations }) =>
    operations.filter(hasFailed).map(({ operation, problem }) => `${device}, ${operation}: ${problem}`)
  );
  return [
    ...table([
      ["machine", `${machine.os} ${machine.arch}, ${machine.cores} cores, Deno ${machine.deno}`],
      ...gpus,
      ["auto", "problem" in driver ? auto : `${auto}: ${why}`],
      ...tests.flatMap(({ device, description, cublas }) => [
        [device, description],
        ...(cublas === undefined ? [] : [[
          "cuBLAS",
          "problem" in cublas
            ? `none, so our own kernels are used: ${cublas.problem}`
            : `${cublas.version}, ${cublas.path}`,
        ]]),
      ]),
      ...unusable.map(({ device, problem }) => [device, `not used: ${problem}`]),
    ], 2),
    "",
    "Self test: the largest difference from the reference, relative to the largest value",
    ...table([
      ["operation", ...tests.map(({ device }) => device), "allowed"],
      ...operations.map((operation) => [
        operation,
        ...tests.map((tested) => cell(tested, operation)),
        String(tests[0].operations.find((check) => check.operation === operation)!.allowed),
      ]),
    ], 1).map((line) => `  ${line}`),
    ...(failed.length > 0 ? ["", "What failed, and why", ...failed.map((line) => `  ${line}`)] : []),
  ];
}
