/**
 * Between text and token ids: an interface, the `tokenizer.json` of a checkpoint behind it, and text that
 * streams. The tokenizing itself is `@huggingface/tokenizers`; what is here makes it lossless, safe for every
 * input, and replaceable.
 *
 * @module
 */

import { Tokenizer as TokenizerCore } from "@huggingface/tokenizers";
import { dirname, join } from "node:path";
import { CheckpointError } from "../model/weights.ts";
import { kindOf, toPath } from "./files.ts";
import { readJson } from "./json.ts";

/**
 * What the engine asks of a tokenizer. {@linkcode loadTokenizer} gives one; what `AutoTokenizer.from_pretrained`
 * of `@huggingface/transformers` gives is one as it is. Use it through {@linkcode encodeText},
 * {@linkcode decodeTokens} and {@linkcode TextStream}, which pass the options and mind the pitfalls.
 */
export interface Tokenizer {
  /**
   * Token ids of a text.
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
 */
export function encodeText(tokenizer: Tokenizer, text: string): number[] {
  return tokenizer.encode(text.toWellFormed(), { add_special_tokens: false });
}

/** Text of token ids, exactly: special tokens by name, spaces as they are. No ids: the empty text. */
export function decodeTokens(tokenizer: Pick<Tokenizer, "decode">, ids: ArrayLike<number>): string {
  if (ids.length === 0) return "";
  return tokenizer.decode(Array.from(ids), {
    skip_special_tokens: false,
    clean_up_tokenization_spaces: false,
  });
}

/** Where unfinished UTF-8 shows in decoded text. */
const REPLACEMENT = "\ufffd";

/**
 * How many tokens back decoding must start. A token is at least one byte and a character at most four, so that
 * from four tokens on, a decoder that began in the middle of a character agrees with one that did not.
 */
const CONTEXT = 4;

/**
 * Text from tokens that arrive one by one. What {@linkcode TextStream.push} returns is final: the character that
 * a token leaves unfinished is held back until it is whole, and all that was returned, with
 * {@linkcode TextStream.flush}, is exactly what the tokens decode to together. Each token costs the decoding of
 * a few, however long the text.
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
    this.#recent.push(...ids);
    const text = final(decodeTokens(this.#tokenizer, this.#recent)).slice(known.length);
    this.#recent = this.#recent.slice(-CONTEXT);
    return text;
  }

  /** Ends the text and starts anew. @returns what was held back: U+FFFD if a character was never finished */
  flush(): string {
    const text = decodeTokens(this.#tokenizer, this.#recent);
    this.#recent = [];
    return text.slice(final(text).length);
  }
}

/** What of a decoded text no further token can change: all but a U+FFFD at its end, which may be an unfinished character. */
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
    if (await kindOf(path) !== "file") continue;
    const configPath = join(dirname(path), "tokenizer_config.json");
    const config = await kindOf(configPath) === "file" ? await readJson(configPath) : {};
    const json = await readJson(path);
    let core: TokenizerCore;
    try {
      core = new TokenizerCore(json, config);
    } catch (error) {
      throw new CheckpointError(`Cannot load tokenizer "${path}": ${(error as Error).message}`, {
        cause: error,
      });
    }
    return {
      encode: (text, options) => core.encode(text, options).ids,
      decode: (ids, options) => core.decode(ids, options),
    };
  }
  throw new CheckpointError(`Cannot load tokenizer "${given}": there is no "${candidates.join('" or "')}"`);
}
