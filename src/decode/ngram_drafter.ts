/**
 * Drafting without a model (prompt lookup decoding): the last few tokens are looked up earlier in the text, and their
 * continuation there is proposed. It costs almost nothing and pays off on repetitive text.
 *
 * Deliberately absent: q, since proposals are point masses, and an index of the text, which is short.
 *
 * @module
 */

import type { Draft, Drafter, DraftRequest } from "./drafter.ts";

/** The longest suffix that is looked up, in tokens; shorter ones are tried next. */
const LONGEST = 3;

/** Proposes the continuation of the latest earlier occurrence of the text's suffix, as point masses. */
export class NgramDrafter implements Drafter {
  /** For people and statistics. */
  readonly name: string = "n-gram";
  /** V */
  readonly vocabSize: number;
  /** Nothing is drawn, so nothing depends on a later token. */
  readonly leftToRight: boolean = true;

  /** A drafter for a target with `vocabSize` tokens. */
  constructor(vocabSize: number) {
    this.vocabSize = vocabSize;
  }

  /** Proposes up to γ tokens; none if no suffix occurs earlier. */
  draft(request: DraftRequest): Draft {
    const { tokens, gamma } = request;
    const after = this.#find(tokens);
    const drafted = tokens.slice(after, Math.min(after + gamma, tokens.length));
    return { tokens: drafted, steps: new Int32Array(drafted.length), passes: 0 };
  }

  /** Start of the continuation of the latest earlier occurrence; the end of the text if there is none. */
  #find(tokens: Int32Array): number {
    const end = tokens.length;
    for (let size = Math.min(LONGEST, end - 1); size > 0; size--) {
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
