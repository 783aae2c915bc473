/**
 * The cache of models that the tools around Hugging Face share (https://huggingface.co/docs/hub/local-cache): models
 * that they fetched are found here, and they find those fetched here.
 *
 * ```
 * models--owner--name/
 *   blobs/HASH                     content, by its hash; HASH.incomplete while it is on its way
 *   snapshots/COMMIT/config.json   links to blobs
 *   refs/main                      the commit that a revision was resolved to
 *   .no_exist/COMMIT/FILE          a file that this commit does not have
 * .locks/models--owner--name/HASH.lock
 * ```
 *
 * A file is renamed to its final name once all of it has arrived and been checked. No other module of `src/hub` writes.
 *
 * @module
 */

import { createHash, type Hash } from "node:crypto";
import { basename, dirname, join, relative } from "node:path";
import { CheckpointError } from "../model/weights.ts";
import { findWeights, readIndex } from "./checkpoint.ts";
import { type HubClient, pause, type RemoteFile } from "./client.ts";
import { kindOf, readText } from "./files.ts";
import { isCommit } from "./names.ts";

/** The files that are needed beside the weights; the first must be there. */
export const SMALL_FILES: readonly string[] = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

/** Milliseconds between two looks at a lock that another process holds. */
const LOCK_POLL = 100;

/** Bytes read at once when content is checked. */
const CHUNK_BYTES = 1 << 20;

/** The part of the cache that belongs to one model. */
export class ModelCache {
  /** The model's folder. */
  readonly folder: string;
  readonly #locks: string;

  /**
   * @param root the folder of the cache
   * @param repository `owner/name`
   */
  constructor(root: string, repository: string) {
    const name = `models--${repository.replace("/", "--")}`;
    this.folder = join(root, name);
    this.#locks = join(root, ".locks", name);
  }

  /** The folder of a commit: a checkpoint, if it is complete. */
  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  /** The commit that a revision was resolved to. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const path = join(this.folder, "refs", revision);
    if (await kindOf(path) !== "file") return undefined;
    const commit = (await readText(path)).trim();
    return isCommit(commit) ? commit : undefined;
  }

  /** Notes what a revision was resolved to. */
  async pin(revision: string, commit: string): Promise<void> {
    // a revision that is noted already needs no permission to write
    if (await this.commitOf(revision) === commit) return;
    const path = join(this.folder, "refs", revision), temporary = `${path}.${crypto.randomUUID()}`;
    await writable(path, async () => {
      await Deno.mkdir(dirname(path), { recursive: true });
      await Deno.writeTextFile(temporary, commit);
      await Deno.rename(temporary, path);
    });
  }

  /**
   * Whether a commit's weights and configuration are here.
   * @param all whether the optional files must be here too, or known not to exist
   */
  async isComplete(commit: string, all: boolean): Promise<boolean> {
    const folder = this.snapshot(commit);
    for (const [i, name] of SMALL_FILES.entries()) {
      if (await kindOf(join(folder, name)) === "file") continue;
      if (i === 0 || all && await kindOf(this.#absent(commit, name)) === undefined) return false;
    }
    const weights = await findWeights(folder);
    if (!weights?.endsWith(".index.json")) return weights !== undefined;
    try {
      for (const shard of await readShards(join(folder, weights))) {
        if (await kindOf(join(folder, shard)) !== "file") return false;
      }
    } catch (error) {
      if (error instanceof CheckpointError) return false;
      throw error;
    }
    return true;
  }

  /** Notes that a commit does not have a file. */
  async markAbsent(commit: string, name: string): Promise<void> {
    const path = this.#absent(commit, name);
    if (await kindOf(path) !== undefined) return;
    await writable(path, async () => {
      await Deno.mkdir(dirname(path), { recursive: true });
      await Deno.writeTextFile(path, "");
    });
  }

  /**
   * Puts a file of a commit into its snapshot. Content that is not here is fetched, from where an earlier attempt ended,
   * and checked.
   *
   * @param arrived told how many bytes of it are here
   * @throws {HubError} if what arrived is not what the hub promised
   */
  async fetch(
    client: HubClient,
    commit: string,
    file: RemoteFile,
    signal: AbortSignal | undefined,
    arrived: (bytes: number) => void,
  ): Promise<void> {
    const path = join(this.snapshot(commit), file.name);
    if (await kindOf(path) !== "file") {
      await writable(this.folder, async () => {
        for (const folder of [dirname(path), join(this.folder, "blobs"), this.#locks]) {
          await Deno.mkdir(folder, { recursive: true });
        }
      });
      using _lock = await lock(join(this.#locks, `${file.hash}.lock`), signal);
      if (!await sizeIs(this.#blob(file.hash), file.size)) {
        await this.#download(client, commit, file, signal, arrived);
      }
      await this.#link(file.hash, path);
    }
    arrived(file.size);
  }

  /** Fetches content, beginning where an earlier attempt ended. */
  async #download(
    client: HubClient,
    commit: string,
    file: RemoteFile,
    signal: AbortSignal | undefined,
    arrived: (bytes: number) => void,
  ): Promise<void> {
    const blob = this.#blob(file.hash), incomplete = `${blob}.incomplete`;
    for (;;) {
      const start = await append(
        incomplete,
        file.size,
        (start) => client.bytes(commit, file, start),
        arrived,
      );
      const found = await contentHash(incomplete, file, signal);
      if (found === file.hash) break;
      await writable(incomplete, () => Deno.remove(incomplete));
      // the part that an earlier attempt left may be damaged
      if (start > 0) continue;
      throw client.fault(
        `what arrived of "${file.name}" has the hash ${found}, expected ${file.hash}; it was removed: fetch it again`,
      );
    }
    await writable(blob, () => Deno.rename(incomplete, blob));
  }

  /**
   * Links content into a snapshot. Deno lets a program make symbolic links only if it may read and write everywhere.
   * Otherwise it is a hard link, which costs no space either, and which readers of the cache accept.
   */
  async #link(hash: string, path: string): Promise<void> {
    const everywhere = (await Promise.all([
      Deno.permissions.query({ name: "read" }),
      Deno.permissions.query({ name: "write" }),
    ])).every(({ state }) => state === "granted");
    await writable(path, async () => {
      // a link may be left whose content is gone
      await Deno.remove(path).catch(ignoreAbsence);
      try {
        if (everywhere && Deno.build.os !== "windows") {
          await Deno.symlink(join("..", "..", "blobs", hash), path);
        } else await Deno.link(this.#blob(hash), path);
      } catch (error) {
        // another process was faster
        if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
      }
    });
  }

  #blob(hash: string): string {
    return join(this.folder, "blobs", hash);
  }

  #absent(commit: string, name: string): string {
    return join(this.folder, ".no_exist", commit, name);
  }

  /** Removes all of the model. */
  async remove(): Promise<void> {
    for (const folder of [this.folder, this.#locks]) await removeAll(folder);
  }

  /** Removes a commit, the revisions that were resolved to it, and content that no other commit has. */
  async removeCommit(commit: string): Promise<void> {
    await removeAll(this.snapshot(commit));
    await removeAll(join(this.folder, ".no_exist", commit));
    for (const revision of await this.revisionsOf(commit)) {
      await removeAll(join(this.folder, "refs", revision));
    }
    const needed = new Set<string>();
    for (const path of await filesUnder(join(this.folder, "snapshots"))) {
      // a hard link keeps the content by itself
      if ((await Deno.lstat(path)).isSymlink) needed.add(basename(await Deno.readLink(path)));
    }
    for (const path of await filesUnder(join(this.folder, "blobs"))) {
      if (!needed.has(basename(path))) await removeAll(path);
    }
  }

  /** The commits of which there are files. */
  async commits(): Promise<string[]> {
    return (await namesIn(join(this.folder, "snapshots"))).filter(isCommit);
  }

  /** The branches and tags that were resolved to a commit. */
  async revisionsOf(commit: string): Promise<string[]> {
    const folder = join(this.folder, "refs");
    const revisions = (await filesUnder(folder)).map((path) => relative(folder, path));
    const commits = await Promise.all(revisions.map((revision) => this.commitOf(revision)));
    return revisions.filter((_, i) => commits[i] === commit);
  }

  /** Bytes of the files of a commit. */
  async size(commit: string): Promise<number> {
    const paths = await filesUnder(this.snapshot(commit));
    const sizes = await Promise.all(paths.map((path) => Deno.stat(path).then(({ size }) => size, () => 0)));
    return sizes.reduce((sum, size) => sum + size, 0);
  }
}

/** The files that an index names, once each. */
export async function readShards(index: string): Promise<Set<string>> {
  return new Set((await readIndex(index)).values());
}

/**
 * Appends the missing bytes to a file, and waits until they are on the disk.
 * @returns how many bytes there were before
 */
async function append(
  path: string,
  size: number,
  missing: (start: number) => AsyncIterable<Uint8Array>,
  arrived: (bytes: number) => void,
): Promise<number> {
  using file = await writable(path, () => Deno.open(path, { write: true, create: true }));
  let start = (await file.stat()).size;
  if (start > size) await file.truncate(start = 0);
  await file.seek(start, Deno.SeekMode.Start);
  let at = start;
  arrived(at);
  for await (const chunk of missing(start)) {
    await writable(path, async () => {
      for (let done = 0; done < chunk.length;) done += await file.write(chunk.subarray(done));
    });
    arrived(at += chunk.length);
  }
  await file.syncData();
  return start;
}

/** The hash of a file's content, of the kind that is expected. */
async function contentHash(path: string, { size, hash }: RemoteFile, signal?: AbortSignal): Promise<string> {
  let sum: Hash;
  if (hash.length === 64) sum = createHash("sha256");
  else sum = createHash("sha1").update(`blob ${size}\0`); // as git names a blob
  using file = await Deno.open(path);
  const buffer = new Uint8Array(CHUNK_BYTES);
  for (let count: number | null; (count = await file.read(buffer)) !== null;) {
    signal?.throwIfAborted();
    sum.update(buffer.subarray(0, count));
  }
  return sum.digest("hex");
}

/** Takes a lock that the system frees when the process ends, however it ends; waits for whoever holds it. */
async function lock(path: string, signal: AbortSignal | undefined): Promise<Disposable> {
  const file = await writable(path, () => Deno.open(path, { write: true, create: true }));
  try {
    while (!await file.tryLock(true)) await pause(LOCK_POLL, signal);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

async function sizeIs(path: string, size: number): Promise<boolean> {
  return await kindOf(path) === "file" && (await Deno.stat(path)).size === size;
}

/** The names in a folder, sorted; none if there is no folder. */
export async function namesIn(folder: string): Promise<string[]> {
  if (await kindOf(folder) !== "folder") return [];
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
}

/** Paths of all files under a folder, links included. */
async function filesUnder(folder: string): Promise<string[]> {
  const paths: string[] = [];
  for (const name of await namesIn(folder)) {
    const path = join(folder, name);
    if ((await Deno.lstat(path)).isDirectory) paths.push(...await filesUnder(path));
    else paths.push(path);
  }
  return paths;
}

async function removeAll(path: string): Promise<void> {
  await writable(path, () => Deno.remove(path, { recursive: true }).catch(ignoreAbsence));
}

function ignoreAbsence(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

/** Runs an access that writes to `path`; if it is refused, by Deno or by the system, the message says so. */
async function writable<T>(path: string, access: () => Promise<T>): Promise<T> {
  try {
    return await access();
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) {
      throw new Deno.errors.NotCapable(
        `Cannot write "${path}": permission to write it is missing; run with --allow-write="${path}" or of the whole cache`,
        { cause: error },
      );
    }
    // the system's message begins with its reason: no space left, read-only, permission denied
    const [reason] = /^.*?\(os error \d+\)/.exec((error as Error).message) ?? [];
    if (reason === undefined) throw error;
    throw new Error(
      `Cannot write "${path}": ${reason}; see to it, or set HF_HUB_CACHE to another folder: what has arrived is kept`,
      { cause: error },
    );
  }
}
