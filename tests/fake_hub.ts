/**
 * A hub in this process, which serves models as the real one does, and misbehaves as it is told: a plain TCP server,
 * so that it can lie about lengths, fall silent and cut connections.
 *
 * @module
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { writeSafetensors } from "../fixtures/write_safetensors.ts";
import { HubError } from "../src/hub/mod.ts";
import type { HubOptions } from "../src/hub/options.ts";

/** What was asked. */
export interface Request {
  readonly path: string;
  /** The same as it was sent. */
  readonly raw: string;
  readonly headers: Headers;
}

/** What is answered. */
export interface Answer {
  readonly status: number;
  /** Besides the usual ones; `""`: not sent. */
  readonly headers?: Record<string, string>;
  readonly body?: Uint8Array;
  /** After so many bytes of the body, nothing more is sent. */
  readonly stop?: number;
  /** Where it stops, hold the connection open and say nothing; otherwise it is closed. */
  readonly silent?: boolean;
}

/** Files by name. */
export type Files = Record<string, Uint8Array | string>;

/** A hub with one model, `owner/name`. */
export class FakeHub implements AsyncDisposable {
  /** Where it is: `http://127.0.0.1:PORT`. */
  readonly url: string;
  /** What was asked of it, in order. */
  readonly requests: Request[] = [];
  /** The files, which are large ones (LFS) if they end in `.safetensors`. */
  files: Record<string, Uint8Array>;
  /** What `main` is. */
  commit: string = "a".repeat(40);
  /** Answers in place of the usual one, if it wants to. */
  misbehave: (request: Request, usual: Answer) => Answer | undefined = () => undefined;
  readonly #listener: Deno.Listener;
  readonly #open: Set<Deno.Conn> = new Set();
  readonly #serving: Promise<void>;

  constructor(files: Files) {
    this.files = Object.fromEntries(
      Object.entries(files).map(([name, content]) => [
        name,
        typeof content === "string" ? new TextEncoder().encode(content) : content,
      ]),
    );
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.url = `http://127.0.0.1:${(this.#listener.addr as Deno.NetAddr).port}`;
    this.#serving = this.#serve();
  }

  /** How often a file was asked for. */
  count(name: string): number {
    return this.requests.filter(({ path }) => path.endsWith(`/${name}`)).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const connection of this.#open) connection.close();
    await this.#serving;
  }

  async #serve(): Promise<void> {
    const all: Promise<void>[] = [];
    try {
      for await (const connection of this.#listener) all.push(this.#answer(connection).catch(() => {}));
    } catch {
      // closed
    }
    await Promise.all(all);
  }

  /** Answers one request and closes the connection. */
  async #answer(connection: Deno.Conn): Promise<void> {
    this.#open.add(connection);
    try {
      const [first, ...lines] = (await readHead(connection)).split("\r\n");
      const headers = new Headers(
        lines.map((line) => line.split(/: ?(.*)/s, 2) as [string, string]).filter(([name]) => name),
      );
      const raw = first.split(" ")[1], request = { path: decodeURIComponent(raw), raw, headers };
      this.requests.push(request);
      const usual = this.#usual(request);
      const answer = this.misbehave(request, usual) ?? usual;
      const body = answer.body ?? new Uint8Array();
      const head = { connection: "close", "content-length": String(body.length), ...answer.headers };
      const text = Object.entries(head).map(([name, value]) => value && `${name}: ${value}\r\n`).join("");
      await write(connection, new TextEncoder().encode(`HTTP/1.1 ${answer.status} X\r\n${text}\r\n`));
      await write(connection, body.subarray(0, answer.stop));
      if (answer.silent) await connection.read(new Uint8Array(1)); // until the other side has had enough
    } finally {
      this.#open.delete(connection);
      try {
        connection.close();
      } catch {
        // closed with the hub
      }
    }
  }

  #usual({ path, headers }: Request): Answer {
    const [, revision] = /^\/api\/models\/owner\/name\/revision\/(.+)\?blobs=true$/.exec(path) ?? [];
    if (revision === "main" || revision === this.commit) return { status: 200, body: this.#describe() };
    if (revision !== undefined) return { status: 404, headers: { "x-error-code": "RevisionNotFound" } };
    const name = path.replace(`/owner/name/resolve/${this.commit}/`, "");
    if (!Object.hasOwn(this.files, name)) return { status: 404, headers: { "x-error-code": "RepoNotFound" } };
    const body = this.files[name];
    const start = Number(/^bytes=(\d+)-$/.exec(headers.get("range") ?? "")?.[1] ?? 0);
    if (start === 0) return { status: 200, body };
    const range = { "content-range": `bytes ${start}-${body.length - 1}/${body.length}` };
    return { status: 206, headers: range, body: body.subarray(start) };
  }

  #describe(): Uint8Array {
    const siblings = Object.entries(this.files).map(([rfilename, content]) => ({
      rfilename,
      size: content.length,
      blobId: gitHash(content),
      ...(rfilename.endsWith(".safetensors")
        ? { lfs: { sha256: sha256(content), size: content.length } }
        : {}),
    }));
    return new TextEncoder().encode(JSON.stringify({ id: "owner/name", sha: this.commit, siblings }));
  }
}

/** What a large file's content is called. */
export function sha256(content: Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

/** What git calls a small file's content. */
export function gitHash(content: Uint8Array): string {
  return createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
}

/** The file with the weights. */
export const WEIGHTS: string = "model.safetensors";
/** The configuration. */
export const CONFIG: string = '{"model_type": "gpt2"}';

/** Weights of some 100 kB: several pieces on their way. */
export const TENSORS: Uint8Array<ArrayBuffer> = writeSafetensors([
  { name: "x", dtype: "F32", shape: [25_000], data: Float32Array.from({ length: 25_000 }, (_, i) => i) },
]);

/** A model, with files that are not needed. */
export const MODEL: Files = {
  "config.json": CONFIG,
  "tokenizer.json": "{}",
  [WEIGHTS]: TENSORS,
  "pytorch_model.bin": "not needed",
  "README.md": "not needed",
  ".gitattributes": "not needed",
};

/** A hub and an empty cache, and options that lead to both and read no environment variable. */
export async function withHub(
  files: Files,
  body: (hub: FakeHub, options: HubOptions & { readonly cacheDir: string }) => Promise<void>,
): Promise<void> {
  const cacheDir = await Deno.makeTempDir();
  try {
    await using hub = new FakeHub(files);
    await body(hub, { cacheDir, endpoint: hub.url, token: null, offline: false, timeout: 2000 });
  } finally {
    await Deno.remove(cacheDir, { recursive: true });
  }
}

/** Matches an error of the hub by its message. */
export function failure(message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert(error instanceof HubError, `not a HubError: ${error}`);
    assert.match(error.message, message);
    return true;
  };
}

/** Misbehaves the first time that the weights are asked for. */
export function once(
  answer: (usual: Answer, request: Request) => Answer,
): (request: Request, usual: Answer) => Answer {
  let done = false;
  return (request, usual) => {
    if (done || !request.path.endsWith(WEIGHTS)) return usual;
    done = true;
    return answer(usual, request);
  };
}

/** The names of what is in the cache, in order. */
export async function blobs(cacheDir: string): Promise<string[]> {
  const folder = join(cacheDir, "models--owner--name", "blobs");
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
}

/** Whether a folder has the model, byte for byte. */
export async function assertIntact(folder: string): Promise<void> {
  assert.equal(sha256(await Deno.readFile(join(folder, WEIGHTS))), sha256(TENSORS));
  assert.equal(await Deno.readTextFile(join(folder, "config.json")), CONFIG);
}

async function readHead(connection: Deno.Conn): Promise<string> {
  const buffer = new Uint8Array(1 << 14);
  let text = "";
  while (!text.includes("\r\n\r\n")) {
    const count = await connection.read(buffer);
    if (count === null) break;
    text += new TextDecoder().decode(buffer.subarray(0, count));
  }
  return text;
}

async function write(connection: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
}
