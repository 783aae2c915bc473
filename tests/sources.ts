/**
 * Checkpoints in memory, for tests: one made of tensors, and bytes that count what is read of them.
 *
 * @module
 */

import { type TensorData, writeSafetensors } from "../fixtures/write_safetensors.ts";
import { Checkpoint } from "../src/hub/checkpoint.ts";
import { type ByteSource, memorySource } from "../src/hub/files.ts";
import { Safetensors } from "../src/hub/safetensors.ts";

/** A source that records each request. */
export function counted(bytes: Uint8Array): ByteSource & { readonly requests: number[]; closed: boolean } {
  const source = memorySource(bytes), requests: number[] = [];
  return {
    size: source.size,
    requests,
    closed: false,
    read(into, position) {
      requests.push(into.length);
      return source.read(into, position);
    },
    [Symbol.dispose]() {
      this.closed = true;
    },
  };
}

export async function inMemory(tensors: readonly TensorData[]): Promise<Checkpoint> {
  const file = await Safetensors.open(memorySource(writeSafetensors(tensors)), "test.safetensors");
  return new Checkpoint("test", {}, [file]);
}
