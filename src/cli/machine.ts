/**
 * What a measurement was made on. It asks only for what it may know: a missing permission leaves a field
 * empty and never prompts.
 *
 * @module
 */

import { cpus } from "node:os";

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
}

/**
 * Describes this machine.
 * @param device what computes, as the engine says
 */
export function describeMachine(device: string): Machine {
  return {
    cpu: granted("cpus") ? cpus()[0]?.model.trim() ?? null : null,
    cores: navigator.hardwareConcurrency,
    os: granted("osRelease") ? `${Deno.build.os} ${Deno.osRelease()}` : Deno.build.os,
    arch: Deno.build.arch,
    deno: Deno.version.deno,
    device,
  };
}

function granted(kind: "cpus" | "osRelease"): boolean {
  return Deno.permissions.querySync({ name: "sys", kind }).state === "granted";
}
