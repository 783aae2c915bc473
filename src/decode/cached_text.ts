/**
 * Tracks the text that a cache holds. A loop passes the whole text each time; this finds the new part and has it read
 * in pieces, so that a long text does not block the event loop.
 *
 * Deliberately absent: passes. The caller computes them and records what was committed.
 *
 * @module
 */

import type { Cache } from "../backend/backend.ts";
import { takeTurns } from "./event_loop.ts";

/** How {@linkcode CachedText.catchUp} reads. */
export interface CatchUp {
  /** How many of the last tokens are left unread, even if the cache holds them. */
  readonly keep: number;
  /** The maximum number of tokens in a piece. */
  readonly mostRows: number;
  /** Makes a pass over a piece and records it. */
  readonly read: (piece: Int32Array) => void;
  /** Aborts with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** A cache and the tokens whose keys and values it holds. */
export class CachedText {
  /** The cache on the device. */
  readonly cache: Cache;
  readonly #tokens: number[] = [];

  /** @param cache an empty one, which nobody else commits to */
  constructor(cache: Cache) {
    this.cache = cache;
  }

  /** How many tokens the cache holds. */
  get length(): number {
    return this.#tokens.length;
  }

  /**
   * Rolls the cache back to the prefix that it shares with `tokens`, and to at most `most` tokens.
   * @returns the tokens after that prefix, which have to be computed
   */
  rewind(tokens: Int32Array, most: number = tokens.length): Int32Array {
    const limit = Math.min(most, this.#tokens.length, tokens.length);
    let shared = 0;
    while (shared < limit && this.#tokens[shared] === tokens[shared]) shared++;
    this.truncate(shared);
    return tokens.subarray(shared);
  }

  /**
   * Has the new part of a text read, except the last piece: the last `keep` tokens and at most `mostRows` before them.
   * Between pieces it yields to the event loop and checks the signal.
   *
   * @returns the last piece
   * @throws the signal's reason; the pieces read before stay in the cache
   */
  async catchUp(tokens: Int32Array, { keep, mostRows, read, signal }: CatchUp): Promise<Int32Array> {
    signal?.throwIfAborted();
    let fresh = this.rewind(tokens, tokens.length - keep);
    for (let turn = performance.now(); fresh.length > mostRows + keep;) {
      read(fresh.subarray(0, mostRows));
      fresh = fresh.subarray(mostRows);
      turn = await takeTurns(turn);
      signal?.throwIfAborted();
    }
    return fresh;
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
