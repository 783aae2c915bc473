/**
 * A device of the stand-in with its test kernels, and memory to try them on.
 *
 * @module
 */

import assert from "node:assert/strict";
import { CudaError } from "../../ffi/context.ts";
import { type CudaDevice, CudaDriver } from "../../ffi/driver.ts";
import type { CudaModule } from "../../ffi/launch.ts";
import type { CudaStream } from "../../ffi/stream.ts";

/** A device with what a test of a kernel needs. */
export class Bench implements Disposable {
  readonly device: CudaDevice;
  readonly module: CudaModule;
  readonly stream: CudaStream;

  constructor() {
    this.device = new CudaDriver().device(0);
    this.module = this.device.load(new Uint8Array(16));
    this.stream = this.device.stream();
  }

  /** Numbers on the device. */
  put(values: Float32Array<ArrayBuffer>): bigint {
    const { pointer } = this.device.allocate(values.byteLength);
    this.stream.upload(pointer, values);
    return pointer;
  }

  /** Waits, and reads numbers back. */
  get(pointer: bigint, count: number): Float32Array {
    const values = new Float32Array(count);
    this.stream.download(values, pointer);
    this.stream.synchronize();
    return values;
  }

  [Symbol.dispose](): void {
    this.device[Symbol.dispose]();
  }
}

/** Numbers in (−1, 1), the same each time. */
export function numbers(count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(i * i + 1));
}

/** For `assert.throws`: a driver's call that returned `code`. */
export function failedCall(call: string, code: number): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof CudaError, String(error));
    assert.deepEqual([error.call, error.code], [call, code]);
    return true;
  };
}
