/**
 * The safetensors format: an 8-byte little-endian length, a JSON header, and the tensors' bytes. The header is
 * read and proved consistent when a file is opened.
 *
 * Deliberately absent: writing, memory mapping, and any knowledge of models.
 *
 * @module
 */

import { brief } from "../shown.ts";
import type { ByteSource } from "./files.ts";
import type { Span } from "./gzip.ts";
import { isNaturals, isRecord, parseObject } from "./json.ts";
import { ELEMENT_BYTES, fault, refusePointer, TensorFile, type TensorInfo } from "./tensor_file.ts";

/**
 * The longest header that is read: some fifty times those of the models here. The reference implementation accepts
 * 100 MB, for which hostile JSON takes half a minute and gigabytes.
 */
const MAX_HEADER_BYTES = 8_000_000;

/** A U8 tensor `X.planes` of shape [2, …] holds the low and the high bytes of the F16 tensor `X`. */
const PLANES_SUFFIX = ".planes";

/** The most axes of a tensor. */
const MAX_AXES = 16;

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

/** Reads the header, which must account for the whole file. */
async function readHeader(source: ByteSource, path: string): Promise<Map<string, TensorInfo>> {
  const prefix = new Uint8Array(Math.min(8, source.size));
  await source.read(prefix, 0);
  const start = dataStart(prefix, path);
  const head = new Uint8Array(Math.min(start, source.size));
  await source.read(head, 0);
  const { tensors, end } = parseHead(head, path);
  if (end !== source.size) {
    const cut = tensors.values().find((tensor) => tensor.start + tensor.bytes > source.size);
    throw fault(
      path,
      `the file has ${source.size} bytes, expected ${end}: ` +
        (cut === undefined
          ? "it goes on after its last tensor"
          : `tensor ${brief(cut.name)} is cut off; fetch or copy the file again`),
    );
  }
  return tensors;
}

/**
 * Where a file's header ends, as its first 8 bytes say.
 * @throws {CheckpointError} if there are fewer, or that is more than a header may have
 */
export function dataStart(prefix: Uint8Array, path: string): number {
  if (prefix.length < 8) throw fault(path, `the file has ${prefix.length} bytes, expected at least 8`);
  refusePointer(prefix, path);
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw fault(path, `the header's length is ${length} bytes, expected at most ${MAX_HEADER_BYTES}`);
  }
  return 8 + Number(length);
}

/**
 * What a file's bytes are, in order: its header, and each tensor.
 * @param head the file up to where its header ends
 * @throws {CheckpointError} if that is cut off, or impossible in any way
 */
export function spansOf(head: Uint8Array, path: string): Span[] {
  return [{ start: 0, bytes: head.length }, ...inOrder(parseHead(head, path).tensors)];
}

/** The tensors of a header, each of the size its shape says, none overlapping another, and where the last ends. */
function parseHead(head: Uint8Array, path: string): { tensors: Map<string, TensorInfo>; end: number } {
  const start = dataStart(head.subarray(0, 8), path);
  if (head.length < start) {
    throw fault(path, `the file has ${head.length} bytes, expected at least ${start} for its header`);
  }
  const header = parseObject(head.subarray(8), "the header", (what) => fault(path, what));
  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const tensor = parseEntry(name, entry, start, path);
    if (tensors.has(tensor.name)) throw fault(path, `tensor ${brief(tensor.name)} is there twice`);
    tensors.set(tensor.name, tensor);
  }
  let end = start;
  for (const tensor of inOrder(tensors)) {
    if (tensor.start !== end) {
      throw fault(
        path,
        `tensor ${brief(tensor.name)} begins at byte ${tensor.start - start} of the data, expected ${
          end - start
        }: tensors must neither overlap nor leave gaps`,
      );
    }
    end += tensor.bytes;
  }
  return { tensors, end };
}

/** Tensors as they lie in the file; one without bytes comes before the one that begins where it does. */
function inOrder(tensors: ReadonlyMap<string, TensorInfo>): TensorInfo[] {
  return [...tensors.values()].sort((a, b) => a.start - b.start || a.bytes - b.bytes);
}

/** One entry of the header, checked on its own. */
function parseEntry(name: string, entry: unknown, dataStart: number, path: string): TensorInfo {
  const wrong = (what: string) => fault(path, `tensor ${brief(name)} ${what}`);
  if (!isRecord(entry)) throw wrong("is not described by a JSON object");
  const { dtype, shape, data_offsets: offsets } = entry;
  const size = typeof dtype === "string" ? ELEMENT_BYTES.get(dtype) : undefined;
  if (size === undefined) {
    throw wrong(
      `has dtype ${brief(dtype)}, expected one of ${[...ELEMENT_BYTES.keys()].join(", ")}`,
    );
  }
  if (!isNaturals(shape) || shape.length > MAX_AXES) {
    throw wrong(`has shape ${brief(shape)}, expected a list of at most ${MAX_AXES} non-negative integers`);
  }
  if (!isNaturals(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw wrong(`has data_offsets ${brief(offsets)}, expected [begin, end]`);
  }
  const found = offsets[1] - offsets[0];
  const expected = shape.reduce((product, n) => product * n, size);
  if (found !== expected) {
    throw wrong(`of shape [${shape.join(", ")}] and dtype ${dtype} has ${found} bytes, expected ${expected}`);
  }
  const place = { bytes: found, start: dataStart + offsets[0] };
  return name.endsWith(PLANES_SUFFIX) && dtype === "U8" && shape[0] === 2
    ? {
      name: name.slice(0, -PLANES_SUFFIX.length),
      dtype: "F16",
      shape: shape.slice(1),
      ...place,
      planes: true,
    }
    : { name, dtype: dtype as string, shape, ...place };
}
