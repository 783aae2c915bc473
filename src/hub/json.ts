/**
 * JSON files that must hold an object: configurations, indices, tokenizers, headers. Stricter than `JSON.parse`, which
 * silently keeps the last of two equal names, and takes seconds for a million brackets. It deliberately knows no fields.
 *
 * @module
 */

import { CheckpointError } from "../model/weights.ts";
import { brief } from "../shown.ts";
import { fileSource } from "./files.ts";

/** The most bytes of a file: ten times those of the tokenizers of the models here. */
const MAX_BYTES = 20_000_000;

/** How deeply values may be nested: several times as deep as in any of these files. */
const MAX_DEPTH = 100;

/** Whether a JSON value is an object. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether a value is a non-negative integer, as ids, sizes and offsets are. */
export function isNatural(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Whether a value is a list of non-negative integers. */
export function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(isNatural);
}

/**
 * Reads a JSON file whose value is an object.
 * @throws {CheckpointError} if it is not, or is larger than 20 MB, and as {@linkcode parseObject}
 * @throws as {@linkcode fileSource}
 */
export async function readJson(path: string): Promise<Record<string, unknown>> {
  const fault = (what: string) => new CheckpointError(`Cannot read "${path}": ${what}`);
  using source = await fileSource(path);
  if (source.size > MAX_BYTES) {
    throw fault(`it has ${source.size} bytes, expected at most ${MAX_BYTES}`);
  }
  const bytes = new Uint8Array(source.size);
  await source.read(bytes, 0);
  return parseObject(bytes, "it", fault);
}

/**
 * Parses JSON whose value is an object.
 * @param what name of the bytes, for messages
 * @param fault makes the error of a message
 * @throws what `fault` makes if the bytes are not UTF-8, not JSON, not an object, nested more than 100 deep, or name
 * something twice
 */
export function parseObject(
  bytes: Uint8Array,
  what: string,
  fault: (message: string) => Error,
): Record<string, unknown> {
  let text: string, value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw fault(`${what} is not valid JSON (its bytes are not UTF-8)`);
  }
  const { depth, twice } = scan(text);
  if (depth > MAX_DEPTH) throw fault(`${what} is nested deeper than ${MAX_DEPTH} levels`);
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw fault(`${what} is not valid JSON (${(error as Error).message})`);
  }
  if (!isRecord(value)) throw fault(`${what} is not a JSON object`);
  if (twice !== undefined) throw fault(`${what} names ${brief(twice)} twice`);
  return value;
}

/** How deeply a text is nested, up to where that is too much, and the first name that an object has twice. */
function scan(json: string): { depth: number; twice: string | undefined } {
  const open: (Set<string> | undefined)[] = []; // of each bracket that is open, the names so far
  let twice: string | undefined;
  for (let at = 0; at < json.length && open.length <= MAX_DEPTH; at++) {
    const character = json[at];
    if (character === "{" || character === "[") {
      open.push(undefined);
    } else if (character === "}" || character === "]") {
      open.pop();
    } else if (character === '"') {
      const start = at;
      for (at++; at < json.length && json[at] !== '"'; at++) if (json[at] === "\\") at++;
      let next = at + 1;
      while (" \t\r\n".includes(json[next] ?? ":")) next++;
      if (json[next] !== ":" || open.length === 0) continue;
      const name = unquoted(json.slice(start, at + 1)), names = open[open.length - 1] ??= new Set();
      if (names.has(name)) twice ??= name;
      names.add(name);
    }
  }
  return { depth: open.length, twice };
}

/** The value of a JSON string; unchanged if it is malformed, which the parser reports. */
function unquoted(string: string): string {
  if (!string.includes("\\")) return string.slice(1, -1);
  try {
    return JSON.parse(string);
  } catch {
    return string;
  }
}
