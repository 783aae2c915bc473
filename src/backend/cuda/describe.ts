/**
 * What NVIDIA's driver says of itself and its devices, for people. Nothing of it decides what is used: a backend finds
 * that out when it is opened.
 *
 * @module
 */

import { CudaDriver, formatVersion } from "../../../ffi/driver.ts";

/** One GPU, or why nothing is known of it. */
export type GpuDescription =
  & { readonly ordinal: number }
  & (
    | {
      readonly name: string;
      /** Compute capability: `9.0`. */
      readonly capability: string;
      readonly multiprocessors: number;
      readonly freeBytes: number;
      readonly totalBytes: number;
    }
    | { readonly problem: string }
  );

/** NVIDIA's driver and its devices, or why it cannot be used. */
export type DriverDescription =
  | { readonly path: string; readonly cuda: string; readonly devices: readonly GpuDescription[] }
  | { readonly problem: string };

/** Describes the driver and every device that it sees. */
export function describeGpus(): DriverDescription {
  try {
    const driver = new CudaDriver(), { path, version } = driver;
    const devices = Array.from({ length: driver.deviceCount }, (_, ordinal) => describe(driver, ordinal));
    return { path, cuda: formatVersion(version), devices };
  } catch (error) {
    return { problem: messageOf(error) };
  }
}

/** The first device, with the CUDA that the driver serves; or why there is none. */
export function describeFirstGpu(): { readonly name: string; readonly cuda: string } | {
  readonly problem: string;
} {
  const driver = describeGpus();
  if ("problem" in driver) return driver;
  const [gpu = { problem: NO_GPU }] = driver.devices;
  return "problem" in gpu ? gpu : { name: gpu.name, cuda: driver.cuda };
}

/** Why there is no device where the driver works. */
export const NO_GPU = "the driver sees no GPU";

function describe(driver: CudaDriver, ordinal: number): GpuDescription {
  try {
    using device = driver.device(ordinal);
    const { name, multiprocessors } = device, { free, total } = device.memory();
    const capability = device.capability.join(".");
    return { ordinal, name, capability, multiprocessors, freeBytes: free, totalBytes: total };
  } catch (error) {
    return { ordinal, problem: messageOf(error) };
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
