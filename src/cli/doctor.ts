/**
 * `doctor`: what there is to compute on, which of it is chosen, and whether it computes what it should.
 *
 * @module
 */

import { CudaDriver } from "../../ffi/driver.ts";
import type { Backend } from "../backend/backend.ts";
import { BackendUnavailableError, createBackend } from "../backend/create.ts";
import type { Command } from "./command.ts";
import { describeMachine } from "./machine.ts";
import { type OperationCheck, selfTest } from "./self_test.ts";
import { table } from "./terminal.ts";

/** One GPU. */
interface Gpu {
  readonly ordinal: number;
  readonly name: string;
  /** Compute capability: `9.0`. */
  readonly capability: string;
  readonly multiprocessors: number;
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** NVIDIA's driver and its devices, or why it is of no use. */
type Driver =
  | { readonly path: string; readonly cuda: string; readonly devices: readonly Gpu[] }
  | { readonly problem: string };

/** What a device was found to be. */
interface Tested {
  readonly device: Backend["name"];
  readonly description: string;
  readonly operations: readonly OperationCheck[];
}

/** What `doctor --json` prints. */
interface Diagnosis {
  readonly machine: Omit<ReturnType<typeof describeMachine>, "device">;
  readonly driver: Driver;
  /** What `--device auto` is here. */
  readonly auto: Backend["name"];
  readonly why: string;
  readonly tests: readonly Tested[];
}

/** The command. */
export const doctor: Command = {
  name: "doctor",
  words: "",
  summary: "What there is to compute on, which of it is chosen, and whether it computes right.",
  details: [
    "Every operation of every device is compared with the oracle. A GPU is found with --allow-ffi only.",
    "Fails if an operation is further off than rounding explains; having no GPU is no failure.",
  ],
  options: ["json"],
  examples: ["doctor", "doctor --json"],
  async run({ values }, { out }) {
    const diagnosis = await diagnose();
    if (values.json) out.line(JSON.stringify(diagnosis, null, 2));
    else for (const line of render(diagnosis)) out.line(line);
    const wrong = diagnosis.tests.flatMap(({ device, operations }) =>
      operations.filter((check) => !isRight(check)).map(({ operation }) => `${device}: ${operation}`)
    );
    if (wrong.length > 0) throw new Error(`Cannot rely on what is computed here: ${wrong.join("; ")}`);
  },
};

async function diagnose(): Promise<Diagnosis> {
  const { device: _, ...machine } = describeMachine("");
  const driver = findDriver();
  const cuda = await createBackend("cuda").catch((error: unknown) => {
    if (error instanceof BackendUnavailableError) return error;
    throw error;
  });
  const tests: Tested[] = [];
  if (!(cuda instanceof Error)) tests.push(await test(cuda));
  tests.push(await test(await createBackend("wasm")));
  return {
    machine,
    driver,
    auto: tests[0].device,
    why: cuda instanceof Error ? cuda.message : "a GPU is the fastest there is",
    tests,
  };
}

function findDriver(): Driver {
  try {
    const driver = new CudaDriver();
    const devices = Array.from({ length: driver.deviceCount }, (_, ordinal): Gpu => {
      using device = driver.device(ordinal);
      const { name, capability, multiprocessors } = device, { free, total } = device.memory();
      return {
        ordinal,
        name,
        capability: capability.join("."),
        multiprocessors,
        freeBytes: free,
        totalBytes: total,
      };
    });
    const { path, version } = driver;
    return { path, cuda: `${Math.floor(version / 1000)}.${version % 1000 / 10}`, devices };
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
}

/** Tests a backend, and disposes of it. */
async function test(backend: Backend): Promise<Tested> {
  using device = backend;
  const { name, description } = device;
  return { device: name, description, operations: await selfTest(device) };
}

function isRight({ error, allowed }: OperationCheck): boolean {
  return error <= allowed;
}

function render({ machine, driver, auto, why, tests }: Diagnosis): string[] {
  const gibibytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const gpus = "problem" in driver ? [["GPU", `none: ${driver.problem}`]] : [
    ["driver", `${driver.path}, CUDA ${driver.cuda}`],
    ...driver.devices.map((gpu) => [
      `GPU ${gpu.ordinal}`,
      `${gpu.name}, compute capability ${gpu.capability}, ${gpu.multiprocessors} multiprocessors, ` +
      `${gibibytes(gpu.freeBytes)} of ${gibibytes(gpu.totalBytes)} free`,
    ]),
    ...(driver.devices.length === 0 ? [["GPU", "none that the driver sees"]] : []),
  ];
  const operations = [
    ...new Set(tests.flatMap((tested) => tested.operations.map((check) => check.operation))),
  ];
  const cell = (tested: Tested, operation: string): string => {
    const check = tested.operations.find((check) => check.operation === operation)!;
    return isRight(check) ? check.error.toExponential(1) : `${check.error.toExponential(1)} WRONG`;
  };
  return [
    ...table([
      ["machine", `${machine.os} ${machine.arch}, ${machine.cores} cores, Deno ${machine.deno}`],
      ...gpus,
      ["auto", "problem" in driver ? auto : `${auto}: ${why}`],
      ...tests.map(({ device, description }) => [device, description]),
    ], 2),
    "",
    "Self test: the largest difference from the oracle, as a share of the largest value",
    ...table([
      ["operation", ...tests.map(({ device }) => device), "allowed"],
      ...operations.map((operation) => [
        operation,
        ...tests.map((tested) => cell(tested, operation)),
        String(tests[0].operations.find((check) => check.operation === operation)!.allowed),
      ]),
    ], 1).map((line) => `  ${line}`),
  ];
}
