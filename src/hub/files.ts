/**
 * The hub's door to the files it reads: a source of bytes that is read in ranges, and a few questions about paths.
 * It deliberately knows no tensor format. For folders nothing else in `src/hub` touches `Deno`, so that another
 * runtime needs another version of this file alone; models by name also need `cache.ts`, which writes.
 *
 * @module
 */

import { fileURLToPath } from "node:url";

/** Bytes that can be read in any order, in ranges, one at a time. */
export interface ByteSource extends Disposable {
  /** Bytes in all. */
  readonly size: number;
  /**
   * Fills `into` with the bytes from `position` on. Not to be called before the last call is done.
   * @throws {RangeError} if they end before `into` is full
   */
  read(into: Uint8Array, position: number): Promise<void>;
}

/** Bytes in memory as a source; `bytes` is shared, not copied. */
export function memorySource(bytes: Uint8Array): ByteSource {
  return {
    size: bytes.length,
    read(into: Uint8Array, position: number): Promise<void> {
      into.set(bytes.subarray(position, position + into.length));
      return Promise.resolve();
    },
    [Symbol.dispose](): void {},
  };
}

/**
 * Opens a file for reading in ranges.
 * @throws {Deno.errors.NotFound} if there is none
 * @throws {Deno.errors.NotCapable} if the permission to read it is missing
 */
export async function fileSource(path: string): Promise<ByteSource> {
  const file = await readable(path, () => Deno.open(path));
  const { size } = await file.stat();
  return {
    size,
    async read(into: Uint8Array, position: number): Promise<void> {
      await file.seek(position, Deno.SeekMode.Start);
      for (let filled = 0; filled < into.length;) {
        const count = await file.read(into.subarray(filled));
        if (count === null) {
          throw new RangeError(
            `Cannot read "${path}": it ends at byte ${position + filled}, expected ${position + into.length}`,
          );
        }
        filled += count;
      }
    },
    [Symbol.dispose](): void {
      file.close();
    },
  };
}

/** A path as given, or that of a `file:` URL. */
export function toPath(location: string | URL): string {
  return location instanceof URL ? fileURLToPath(location) : location;
}

/**
 * Reads a whole text file as UTF-8.
 * @throws {Deno.errors.NotFound} and {Deno.errors.NotCapable} as {@linkcode fileSource}
 */
export function readText(path: string): Promise<string> {
  return readable(path, () => Deno.readTextFile(path));
}

/** A deflated byte stands for no more than this many: what is said to be more is not there. */
const MAX_DEFLATION = 1032;

/**
 * What a gzip file holds, decompressed; of more than `most` bytes only the first `most`. Takes no more memory than
 * that, nor than the file can hold.
 * @throws {TypeError} if it is not gzip, or ends early
 * @throws {RangeError} if the memory does not suffice
 * @throws {Deno.errors.NotFound} and {Deno.errors.NotCapable} as {@linkcode fileSource}
 */
export async function readGzip(path: string, most: number): Promise<Uint8Array<ArrayBuffer>> {
  const file = await readable(path, () => Deno.open(path));
  const { size } = await file.stat();
  const out = new Uint8Array(Math.min(most, MAX_DEFLATION * size));
  let filled = 0;
  for await (const chunk of file.readable.pipeThrough(new DecompressionStream("gzip"))) {
    const part = chunk.subarray(0, out.length - filled);
    out.set(part, filled);
    filled += part.length;
    if (filled === out.length) break;
  }
  return out.subarray(0, filled);
}

/**
 * What stands at a path; undefined also for what is neither, such as a pipe or a device, which may never end.
 * @throws {Deno.errors.NotCapable} if the permission to look is missing
 */
export async function kindOf(path: string): Promise<"file" | "folder" | undefined> {
  try {
    const info = await readable(path, () => Deno.stat(path));
    return info.isDirectory ? "folder" : info.isFile ? "file" : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
    throw error;
  }
}

/** Runs an access to `path`; if it fails, the message says on what, and if it is refused, by whom. */
async function readable<T>(path: string, access: () => Promise<T>): Promise<T> {
  try {
    return await access();
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) {
      throw new Deno.errors.NotCapable(
        `Cannot read "${path}": permission to read it is missing; run with --allow-read="${path}"`,
        { cause: error },
      );
    }
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new Deno.errors.PermissionDenied(
        `Cannot read "${path}": the system denies it (its owner or mode)`,
        { cause: error },
      );
    }
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) throw error;
    throw new Error(`Cannot read "${path}": ${(error as Error).message}`, { cause: error });
  }
}
