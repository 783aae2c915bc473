/**
 * A description of the machine of a measurement. A missing permission leaves a field empty and never prompts.
 *
 * @module
 */

import { cpus } from "node:os";

/** The variable with V8 flags, apart from Deno's command line. */
const V8_FLAGS = "DENO_V8_FLAGS";

/** A machine, as far as permissions allow. */
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
  /** The device that computes. */
  readonly device: string;
  /**
   * The V8 flags in `DENO_V8_FLAGS`, such as `--no-wasm-bounds-checks`, which affect the speed of kernels. Empty if
   * there are none, null without `--allow-env=DENO_V8_FLAGS`, absent in older reports.
   */
  readonly v8Flags?: string | null;
}

/**
 * Describes this machine.
 * @param device the engine's description of what computes
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
