/**
 * Which `tokenizer.json` is refused. The library behind `tokenizer.ts` accepts any file, so a damaged one would give
 * wrong ids, and a hostile one would take hours or all memory for a short text. Deliberately stricter than the format,
 * but not than any tokenizer that is published.
 *
 * @module
 */

import { CheckpointError } from "../model/weights.ts";
import { brief } from "../shown.ts";
import { isNatural, isRecord } from "./json.ts";

/**
 * Throws unless ids are ids, tokens are text, and a text takes bounded time and memory.
 * @throws {CheckpointError} naming what is not as expected
 */
export function checkTokenizer(
  { model, added_tokens: added = [], ...rest }: Record<string, unknown>,
  path: string,
): void {
  const expect = (right: boolean, what: string, found: unknown, expected: string) => {
    if (right) return;
    throw new CheckpointError(
      `Cannot load tokenizer "${path}": ${what} is ${brief(found)}, expected ${expected}`,
    );
  };
  expect(isRecord(model), '"model"', model, "an object");
  const { type, vocab, merges = [], continuing_subword_prefix: prefix } = model as Record<string, unknown>;
  // older files have no type
  expect([undefined, "BPE", "WordPiece"].includes(type as string), '"model.type"', type, "BPE or WordPiece");
  expect(isRecord(vocab), '"model.vocab"', vocab, "an object of tokens with their ids");
  const ids = new Map(Object.entries(vocab as object));
  for (const [token, id] of ids) {
    expect(isNatural(id), `the id of token ${brief(token)}`, id, "a non-negative integer");
  }
  if (JSON.stringify(rest.pre_tokenizer ?? null).includes('"ByteLevel"')) {
    // a byte without a token would silently be left out of a text
    const lacking = byteLetters().find((letter) => !ids.has(letter));
    expect(lacking === undefined, '"model.vocab"', `without ${lacking}`, "a token for each byte");
  }
  expect(Array.isArray(merges), '"model.merges"', merges, "a list");
  for (const merge of merges as unknown[]) {
    const parts: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    const right = Array.isArray(parts) && parts.length === 2 && parts.every((part) => ids.has(part)) &&
      ids.has(parts[0] + parts[1].slice(typeof prefix === "string" ? prefix.length : 0));
    expect(right, "a merge", merge, "two tokens of the vocabulary that make a third");
  }
  expect(Array.isArray(added), '"added_tokens"', added, "a list");
  for (const token of added as unknown[]) {
    const right = isRecord(token) && isNatural(token.id) && typeof token.content === "string" &&
      token.content !== "";
    expect(right, 'an entry of "added_tokens"', token, 'an "id" and a "content"');
  }
  checkPatterns(rest, (pattern) => {
    expect(typeof pattern === "string", "a pattern", pattern, "a regular expression");
    const plain = plainOf(pattern as string);
    // a repeated group, as in (a+)+, may take exponential time; hardly a published tokenizer has one
    const repeated = /\)(?:[*+]|\{\d)/.test(plain);
    expect(!repeated, "a pattern", pattern, "one in which no group is repeated");
    const { repetitions, steps, length } = mostOf(plain);
    expect(
      repetitions <= MOST_REPETITIONS && steps <= MOST_STEPS,
      "a pattern",
      pattern,
      `one with at most ${MOST_REPETITIONS} repetitions in a row, and ${MOST_STEPS} steps of the bounded ones`,
    );
    expect(length <= MOST_STEPS, "a pattern", pattern, `one of at most ${MOST_STEPS} characters and classes`);
  });
  for (const part of ["normalizer", "decoder"]) {
    expect(
      growthOf(rest[part]) <= MOST_GROWTH,
      JSON.stringify(part),
      rest[part],
      `one that makes a text at most ${MOST_GROWTH} times as long`,
    );
  }
}

/**
 * The most unbounded repetitions in one alternative of a pattern: each may multiply its time by the text's length.
 * Published patterns have two; `encodeText` finds out where these take too long.
 */
const MOST_REPETITIONS = 2;

/**
 * The most steps of the bounded repetitions of one alternative: `a?b{1,3}` has (1 + 1)·(3 + 1). It limits how much they
 * multiply the time, and, with the length of a pattern, how far into a text the pattern can wait before it gets slow:
 * `encodeText` sees in time what does so early.
 */
const MOST_STEPS = 1024;

/** The largest factor by which a normalizer or decoder may lengthen a text. */
const MOST_GROWTH = 64;

/** A regular expression with a letter in place of each escaped character and each class. */
function plainOf(pattern: string): string {
  return pattern.replace(/\\./gs, "x").replace(/\[[^\]]*\]/g, "x");
}

/** The most of any alternative of a {@linkcode plainOf plain} pattern, that of its groups included, and its length. */
function mostOf(
  plain: string,
): { readonly repetitions: number; readonly steps: number; readonly length: number } {
  const most = { repetitions: 0, steps: 1, length: plain.length };
  let repetitions = 0, steps = 1, depth = 0;
  for (const [token, least, end = least] of plain.matchAll(/[()|]|(?:[*+?]|\{(\d*)(?:,(\d*))?\})[+?]?/g)) {
    if (token === "(") depth++;
    else if (token === ")") depth--;
    else if (token === "|") {
      if (depth === 0) [repetitions, steps] = [0, 1];
    } else if (token.startsWith("?")) steps *= 2;
    else {
      if (!token.startsWith("{") || end === "") repetitions++;
      steps *= Number(end || least || 0) + 1;
    }
    most.repetitions = Math.max(most.repetitions, repetitions);
    most.steps = Math.max(most.steps, steps);
  }
  return most;
}

/** The factor by which a normalizer or decoder may lengthen a text, at most: it replaces a pattern by its content. */
function growthOf(part: unknown): number {
  if (!isRecord(part)) return 1;
  const { normalizers, decoders = normalizers, pattern, content } = part;
  if (Array.isArray(decoders)) return decoders.reduce<number>((product, one) => product * growthOf(one), 1);
  if (typeof content !== "string") return 1;
  const replaced = isRecord(pattern) && typeof pattern.String === "string" ? pattern.String.length : 1;
  return Math.max(1, content.length / Math.max(1, replaced));
}

/** The letters that stand for the 256 bytes in byte-level vocabularies (Radford et al. 2019, `bytes_to_unicode`). */
function byteLetters(): string[] {
  const codes = Array.from({ length: 256 }, (_, byte) => byte);
  const printable = (byte: number) => byte > 32 && byte < 127 || byte > 160 && byte !== 173;
  const others = codes.filter((byte) => !printable(byte)).length;
  return [...codes.filter(printable), ...codes.slice(0, others).map((n) => 256 + n)]
    .map((code) => String.fromCharCode(code));
}

/** Calls `check` for every regular expression around a tokenizer's model. */
function checkPatterns(value: unknown, check: (pattern: unknown) => void): void {
  if (typeof value !== "object" || value === null) return;
  for (const [name, inner] of Object.entries(value)) {
    if (name === "Regex") check(inner);
    else checkPatterns(inner, check);
  }
}
