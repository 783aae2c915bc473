/**
 * Kernels, found in compiled modules by name, and the buffer that a launch hands to the driver. Deliberately absent:
 * queues (`stream.ts`).
 *
 * @module
 */

import { type Context, DeviceObject, type Release } from "./context.ts";
import type { Cuda } from "./libcuda.ts";

/** Kinds of a kernel's parameters. */
export type Parameter = "pointer" | "i32" | "u32" | "f32" | "f64";

/** The types of their arguments: addresses are bigint. */
export type Arguments<P extends readonly Parameter[]> = {
  -readonly [I in keyof P]: P[I] extends "pointer" ? bigint : number;
};

/** How many threads a kernel is launched with. */
export interface LaunchShape {
  /** Blocks, along x or along x, y, z. */
  readonly grid: number | readonly [x: number, y: number, z: number];
  /** Threads in each block. */
  readonly block: number;
  /** Bytes of dynamic shared memory; above 48 KiB see {@linkcode CudaKernel.allowShared}. Default 0. */
  readonly shared?: number | undefined;
  /**
   * Whether the kernel may begin before the one ahead of it has ended, up to its `grid_dependency_wait`
   * (programmatic dependent launch, compute capability 9.0).
   */
  readonly dependent?: boolean | undefined;
}

/** Compiled kernels on a device. */
export class CudaModule extends DeviceObject {
  readonly #module: bigint;

  /** See {@linkcode CudaDevice.load}. */
  constructor(context: Context, image: Uint8Array<ArrayBuffer>, release: Release) {
    super(context, release);
    const out = new BigUint64Array(1);
    context.check(context.cuda.cuModuleLoadData(out, image), "cuModuleLoadData");
    this.#module = out[0];
  }

  /**
   * Finds a kernel.
   * @param parameters the kinds of its parameters, in order, as in its source
   * @throws {CudaError} if there is none of this name
   */
  kernel<const P extends readonly Parameter[]>(name: string, parameters: P): CudaKernel<P> {
    const context = this.context;
    context.enter();
    const out = new BigUint64Array(1);
    const status = context.cuda.cuModuleGetFunction(out, this.#module, new TextEncoder().encode(`${name}\0`));
    context.check(status, `cuModuleGetFunction("${name}")`);
    return new CudaKernel(context, out[0], parameters);
  }

  protected override free(cuda: Cuda): void {
    cuda.cuModuleUnload(this.#module);
  }
}

/** A kernel; it lives as long as its module. */
export class CudaKernel<P extends readonly Parameter[]> {
  /** The driver's handle. */
  readonly handle: bigint;
  /** The kinds of its parameters. */
  readonly parameters: P;
  readonly #context: Context;

  /** See {@linkcode CudaModule.kernel}. */
  constructor(context: Context, handle: bigint, parameters: P) {
    this.handle = handle;
    this.parameters = parameters;
    this.#context = context;
  }

  /** Allows launches with up to `bytes` of dynamic shared memory; without it, 48 KiB. */
  allowShared(bytes: number): void {
    const context = this.#context;
    context.enter();
    const MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
    const status = context.cuda.cuFuncSetAttribute(this.handle, MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
    context.check(status, "cuFuncSetAttribute");
  }
}

/**
 * Everything that a launch passes by address, in one piece of memory. It is refilled for each launch, as the driver copies
 * it before the call returns. At the byte offsets below it holds a `CUlaunchConfig`, one `CUlaunchAttribute`, the list
 * `extra` that says where the parameters are, and the parameters, each aligned to its own size.
 */
export class LaunchBuffer {
  /** The `CUlaunchConfig`. */
  readonly config: Uint8Array<ArrayBuffer>;
  /** The list `extra`. */
  readonly extra: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;

  constructor() {
    const buffer = new ArrayBuffer(PARAMETERS + MOST_PARAMETER_BYTES);
    this.config = new Uint8Array(buffer, 0, ATTRIBUTE);
    this.extra = new Uint8Array(buffer, EXTRA, SIZE - EXTRA);
    this.#view = new DataView(buffer);
    const address = BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(buffer))));
    const word = (at: number, value: bigint) => this.#view.setBigUint64(at, value, true);
    word(40, address + BigInt(ATTRIBUTE)); // attrs
    const PROGRAMMATIC_STREAM_SERIALIZATION = 6n;
    word(ATTRIBUTE, PROGRAMMATIC_STREAM_SERIALIZATION);
    word(ATTRIBUTE + 8, 1n); // its value: allowed
    const BUFFER_POINTER = 1n, BUFFER_SIZE = 2n, END = 0n;
    [BUFFER_POINTER, address + BigInt(PARAMETERS), BUFFER_SIZE, address + BigInt(SIZE), END]
      .forEach((value, i) => word(EXTRA + 8 * i, value));
  }

  fill(
    stream: bigint,
    shape: LaunchShape,
    parameters: readonly Parameter[],
    values: readonly unknown[],
  ): void {
    const view = this.#view;
    const [x, y, z] = typeof shape.grid === "number" ? [shape.grid, 1, 1] : shape.grid;
    view.setUint32(0, x, true);
    view.setUint32(4, y, true);
    view.setUint32(8, z, true);
    view.setUint32(12, shape.block, true);
    view.setUint32(16, 1, true);
    view.setUint32(20, 1, true);
    view.setUint32(24, shape.shared ?? 0, true);
    view.setBigUint64(32, stream, true);
    view.setUint32(48, shape.dependent === true ? 1 : 0, true); // numAttrs
    let at = PARAMETERS;
    for (let i = 0; i < parameters.length; i++) {
      const kind = parameters[i], value = values[i];
      const size = kind === "i32" || kind === "u32" || kind === "f32" ? 4 : 8;
      at = at + size - 1 & -size;
      if (kind === "pointer") view.setBigUint64(at, value as bigint, true);
      else if (kind === "f32") view.setFloat32(at, value as number, true);
      else if (kind === "f64") view.setFloat64(at, value as number, true);
      else view.setInt32(at, value as number, true); // and u32, modulo 2³²
      at += size;
    }
    view.setBigUint64(SIZE, BigInt(at - PARAMETERS), true);
  }
}

const ATTRIBUTE = 56, EXTRA = 128, SIZE = 168, PARAMETERS = 176, MOST_PARAMETER_BYTES = 512;
