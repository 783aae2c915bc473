/**
 * How probable a text is under a model.
 *
 * @module
 */

import type { CausalModel } from "../model/model.ts";

/** Rows per pass: bounds the logits held at once to this many times V. */
const ROWS = 32;

/** What {@linkcode scoreTokens} returns. */
export interface Score {
  /** The tokens scored, [n]. */
  readonly tokens: readonly number[];
  /** Natural logarithm of the probability of each token given those left of it, [n]; the first has none. */
  readonly logprobs: readonly (number | null)[];
  /** exp of minus the mean of `logprobs`; 1 if there is but one token. */
  readonly perplexity: number;
}

/**
 * Log-probabilities of each token of a text at temperature 1, without top-k or top-p.
 *
 * @param tokens 1 … context length of them
 * @throws {RangeError} if there are none, too many, or one is outside the vocabulary
 */
export function scoreTokens(model: CausalModel, tokens: ArrayLike<number>): Score {
  const ids = Int32Array.from(tokens);
  if (ids.length === 0) throw new RangeError("Cannot score a text: it has no tokens");
  using cache = model.newCache(Math.min(ids.length, model.shape.contextLength));
  const logprobs: (number | null)[] = [null];
  let sum = 0;
  for (let start = 0; start < ids.length; start += ROWS) {
    const piece = ids.subarray(start, start + ROWS);
    const logits = model.forward(piece, cache, { headRows: piece.length });
    for (let r = 0; r < piece.length && start + r + 1 < ids.length; r++) {
      const logprob = logSoftmax(logits.slice(r, 1).read(), ids[start + r + 1]);
      logprobs.push(logprob);
      sum += logprob;
    }
  }
  return {
    tokens: Array.from(ids),
    logprobs,
    perplexity: ids.length > 1 ? Math.exp(-sum / (ids.length - 1)) : 1,
  };
}

/** log softmax of one entry of a row of logits, [V]. */
function logSoftmax(logits: Float32Array, token: number): number {
  const largest = logits.reduce((most, y) => Math.max(most, y), -Infinity);
  const total = logits.reduce((sum, y) => sum + Math.exp(y - largest), 0);
  return logits[token] - largest - Math.log(total);
}
