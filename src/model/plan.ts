/**
 * Refusing a checkpoint before it is read. A model is built first from a checkpoint that yields no values, on a
 * device that holds nothing: so every matrix is checked by name, shape and dtype, and what the device will have to
 * hold is known, without another account of the architectures.
 *
 * @module
 */

import type { Backend, Dtype, MatrixOptions } from "../backend/backend.ts";
import { checkDtype } from "../backend/check.ts";
import { CheckpointError, type Weights } from "./weights.ts";

/** The bytes of all uploads of a model. */
export class Plan {
  readonly #backend: Pick<Backend, "bytesOf">;
  #bytes = 0;

  /** @param backend whose layout of matrices counts */
  constructor(backend: Pick<Backend, "bytesOf">) {
    this.#backend = backend;
  }

  /**
   * A device that holds nothing and notes what it is asked to. Loading computes nothing, so it can do no more
   * than take uploads.
   */
  readonly device: Backend = {
    bytesOf: (shape: MatrixOptions) => this.#backend.bytesOf(shape),
    matrix: (shape: MatrixOptions) => {
      this.#bytes += this.#backend.bytesOf(shape);
      return Promise.resolve({ ...shape, bytes: 0, [Symbol.dispose]() {} });
    },
    vector: ({ length }: Float32Array) => {
      this.#bytes += 4 * length;
      return { length, [Symbol.dispose]() {} };
    },
  } as unknown as Backend;

  /** Bytes of all of it. */
  get bytes(): number {
    return this.#bytes;
  }
}

/**
 * A checkpoint whose matrices are checked and not read, unless two are to be compared; `read` says what becomes of its
 * other tensors.
 */
export function withoutMatrices(weights: Weights, read: Weights["read"]): Weights {
  return {
    origin: weights.origin,
    config: weights.config,
    has: (name) => weights.has(name),
    fileOf: (name) => weights.fileOf?.(name) ?? weights.origin,
    read,
    rows: (name, shape) => weights.rows(name, shape),
    transposed: (name, shape) => weights.transposed(name, shape),
    equal: async (one, other, shape) => await weights.equal?.(one, other, shape) ?? false,
  };
}

/**
 * Throws unless the matrices that `build` asks for are in the checkpoint, and fit the device.
 *
 * @param dtype of those that have none of their own
 * @param build the model, from the weights, on the device, with the dtype it is given
 * @throws {CheckpointError} if a matrix is not as expected, or they do not fit; then it names what does
 * @throws {TypeError} if there is no such dtype
 */
export async function checkBeforeReading(
  weights: Weights,
  backend: Backend,
  dtype: Dtype,
  build: (weights: Weights, backend: Backend, dtype: Dtype) => Promise<unknown>,
): Promise<void> {
  checkDtype("load a model", dtype);
  const nothing = withoutMatrices(weights, () => Promise.resolve(new Float32Array()));
  const bytesAs = async (dtype: Dtype): Promise<number> => {
    const plan = new Plan(backend);
    await build(nothing, plan.device, dtype);
    return plan.bytes;
  };
  const needed = await bytesAs(dtype), room = backend.room ?? Infinity;
  if (needed <= room) return;
  const sizes: [Dtype, number][] = [];
  for (const other of ["f16", "bf16", "int8"] as const) sizes.push([other, await bytesAs(other)]);
  const fitting = sizes.filter(([, bytes]) => bytes <= room);
  throw new CheckpointError(
    `Cannot load checkpoint "${weights.origin}": its matrices need ${gigabytes(needed)} as ${dtype}, ` +
      `expected at most ${gigabytes(room)}, which the device has left; ` +
      (fitting.length > 0
        ? fitting.map(([other, bytes]) => `${other} would fit (${gigabytes(bytes)})`).join(", ")
        : `not even int8 would fit (${gigabytes(sizes.at(-1)![1])})`),
  );
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
