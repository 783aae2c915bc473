/**
 * What plain and speculative decoding share: the text, where it ends, the first pass over the prompt, time,
 * cancellation, and leaving the target in order. How a round finds its tokens is the two loops' own matter.
 *
 * Deliberately absent: batches of texts, and words. A text that is to stop at a string is `engine.ts`'s matter.
 *
 * @module
 */

import type { Sampling } from "../backend/backend.ts";
import { checkSampling, LogitsError } from "../backend/distribution.ts";
import { shown } from "../shown.ts";
import type { Target } from "./drafter.ts";
import { takeTurns } from "./event_loop.ts";
import { PhiloxSource, type RandomSource } from "./random.ts";

/** Tokens beyond the prompt that there is room for at first. */
const FIRST_ROOM = 1024;

/** Options of both loops. */
export interface DecodeOptions {
  /** What the target's law is made with. @default temperature 1, no top-k, no top-p */
  readonly sampling?: Sampling | undefined;
  /** The most tokens to emit. @default as many as the target's context holds */
  readonly maxTokens?: number | undefined;
  /** Tokens that end the text; the one found is its last token. @default none */
  readonly stopTokens?: readonly number[] | undefined;
  /** Seed of the random decisions: the same seed, the same text. @default one drawn at random */
  readonly seed?: number | bigint | string | undefined;
  /** Makes the random decisions; overrides `seed`. */
  readonly random?: RandomSource | undefined;
  /** Ends the loop, which then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Where an emitted token comes from: it was drafted and accepted, replaces a rejected one, follows a draft
 * that was accepted as a whole, or was drawn by the target with no draft in play.
 */
export type Origin = "accepted" | "corrected" | "bonus" | "target";

/** Why a text ended: `maxTokens` reached, a stop token, or the target's context is full. */
export type FinishReason = "length" | "stop" | "context";

/** One round: what a pass of the target added to the text. */
export interface Round {
  /** The tokens added, at least one. */
  readonly tokens: readonly number[];
  /** Where each comes from. */
  readonly from: readonly Origin[];
  /** The drafted tokens; empty without a draft. */
  readonly draft: readonly number[];
  /** How many drafted tokens were added. A stop token ends the count. */
  readonly accepted: number;
  /** Network evaluations of the drafter. */
  readonly draftPasses: number;
  /** Milliseconds in the first pass over the prompt, in the first round; 0 in the others. */
  readonly prefillMs: number;
  /** Milliseconds in the drafter. */
  readonly draftMs: number;
  /** Milliseconds in the target and the test of the draft. */
  readonly verifyMs: number;
  /** Milliseconds of the whole round without prefill, and without what the consumer did in between. */
  readonly totalMs: number;
  /** Set in the last round. */
  readonly finishReason?: FinishReason | undefined;
}

/** What a loop's own part of a round found. */
export interface Step {
  /** The drafted tokens, [n]. */
  readonly draft: Int32Array;
  /** How many of them are kept. */
  readonly accepted: number;
  /** The token after them. */
  readonly token: number;
  /** Where `token` comes from. */
  readonly origin: Origin;
  /** As in {@linkcode Round}. */
  readonly draftPasses: number;
  /** As in {@linkcode Round}. */
  readonly draftMs: number;
  /** As in {@linkcode Round}. */
  readonly verifyMs: number;
}

/** What a loop's own part of a round is given. */
export interface StepRequest {
  /** The committed text, prompt included, [at least 1]. A view: copy what has to outlive the round. */
  readonly text: Int32Array;
  /** The most tokens that may be added, at least 1. */
  readonly room: number;
  /** Makes the random decisions. */
  readonly random: RandomSource;
  /** What the target's law is made with. */
  readonly sampling: Sampling;
  /** Ends the round with the signal's reason, before a pass. */
  readonly signal?: AbortSignal | undefined;
}

/** Targets and drafters in the middle of a round. */
const inUse = new WeakSet<object>();

/**
 * Does what a target or a drafter must not do for two texts at once, for each would find the other's laws.
 *
 * @param what it is, for people
 * @throws {Error} if it is in use
 */
export async function holding<T>(held: object, what: string, body: () => T | Promise<T>): Promise<T> {
  if (inUse.has(held)) {
    throw new Error(
      `Cannot decode: ${what} is in the middle of another text's round, expected one for each text that is decoded at once`,
    );
  }
  inUse.add(held);
  try {
    return await body();
  } finally {
    inUse.delete(held);
  }
}

/**
 * Rounds until the text ends. However it is left, at its end, by an error or by the consumer's `break`, the
 * target then holds a prefix of the committed text and can be used again.
 *
 * The first pass covers the prompt but its last token, the same for every loop; each emitted token then comes
 * from a pass that is timed as decoding.
 *
 * @param step finds the tokens of one round
 * @param hiddenLayers whose outputs the target keeps meanwhile
 * @throws {Error} if the target is in the middle of a round of another text
 * @throws {RangeError} if the prompt is empty, fills the context or holds a token outside the vocabulary, as may no
 * stop token be, or `maxTokens` is not a positive integer
 * @throws {LogitsError} if a model computes what is no number; the message says which, and after how many tokens
 */
export async function* decode(
  target: Target,
  prompt: ArrayLike<number>,
  options: DecodeOptions,
  step: (request: StepRequest) => Promise<Step>,
  hiddenLayers: readonly number[] = [],
): AsyncGenerator<Round, void, void> {
  const { sampling = {}, signal, random = new PhiloxSource(options.seed) } = options;
  checkRequest(target, prompt, options);
  const stops = new Set(options.stopTokens), asked = prompt.length + (options.maxTokens ?? Infinity);
  const limit = Math.min(target.contextLength, asked);
  let text = new Int32Array(Math.min(limit, prompt.length + FIRST_ROOM));
  text.set(prompt);
  let length = prompt.length;
  let seen = 0; // how much of the text the target may keep
  let turn = performance.now();
  const withTarget = <T>(body: () => T | Promise<T>) =>
    holding(target, "the target", () => {
      target.keepHidden?.(hiddenLayers); // another text may have had a turn
      return body();
    });
  try {
    signal?.throwIfAborted();
    let prefillMs = 0;
    if (length > 1) {
      await withTarget(() => target.score(text.subarray(0, length - 1), 1, sampling, signal));
      seen = length - 1;
      prefillMs = performance.now() - turn;
    }
    for (let finishReason: FinishReason | undefined; finishReason === undefined; prefillMs = 0) {
      const began = performance.now();
      turn = await takeTurns(turn);
      signal?.throwIfAborted();
      const request = { text: text.subarray(0, length), room: limit - length, random, sampling, signal };
      const found = await withTarget(() => step(request));
      const tokens = [...found.draft.subarray(0, found.accepted), found.token];
      const stop = tokens.findIndex((token) => stops.has(token));
      if (stop >= 0) tokens.length = stop + 1;
      const accepted = Math.min(found.accepted, tokens.length);
      // the target has not seen the token that follows the accepted ones, but a rejected one in its place
      seen = length + accepted;
      target.truncate(seen);
      if (length + tokens.length > text.length) {
        const longer = new Int32Array(Math.min(limit, 2 * (length + tokens.length)));
        longer.set(text.subarray(0, length));
        text = longer;
      }
      text.set(tokens, length);
      length += tokens.length;
      if (stop >= 0) finishReason = "stop";
      else if (length === limit) finishReason = limit < asked ? "context" : "length";
      yield {
        tokens,
        from: tokens.map((_, j) => j < accepted ? "accepted" : found.origin),
        draft: [...found.draft],
        accepted,
        draftPasses: found.draftPasses,
        prefillMs,
        draftMs: found.draftMs,
        verifyMs: found.verifyMs,
        totalMs: performance.now() - began,
        finishReason,
      };
    }
  } catch (error) {
    if (!(error instanceof LogitsError)) throw error;
    throw new LogitsError(error.fault, `decode after ${length} tokens`);
  } finally {
    if (!inUse.has(target)) target.truncate(seen); // or it is another text's now
  }
}

/**
 * Throws unless a text can be decoded so.
 * @throws {RangeError} as {@linkcode decode}, or if the sampling makes no sense
 * @throws {TypeError} if the prompt is no list
 */
export function checkRequest(
  { contextLength, vocabSize }: Pick<Target, "contextLength" | "vocabSize">,
  prompt: ArrayLike<number>,
  { sampling = {}, maxTokens = Infinity, stopTokens = [] }: DecodeOptions,
): void {
  checkSampling(sampling);
  if (!Number.isSafeInteger(prompt?.length)) {
    throw new TypeError("Cannot decode: the prompt is no list, expected token ids");
  }
  if (prompt.length === 0) {
    throw new RangeError("Cannot decode: the prompt is empty, expected at least one token");
  }
  if (prompt.length >= contextLength) {
    throw new RangeError(
      `Cannot decode: the prompt has ${prompt.length} tokens, expected at most ${
        contextLength - 1
      }: the context ` +
        `of ${contextLength} has no room for one more`,
    );
  }
  if (!(maxTokens >= 1 && (Number.isInteger(maxTokens) || maxTokens === Infinity))) {
    throw new RangeError(`Cannot decode: maxTokens is ${shown(maxTokens)}, expected a positive integer`);
  }
  const isId = (token: unknown) =>
    Number.isInteger(token) && token as number >= 0 && token as number < vocabSize;
  for (let i = 0; i < prompt.length; i++) {
    if (!isId(prompt[i])) {
      throw new RangeError(
        `Cannot decode: prompt token ${i} is ${shown(prompt[i])}, expected an integer in [0, ${vocabSize})`,
      );
    }
  }
  for (const token of stopTokens) {
    if (!isId(token)) {
      throw new RangeError(
        `Cannot decode: a stop token is ${shown(token)}, expected an integer in [0, ${vocabSize})`,
      );
    }
  }
}
