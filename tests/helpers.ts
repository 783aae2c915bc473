/**
 * What several test files need: the backends of this machine, checkpoints in memory and in folders that vanish,
 * tensors with expected values, comparisons whose messages say how far off a value is, and escape sequences in sight.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { type TensorData, writeSafetensors } from "../fixtures/write_safetensors.ts";
import type { Backend } from "../src/backend/backend.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { createWasmBackend } from "../src/backend/wasm/backend.ts";
import { Checkpoint, openCheckpoint } from "../src/hub/checkpoint.ts";
import { fileSource, memorySource, toPath } from "../src/hub/files.ts";
import { Safetensors } from "../src/hub/safetensors.ts";
import { CheckpointError } from "../src/model/weights.ts";

/** The backends that are present here, and how to open each. */
export function presentBackends(): [name: string, open: () => Promise<Backend>][] {
  return [
    ["reference", () => Promise.resolve(createReferenceBackend())],
    ["wasm", () => createWasmBackend({ threads: 2 })],
    ["wasm, plain SIMD", () => createWasmBackend({ threads: 1, simd: "plain" })],
  ];
}

/** A folder or file of the fixtures. */
export function fixture(path: string): URL {
  return new URL(`../fixtures/${path}`, import.meta.url);
}

/** All tensors of a safetensors file, as f32, row-major. */
export async function readTensors(
  url: URL,
): Promise<Record<string, { shape: readonly number[]; values: Float32Array }>> {
  using file = await Safetensors.open(await fileSource(toPath(url)), url.pathname);
  const tensors: Record<string, { shape: readonly number[]; values: Float32Array }> = {};
  for (const [name, tensor] of file.tensors) {
    const values = new Float32Array(tensor.shape.reduce((product, n) => product * n, 1));
    await file.read(tensor, 0, values);
    tensors[name] = { shape: tensor.shape, values };
  }
  return tensors;
}

/** A checkpoint in memory. */
export async function checkpointOf(
  config: Record<string, unknown>,
  tensors: readonly TensorData[],
): Promise<Checkpoint> {
  const file = await Safetensors.open(memorySource(writeSafetensors(tensors)), "memory.safetensors");
  return new Checkpoint("memory", config, [file]);
}

/** The tensors of a checkpoint as f32, to be altered and made into another with {@linkcode checkpointOf}. */
export function tensorsOf(checkpoint: Checkpoint): Promise<TensorData[]> {
  return Promise.all(
    checkpoint.tensors().map(async ({ name, shape }) => {
      return { name, dtype: "F32", shape, data: await checkpoint.read(name, shape) };
    }),
  );
}

/** A checkpoint of the fixtures with some fields of its configuration and some tensors replaced. */
export async function altered(
  name: string,
  fields: Record<string, unknown>,
  tensors: (all: TensorData[]) => TensorData[] = (all) => all,
) {
  using checkpoint = await openCheckpoint(fixture(`parity/${name}`));
  const config: Record<string, unknown> = { ...checkpoint.config };
  for (const [path, value] of Object.entries(fields)) {
    const [outer, inner] = path.split(".");
    config[outer] = inner === undefined
      ? value
      : { ...config[outer] as Record<string, unknown>, [inner]: value };
  }
  return await checkpointOf(config, tensors(await tensorsOf(checkpoint)));
}

/**
 * Fails if any entry is further from the expected one than `tolerance` times the largest expected magnitude.
 * @returns the largest difference, in the same unit
 */
export function assertClose(
  found: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  what: string,
): number {
  assert.equal(found.length, expected.length, `${what}: number of entries`);
  let scale = 0, worst = 0, at = 0;
  for (let i = 0; i < expected.length; i++) {
    scale = Math.max(scale, Math.abs(expected[i]));
    const error = Math.abs(found[i] - expected[i]);
    if (!(error <= worst)) [worst, at] = [error, i];
    if (Number.isNaN(error)) break; // nothing is worse, and nothing compares with it
  }
  assert.ok(
    worst <= tolerance * scale,
    `${what}: entry ${at} is ${found[at]}, expected ${expected[at]}: off by ${worst}, ` +
      `${worst / scale} of the largest magnitude ${scale}, more than ${tolerance}`,
  );
  return worst / scale;
}

/** Fails unless all entries are equal bit for bit. */
export function assertSame(found: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  assert.equal(found.length, expected.length, `${what}: number of entries`);
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(found[i], expected[i])) {
      assert.fail(`${what}: entry ${i} is ${found[i]}, expected ${expected[i]}`);
    }
  }
}

/** Matches an error of the hub by its message. */
export function failure(message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert(error instanceof CheckpointError, `not a CheckpointError: ${error}`);
    assert.match(error.message, message);
    return true;
  };
}

/** Makes a folder of files and removes it afterwards. */
export async function withFolder(
  files: Record<string, string | Uint8Array>,
  body: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, content] of Object.entries(files)) {
      await Deno.writeFile(
        join(folder, name),
        typeof content === "string" ? new TextEncoder().encode(content) : content,
      );
    }
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A checkpoint's file of two numbers. */
export const SMALL: Uint8Array<ArrayBuffer> = writeSafetensors([{
  name: "x",
  dtype: "F32",
  shape: [2],
  data: new Float32Array([1, 2]),
}]);

/** Escape sequences in sight: `␛[0m`. */
export function visible(text: string): string {
  return text.replaceAll("\x1b", "␛");
}
