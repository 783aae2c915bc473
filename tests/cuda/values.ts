/**
 * Numbers for the kernels of the CUDA backend.
 *
 * @module
 */

import type { Activation, Backend } from "../../src/backend/backend.ts";

/** Numbers in (−1, 1), the same each time. */
export function values(count: number, seed: number): Float32Array {
  return Float32Array.from(
    { length: count },
    (_, i) => Math.sin((i + 1) * (seed + 0.37)) * Math.cos(i * 0.71),
  );
}

export function filled(backend: Backend, rows: number, columns: number, seed: number): Activation {
  const activation = backend.activation(rows, columns);
  activation.write(values(rows * columns, seed));
  return activation;
}
