/**
 * Texts to continue, from the paper's data sets as they are distributed: Parquet and JSON lines (Hugging Face, and
 * `webtext.*.jsonl`), CNN/DM's `.story` files, plain text; a file, or a folder of such files. Without a file there
 * is a small set of our own in `prompts/`, so that everything runs offline.
 *
 * Deliberately absent: archives. OpenWebText's `.tar.xz` and CNN/DM's `.tgz` are to be unpacked first.
 *
 * @module
 */

import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import { kindOf } from "../../src/hub/files.ts";
import type { Task } from "./paper.ts";

/** Where the highlights of a CNN/DM story begin. */
const HIGHLIGHT = "@highlight";

/** Texts to continue for a task. */
export interface TaskTexts {
  readonly task: Task;
  /** Where they are from; null: our own. */
  readonly source: string | null;
  readonly texts: readonly string[];
}

/**
 * The first texts for a task.
 *
 * @param source a file or a folder; absent: our own
 * @param count the most that are read
 * @throws {Error} as {@linkcode readTexts}
 */
export async function textsFor(task: Task, source: string | undefined, count: number): Promise<TaskTexts> {
  const own = new URL(`./prompts/${task.name}.${task.name === "lm1b" ? "txt" : "jsonl"}`, import.meta.url);
  return { task, source: source ?? null, texts: await readTexts(source ?? fileURLToPath(own), task, count) };
}

/**
 * The first texts of a file, or of a folder's files in the order of their names.
 *
 * @param path `.parquet`, `.jsonl`, `.json` (lines too), `.story`; anything else is plain text: of LM1B one text a
 * line, else one text a file
 * @param count the most that are read; the rest of the file is not
 * @throws {Error} if there is no text, or a record has none in the task's column
 */
export async function readTexts(path: string, task: Task, count: number): Promise<string[]> {
  const kind = await kindOf(path);
  if (kind === undefined) throw new Error(`Cannot read prompts: there is no file or folder "${path}"`);
  const texts: string[] = [];
  for (const file of kind === "folder" ? await filesIn(path) : [path]) {
    if (texts.length === count) break;
    for await (const text of textsOf(file, task, count - texts.length)) {
      if (text.trim() === "") continue;
      texts.push(text);
      if (texts.length === count) break;
    }
  }
  if (texts.length === 0) throw new Error(`Cannot read prompts: "${path}" has no text`);
  return texts;
}

async function filesIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(folder)) if (!isDirectory) names.push(name);
  return names.sort().map((name) => join(folder, name));
}

/** The texts of one file. */
async function* textsOf(path: string, task: Task, count: number): AsyncGenerator<string> {
  const kind = path.slice(path.lastIndexOf(".") + 1);
  if (kind === "parquet") {
    const rows = await readParquet(path, task.column, count);
    for (const [i, row] of rows.entries()) yield textIn(row, task, `"${path}" row ${i}`);
  } else if (kind === "jsonl" || kind === "json") {
    let number = 0;
    for await (const line of lines(path)) {
      number++;
      if (line.trim() !== "") yield textIn(parseLine(line), task, `"${path}" line ${number}`);
    }
  } else if (task.name === "lm1b") {
    yield* lines(path);
  } else {
    const text = await Deno.readTextFile(path);
    yield kind === "story" && text.includes(HIGHLIGHT) ? text.slice(0, text.indexOf(HIGHLIGHT)) : text;
  }
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined; // no record, so that it has no text either
  }
}

function textIn(row: unknown, { column }: Task, where: string): string {
  const text = (row as Record<string, unknown> | null | undefined)?.[column];
  if (typeof text !== "string") throw new Error(`Cannot read prompts: ${where} has no text in "${column}"`);
  return text;
}

/** Lines of a file, read as far as they are asked for. */
async function* lines(path: string): AsyncGenerator<string> {
  using file = await Deno.open(path);
  let rest = "";
  for await (const piece of chunks(file)) {
    const parts = (rest + piece).split(/\r?\n/);
    rest = parts.pop()!;
    yield* parts;
  }
  if (rest !== "") yield rest;
}

async function* chunks(file: Deno.FsFile): AsyncGenerator<string> {
  const decoder = new TextDecoder(), buffer = new Uint8Array(1 << 16);
  for (let n; (n = await file.read(buffer)) !== null;) {
    yield decoder.decode(buffer.subarray(0, n), { stream: true });
  }
  yield decoder.decode();
}

/** The first rows of one column of a Parquet file, of which only what they need is read. */
async function readParquet(path: string, column: string, count: number): Promise<Record<string, unknown>[]> {
  return await parquetReadObjects({
    file: await asyncBufferFromFile(path),
    columns: [column],
    rowEnd: count,
    // Snappy it has itself
    compressors: {
      GZIP: (bytes) => new Uint8Array(gunzipSync(bytes)),
      BROTLI: (bytes) => new Uint8Array(brotliDecompressSync(bytes)),
      ZSTD: (bytes) => new Uint8Array(zstdDecompressSync(bytes)),
    },
  });
}
