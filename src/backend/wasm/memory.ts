/**
 * The one memory that all threads share, and who owns which part of it: a first-fit free list with coalescing.
 * Deliberately simple: there are few, large and long-lived allocations (weights, activations, caches).
 *
 * The memory starts small and grows on demand, up to the 4 GiB that 32-bit addresses reach. Growth happens on
 * the main thread and only between jobs, never while a kernel runs.
 *
 * @module
 */

import { formatBytes, OutOfMemoryError } from "../out_of_memory.ts";

/** Bytes of a page of WebAssembly memory. */
const PAGE = 65536;
/** The most pages 32-bit addresses reach. */
const MAXIMUM_PAGES = 65536;
/** Every allocation starts on a cache line. */
const ALIGNMENT = 64;
/**
 * The memory grows to multiples of so many bytes, a large page of most processors: a system that gives such pages
 * unasked (Linux with transparent huge pages `always`) does so only where all of one becomes usable at once.
 */
const GROWTH = 1 << 21;

/** The shared memory and its free list. Addresses are byte offsets. */
export class Heap {
  #memory: WebAssembly.Memory | undefined;
  /** Bytes handed out and not returned. */
  used = 0;
  /** The most the memory may grow to, in bytes. */
  readonly limit: number = MAXIMUM_PAGES * PAGE;
  /** Free ranges [begin, end), ascending, never touching. */
  #free: { begin: number; end: number }[] = [];
  readonly #sizes = new Map<number, number>();
  #floats!: Float32Array;
  #ints!: Int32Array;
  #bytes!: Uint8Array;

  /** @param reserved pages at the beginning that belong to the modules */
  constructor(reserved: number) {
    this.#memory = new WebAssembly.Memory({ initial: reserved, maximum: MAXIMUM_PAGES, shared: true });
    this.#view();
  }

  /**
   * The memory itself, to instantiate modules with.
   * @throws {Error} once closed
   */
  get memory(): WebAssembly.Memory {
    if (this.#memory === undefined) throw new Error("Cannot use the WebAssembly backend: it is disposed");
    return this.#memory;
  }

  /** Whether {@linkcode close} was called. */
  get closed(): boolean {
    return this.#memory === undefined;
  }

  /** Lets go of the memory: no address is valid any more. */
  close(): void {
    this.#memory = undefined;
    this.#floats = new Float32Array();
    this.#ints = new Int32Array();
    this.#bytes = new Uint8Array();
  }

  /** All of the memory as f32; index with an address divided by 4. Stale after the next allocation. */
  get floats(): Float32Array {
    return this.#floats;
  }

  /** All of the memory as signed 32-bit integers. */
  get ints(): Int32Array {
    return this.#ints;
  }

  /**
   * @param bytes how many; at least 1
   * @returns the address, a multiple of 64; the contents are whatever was there
   * @throws {OutOfMemoryError} beyond the limit, or if the system has no more
   */
  allocate(bytes: number): number {
    const size = Math.max(1, Math.ceil(bytes / ALIGNMENT)) * ALIGNMENT;
    let index = this.#free.findIndex((range) => range.end - range.begin >= size);
    if (index < 0) index = this.#grow(size);
    const range = this.#free[index], address = range.begin;
    range.begin += size;
    if (range.begin === range.end) this.#free.splice(index, 1);
    this.#sizes.set(address, size);
    this.used += size;
    return address;
  }

  /** As {@linkcode allocate}, filled with zeros. */
  allocateZeroed(bytes: number): number {
    const address = this.allocate(bytes);
    this.#bytes.fill(0, address, address + bytes);
    return address;
  }

  /** Returns what {@linkcode allocate} handed out. */
  free(address: number): void {
    const size = this.#sizes.get(address);
    if (size === undefined) return;
    this.#sizes.delete(address);
    this.used -= size;
    this.#insert(address, address + size);
  }

  /** Puts a range on the free list; returns its index. */
  #insert(begin: number, end: number): number {
    let index = this.#free.findIndex((range) => range.begin >= end);
    if (index < 0) index = this.#free.length;
    const next = this.#free[index], previous = this.#free[index - 1];
    if (previous?.end === begin) {
      previous.end = end;
      if (next?.begin === end) {
        previous.end = next.end;
        this.#free.splice(index, 1);
      }
      return index - 1;
    }
    if (next?.begin === end) next.begin = begin;
    else this.#free.splice(index, 0, { begin, end });
    return index;
  }

  /** Grows so that `size` bytes fit; returns the index of the range that holds them. */
  #grow(size: number): number {
    const held = this.memory.buffer.byteLength, last = this.#free.at(-1);
    // what is free at the very end counts
    const missing = size - (last?.end === held ? last.end - last.begin : 0);
    const end = Math.min(Math.ceil((held + missing) / GROWTH) * GROWTH, this.limit);
    try {
      if (held + missing > this.limit) throw new RangeError("beyond 4 GiB");
      this.memory.grow((end - held) / PAGE);
    } catch (cause) {
      throw new OutOfMemoryError(
        `Cannot allocate ${formatBytes(size)}: ${formatBytes(this.used)} of ${
          formatBytes(this.limit)
        } are in use`,
        { cause },
      );
    }
    this.#view();
    return this.#insert(held, end);
  }

  #view(): void {
    this.#floats = new Float32Array(this.memory.buffer);
    this.#ints = new Int32Array(this.memory.buffer);
    this.#bytes = new Uint8Array(this.memory.buffer);
  }
}
