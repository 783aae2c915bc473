/**
 * The driver, its devices, and the objects made on them: memory, modules of kernels, streams, events and cuBLAS. Every
 * call is checked, is synchronous, and runs on the thread that made it. Objects of a {@linkcode CudaDevice} are freed
 * with it at the latest.
 *
 * Deliberately absent: default streams, managed memory, several contexts of one device, and anything about models.
 *
 * @module
 */

import { check, Context, type Own } from "./context.ts";
import { Cublas } from "./cublas.ts";
import { CudaModule } from "./launch.ts";
import { type Cuda, cudaSymbols } from "./libcuda.ts";
import { LIBCUDA, loadLibrary } from "./libraries.ts";
import { DeviceMemory, PinnedMemory } from "./memory.ts";
import { CudaEvent, CudaStream } from "./stream.ts";

const NO_DEVICE = 100;

/** libcuda, initialised. */
export class CudaDriver {
  /** Under which path the library was found. */
  readonly path: string;
  /** The newest CUDA it serves: 13000 for 13.0. */
  readonly version: number;
  /** Number of devices. */
  readonly deviceCount: number;
  readonly #cuda: Cuda;

  /**
   * Loads and initialises the driver.
   * @throws {LibraryNotFoundError} if there is none, or no permission to load it
   * @throws {CudaError} if it cannot be initialised; a machine without devices is no error
   */
  constructor() {
    const { path, symbols } = loadLibrary(LIBCUDA, cudaSymbols);
    this.path = path;
    this.#cuda = symbols;
    const status = symbols.cuInit(0);
    if (status !== NO_DEVICE) check(symbols, status, "cuInit");
    const out = new Int32Array(1);
    check(symbols, symbols.cuDriverGetVersion(out), "cuDriverGetVersion");
    this.version = out[0];
    if (status === NO_DEVICE) {
      this.deviceCount = 0;
    } else {
      check(symbols, symbols.cuDeviceGetCount(out), "cuDeviceGetCount");
      this.deviceCount = out[0];
    }
  }

  /**
   * Opens a device.
   * @throws {RangeError} if there is none of this number
   * @throws {CudaError} if it cannot be used
   */
  device(ordinal: number): CudaDevice {
    if (this.deviceCount === 0) {
      throw new RangeError(
        `Cannot open CUDA device ${ordinal}: the driver sees no GPU (see nvidia-smi, and CUDA_VISIBLE_DEVICES)`,
      );
    }
    if (!(Number.isInteger(ordinal) && ordinal >= 0 && ordinal < this.deviceCount)) {
      throw new RangeError(
        `Cannot open CUDA device ${ordinal}: this machine has ${this.deviceCount}, counted from 0`,
      );
    }
    return new CudaDevice(this.#cuda, ordinal);
  }
}

/** A version of CUDA as people write it: 13.0 for 13000. */
export function formatVersion(version: number): string {
  return `${Math.floor(version / 1000)}.${version % 1000 / 10}`;
}

/** One GPU, and everything that was made on it. */
export class CudaDevice implements Disposable {
  /** Which one, from 0. */
  readonly ordinal: number;
  /** Its product name. */
  readonly name: string;
  /** Compute capability: [9, 0] for Hopper. */
  readonly capability: readonly [major: number, minor: number];
  /** Streaming multiprocessors. */
  readonly multiprocessors: number;
  /** The most shared memory a block may have, bytes. */
  readonly sharedBytesPerBlock: number;
  readonly #device: number;
  readonly #context: Context;
  /** In the order they were made. */
  readonly #owned = new Set<Disposable>();
  #closed = false;

  /** See {@linkcode CudaDriver.device}. */
  constructor(cuda: Cuda, ordinal: number) {
    this.ordinal = ordinal;
    const out = new Int32Array(1);
    check(cuda, cuda.cuDeviceGet(out, ordinal), "cuDeviceGet");
    this.#device = out[0];
    const attribute = (which: number): number => {
      check(cuda, cuda.cuDeviceGetAttribute(out, which, this.#device), "cuDeviceGetAttribute");
      return out[0];
    };
    this.multiprocessors = attribute(16);
    this.capability = [attribute(75), attribute(76)];
    this.sharedBytesPerBlock = attribute(97);
    const name = new Uint8Array(256);
    check(cuda, cuda.cuDeviceGetName(name, name.length, this.#device), "cuDeviceGetName");
    this.name = new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
    const handle = new BigUint64Array(1);
    check(cuda, cuda.cuDevicePrimaryCtxRetain(handle, this.#device), "cuDevicePrimaryCtxRetain");
    this.#context = new Context(cuda, handle[0], ordinal);
  }

  /** Bytes of the device's memory that are free, of all. */
  memory(): { readonly free: number; readonly total: number } {
    const context = this.#context;
    context.enter();
    const free = new BigUint64Array(1), total = new BigUint64Array(1);
    context.check(context.cuda.cuMemGetInfo_v2(free, total), "cuMemGetInfo_v2");
    return { free: Number(free[0]), total: Number(total[0]) };
  }

  /**
   * Allocates memory on the device; its contents are undefined.
   * @throws {CudaError} with `outOfMemory` if there is not enough
   */
  allocate(bytes: number): DeviceMemory {
    return this.#own((release) => new DeviceMemory(this.#context, bytes, release));
  }

  /** Allocates zeroed memory of the host that the device reads and writes at full speed. */
  pin(bytes: number): PinnedMemory {
    return this.#own((release) => new PinnedMemory(this.#context, bytes, release));
  }

  /** Loads compiled kernels: a fatbin, cubin or PTX. */
  load(image: Uint8Array<ArrayBuffer>): CudaModule {
    return this.#own((release) => new CudaModule(this.#context, image, release));
  }

  /** Makes a queue of work. */
  stream(): CudaStream {
    return this.#own((release) => new CudaStream(this.#context, this.#own, release));
  }

  /** Makes a mark that streams set and wait for. */
  event(): CudaEvent {
    return this.#own((release) => new CudaEvent(this.#context, release));
  }

  /**
   * Opens cuBLAS, whose work goes to `stream`.
   * @throws {LibraryNotFoundError} if there is none that the driver can use
   * @throws {CublasError} if it refuses
   * @throws {CudaError} with `outOfMemory` if there is no room for its work memory
   */
  cublas(stream: CudaStream): Cublas {
    return this.#own((release) => new Cublas(this.#context, stream, this.#own, release));
  }

  /** Waits for the device and frees everything that was made on it. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    const { cuda } = this.#context;
    this.#context.select();
    cuda.cuCtxSynchronize();
    for (const object of [...this.#owned].reverse()) object[Symbol.dispose]();
    this.#context.leave();
    cuda.cuDevicePrimaryCtxRelease_v2(this.#device);
  }

  readonly #own: Own = (make) => {
    this.#context.enter();
    const object = make((object) => this.#owned.delete(object));
    this.#owned.add(object);
    return object;
  };
}
