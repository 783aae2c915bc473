/**
 * Checkpoints in gzip files: how much is inflated, in what order it can be read, and how much memory it takes.
 *
 * @module
 */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { writeRaw, writeSafetensors } from "../fixtures/write_safetensors.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { memorySource } from "../src/hub/files.ts";
import { gzipHead, GzipSource } from "../src/hub/gzip.ts";
import { dataStart, Safetensors, spansOf } from "../src/hub/safetensors.ts";
import { assertSame, failure, SMALL, withFolder } from "./helpers.ts";

Deno.test("a gzip file is inflated no further than its header says, and that must be credible", async () => {
  const bomb = gzipSync(new Uint8Array(64 << 20));
  const greedy = new Uint8Array(64);
  new DataView(greedy.buffer).setBigUint64(0, 7_900_000n, true);
  const vast = (bytes: number) =>
    writeRaw(`{"x": {"dtype": "I8", "shape": [${bytes}], "data_offsets": [0, ${bytes}]}}`, [
      new Uint8Array(9),
    ]);
  const cases: [Uint8Array, RegExp][] = [
    [gzipSync(new Uint8Array([...SMALL, ...new Uint8Array(1 << 20)])), /it goes on after its last tensor$/],
    [gzipSync(new Uint8Array([...SMALL, 0])), /it goes on after its last tensor$/],
    [bomb, /the header is not valid JSON/], // a header of no bytes
    [gzipSync(greedy), /the file has 64 bytes, expected at least 7900008 for its header$/],
    [gzipSync(vast(1 << 24)), /expected 167773\d+: tensor "x" is cut off; fetch or copy the file again$/],
    [gzipSync(vast(2 ** 40)), /tells of 109951162\d+ bytes, expected at most 32 times the \d+ of the file$/],
    [new Uint8Array(0), /it is not a whole gzip file \(unexpected end of file\); fetch or copy it again$/],
    [
      gzipSync(SMALL).subarray(0, -1),
      /it is not a whole gzip file \(unexpected end of file\); fetch or copy it again$/,
    ],
    [new Uint8Array([...gzipSync(SMALL), 7]), /it is not a whole gzip file \(/],
    [SMALL, /it is not a whole gzip file \(incorrect header check\); fetch/],
  ];
  for (const [bytes, message] of cases) {
    await withFolder({ "config.json": "{}", "model.safetensors.gz": bytes }, async (folder) => {
      await assert.rejects(openCheckpoint(folder), failure(message));
    });
  }
  await withFolder({ "x.gz": bomb }, async (folder) => {
    const head = await gzipHead(join(folder, "x.gz"), 100);
    assert.deepEqual([head.length, head.buffer.byteLength], [100, 100]);
  });
});

/** Bytes that gzip makes a few times fewer. */
function pattern(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = Math.imul(i >> 3, 0x9e3779b1) >>> 24;
  return bytes;
}

Deno.test("of a gzip file what is read in order is never in memory as a whole", async () => {
  const columns = 1 << 12, rows = 48 << 10, block = 16 << 20; // 192 MiB
  const header = JSON.stringify({
    x: { dtype: "F16", shape: [rows / 2, columns], data_offsets: [0, rows * columns] },
  });
  await withFolder(
    { "config.json": "{}", "model.safetensors.gz": gzipSync(writeRaw(header, [])) },
    async (folder) => {
      const part = gzipSync(pattern(block), { level: 1 });
      for (let at = 0; at < rows * columns; at += block) {
        await Deno.writeFile(join(folder, "model.safetensors.gz"), part, { append: true });
      }
      const before = Deno.memoryUsage().rss;
      using checkpoint = await openCheckpoint(folder);
      let most = 0, values = 0;
      for await (const chunk of checkpoint.rows("x", [rows / 2, columns])) {
        values += chunk.length;
        most = Math.max(most, Deno.memoryUsage().rss - before);
      }
      assert.equal(values, rows / 2 * columns);
      assert(most < 128 << 20, `${most} bytes more than before`);
    },
  );
});

Deno.test("a gzip file is read in any order, in whole tensors and in parts, and says so if it was changed", async () => {
  const columns = 1 << 12, large = 9 << 10; // rows of 36 MiB
  const parts: [string, number[]][] = [
    ["late", [3, 70_000]],
    ["none", [0]],
    ["small", [5]],
    ["large", [large, columns]],
    ["planes.planes", [2, 50, 2000]],
    ["last", [2, 80_000]],
  ];
  const tensors = parts.map(([name, shape]) => {
    const dtype = name.endsWith(".planes") ? "U8" : "I8", size = shape.reduce((n, axis) => n * axis);
    return { name, dtype, shape, data: pattern(size) };
  });
  const plain = writeSafetensors(tensors), half = plain.length >> 1;
  // in two parts, as gzip files may be
  const gzip = Buffer.concat(
    [plain.subarray(0, half), plain.subarray(half)].map((part) => gzipSync(part, { level: 1 })),
  );
  await withFolder({ "config.json": "{}", "model.safetensors.gz": gzip }, async (folder) => {
    using expected = await Safetensors.open(memorySource(plain), "plain");
    using found = await openCheckpoint(folder);
    const order = ["last", "small", "late", "planes", "last", "none", "late"];
    for (const name of order) {
      const tensor = expected.tensors.get(name)!,
        out = new Float32Array(tensor.shape.reduce((n, axis) => n * axis));
      await expected.read(tensor, 0, out);
      assertSame(await found.read(name, tensor.shape), out, name);
    }

    const spans = spansOf(plain.subarray(0, dataStart(plain, "plain")), "plain");
    const path = join(folder, "model.safetensors.gz");
    using source = await GzipSource.open(path, spans);
    const { start } = expected.tensors.get("large")!;
    const matches = async (from: number, count: number) => {
      const part = new Uint8Array(count);
      await source.read(part, start + from);
      assert(Buffer.from(plain.buffer, start + from, count).equals(part), `bytes from ${from} on`);
    };
    await matches(0, 1000);
    await matches(30 << 20, 1 << 20); // on, over what is not asked for
    await matches(1 << 20, 1 << 20); // and back
    await matches(0, 10);
    const changed = new Uint8Array(gzip.length); // to what ends early, with zeros behind it
    changed.set(gzipSync(SMALL));
    await Deno.writeFile(path, changed);
    await assert.rejects(
      source.read(new Uint8Array(9), expected.tensors.get("late")!.start),
      failure(/it ends at byte \d+, expected \d+: it has changed since it was opened$/),
    );
  });
});
