/**
 * A file of tensors in any format: where each tensor's bytes lie, and how they become f32. Values are read in ranges,
 * never more than asked for.
 *
 * Deliberately absent: the formats, which say where tensors are (`safetensors.ts`, `torch.ts`).
 *
 * @module
 */

import { CheckpointError } from "../model/weights.ts";
import type { ByteSource } from "./files.ts";
import { isNatural } from "./json.ts";

/** Bytes per element of the dtypes a file may name; not all of them can be read as f32. */
export const ELEMENT_BYTES: ReadonlyMap<string, number> = new Map(Object.entries({
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

/** The most bytes requested of a file at once, and the most f32 handed on in one chunk of rows. */
export const CHUNK_BYTES: number = 1 << 20;

/** One tensor of a file, as its header describes it. */
export interface TensorInfo {
  /** Its name. */
  readonly name: string;
  /** In the spelling of safetensors: `F32`, `F16`, `BF16`, `I8`, … */
  readonly dtype: string;
  /** Its shape; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Bytes it takes in the file. */
  readonly bytes: number;
  /** Where they begin, from the start of the file. */
  readonly start: number;
  /** F16 of which first all low bytes are stored, then all high ones: so they compress better. @default {false} */
  readonly planes?: boolean;
}

/** An open file whose tensors are known. */
export class TensorFile implements Disposable {
  /** The file's path, for messages. */
  readonly path: string;
  /** Its tensors, by name, in the order of the file's own list. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly #source: ByteSource;
  /** Where raw bytes land: one buffer for all reads, which therefore wait for one another. */
  #raw: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  /** Where planes land. */
  #planes: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #lastRead: Promise<void> = Promise.resolve();

  /**
   * Made by the functions that open a format; most people want a `Checkpoint`.
   *
   * @param source owned by the file from here on
   * @param path what messages call it
   * @param tensors proved to lie within `source`, each of the size its shape says
   */
  constructor(source: ByteSource, path: string, tensors: ReadonlyMap<string, TensorInfo>) {
    this.#source = source;
    this.path = path;
    this.tensors = tensors;
  }

  /**
   * Reads elements [first, first + out.length) of a tensor, in row-major order, as f32.
   *
   * @param out receives them
   * @throws {CheckpointError} if the tensor's dtype cannot be read as f32
   * @throws {RangeError} if the tensor has no such elements
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
    const elements = tensor.shape.reduce((product, n) => product * n, 1);
    if (!isNatural(first) || first + out.length > elements) {
      throw new RangeError(
        `Cannot read tensor "${tensor.name}": elements [${first}, ${
          first + out.length
        }) are not within [0, ${elements})`,
      );
    }
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
      if (tensor.planes) await this.#readPlanes(tensor, first + at, count);
      else await this.#source.read(this.#raw.subarray(0, count * size), tensor.start + (first + at) * size);
      convert(out.subarray(at, at + count), this.#raw.buffer);
    }
  }

  /** Reads `count` f16 whose bytes lie apart. */
  async #readPlanes(tensor: TensorInfo, first: number, count: number): Promise<void> {
    if (this.#planes.length < 2 * count) this.#planes = new Uint8Array(2 * count);
    const low = this.#planes.subarray(0, count), high = this.#planes.subarray(count, 2 * count);
    await this.#source.read(low, tensor.start + first);
    await this.#source.read(high, tensor.start + tensor.bytes / 2 + first);
    for (let i = 0; i < count; i++) {
      this.#raw[2 * i] = low[i];
      this.#raw[2 * i + 1] = high[i];
    }
  }
}

/** The error for a file that cannot be loaded. */
export function fault(path: string, what: string): CheckpointError {
  return new CheckpointError(`Cannot load checkpoint "${path}": ${what}`);
}

/**
 * Throws if a file is a pointer of Git LFS, which a clone without LFS has in its place.
 * @param head its first 8 bytes
 */
export function refusePointer(head: Uint8Array, path: string): void {
  if (new TextDecoder().decode(head.subarray(0, 8)) !== "version ") return;
  throw fault(path, "it is a pointer of Git LFS, expected the file itself; run git lfs pull in its folder");
}
