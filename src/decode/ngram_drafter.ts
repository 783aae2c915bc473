/**
 * Drafting without a model (prompt lookup decoding): the text's last few tokens are looked up earlier in the
 * text, and what followed them there is proposed. Worth its nothing on text that repeats itself.
 *
 * Deliberately absent: laws, as what it proposes are point masses, and an index of the text, which is short.
 *
 * @module
 */

import { shown } from "../shown.ts";
import type { Draft, Drafter, DraftRequest } from "./drafter.ts";

/** Options of {@linkcode NgramDrafter}. */
export interface NgramDrafterOptions {
  /** The longest suffix looked up, in tokens; shorter ones are tried in turn. @default {3} */
  readonly longest?: number | undefined;
}

/** Proposes what followed the latest earlier occurrence of the text's suffix, as point masses. */
export class NgramDrafter implements Drafter {
  /** For people and statistics. */
  readonly name: string = "n-gram";
  /** V */
  readonly vocabSize: number;
  /** Nothing is drawn, so nothing can depend on a later token. */
  readonly leftToRight: boolean = true;
  readonly #longest: number;

  /**
   * A drafter for a target of `vocabSize` tokens.
   * @throws {RangeError} if `longest` is not a positive integer
   */
  constructor(vocabSize: number, options: NgramDrafterOptions = {}) {
    this.vocabSize = vocabSize;
    this.#longest = options.longest ?? 3;
    if (!Number.isInteger(this.#longest) || this.#longest < 1) {
      throw new RangeError(
        `Cannot make an n-gram drafter: longest is ${shown(this.#longest)}, expected a positive integer`,
      );
    }
  }

  /** Proposes up to γ tokens; none if no suffix occurs earlier. */
  draft(request: DraftRequest): Draft {
    const { tokens, gamma } = request;
    const after = this.#find(tokens);
    const drafted = tokens.slice(after, Math.min(after + gamma, tokens.length));
    return { tokens: drafted, steps: new Int32Array(drafted.length), passes: 0 };
  }

  /** Where the continuation of the latest earlier occurrence begins; the end of the text if there is none. */
  #find(tokens: Int32Array): number {
    const end = tokens.length;
    for (let size = Math.min(this.#longest, end - 1); size > 0; size--) {
      for (let start = end - size - 1; start >= 0; start--) {
        let same = 0;
        while (same < size && tokens[start + same] === tokens[end - size + same]) same++;
        if (same === size) return start + size;
      }
    }
    return end;
  }

  /** Nothing is remembered. */
  reset(): void {}

  /** Nothing is held. */
  [Symbol.dispose](): void {}
}
