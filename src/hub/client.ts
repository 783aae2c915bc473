/**
 * What is asked of a hub: which commit a revision is and what its files are, and a file's bytes, from anywhere in it
 * to its end, through lost connections, silence and busy servers.
 *
 * It is a client of our own, and not `npm:@huggingface/hub`, because that (2.17) holds each file in memory as a whole,
 * and knows no progress, abort, resumption, offline mode or check of what arrived: what would remain of it is two
 * URLs. It deliberately knows nothing of the disk, and speaks plain HTTP, not the hub's chunk protocol (Xet).
 *
 * @module
 */

import { isNatural, isRecord } from "./json.ts";
import { isCommit } from "./names.ts";

/** A model that cannot be fetched; the message says why, and what to do. */
export class HubError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "HubError";
}

/** A file of a model. */
export interface RemoteFile {
  /** Its name. */
  readonly name: string;
  /** Bytes of it. */
  readonly size: number;
  /** The hash of its content: SHA-256 in 64 digits for large files, that of a git blob (SHA-1) in 40 for others. */
  readonly hash: string;
}

/** A model as it was at one commit. */
export interface RemoteRevision {
  /** The commit, in 40 digits. */
  readonly commit: string;
  /** The hub's description of each file, by name, unchecked. */
  readonly files: ReadonlyMap<string, unknown>;
}

/** How a {@linkcode HubClient} behaves. */
export interface ClientOptions {
  /** The hub, without a slash at the end. */
  readonly endpoint: string;
  /** Sent to the endpoint and to no other host. */
  readonly token: string | undefined;
  /** Milliseconds of silence after which a connection counts as lost. */
  readonly timeout: number;
  /** Ends everything with its reason. */
  readonly signal: AbortSignal | undefined;
}

/** Attempts without any progress before giving up. */
const ATTEMPTS = 5;

/** Redirects in a row that are followed; the hub needs two. */
const MAX_REDIRECTS = 8;

/** The most bytes that a description of a model may have; long ones have some thousand files. */
const MAX_DESCRIPTION_BYTES = 32 << 20;

/** Answers after which another attempt may succeed. */
const BUSY: readonly number[] = [408, 429, 500, 502, 503, 504];

/** A failure that may be over at the next attempt. */
class Hitch extends Error {
  /** @param wait milliseconds that the server asks to wait */
  constructor(message: string, readonly wait: number = 0) {
    super(message);
  }
}

/** One model on a hub. */
export class HubClient {
  readonly #repository: string;
  readonly #options: ClientOptions;
  /** Cleared when a server refuses ranges: it is then asked for the whole. */
  #ranges = true;

  /** @param repository `owner/name` */
  constructor(repository: string, options: ClientOptions) {
    this.#repository = repository;
    this.#options = options;
  }

  /**
   * The commit and the files that a branch, a tag or a commit stands for now.
   * @throws {HubError} if there is no such thing, it may not be read, or the hub cannot be reached
   */
  async revision(revision: string): Promise<RemoteRevision> {
    const { endpoint } = this.#options;
    const url = `${endpoint}/api/models/${this.#repository}/revision/${
      encodeURIComponent(revision)
    }?blobs=true`;
    const attempts = this.#attempts();
    for (;;) {
      try {
        return this.#parse(await this.#text(url, revision));
      } catch (error) {
        await attempts.failed(error);
      }
    }
  }

  /**
   * A file that a description names, checked.
   * @throws {HubError} if the hub does not say how large it is, or what its hash is
   */
  file({ commit, files }: RemoteRevision, name: string): RemoteFile {
    const entry = files.get(name);
    const { size, blobId, lfs } = isRecord(entry) ? entry : {};
    const hash = isRecord(lfs) ? lfs.sha256 : blobId;
    if (
      !isNatural(size) || typeof hash !== "string" ||
      !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash)
    ) {
      throw this.fault(`the hub does not say the size and the hash of "${name}" at ${commit}`);
    }
    return { name, size, hash };
  }

  /**
   * The bytes of a file from `start` to its end. A lost connection is made again and goes on where it broke.
   *
   * No `If-Range` is sent, as its validators differ from host to host behind the hub. The content has a known hash, which
   * the caller checks once all pieces are there.
   *
   * @throws {HubError} if they cannot be had, or are not as many as the file should have
   */
  async *bytes(commit: string, file: RemoteFile, start: number): AsyncGenerator<Uint8Array> {
    const url = `${this.#options.endpoint}/${this.#repository}/resolve/${commit}/${
      encodeURIComponent(file.name)
    }`;
    const attempts = this.#attempts();
    let at = start;
    while (at < file.size) {
      try {
        for await (const chunk of this.#range(url, file, at)) {
          yield chunk;
          at += chunk.length;
          attempts.reset();
        }
        if (at < file.size) throw new Hitch(`the connection ended at byte ${at} of ${file.size}`);
      } catch (error) {
        await attempts.failed(error);
      }
    }
  }

  /** One attempt at the bytes from `at` on; fewer if the connection ends. */
  async *#range(url: string, file: RemoteFile, at: number): AsyncGenerator<Uint8Array> {
    const ranged = at > 0 && this.#ranges;
    using connection = new Connection(this.#options);
    const response = await this.#get(connection, url, ranged ? { range: `bytes=${at}-` } : {});
    if (ranged && response.status === 416) {
      this.#ranges = false;
      throw new Hitch("the server refuses to go on where the download broke");
    }
    await this.#check(response, file.name);
    const { from, size } = response.status === 206
      ? contentRange(response)
      : { from: 0, size: contentLength(response.headers.get("content-length")) };
    if (from === undefined || from > at) {
      throw this.fault(`the server sent "${file.name}" from byte ${from} on, expected from ${at}`);
    }
    if (size !== undefined && size !== file.size) throw this.#wrongSize(file, `has ${size} bytes`);
    // a server that was asked for a range may send the whole file: bytes that are here already are skipped
    let surplus = at - from, left = file.size - at;
    for await (const chunk of connection.body(response)) {
      const fresh = chunk.subarray(surplus);
      surplus = Math.max(0, surplus - chunk.length);
      if ((left -= fresh.length) < 0) throw this.#wrongSize(file, "goes on");
      if (fresh.length > 0) yield fresh;
    }
  }

  /** One attempt at a short text. */
  async #text(url: string, revision: string): Promise<string> {
    using connection = new Connection(this.#options);
    const response = await this.#get(connection, url, {});
    await this.#check(response, revision);
    const decoder = new TextDecoder();
    let text = "", size = 0;
    for await (const chunk of connection.body(response)) {
      size += chunk.length;
      if (size > MAX_DESCRIPTION_BYTES) {
        throw this.fault(`its description has more than ${MAX_DESCRIPTION_BYTES} bytes`);
      }
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  }

  /** Asks, and follows redirects by hand: the token is for the endpoint and for no host that it names. */
  async #get(connection: Connection, url: string, headers: Record<string, string>): Promise<Response> {
    const { endpoint, token } = this.#options;
    const home = new URL(endpoint);
    let target = new URL(url);
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      const authorization = token !== undefined && target.origin === home.origin;
      const response = await connection.get(target, {
        ...headers,
        "accept-encoding": "identity", // ranges and sizes are of the file itself
        ...(authorization ? { authorization: `Bearer ${token}` } : {}),
      });
      const location = response.headers.get("location");
      if (response.status < 300 || response.status >= 400 || location === null) return response;
      await response.body?.cancel();
      const next = URL.parse(location, target);
      if (next === null || next.protocol !== "https:" && next.protocol !== home.protocol) {
        throw this.fault(`the hub redirects to ${JSON.stringify(location)}, expected an https URL`);
      }
      target = next;
    }
    throw this.fault(`the hub redirects more than ${MAX_REDIRECTS} times`);
  }

  /** Throws unless an answer has the content; the message says why not, and what to do. */
  async #check(response: Response, what: string): Promise<void> {
    const { status, headers } = response;
    if (status === 200 || status === 206) return;
    await response.body?.cancel();
    const { endpoint, token } = this.#options;
    const page = `${endpoint}/${this.#repository}`;
    if (BUSY.includes(status)) {
      throw new Hitch(
        status === 429
          ? "the hub answers 429: too many requests"
          : `the hub answers ${status}: it is busy or broken`,
        retryAfter(headers.get("retry-after")),
      );
    }
    switch (status) {
      case 401:
        throw this.fault(
          token === undefined
            ? "the hub answers 401: it does not exist or is not public; set HF_TOKEN to a token that may read it"
            : "the hub answers 401: it does not exist, or the token may not read it",
        );
      case 403:
        throw this.fault(
          `the hub answers 403: access is restricted; ask for it at ${page}, and set HF_TOKEN to a token that has it`,
        );
      case 404:
        throw this.fault(
          headers.get("x-error-code") === "RepoNotFound"
            ? `the hub answers 404: there is no such model at ${endpoint}`
            : `the hub answers 404: there is no such model, or it has no "${what}"`,
        );
    }
    throw this.fault(`the hub answers ${status}, expected 200`);
  }

  #parse(text: string): RemoteRevision {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw this.fault("the hub's description of it is not valid JSON");
    }
    const { sha, siblings } = isRecord(value) ? value : {};
    if (typeof sha !== "string" || !isCommit(sha) || !Array.isArray(siblings)) {
      throw this.fault('the hub\'s description of it has no commit "sha" and files "siblings"');
    }
    return {
      commit: sha,
      files: new Map(siblings.filter(isRecord).map((file) => [String(file.rfilename), file])),
    };
  }

  #attempts(): Attempts {
    return new Attempts(this.#options, (what) => this.fault(what));
  }

  #wrongSize({ name, size }: RemoteFile, found: string): HubError {
    return this.fault(`"${name}" ${found} on the server, expected ${size} bytes as the hub says`);
  }

  /** The error that says why the model cannot be fetched. */
  fault(what: string): HubError {
    return new HubError(`Cannot fetch "${this.#repository}": ${what}`);
  }
}

/** One connection. It counts as lost after some time of silence, and is closed when it is disposed. */
class Connection implements Disposable {
  readonly #abort: AbortController = new AbortController();
  readonly #options: ClientOptions;

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** The answer to a request; no redirect is followed. */
  async get(url: URL, headers: Record<string, string>): Promise<Response> {
    const { signal } = this.#options;
    const either = signal === undefined ? this.#abort.signal : AbortSignal.any([signal, this.#abort.signal]);
    return await this.#expect(fetch(url, { headers, redirect: "manual", signal: either }), url.host);
  }

  /** The bytes of an answer. */
  async *body(response: Response): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    if (reader === undefined) return;
    for (;;) {
      const { done, value } = await this.#expect(reader.read(), "the server");
      if (done) return;
      yield value;
    }
  }

  [Symbol.dispose](): void {
    this.#abort.abort();
  }

  /** Waits for an answer from the network, no longer than silence may last. */
  async #expect<T>(answer: Promise<T>, host: string): Promise<T> {
    const { timeout, signal } = this.#options;
    const silence = new Hitch(`${host} says nothing for ${timeout / 1000} s`);
    const timer = setTimeout(() => this.#abort.abort(silence), timeout);
    try {
      return await answer;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof Hitch) throw error;
      if (error instanceof Deno.errors.NotCapable) {
        throw new Deno.errors.NotCapable(
          `Cannot connect to ${host}: permission is missing; run with --allow-net="${host}" or, as the hub sends ` +
            `downloads to other hosts, --allow-net="huggingface.co,*.huggingface.co,*.hf.co"; or fetch the model ` +
            "beforehand with the command models pull",
          { cause: error },
        );
      }
      throw new Hitch(`the connection to ${host} failed (${deepest(error)})`);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Counts failures in a row, and waits after each. */
class Attempts {
  readonly #options: ClientOptions;
  readonly #giveUp: (what: string) => Error;
  #failures = 0;

  constructor(options: ClientOptions, giveUp: (what: string) => Error) {
    this.#options = options;
    this.#giveUp = giveUp;
  }

  /** There was progress. */
  reset(): void {
    this.#failures = 0;
  }

  /** Waits for the next attempt; throws if there should be none. */
  async failed(error: unknown): Promise<void> {
    const { timeout, signal } = this.#options;
    if (!(error instanceof Hitch)) throw error;
    if (++this.#failures >= ATTEMPTS) {
      throw this.#giveUp(
        `${error.message}; gave up after ${ATTEMPTS} attempts: try again later, what has arrived is kept`,
      );
    }
    if (error.wait > 2 * timeout) {
      throw this.#giveUp(`${error.message}, and asks to wait ${Math.ceil(error.wait / 1000)} s`);
    }
    await pause(Math.max(error.wait, timeout / 60 * 2 ** (this.#failures - 1)), signal);
  }
}

/** Waits, or ends with the signal's reason. */
export function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const end = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", end);
      resolve();
    }, ms);
    signal?.addEventListener("abort", end, { once: true });
  });
}

/** `Content-Range: bytes 100-199/200` */
function contentRange({ headers }: Response): { from: number | undefined; size: number | undefined } {
  const [, from, size] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get("content-range") ?? "") ?? [];
  return { from: contentLength(from), size: contentLength(size) };
}

function contentLength(text: string | null | undefined): number | undefined {
  return text && /^\d+$/.test(text) ? Number(text) : undefined;
}

/** Milliseconds that `Retry-After` asks to wait: seconds, or a date. */
function retryAfter(text: string | null): number {
  if (text === null) return 0;
  const ms = /^\d+$/.test(text) ? 1000 * Number(text) : Date.parse(text) - Date.now();
  return Math.max(0, ms || 0);
}

/** The message of an error's innermost cause, where `fetch` puts the reason; without URLs, which may be secret. */
function deepest(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.cause !== undefined) return deepest(error.cause);
  return error.message.replace(/^error sending request.*?: (?=client error)/, "").replace(
    /https?:\/\/[^\s)]+/g,
    "URL",
  );
}
