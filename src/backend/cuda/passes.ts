/**
 * Passes that are recorded as CUDA graphs, by key, and launched as one. Kernels read the length of a cache on the
 * device, so a graph serves every length that needs the same number of blocks. That number is part of the key.
 *
 * Deliberately absent: changing a graph. One is dropped when memory it may refer to has been given back.
 *
 * @module
 */

import type { CudaGraph } from "../../../ffi/stream.ts";
import type { Queue } from "./memory.ts";
import type { RowBlock } from "./tensors.ts";

/** The most graphs of one cache. */
const KEPT = 64;

interface Recorded {
  readonly graph: CudaGraph;
  /** The rows that the pass changes, and which of their groups are known once it has run. */
  readonly known: readonly (readonly [RowBlock, RowBlock["known"]])[];
}

/** The passes over one cache. */
export class Passes implements Disposable {
  readonly #queue: Queue;
  /** Without a value: it has run, and is recorded the next time. */
  readonly #passes = new Map<string, Recorded | undefined>();
  #freed = 0;

  /** None yet. */
  constructor(queue: Queue) {
    this.#queue = queue;
  }

  /** Enqueues what `body` enqueues, or the graph of it. */
  run(key: string, body: () => void): void {
    const { stream } = this.#queue;
    this.#refresh();
    const found = this.#passes.get(key);
    if (found !== undefined) {
      stream.run(found.graph);
      for (const [block, known] of found.known) block.known = known;
    } else if (this.#passes.has(key)) {
      const changed = this.#queue.changed = new Set();
      try {
        const graph = stream.capture(body);
        this.#passes.set(key, { graph, known: [...changed].map((block) => [block, block.known]) });
        stream.run(graph);
      } finally {
        this.#queue.changed = undefined;
      }
    } else {
      body(); // the first time as it is: it may allocate what it needs beside its arguments
      if (this.#passes.size >= KEPT) this[Symbol.dispose]();
      this.#refresh();
      this.#passes.set(key, undefined);
    }
  }

  /** Drops the graphs. */
  [Symbol.dispose](): void {
    for (const recorded of this.#passes.values()) recorded?.graph[Symbol.dispose]();
    this.#passes.clear();
  }

  /** Drops the graphs if memory was given back since they were recorded. */
  #refresh(): void {
    if (this.#freed === this.#queue.freed) return;
    this.#freed = this.#queue.freed;
    this[Symbol.dispose]();
  }
}
