/**
 * What the compiler reports that the kernels take of a GPU, and whether that is accepted. For `build.ts`.
 *
 * @module
 */

/** What a kernel takes on one architecture. */
export interface Resources {
  /** Its name. */
  readonly kernel: string;
  /** The architecture: `sm_80`. */
  readonly arch: string;
  /** Bytes of local memory. */
  readonly stack: number;
  /** Bytes of registers that are written to local memory, and read from there. */
  readonly spilled: number;
  /** Registers of a thread. */
  readonly registers: number;
}

/** The architectures that there is machine code for. */
const ARCHITECTURES = ["sm_80", "sm_90a"];

/** What a kernel that runs once per model may keep in local memory: `cos` and `sin` in float64 need it. */
const COLD = ["rotation"];

/**
 * The kernels of one source, on each architecture, from the report of `ptxas -v`.
 * @throws {Error} if a kernel spills registers, one of the hot path keeps anything in local memory, or the report does
 * not tell of the same kernels on both architectures
 */
export function acceptedKernels(report: string): Resources[] {
  const entry =
    /Compiling entry function '(\w+)' for '(\w+)'[^]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[^]*?Used (\d+) registers/g;
  const all = [...report.matchAll(entry)].map(([, kernel, arch, stack, stores, loads, registers]) => {
    return { kernel, arch, stack: +stack, spilled: +stores + +loads, registers: +registers };
  });
  const [first, second] = ARCHITECTURES.map((arch) =>
    all.filter((found) => found.arch === arch).map(({ kernel }) => kernel).sort().join(", ")
  );
  if (first === "" || first !== second) {
    throw new Error(
      `Cannot read the compiler's report: kernels on ${ARCHITECTURES[0]} are ${first || "none"}, on ` +
        `${ARCHITECTURES[1]} ${second || "none"}, expected the same on both:\n${report}`,
    );
  }
  for (const { kernel, arch, stack, spilled } of all) {
    if (spilled > 0 || stack > 0 && !COLD.includes(kernel)) {
      throw new Error(
        `Cannot accept ${kernel} on ${arch}: ${spilled} bytes spilled, ${stack} bytes of stack`,
      );
    }
  }
  return all;
}
