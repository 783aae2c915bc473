/**
 * Queues of work on a device: streams, events in them, and graphs recorded from them.
 *
 * Deliberately absent: the default stream, and graphs that are changed once they are made.
 *
 * @module
 */

import { type Context, CudaError, DeviceObject, type Own, type Release } from "./context.ts";
import { type Arguments, type CudaKernel, LaunchBuffer, type LaunchShape, type Parameter } from "./launch.ts";
import type { Cuda } from "./libcuda.ts";

/** A queue of work. It runs in order, and has run when {@linkcode CudaStream.synchronize} returns. */
export class CudaStream extends DeviceObject {
  /** The driver's handle. */
  readonly handle: bigint;
  readonly #own: Own;
  readonly #launch = new LaunchBuffer();
  /** JavaScript memory that pending copies use, kept from the garbage collector. */
  readonly #inUse: ArrayBufferView[] = [];
  /** While a graph is recorded: whether a launch in it may begin before the one ahead has ended. */
  #recording: { dependent: boolean } | undefined;
  /**
   * Whether the last work in the queue is a kernel of ours. Only then may a dependent launch begin early: before our
   * kernels wait for the work ahead, they read some data that copies and fills write, such as the length of a cache.
   */
  #afterKernel = false;
  #refuses = false;
  #recorded = 0;

  /** See {@linkcode CudaDevice.stream}. */
  constructor(context: Context, own: Own, release: Release) {
    super(context, release);
    this.#own = own;
    const NON_BLOCKING = 1;
    const out = new BigUint64Array(1);
    context.check(context.cuda.cuStreamCreate(out, NON_BLOCKING), "cuStreamCreate");
    this.handle = out[0];
  }

  /** Whether the driver refused to record dependent launches. */
  get refuses(): boolean {
    return this.#refuses;
  }

  /** Graphs that were recorded. */
  get recorded(): number {
    return this.#recorded;
  }

  /** Runs a kernel. It begins after the work ahead has ended, unless it is dependent and that work is a kernel too. */
  launch<const P extends readonly Parameter[]>(
    kernel: CudaKernel<P>,
    shape: LaunchShape,
    ...values: Arguments<P>
  ): void {
    const { context } = this;
    const { config, extra } = this.#launch;
    if (shape.dependent && (!this.#afterKernel || this.#recording !== undefined && this.#refuses)) {
      shape = { ...shape, dependent: false };
    }
    if (this.#recording !== undefined && shape.dependent) this.#recording.dependent = true;
    this.#launch.fill(this.handle, shape, kernel.parameters, values);
    context.enter();
    context.check(context.cuda.cuLaunchKernelEx(config, kernel.handle, 0n, extra), "cuLaunchKernelEx");
    this.#afterKernel = true;
  }

  /** Notes that the last work in the queue is not a kernel of ours. */
  otherWork(): void {
    this.#afterKernel = false;
  }

  /** Copies to the device. `source` must stay as it is until the next {@linkcode CudaStream.synchronize}. */
  upload(to: bigint, source: ArrayBufferView<ArrayBuffer>): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuMemcpyHtoDAsync_v2(to, source, BigInt(source.byteLength), this.handle);
    this.otherWork();
    context.check(status, "cuMemcpyHtoDAsync_v2");
    this.#inUse.push(source);
  }

  /** Copies from the device. `target` holds it after the next {@linkcode CudaStream.synchronize}. */
  download(target: ArrayBufferView<ArrayBuffer>, from: bigint): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuMemcpyDtoHAsync_v2(target, from, BigInt(target.byteLength), this.handle);
    this.otherWork();
    context.check(status, "cuMemcpyDtoHAsync_v2");
    this.#inUse.push(target);
  }

  /** Copies within the device. */
  copy(to: bigint, from: bigint, bytes: number): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuMemcpyDtoDAsync_v2(to, from, BigInt(bytes), this.handle);
    this.otherWork();
    context.check(status, "cuMemcpyDtoDAsync_v2");
  }

  /** Sets `count` words of 32 bits. */
  fill(to: bigint, word: number, count: number): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuMemsetD32Async(to, word >>> 0, BigInt(count), this.handle);
    this.otherWork();
    context.check(status, "cuMemsetD32Async");
  }

  /** Marks this place in the queue. */
  record(event: CudaEvent): void {
    const { context } = this;
    context.enter();
    this.otherWork();
    context.check(context.cuda.cuEventRecord(event.handle, this.handle), "cuEventRecord");
  }

  /** Waits until all of the queue has run. */
  synchronize(): void {
    const { context } = this;
    context.enter();
    const status = context.cuda.cuStreamSynchronize(this.handle);
    this.#inUse.length = 0;
    context.check(status, "cuStreamSynchronize");
  }

  /**
   * Records the work that `body` puts into this stream, without running it, as a graph that can be run many times.
   * `body` must not allocate or wait. If the driver does not record dependent launches, `body` is called once more, and
   * from then on those launches are recorded as plain ones.
   */
  capture(body: () => void): CudaGraph {
    const recording = this.#recording = { dependent: false };
    try {
      return this.#record(body);
    } catch (error) {
      if (!(error instanceof CudaError && recording.dependent)) throw error;
      this.#refuses = true;
      try {
        return this.#record(body);
      } catch (again) {
        this.#refuses = false; // it failed for another reason
        throw again;
      }
    } finally {
      this.#recording = undefined;
      this.otherWork(); // recorded work is not in the queue
    }
  }

  #record(body: () => void): CudaGraph {
    const { context } = this;
    const { cuda } = context;
    context.enter();
    const THREAD_LOCAL = 1;
    context.check(cuda.cuStreamBeginCapture_v2(this.handle, THREAD_LOCAL), "cuStreamBeginCapture_v2");
    this.otherWork(); // nothing is ahead of the first launch of a graph
    const out = new BigUint64Array(1);
    try {
      body();
    } catch (error) {
      if (cuda.cuStreamEndCapture(this.handle, out) === 0) cuda.cuGraphDestroy(out[0]);
      throw error;
    }
    context.check(cuda.cuStreamEndCapture(this.handle, out), "cuStreamEndCapture");
    const graph = this.#own((release) => new CudaGraph(context, out[0], release));
    this.#recorded++;
    return graph;
  }

  /** Runs a graph. */
  run(graph: CudaGraph): void {
    const { context } = this;
    context.enter();
    this.otherWork();
    context.check(context.cuda.cuGraphLaunch(graph.handle, this.handle), "cuGraphLaunch");
  }

  /** Does not wait: pending work ends on its own. */
  protected override free(cuda: Cuda): void {
    cuda.cuStreamDestroy_v2(this.handle);
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

/** A mark in a stream's queue, with the time at which it was reached. */
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

  /** Milliseconds of the device between `earlier` and this, both of which have been reached. */
  since(earlier: CudaEvent): number {
    const { context } = this;
    context.enter();
    const out = new Float32Array(1), { cuEventElapsedTime, cuEventElapsedTime_v2 } = context.cuda;
    const elapsed = cuEventElapsedTime ?? cuEventElapsedTime_v2;
    if (elapsed === null) {
      throw new Error(
        "Cannot measure time: the driver exports no cuEventElapsedTime, expected it or its _v2",
      );
    }
    context.check(elapsed(out, earlier.handle, this.handle), "cuEventElapsedTime");
    return out[0];
  }

  protected override free(cuda: Cuda): void {
    cuda.cuEventDestroy_v2(this.handle);
  }
}
