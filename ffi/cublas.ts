/**
 * cuBLAS on a device: one product, rows of 16 bits by the transpose of a matrix of 16 bits, into f32. The order of its
 * additions is unspecified, and may depend on the number of rows. We give it its work memory, so that a product can be
 * part of a graph.
 *
 * Deliberately absent: every other function, and cuBLASLt, which cuBLAS calls itself.
 *
 * @module
 */

import { check, type Context, DeviceObject, type Own, type Release } from "./context.ts";
import { type CublasFunctions, cublasSymbols } from "./libcublas.ts";
import { libcublas, loadLibrary } from "./libraries.ts";
import { DeviceMemory } from "./memory.ts";
import type { CudaStream } from "./stream.ts";

/** Bytes of work memory: NVIDIA's recommendation for Hopper, the largest of all devices'. */
const WORKSPACE = 32 << 20;

/** `cublasStatus_t`: it has no kernel for the device's architecture, or for these arguments. */
const ARCH_MISMATCH = 8, NOT_SUPPORTED = 15;

const OP_N = 0, OP_T = 1, COMPUTE_32F = 68, GEMM_DEFAULT = -1;

/** `cudaDataType` */
const TYPES = { f32: 0, f16: 2, bf16: 14 } as const;

const ONE = Float32Array.of(1), ZERO = Float32Array.of(0);

/** A call into cuBLAS that failed. */
export class CublasError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "CublasError";
  /** The function that was called. */
  readonly call: string;
  /** What it returned, a `cublasStatus_t`. */
  readonly code: number;

  /** @param text cuBLAS's description of the code */
  constructor(call: string, code: number, text: string, device: number) {
    super(`cuBLAS failed on CUDA ${device}: ${call} returned ${code} (${text})`);
    this.call = call;
    this.code = code;
  }

  /** Whether it has no kernel for the product. Nothing was put into the stream then. */
  get unsupported(): boolean {
    return this.code === ARCH_MISMATCH || this.code === NOT_SUPPORTED;
  }
}

/** Operands and sizes of {@linkcode Cublas.multiply}; operands are addresses on the device. */
export interface Product {
  /** x·Wᵀ, f32 [rows, outputs]. */
  readonly out: bigint;
  /** [rows, inputs] */
  readonly x: bigint;
  /** W [outputs, inputs] */
  readonly matrix: bigint;
  /** Of x and W. */
  readonly dtype: "f16" | "bf16";
  /** Rows of x. */
  readonly rows: number;
  /** Columns of x and W. */
  readonly inputs: number;
  /** Rows of W. */
  readonly outputs: number;
}

/** cuBLAS, and the one stream that its work goes to. */
export class Cublas extends DeviceObject {
  /** Under which path the library was found. */
  readonly path: string;
  /** Its version: `13.1.0`. */
  readonly version: string;
  readonly #functions: CublasFunctions;
  readonly #handle: bigint;
  readonly #workspace: DeviceMemory;
  readonly #stream: CudaStream;

  /** See {@linkcode CudaDevice.cublas}. */
  constructor(context: Context, stream: CudaStream, own: Own, release: Release) {
    super(context, release);
    this.#stream = stream;
    const out = new Int32Array(1), handle = new BigUint64Array(1);
    check(context.cuda, context.cuda.cuDriverGetVersion(out), "cuDriverGetVersion");
    const { path, symbols } = loadLibrary(libcublas(out[0]), cublasSymbols);
    this.path = path;
    this.#functions = symbols;
    using failed = new DisposableStack();
    this.#workspace = failed.use(own((release) => new DeviceMemory(context, WORKSPACE, release)));
    this.#check(symbols.cublasCreate_v2(handle), "cublasCreate_v2");
    this.#handle = handle[0];
    failed.defer(() => symbols.cublasDestroy_v2(this.#handle));
    this.#check(symbols.cublasGetVersion_v2(this.#handle, out), "cublasGetVersion_v2");
    this.version = [Math.floor(out[0] / 1e4), Math.floor(out[0] / 100) % 100, out[0] % 100].join(".");
    // in this order: setting a stream resets the work memory
    this.#check(symbols.cublasSetStream_v2(this.#handle, stream.handle), "cublasSetStream_v2");
    const { pointer, bytes } = this.#workspace;
    const status = symbols.cublasSetWorkspace_v2(this.#handle, pointer, BigInt(bytes));
    this.#check(status, "cublasSetWorkspace_v2");
    failed.move();
  }

  /**
   * Puts a product into the stream. All of it is row-major; for its best kernels addresses and rows have to be aligned
   * to 16 bytes.
   * @throws {CublasError} with `unsupported` if it has no kernel for this one
   * @throws {CudaError} if the device is lost
   */
  multiply({ out, x, matrix, dtype, rows, inputs, outputs }: Product): void {
    this.context.enter();
    this.#stream.otherWork();
    // a row-major matrix here is a transposed, column-major one there: outᵀ = W·xᵀ
    const status = this.#functions.cublasGemmEx(
      this.#handle,
      ...[OP_T, OP_N] as const,
      ...[outputs, rows, inputs] as const,
      ONE,
      ...[matrix, TYPES[dtype], inputs] as const,
      ...[x, TYPES[dtype], inputs] as const,
      ZERO,
      ...[out, TYPES.f32, outputs] as const,
      COMPUTE_32F,
      GEMM_DEFAULT,
    );
    this.#check(status, "cublasGemmEx");
  }

  #check(status: number, call: string): void {
    if (status === 0) return;
    const text = this.#functions.cublasGetStatusString(status);
    const words = text === null ? "unknown to it" : Deno.UnsafePointerView.getCString(text);
    const error = new CublasError(call, status, words, this.context.device);
    if (!error.unsupported) this.context.expectAlive();
    throw error;
  }

  protected override free(): void {
    this.#functions.cublasDestroy_v2(this.#handle);
    this.#workspace[Symbol.dispose]();
  }
}
