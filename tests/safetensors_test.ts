/**
 * Files of tensors: what can be read, exactly; what is refused, and in which words.
 *
 * @module
 */

import assert from "node:assert/strict";
import { writeRaw, writeSafetensors } from "../fixtures/write_safetensors.ts";
import { memorySource } from "../src/hub/files.ts";
import { parseObject } from "../src/hub/json.ts";
import { Safetensors } from "../src/hub/safetensors.ts";
import { CheckpointError } from "../src/model/weights.ts";
import { failure, SMALL } from "./helpers.ts";
import { counted, inMemory } from "./sources.ts";

Deno.test("safetensors: every dtype arrives as f32, exactly", async () => {
  const bits = new Uint16Array([0x3fc0, 0xc000, 0x0001, 0x7f80]); // 1.5, -2, the smallest subnormal, Infinity
  using checkpoint = await inMemory([
    { name: "i8", dtype: "I8", shape: [3], data: new Int8Array([-128, 0, 127]) }, // what follows is unaligned
    { name: "f32", dtype: "F32", shape: [3], data: new Float32Array([1 / 3, -0, Infinity]) },
    { name: "f16", dtype: "F16", shape: [4], data: new Float16Array([0.1, 65504, 2 ** -24, -Infinity]) },
    { name: "bf16", dtype: "BF16", shape: [2, 2], data: bits },
    { name: "f64", dtype: "F64", shape: [2], data: new Float64Array([1 / 3, 1e300]) },
    { name: "i32", dtype: "I32", shape: [2], data: new Int32Array([-7, 50256]) },
    { name: "i64", dtype: "I64", shape: [2], data: new BigInt64Array([-7n, 50256n]) },
    { name: "scalar", dtype: "F32", shape: [], data: new Float32Array([-1e4]) },
    { name: "none", dtype: "F32", shape: [0, 5], data: new Float32Array(0) },
  ]);
  const read = async (name: string, ...shape: number[]) => [...await checkpoint.read(name, shape)];
  assert.deepEqual(await read("i8", 3), [-128, 0, 127]);
  assert.deepEqual(await read("f32", 3), [Math.fround(1 / 3), -0, Infinity]);
  assert.deepEqual(await read("f16", 4), [Math.f16round(0.1), 65504, 2 ** -24, -Infinity]);
  assert.deepEqual(await read("bf16", 2, 2), [1.5, -2, 2 ** -133, Infinity]);
  assert.deepEqual(await read("f64", 2), [Math.fround(1 / 3), Infinity]);
  assert.deepEqual(await read("i32", 2), [-7, 50256]);
  assert.deepEqual(await read("i64", 2), [-7, 50256]);
  assert.deepEqual(await read("scalar"), [-1e4]);
  assert.deepEqual(await read("none", 0, 5), []);
  assert.deepEqual(
    checkpoint.tensors().map(({ name, dtype, shape, bytes }) => [name, dtype, shape, bytes])[3],
    [
      "bf16",
      "BF16",
      [2, 2],
      8,
    ],
  );
});

Deno.test("safetensors: broken files are refused when opened, with what was found and expected", async () => {
  const entry = (fields: string) => `{"x": {${fields}}}`;
  const f32 = (shape: string, offsets: string) =>
    entry(`"dtype": "F32", "shape": ${shape}, "data_offsets": ${offsets}`);
  const eight = [new Uint8Array(8)];
  const huge = new Uint8Array(64);
  new DataView(huge.buffer).setBigUint64(0, 0xffff_ffff_ffff_ffffn, true);
  const long = new Uint8Array(64);
  new DataView(long.buffer).setBigUint64(0, 8_000_001n, true);
  const beyond = new Uint8Array(64);
  beyond[0] = 57;
  const notUtf8 = writeRaw('{"?": 1}', []);
  notUtf8[10] = 0xff;
  const two = (a: string, b: string) =>
    `{"x": {"dtype": "F32", "shape": [1], "data_offsets": ${a}}, "y": {"dtype": "F32", "shape": [1], "data_offsets": ${b}}}`;
  const twice = `"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}`;

  const cases: [Uint8Array, RegExp][] = [
    [new Uint8Array(0), /the file has 0 bytes, expected at least 8$/],
    [new Uint8Array(7), /the file has 7 bytes, expected at least 8$/],
    [huge, /the header's length is 18446744073709551615 bytes, expected at most 8000000$/],
    [long, /the header's length is 8000001 bytes, expected at most 8000000$/],
    [
      writeRaw(f32(`[${Array(17).fill(1)}]`, "[0, 4]"), [new Uint8Array(4)]),
      /"x" has shape \[1,.*, expected a list/,
    ],
    [
      writeRaw(
        '{"x": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}, ' +
          '"x.planes": {"dtype": "U8", "shape": [2, 1], "data_offsets": [2, 4]}}',
        [new Uint8Array(4)],
      ),
      /tensor "x" is there twice$/,
    ],
    [beyond, /the file has 64 bytes, expected at least 65 for its header$/],
    [new Uint8Array(8), /the header is not valid JSON/],
    [writeRaw("{", []), /the header is not valid JSON/],
    [notUtf8, /the header is not valid JSON/],
    [writeRaw("[]", []), /the header is not a JSON object$/],
    [writeRaw("null", []), /the header is not a JSON object$/],
    [
      writeRaw(`{${twice}, "\\u0078": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}`, eight),
      /"x" twice$/,
    ],
    [writeRaw('{"x": 1}', []), /tensor "x" is not described by a JSON object$/],
    [
      writeRaw(entry('"shape": [2], "data_offsets": [0, 8]'), eight),
      /"x" has dtype undefined, expected one of BOOL, /,
    ],
    [
      writeRaw(entry('"dtype": "toString", "shape": [2], "data_offsets": [0, 8]'), eight),
      /tensor "x" has dtype "toString", expected one of /,
    ],
    [
      writeRaw(f32("[-2]", "[0, 8]"), eight),
      /"x" has shape \[-2\], expected a list of at most 16 non-negative integers$/,
    ],
    [writeRaw(f32("[0.5, 4]", "[0, 8]"), eight), /"x" has shape \[0\.5,4\], expected a list/],
    [
      writeRaw(f32("[9007199254740992]", "[0, 8]"), eight),
      /"x" has shape \[9007199254740992\], expected a list/,
    ],
    [writeRaw(f32('"2"', "[0, 8]"), eight), /"x" has shape "2", expected a list/],
    [writeRaw(f32("[2]", "[8, 0]"), eight), /"x" has data_offsets \[8,0\], expected \[begin, end\]$/],
    [writeRaw(f32("[2]", "[0, 4, 8]"), eight), /"x" has data_offsets \[0,4,8\], expected/],
    [writeRaw(f32("[2]", '["0", 8]'), eight), /"x" has data_offsets \["0",8\], expected/],
    [writeRaw(f32("[3]", "[0, 8]"), eight), /"x" of shape \[3\] and dtype F32 has 8 bytes, expected 12$/],
    [
      writeRaw(f32("[4294967296, 4294967296]", "[0, 8]"), eight),
      /"x" of shape \[4294967296, 4294967296\] and dtype F32 has 8 bytes, expected 7\d+$/,
    ],
    [
      writeRaw(two("[0, 4]", "[0, 4]"), eight),
      /"y" begins at byte 0 of the data, expected 4: .* neither overlap/,
    ],
    [writeRaw(two("[0, 4]", "[2, 6]"), eight), /"y" begins at byte 2 of the data, expected 4/],
    [
      writeRaw(two("[0, 4]", "[8, 12]"), [new Uint8Array(12)]),
      /"y" begins at byte 8 of the data, expected 4/,
    ],
    [
      SMALL.subarray(0, -1),
      /the file has 103 bytes, expected 104: tensor "x" is cut off; fetch or copy the file again$/,
    ],
    [
      writeRaw(f32("[2]", "[0, 8]"), [new Uint8Array(9)]),
      /the file has \d+ bytes, expected \d+: it goes on after its last tensor$/,
    ],
  ];
  for (const [bytes, message] of cases) {
    const source = counted(bytes);
    await assert.rejects(Safetensors.open(source, "broken.safetensors"), failure(message));
    await assert.rejects(
      Safetensors.open(source, "broken.safetensors"),
      failure(/^Cannot load checkpoint "broken.safetensors": /),
    );
    assert(source.closed, `left open: ${message}`);
  }
});

Deno.test("safetensors: names that JavaScript or JSON treat specially are names", async () => {
  const entry = (begin: number) => `{"dtype": "I8", "shape": [1], "data_offsets": [${begin}, ${begin + 1}]}`;
  const names = ["__proto__", 'a"b', "{[", "toString"];
  const metadata = `"__metadata__": {"x": ${JSON.stringify("{\\".repeat(1_000_000))}}`;
  const header = `{${metadata}, ${
    names.map((name, i) => `${JSON.stringify(name)}: ${entry(i)}`).join(", ")
  }}`;
  using file = await Safetensors.open(memorySource(writeRaw(header, [new Int8Array([5, 6, 7, 8])])), "x");
  assert.deepEqual([...file.tensors.keys()], names);
});

Deno.test("safetensors: what has no bytes may stand anywhere, and planes are two", async () => {
  const header = `{"x": {"dtype": "I8", "shape": [3], "data_offsets": [0, 3]},
    "none": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
    "y.planes": {"dtype": "U8", "shape": [3, 1], "data_offsets": [3, 6]}}`;
  using file = await Safetensors.open(memorySource(writeRaw(header, [new Int8Array(6)])), "x");
  const found = [...file.tensors.values()].map(({ name, dtype, shape }) => [name, dtype, shape.join()]);
  assert.deepEqual(found, [["x", "I8", "3"], ["none", "F32", "0"], ["y.planes", "U8", "3,1"]]);
});

Deno.test("tensor file: elements that a tensor does not have are not read", async () => {
  const data = [new Float32Array([1, 2, 3]), new Float32Array([4])];
  using file = await Safetensors.open(
    memorySource(
      writeSafetensors(data.map((data, i) => ({ name: `${i}`, dtype: "F32", shape: [data.length], data }))),
    ),
    "x",
  );
  const tensor = file.tensors.get("0")!, out = new Float32Array(2);
  await file.read(tensor, 1, out);
  assert.deepEqual([...out], [2, 3]);
  for (const first of [2, -1, 0.5]) {
    await assert.rejects(file.read(tensor, first, out), {
      name: "RangeError",
      message: /^Cannot read tensor "0": el/,
    });
  }
});

Deno.test("JSON that is ambiguous, nested without end or no text is refused", () => {
  const parse = (text: string | Uint8Array) =>
    parseObject(
      typeof text === "string" ? new TextEncoder().encode(text) : text,
      "it",
      (what) => new CheckpointError(what),
    );
  assert.deepEqual(parse('{"a": {"b": [], "c": {}}, "b": {"c": "a\\\\", "d": "{\\"a\\": 1"}}'), {
    a: { b: [], c: {} },
    b: { c: "a\\", d: '{"a": 1' },
  });
  assert.deepEqual(
    parse(`{"a": ${"[".repeat(99)}${"]".repeat(99)}}`).a,
    JSON.parse("[".repeat(99) + "]".repeat(99)),
  );
  const cases: [string | Uint8Array, RegExp][] = [
    ['{"a": {"b": 1, "\\u0062" : 2}}', /^it names "b" twice$/],
    ['{"a": 1, "b": [{"a": 1}], "a": 1}', /^it names "a" twice$/],
    ["[".repeat(10_000_000), /^it is nested deeper than 100 levels$/],
    ['{"a": '.repeat(101), /^it is nested deeper than 100 levels$/],
    [Uint8Array.of(0x7b, 0xff, 0x7d), /^it is not valid JSON \(its bytes are not UTF-8\)$/],
    ['{"a": "', /^it is not valid JSON/],
    ['{"a": "\\', /^it is not valid JSON/],
    ["]]}", /^it is not valid JSON/],
    [`{"${"x".repeat(1000)}": 1, "${"x".repeat(1000)}": 1}`, /^it names "x{79}… twice$/],
  ];
  for (const [text, message] of cases) assert.throws(() => parse(text), failure(message));
});

Deno.test("bytes in memory are a source that says where it ends", async () => {
  const source = memorySource(Uint8Array.of(1, 2, 3, 4)), into = new Uint8Array(3);
  await source.read(into, 1);
  assert.deepEqual([...into], [2, 3, 4]);
  for (const position of [2, 100, -1, NaN]) {
    await assert.rejects(source.read(into, position), { name: "RangeError", message: /there are 4$/ });
  }
});
