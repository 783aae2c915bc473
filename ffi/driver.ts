/**
 * The GPU as the backend sees it: devices, memory, kernels, streams and graphs, each an object that can be
 * disposed of, over the functions of libcuda. Every call is checked; every call is synchronous and on the thread
 * that made it. What a {@linkcode CudaDevice} made dies with it at the latest.
 *
 * Deliberately absent: default streams, managed memory, several contexts of one device, and anything about models.
 *
 * @module
 */

import { type Cuda, cudaSymbols } from "./libcuda.ts";
import { LIBCUDA, loadLibrary } from "./libraries.ts";

/** What to do about the errors that have an answer, by `CUresult`. */
const HINTS: Readonly<Record<number, string>> = {
  2: "the device's memory is full: hold the weights in a smaller dtype, or end other programs on it",
  3: "the driver is shutting down",
  34: "the library is a stub for linking: point SPECDIFF_LIBCUDA to the driver's own",
  35: "the driver is older than the kernels need: update NVIDIA's driver to 525 or later",
  46: "another program uses the device exclusively",
  100: "no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES",
  101: "there is no device of this number",
  209: "the kernels need compute capability 8.0 (Ampere) or later",
  218: "the driver could not compile the kernels for this device",
  222: "the driver is older than the kernels need: update NVIDIA's driver to 525 or later",
  802: "the devices are not ready: is the fabric manager running?",
  803: "the driver and its library are of different versions: restart the machine",
};

/**
 * Errors of the device or of a kernel: a fault of its memory, an address out of bounds, a kernel that ran too long,
 * an assertion, a fault of the stack, an illegal or misaligned instruction or address, any other failure. All calls
 * fail from then on.
 */
const LOST: ReadonlySet<number> = new Set([214, 700, 702, 710, 714, 715, 716, 717, 718, 719]);

const OUT_OF_MEMORY = 2;
const NO_DEVICE = 100;

/** A call into the driver that failed. */
export class CudaError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "CudaError";
  /** The function that was called. */
  readonly call: string;
  /** What it returned, a `CUresult`. */
  readonly code: number;

  /** @param text what the driver says about the code */
  constructor(call: string, code: number, text: string) {
    const hint = HINTS[code] ?? (LOST.has(code) ? "the device is lost to this process" : undefined);
    super(`CUDA failed: ${call} returned ${code} (${text})${hint === undefined ? "" : `; ${hint}`}`);
    this.call = call;
    this.code = code;
  }

  /** Whether the device's memory did not suffice. */
  get outOfMemory(): boolean {
    return this.code === OUT_OF_MEMORY;
  }
}

/** Kinds of a kernel's parameters. */
export type Parameter = "pointer" | "i32" | "u32" | "u64" | "f32" | "f64";

/** What is passed for them: addresses and 64-bit numbers are bigint. */
export type Arguments<P extends readonly Parameter[]> = {
  -readonly [I in keyof P]: P[I] extends "pointer" | "u64" ? bigint : number;
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

/** Called by an object when it is freed, so that its device forgets it. */
type Release = (object: Disposable) => void;

/** How an object is made that dies with its device. */
type Own = <T extends Disposable>(make: (release: Release) => T) => T;

/** The functions, and the context of one device that this thread's calls go to. */
class Context {
  readonly cuda: Cuda;
  readonly #handle: bigint;
  #lost: CudaError | undefined;

  constructor(cuda: Cuda, handle: bigint) {
    this.cuda = cuda;
    this.#handle = handle;
  }

  /** Throws unless `status` is 0. Once the device is lost, that is always the error that said so first. */
  check(status: number, call: string): void {
    if (status === 0) return;
    if (!LOST.has(status)) check(this.cuda, status, call);
    this.#lost ??= driverError(this.cuda, status, call);
    throw this.#lost;
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
}

/** The context that each loaded driver has as the current one of this thread. */
const current = new WeakMap<Cuda, bigint>();

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

/** One GPU, and everything that was made on it. */
export class CudaDevice implements Disposable {
  /** Which one, from 0. */
  readonly ordinal: number;
  /** What it is sold as. */
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
    this.#context = new Context(cuda, handle[0]);
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

  /** Waits for the device and frees everything that was made on it. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    const { cuda } = this.#context;
    this.#context.select();
    cuda.cuCtxSynchronize();
    for (const object of [...this.#owned].reverse()) object[Symbol.dispose]();
    current.delete(cuda);
    cuda.cuDevicePrimaryCtxRelease_v2(this.#device);
  }

  readonly #own: Own = (make) => {
    this.#context.enter();
    const object = make((object) => this.#owned.delete(object));
    this.#owned.add(object);
    return object;
  };
}

/** Throws unless `status` is 0. */
function check(cuda: Cuda, status: number, call: string): void {
  if (status !== 0) throw driverError(cuda, status, call);
}

/** What the driver says about a status. */
function driverError(cuda: Cuda, status: number, call: string): CudaError {
  const text = (of: (code: number, out: BigUint64Array<ArrayBuffer>) => number): string | undefined => {
    const out = new BigUint64Array(1);
    if (of(status, out) !== 0) return undefined;
    const pointer = Deno.UnsafePointer.create(out[0]);
    return pointer === null ? undefined : Deno.UnsafePointerView.getCString(pointer);
  };
  const name = text(cuda.cuGetErrorName) ?? "unknown to this driver";
  const words = text(cuda.cuGetErrorString);
  return new CudaError(call, status, words === undefined ? name : `${name}, ${words}`);
}

/**
 * Something the driver made. To be freed once: by its own disposal, or by its device's. A failure to free says
 * that earlier work failed, which the next synchronisation reports; so it is no error of its own.
 */
abstract class DeviceObject implements Disposable {
  /** The functions, and whose they are. */
  protected readonly context: Context;
  readonly #release: Release;
  #freed = false;

  constructor(context: Context, release: Release) {
    this.context = context;
    this.#release = release;
  }

  /** Gives back to the driver what it made. */
  protected abstract free(cuda: Cuda): void;

  [Symbol.dispose](): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#release(this);
    this.context.select();
    this.free(this.context.cuda);
  }
}

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
  /** The memory; detached by disposal, so that what still looks at it sees nothing. */
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

/** A queue of work: what is put in runs in order, some time before {@linkcode CudaStream.synchronize} returns. */
export class CudaStream extends DeviceObject {
  readonly #own: Own;
  readonly #stream: bigint;
  readonly #launch = new LaunchBuffer();
  /** Memory of JavaScript that copies under way still use. */
  readonly #inUse: ArrayBufferView[] = [];

  /** See {@linkcode CudaDevice.stream}. */
  constructor(context: Context, own: Own, release: Release) {
    super(context, release);
    this.#own = own;
    const NON_BLOCKING = 1;
    const out = new BigUint64Array(1);
    context.check(context.cuda.cuStreamCreate(out, NON_BLOCKING), "cuStreamCreate");
    this.#stream = out[0];
  }

  /** Runs a kernel. */
  launch<const P extends readonly Parameter[]>(
    kernel: CudaKernel<P>,
    shape: LaunchShape,
    ...values: Arguments<P>
  ): void {
    const { context } = this;
    const { config, extra } = this.#launch;
    this.#launch.fill(this.#stream, shape, kernel.parameters, values);
    context.enter();
    context.check(context.cuda.cuLaunchKernelEx(config, kernel.handle, 0n, extra), "cuLaunchKernelEx");
  }

  /** Copies to the device. `source` must stay as it is until the next {@linkcode CudaStream.synchronize}. */
  upload(to: bigint, source: ArrayBufferView<ArrayBuffer>): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuMemcpyHtoDAsync_v2(to, source, BigInt(source.byteLength), this.#stream);
    context.check(status, "cuMemcpyHtoDAsync_v2");
    this.#inUse.push(source);
  }

  /** Copies from the device. `target` holds it after the next {@linkcode CudaStream.synchronize}. */
  download(target: ArrayBufferView<ArrayBuffer>, from: bigint): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuMemcpyDtoHAsync_v2(target, from, BigInt(target.byteLength), this.#stream);
    context.check(status, "cuMemcpyDtoHAsync_v2");
    this.#inUse.push(target);
  }

  /** Copies within the device. */
  copy(to: bigint, from: bigint, bytes: number): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuMemcpyDtoDAsync_v2(to, from, BigInt(bytes), this.#stream);
    context.check(status, "cuMemcpyDtoDAsync_v2");
  }

  /** Sets `count` words of 32 bits. */
  fill(to: bigint, word: number, count: number): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuMemsetD32Async(to, word >>> 0, BigInt(count), this.#stream);
    context.check(status, "cuMemsetD32Async");
  }

  /** Marks this place in the queue. */
  record(event: CudaEvent): void {
    const { context } = this;
    context.enter();
    context.check(context.cuda.cuEventRecord(event.handle, this.#stream), "cuEventRecord");
  }

  /** What is put in after this runs after the place that `event` marks, in whichever stream it is. */
  wait(event: CudaEvent): void {
    const { context } = this;
    context.enter();
    context.check(context.cuda.cuStreamWaitEvent(this.#stream, event.handle, 0), "cuStreamWaitEvent");
  }

  /** Waits until all of the queue has run. */
  synchronize(): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuStreamSynchronize(this.#stream);
    this.#inUse.length = 0;
    context.check(status, "cuStreamSynchronize");
  }

  /**
   * Records what `body` puts into this stream, which does not run, as a graph that can be run many times. It may
   * not allocate, nor wait.
   */
  capture(body: () => void): CudaGraph {
    const { context } = this;
    const { cuda } = context;
    context.enter();
    const THREAD_LOCAL = 1;
    context.check(cuda.cuStreamBeginCapture_v2(this.#stream, THREAD_LOCAL), "cuStreamBeginCapture_v2");
    const out = new BigUint64Array(1);
    try {
      body();
    } catch (error) {
      if (cuda.cuStreamEndCapture(this.#stream, out) === 0) cuda.cuGraphDestroy(out[0]);
      throw error;
    }
    context.check(cuda.cuStreamEndCapture(this.#stream, out), "cuStreamEndCapture");
    return this.#own((release) => new CudaGraph(context, out[0], release));
  }

  /** Runs a graph. */
  run(graph: CudaGraph): void {
    const { context } = this;
    context.enter();
    context.check(context.cuda.cuGraphLaunch(graph.handle, this.#stream), "cuGraphLaunch");
  }

  /** Does not wait: what is under way ends on its own. */
  protected override free(cuda: Cuda): void {
    cuda.cuStreamDestroy_v2(this.#stream);
  }
}

/** Work that is launched as one. */
export class CudaGraph extends DeviceObject {
  /** The driver's handle of its executable form. */
  readonly handle: bigint;

  /** See {@linkcode CudaStream.capture}. */
  constructor(context: Context, graph: bigint, release: Release) {
    super(context, release);
    const { cuda } = context;
    const out = new BigUint64Array(1);
    const status = cuda.cuGraphInstantiateWithFlags(out, graph, 0n);
    cuda.cuGraphDestroy(graph);
    context.check(status, "cuGraphInstantiateWithFlags");
    this.handle = out[0];
  }

  protected override free(cuda: Cuda): void {
    cuda.cuGraphExecDestroy(this.handle);
  }
}

/** A mark in the queue of a stream. */
export class CudaEvent extends DeviceObject {
  /** The driver's handle. */
  readonly handle: bigint;

  /** See {@linkcode CudaDevice.event}. */
  constructor(context: Context, release: Release) {
    super(context, release);
    const out = new BigUint64Array(1);
    context.check(context.cuda.cuEventCreate(out, 0), "cuEventCreate");
    this.handle = out[0];
  }

  /** Waits until the queue has come to where it was recorded last. */
  synchronize(): void {
    const { context } = this;
    context.enter();
    context.check(context.cuda.cuEventSynchronize(this.handle), "cuEventSynchronize");
  }

  /** Milliseconds of the device between `earlier` and this, both of which have been reached. */
  since(earlier: CudaEvent): number {
    const { context } = this;
    context.enter();
    const out = new Float32Array(1);
    const status = context.cuda.cuEventElapsedTime(out, earlier.handle, this.handle);
    context.check(status, "cuEventElapsedTime");
    return out[0];
  }

  protected override free(cuda: Cuda): void {
    cuda.cuEventDestroy_v2(this.handle);
  }
}

/**
 * What a launch passes by address, in one piece of memory that is filled anew for each: the driver copies it
 * before the call returns. It holds, at the byte offsets below, a `CUlaunchConfig`, one `CUlaunchAttribute`, the
 * list `extra` that says where the parameters are, and the parameters, each aligned to its own size.
 */
class LaunchBuffer {
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
      if (kind === "pointer" || kind === "u64") view.setBigUint64(at, value as bigint, true);
      else if (kind === "f32") view.setFloat32(at, value as number, true);
      else if (kind === "f64") view.setFloat64(at, value as number, true);
      else view.setInt32(at, value as number, true); // and u32, modulo 2³²
      at += size;
    }
    view.setBigUint64(SIZE, BigInt(at - PARAMETERS), true);
  }
}

const ATTRIBUTE = 56, EXTRA = 128, SIZE = 168, PARAMETERS = 176, MOST_PARAMETER_BYTES = 512;
