/**
 * The loop that plain and speculative decoding share: the text and its end, the pass over the prompt, timing,
 * cancellation and cleaning up the target. How a round finds its tokens differs between the two.
 *
 * Deliberately absent: batching, and words. Stop strings are handled in `engine.ts`.
 *
 * @module
 */

import type { Sampling } from "../backend/backend.ts";
import { checkSampling, LogitsError } from "../backend/distribution.ts";
import { shown } from "../shown.ts";
import type { Target } from "./drafter.ts";
import { takeTurns } from "./event_loop.ts";
import { PhiloxSource, type RandomSource } from "./random.ts";

/** Initial capacity for tokens after the prompt. */
const FIRST_ROOM = 1024;

/** Options of plain and speculative decoding. */
export interface DecodeOptions {
  /** The target's sampling options. @default temperature 1, no top-k, no top-p */
  readonly sampling?: Sampling | undefined;
  /** The maximum number of tokens to emit. @default until the target's context is full */
  readonly maxTokens?: number | undefined;
  /** Tokens that end the text, which includes the one found. @default none */
  readonly stopTokens?: readonly number[] | undefined;
  /** Seed of the random decisions: the same seed gives the same text. @default a random one */
  readonly seed?: number | bigint | string | undefined;
  /** The source of random decisions; overrides `seed`. */
  readonly random?: RandomSource | undefined;
  /** Aborts the loop, which then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Where an emitted token comes from: it was drafted and accepted, replaces a rejected one, follows a fully accepted
 * draft, or was drawn by the target without a draft.
 */
export type Origin = "accepted" | "corrected" | "bonus" | "target";

/** Why a text ended: `maxTokens` was reached, a stop token was found, or the target's context is full. */
export type FinishReason = "length" | "stop" | "context";

/** One round: the result of one pass of the target. */
export interface Round {
  /** The tokens added, at least one. */
  readonly tokens: readonly number[];
  /** The origin of each token. */
  readonly from: readonly Origin[];
  /** The drafted tokens; empty without a draft. */
  readonly draft: readonly number[];
  /** How many drafted tokens were added, up to a stop token. */
  readonly accepted: number;
  /** Network evaluations of the drafter. */
  readonly draftPasses: number;
  /** Milliseconds of the pass over the prompt in the first round; 0 in the others. */
  readonly prefillMs: number;
  /** Milliseconds in the drafter. */
  readonly draftMs: number;
  /** Milliseconds in the target and the test of the draft. */
  readonly verifyMs: number;
  /** Milliseconds of the whole round, without prefill and the consumer's time in between. */
  readonly totalMs: number;
  /** Set in the last round. */
  readonly finishReason?: FinishReason | undefined;
}

/** The result of a loop's own part of a round. */
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

/** The input of a loop's own part of a round. */
export interface StepRequest {
  /** The committed text, prompt included, [at least 1]. A view, valid only in this round. */
  readonly text: Int32Array;
  /** The maximum number of tokens to add, at least 1. */
  readonly room: number;
  /** Source of random decisions. */
  readonly random: RandomSource;
  /** The target's sampling options. */
  readonly sampling: Sampling;
  /** Aborts the round with the signal's reason, before a pass. */
  readonly signal?: AbortSignal | undefined;
}

/** Targets and drafters in the middle of a round. */
const inUse = new WeakSet<object>();

/**
 * Runs `body` while no other text may use this target or drafter, since each would overwrite the other's distributions.
 *
 * @param what a name for messages
 * @throws {Error} if it is in use
 */
export async function holding<T>(held: object, what: string, body: () => T | Promise<T>): Promise<T> {
  if (inUse.has(held)) {
    throw new Error(
      `Cannot decode: ${what} is in the middle of another text's round, expected a separate one for each concurrent text`,
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
 * Makes rounds until the text ends. However the loop is left (at its end, by an error or by the consumer's `break`),
 * the target then holds a prefix of the committed text and can be used again.
 *
 * In both loops, the first pass covers the prompt except its last token. Each emitted token thus comes from a pass that
 * is timed as decoding.
 *
 * @param step finds the tokens of one round
 * @param hiddenLayers the layers whose outputs the target keeps meanwhile
 * @throws {Error} if the target is in the middle of another text's round
 * @throws {RangeError} if the prompt is empty or fills the context, a prompt or stop token is outside the vocabulary,
 * or `maxTokens` is not a positive integer
 * @throws {LogitsError} if a model computes a logit that is not a number; the message names the model and the position
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
  let seen = 0; // tokens that the target may keep
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
      // in place of the token after the accepted ones, the target has seen a rejected one
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
    if (!inUse.has(target)) target.truncate(seen); // unless another text uses it now
  }
}

/**
 * Throws unless a text can be decoded with these options.
 * @throws {RangeError} as {@linkcode decode}, or if a sampling option is out of range
 * @throws {TypeError} if the prompt is not a list
 */
export function checkRequest(
  { contextLength, vocabSize }: Pick<Target, "contextLength" | "vocabSize">,
  prompt: ArrayLike<number>,
  { sampling = {}, maxTokens = Infinity, stopTokens = [] }: DecodeOptions,
): void {
  checkSampling(sampling);
  if (!Number.isSafeInteger(prompt?.length)) {
    throw new TypeError(`Cannot decode: the prompt is ${shown(prompt)}, expected a list of token ids`);
  }
  if (prompt.length === 0) {
    throw new RangeError("Cannot decode: the prompt is empty, expected at least one token");
  }
  if (prompt.length >= contextLength) {
    throw new RangeError(
      `Cannot decode: the prompt has ${prompt.length} tokens, expected at most ${contextLength - 1}, ` +
        `since the context is ${contextLength}`,
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
