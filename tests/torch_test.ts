/**
 * `pytorch_model.bin`: what PyTorch wrote is read as PyTorch would, and whatever else such a file may be is refused
 * and never run.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { fileSource, memorySource, toPath } from "../src/hub/files.ts";
import { readPickle } from "../src/hub/pickle.ts";
import { Safetensors } from "../src/hub/safetensors.ts";
import type { TensorFile } from "../src/hub/tensor_file.ts";
import { openTorchFile } from "../src/hub/torch.ts";
import { CheckpointError } from "../src/model/weights.ts";
import { fixture } from "./helpers.ts";

async function bytesOf(name: string): Promise<Uint8Array<ArrayBuffer>> {
  return await Deno.readFile(fixture(`torch/${name}`));
}

async function open(bytes: Uint8Array): Promise<TensorFile> {
  return await openTorchFile(memorySource(bytes), "x.bin");
}

/** A pickle in ASCII with `\x` escapes, read with no names known. */
function evaluate(program: string): unknown {
  return readPickle(Uint8Array.from(program, (c) => c.charCodeAt(0)), {
    global: (module, name) => assert.fail(`${module}.${name}`),
    persistent: (id) => ({ id }),
  });
}

Deno.test("tensors are those that PyTorch saved, by either protocol: dtypes, shapes, views, shared storage", async () => {
  const path = toPath(fixture("torch/expected.safetensors"));
  using expected = await Safetensors.open(await fileSource(path), path);
  for (const name of ["protocol2.bin", "protocol4.bin"]) {
    using file = await open(await bytesOf(name));
    assert.deepEqual([...file.tensors.keys()].sort(), [...expected.tensors.keys()].sort());
    for (const [key, { dtype, shape, bytes }] of expected.tensors) {
      const tensor = file.tensors.get(key)!;
      assert.deepEqual([tensor.dtype, tensor.shape, tensor.bytes], [dtype, shape, bytes], key);
      if (dtype === "BOOL") continue; // nothing reads it
      const count = shape.reduce((product, n) => product * n, 1);
      const [found, wanted] = [new Float32Array(count), new Float32Array(count)];
      await file.read(tensor, 0, found);
      await expected.read(expected.tensors.get(key)!, 0, wanted);
      assert.deepEqual(found, wanted, key);
    }
    assert.equal(file.tensors.get("tied")!.start, file.tensors.get("f32")!.start);
  }
});

Deno.test("a checkpoint may be such a file, or shards of them, if it has no safetensors", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const put = (name: string, content: string) => Deno.writeTextFile(join(folder, name), content);
    await put("config.json", "{}");
    await put("pytorch_model.bin.index.json", '{"weight_map": {"weight": "a.bin", "bias": "a.bin"}}');
    await Deno.writeFile(join(folder, "a.bin"), await bytesOf("module.bin"));
    for (const layout of ["shards", "one file"]) {
      if (layout === "one file") await Deno.rename(join(folder, "a.bin"), join(folder, "pytorch_model.bin"));
      using checkpoint = await openCheckpoint(folder);
      assert.deepEqual(checkpoint.tensors().map(({ name, shape }) => [name, shape]), [["weight", [3, 4]], [
        "bias",
        [3],
      ]]);
      assert.deepEqual([...await checkpoint.read("bias", [3])], [0, 0, 0]);
      const rows = await Array.fromAsync(checkpoint.rows("weight", [3, 4]), (chunk) => chunk.slice());
      assert.deepEqual(rows[0], await checkpoint.read("weight", [3, 4]));
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("what is no dictionary of tensors is refused, with the command that converts it where there is one", async () => {
  const convert = /; convert it once: python3 -c '.*weights_only=True.*' "x.bin"$/;
  const cases: [string, RegExp, RegExp?][] = [
    [
      "program.bin",
      /^Cannot load checkpoint "x.bin": its pickle names "os.getenv", which is no part of a tensor: it is/,
    ],
    [
      "object.bin",
      /its pickle names "torch.nn.modules.linear.Linear", which is no part of a tensor: it is not run$/,
    ],
    ["nested.bin", /its entry "model" is not a tensor$/],
    ["legacy.bin", /it has the format from before PyTorch 1.6; /, convert],
    ["strided.bin", /tensor "x" is not stored row by row; /, convert],
  ];
  for (const [name, ...messages] of cases) {
    const bytes = await bytesOf(name);
    await assert.rejects(open(bytes), (error) => {
      assert(error instanceof CheckpointError);
      for (const message of messages) assert.match(error.message, message!);
      return true;
    });
  }
});

Deno.test("a pickle builds values, and stops at what would do more", () => {
  assert.deepEqual(
    evaluate("\x80\x02}q\0(X\x01\0\0\0aK\x07X\x01\0\0\0bJ\xff\xff\xff\xffu."),
    new Map([["a", 7], ["b", -1]]),
  );
  assert.deepEqual(
    evaluate("\x80\x04\x95\0\0\0\0\0\0\0\0]\x94(K\x01\x8a\x02\0\x80\x88\x89NG?\xf8\0\0\0\0\0\0e."),
    [
      ...[1, -32768, true, false, null, 1.5],
    ],
  );
  assert.deepEqual(evaluate("(K\x01)\x85h".slice(0, 4) + "\x85t."), [1, [[]]]);
  assert.deepEqual(evaluate("X\x02\0\0\0idQ."), { id: "id" });
  const cases: [string, RegExp][] = [
    ["cos\nsystem\n(X\x02\0\0\0lstR.", /os\.system/], // asks for a function
    ["\x8c\x02os\x8c\x06system\x93.", /os\.system/],
    ["(ios\nsystem\n.", /its pickle has instruction 0x69, which/], // INST
    ["K\x01)R.", /its pickle is broken/], // calls a number
    ["K\x01)\x81.", /instruction 0x81/], // NEWOBJ
    ["Pfile\n.", /instruction 0x50/], // PERSID
    ["\x82\x01.", /instruction 0x82/], // EXT1
    ["\x80\x05.", /its pickle has protocol 5, expected at most 4/],
    ["", /cut off/],
    ["K", /cut off/],
    ["X\xff\xff\xff\xffa.", /cut off/],
    ["X\x01\0\0\0\xff.", /broken/], // not UTF-8
    [".", /broken/],
    ["(.", /broken/],
    ["t.", /broken/],
    ["\x86.", /broken/],
    ["h\x01.", /broken/],
    ["K\x01a.", /broken/],
    ["](K\x01u.", /broken/], // items for a list
    ["}(K\x01u.", /broken/], // a key without a value
    ["K\x01K\x02\x93.", /broken/],
  ];
  for (const [program, message] of cases) {
    assert.throws(() => evaluate(program), message, JSON.stringify(program.slice(0, 40)));
  }
  assert.throws(
    () => readPickle(new Uint8Array(1_000_001).fill(0x4e), { global() {}, persistent() {} }),
    /its pickle has more than 1000000 instructions$/,
  );
  // a list that holds itself is a value like any other
  const list = evaluate("]q\0h\0a.") as unknown[];
  assert.equal(list[0], list);
});

Deno.test("a spoilt file is read as some tensors or refused, whatever is wrong with it", async () => {
  const whole = await bytesOf("protocol2.bin");
  const size = whole.length;
  let refused = 0;
  const look = async (bytes: Uint8Array) => {
    try {
      using file = await open(bytes);
      for (const { start, bytes: length } of file.tensors.values()) {
        assert(start >= 0 && start + length <= bytes.length);
      }
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      refused++;
    }
  };
  for (let length = 0; length < size; length += 11) await look(whole.subarray(0, length));
  assert.equal(refused, Math.ceil(size / 11), "what is cut off is refused");
  refused = 0;
  for (let at = 0; at < size; at += 4) {
    const bytes = whole.slice();
    bytes[at] ^= [0x01, 0x80, 0xff][at % 3];
    await look(bytes);
  }
  assert(refused > size / 16, `${refused} of ${size / 4}`);
});
