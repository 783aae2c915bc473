/**
 * The log-probability of a text under a model.
 *
 * Deliberately absent: texts longer than the context, whose probability is not well defined.
 *
 * @module
 */

import { LogitsError } from "../backend/distribution.ts";
import type { CausalModel } from "../model/model.ts";
import { takeTurns } from "./event_loop.ts";

/** Rows per pass. Limits the logits in memory to this many times V, and the latency of a signal. */
const ROWS = 32;

/** What {@linkcode scoreTokens} returns. */
export interface Score {
  /** The tokens scored, [n]. */
  readonly tokens: readonly number[];
  /** Natural logarithm of the probability of each token given those left of it, [n]; the first has none. */
  readonly logprobs: readonly (number | null)[];
  /** exp of minus the mean of `logprobs`; NaN for a single token. */
  readonly perplexity: number;
}

/**
 * Log-probabilities of each token of a text at temperature 1, without top-k or top-p.
 *
 * @param tokens between 1 and the context length
 * @param signal aborts it with the signal's reason
 * @throws {RangeError} if there are none, too many, or one is outside the vocabulary
 * @throws {LogitsError} if the model computes logits that are not finite
 */
export async function scoreTokens(
  model: CausalModel,
  tokens: ArrayLike<number>,
  signal?: AbortSignal,
): Promise<Score> {
  const { contextLength, vocabSize } = model.shape;
  if (!(tokens.length >= 1 && tokens.length <= contextLength)) {
    throw new RangeError(
      `Cannot score a text: it has ${tokens.length} tokens, expected 1 to ${contextLength}, the target's context`,
    );
  }
  const ids = Array.from(tokens);
  using cache = model.newCache(ids.length);
  const logprobs: (number | null)[] = [null];
  let sum = 0, turn = performance.now();
  for (let start = 0; start < ids.length; start += ROWS) {
    turn = await takeTurns(turn);
    signal?.throwIfAborted();
    const piece = ids.slice(start, start + ROWS);
    const logits = model.forward(piece, cache, { headRows: piece.length }).read(); // [rows, V]
    for (let r = 0; r < piece.length && start + r + 1 < ids.length; r++) {
      const logprob = logSoftmax(logits.subarray(r * vocabSize, (r + 1) * vocabSize), ids[start + r + 1]);
      if (!Number.isFinite(logprob)) {
        throw new LogitsError(`the logits after token ${start + r} are not all finite`, "score a text");
      }
      logprobs.push(logprob);
      sum += logprob;
    }
  }
  return {
    tokens: ids,
    logprobs,
    perplexity: Math.exp(-sum / (ids.length - 1)),
  };
}

/** log softmax of one entry of a row of logits, [V]. */
function logSoftmax(logits: Float32Array, token: number): number {
  const largest = logits.reduce((most, y) => Math.max(most, y), -Infinity);
  const total = logits.reduce((sum, y) => sum + Math.exp(y - largest), 0);
  return logits[token] - largest - Math.log(total);
}
