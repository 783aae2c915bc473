/**
 * Builds and loads the stand-in for libcuda and cuBLAS (`standin.cpp`), with the engine's own kernels compiled for the
 * host. Needs a C++ compiler; where there is none, {@linkcode standIn} is undefined and {@linkcode whyNoStandIn} says
 * so, and tests that need it are to be ignored with that reason in their name.
 *
 * Run as a program it prints the library's path, for another that is told of it by `SPECDIFF_LIBCUDA` and
 * `SPECDIFF_LIBCUBLAS`, by both: NVIDIA's cuBLAS would look for NVIDIA's driver.
 *
 * Importing this file loads it as both, so that every CUDA backend that the importing test opens is on the stand-in;
 * nothing here looks for a GPU.
 *
 * @module
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { CudaDriver } from "../../ffi/driver.ts";
import { cublasSymbols } from "../../ffi/libcublas.ts";
import { libcublas, loadLibrary } from "../../ffi/libraries.ts";
import { createCudaBackend, type CudaBackend, type CudaOptions } from "../../src/backend/cuda/backend.ts";

const controls = {
  standin_fail: { parameters: ["buffer", "i32", "i32"], result: "void" },
  standin_calls: { parameters: ["buffer"], result: "i32" },
  standin_set: { parameters: ["buffer", "i64"], result: "void" },
  standin_noise: { parameters: ["u32", "u32", "u32", "buffer"], result: "void" },
  standin_reset: { parameters: [], result: "void" },
  standin_downloaded: { parameters: [], result: "i64" },
  standin_live: { parameters: [], result: "i32" },
  standin_complaints: { parameters: ["buffer", "i32"], result: "void" },
} as const satisfies Deno.ForeignLibraryInterface;

/** What a test may tell the stand-in, and ask it. */
export class StandIn {
  /** The library. */
  readonly path: string;
  readonly #symbols: Deno.StaticForeignLibraryInterface<typeof controls>;

  constructor(path: string) {
    this.path = path;
    this.#symbols = Deno.dlopen(path, controls).symbols;
  }

  /** Makes the nth call of a function from now on (1: the next) return `code`, a `CUresult`. */
  fail(name: string, nth: number, code: number): void {
    this.#symbols.standin_fail(text(name), nth, code);
  }

  /** Makes the four words of noise of a purpose, position and counter what they are here, until the next reset. */
  noise(purpose: number, position: number, counter: number, words: Uint32Array<ArrayBuffer>): void {
    this.#symbols.standin_noise(purpose, position, counter, words);
  }

  /** Forgets failures and noise to come, and calls that were made. */
  reset(): void {
    this.#symbols.standin_reset();
  }

  /** Calls of a function, launches of a kernel, or `dependent launches`, since the last reset. */
  calls(name: string): number {
    return this.#symbols.standin_calls(text(name));
  }

  /** Bytes that were copied to the host since the last reset. */
  downloaded(): number {
    return Number(this.#symbols.standin_downloaded());
  }

  /**
   * Runs `body` on another machine: `devices`, how many; `memory`, bytes of each; `major` and `minor`, their compute
   * capability; `version`, of the driver; `reversed`, 1 to run blocks and unordered threads from last to first;
   * `refuses`, 1 or 2 to record no launches that are dependent, and to say so at the launch or when all is recorded;
   * `loses`, 1 to leave out the second of blocks along z, which are those that share a sum. `major.1` is that of device 1
   * alone, and so on. A program that loads the stand-in itself is told the same by
   * `SPECDIFF_STANDIN=devices=2,major.1=7`.
   */
  async withMachine(machine: Readonly<Record<string, number>>, body: () => unknown): Promise<void> {
    const usual = {
      devices: 1,
      memory: 2 ** 33,
      major: 9,
      minor: 0,
      version: 13000,
      reversed: 0,
      refuses: 0,
      loses: 0,
    };
    const become = (settings: Readonly<Record<string, number>>) => {
      for (const [name, value] of Object.entries(settings)) {
        this.#symbols.standin_set(text(name), BigInt(value));
      }
    };
    become(machine);
    try {
      await body();
    } finally {
      become(usual);
    }
  }

  /** Number of things that were made and not given back, contexts included. */
  live(): number {
    return this.#symbols.standin_live();
  }

  /** What it objected to since the last time: writes out of bounds, unknown handles, wrong parameters. */
  complaints(): string[] {
    const out = new Uint8Array(1 << 16);
    this.#symbols.standin_complaints(out, out.length);
    return new TextDecoder().decode(out.subarray(0, out.indexOf(0))).split("\n").filter((line) =>
      line !== ""
    );
  }
}

function text(name: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${name}\0`);
}

/** The library, compiled unless these sources were before; undefined if there is no compiler. */
async function build(): Promise<string | undefined> {
  const here = new URL(".", import.meta.url), kernels = new URL("../../ffi/kernels/", import.meta.url);
  const sources = [here, kernels].flatMap((folder) =>
    [...Deno.readDirSync(folder)]
      .filter(({ name }) => /\.(cpp|cu|cuh|h)$/.test(name))
      .map(({ name }) => fileURLToPath(new URL(name, folder)))
  ).sort();
  // fused operations would make the host's rounding differ from what the kernels say
  const flags = ["-shared", "-fPIC", "-O2", "-std=c++17", "-DSPECDIFF_HOST", "-ffp-contract=off"];
  flags.push(
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-sign-compare",
    "-U_FORTIFY_SOURCE",
  );
  const folder = `${tmpdir()}/specdiff-standin`;
  const pathOf = () => {
    const hash = createHash("sha256").update(flags.join());
    for (const source of sources) hash.update(Deno.readTextFileSync(source));
    return `${folder}/libcuda-${hash.digest("hex").slice(0, 16)}.so`;
  };
  const path = pathOf();
  if (await Deno.stat(path).then(() => true, () => false)) return path;

  await Deno.mkdir(folder, { recursive: true });
  const unfinished = await Deno.makeTempFile({ dir: folder });
  const units = sources.filter((name) => /\.(cpp|cu)$/.test(name));
  const includes = [here, kernels].flatMap((folder) => ["-I", fileURLToPath(folder)]);
  const compiler = new Deno.Command("g++", {
    args: [...flags, ...includes, "-o", unfinished, "-x", "c++", ...units],
    stdout: "inherit",
    stderr: "inherit",
  });
  try {
    const { success } = await compiler.output();
    if (!success) throw new Error("Cannot build the stand-in for libcuda: g++ failed, see above");
    if (pathOf() !== path) throw new Error("Cannot build the stand-in for libcuda: its sources were changed");
  } catch (error) {
    await Deno.remove(unfinished);
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
  await Deno.rename(unfinished, path); // at once: another process may look for it
  return path;
}

const path = await build();

/** The stand-in, loaded and initialised; undefined without a C++ compiler. */
export const standIn: StandIn | undefined = path === undefined ? undefined : new StandIn(path);

/** Why there is no stand-in, to be put behind a test's name; empty where there is one. */
export const whyNoStandIn: string = standIn === undefined ? " (ignored: there is no C++ compiler, g++)" : "";

/** A test on the stand-in. Afterwards nothing may be left on it, nor may it have objected to anything. */
export function onStandIn(name: string, body: (standIn: StandIn) => unknown): void {
  Deno.test(name + whyNoStandIn, { ignore: standIn === undefined }, async () => {
    standIn!.reset();
    standIn!.complaints();
    await body(standIn!);
    assert.deepEqual(standIn!.complaints(), []);
    assert.equal(standIn!.live(), 0, "what was made and not given back");
  });
}

/** The same with a backend, which is disposed of at the end. */
export function onCudaBackend(
  name: string,
  body: (backend: CudaBackend) => unknown,
  options?: CudaOptions,
): void {
  onStandIn(`cuda: ${name}`, async () => {
    using backend = createCudaBackend(options);
    await body(backend);
  });
}

/** Runs `body` in an environment where the stand-in is both libraries, for what looks for them itself. */
export async function withStandInNamed<T>(path: string, body: () => T | Promise<T>): Promise<T> {
  const names = ["SPECDIFF_LIBCUDA", "SPECDIFF_LIBCUBLAS"];
  const before = names.map((name) => Deno.env.get(name));
  for (const name of names) Deno.env.set(name, path);
  try {
    return await body();
  } finally {
    names.forEach((name, i) => {
      if (before[i] === undefined) Deno.env.delete(name);
      else Deno.env.set(name, before[i]);
    });
  }
}

if (path !== undefined) {
  // here, where no test is charged with a library that is never closed; and the environment, which all test files
  // of the process share, is left as it was
  await withStandInNamed(path, () => {
    const { version } = new CudaDriver();
    loadLibrary(libcublas(version), cublasSymbols);
  });
}

if (import.meta.main) {
  if (path === undefined) {
    console.error("Cannot build the stand-in for libcuda: there is no C++ compiler, g++");
    Deno.exit(1);
  }
  console.log(path);
}
