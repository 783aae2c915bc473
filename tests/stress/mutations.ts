/**
 * How inputs are spoiled: as bytes, blindly, and as JSON, knowingly.
 *
 * @module
 */

import type { Choices } from "./choices.ts";

/** Values that programs stumble over. */
const AWKWARD: readonly unknown[] = [
  ...[
    0,
    -0,
    1,
    -1,
    2,
    3,
    0.5,
    1e-9,
    255,
    65536,
    2 ** 31 - 1,
    2 ** 31,
    2 ** 32,
    2 ** 40,
    2 ** 53 - 1,
    2 ** 53,
    1e300,
  ],
  ...["", "0", "x", "F32", "__proto__", "constructor", "\ud800", "\udc00a", "a\0b", "\x1b[2J\r\n", "😀"],
  ...["../a.safetensors", "/etc/passwd", "..\\a.safetensors", "a/../../b.safetensors", "C:a.safetensors"],
  ...[null, true, false, [], {}, [[]], [0, 0], [1, 2, 3], { "": 0 }, { type: "x" }],
];

/** Some bytes overwritten, removed, repeated, put in or cut off. */
export function mutateBytes(bytes: Uint8Array, choices: Choices): Uint8Array<ArrayBuffer> {
  let out = new Uint8Array(bytes);
  for (let n = 1 + choices.below(3); n > 0 && out.length > 0; n--) {
    const at = choices.below(out.length), count = 1 + choices.below(Math.min(16, out.length - at));
    const head = out.subarray(0, at), tail = out.subarray(at + count), piece = out.subarray(at, at + count);
    switch (choices.below(6)) {
      case 0:
        out[at] ^= 1 << choices.below(8);
        break;
      case 1:
        out.fill(choices.one([0, 0x20, 0x22, 0x30, 0x5c, 0x7f, 0x80, 0xff]), at, at + count);
        break;
      case 2:
        out = join(head, tail);
        break;
      case 3:
        out = join(head, piece, piece, tail);
        break;
      case 4:
        out = join(head, Uint8Array.from({ length: count }, () => choices.below(256)), piece, tail);
        break;
      default:
        out = out.slice(0, choices.chance(0.2) ? at : out.length);
    }
  }
  return out;
}

/** The text of a JSON value in which something is replaced, removed, added, exchanged, or named twice. */
export function mutateJson(value: unknown, choices: Choices): string {
  const copy: unknown = structuredClone(value);
  let twice = "";
  for (let n = 1 + choices.below(3); n > 0; n--) {
    const { parent, key } = choosePlace(copy, choices);
    if (parent === undefined) return JSON.stringify(awkward(choices));
    const other = choosePlace(copy, choices);
    switch (choices.below(8)) {
      case 0:
        if (Array.isArray(parent)) parent.splice(Number(key), 1);
        else delete parent[key];
        break;
      case 1:
        if (Array.isArray(parent)) parent.splice(Number(key), 0, awkward(choices));
        else define(parent, String(awkward(choices)), parent[key]);
        break;
      case 2:
        if (other.parent !== undefined) parent[key] = structuredClone(other.parent[other.key]);
        break;
      case 3:
        twice = `${JSON.stringify(key)}:${
          JSON.stringify(choices.chance(0.5) ? parent[key] : awkward(choices))
        }`;
        break;
      case 4:
        if (typeof parent[key] === "number") parent[key] += choices.one([-1, 1, 4, -4, 0.5]);
        else if (typeof parent[key] === "string") parent[key] += choices.one(["x", "\ud800", "\0", " "]);
        break;
      default:
        parent[key] = awkward(choices);
    }
  }
  let text = JSON.stringify(copy);
  if (twice !== "") {
    // after any brace: the name may then be the only one of its object, and is mostly not
    const braces = [...text.matchAll(/\{/g)].map(({ index }) => index + 1);
    const at = choices.chance(0.5) ? braces[0] : choices.one(braces);
    text = `${text.slice(0, at)}${twice}${text[at] === "}" ? "" : ","}${text.slice(at)}`;
  }
  return text;
}

// deno-lint-ignore no-explicit-any
type Container = any;

function choosePlace(root: unknown, choices: Choices): { parent: Container; key: string } {
  let parent: Container = undefined, key = "", value: Container = root;
  while (typeof value === "object" && value !== null) {
    const keys = Object.keys(value);
    if (keys.length === 0 || parent !== undefined && choices.chance(0.3)) break;
    parent = value;
    key = choices.one(keys);
    value = parent[key];
  }
  return { parent, key };
}

function awkward(choices: Choices): unknown {
  if (choices.chance(0.02)) {
    let deep: unknown = 0;
    for (let depth = choices.one([100, 3000]); depth > 0; depth--) deep = [deep];
    return deep;
  }
  if (choices.chance(0.02)) return "long ".repeat(20_000);
  return structuredClone(choices.one(AWKWARD));
}

/** Sets a member of any name, `__proto__` too. */
function define(object: object, name: string, value: unknown): void {
  Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
}

function join(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
