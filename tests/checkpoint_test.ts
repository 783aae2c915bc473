/**
 * Checkpoints: which files make one, how its matrices are read and how much memory that takes, and what is no checkpoint.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { type TensorData, writeSafetensors } from "../fixtures/write_safetensors.ts";
import { Checkpoint, openCheckpoint, TRANSPOSED_BYTES } from "../src/hub/checkpoint.ts";
import { Safetensors } from "../src/hub/safetensors.ts";
import { CHUNK_BYTES } from "../src/hub/tensor_file.ts";
import { failure, SMALL, withFolder } from "./helpers.ts";
import { counted, inMemory } from "./sources.ts";

async function joined(chunks: AsyncIterable<Float32Array>): Promise<Float32Array> {
  const parts = await Array.fromAsync(chunks, (chunk) => chunk.slice());
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

Deno.test("checkpoint: generation_config.json says which tokens end a text", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const write = (name: string, json: object) =>
      Deno.writeTextFile(join(folder, name), JSON.stringify(json));
    await Deno.writeFile(join(folder, "model.safetensors"), writeSafetensors([]));
    await write("config.json", { model_type: "gpt2", eos_token_id: 1 });
    const found = async () => {
      using checkpoint = await openCheckpoint(folder);
      return checkpoint.config.eos_token_id;
    };
    assert.equal(await found(), 1);
    await write("generation_config.json", { eos_token_id: null });
    assert.equal(await found(), 1);
    await write("generation_config.json", { eos_token_id: [2, 3], temperature: 0.7 });
    assert.deepEqual(await found(), [2, 3]);
    await write("generation_config.json", { eos_token_id: "2" });
    await assert.rejects(
      found,
      failure(/generation_config\.json": "eos_token_id" is "2", expected a token's id, or a list of them$/),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("checkpoint: a tensor that is missing, of another shape or of an unreadable dtype", async () => {
  using checkpoint = await inMemory([
    { name: "h.0.attn.c_attn.weight", dtype: "F32", shape: [2, 3], data: new Float32Array(6) },
    { name: "mask", dtype: "BOOL", shape: [4], data: new Uint8Array(4) },
  ]);
  assert(checkpoint.has("mask") && !checkpoint.has("wte.weight"));
  await assert.rejects(
    checkpoint.read("wte.weight", [4, 2]),
    failure(
      /^Cannot load checkpoint "test.safetensors": tensor "wte.weight" is missing, expected shape \[4, 2\]$/,
    ),
  );
  const shapes: [number, number][] = [[2, 4], [3, 2]];
  for (const shape of shapes) {
    const message = failure(
      new RegExp(
        `^Cannot load checkpoint "test.safetensors": tensor "h.0.attn.c_attn.weight" has shape \\[2, 3\\], ` +
          `expected \\[${shape.join(", ")}\\]$`,
      ),
    );
    await assert.rejects(checkpoint.read("h.0.attn.c_attn.weight", shape), message);
    // at once, before a chunk is asked for
    assert.throws(() => checkpoint.rows("h.0.attn.c_attn.weight", shape), message);
    assert.throws(() => checkpoint.transposed("h.0.attn.c_attn.weight", shape), message);
  }
  await assert.rejects(
    checkpoint.read("h.0.attn.c_attn.weight", [2, 3, 1]),
    failure(/expected \[2, 3, 1\]$/),
  );
  await assert.rejects(
    checkpoint.read("mask", [4]),
    failure(/tensor "mask" has dtype BOOL, expected one of F32, F16, /),
  );
  assert.deepEqual(await checkpoint.read("h.0.attn.c_attn.weight", [2, 3]), new Float32Array(6)); // none the worse
});

Deno.test("checkpoint: large matrices stream, straight and transposed, in bounded pieces", async () => {
  const rows = 1501, columns = 3001; // 18 MB as f32: several chunks either way, none of them even
  const data = Float16Array.from({ length: rows * columns }, (_, i) => i % 2039);
  const source = counted(writeSafetensors([{ name: "w", dtype: "F16", shape: [rows, columns], data }]));
  using checkpoint = new Checkpoint("test", {}, [await Safetensors.open(source, "w.safetensors")]);

  source.requests.length = 0;
  let row = 0, chunks = 0;
  for await (const chunk of checkpoint.rows("w", [rows, columns])) {
    assert(chunk.byteLength <= CHUNK_BYTES && chunk.length % columns === 0);
    for (let i = 0; i < chunk.length; i++) {
      if (chunk[i] !== (row * columns + i) % 2039) assert.fail(`row ${row}, entry ${i}: ${chunk[i]}`);
    }
    row += chunk.length / columns;
    chunks++;
  }
  assert.equal(row, rows);
  assert(chunks > 4);
  assert.equal(source.requests.reduce((sum, n) => sum + n, 0), data.byteLength, "each byte is read once");
  assert(Math.max(...source.requests) <= CHUNK_BYTES);

  source.requests.length = 0;
  let column = 0, bands = 0;
  for await (const chunk of checkpoint.transposed("w", [rows, columns])) {
    assert(chunk.byteLength <= TRANSPOSED_BYTES && chunk.length % rows === 0);
    for (let i = 0; i < chunk.length; i++) {
      const c = column + Math.floor(i / rows), r = i % rows;
      if (chunk[i] !== (r * columns + c) % 2039) assert.fail(`column ${c}, row ${r}: ${chunk[i]}`);
    }
    column += chunk.length / rows;
    bands++;
  }
  assert.equal(column, columns);
  assert(bands > 1);
  assert.equal(source.requests.reduce((sum, n) => sum + n, 0), bands * data.byteLength);
  assert(Math.max(...source.requests) <= CHUNK_BYTES);

  // two at once do not share a buffer
  const pair = [checkpoint.rows("w", [rows, columns]), checkpoint.rows("w", [rows, columns])];
  for (let first = 0, step = 0; first < 3 * step || step === 0; first += step) {
    const chunks = await Promise.all(pair.map((generator) => generator.next()));
    for (const { value } of chunks) {
      step = value!.length;
      assert.deepEqual([value![0], value![step - 1]], [first % 2039, (first + step - 1) % 2039]);
    }
  }
  for (const generator of pair) await generator.return(undefined);

  const whole = await checkpoint.read("w", [rows, columns]);
  assert.equal(whole[rows * columns - 1], (rows * columns - 1) % 2039);
  assert(Math.max(...source.requests) <= CHUNK_BYTES);
});

Deno.test("checkpoint: int8 matrices are read as what they stand for", async () => {
  const q = new Int8Array([1, -2, 3, 4, 5, -127]); // [2, 3]
  const tensor = (name: string): TensorData => ({ name, dtype: "I8", shape: [2, 3], data: q });
  const scale = (name: string, shape: number[], values: number[]): TensorData => ({
    name: `${name}.scale`,
    dtype: "F32",
    shape,
    data: new Float32Array(values),
  });
  using checkpoint = await inMemory([
    scale("byRow", [2, 1], [0.5, 2]),
    scale("byColumn", [1, 3], [0.5, 2, -1]),
    scale("wrong", [3, 1], [1, 1, 1]),
    ...["byRow", "byColumn", "wrong", "bare"].map(tensor),
  ]);
  const expected: Record<string, number[]> = {
    byRow: [0.5, -1, 1.5, 8, 10, -254],
    byColumn: [0.5, -4, -3, 2, 10, 127],
  };
  for (const [name, values] of Object.entries(expected)) {
    assert.deepEqual([...await checkpoint.read(name, [2, 3])], values);
    assert.deepEqual([...await joined(checkpoint.rows(name, [2, 3]))], values);
    assert.deepEqual(
      [...await joined(checkpoint.transposed(name, [2, 3]))],
      [0, 3, 1, 4, 2, 5].map((i) => values[i]),
    );
  }
  await assert.rejects(
    checkpoint.read("wrong", [2, 3]),
    failure(/tensor "wrong.scale" has shape \[3, 1\], expected \[2, 1\] or \[1, 3\]$/),
  );
  assert.deepEqual([...await checkpoint.read("bare", [2, 3])], [...q]);
  // of several chunks
  const rows = 900, columns = 700;
  using large = await inMemory([
    { name: "w", dtype: "I8", shape: [rows, columns], data: new Int8Array(rows * columns).fill(3) },
    scale("w", [rows, 1], Array.from({ length: rows }, (_, r) => r)),
  ]);
  const chunks = await Array.fromAsync(large.rows("w", [rows, columns]), (chunk) => chunk.slice());
  assert(chunks.length > 1);
  const firsts = chunks.flatMap((chunk) => [...chunk.filter((_, i) => i % columns === 0)]);
  assert.deepEqual(firsts, Array.from({ length: rows }, (_, r) => 3 * r));
  for (const refuse of [() => checkpoint.rows("bare", [2, 3]), () => checkpoint.transposed("bare", [2, 3])]) {
    assert.throws(
      refuse,
      failure(
        /"bare" has dtype I8, expected one of F32, F16, BF16, F64, or I8 beside a tensor "bare.scale"$/,
      ),
    );
  }
});

Deno.test("openCheckpoint: one file, compressed, or shards with an index", async () => {
  const y = writeSafetensors([{ name: "y", dtype: "F16", shape: [1], data: new Float16Array([7]) }]);
  const layouts: Record<string, string | Uint8Array>[] = [
    { "model.safetensors": SMALL, "model.safetensors.index.json": "ignored", "pytorch_model.bin": "ignored" },
    { "model.safetensors.gz": gzipSync(SMALL) },
    {
      "a.safetensors": SMALL,
      "b.safetensors": y,
      "model.safetensors.index.json": '{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}',
    },
  ];
  for (const files of layouts) {
    await withFolder({ "config.json": '{"model_type": "gpt2"}', ...files }, async (folder) => {
      for (const location of [folder, new URL(`file://${folder}/`)]) {
        using checkpoint = await openCheckpoint(location);
        assert.equal(checkpoint.config.model_type, "gpt2");
        assert(checkpoint.origin.startsWith(folder));
        assert.deepEqual([...await checkpoint.read("x", [2])], [1, 2]);
        if (checkpoint.has("y")) assert.deepEqual([...await checkpoint.read("y", [1])], [7]);
        assert.equal(checkpoint.has("y"), "b.safetensors" in files);
      }
    });
  }
});

Deno.test("openCheckpoint: what is not a checkpoint, and why", async () => {
  const index = (map: string) => ({ "a.safetensors": SMALL, "model.safetensors.index.json": map });
  const POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
  const shard = (file: string) => index(`{"weight_map": {"x": ${JSON.stringify(file)}}}`);
  const cases: [Record<string, string | Uint8Array>, RegExp][] = [
    [{ "config.json": "" }, /config.json": it is not valid JSON/],
    [{ "config.json": "[1]" }, /config.json": it is not a JSON object$/],
    [{}, /it has none of the files "model.safetensors", .*, "pytorch_model.bin.index.json"$/],
    [{ "pytorch_model.bin": "" }, /pytorch_model.bin": it is not a whole zip archive$/],
    [
      { "model.safetensors": SMALL.subarray(0, 100) },
      /model.safetensors": the file has 100 bytes, expected 104: tensor "x" is cut off; fetch or copy the file again$/,
    ],
    [
      { "model.safetensors.gz": gzipSync(SMALL).subarray(0, 60) },
      /model.safetensors.gz": it is not a whole gzip file/,
    ],
    [
      { "model.safetensors": POINTER },
      /model.safetensors": it is a pointer of Git LFS, .* run git lfs pull in/,
    ],
    [{ "pytorch_model.bin": POINTER }, /pytorch_model.bin": it is a pointer of Git LFS/],
    [{ "model.safetensors.gz": SMALL }, /model.safetensors.gz": it is not a whole gzip file/],
    [index("{}"), /index.json": it has no "weight_map" object$/],
    [
      shard("../a.safetensors"),
      /tensor "x" is in "..\/a.safetensors", expected the name of a safetensors or bin file$/,
    ],
    [shard("/a.safetensors"), /expected the name of a safetensors or bin file$/],
    [shard("..\\a.safetensors"), /expected the name of a safetensors or bin file$/],
    [shard("a\0.safetensors"), /expected the name of a safetensors or bin file$/],
    [shard("pytorch_model.pt"), /expected the name of a safetensors or bin file$/],
    [index('{"weight_map": {"x": 3}}'), /tensor "x" is in 3, expected the name/],
    [shard("b.safetensors"), /shard "b.safetensors" is missing$/],
    [index('{"weight_map": {"z": "a.safetensors"}}'), /tensor "z" is missing from shard "a.safetensors"$/],
    [
      {
        ...index('{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}'),
        "b.safetensors": writeSafetensors([
          { name: "y", dtype: "I8", shape: [1], data: new Int8Array(1) },
          { name: "x", dtype: "I8", shape: [1], data: new Int8Array(1) },
        ]),
      },
      /tensor "x" is in ".*a.safetensors" and in ".*b.safetensors"$/,
    ],
  ];
  for (const [files, message] of cases) {
    await withFolder(
      { "config.json": "{}", ...files },
      (folder) => assert.rejects(openCheckpoint(folder), failure(message)),
    );
  }
  for (const url of ["https://example.org/gpt2", new URL("https://example.org/gpt2")]) {
    await assert.rejects(openCheckpoint(url), {
      name: "TypeError",
      message:
        /^Cannot load "https:\/\/example.org\/gpt2": it is no place on this machine, expected a path, or/,
    });
  }
  await withFolder({ "model.safetensors": SMALL, "config.json": "{}" }, async (folder) => {
    using checkpoint = await openCheckpoint(pathToFileURL(folder).href);
    assert.equal(checkpoint.origin, folder);
  });
  await withFolder({ "model.safetensors": SMALL }, async (folder) => {
    await assert.rejects(openCheckpoint(folder), failure(/it has no file "config.json"$/));
    await assert.rejects(
      openCheckpoint(join(folder, "none")),
      failure(/there is no such folder, expected one, or the name of a model on a hub as owner\/name$/),
    );
    await assert.rejects(
      openCheckpoint(join(folder, "model.safetensors")),
      failure(/it is not a folder, expected one, or the name/),
    );
    await assert.rejects(
      openCheckpoint(join(folder, "model.safetensors", "x")),
      failure(/there is no such folder, expected one, or the name of a model on a hub as owner\/name$/),
    );
  });
});

Deno.test({
  name: "openCheckpoint: what never ends is no file",
  ignore: Deno.build.os === "windows",
  async fn() {
    const cases: [file: string, message: RegExp][] = [
      ["config.json", /it has no file "config.json"$/],
      ["model.safetensors", /it has none of the files "model.safetensors", /],
    ];
    for (const [endless, message] of cases) {
      await withFolder({ "config.json": "{}", "model.safetensors": SMALL }, async (folder) => {
        await Deno.remove(join(folder, endless));
        await Deno.symlink("/dev/zero", join(folder, endless));
        await assert.rejects(openCheckpoint(folder), failure(message));
      });
    }
  },
});

Deno.test({
  name: "openCheckpoint: what the system refuses is said with its path",
  ignore: Deno.build.os === "windows",
  async fn() {
    await withFolder({}, async (folder) => {
      const loop = join(folder, "loop"), long = join(folder, "x".repeat(300));
      await Deno.symlink(loop, loop);
      for (const path of [loop, long]) {
        await assert.rejects(
          openCheckpoint(path),
          (error: Error) => error.message.startsWith(`Cannot read "${path}": `),
        );
      }
    });
  },
});

Deno.test({
  name: "openCheckpoint: a missing permission is named",
  permissions: { read: false },
  async fn() {
    await assert.rejects(openCheckpoint("models/gpt2"), (error: unknown) => {
      assert(error instanceof Deno.errors.NotCapable);
      assert.equal(
        error.message,
        'Cannot read "models/gpt2": permission to read it is missing; run with --allow-read="models/gpt2"',
      );
      return true;
    });
  },
});

Deno.test("fixtures: the embedded pair opens, is stored as documented, and keeps to its size", async () => {
  const pair = new URL("../fixtures/pair/", import.meta.url);
  let size = 0;
  for (
    const folder of [pair, ...[
      "target",
      "drafter-sedd-target",
      "drafter-sedd-causal",
      "drafter-sedd",
      "drafter-gpt2",
    ]]
  ) {
    const url = folder instanceof URL ? folder : new URL(`${folder}/`, pair);
    for await (const { name, isFile } of Deno.readDir(url)) {
      if (isFile) size += (await Deno.stat(new URL(name, url))).size;
    }
  }
  assert(size <= 30_000_000, `${size} bytes`);

  using target = await openCheckpoint(new URL("target/", pair));
  assert(target.tensors().every(({ dtype }) => dtype === "F16"));
  // reads that overlap are one file's business, and come out as if they did not
  using drafter = await openCheckpoint(new URL("drafter-sedd/", pair));
  const some = drafter.tensors().slice(-8);
  const together = await Promise.all(some.map(({ name, shape }) => drafter.read(name, shape)));
  for (const [i, { name, shape }] of some.entries()) {
    assert.deepEqual(together[i], await drafter.read(name, shape));
  }
  for (const name of ["drafter-sedd-target", "drafter-sedd-causal", "drafter-sedd", "drafter-gpt2"]) {
    using drafter = await openCheckpoint(new URL(`${name}/`, pair));
    for (const { name, dtype, shape } of drafter.tensors()) {
      if (name.endsWith(".scale")) continue;
      assert.equal(dtype === "I8", shape.length === 2, name);
      assert.equal(drafter.has(`${name}.scale`), dtype === "I8", name);
    }
  }
});
