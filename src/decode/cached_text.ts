/**
 * Which text a cache holds. A loop hands over the whole text each time; this finds what is new, and has it read in
 * pieces, so that a long text does not keep others waiting.
 *
 * Deliberately absent: passes. Who computes records what it has computed.
 *
 * @module
 */

import type { Cache } from "../backend/backend.ts";
import { takeTurns } from "./event_loop.ts";

/** How {@linkcode CachedText.catchUp} reads. */
export interface CatchUp {
  /** How many of the last tokens are left unread, however much of the text the cache holds. */
  readonly keep: number;
  /** The most tokens of a piece. */
  readonly mostRows: number;
  /** Makes one pass over a piece, and records it. */
  readonly read: (piece: Int32Array) => void;
  /** Ends it with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

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

  /**
   * Has what is new of a text read but for a last piece: of the last `keep` tokens and at most `mostRows` before them.
   * Between the others everybody has their turn, and the signal is heard.
   *
   * @returns the last piece
   * @throws the signal's reason; what was read until then stays
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
