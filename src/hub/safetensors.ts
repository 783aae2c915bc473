/**
 * The safetensors format: an 8-byte little-endian length, a JSON header, and the tensors' bytes. The header is
 * read and proved consistent when a file is opened; values are read in ranges, as f32, never more than asked for.
 *
 * Deliberately absent: writing, memory mapping, and any knowledge of models.
 *
 * @module
 */

import { brief, CheckpointError } from "../model/weights.ts";
import type { ByteSource } from "./files.ts";
import { isRecord, parseObject } from "./json.ts";

/** Bytes per element of the dtypes a header may name; not all of them can be read as f32. */
const ELEMENT_BYTES: ReadonlyMap<string, number> = new Map(Object.entries({
  ...{ BOOL: 1, U8: 1, I8: 1, F8_E4M3: 1, F8_E5M2: 1, F8_E8M0: 1 },
  ...{ U16: 2, I16: 2, F16: 2, BF16: 2 },
  ...{ U32: 4, I32: 4, F32: 4 },
  ...{ U64: 8, I64: 8, F64: 8, C64: 8 },
}));

/** How the first out.length little-endian elements of a buffer become f32, for the dtypes that can be read. */
const CONVERSIONS: ReadonlyMap<string, (out: Float32Array, raw: ArrayBuffer) => void> = new Map(
  Object.entries({
    F32: (out: Float32Array, raw: ArrayBuffer) => out.set(new Float32Array(raw, 0, out.length)),
    F16: (out: Float32Array, raw: ArrayBuffer) => out.set(new Float16Array(raw, 0, out.length)),
    F64: (out: Float32Array, raw: ArrayBuffer) => out.set(new Float64Array(raw, 0, out.length)),
    I8: (out: Float32Array, raw: ArrayBuffer) => out.set(new Int8Array(raw, 0, out.length)),
    I32: (out: Float32Array, raw: ArrayBuffer) => out.set(new Int32Array(raw, 0, out.length)),
    I64(out: Float32Array, raw: ArrayBuffer): void {
      const values = new BigInt64Array(raw, 0, out.length);
      for (let i = 0; i < out.length; i++) out[i] = Number(values[i]);
    },
    BF16(out: Float32Array, raw: ArrayBuffer): void {
      // a bf16 is the upper half of an f32
      const values = new Uint16Array(raw, 0, out.length);
      const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
      for (let i = 0; i < out.length; i++) bits[i] = values[i] << 16;
    },
  }),
);

/**
 * The longest header that is read: some fifty times what the models here have. The reference implementation takes
 * 100 MB, which hostile JSON makes last half a minute and take gigabytes.
 */
const MAX_HEADER_BYTES = 8_000_000;

/** The most axes of a tensor. */
const MAX_AXES = 16;

/** The most bytes requested of a file at once, and the most f32 handed on in one chunk of rows. */
export const CHUNK_BYTES: number = 1 << 20;

/** What a header says of one tensor. */
export interface TensorInfo {
  /** Its name. */
  readonly name: string;
  /** As the file spells it: `F32`, `F16`, `BF16`, `I8`, … */
  readonly dtype: string;
  /** Its shape; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Bytes it takes in the file. */
  readonly bytes: number;
  /** Where they begin, from the start of the file. */
  readonly start: number;
}

/** An open safetensors file whose header has been validated. */
export class Safetensors implements Disposable {
  /** The file's path, for messages. */
  readonly path: string;
  /** Its tensors, by name, in the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly #source: ByteSource;
  /** Where raw bytes land: one buffer for all reads, which therefore wait for one another. */
  #raw: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #lastRead: Promise<void> = Promise.resolve();

  private constructor(source: ByteSource, path: string, tensors: ReadonlyMap<string, TensorInfo>) {
    this.#source = source;
    this.path = path;
    this.tensors = tensors;
  }

  /**
   * Reads and validates the header. The result owns `source`; on failure it is closed.
   *
   * @param path what messages call it
   * @throws {CheckpointError} if the file is truncated, or its header is impossible in any way
   */
  static async open(source: ByteSource, path: string): Promise<Safetensors> {
    try {
      return new Safetensors(source, path, await readHeader(source, path));
    } catch (error) {
      source[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Reads elements [first, first + out.length) of a tensor, in row-major order, as f32.
   *
   * @param out receives them
   * @throws {CheckpointError} if the tensor's dtype cannot be read as f32
   */
  read(tensor: TensorInfo, first: number, out: Float32Array): Promise<void> {
    const read = this.#lastRead.then(() => this.#read(tensor, first, out));
    this.#lastRead = read.catch(() => {});
    return read;
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#source[Symbol.dispose]();
  }

  async #read(tensor: TensorInfo, first: number, out: Float32Array): Promise<void> {
    const convert = CONVERSIONS.get(tensor.dtype);
    if (convert === undefined) {
      throw fault(
        this.path,
        `tensor "${tensor.name}" has dtype ${tensor.dtype}, expected one of ${
          [...CONVERSIONS.keys()].join(", ")
        }`,
      );
    }
    const size = ELEMENT_BYTES.get(tensor.dtype)!;
    const step = CHUNK_BYTES / size;
    for (let at = 0; at < out.length; at += step) {
      const count = Math.min(step, out.length - at);
      if (this.#raw.length < count * size) this.#raw = new Uint8Array(Math.ceil(count * size / 8) * 8);
      await this.#source.read(this.#raw.subarray(0, count * size), tensor.start + (first + at) * size);
      convert(out.subarray(at, at + count), this.#raw.buffer);
    }
  }
}

/** Reads the header, which must account for the whole file. */
async function readHeader(source: ByteSource, path: string): Promise<Map<string, TensorInfo>> {
  const prefix = new Uint8Array(Math.min(8, source.size));
  await source.read(prefix, 0);
  const start = dataStart(prefix, path);
  const head = new Uint8Array(Math.min(start, source.size));
  await source.read(head, 0);
  const { tensors, end } = parseHead(head, path);
  if (end !== source.size) {
    const cut = tensors.values().find((tensor) => tensor.start + tensor.bytes > source.size);
    throw fault(
      path,
      `the file has ${source.size} bytes, expected ${end}: ` +
        (cut === undefined ? "it goes on after its last tensor" : `tensor ${brief(cut.name)} is cut off`),
    );
  }
  return tensors;
}

/**
 * Where a file's header ends, as its first 8 bytes say.
 * @throws {CheckpointError} if there are fewer, or that is more than a header may have
 */
export function dataStart(prefix: Uint8Array, path: string): number {
  if (prefix.length < 8) throw fault(path, `the file has ${prefix.length} bytes, expected at least 8`);
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw fault(path, `the header's length is ${length} bytes, expected at most ${MAX_HEADER_BYTES}`);
  }
  return 8 + Number(length);
}

/**
 * How many bytes a file must have, as its header says.
 * @param head the file up to where its header ends
 * @throws {CheckpointError} if that is cut off, or impossible in any way
 */
export function declaredSize(head: Uint8Array, path: string): number {
  return parseHead(head, path).end;
}

/** The tensors of a header, each of the size its shape says, none overlapping another, and where the last ends. */
function parseHead(head: Uint8Array, path: string): { tensors: Map<string, TensorInfo>; end: number } {
  const start = dataStart(head.subarray(0, 8), path);
  if (head.length < start) {
    throw fault(path, `the file has ${head.length} bytes, expected at least ${start} for its header`);
  }
  const header = parseObject(head.subarray(8), "the header", (what) => fault(path, what));
  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of Object.entries(header)) {
    if (name !== "__metadata__") tensors.set(name, parseEntry(name, entry, start, path));
  }
  let end = start;
  for (const tensor of [...tensors.values()].sort((a, b) => a.start - b.start || a.bytes - b.bytes)) {
    if (tensor.start !== end) {
      throw fault(
        path,
        `tensor ${brief(tensor.name)} begins at byte ${tensor.start - start} of the data, expected ${
          end - start
        }: tensors must neither overlap nor leave gaps`,
      );
    }
    end += tensor.bytes;
  }
  return { tensors, end };
}

/** One entry of the header, checked on its own. */
function parseEntry(name: string, entry: unknown, dataStart: number, path: string): TensorInfo {
  const wrong = (what: string) => fault(path, `tensor ${brief(name)} ${what}`);
  if (!isRecord(entry)) throw wrong("is not described by a JSON object");
  const { dtype, shape, data_offsets: offsets } = entry;
  const size = typeof dtype === "string" ? ELEMENT_BYTES.get(dtype) : undefined;
  if (size === undefined) {
    throw wrong(
      `has dtype ${brief(dtype)}, expected one of ${[...ELEMENT_BYTES.keys()].join(", ")}`,
    );
  }
  if (!isNaturals(shape) || shape.length > MAX_AXES) {
    throw wrong(`has shape ${brief(shape)}, expected a list of at most ${MAX_AXES} non-negative integers`);
  }
  if (!isNaturals(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw wrong(`has data_offsets ${brief(offsets)}, expected [begin, end]`);
  }
  const found = offsets[1] - offsets[0];
  const expected = shape.reduce((product, n) => product * n, size);
  if (found !== expected) {
    throw wrong(`of shape [${shape.join(", ")}] and dtype ${dtype} has ${found} bytes, expected ${expected}`);
  }
  return { name, dtype: dtype as string, shape, bytes: found, start: dataStart + offsets[0] };
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function fault(path: string, what: string): CheckpointError {
  return new CheckpointError(`Cannot load checkpoint "${path}": ${what}`);
}
