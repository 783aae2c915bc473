/**
 * Plain autoregressive decoding: the baseline for speculative decoding, which has the same distribution (under `match`
 * and `coupled`, also the same text).
 *
 * Deliberately absent: everything except the choice of a token, which is shared with speculative decoding in `loop.ts`.
 *
 * @module
 */

import { NO_DRAFT, type Target } from "./drafter.ts";
import { decode, type DecodeOptions, type Round } from "./loop.ts";

/**
 * One token per pass of the target, drawn with the noise of (seed, position). Yields a {@linkcode Round} of
 * one token each.
 *
 * @param prompt token ids, at least one
 * @throws {RangeError} if the prompt is empty or fills the context, a prompt or stop token is outside the vocabulary,
 * or `maxTokens` is not a positive integer
 * @throws {Error} if the target is in the middle of another text's round
 * @throws {LogitsError} if a model computes a logit that is not a number; the message names the model and the position
 */
export function autoregress(
  target: Target,
  prompt: ArrayLike<number>,
  options: DecodeOptions = {},
): AsyncGenerator<Round, void, void> {
  return decode(target, prompt, options, async ({ text, random, sampling, signal }) => {
    const began = performance.now();
    const p = await target.score(text, 1, sampling, signal);
    const token = random.race(p, 0, text.length);
    const verifyMs = performance.now() - began;
    const draft = NO_DRAFT.tokens;
    return { draft, accepted: 0, token, origin: "target", draftPasses: 0, draftMs: 0, verifyMs };
  });
}
