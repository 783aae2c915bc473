/**
 * Plain autoregressive decoding: the baseline that speculative decoding is compared with, and whose law
 * (under `match` and `coupled` also whose text) it has.
 *
 * Deliberately absent: everything but the choice of a token, which `loop.ts` shares with speculative decoding.
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
 * @throws {RangeError} if the prompt is empty, fills the context or holds a token outside the vocabulary, as may no
 * stop token be, or `maxTokens` is not a positive integer
 * @throws {Error} if the target is in the middle of a round of another text
 * @throws {LogitsError} if a model computes what is no number; the message says which, and after how many tokens
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
