/**
 * Stop strings in a stream of text: releases text that can no longer be part of one, and cuts at the first match.
 *
 * @module
 */

import { shown } from "./shown.ts";

/** Watches text that arrives in pieces. */
export class TextStops {
  readonly #stops: readonly string[];
  readonly #longest: number;
  #held = "";

  /**
   * @param stops strings that end the text and are not part of it
   * @throws {RangeError} if one is empty
   * @throws {TypeError} if one is not a string
   */
  constructor(stops: readonly string[]) {
    const wrong = stops.find((stop) => typeof stop !== "string");
    if (wrong !== undefined) throw new TypeError(`Cannot stop at ${shown(wrong)}: expected a string`);
    if (stops.includes("")) {
      throw new RangeError("Cannot stop at an empty string: expected at least one character");
    }
    this.#stops = stops;
    this.#longest = stops.reduce((most, stop) => Math.max(most, stop.length), 0);
  }

  /**
   * Takes the next piece.
   * @returns the text that has become final, and whether a stop string ended it
   */
  push(piece: string): { text: string; stopped: boolean } {
    this.#held += piece;
    let cut = -1;
    for (const stop of this.#stops) {
      const at = this.#held.indexOf(stop);
      if (at >= 0 && (cut < 0 || at < cut)) cut = at;
    }
    if (cut >= 0) {
      const text = this.#held.slice(0, cut);
      this.#held = "";
      return { text, stopped: true };
    }
    return { text: this.#release(this.#held.length - this.#pending()), stopped: false };
  }

  /** The text still held back, at the end of the stream. */
  flush(): string {
    return this.#release(this.#held.length);
  }

  /** Length of the longest suffix of the held text that is a prefix of a stop string. */
  #pending(): number {
    for (let size = Math.min(this.#longest - 1, this.#held.length); size > 0; size--) {
      const end = this.#held.slice(this.#held.length - size);
      if (this.#stops.some((stop) => stop.startsWith(end))) return size;
    }
    return 0;
  }

  #release(count: number): string {
    const text = this.#held.slice(0, count);
    this.#held = this.#held.slice(count);
    return text;
  }
}
