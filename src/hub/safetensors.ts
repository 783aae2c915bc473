/**
 * The safetensors format: an 8-byte little-endian length, a JSON header, and the tensors' bytes. The header is
 * read and proved consistent when a file is opened.
 *
 * Deliberately absent: writing, memory mapping, and any knowledge of models.
 *
 * @module
 */

import type { ByteSource } from "./files.ts";
import { isRecord } from "./json.ts";
import { ELEMENT_BYTES, fault, TensorFile, type TensorInfo } from "./tensor_file.ts";

/** The longest header that is read, the limit of the reference implementation. */
const MAX_HEADER_BYTES = 100_000_000;

/** An open safetensors file whose header has been validated. */
export class Safetensors extends TensorFile {
  /**
   * Reads and validates the header. The result owns `source`; on failure it is closed.
   *
   * @param path what messages call it
   * @throws {CheckpointError} if the file is truncated, or its header is impossible in any way
   */
  static async open(source: ByteSource, path: string): Promise<Safetensors> {
    try {
      return new Safetensors(source, path, await readHeader(source, path));
    } catch (error) {
      source[Symbol.dispose]();
      throw error;
    }
  }
}

/** Reads the header: every tensor known, in range, of the size its shape says, and none overlapping another. */
async function readHeader(source: ByteSource, path: string): Promise<Map<string, TensorInfo>> {
  if (source.size < 8) throw fault(path, `the file has ${source.size} bytes, expected at least 8`);
  const prefix = new Uint8Array(8);
  await source.read(prefix, 0);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw fault(path, `the header's length is ${length} bytes, expected at most ${MAX_HEADER_BYTES}`);
  }
  const dataStart = 8 + Number(length);
  if (dataStart > source.size) {
    throw fault(path, `the file has ${source.size} bytes, expected at least ${dataStart} for its header`);
  }
  const bytes = new Uint8Array(Number(length));
  await source.read(bytes, 8);
  const header = parseHeader(bytes, path);

  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of Object.entries(header)) {
    if (name !== "__metadata__") tensors.set(name, parseEntry(name, entry, dataStart, path));
  }
  let end = dataStart;
  for (const tensor of [...tensors.values()].sort((a, b) => a.start - b.start || a.bytes - b.bytes)) {
    if (tensor.start !== end) {
      throw fault(
        path,
        `tensor "${tensor.name}" begins at byte ${tensor.start - dataStart} of the data, expected ${
          end - dataStart
        }: tensors must neither overlap nor leave gaps`,
      );
    }
    end += tensor.bytes;
  }
  if (end !== source.size) {
    const cut = tensors.values().find((tensor) => tensor.start + tensor.bytes > source.size);
    throw fault(
      path,
      `the file has ${source.size} bytes, expected ${end}: ` +
        (cut === undefined ? "it goes on after its last tensor" : `tensor "${cut.name}" is cut off`),
    );
  }
  return tensors;
}

/** The header's bytes as a JSON object without duplicate names. */
function parseHeader(bytes: Uint8Array, path: string): Record<string, unknown> {
  let text: string, header: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    header = JSON.parse(text);
  } catch (error) {
    throw fault(path, `the header is not valid JSON (${(error as Error).message})`);
  }
  if (!isRecord(header)) throw fault(path, "the header is not a JSON object");
  // JSON.parse keeps the last of two equal names without a word
  const names = topLevelNames(text);
  if (names.length !== Object.keys(header).length) {
    const seen = new Set<string>();
    const twice = names.find((name) => seen.size === seen.add(name).size);
    throw fault(path, `the header names tensor "${twice}" twice`);
  }
  return header;
}

/** One entry of the header, checked on its own. */
function parseEntry(name: string, entry: unknown, dataStart: number, path: string): TensorInfo {
  const wrong = (what: string) => fault(path, `tensor "${name}" ${what}`);
  if (!isRecord(entry)) throw wrong("is not described by a JSON object");
  const { dtype, shape, data_offsets: offsets } = entry;
  const size = typeof dtype === "string" ? ELEMENT_BYTES.get(dtype) : undefined;
  if (size === undefined) {
    throw wrong(
      `has dtype ${JSON.stringify(dtype)}, expected one of ${[...ELEMENT_BYTES.keys()].join(", ")}`,
    );
  }
  if (!isNaturals(shape)) {
    throw wrong(`has shape ${JSON.stringify(shape)}, expected a list of non-negative integers`);
  }
  if (!isNaturals(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw wrong(`has data_offsets ${JSON.stringify(offsets)}, expected [begin, end]`);
  }
  const found = offsets[1] - offsets[0];
  const expected = shape.reduce((product, n) => product * n, size);
  if (found !== expected) {
    throw wrong(`of shape [${shape.join(", ")}] and dtype ${dtype} has ${found} bytes, expected ${expected}`);
  }
  return { name, dtype: dtype as string, shape, bytes: found, start: dataStart + offsets[0] };
}

/** The names of a valid JSON object at its top level, in order, duplicates included. */
function topLevelNames(json: string): string[] {
  const names: string[] = [];
  let depth = 0;
  for (const [token, name] of json.matchAll(/[{}[\]]|("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?/g)) {
    if (name !== undefined) {
      if (depth === 1 && token.endsWith(":")) names.push(JSON.parse(name));
    } else {
      depth += token === "{" || token === "[" ? 1 : -1;
    }
  }
  return names;
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}
