/**
 * Threads for kernels: resident workers that share one memory, one barrier per job, and the main thread doing its
 * share. Deliberately not a task system: one job at a time, made of independent units, started by one thread.
 *
 * @module
 */

import type { Heap } from "./memory.ts";
import { Sharing } from "./sharing.ts";
import { spawn, type Spawned } from "./spawn.ts";
import { Control, joinThreads, kernelNames, resident, type Thread, type ThreadSetup } from "./worker.ts";

/** The name of a kernel. */
export type Kernel = typeof kernelNames[number];

/** Bytes of a worker's stack: kernels keep little more than a tile there. */
const STACK = 65536;
/** Chunks per thread: enough for the others to take over from one that is delayed. */
const CHUNKS_PER_THREAD = 4;
/** Multiply-adds or like operations below which another thread is not worth waking: some 2 µs of them. */
const MINIMUM_WORK = 50_000;
/** Looks at another thread's progress before sleeping: some 25 µs of them. */
const SPINS = 4000;

const float = new Float32Array(1), word = new Uint32Array(float.buffer);

/** The bits of an f32, as a word of a job. */
export function bits(value: number): number {
  float[0] = value;
  return word[0];
}

/** Words of the control block of so many threads. */
function controlWords(threads: number): number {
  return Control.thread + threads * Control.threadWords;
}

/** Where a thread's part of a job stands. */
function partOf(thread: number): number {
  return Control.thread + thread * Control.threadWords + Control.part;
}

/** Tells the threads to end: `terminate` does not reach one that sleeps. */
function stop(control: Int32Array, threads: number): void {
  Atomics.store(control, Control.stop, 1);
  for (let thread = 1; thread < threads; thread++) {
    Atomics.store(control, partOf(thread), -1); // nothing to claim, and not what one sleeps on
    Atomics.notify(control, partOf(thread));
  }
}

/** The threads of one backend. Use {@linkcode startPool}. */
export class Pool {
  /** How many threads work, the main one included. */
  readonly threads: number;
  readonly #heap: Heap;
  readonly #workers: readonly Spawned[];
  #control: Int32Array;
  #job: Uint32Array;
  #main: Thread | undefined;
  /** Chunks done by all threads, counted without end. */
  #done = 0;
  readonly #sharing: Sharing = new Sharing();

  /** @param control address of the control block */
  constructor(heap: Heap, control: number, main: Thread, workers: readonly Spawned[]) {
    this.threads = workers.length + 1;
    this.#heap = heap;
    this.#workers = workers;
    this.#control = new Int32Array(heap.memory.buffer, control, controlWords(this.threads));
    this.#job = new Uint32Array(heap.memory.buffer, control + Control.job * 4, Control.thread - Control.job);
    this.#main = main;
  }

  /**
   * Makes sure each thread has this much scratch memory.
   * @throws {OutOfMemoryError} if the memory does not suffice
   */
  reserveScratch(bytes: number): void {
    const control = this.#control;
    if (bytes <= control[Control.scratchSize]) return;
    this.#heap.free(control[Control.scratch] >>> 0);
    control[Control.scratch] = control[Control.scratchSize] = 0;
    const size = Math.ceil(bytes / 4096) * 4096;
    control[Control.scratch] = this.#heap.allocate(size * this.threads);
    control[Control.scratchSize] = size;
  }

  /**
   * Runs one job and returns when all of it is done.
   * @param job the kernel's struct, word by word: addresses, counts, and f32 as {@linkcode bits}
   * @param units how many independent units it has
   * @param work operations of one unit, to decide whether sharing pays
   * @throws {Error} if the kernel failed on any thread, or one has failed before, as its output is not to be trusted
   */
  run(kernel: Kernel, job: readonly number[], units: number, work: number): void {
    const control = this.#control, main = this.#main!;
    const chunks = Math.min(Math.floor(units * work / MINIMUM_WORK), units, this.threads * CHUNKS_PER_THREAD);
    if (control[Control.failures] > 0) throw new Error(`Cannot run ${kernel}: a kernel has failed before`);
    this.#job.set(job);
    control[Control.serial]++;
    if (this.threads === 1 || chunks <= 1) return this.#alone(kernel, units);
    if (!this.#sharing.begin()) {
      this.#alone(kernel, units);
      this.#sharing.end(units * work, false);
      return;
    }
    control[Control.kernel] = kernelNames.indexOf(kernel);
    control[Control.units] = units;
    control[Control.chunks] = chunks;
    for (let thread = this.threads - 1; thread >= 0; thread--) { // the main thread last: others take a while to notice
      const begin = Math.ceil(thread * chunks / this.threads);
      const end = Math.ceil((thread + 1) * chunks / this.threads);
      if (begin === end) continue;
      Atomics.store(control, partOf(thread), begin << 16 | end);
      if (thread > 0 && Atomics.load(control, Control.sleepers) > 0) Atomics.notify(control, partOf(thread));
    }
    const began = performance.now();
    const cause = main.drain();
    this.#done = (this.#done + chunks) | 0;
    let drained = 0;
    for (let spins = 0; this.#counted() !== this.#done; spins += this.threads) {
      if (spins < SPINS) continue;
      if (drained === 0) drained = performance.now();
      Atomics.store(control, Control.waiting, 1);
      if (this.#counted() !== this.#done) Atomics.wait(control, Control.waiting, 1, 1);
      Atomics.store(control, Control.waiting, 0);
    }
    // usually the main thread waits for less time than it worked
    const late = drained > 0 && performance.now() - drained > drained - began;
    this.#sharing.end(units * work, late);
    if (control[Control.failures] > 0) throw failed(kernel, cause);
  }

  /** Does all of a job on this thread. */
  #alone(kernel: Kernel, units: number): void {
    try {
      this.#main!.run(kernelNames.indexOf(kernel), 0, units);
    } catch (cause) {
      Atomics.add(this.#control, Control.failures, 1);
      throw failed(kernel, cause);
    }
  }

  /** Chunks done by all threads, without end. */
  #counted(): number {
    let sum = 0;
    for (let thread = 0; thread < this.threads; thread++) {
      sum += Atomics.load(this.#control, partOf(thread) - Control.part + Control.done);
    }
    return sum | 0;
  }

  /** Ends the workers and lets go of the memory. */
  dispose(): void {
    stop(this.#control, this.threads);
    for (const worker of this.#workers) worker.terminate();
    this.#control = new Int32Array();
    this.#job = new Uint32Array();
    this.#main = undefined;
  }
}

/**
 * Starts `threads − 1` workers and waits until all are there.
 * @throws {Error} if one does not start
 */
export async function startPool(heap: Heap, module: WebAssembly.Module, threads: number): Promise<Pool> {
  const control = heap.allocateZeroed(controlWords(threads) * 4);
  const stacks = heap.allocate(STACK * (threads - 1));
  const setup = (thread: number): ThreadSetup => ({
    module,
    memory: heap.memory,
    layout: Control,
    kernels: kernelNames,
    control,
    thread,
    threads,
    stack: thread === 0 ? undefined : stacks + thread * STACK,
  });
  const main = joinThreads(setup(0));
  const program = `(${resident})(${joinThreads})`;
  const workers: Spawned[] = [];
  try {
    const starts: Promise<void>[] = [];
    for (let thread = 1; thread < threads; thread++) {
      const worker = await spawn(program, `specdiff ${thread}`);
      workers.push(worker);
      starts.push(start(worker, setup(thread), `worker thread ${thread} of ${threads - 1}`));
    }
    await Promise.all(starts);
  } catch (error) {
    stop(new Int32Array(heap.memory.buffer, control, controlWords(threads)), threads);
    for (const worker of workers) worker.terminate();
    throw error;
  }
  return new Pool(heap, control, main, workers);
}

function failed(kernel: Kernel, cause: unknown): Error {
  return new Error(`Cannot run ${kernel}: the kernel failed`, { cause });
}

/** Sends a worker its setup and waits for its answer. */
async function start(worker: Spawned, setup: ThreadSetup, what: string): Promise<void> {
  worker.postMessage(setup);
  const answer = await worker.answer.catch((error: Error) => error.message);
  if (answer !== "ready") {
    throw new Error(`Cannot start ${what}: ${answer}; fewer threads may work (option threads)`);
  }
}
