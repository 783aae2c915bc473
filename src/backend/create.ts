/**
 * Choosing a backend by name.
 *
 * Deliberately absent: what a backend needs to run, which each finds out itself.
 *
 * @module
 */

import { LibraryNotFoundError, mayLoadLibraries } from "../../ffi/libraries.ts";
import { shown } from "../shown.ts";
import type { Backend } from "./backend.ts";
import { createReferenceBackend } from "./reference.ts";
import { createWasmBackend } from "./wasm/backend.ts";

/**
 * Where to compute: `auto` is the fastest that is present, `cuda` the first GPU that can be used, and `cuda:1` the
 * second that the driver knows.
 */
export type Device = "auto" | "wasm" | "reference" | "cuda" | `cuda:${number}`;

/** Names of devices, the default first. Beside these, a number names each GPU. */
export const devices: readonly Device[] = ["auto", "wasm", "reference", "cuda"];

/** Whether a text names a device, present or not. */
export function isDevice(text: string): text is Device {
  return /^cuda:\d{1,3}$/.test(text) || devices.some((device) => device === text);
}

/** A device that cannot be opened; the message says why, and what to do. */
export class BackendUnavailableError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "BackendUnavailableError";
}

/**
 * Opens a device. `auto` is a GPU if there is one that can be used and libraries may be loaded (`--allow-ffi`),
 * else WebAssembly; it never asks for a permission.
 *
 * @param options.threads for a CPU; default: the machine's cores
 * @throws {BackendUnavailableError} if it is not there
 * @throws {TypeError} if there is no such name
 */
export async function createBackend(
  device: Device = "auto",
  options: { readonly threads?: number | undefined } = {},
): Promise<Backend> {
  if (!isDevice(device)) {
    throw new TypeError(
      `Cannot open a device: its name is ${shown(device)}, expected one of ${devices.join(", ")} or cuda:N`,
    );
  }
  switch (device) {
    case "auto":
      return await openCuda("cuda").catch(() => undefined) ?? await createWasmBackend(options);
    case "wasm":
      return await createWasmBackend(options);
    case "reference":
      return createReferenceBackend();
    default:
      return await openCuda(device);
  }
}

/** Whether a backend computes on the named device. `cuda` names any GPU, and `auto` any device. */
export function isOn(device: Device, backend: Backend): boolean {
  return device === "auto" || device === backend.name || device === backend.device;
}

/** Opens a GPU, by default the first that can be used. Its code is imported only where libraries may be loaded. */
async function openCuda(device: "cuda" | `cuda:${number}`): Promise<Backend> {
  try {
    if (typeof Deno === "undefined") {
      throw new LibraryNotFoundError("it needs Deno, which loads the libraries");
    }
    if (!mayLoadLibraries()) {
      throw new LibraryNotFoundError("libraries may not be loaded, run with --allow-ffi");
    }
    const { createCudaBackend } = await import("./cuda/backend.ts");
    return createCudaBackend(device === "cuda" ? {} : { device: Number(device.slice("cuda:".length)) });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new BackendUnavailableError(`Cannot open the device "${device}": ${reason}`, { cause });
  }
}
