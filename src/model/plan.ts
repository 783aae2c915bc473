/**
 * Refusing a checkpoint before it is read. A model is built once from a checkpoint that yields no values, on a
 * device that holds nothing: so every matrix is checked by name, shape and dtype, and what the device will have to
 * hold is known, without another account of the architectures.
 *
 * @module
 */

import type { Backend, Dtype } from "../backend/backend.ts";
import { CheckpointError, type Weights } from "./weights.ts";

/** Bytes of an entry of a matrix. */
const ENTRY_BYTES: Readonly<Record<Dtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

/** What a model asks a device to hold. */
export class Plan {
  readonly #matrices: Parameters<Backend["matrix"]>[0][] = [];
  #vectorEntries = 0;

  /**
   * A device that holds nothing and notes what it is asked to. Loading computes nothing, so it can do no more
   * than take uploads. To be given a model as int8: no matrix is that of its own accord, so that int8 stands
   * for the dtype in question.
   */
  readonly device: Backend = {
    matrix: (shape: Parameters<Backend["matrix"]>[0]) => {
      this.#matrices.push(shape);
      return Promise.resolve({ ...shape, bytes: 0, [Symbol.dispose]() {} });
    },
    vector: ({ length }: Float32Array) => {
      this.#vectorEntries += length;
      return { length, [Symbol.dispose]() {} };
    },
  } as unknown as Backend;

  /** Bytes of all of it with matrices held as `dtype`, one f32 scale per output included for int8. */
  bytesAs(dtype: Dtype): number {
    return this.#matrices.reduce((sum, { outputs, inputs, dtype: asked }) => {
      const held = asked === "int8" ? dtype : asked;
      return sum + outputs * inputs * ENTRY_BYTES[held] + (held === "int8" ? 4 * outputs : 0);
    }, 4 * this.#vectorEntries);
  }
}

/** A checkpoint whose matrices are checked and not read; `read` says what becomes of its other tensors. */
export function withoutMatrices(weights: Weights, read: Weights["read"]): Weights {
  return {
    origin: weights.origin,
    config: weights.config,
    has: (name) => weights.has(name),
    read,
    rows: (name, shape) => weights.rows(name, shape),
    transposed: (name, shape) => weights.transposed(name, shape),
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
  if (!Object.hasOwn(ENTRY_BYTES, dtype)) {
    throw new TypeError(
      `Cannot load a model: dtype is "${dtype}", expected one of ${Object.keys(ENTRY_BYTES).join(", ")}`,
    );
  }
  const plan = new Plan();
  const nothing = withoutMatrices(weights, () => Promise.resolve(new Float32Array()));
  await build(nothing, plan.device, "int8");
  const room = backend.room ?? Infinity;
  if (plan.bytesAs(dtype) <= room) return;
  const others = (["f16", "bf16", "int8"] as const).filter((other) => plan.bytesAs(other) <= room);
  const size = (dtype: Dtype) => gigabytes(plan.bytesAs(dtype));
  throw new CheckpointError(
    `Cannot load checkpoint "${weights.origin}": its matrices need ${size(dtype)} as ${dtype}, ` +
      `expected at most ${gigabytes(room)}, which the device has left; ` +
      (others.length > 0
        ? others.map((other) => `${other} would fit (${size(other)})`).join(", ")
        : `not even int8 would fit (${size("int8")})`),
  );
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
