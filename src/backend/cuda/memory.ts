/**
 * The device's memory as the backend holds it, and the queue whose work uses it. Deliberately without shapes: those are
 * in `tensors.ts`.
 *
 * @module
 */

import { CudaError } from "../../../ffi/context.ts";
import type { CudaDevice } from "../../../ffi/driver.ts";
import type { DeviceMemory } from "../../../ffi/memory.ts";
import type { CudaStream } from "../../../ffi/stream.ts";
import { disposed } from "../check.ts";
import { formatBytes, OutOfMemoryError } from "../out_of_memory.ts";
import type { RowBlock } from "./tensors.ts";

/** One device and its queue. */
export class Queue {
  /** Where memory comes from. */
  readonly device: CudaDevice;
  /** All work of the backend, in order. */
  readonly stream: CudaStream;
  /** Whether the backend was disposed. */
  closed = false;
  /** How often memory was given back. */
  freed = 0;
  /** Where rows are noted that a pass changes while it is recorded. */
  changed: Set<RowBlock> | undefined;

  /** A new queue on a device, which owns it. */
  constructor(device: CudaDevice) {
    this.device = device;
    this.stream = device.stream();
  }

  /** How much memory is free, for messages. */
  get room(): string {
    const { free, total } = this.device.memory();
    return `${formatBytes(free)} of ${
      formatBytes(total)
    } are free on CUDA ${this.device.ordinal}: ${this.device.name}`;
  }
}

/** A range of the device's memory that can be given back. */
export class Block {
  /** Where from. */
  readonly queue: Queue;
  readonly #memory: DeviceMemory;
  readonly #what: string;
  #alive = true;

  /**
   * @param what for messages: `a matrix`
   * @param zeros how many bytes from the beginning, a multiple of 4, must start as zeros
   */
  constructor(queue: Queue, bytes: number, what: string, zeros: number = bytes) {
    this.queue = queue;
    this.#what = what;
    try {
      this.#memory = queue.device.allocate(bytes);
    } catch (cause) {
      if (!(cause instanceof CudaError && cause.outOfMemory)) throw cause;
      throw new OutOfMemoryError(`Cannot hold ${what} of ${formatBytes(bytes)}: ${queue.room}`, { cause });
    }
    if (zeros > 0) queue.stream.fill(this.#memory.pointer, 0, zeros / 4); // a fill of 0 words is undocumented
  }

  /**
   * Its address on the device.
   * @throws {Error} once it or its backend is disposed
   */
  get pointer(): bigint {
    if (this.queue.closed || !this.#alive) throw disposed(this.#what, this.queue.closed);
    return this.#memory.pointer;
  }

  /** Gives the range back; once is enough. */
  [Symbol.dispose](): void {
    if (this.#alive) this.queue.freed++;
    this.#alive = false;
    this.#memory[Symbol.dispose]();
  }
}
