/**
 * Texts to continue, from the paper's data sets as they are distributed: Parquet, JSON and its lines (Hugging Face, and
 * `webtext.*.jsonl`), CNN/DM's `.story` files, LM1B's `news.en-*`, plain text, any but Parquet also with `.gz`; a file, or
 * a folder with such files and folders in it, or a data set on the hub by name (`datasets.ts`). Without any there is a
 * small set of our own in `prompts/`, so that everything runs offline.
 *
 * Deliberately absent: archives, which are to be unpacked first (OpenWebText's `.tar.xz`, CNN/DM's `.tgz`).
 *
 * @module
 */

import { type AsyncBuffer, asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { basename, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import { kindOf } from "../../src/hub/files.ts";
import type { HubOptions } from "../../src/hub/options.ts";
import { linesOf, textOf } from "../../tools/own_process.ts";
import { datasetFiles, parseDatasetName } from "./datasets.ts";
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
 * @param source a file, a folder or the name of a data set; absent: our own
 * @param count the most that are read
 * @throws {Error} as {@linkcode readTexts}
 */
export async function textsFor(task: Task, source: string | undefined, count: number): Promise<TaskTexts> {
  const own = new URL(`./prompts/${task.name}.${task.name === "lm1b" ? "txt" : "jsonl"}`, import.meta.url);
  return { task, source: source ?? null, texts: await readTexts(source ?? fileURLToPath(own), task, count) };
}

/**
 * The first texts of a file, of the files in a folder in the order of their paths, or of a data set on the hub.
 *
 * @param path a file: `.parquet`, or `.jsonl`, `.json` (an array or lines), `.story`, `.txt`, `news.en-*`, each of these
 * also with `.gz`; a folder, of which other files are skipped; or `owner/name[:CONFIG[:SPLIT]]`, if there is no such file
 * or folder. Plain text has one text per line for LM1B, otherwise one per file
 * @param count how many texts are read; lines and Parquet are read no further than that
 * @param hub where data sets are downloaded from
 * @throws {Error} if there is no text, or a record has none in the task's column
 */
export async function readTexts(
  path: string,
  task: Task,
  count: number,
  hub: HubOptions = {},
): Promise<string[]> {
  if (ARCHIVE.test(path)) {
    throw new Error(
      `Cannot read prompts: "${path}" is an archive, expected a file or folder; unpack it first`,
    );
  }
  const kind = await kindOf(path);
  const dataset = kind === undefined && formOf(path) === undefined ? parseDatasetName(path) : undefined;
  if (kind === undefined && dataset === undefined) {
    throw new Error(`Cannot read prompts: there is no file or folder "${path}"`);
  }
  if (kind === "file" && formOf(path) === undefined) {
    throw new Error(
      `Cannot read prompts: "${path}" has a form that is not known, expected .parquet, .json, .jsonl, .story, .txt or ` +
        "LM1B's news.en-*",
    );
  }
  const texts: string[] = [];
  const sources = dataset !== undefined
    ? datasetFiles(dataset, hub)
    : kind === "folder"
    ? filesIn(path)
    : [path];
  for await (const source of sources) {
    const left = count - texts.length;
    for await (
      const text of typeof source === "string"
        ? textsOf(source, task, left)
        : textsOfParquet(source.file, task, source.name, left)
    ) {
      if (text.trim() === "") continue;
      texts.push(text);
      if (texts.length === count) return texts;
    }
  }
  if (texts.length === 0) throw new Error(`Cannot read prompts: "${path}" has no text`);
  return texts;
}

/** What has to be unpacked. */
const ARCHIVE = /\.(zip|tar|tgz|xz|tar\.gz)$/;

/** How a file is to be read; undefined: it is nothing that data sets come as. */
function formOf(path: string): "parquet" | "json" | "story" | "text" | undefined {
  const name = basename(path).replace(/\.gz$/, "");
  if (name.startsWith("news.en-")) return "text";
  switch (extname(name)) {
    case ".parquet":
      return path.endsWith(".gz") ? undefined : "parquet";
    case ".json":
    case ".jsonl":
      return "json";
    case ".story":
      return "story";
    case ".txt":
      return "text";
    default:
      return undefined;
  }
}

/** The files of a folder and of those in it that may be read, in the order of their paths. */
async function* filesIn(folder: string): AsyncGenerator<string> {
  const entries = await Array.fromAsync(Deno.readDir(folder));
  for (const { name, isDirectory } of entries.sort((a, b) => a.name < b.name ? -1 : 1)) {
    const path = join(folder, name);
    if (name.startsWith(".")) continue; // .git, .cache
    if (isDirectory) yield* filesIn(path);
    else if (!ARCHIVE.test(name) && formOf(name) !== undefined) yield path;
  }
}

/** The texts of one file. */
async function* textsOf(path: string, task: Task, count: number): AsyncGenerator<string> {
  const form = formOf(path);
  if (form === "parquet") {
    yield* textsOfParquet(await asyncBufferFromFile(path), task, path, count);
  } else if (form === "json") {
    let number = 0;
    for await (const line of linesOf(chunks(path))) {
      number++;
      // an array as a whole, however it is set
      if (number === 1 && line.trimStart().startsWith("[")) return yield* textsOfArray(path, task);
      if (line.trim() !== "") yield textIn(parseLine(line), task, `"${path}" line ${number}`);
    }
  } else if (task.name === "lm1b") {
    yield* linesOf(chunks(path));
  } else {
    const text = (await Array.fromAsync(chunks(path))).join("");
    yield form === "story" && text.includes(HIGHLIGHT) ? text.slice(0, text.indexOf(HIGHLIGHT)) : text;
  }
}

async function* textsOfArray(path: string, task: Task): AsyncGenerator<string> {
  const rows = parseLine((await Array.fromAsync(chunks(path))).join(""));
  if (!Array.isArray(rows)) throw new Error(`Cannot read prompts: "${path}" is no JSON, expected an array`);
  for (const [i, row] of rows.entries()) yield textIn(row, task, `"${path}" row ${i}`);
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

/** The text of a file, unpacked if need be, piece by piece. */
async function* chunks(path: string): AsyncGenerator<string> {
  using file = await Deno.open(path);
  const bytes = file.readable;
  const unpacked = path.endsWith(".gz") ? bytes.pipeThrough(new DecompressionStream("gzip")) : bytes;
  yield* textOf(unpacked);
}

/** The first rows of the task's column in a Parquet file, of which only what they need is read. */
async function* textsOfParquet(
  file: AsyncBuffer,
  task: Task,
  name: string,
  count: number,
): AsyncGenerator<string> {
  const rows = await parquetReadObjects({
    file,
    columns: [task.column],
    rowEnd: count,
    // Snappy it has itself
    compressors: {
      GZIP: (bytes) => new Uint8Array(gunzipSync(bytes)),
      BROTLI: (bytes) => new Uint8Array(brotliDecompressSync(bytes)),
      ZSTD: (bytes) => new Uint8Array(zstdDecompressSync(bytes)),
    },
  });
  for (const [i, row] of rows.entries()) yield textIn(row, task, `"${name}" row ${i}`);
}
