/**
 * Memory of a backend that grows with use, and the size of passes.
 *
 * @module
 */

import type { Backend } from "./backend.ts";

/** The most rows that a pass should have on a backend, if it can be cut. */
export function mostRows(backend: Backend): number {
  return backend.passRows ?? 128;
}

/** A buffer that is allocated when first needed, and replaced by a larger one when outgrown. */
export class Growing<T extends Disposable> implements Disposable {
  readonly #allocate: (size: number) => T;
  #size = 0;
  #buffer: T | undefined;

  /** @param allocate makes a buffer of a given size */
  constructor(allocate: (size: number) => T) {
    this.#allocate = allocate;
  }

  /** The buffer, of at least `size`; after growth its contents are lost. */
  atLeast(size: number): T {
    if (this.#buffer === undefined || this.#size < size) {
      // at least doubled, so that a text that grows token by token reallocates rarely
      const grown = Math.max(size, 2 * this.#size);
      this[Symbol.dispose]();
      this.#buffer = this.#allocate(grown);
      this.#size = grown;
    }
    return this.#buffer;
  }

  /** Frees the buffer. */
  [Symbol.dispose](): void {
    this.#buffer?.[Symbol.dispose]();
    this.#buffer = undefined;
    this.#size = 0; // so that a failed allocation does not double the next
  }
}
