/**
 * What runs on every thread, and the little more that runs on the resident ones. The two functions refer to
 * nothing outside of themselves, so that their very text can be the source of a blob worker: no file to find, no
 * permission to ask for, nothing a bundler must know.
 *
 * Jobs travel through a block of the shared memory, 32-bit words at the indices below. A job is `chunks` pieces
 * that threads claim one at a time, so a thread that the system has put aside delays nobody; one that was asleep
 * need not even come.
 *
 * @module
 */

/** Word indices into the control block; those that different threads write are on cache lines of their own. */
export const Control = {
  /** Number of the current job. Threads sleep on it. */
  epoch: 0,
  /** How many threads sleep. */
  sleepers: 1,
  /** 1: threads should end. */
  stop: 2,
  /** Number of threads whose kernel trapped. */
  failures: 3,
  /** Low 20 bits of the job's number, then 12 bits: the next chunk. One word, so that a claim cannot be stale. */
  claim: 16,
  /** Chunks done. The main thread sleeps on it. */
  done: 32,
  /** This word and all that follow are written while `claim` is shut. Index of the kernel. */
  kernel: 48,
  /** Number of units. */
  units: 49,
  /** Number of chunks, fewer than 4096, as even as can be. */
  chunks: 50,
  /** Address of the threads' scratch memory. */
  scratch: 51,
  /** Bytes of scratch for each thread. */
  scratchSize: 52,
  /** The struct that the kernel reads. */
  job: 64,
  /** Words in all. */
  words: 128,
} as const;

/** The kernels in the order of their numbers. */
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
] as const;

/** What a thread needs to take part. */
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
  /** End of this thread's stack; absent: the one the module came with. */
  readonly stack?: number | undefined;
}

/** The kernels as one thread has them. A kernel that traps throws a `WebAssembly.RuntimeError`. */
export interface Thread {
  /** Does units [begin, end) of the job that stands in the control block. */
  run(kernel: number, begin: number, end: number): void;
  /** Claims and does chunks of job number `epoch` until none is left. */
  drain(epoch: number): void;
}

/** Instantiates the kernels for this thread. */
export function joinThreads(setup: ThreadSetup): Thread {
  const { module, memory, layout, kernels, thread } = setup;
  const imports: Record<string, Record<string, WebAssembly.ImportValue>> = {};
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    // by name alone: publishing may rename the modules that imports come from
    imports[from] ??= {};
    imports[from][name] = kind === "memory" ? memory : name === "log1p" ? Math.log1p : () => {};
  }
  const { exports } = new WebAssembly.Instance(module, imports);
  if (setup.stack !== undefined) (exports.__stack_pointer as WebAssembly.Global).value = setup.stack;
  type Kernel = (job: number, begin: number, end: number, scratch: number) => void;
  const functions = kernels.map((name) => exports[name] as Kernel);
  const control = new Int32Array(memory.buffer, setup.control, layout.words);
  const job = setup.control + layout.job * 4;

  // V8 puts a kernel's spilled vectors wherever the stack happens to stand, to 8 bytes. Called this way, past five
  // words more than the kernel takes, fewer of them straddle cache lines: passes of 2 to 4 rows take some 5 % less
  const given = [job, 0, 0, 0, 0, 0, 0, 0, 0];
  const run = (kernel: number, begin: number, end: number) => {
    given[1] = begin;
    given[2] = end;
    given[3] = (control[layout.scratch] >>> 0) + thread * control[layout.scratchSize];
    Reflect.apply(functions[kernel], undefined, given);
  };

  const drain = (epoch: number) => {
    for (;;) {
      const claim = Atomics.load(control, layout.claim);
      if ((claim ^ (epoch << 12)) >>> 12 !== 0) return;
      const chunk = claim & 0xfff, chunks = control[layout.chunks];
      if (chunk >= chunks) return;
      // succeeds only while `chunks` belongs to this job: `claim` is shut before the words of the next are written
      if (Atomics.compareExchange(control, layout.claim, claim, claim + 1) !== claim) continue;
      const begin = (n: number) => Math.floor(n * control[layout.units] / chunks); // the first unit of chunk n
      try {
        run(control[layout.kernel], begin(chunk), begin(chunk + 1));
      } catch (error) {
        Atomics.add(control, layout.failures, 1);
        throw error;
      } finally {
        if (Atomics.add(control, layout.done, 1) + 1 === chunks) Atomics.notify(control, layout.done);
      }
    }
  };
  return { run, drain };
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
    const control = new Int32Array(data.memory.buffer, data.control, layout.words);
    let seen = Atomics.load(control, layout.epoch);
    scope.postMessage("ready");
    for (let spins = 0;;) {
      const epoch = Atomics.load(control, layout.epoch);
      if (Atomics.load(control, layout.stop) !== 0) break;
      if (epoch !== seen) {
        seen = epoch;
        spins = 0;
        try {
          thread.drain(epoch);
        } catch {
          break; // counted as a failure, which the main thread reports
        }
      } else if (++spins > 40000) { // some 250 µs: longer than the sampler takes between two passes
        spins = 0;
        Atomics.add(control, layout.sleepers, 1);
        Atomics.wait(control, layout.epoch, seen);
        Atomics.sub(control, layout.sleepers, 1);
      }
    }
    scope.close();
  };
}
