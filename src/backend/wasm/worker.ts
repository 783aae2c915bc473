/**
 * The program of every thread, and the loop of the resident ones. The two functions refer to nothing outside
 * themselves, so that their text is the source of a blob worker: no file to find, no permission to ask for, nothing
 * that a bundler must know.
 *
 * Jobs travel through a block of the shared memory, 32-bit words at the indices below. A job is a number of chunks, of
 * which each thread has a part. The parts are the same when the job comes again: weights may still be in a thread's
 * cache, and threads seldom write to the same place. A thread that is done with its own part helps the others, so a
 * thread that is descheduled or asleep delays nobody.
 *
 * @module
 */

/** Word indices into the control block; those that different threads write are on cache lines of their own. */
export const Control = {
  /** How many threads sleep. */
  sleepers: 0,
  /** 1: threads should end. */
  stop: 1,
  /** Number of chunks whose kernel trapped. */
  failures: 2,
  /** 1: the main thread sleeps, on this word. */
  waiting: 16,
  /** This word and all that follow, up to `thread`, are written while there is nothing to claim. Index of the kernel. */
  kernel: 32,
  /** Number of units. */
  units: 33,
  /** Number of chunks, fewer than 65536, as even as can be. */
  chunks: 34,
  /** Address of the threads' scratch memory. */
  scratch: 35,
  /** Bytes of scratch for each thread. */
  scratchSize: 36,
  /** Which job it is: jobs in a row differ. */
  serial: 37,
  /** The struct that the kernel reads. */
  job: 48,
  /** The words of the first thread; those of the others follow. */
  thread: 128,
  /** Of a thread's words: the next chunk of its part, 16 bits, and where that ends. It sleeps on it. */
  part: 0,
  /** Of a thread's words: the chunks it has done, counted without end. */
  done: 16,
  /** How many words a thread has. */
  threadWords: 32,
} as const;

/** The kernels in the order of their numbers. The probes are for `bench/kernels.ts`. */
export const kernelNames = [
  "pack",
  "embed",
  "prepare",
  "project",
  "append",
  "attend",
  "softmax",
  "race",
  "probe_madd",
  "probe_dot",
  "probe_read",
  "probe_read_places",
] as const;

/** The setup of a thread. */
export interface ThreadSetup {
  /** The compiled kernels. */
  readonly module: WebAssembly.Module;
  /** The memory of all threads. */
  readonly memory: WebAssembly.Memory;
  /** {@linkcode Control} */
  readonly layout: typeof Control;
  /** {@linkcode kernelNames} */
  readonly kernels: readonly string[];
  /** Address of the control block. */
  readonly control: number;
  /** Which thread this is; 0 is the main one. */
  readonly thread: number;
  /** How many there are. */
  readonly threads: number;
  /** End of this thread's stack; absent: the one the module came with. */
  readonly stack?: number | undefined;
}

/** The kernels as one thread has them. */
export interface Thread {
  /** Does units [begin, end) of the job that stands in the control block. A kernel that traps throws. */
  run(kernel: number, begin: number, end: number): void;
  /** Whether there is something left of its own part. */
  called(): boolean;
  /** Waits until its part changes or threads should end, unless there is something left of it or they should. */
  sleep(): void;
  /** Claims and does chunks, of its own part first, until none is left; what one failed with, if one did. */
  drain(): unknown;
}

/** Instantiates the kernels for this thread. */
export function joinThreads(setup: ThreadSetup): Thread {
  const { module, memory, layout, kernels, thread, threads } = setup;
  const imports: Record<string, Record<string, WebAssembly.ImportValue>> = {};
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    // by name alone: publishing may rename the modules that imports come from
    imports[from] ??= {};
    imports[from][name] = kind === "memory" ? memory : name === "log1p" ? Math.log1p : () => {};
  }
  const { exports } = new WebAssembly.Instance(module, imports);
  if (setup.stack !== undefined) (exports.__stack_pointer as WebAssembly.Global).value = setup.stack;
  type Kernel = (job: number, begin: number, end: number, scratch: number, first: number) => void;
  const functions = kernels.map((name) => exports[name] as Kernel);
  const control = new Int32Array(memory.buffer, setup.control, layout.thread + threads * layout.threadWords);
  const job = setup.control + layout.job * 4;
  const own = layout.thread + thread * layout.threadWords + layout.part;
  const ownDone = own - layout.part + layout.done;

  let known = 0; // the job that this thread has had a part of
  const run = (kernel: number, begin: number, end: number) => {
    const scratch = (control[layout.scratch] >>> 0) + thread * control[layout.scratchSize];
    const first = known === control[layout.serial] ? 0 : 1;
    known = control[layout.serial];
    functions[kernel](job, begin, end, scratch, first);
  };

  const left = (part: number) => part >>> 16 < (part & 0xffff);
  const called = () => left(Atomics.load(control, own));
  const sleep = () => {
    Atomics.add(control, layout.sleepers, 1);
    const part = Atomics.load(control, own);
    // in this order: threads are told to end before their parts change for the last time
    if (!left(part) && Atomics.load(control, layout.stop) === 0) Atomics.wait(control, own, part);
    Atomics.sub(control, layout.sleepers, 1);
  };
  const drain = () => {
    let fault: unknown;
    for (let i = 0; i < threads; i++) {
      const at = layout.thread + (thread + i) % threads * layout.threadWords + layout.part;
      for (;;) {
        const part = Atomics.load(control, at);
        if (!left(part)) break;
        // a claimed chunk is of this job, however old `part` is: no other job begins before all chunks are done
        if (Atomics.compareExchange(control, at, part, part + 0x10000) !== part) continue;
        const chunk = part >>> 16, chunks = control[layout.chunks];
        const begin = (n: number) => Math.floor(n * control[layout.units] / chunks); // the first unit of chunk n
        try {
          run(control[layout.kernel], begin(chunk), begin(chunk + 1));
        } catch (error) {
          fault ??= error;
          Atomics.add(control, layout.failures, 1);
        }
        Atomics.add(control, ownDone, 1);
        if (Atomics.load(control, layout.waiting) === 1) {
          Atomics.store(control, layout.waiting, 0);
          Atomics.notify(control, layout.waiting);
        }
      }
    }
    return fault;
  };
  return { run, called, sleep, drain };
}

/** The body of a resident worker. It is sent a {@linkcode ThreadSetup}, answers `ready` or a message of failure. */
export function resident(join: typeof joinThreads): void {
  const scope = globalThis as unknown as {
    onmessage: ((event: MessageEvent<ThreadSetup>) => void) | null;
    postMessage(message: string): void;
    close(): void;
  };
  scope.onmessage = ({ data }) => {
    scope.onmessage = null;
    const { layout } = data;
    let thread: Thread;
    try {
      thread = join(data);
    } catch (error) {
      scope.postMessage(String(error));
      return;
    }
    const control = new Int32Array(data.memory.buffer, data.control, layout.stop + 1);
    scope.postMessage("ready");
    for (let spins = 0; Atomics.load(control, layout.stop) === 0;) {
      if (thread.called()) {
        spins = 0;
        thread.drain(); // the main thread sees a failure in the control block
      } else if (++spins > 40000) { // some 250 µs: longer than the sampler takes between two passes
        spins = 0;
        thread.sleep();
      }
    }
    scope.close();
  };
}
