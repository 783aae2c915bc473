/**
 * Where the members of a zip archive lie, of the kind that `torch.save` writes: stored without compression, with
 * 64-bit sizes where they are needed (PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3).
 *
 * Deliberately absent: decompression, encryption, archives in several parts. A member is a range of the file.
 *
 * @module
 */

import type { ByteSource } from "./files.ts";

/** A member of an archive: a range of bytes of its file. */
export interface Member {
  /** Where it begins. */
  readonly start: number;
  /** Bytes of it. */
  readonly size: number;
}

/** Signatures of the records, and the sizes of their fixed parts in bytes. */
const END = 0x06054b50, END_BYTES = 22;
const END_64_LOCATOR = 0x07064b50, END_64_LOCATOR_BYTES = 20;
const END_64 = 0x06064b50, END_64_BYTES = 56;
const ENTRY = 0x02014b50, ENTRY_BYTES = 46;
const LOCAL = 0x04034b50, LOCAL_BYTES = 30;

/** A 32-bit field whose value stands in the 64-bit record instead. */
const IN_64 = 0xffffffff;

/** The most bytes of a directory that are read: some hundred thousand members. */
const MAX_DIRECTORY_BYTES = 64 << 20;

/**
 * The members of an archive, by name, in the order of its directory.
 * @throws {RangeError} if it is no such archive, with what is wrong as the message
 */
export async function readZip(source: ByteSource): Promise<Map<string, Member>> {
  const directory = await findDirectory(source);
  const view = await readRange(source, directory.start, directory.size);
  const names = new TextDecoder();
  const members = new Map<string, Member>();
  for (let at = 0; at < view.byteLength;) {
    expect(
      view.byteLength - at >= ENTRY_BYTES && view.getUint32(at, true) === ENTRY,
      "its directory is broken",
    );
    const method = view.getUint16(at + 10, true);
    const nameBytes = view.getUint16(at + 28, true), extraBytes = view.getUint16(at + 30, true);
    const next = at + ENTRY_BYTES + nameBytes + extraBytes + view.getUint16(at + 32, true);
    expect(next <= view.byteLength, "its directory is cut off");
    const name = names.decode(new Uint8Array(view.buffer, at + ENTRY_BYTES, nameBytes));
    const extra = new DataView(view.buffer, at + ENTRY_BYTES + nameBytes, extraBytes);
    const [size, stored, header] = wide(extra, [
      view.getUint32(at + 24, true),
      view.getUint32(at + 20, true),
      view.getUint32(at + 42, true),
    ]);
    expect(method === 0 && size === stored, `its member "${name}" is compressed, expected stored`);
    expect(!members.has(name), `it has two members "${name}"`);
    members.set(name, { start: await dataStart(source, header, name), size });
    expect(members.get(name)!.start + size <= directory.start, `its member "${name}" is cut off`);
    at = next;
  }
  return members;
}

/** Finds the directory, by the record that ends the archive and may be followed by a comment. */
async function findDirectory(source: ByteSource): Promise<Member> {
  const tail = Math.min(source.size, END_BYTES + 0xffff);
  const view = await readRange(source, source.size - tail, tail);
  let at = tail - END_BYTES;
  while (at >= 0 && view.getUint32(at, true) !== END) at--;
  expect(at >= 0, "it is not a whole zip archive");
  let start = view.getUint32(at + 16, true), size = view.getUint32(at + 12, true);
  const end = source.size - tail + at;
  if (start === IN_64 || size === IN_64 || view.getUint16(at + 10, true) === 0xffff) {
    const locator = await readRange(source, end - END_64_LOCATOR_BYTES, END_64_LOCATOR_BYTES);
    expect(locator.getUint32(0, true) === END_64_LOCATOR, "its 64-bit directory cannot be found");
    const end64 = await readRange(source, natural(locator, 8), END_64_BYTES);
    expect(end64.getUint32(0, true) === END_64, "its 64-bit directory cannot be found");
    size = natural(end64, 40);
    start = natural(end64, 48);
  }
  expect(start + size <= end, "its directory is cut off");
  expect(
    size <= MAX_DIRECTORY_BYTES,
    `its directory has ${size} bytes, expected at most ${MAX_DIRECTORY_BYTES}`,
  );
  return { start, size };
}

/** Fields of an entry, those that did not fit from the extra field with the 64-bit values, in their order. */
function wide(extra: DataView, fields: number[]): number[] {
  if (!fields.includes(IN_64)) return fields;
  for (let at = 0; at + 4 <= extra.byteLength; at += 4 + extra.getUint16(at + 2, true)) {
    if (extra.getUint16(at, true) !== 1) continue;
    let value = at + 4;
    return fields.map((field) => {
      if (field !== IN_64) return field;
      expect(value + 8 <= extra.byteLength, "its directory is broken");
      value += 8;
      return natural(extra, value - 8);
    });
  }
  throw new RangeError("its directory is broken");
}

/** Where a member's bytes begin: after its local header, whose extra field is not that of the directory. */
async function dataStart(source: ByteSource, header: number, name: string): Promise<number> {
  const local = await readRange(source, header, LOCAL_BYTES);
  expect(local.getUint32(0, true) === LOCAL, `its member "${name}" is not where its directory says`);
  return header + LOCAL_BYTES + local.getUint16(26, true) + local.getUint16(28, true);
}

async function readRange(source: ByteSource, start: number, size: number): Promise<DataView<ArrayBuffer>> {
  expect(start >= 0 && start + size <= source.size, "it is cut off");
  const bytes = new Uint8Array(size);
  await source.read(bytes, start);
  return new DataView(bytes.buffer);
}

/** A 64-bit field, which no file of this world needs more than 53 bits of. */
function natural(view: DataView, at: number): number {
  const value = view.getBigUint64(at, true);
  expect(value <= Number.MAX_SAFE_INTEGER, "its sizes are impossible");
  return Number(value);
}

function expect(condition: boolean, otherwise: string): void {
  if (!condition) throw new RangeError(otherwise);
}
