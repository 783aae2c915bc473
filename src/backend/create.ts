/**
 * Choosing a backend by name.
 *
 * @module
 */

import { LibraryNotFoundError, mayLoadLibraries } from "../../ffi/libraries.ts";
import type { Backend } from "./backend.ts";
import { createReferenceBackend } from "./reference.ts";
import { createWasmBackend } from "./wasm/backend.ts";

/** Where to compute: `auto` is the fastest that is present. */
export type Device = "auto" | "wasm" | "reference" | "cuda";

/** All devices, the default first. */
export const devices: readonly Device[] = ["auto", "wasm", "reference", "cuda"];

/** A device that is not there; the message says why and what else would do. */
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
 */
export async function createBackend(
  device: Device = "auto",
  options: { readonly threads?: number | undefined } = {},
): Promise<Backend> {
  switch (device) {
    case "auto":
      return await openCuda().catch(() => undefined) ?? await createWasmBackend(options);
    case "wasm":
      return await createWasmBackend(options);
    case "reference":
      return createReferenceBackend();
    case "cuda":
      return await openCuda();
    default:
      throw new TypeError(
        `Cannot open a device: unknown name "${device satisfies never}", expected ${devices.join(", ")}`,
      );
  }
}

/** Opens the first GPU. What it needs is loaded only where it may be used. */
async function openCuda(): Promise<Backend> {
  try {
    if (typeof Deno === "undefined") {
      throw new LibraryNotFoundError("it needs Deno, which loads the libraries");
    }
    if (!mayLoadLibraries()) {
      throw new LibraryNotFoundError("libraries may not be loaded, run with --allow-ffi");
    }
    const { createCudaBackend } = await import("./cuda/backend.ts");
    return createCudaBackend();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new BackendUnavailableError(`Cannot open the device "cuda": ${reason}`, { cause });
  }
}
