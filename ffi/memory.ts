/**
 * Memory: the device's own, and the host's that the device can reach.
 *
 * Deliberately absent: pools and managed memory.
 *
 * @module
 */

import { type Context, DeviceObject, type Release } from "./context.ts";
import type { Cuda } from "./libcuda.ts";

/** Memory on the device. */
export class DeviceMemory extends DeviceObject {
  /** Its address there. */
  readonly pointer: bigint;
  /** Its size. */
  readonly bytes: number;

  /** See {@linkcode CudaDevice.allocate}. */
  constructor(context: Context, bytes: number, release: Release) {
    super(context, release);
    const out = new BigUint64Array(1);
    context.check(context.cuda.cuMemAlloc_v2(out, BigInt(bytes)), "cuMemAlloc_v2");
    this.pointer = out[0];
    this.bytes = bytes;
  }

  /** Waits for the device. */
  protected override free(cuda: Cuda): void {
    cuda.cuMemFree_v2(this.pointer);
  }
}

/** Memory of the host, locked in place. */
export class PinnedMemory extends DeviceObject {
  /** The memory; detached by disposal, so that views that are left are empty. */
  readonly buffer: ArrayBuffer;
  /** Its address, for the device and the host alike. */
  readonly pointer: bigint;

  /** See {@linkcode CudaDevice.pin}. */
  constructor(context: Context, bytes: number, release: Release) {
    super(context, release);
    const PORTABLE = 1, DEVICEMAP = 2, out = new BigUint64Array(1);
    const status = context.cuda.cuMemHostAlloc(out, BigInt(bytes), PORTABLE | DEVICEMAP);
    context.check(status, "cuMemHostAlloc");
    this.pointer = out[0];
    this.buffer = Deno.UnsafePointerView.getArrayBuffer(Deno.UnsafePointer.create(this.pointer)!, bytes);
    new Uint8Array(this.buffer).fill(0);
  }

  protected override free(cuda: Cuda): void {
    this.buffer.transfer(0);
    cuda.cuMemFreeHost(this.pointer);
  }
}
