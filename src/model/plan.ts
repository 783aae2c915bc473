/**
 * Refusing a checkpoint before it is read. A model is built once from a checkpoint that yields no values, on a
 * device that holds nothing: so every matrix is checked by name, shape and dtype, and what the device will have to
 * hold is known, without another account of the architectures.
 *
 * @module
 */

import type { Backend, Dtype } from "../backend/backend.ts";
import { CheckpointError, type Weights } from "./weights.ts";

type MatrixShape = Parameters<Backend["matrix"]>[0];

/** Bytes of an entry of a matrix. */
const ENTRY_BYTES: Readonly<Record<Dtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

/**
 * Throws unless the matrices that `build` asks for are in the checkpoint, and fit the device.
 *
 * @param dtype of those that have none of their own
 * @param build the model, from the weights, on the device, with the dtype it is given
 * @throws {CheckpointError} if a matrix is not as expected, or they do not fit; then it names what does
 */
export async function checkBeforeReading(
  weights: Weights,
  backend: Backend,
  dtype: Dtype,
  build: (weights: Weights, backend: Backend, dtype: Dtype) => Promise<unknown>,
): Promise<void> {
  const matrices: MatrixShape[] = [];
  // none has int8 of its own, so that int8 stands for the dtype in question
  await build(withoutValues(weights), nowhere(matrices), "int8");
  const room = backend.room ?? Infinity;
  const needed = (dtype: Dtype) =>
    matrices.reduce((sum, { outputs, inputs, dtype: own }) => {
      return sum + outputs * inputs * ENTRY_BYTES[own === "int8" ? dtype : own];
    }, 0);
  if (needed(dtype) <= room) return;
  const others = (["f16", "bf16", "int8"] as const).filter((other) => needed(other) <= room);
  throw new CheckpointError(
    `Cannot load checkpoint "${weights.origin}": its matrices need ${
      gigabytes(needed(dtype))
    } as ${dtype}, ` +
      `expected at most ${gigabytes(room)}, which the device has left; ` +
      (others.length > 0
        ? others.map((other) => `${other} would fit (${gigabytes(needed(other))})`).join(", ")
        : `not even int8 would fit (${gigabytes(needed("int8"))})`),
  );
}

/** A checkpoint whose matrices are checked and not read, and whose other tensors are empty. */
function withoutValues(weights: Weights): Weights {
  return {
    origin: weights.origin,
    config: weights.config,
    has: (name) => weights.has(name),
    read: () => Promise.resolve(new Float32Array()),
    rows: (name, shape) => weights.rows(name, shape),
    transposed: (name, shape) => weights.transposed(name, shape),
  };
}

/** A device that notes what it is asked to hold. Loading computes nothing, so it can do no more than take uploads. */
function nowhere(matrices: MatrixShape[]): Backend {
  const device: Pick<Backend, "matrix" | "vector"> = {
    matrix(shape) {
      matrices.push(shape);
      return Promise.resolve({ ...shape, bytes: 0, [Symbol.dispose]() {} });
    },
    vector: ({ length }) => ({ length, [Symbol.dispose]() {} }),
  };
  return device as Backend;
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
