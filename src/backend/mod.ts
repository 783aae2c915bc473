/**
 * Devices: the contract that models are written over, the backends that meet it, and what they share.
 *
 * @example A projection
 * ```ts
 * import { createBackend } from "@specdiff/specdiff/backend";
 *
 * using backend = await createBackend("wasm", { threads: 1 });
 * const weights = Float32Array.of(1, 2, 3, 4, 5, 6); // [2, 3]
 * using matrix = await backend.matrix({ outputs: 2, inputs: 3, dtype: "f32" }, [weights]);
 * using x = backend.activation(1, 3), out = backend.activation(1, 2);
 * x.write(Float32Array.of(1, 0, 1));
 * backend.project(out, x, { matrix });
 * console.log(out.read()); // 4, 10
 * ```
 *
 * @module
 */

export type * from "./backend.ts";
export { BackendUnavailableError, createBackend, type Device, devices, isDevice } from "./create.ts";
export { checkSampling, LogitsError, writeDistribution } from "./distribution.ts";
export { OutOfMemoryError } from "./out_of_memory.ts";
export { philox, race, toExponential, toUniform } from "./philox.ts";
export { createReferenceBackend } from "./reference.ts";
export { createWasmBackend, type WasmOptions } from "./wasm/backend.ts";
