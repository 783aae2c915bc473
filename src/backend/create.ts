/**
 * Choosing a backend by name.
 *
 * @module
 */

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
 * Opens a device.
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
    case "wasm":
      return await createWasmBackend(options);
    case "reference":
      return createReferenceBackend();
    case "cuda":
      throw new BackendUnavailableError(
        'Cannot open the device "cuda": this version has no CUDA backend, expected one of auto, wasm, reference',
      );
    default:
      throw new TypeError(`Cannot open a device: unknown name "${device satisfies never}"`);
  }
}
