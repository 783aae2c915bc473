/**
 * One GPU as the operations of the backend use it: its queue, its kernels, memory that lives for one operation, cuBLAS
 * where it is there, and the check that a tensor is this backend's own.
 *
 * @module
 */

import { CudaError } from "../../../ffi/context.ts";
import { type Cublas, CublasError } from "../../../ffi/cublas.ts";
import type { CudaDevice } from "../../../ffi/driver.ts";
import type { Arguments, CudaKernel, LaunchShape, Parameter } from "../../../ffi/launch.ts";
import { LibraryNotFoundError } from "../../../ffi/libraries.ts";
import type { Activation, Vector } from "../backend.ts";
import { Growing } from "../buffers.ts";
import { notOwn } from "../check.ts";
import { Kernels } from "./kernels.ts";
import { Block, Queue } from "./memory.ts";
import { CudaActivation, type CudaMatrix, CudaVector, padded } from "./tensors.ts";

/** The address of what is absent. */
export const NONE = 0n;

/** One device and its queue of kernels. */
export class Gpu {
  /** Allocates memory. */
  readonly device: CudaDevice;
  /** Where kernels are enqueued. */
  readonly queue: Queue;
  /** The kernels that can be enqueued. */
  readonly kernels: Kernels;
  /** Whether {@linkcode launch} lets a kernel begin before the one ahead of it has ended. */
  readonly dependent: boolean;
  /** See `CudaOptions`. */
  readonly cublasRows: number;
  #cublas: Cublas | { readonly problem: string } | undefined;
  /** f32 memory that lives for one operation, by its use. */
  readonly #scratch = new Map<string, Growing<Block>>();

  /** On a device, with a queue of its own. */
  constructor(device: CudaDevice, cublasRows: number, dependent: boolean) {
    this.device = device;
    this.queue = new Queue(device);
    this.kernels = new Kernels(device);
    this.dependent = dependent && device.capability[0] >= 9;
    this.cublasRows = cublasRows;
  }

  /** Enqueues a kernel of the hot path, which may begin before the one ahead of it has ended. */
  launch<const P extends readonly Parameter[]>(
    kernel: CudaKernel<P>,
    shape: Omit<LaunchShape, "dependent">,
    ...values: Arguments<P>
  ): void {
    this.queue.stream.launch(kernel, { ...shape, dependent: this.dependent }, ...values);
  }

  /** cuBLAS, opened at first use, as that takes time and memory; or why there is none. */
  get cublas(): Cublas | { readonly problem: string } {
    if (this.#cublas !== undefined) return this.#cublas;
    try {
      return this.#cublas = this.device.cublas(this.queue.stream);
    } catch (error) {
      const full = error instanceof CudaError && error.outOfMemory;
      if (!(full || error instanceof LibraryNotFoundError || error instanceof CublasError)) throw error;
      return this.#cublas = { problem: error.message };
    }
  }

  /**
   * The address of a row-major copy of a matrix of 16 bits. It is made at first use, or never, if less than a quarter of
   * the device's memory would stay free.
   */
  rowsOf(matrix: CudaMatrix): bigint | undefined {
    if (matrix.rows === undefined) {
      const { pointer, bytes, outputs, inputs } = matrix, { free, total } = this.device.memory();
      if (free - bytes < total / 4) matrix.withoutRows();
      else {
        const rows = new Block(this.queue, bytes, "a matrix", 0), grid = padded(outputs);
        try {
          this.queue.stream.launch(this.kernels.unpack, { grid, block: 256 }, rows.pointer, pointer, inputs);
        } catch (error) {
          rows[Symbol.dispose](); // if kept, the next product would use its undefined contents
          throw error;
        }
        matrix.rows = rows;
      }
    }
    return matrix.rows?.pointer;
  }

  /** The address of at least `floats` entries: zeros at first, then what the operation before left. */
  scratch(use: string, floats: number): bigint {
    let held = this.#scratch.get(use);
    if (held === undefined) {
      held = new Growing((floats) => new Block(this.queue, padded(floats) * 4, use));
      this.#scratch.set(use, held);
    }
    return held.atLeast(floats).pointer;
  }

  /** The address of cosines and sines of the first positions, [positions, 2, D/2], made once. */
  rotation(frequencies: CudaVector, positions: number): bigint {
    frequencies.rotation ??= new Growing((grid) => {
      const half = frequencies.length, table = new Block(this.queue, grid * 2 * half * 4, "rotary angles", 0);
      const { rotation } = this.kernels;
      this.queue.stream.launch(rotation, { grid, block: 32 }, table.pointer, frequencies.pointer, half);
      return table;
    });
    return frequencies.rotation.atLeast(positions).pointer;
  }

  /** The address of a vector that may be absent. */
  vector(vector: Vector | undefined): bigint {
    return vector === undefined ? NONE : this.own(CudaVector, vector).pointer;
  }

  /** An activation that is about to be written, perhaps together with its groups. */
  target(value: Activation, withGroups: boolean = false): CudaActivation {
    const target = this.own(CudaActivation, value);
    target.changes(withGroups);
    return target;
  }

  /**
   * `value` as one of this backend's own.
   * @throws {TypeError} if it is not
   */
  own<T extends { readonly queue: Queue }>(kind: new (...args: never[]) => T, value: unknown): T {
    this.expectOpen();
    if (value instanceof kind && value.queue === this.queue) return value;
    throw notOwn(kind);
  }

  /** @throws {Error} once the backend is disposed */
  expectOpen(): void {
    if (this.queue.closed) throw new Error("Cannot use the CUDA backend: it is disposed");
  }
}
