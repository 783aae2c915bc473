/**
 * The peak memory of a process, which is meaningful only if the process does one thing.
 *
 * @module
 */

/**
 * Peak resident size so far, in bytes; null if unknown.
 *
 * @param process its id; absent: this one
 */
export function peakBytes(process: number | "self" = "self"): number | null {
  try {
    const found = /VmHWM:\s*(\d+) kB/.exec(Deno.readTextFileSync(`/proc/${process}/status`));
    return found && 1024 * Number(found[1]);
  } catch {
    return null;
  }
}

/** Bytes as text for reports. */
export function megabytes(bytes: number | null | undefined): string {
  return bytes === null || bytes === undefined ? "" : `${Math.round(bytes / 1e6)} MB`;
}
