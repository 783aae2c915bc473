/**
 * Reads files: a source of bytes that is read in ranges, and a few questions about paths. It uses `node:fs`, which Deno
 * and Node both have, so that folders are read under either. Models by name also need `cache.ts`, which needs Deno.
 * It deliberately knows no tensor format.
 *
 * @module
 */

import { open, readFile, stat } from "node:fs/promises";
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
    // deno-lint-ignore require-await
    async read(into: Uint8Array, position: number): Promise<void> {
      const end = position + into.length;
      if (!(position >= 0 && end <= bytes.length)) {
        throw new RangeError(`Cannot read bytes [${position}, ${end}): there are ${bytes.length}`);
      }
      into.set(bytes.subarray(position, end));
    },
    [Symbol.dispose](): void {},
  };
}

/**
 * Opens a file for reading in ranges.
 * @throws {Error} if there is none, or the system refuses it
 * @throws {Deno.errors.NotCapable} if the permission to read it is missing
 */
export async function fileSource(path: string): Promise<ByteSource> {
  const file = await readable(path, () => open(path));
  const { size } = await readable(path, () => file.stat());
  return {
    size,
    async read(into: Uint8Array, position: number): Promise<void> {
      for (let filled = 0; filled < into.length;) {
        const { bytesRead } = await readable(
          path,
          () => file.read(into, filled, into.length - filled, position + filled),
        );
        if (bytesRead === 0) {
          throw new RangeError(
            `Cannot read "${path}": it ends at byte ${position + filled}, expected ${position + into.length}`,
          );
        }
        filled += bytesRead;
      }
    },
    [Symbol.dispose](): void {
      void file.close();
    },
  };
}

/**
 * A path as given, or that of a `file:` URL.
 * @throws {TypeError} if it is another URL
 */
export function toPath(location: string | URL): string {
  if (typeof location === "string" && !/^(file:|[a-z][a-z\d+.-]+:\/\/)/i.test(location)) return location;
  const url = URL.parse(location);
  if (url?.protocol === "file:") return fileURLToPath(url);
  throw new TypeError(
    `Cannot load "${location}": it is no place on this machine, expected a path, or the name of a model on a hub as owner/name`,
  );
}

/**
 * Reads a whole text file as UTF-8.
 * @throws as {@linkcode fileSource}
 */
export function readText(path: string): Promise<string> {
  return readable(path, () => readFile(path, "utf8"));
}

/**
 * Whether a path is a file or a folder. Pipes and devices, which may never end, are neither.
 * @throws {Deno.errors.NotCapable} if the permission to look is missing
 */
export async function kindOf(path: string): Promise<"file" | "folder" | undefined> {
  const info = await readable(path, async () => {
    try {
      return await stat(path);
    } catch (error) {
      if (["ENOENT", "ENOTDIR"].includes(codeOf(error)!)) return undefined;
      throw error;
    }
  });
  return info?.isDirectory() ? "folder" : info?.isFile() ? "file" : undefined;
}

/** Whether the permission to read a path is granted already, so that reading it does not prompt. */
export function mayRead(path: string): boolean {
  return typeof Deno === "undefined" ||
    Deno.permissions.querySync({ name: "read", path }).state === "granted";
}

/** Whether there is a folder at a path, as far as permissions show without a prompt. */
export async function isFolderHere(path: string): Promise<boolean> {
  return mayRead(path) && await kindOf(path) === "folder";
}

/** Runs an access to `path`. If it fails, the message names the path and who refused it: Deno, or the system. */
async function readable<T>(path: string, access: () => Promise<T>): Promise<T> {
  try {
    return await access();
  } catch (error) {
    if (isRefusal(error)) throw refusal(path, error);
    const denied = ["EACCES", "EPERM"].includes(codeOf(error)!);
    const reason = denied ? "the system denies it (its owner or mode)" : (error as Error).message;
    throw new Error(`Cannot read "${path}": ${reason}`, { cause: error });
  }
}

/**
 * Runs a body that reads several files of a folder. If a permission is missing, the message asks for the folder, not for
 * one file after the other.
 */
export async function withinFolder<T>(folder: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (!isRefusal(error) || mayRead(folder)) throw error;
    throw refusal(folder, error);
  }
}

/** Whether an error is that of a missing permission. Only Deno has such, and it throws them through `node:fs` too. */
export function isRefusal(error: unknown): error is Error {
  return (error as Error | null | undefined)?.name === "NotCapable";
}

function refusal(path: string, cause: Error): Error {
  return new Deno.errors.NotCapable(
    `Cannot read "${path}": permission to read it is missing; run with --allow-read="${path}"`,
    { cause },
  );
}

/** The system's code of an error, such as `ENOENT`. */
function codeOf(error: unknown): string | undefined {
  return (error as { readonly code?: string }).code;
}
