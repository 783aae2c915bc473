/**
 * The error for memory that does not suffice, in the same words for every device.
 *
 * @module
 */

import type { Backend, Dtype, MatrixOptions } from "./backend.ts";

/** Memory did not suffice; the message says how much there is, and what would need less. */
export class OutOfMemoryError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "OutOfMemoryError";
}

/**
 * The error for a matrix that does not fit.
 *
 * @param room how full the device is, as in `1.00 GiB of 4.00 GiB are in use`
 * @param backend where it would be held
 */
export function matrixTooLarge(
  options: MatrixOptions,
  room: string,
  backend: Pick<Backend, "bytesOf">,
  cause: unknown,
): OutOfMemoryError {
  const { outputs, inputs, dtype } = options;
  const needs = (dtype: Dtype) => `${dtype} needs ${formatBytes(backend.bytesOf({ ...options, dtype }))}`;
  const smaller: readonly Dtype[] = dtype === "f32" ? ["bf16", "int8"] : dtype === "int8" ? [] : ["int8"];
  return new OutOfMemoryError(
    `Cannot hold a [${outputs}, ${inputs}] ${dtype} matrix: ${room} and ${needs(dtype)}; ` +
      (smaller.length > 0 ? smaller.map(needs).join(", ") : "no smaller dtype is left"),
    { cause },
  );
}

/** `1.50 GiB`, `12.0 MiB`, `640 B`: three figures are enough. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB"];
  const unit = Math.min(3, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  const value = bytes / 1024 ** unit;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toPrecision(3)} ${units[unit]}`;
}
