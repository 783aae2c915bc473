/**
 * Matrices, vectors, activations, tokens and caches of the CPU backend: ranges of the shared memory with a shape. They
 * compute nothing.
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
  disposed,
} from "../check.ts";
import type { Growing } from "../buffers.ts";
import type { Heap } from "./memory.ts";

/** A range of the memory that can be given back. */
export class Block {
  /** Where from. */
  readonly heap: Heap;
  readonly #address: number;
  readonly #what: string;
  #alive = true;

  /**
   * @param what for messages: `a matrix`
   * @param zeroed whether it must start as zeros
   * @throws {OutOfMemoryError} if the memory does not suffice
   */
  constructor(heap: Heap, bytes: number, what: string, zeroed: boolean = true) {
    this.heap = heap;
    this.#what = what;
    this.#address = zeroed ? heap.allocateZeroed(bytes) : heap.allocate(bytes);
  }

  /**
   * Its address.
   * @throws {Error} once it or its backend is disposed
   */
  get address(): number {
    if (this.heap.closed || !this.#alive) throw disposed(this.#what, this.heap.closed);
    return this.#address;
  }

  /** Gives the range back; once is enough. */
  [Symbol.dispose](): void {
    if (this.#alive && !this.heap.closed) this.heap.free(this.#address);
    this.#alive = false;
  }
}

/** How the kernels number the dtypes. */
export const formats: Readonly<Record<Dtype, number>> = { f32: 0, f16: 1, bf16: 2, int8: 3 };

/** Bytes of one step of a panel of 8 columns; int8 steps hold 4 inputs, others 1. */
const stepBytes: Readonly<Record<Dtype, number>> = { f32: 32, f16: 16, bf16: 16, int8: 32 };

/** Bytes that each output has behind the panels: a scale for f16, a scale and a sum for int8. */
const channelBytes: Readonly<Record<Dtype, number>> = { f32: 0, f16: 4, bf16: 0, int8: 8 };

/** Outputs of a group of panels, which the kernels multiply together: `wasm/src/tile.rs`. */
export const GROUP_COLUMNS = 48;

/** Sizes of a packed matrix. */
export interface Packing {
  /** Panels of 8 outputs, whole groups of {@linkcode GROUP_COLUMNS}. */
  readonly panels: number;
  /** Steps of a panel. */
  readonly steps: number;
  /** Bytes of a panel. */
  readonly panelBytes: number;
  /** Bytes in all, what belongs to channels included. */
  readonly bytes: number;
}

/** How a matrix is packed. */
export function packing(outputs: number, inputs: number, dtype: Dtype): Packing {
  const panels = Math.ceil(outputs / GROUP_COLUMNS) * GROUP_COLUMNS / 8,
    steps = dtype === "int8" ? Math.ceil(inputs / 4) : inputs;
  const panelBytes = steps * stepBytes[dtype];
  return { panels, steps, panelBytes, bytes: panels * (panelBytes + 8 * channelBytes[dtype]) };
}

/** Panels of 8 outputs; behind them, for f16 and int8, the scales of channels, and for int8 the sums. */
export class WasmMatrix extends Block implements Matrix {
  /** @inheritdoc */
  readonly outputs: number;
  /** @inheritdoc */
  readonly inputs: number;
  /** @inheritdoc */
  readonly dtype: Dtype;
  /** How it lies in memory. */
  readonly packing: Packing;

  /** Reserves the memory; the contents are packed later. */
  constructor(heap: Heap, { outputs, inputs, dtype }: MatrixOptions) {
    const sizes = packing(outputs, inputs, dtype);
    super(heap, sizes.bytes, "a matrix", false);
    this.outputs = outputs;
    this.inputs = inputs;
    this.dtype = dtype;
    this.packing = sizes;
  }

  /** @inheritdoc */
  get bytes(): number {
    return this.packing.bytes;
  }

  /** f16, int8: address of [outputs] f32; else 0. */
  get scales(): number {
    const { panels, panelBytes } = this.packing;
    return channelBytes[this.dtype] === 0 ? 0 : this.address + panels * panelBytes;
  }

  /** int8: address of [outputs] i32; else 0. */
  get sums(): number {
    return this.dtype === "int8" ? this.scales + this.packing.panels * 32 : 0;
  }
}

/** f32, padded with zeros to a multiple of 4. */
export class WasmVector extends Block implements Vector {
  /** @inheritdoc */
  readonly length: number;
  /** As inverse frequencies: cosines, then sines, of the first positions. */
  rotation: Growing<WasmVector> | undefined;

  /** A copy of `values`. */
  constructor(heap: Heap, values: Float32Array) {
    super(heap, Math.ceil(values.length / 4) * 16, "a vector");
    this.length = values.length;
    this.values.set(values);
  }

  /** The contents, in place. */
  get values(): Float32Array {
    return this.heap.floats.subarray(this.address / 4, this.address / 4 + this.length);
  }

  /** @inheritdoc */
  override [Symbol.dispose](): void {
    this.rotation?.[Symbol.dispose]();
    super[Symbol.dispose]();
  }
}

/** Rows of f32, side by side. */
export class WasmActivation implements Activation {
  /** @inheritdoc */
  readonly rows: number;
  /** @inheritdoc */
  readonly columns: number;
  readonly #block: Block;
  readonly #start: number;
  readonly #isView: boolean;

  /** Rows [start, start + rows) of a block. */
  constructor(block: Block, start: number, rows: number, columns: number, isView: boolean = false) {
    this.#block = block;
    this.#start = start;
    this.#isView = isView;
    this.rows = rows;
    this.columns = columns;
  }

  /** Where from. */
  get heap(): Heap {
    return this.#block.heap;
  }

  /** Address of row 0. */
  get address(): number {
    return this.#block.address + this.#start * this.columns * 4;
  }

  /** @inheritdoc */
  slice(start: number, count: number): WasmActivation {
    checkSlice(this.rows, start, count);
    return new WasmActivation(this.#block, this.#start + start, count, this.columns, true);
  }

  /** @inheritdoc */
  read(): Float32Array {
    return this.heap.floats.subarray(this.address / 4, this.address / 4 + this.rows * this.columns);
  }

  /** @inheritdoc */
  write(values: Float32Array): void {
    checkWrite(this, values.length);
    this.heap.floats.set(values, this.address / 4);
  }

  /** @inheritdoc */
  [Symbol.dispose](): void {
    if (!this.#isView) this.#block[Symbol.dispose]();
  }
}

/** Ids as i32. */
export class WasmTokens implements TokenBuffer {
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
  get heap(): Heap {
    return this.#block.heap;
  }

  /** Address of the first id. */
  get address(): number {
    return this.#block.address + this.#start * 4;
  }

  /** @inheritdoc */
  read(count: number = this.capacity): Int32Array {
    checkTokenCount(this.capacity, count);
    return this.heap.ints.subarray(this.address / 4, this.address / 4 + count);
  }

  /** @inheritdoc */
  write(tokens: ArrayLike<number>): void {
    checkTokenCount(this.capacity, tokens.length);
    this.heap.ints.set(tokens, this.address / 4);
  }

  /** @inheritdoc */
  slice(start: number, count: number): WasmTokens {
    checkTokenSlice(this.capacity, start, count);
    return new WasmTokens(this.#block, this.#start + start, count, true);
  }

  /** @inheritdoc */
  [Symbol.dispose](): void {
    if (!this.#isView) this.#block[Symbol.dispose]();
  }
}

/** For each layer keys, then values, as `wasm/src/attention.rs` lays them out, for a capacity padded to 8. */
export class WasmCache extends Block implements Cache {
  /** @inheritdoc */
  readonly layers: number;
  /** @inheritdoc */
  readonly width: number;
  /** @inheritdoc */
  readonly capacity: number;
  /** @inheritdoc */
  readonly halfHeads: number | undefined;
  /** The capacity as laid out. */
  readonly paddedCapacity: number;
  #length = 0;

  /** Empty. */
  constructor(heap: Heap, { layers, width, capacity, halfHeads }: CacheOptions) {
    const padded = Math.ceil(capacity / 8) * 8;
    // the last values are read as part of a panel of 8, which may reach beyond them; entries that no row sees add
    // exactly nothing, so they need not be zeros
    super(heap, layers * 2 * padded * width * 4 + 32, "a cache", false);
    this.layers = layers;
    this.width = width;
    this.capacity = capacity;
    this.halfHeads = halfHeads;
    this.paddedCapacity = padded;
  }

  /** Address of the keys of a layer. */
  keys(layer: number): number {
    return this.address + layer * 2 * this.paddedCapacity * this.width * 4;
  }

  /** Address of the values of a layer. */
  values(layer: number): number {
    return this.keys(layer) + this.paddedCapacity * this.width * 4;
  }

  /** @inheritdoc */
  get length(): number {
    return this.#length;
  }

  /** @inheritdoc */
  advance(count: number): void {
    checkAdvance(this, count);
    this.#length += count;
  }

  /** @inheritdoc */
  truncate(length: number): void {
    checkTruncate(this, length);
    this.#length = length;
  }
}
