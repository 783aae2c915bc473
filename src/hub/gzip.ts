/**
 * A gzip file as a source of bytes. Gzip can only be inflated from its beginning on, and what it holds may be larger
 * than the memory: so tensors come from passes over the file, in which small ones are kept and large ones go by.
 *
 * Deliberately absent: writing, and any knowledge of what the ranges mean that are read as one.
 *
 * @module
 */

import { pipeline, Readable } from "node:stream";
import { createGunzip, type Gunzip } from "node:zlib";
import { type ByteSource, fileSource } from "./files.ts";
import { fault } from "./tensor_file.ts";

/** A range of the inflated bytes that is read as one. */
export interface Span {
  /** Where it begins. */
  readonly start: number;
  /** Bytes of it. */
  readonly bytes: number;
  /** Whether it is read in two places by turns, and therefore held as a whole, whatever its size. */
  readonly planes?: boolean;
}

/** Bytes of the file that are read at once. */
const PIECE_BYTES = 1 << 16;

/** Bytes that are inflated at once, however many a piece of the file stands for. */
const INFLATED_BYTES = 1 << 18;

/** Spans up to this size are kept when a pass meets them: they are read out of order, and make up little. */
const SMALL_BYTES = 1 << 16;

/** The most bytes that are kept: all of a small file, and the small spans of a large one. */
const KEPT_BYTES = 4 << 20;

/** Larger spans, which embeddings are, are mostly read in order: held as a whole only once they turn out not to be. */
const LARGE_BYTES = 32 << 20;

/** More bytes than this are not believed of a file that is so much smaller that they can be no weights. */
const BELIEVED_BYTES = 64 << 20, BELIEVED_RATIO = 32;

/** One pass over the inflated bytes. */
class Pass implements Disposable {
  /** Where the next byte lies. */
  at = 0;
  readonly #path: string;
  readonly #inflate: Gunzip;
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(source: ByteSource, path: string) {
    this.#path = path;
    this.#inflate = createGunzip({ chunkSize: INFLATED_BYTES });
    // who reads the bytes is told of errors, and nobody waits for the end
    pipeline(Readable.from(pieces(source), { objectMode: false }), this.#inflate, () => {});
    this.#chunks = this.#inflate[Symbol.asyncIterator]();
  }

  /** Fills `into` with the next bytes. @returns how many there were, fewer only at the end */
  async read(into: Uint8Array): Promise<number> {
    return await this.#each(into.length, (part, filled) => into.set(part, filled));
  }

  /** Passes over bytes. @returns how many there were, fewer only at the end */
  async skip(count: number): Promise<number> {
    return await this.#each(count, () => {});
  }

  [Symbol.dispose](): void {
    this.#inflate.destroy();
  }

  /** Takes `count` bytes in parts, each with how many came before it. */
  async #each(count: number, take: (part: Uint8Array, before: number) => void): Promise<number> {
    let taken = 0;
    while (taken < count) {
      if (this.#rest.length === 0) {
        const { done, value } = await this.#chunks.next().catch((error) => {
          const { code, message } = error as { readonly code?: string; readonly message: string };
          throw code?.startsWith("Z_")
            ? fault(this.#path, `it is not a whole gzip file (${message}); fetch or copy it again`)
            : error;
        });
        if (done) break;
        this.#rest = value;
      }
      const part = this.#rest.subarray(0, count - taken);
      take(part, taken);
      this.#rest = this.#rest.subarray(part.length);
      this.at += part.length;
      taken += part.length;
    }
    return taken;
  }
}

/** All bytes of a source, in order. */
async function* pieces(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.size; at += PIECE_BYTES) {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, source.size - at));
    await source.read(piece, at);
    yield piece;
  }
}

/**
 * The first bytes of what a gzip file holds, at most `most` of them.
 * @throws {CheckpointError} if it is not gzip, or breaks before they are there
 * @throws as {@linkcode fileSource}
 */
export async function gzipHead(path: string, most: number): Promise<Uint8Array> {
  using source = await fileSource(path);
  using pass = new Pass(source, path);
  const head = new Uint8Array(most);
  return head.subarray(0, await pass.read(head));
}

/** What a gzip file holds, inflated as it is asked for. */
export class GzipSource implements ByteSource {
  /** Inflated bytes; if there are more than were expected, one more than that. */
  readonly size: number;
  readonly #path: string;
  readonly #source: ByteSource;
  readonly #spans: readonly Span[];
  readonly #kept: ReadonlyMap<Span, Uint8Array>;
  #pass: Pass | undefined;
  /** The span that was read last. */
  #last: Span | undefined;
  /** The span that is held, and its bytes, in a buffer that the next one will have. */
  #held: Span | undefined;
  #buffer: Uint8Array = new Uint8Array(0);

  private constructor(
    path: string,
    source: ByteSource,
    size: number,
    spans: readonly Span[],
    kept: ReadonlyMap<Span, Uint8Array>,
  ) {
    this.#path = path;
    this.#source = source;
    this.size = size;
    this.#spans = spans;
    this.#kept = kept;
  }

  /**
   * Opens a file, and inflates it once: it is then known to be whole.
   *
   * Memory: 4 MiB of spans that are kept, and at most one other, which is not held if it is large and read in order.
   *
   * @param spans what lies in it, in order and without gaps; a read keeps within one. Of what is behind the last, no
   * more than a byte is inflated
   * @throws {CheckpointError} if it is not gzip, not whole, or says to hold more than it can
   * @throws as {@linkcode fileSource}
   */
  static async open(path: string, spans: readonly Span[]): Promise<GzipSource> {
    const source = await fileSource(path);
    try {
      const { start, bytes } = spans[spans.length - 1], size = start + bytes;
      if (size > BELIEVED_BYTES && size > BELIEVED_RATIO * source.size) {
        throw fault(
          path,
          `its header tells of ${size} bytes, expected at most ${BELIEVED_RATIO} times the ${source.size} of the file`,
        );
      }
      using pass = new Pass(source, path);
      const kept = new Map<Span, Uint8Array>();
      let left = KEPT_BYTES;
      for (const span of spans) {
        const isSmall = span.bytes <= (size <= KEPT_BYTES ? KEPT_BYTES : SMALL_BYTES);
        if (isSmall && span.bytes <= left) {
          const copy = new Uint8Array(span.bytes);
          await pass.read(copy);
          kept.set(span, copy);
          left -= span.bytes;
        } else await pass.skip(span.bytes);
      }
      await pass.skip(1);
      return new GzipSource(path, source, pass.at, spans, kept);
    } catch (error) {
      source[Symbol.dispose]();
      throw error;
    }
  }

  /** As {@linkcode ByteSource} says. */
  async read(into: Uint8Array, position: number): Promise<void> {
    const span = this.#spanAt(position), from = position - span.start;
    const again = this.#pass !== undefined && this.#pass.at > position && this.#last === span;
    const bytes = this.#kept.get(span) ??
      (span.planes || span.bytes <= LARGE_BYTES || again ? await this.#hold(span) : undefined);
    if (bytes === undefined) await this.#fill(into, position);
    else into.set(bytes.subarray(from, from + into.length));
    this.#last = span;
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#pass?.[Symbol.dispose]();
    this.#source[Symbol.dispose]();
  }

  /** All bytes of a span. */
  async #hold(span: Span): Promise<Uint8Array> {
    if (this.#buffer.length < span.bytes) this.#buffer = new Uint8Array(span.bytes);
    const bytes = this.#buffer.subarray(0, span.bytes);
    if (this.#held !== span) {
      this.#held = undefined;
      await this.#fill(bytes, span.start);
      this.#held = span;
    }
    return bytes;
  }

  /** Fills `into` from a pass, which begins anew if the last one is past the position. */
  async #fill(into: Uint8Array, position: number): Promise<void> {
    if (this.#pass === undefined || this.#pass.at > position) {
      this.#pass?.[Symbol.dispose]();
      this.#pass = new Pass(this.#source, this.#path);
    }
    await this.#pass.skip(position - this.#pass.at);
    const filled = await this.#pass.read(into);
    if (filled === into.length) return;
    throw fault(
      this.#path,
      `it ends at byte ${position + filled}, expected ${
        position + into.length
      }: it has changed since it was opened`,
    );
  }

  /** The last span that begins at a position or before it. */
  #spanAt(position: number): Span {
    let first = 0, last = this.#spans.length - 1;
    while (first < last) {
      const middle = (first + last + 1) >> 1;
      if (this.#spans[middle].start <= position) first = middle;
      else last = middle - 1;
    }
    return this.#spans[first];
  }
}
