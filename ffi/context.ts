/**
 * The context of a device: making it the current one of this thread, the check of every status, and objects of the
 * driver that have to be freed. A thread has one current context. {@linkcode Context.enter} ahead of a call makes it
 * that of the right device. The current one is remembered, so nothing else on the thread may change it.
 *
 * Deliberately absent: the kinds of objects that can be made in a context.
 *
 * @module
 */

import type { Cuda } from "./libcuda.ts";

const NEWER_DRIVER = "the driver can use the kernels in no form that they come in: update NVIDIA's driver";

/** Remedies for the errors that have one, by `CUresult`. */
const HINTS: Readonly<Record<number, string>> = {
  2: "the device's memory is full: hold the weights in a smaller dtype, or end other programs on it",
  3: "the driver is shutting down",
  34: "the library is a stub for linking: point SPECDIFF_LIBCUDA to the driver's own",
  46: "another program uses the device exclusively",
  100: "no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES",
  101: "there is no device of this number",
  200: NEWER_DRIVER,
  209: NEWER_DRIVER,
  218: NEWER_DRIVER,
  222: NEWER_DRIVER,
  802: "the devices are not ready: is the fabric manager running?",
  803: "the driver and its library are of different versions: restart the machine",
};

/**
 * Errors of the device or of a kernel: a fault of its memory, of NVLink or of other hardware, an address out of bounds,
 * a kernel that ran too long, an assertion, a fault of the stack, an illegal or misaligned instruction or address, any
 * other failure, tensor memory that was not given back. All calls fail from then on.
 */
const LOST: ReadonlySet<number> = new Set([
  ...[214, 220, 226],
  ...[700, 702, 710, 714, 715, 716, 717, 718, 719, 721],
]);

const OUT_OF_MEMORY = 2;

/** A call into the driver that failed. */
export class CudaError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "CudaError";
  /** The function that was called. */
  readonly call: string;
  /** What it returned, a `CUresult`. */
  readonly code: number;

  /**
   * @param text the driver's description of the code
   * @param device its number, if the call was for one
   */
  constructor(call: string, code: number, text: string, device?: number) {
    const hint = HINTS[code] ?? (LOST.has(code) ? "the device is lost to this process" : undefined);
    const where = device === undefined ? "CUDA" : `CUDA ${device}`;
    super(`${where} failed: ${call} returned ${code} (${text})${hint === undefined ? "" : `; ${hint}`}`);
    this.call = call;
    this.code = code;
  }

  /** Whether the device's memory did not suffice. */
  get outOfMemory(): boolean {
    return this.code === OUT_OF_MEMORY;
  }
}

/** Called by an object when it is freed, so that its device forgets it. */
export type Release = (object: Disposable) => void;

/** How an object is made that dies with its device. */
export type Own = <T extends Disposable>(make: (release: Release) => T) => T;

/** The functions, and the context of one device that this thread's calls go to. */
export class Context {
  /** The functions. */
  readonly cuda: Cuda;
  /** Its number, for messages. */
  readonly device: number;
  readonly #handle: bigint;
  #lost: CudaError | undefined;

  /** Of a device's primary context, which is retained. */
  constructor(cuda: Cuda, handle: bigint, device: number) {
    this.cuda = cuda;
    this.#handle = handle;
    this.device = device;
  }

  /** Throws unless `status` is 0. Once the device is lost, that is always the error that said so first. */
  check(status: number, call: string): void {
    if (status === 0) return;
    if (!LOST.has(status)) throw driverError(this.cuda, status, call, this.device);
    this.#lost ??= driverError(this.cuda, status, call, this.device);
    throw this.#lost;
  }

  /** Waits for the device, and throws if it is lost: errors of other libraries than the driver do not tell. */
  expectAlive(): void {
    const status = this.cuda.cuCtxSynchronize();
    if (LOST.has(status)) this.check(status, "cuCtxSynchronize");
  }

  /** Makes this context the current one. */
  enter(): void {
    this.check(this.select(), "cuCtxSetCurrent");
  }

  /** The same without an error: the status. */
  select(): number {
    if (current.get(this.cuda) === this.#handle) return 0;
    const status = this.cuda.cuCtxSetCurrent(this.#handle);
    if (status === 0) current.set(this.cuda, this.#handle);
    return status;
  }

  /** Notes that it may be gone: the next {@linkcode enter} makes it the current one anew. */
  leave(): void {
    current.delete(this.cuda);
  }
}

/** The context that each loaded driver has as the current one of this thread. */
const current = new WeakMap<Cuda, bigint>();

/** Throws unless `status` is 0. */
export function check(cuda: Cuda, status: number, call: string): void {
  if (status !== 0) throw driverError(cuda, status, call);
}

/** The error for a status, with the driver's description of it. */
function driverError(cuda: Cuda, status: number, call: string, device?: number): CudaError {
  const text = (of: (code: number, out: BigUint64Array<ArrayBuffer>) => number): string | undefined => {
    const out = new BigUint64Array(1);
    if (of(status, out) !== 0) return undefined;
    const pointer = Deno.UnsafePointer.create(out[0]);
    return pointer === null ? undefined : Deno.UnsafePointerView.getCString(pointer);
  };
  const name = text(cuda.cuGetErrorName) ?? "unknown to this driver";
  const words = text(cuda.cuGetErrorString);
  return new CudaError(call, status, words === undefined ? name : `${name}, ${words}`, device);
}

/**
 * An object that the driver made. It is freed once, by its own disposal or by its device's. A failure to free means
 * that earlier work failed, which the next synchronisation reports, so it is no error of its own.
 */
export abstract class DeviceObject implements Disposable {
  /** The functions, and the device. */
  protected readonly context: Context;
  readonly #release: Release;
  #freed = false;

  constructor(context: Context, release: Release) {
    this.context = context;
    this.#release = release;
  }

  /** Frees the object in the driver. */
  protected abstract free(cuda: Cuda): void;

  [Symbol.dispose](): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#release(this);
    this.context.select();
    this.free(this.context.cuda);
  }
}
