/**
 * Between text and token ids: an interface, an implementation from the `tokenizer.json` of a checkpoint, and text
 * that streams. `@huggingface/tokenizers` does the tokenizing. This module makes it lossless, safe for every input
 * (`tokenizer_check.ts`), and replaceable.
 *
 * @module
 */

import { Tokenizer as TokenizerCore } from "@huggingface/tokenizers";
import { dirname, join } from "node:path";
import { CheckpointError } from "../model/weights.ts";
import { brief } from "../shown.ts";
import { kindOf, toPath, withinFolder } from "./files.ts";
import { readJson } from "./json.ts";
import { checkTokenizer } from "./tokenizer_check.ts";

/**
 * The tokenizer that the engine needs. {@linkcode loadTokenizer} returns one, and so does
 * `AutoTokenizer.from_pretrained` of `@huggingface/transformers`. Use it through {@linkcode encodeText},
 * {@linkcode decodeTokens} and {@linkcode TextStream}, which pass the right options and handle special cases.
 */
export interface Tokenizer {
  /**
   * Token ids of a text. {@linkcode encodeText} also calls it with beginnings of a long one, to see how long it takes.
   * @param options `add_special_tokens`: put a beginning or an end around it, if the checkpoint has such
   */
  encode(text: string, options?: { add_special_tokens?: boolean }): number[];
  /**
   * Text of token ids, of which there must be one or more. Bytes that are not UTF-8 become U+FFFD.
   * @param options `skip_special_tokens`: leave them out; `clean_up_tokenization_spaces`: drop spaces before
   * punctuation, which makes it another text
   */
  decode(
    ids: number[],
    options?: { skip_special_tokens?: boolean; clean_up_tokenization_spaces?: boolean },
  ): string;
}

/**
 * Token ids of a text, and nothing added to it. The name of a special token in the text (`<|endoftext|>`) is that
 * token. Lone surrogates, which are not text, become U+FFFD, as everywhere on the Web.
 * @throws {TypeError} if the tokenizer gives something else
 * @throws {RangeError} if the text would take it minutes
 */
export function encodeText(tokenizer: Tokenizer, text: string): number[] {
  checkTime(tokenizer, text);
  const ids: unknown = tokenizer.encode(text.toWellFormed(), { add_special_tokens: false });
  if (Array.isArray(ids)) return ids;
  throw new TypeError(
    `Cannot use the tokenizer: its encode gives ${kindOfValue(ids)}, expected an array of ids`,
  );
}

/** Milliseconds below which the beginning of a text says nothing about the rest: a mere pause may take as long. */
const SLOW = 250;
/** Milliseconds that a text may be expected to take. */
const PATIENCE = 30_000;

/**
 * Throws if a text is expected to take too long, as nothing can interrupt a regular expression, and a hostile one may
 * take the cube of the text's length, or be quick until far into it. Hence its beginnings are timed, from a few characters
 * up to half of it, each twice as long as the one before: they take no longer than the whole. `tokenizer_check.ts` limits
 * how much slower than one the next can be.
 */
function checkTime(tokenizer: Tokenizer, text: string): void {
  const time = (length: number) => {
    const began = performance.now();
    const beginning = text.slice(0, length).replace(/[\ud800-\udbff]$/, ""); // no half of a character
    try {
      tokenizer.encode(beginning.toWellFormed(), { add_special_tokens: false });
    } catch {
      // half a word may have no token
    }
    return performance.now() - began;
  };
  let before = Infinity;
  for (let parts = 2 ** Math.floor(Math.log2(text.length / 2)); parts > 1; parts /= 2) {
    const length = Math.ceil(text.length / parts);
    const expected = (ms: number) => ms * parts ** Math.log2(ms / before);
    const late = (ms: number) => ms >= SLOW && expected(ms) >= PATIENCE;
    let now = time(length);
    if (late(now)) now = Math.min(now, time(length)); // a pause does not happen twice
    if (late(now)) {
      throw new RangeError(
        `Cannot encode a text of ${text.length} characters: the tokenizer takes ${
          Math.round(now)
        } ms for ${length} of them, and would take about ${
          Math.round(expected(now) / 1000)
        } s for all, expected ${PATIENCE / 1000} at most`,
      );
    }
    before = now;
  }
}

/** The type of a value, for messages: `a Promise`. */
function kindOfValue(value: unknown): string {
  const { name = typeof value } = (value as object | undefined)?.constructor ?? {};
  return `${/^[aeiou]/i.test(name) ? "an" : "a"} ${name}`;
}

/**
 * Text of token ids, exactly: special tokens by name, spaces as they are. No ids: the empty text.
 * @throws {TypeError} if the tokenizer gives something else
 */
export function decodeTokens(tokenizer: Pick<Tokenizer, "decode">, ids: ArrayLike<number>): string {
  if (ids.length === 0) return "";
  const text: unknown = tokenizer.decode(Array.from(ids), {
    skip_special_tokens: false,
    clean_up_tokenization_spaces: false,
  });
  if (typeof text === "string") return text;
  throw new TypeError(`Cannot use the tokenizer: its decode gives ${kindOfValue(text)}, expected a string`);
}

/** Where unfinished UTF-8 shows in decoded text. */
const REPLACEMENT = "\ufffd";

/**
 * How many tokens back decoding must start. A token is at least one byte and a character at most four, so that
 * from four tokens on, a decoder that began in the middle of a character agrees with one that did not.
 */
const CONTEXT = 4;

/**
 * Text from tokens that arrive one by one. Text that {@linkcode TextStream.push} returns is final: a character that a
 * token leaves unfinished is held back until it is whole. All returned pieces, with that of
 * {@linkcode TextStream.flush}, are exactly the decoding of all tokens. Each token costs the decoding of a few, however
 * long the text.
 */
export class TextStream {
  readonly #tokenizer: Pick<Tokenizer, "decode">;
  /** The last tokens pushed, at most {@linkcode CONTEXT}. */
  #recent: number[] = [];

  /**
   * An empty text.
   * @param tokenizer whose tokens will be pushed
   */
  constructor(tokenizer: Pick<Tokenizer, "decode">) {
    this.#tokenizer = tokenizer;
  }

  /** Adds tokens. @returns the text that became final with them, possibly none */
  push(...ids: number[]): string {
    const known = final(decodeTokens(this.#tokenizer, this.#recent));
    this.#recent = this.#recent.concat(ids);
    const text = final(decodeTokens(this.#tokenizer, this.#recent)).slice(known.length);
    this.#recent = this.#recent.slice(-CONTEXT);
    return text;
  }

  /** Ends the text and starts anew. @returns the text that was held back: U+FFFD if a character was never finished */
  flush(): string {
    const text = decodeTokens(this.#tokenizer, this.#recent);
    this.#recent = [];
    return text.slice(final(text).length);
  }
}

/** The part of a decoded text that further tokens cannot change: all but a last U+FFFD, which may be unfinished. */
function final(text: string): string {
  return text.endsWith(REPLACEMENT) ? text.slice(0, -1) : text;
}

/**
 * Loads a `tokenizer.json`, with the `tokenizer_config.json` beside it if there is one.
 *
 * @param location path or `file:` URL of the file, of the folder that holds it, or of a folder beside it (models
 * that share a tokenizer stand in folders next to it)
 * @throws {CheckpointError} if it is missing or not a tokenizer
 * @throws {Deno.errors.NotCapable} if the permission to read it is missing
 */
export async function loadTokenizer(location: string | URL): Promise<Tokenizer> {
  const given = toPath(location);
  const candidates = await kindOf(given) === "folder"
    ? [join(given, "tokenizer.json"), join(given, "..", "tokenizer.json")]
    : [given];
  for (const path of candidates) {
    const found = await withinFolder(dirname(path), async () => {
      if (await kindOf(path) !== "file") return undefined;
      const configPath = join(dirname(path), "tokenizer_config.json");
      const config = await kindOf(configPath) === "file" ? await readJson(configPath) : {};
      return { json: await readJson(path), config };
    });
    if (found === undefined) continue;
    const { json, config } = found;
    checkTokenizer(json, path);
    // a file that the library does not expect may fail in any of its methods
    const attempt = <T>(doing: string, body: () => T): T => {
      try {
        return body();
      } catch (error) {
        throw new CheckpointError(`Cannot ${doing} "${path}": ${brief((error as Error).message)}`, {
          cause: error,
        });
      }
    };
    const core = attempt("load tokenizer", () => new TokenizerCore(json, config));
    return {
      encode(text, options) {
        const { ids, tokens } = attempt("encode with tokenizer", () => core.encode(text, options));
        const unknown = ids.findIndex((id: number | undefined) => id === undefined);
        if (unknown < 0) return ids;
        throw new CheckpointError(
          `Cannot encode with tokenizer "${path}": it has no token for ${brief(tokens[unknown])}`,
        );
      },
      decode: (ids, options) => attempt("decode with tokenizer", () => core.decode(ids, options)),
    };
  }
  throw new CheckpointError(
    `Cannot load tokenizer "${given}": there is no "${
      candidates.join('" or "')
    }"; put it there: only token ids can do without`,
  );
}
