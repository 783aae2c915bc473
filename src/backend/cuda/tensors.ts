/**
 * Matrices, vectors, activations, tokens and caches of the CUDA backend: ranges of the device's memory with a shape.
 * They compute nothing. `ffi/kernels/layout.cuh` explains the layout of matrices and rows.
 *
 * @module
 */

import type {
  Activation,
  Cache,
  CacheOptions,
  Dtype,
  Matrix,
  MatrixOptions,
  TokenBuffer,
  Vector,
} from "../backend.ts";
import {
  checkAdvance,
  checkSlice,
  checkTokenCount,
  checkTokenSlice,
  checkTruncate,
  checkWrite,
} from "../check.ts";
import type { Growing } from "../buffers.ts";
import { checkDrawn, checkLaws } from "./faults.ts";
import { HALF_HEADS } from "./kernels.ts";
import { Block, type Queue } from "./memory.ts";
import { Passes } from "./passes.ts";

/** How the kernels number the dtypes. */
export const formats: Readonly<Record<Dtype, number>> = { f32: 0, f16: 1, bf16: 2, int8: 3 };

/** Bytes of an entry. */
const entryBytes: Readonly<Record<Dtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

/** Columns with their padding. */
export function padded(columns: number): number {
  return Math.ceil(columns / 16) * 16;
}

/** Outputs of one block of a projection. */
export function panelOutputs(dtype: Dtype): number {
  return dtype === "f16" || dtype === "bf16" ? 16 : 32;
}

/** Bytes of a packed matrix, scales and sums of int8 channels included. */
export function matrixBytes({ outputs, inputs, dtype }: MatrixOptions): number {
  const panel = panelOutputs(dtype), rows = Math.ceil(outputs / panel) * panel;
  return rows * (padded(inputs) * entryBytes[dtype] + (dtype === "int8" ? 8 : 0));
}

/** Tiles or panels; for int8 followed by a scale and then a sum for each output. */
export class CudaMatrix extends Block implements Matrix {
  /** @inheritdoc */
  readonly outputs: number;
  /** @inheritdoc */
  readonly inputs: number;
  /** @inheritdoc */
  readonly dtype: Dtype;
  /** Whether it may be multiplied by in any order. */
  readonly anyOrder: boolean;
  /** f16 and bf16: a copy that is row-major, [outputs, inputs], both padded with zeros; `null` if there is to be none. */
  rows: Block | null | undefined;
  readonly #packed: number;

  /** Zeros; rows are packed into it later. */
  constructor(queue: Queue, options: MatrixOptions) {
    const { outputs, inputs, dtype, anyOrder = false } = options, bytes = matrixBytes(options);
    super(queue, bytes, "a matrix");
    this.outputs = outputs;
    this.inputs = inputs;
    this.dtype = dtype;
    this.anyOrder = anyOrder;
    this.#packed = bytes;
  }

  /** Gives up the row-major copy for good. */
  withoutRows(): void {
    this.rows?.[Symbol.dispose]();
    this.rows = null;
  }

  /** @inheritdoc */
  get bytes(): number {
    return this.rows ? 2 * this.#packed : this.#packed;
  }

  /** int8: address of [outputs] f32. */
  get scales(): bigint {
    return this.sums - BigInt(Math.ceil(this.outputs / 32) * 128);
  }

  /** int8: address of [outputs] i32. */
  get sums(): bigint {
    return this.pointer + BigInt(this.#packed - Math.ceil(this.outputs / 32) * 128);
  }

  /** @inheritdoc */
  override [Symbol.dispose](): void {
    this.rows?.[Symbol.dispose]();
    super[Symbol.dispose]();
  }
}

/** f32, padded with zeros. */
export class CudaVector extends Block implements Vector {
  /** @inheritdoc */
  readonly length: number;
  /** As inverse frequencies: cosines, then sines, of the first positions. */
  rotation: Growing<Block> | undefined;

  /** A copy of `values`. */
  constructor(queue: Queue, values: Float32Array) {
    super(queue, padded(values.length) * 4, "a vector");
    this.length = values.length;
    queue.stream.upload(this.pointer, values.slice());
  }

  /** @inheritdoc */
  override [Symbol.dispose](): void {
    this.rotation?.[Symbol.dispose]();
    super[Symbol.dispose]();
  }
}

/** Rows, and the sums of their groups of 16 columns that a norm needs (`Group` of `layout.cuh`), if a kernel wrote them. */
export class RowBlock extends Block {
  /** [rows, groups], made when first needed. */
  #groups: Block | undefined;
  /** The rows whose groups are known. */
  known: { readonly start: number; readonly end: number } = { start: 0, end: 0 };

  /** Zeros. */
  constructor(queue: Queue, readonly rows: number, readonly columns: number) {
    super(queue, rows * padded(columns) * 4, "an activation");
  }

  /** Address of the groups of a row. */
  groups(row: number): bigint {
    const bytes = padded(this.columns) / 16 * 8;
    this.#groups ??= new Block(this.queue, this.rows * bytes, "an activation", 0);
    return this.#groups.pointer + BigInt(row * bytes);
  }

  /** @inheritdoc */
  override [Symbol.dispose](): void {
    this.#groups?.[Symbol.dispose]();
    super[Symbol.dispose]();
  }
}

/** Rows of f32, each padded with zeros. */
export class CudaActivation implements Activation {
  /** @inheritdoc */
  readonly rows: number;
  /** @inheritdoc */
  readonly columns: number;
  readonly #block: RowBlock;
  readonly #start: number;
  readonly #isView: boolean;

  /** Rows [start, start + rows) of a block. */
  constructor(block: RowBlock, start: number, rows: number, isView: boolean = false) {
    this.#block = block;
    this.#start = start;
    this.#isView = isView;
    this.rows = rows;
    this.columns = block.columns;
  }

  /** Where from. */
  get queue(): Queue {
    return this.#block.queue;
  }

  /** Address of row 0. */
  get pointer(): bigint {
    return this.#block.pointer + BigInt(this.#start * padded(this.columns) * 4);
  }

  /** Address of the groups of row 0. */
  get groups(): bigint {
    return this.#block.groups(this.#start);
  }

  /** Whether the groups are those of the contents. */
  get grouped(): boolean {
    const { start, end } = this.#block.known;
    return start <= this.#start && this.#start + this.rows <= end;
  }

  /** Notes that the contents are about to change, and whether the groups change with them. */
  changes(withGroups: boolean): void {
    const start = this.#start, end = start + this.rows, { known } = this.#block;
    if (withGroups) this.#block.known = this.grouped ? known : { start, end };
    else if (start < known.end && known.start < end) this.#block.known = { start: 0, end: 0 };
    this.queue.changed?.add(this.#block);
  }

  /** Bytes with the padding. */
  get bytes(): number {
    return this.rows * padded(this.columns) * 4;
  }

  /** @inheritdoc */
  slice(start: number, count: number): CudaActivation {
    checkSlice(this.rows, start, count);
    return new CudaActivation(this.#block, this.#start + start, count, true);
  }

  /** @inheritdoc */
  read(): Float32Array {
    const { rows, columns } = this, stride = padded(columns);
    const all = new Float32Array((rows - 1) * stride + columns);
    this.queue.stream.download(all, this.pointer);
    this.queue.stream.synchronize();
    checkLaws(all, stride);
    for (let r = 1; r < rows && stride > columns; r++) {
      all.copyWithin(r * columns, r * stride, r * stride + columns);
    }
    return all.subarray(0, rows * columns);
  }

  /** @inheritdoc */
  write(values: Float32Array): void {
    checkWrite(this, values.length);
    this.changes(false);
    const { rows, columns } = this, stride = padded(columns);
    const all = new Float32Array(rows * stride);
    for (let r = 0; r < rows; r++) all.set(values.subarray(r * columns, (r + 1) * columns), r * stride);
    this.queue.stream.upload(this.pointer, all);
  }

  /** @inheritdoc */
  [Symbol.dispose](): void {
    if (!this.#isView) this.#block[Symbol.dispose]();
  }
}

/** Ids as i32. */
export class CudaTokens implements TokenBuffer {
  /** @inheritdoc */
  readonly capacity: number;
  readonly #block: Block;
  readonly #start: number;
  readonly #isView: boolean;

  /** Ids [start, start + capacity) of a block. */
  constructor(block: Block, start: number, capacity: number, isView: boolean = false) {
    this.#block = block;
    this.#start = start;
    this.#isView = isView;
    this.capacity = capacity;
  }

  /** Where from. */
  get queue(): Queue {
    return this.#block.queue;
  }

  /** Address of the first id. */
  get pointer(): bigint {
    return this.#block.pointer + BigInt(this.#start * 4);
  }

  /** @inheritdoc */
  read(count: number = this.capacity): Int32Array {
    checkTokenCount(this.capacity, count);
    const ids = new Int32Array(count);
    if (count > 0) this.queue.stream.download(ids, this.pointer);
    this.queue.stream.synchronize();
    checkDrawn(ids);
    return ids;
  }

  /** @inheritdoc */
  write(tokens: ArrayLike<number>): void {
    checkTokenCount(this.capacity, tokens.length);
    if (tokens.length > 0) this.queue.stream.upload(this.pointer, Int32Array.from(tokens));
  }

  /** @inheritdoc */
  slice(start: number, count: number): CudaTokens {
    checkTokenSlice(this.capacity, start, count);
    return new CudaTokens(this.#block, this.#start + start, count, true);
  }

  /** @inheritdoc */
  [Symbol.dispose](): void {
    if (!this.#isView) this.#block[Symbol.dispose]();
  }
}

/** Keys of a chunk of a cache of f16; `KEYS` of `attention_half.cu`. */
export const HALF_KEYS = 128;

/** How a cache of f16 lies, as `attention_half.cu` explains. */
export interface HalfLayout {
  /** H */
  readonly heads: number;
  /** Which of {@linkcode HALF_HEADS}. */
  readonly which: number;
  /** Entries of a head, padding included. */
  readonly size: number;
  /** Chunks of {@linkcode HALF_KEYS} that hold the capacity. */
  readonly chunks: number;
}

/**
 * The length, then for each layer keys [H, capacity, D], then values: f32, or f16 in chunks. The length stands on the
 * device too, where the kernels read it; the host's is the same, ahead of the queue.
 */
export class CudaCache extends Block implements Cache {
  /** @inheritdoc */
  readonly layers: number;
  /** @inheritdoc */
  readonly width: number;
  /** @inheritdoc */
  readonly capacity: number;
  /** @inheritdoc */
  readonly halfHeads: number | undefined;
  /** How it lies if it is of f16. */
  readonly half: HalfLayout | undefined;
  /** Passes over it that can be launched as one. */
  readonly passes: Passes;
  /** Bytes of the keys of a layer, and of the values. */
  readonly #bytes: number;
  #length = 0;

  /** Empty. */
  constructor(queue: Queue, { layers, width, capacity, halfHeads }: CacheOptions) {
    const half = halfHeads === undefined ? undefined : halfLayout(width / halfHeads, halfHeads, capacity);
    const bytes = half ? half.heads * half.chunks * HALF_KEYS * half.size * 2 : capacity * width * 4;
    // entries beyond the length are multiplied by 0: in f16 all start as zeros, lest they be NaN
    super(queue, HEADER + layers * 2 * bytes, "a cache", half ? undefined : HEADER);
    this.layers = layers;
    this.width = width;
    this.capacity = capacity;
    this.halfHeads = halfHeads;
    this.half = half;
    this.passes = new Passes(queue);
    this.#bytes = bytes;
  }

  /** Address of the keys of a layer. */
  keys(layer: number): bigint {
    return this.pointer + BigInt(HEADER + layer * 2 * this.#bytes);
  }

  /** Address of the values of a layer. */
  values(layer: number): bigint {
    return this.keys(layer) + BigInt(this.#bytes);
  }

  /** @inheritdoc */
  get length(): number {
    return this.#length;
  }

  /** @inheritdoc */
  advance(count: number): void {
    checkAdvance(this, count);
    this.#become(this.#length + count);
  }

  /** @inheritdoc */
  truncate(length: number): void {
    checkTruncate(this, length);
    this.#become(length);
  }

  /** @inheritdoc */
  override [Symbol.dispose](): void {
    this.passes[Symbol.dispose]();
    super[Symbol.dispose]();
  }

  #become(length: number): void {
    if (length === this.#length) return;
    this.#length = length;
    this.queue.stream.fill(this.pointer, length, 1);
  }
}

/** Bytes before the first keys. */
const HEADER = 64;

/** The layout for heads of some size, unless they are too large. */
function halfLayout(size: number, heads: number, capacity: number): HalfLayout | undefined {
  const which = HALF_HEADS.findIndex((head) => head.size >= size);
  if (which < 0) return undefined;
  return { heads, which, size: HALF_HEADS[which].size, chunks: Math.ceil(capacity / HALF_KEYS) };
}
