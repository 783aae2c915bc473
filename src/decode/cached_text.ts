/**
 * Which text a cache holds. A loop hands over the whole text each time; this finds what is new.
 *
 * Deliberately absent: passes. Who computes records what it has computed.
 *
 * @module
 */

import type { Cache } from "../backend/backend.ts";

/** A cache and the tokens whose keys and values it holds. */
export class CachedText {
  /** The device's side. */
  readonly cache: Cache;
  readonly #tokens: number[] = [];

  /** @param cache empty, and committed to only through this object from now on */
  constructor(cache: Cache) {
    this.cache = cache;
  }

  /** How many tokens the cache holds. */
  get length(): number {
    return this.#tokens.length;
  }

  /**
   * Rolls the cache back to what it shares with `tokens`, but to no more than `most` of them.
   * @returns the tokens that have to be computed: those after the shared prefix
   */
  rewind(tokens: Int32Array, most: number = tokens.length): Int32Array {
    const limit = Math.min(most, this.#tokens.length, tokens.length);
    let shared = 0;
    while (shared < limit && this.#tokens[shared] === tokens[shared]) shared++;
    this.truncate(shared);
    return tokens.subarray(shared);
  }

  /** Records that a pass committed `tokens` to the cache. */
  committed(tokens: Int32Array): void {
    for (const token of tokens) this.#tokens.push(token);
  }

  /** Forgets everything after the first `length` tokens. */
  truncate(length: number): void {
    if (length < this.#tokens.length) this.#tokens.length = length;
    // the cache may hold more than is recorded, after a pass that failed half-way
    if (this.#tokens.length < this.cache.length) this.cache.truncate(this.#tokens.length);
  }
}
