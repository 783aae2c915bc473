/**
 * What a measurement was made on. It asks only for what it may know: a missing permission leaves a field
 * empty and never prompts.
 *
 * @module
 */

import { cpus } from "node:os";

/** Where Deno takes flags of V8 from, its command line apart. */
const V8_FLAGS = "DENO_V8_FLAGS";

/** A machine, as far as permissions let it be known. */
export interface Machine {
  /** Model of the processor; null without `--allow-sys=cpus`. */
  readonly cpu: string | null;
  /** Logical cores. */
  readonly cores: number;
  /** Operating system, with its release if `--allow-sys=osRelease` is given. */
  readonly os: string;
  /** Instruction set: `x86_64`, `aarch64`. */
  readonly arch: string;
  /** Version of Deno. */
  readonly deno: string;
  /** What computes. */
  readonly device: string;
  /**
   * Flags of V8 in `DENO_V8_FLAGS`, such as `--no-wasm-bounds-checks`, which make kernels faster or slower; empty if there
   * are none, null without `--allow-env=DENO_V8_FLAGS`, absent in reports of other times.
   */
  readonly v8Flags?: string | null;
}

/**
 * Describes this machine.
 * @param device what computes, as the engine says
 */
export function describeMachine(device: string): Machine {
  return {
    cpu: granted({ name: "sys", kind: "cpus" }) ? cpus()[0]?.model.trim() ?? null : null,
    cores: navigator.hardwareConcurrency,
    os: granted({ name: "sys", kind: "osRelease" }) ? `${Deno.build.os} ${Deno.osRelease()}` : Deno.build.os,
    arch: Deno.build.arch,
    deno: Deno.version.deno,
    device,
    v8Flags: granted({ name: "env", variable: V8_FLAGS }) ? Deno.env.get(V8_FLAGS)?.trim() ?? "" : null,
  };
}

function granted(permission: Deno.PermissionDescriptor): boolean {
  return Deno.permissions.querySync(permission).state === "granted";
}
