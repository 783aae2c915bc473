/**
 * The kernels of a layer one by one, by the device's own clock: each shape of GPT-2 XL over more copies than the
 * cache of the device holds, enqueued as one pass, for a single row, a short draft and a long one.
 *
 * @module
 */

import type { Cache, Matrix } from "../../src/backend/backend.ts";
import { noiseActivation, noiseMatrix } from "../kernels.ts";
import type { Table } from "./report.ts";
import type { Shapes } from "../../tools/shapes.ts";
import { median, passTime, type WatchedBackend } from "./watched.ts";

/** Bytes of copies of a matrix, beyond every L2; less where shapes are tiny. */
const COPIES = 256e6;

/** Microseconds per kernel and bytes per second, for 1, 8 and 48 rows. */
export async function kernels(backend: WatchedBackend, shapes: Shapes): Promise<Table[]> {
  const { layers, width, heads, vocabSize } = shapes.xl, { context } = shapes;
  const counts = [1, 8, shapes.verifyRows];
  const rows: (string | number)[][] = [];
  using cache = backend.cache({ layers, width, capacity: context + shapes.verifyRows, halfHeads: heads });
  fill(backend, cache, heads, context);
  using gain = backend.vector(new Float32Array(width).fill(1));
  const norm = { gain, shift: gain, epsilon: 1e-5 };

  /** Adds a row of the table: `one` enqueues the ith of `copies` kernels, each of which reads `bytes`. */
  const measure = (what: string, copies: number, bytes: number, one: (rows: number, i: number) => void) => {
    const cells = counts.flatMap((count) => {
      const ms = passTime(backend, () => {
        backend.repeat({ cache, rows: count, key: what }, () => {
          for (let i = 0; i < copies; i++) one(count, i);
        });
      }) / copies;
      return [(ms * 1e3).toFixed(2), (bytes / ms / 1e6).toFixed(0)];
    });
    rows.push([what, (bytes / 1e6).toFixed(1), ...cells]);
  };

  const most = shapes.verifyRows;
  using x = noiseActivation(backend, most, width), inner = noiseActivation(backend, most, 4 * width);
  using qkv = noiseActivation(backend, most, 3 * width), attended = noiseActivation(backend, most, width);
  using mixed = backend.activation(most, width), logits = backend.activation(most, vocabSize);
  const matrices = async (outputs: number, inputs: number): Promise<Matrix[]> => {
    const first = await noiseMatrix(backend, outputs, inputs, "f16");
    const count = Math.max(2, Math.min(48, Math.ceil(COPIES / Math.max(first.bytes, COPIES / 48))));
    const rest = Array.from({ length: count - 1 }, () => noiseMatrix(backend, outputs, inputs, "f16"));
    return [first, ...await Promise.all(rest)];
  };
  const project = async (
    what: string,
    outputs: number,
    inputs: number,
    one: (rows: number, matrix: Matrix) => void,
  ) => {
    const all = await matrices(outputs, inputs);
    measure(what, all.length, all[0].bytes, (count, i) => one(count, all[i]));
    for (const matrix of all) matrix[Symbol.dispose]();
  };
  await project(`norm, ${width} → ${3 * width}`, 3 * width, width, (n, matrix) => {
    backend.project(qkv.slice(0, n), x.slice(0, n), { norm, matrix });
  });
  // keys and values of so many positions, as the backend holds them
  measure(`attention, context ${context}`, layers, 2 * (context + 1) * width * 2, (n, layer) => {
    const options = { cache, layer, heads, scale: 0.125, causalRows: n };
    backend.attention(mixed.slice(0, n), qkv.slice(0, n), options);
  });
  await project(`${width} → ${width}, residual`, width, width, (n, matrix) => {
    backend.projectResidual(x.slice(0, n), attended.slice(0, n), { matrix });
  });
  await project(`norm, ${width} → ${4 * width}, GELU`, 4 * width, width, (n, matrix) => {
    backend.project(inner.slice(0, n), x.slice(0, n), { norm, matrix, activation: "gelu" });
  });
  await project(`${4 * width} → ${width}, residual`, width, 4 * width, (n, matrix) => {
    backend.projectResidual(x.slice(0, n), inner.slice(0, n), { matrix });
  });
  await project(`norm, ${width} → ${vocabSize}`, vocabSize, width, (n, matrix) => {
    backend.project(logits.slice(0, n), x.slice(0, n), { norm, matrix });
  });

  using law = backend.activation(most, vocabSize), drawn = backend.tokens(most);
  measure(
    "law of logits, from the device's cache",
    8,
    vocabSize * 4,
    (n) => backend.distribution(law.slice(0, n), logits.slice(0, n), {}),
  );
  measure("draw from a law, from the device's cache", 8, vocabSize * 4, (n) => {
    backend.sample(drawn, law.slice(0, n), { seed: 1n, purpose: 0, position: 0 });
  });
  using from = backend.activation(context, vocabSize), to = backend.activation(context, vocabSize);
  const copied = passTime(backend, () => backend.copy(to, from));
  return [{
    title:
      "Kernels of GPT-2 XL's shape in f16, consecutive in one launch: µs each, and GB/s of the bytes that one " +
      "row reads",
    columns: ["kernel", "MB", ...counts.flatMap((n) => [`${n} row${n > 1 ? "s" : ""}, µs`, "GB/s"])],
    rows,
  }, {
    title: "Memory",
    columns: ["what", "GB/s"],
    rows: [["copy, read and written", (8 * context * vocabSize / copied / 1e6).toFixed(0)]],
  }, await launches(backend)];
}

/** Appends `count` positions of noise. */
function fill(backend: WatchedBackend, cache: Cache, heads: number, count: number): void {
  using kv = noiseActivation(backend, Math.min(count, 128), 2 * cache.width);
  for (let left = count; left > 0; left -= kv.rows) {
    const some = kv.slice(0, Math.min(left, kv.rows));
    for (let layer = 0; layer < cache.layers; layer++) backend.append(some, { cache, layer, heads });
    cache.advance(some.rows);
  }
}

/** What a kernel costs that has nothing to do, and what a launch costs the host. */
async function launches(backend: WatchedBackend): Promise<Table> {
  const count = 1000;
  using matrix = await noiseMatrix(backend, 16, 16, "f16");
  using x = noiseActivation(backend, 1, 16), out = backend.activation(1, 16);
  using cache = backend.cache({ layers: 1, width: 16, capacity: 16 });
  const all = () => {
    for (let i = 0; i < count; i++) backend.project(out, x, { matrix });
  };
  const recorded = () => backend.repeat({ cache, rows: 1, key: "empty" }, all);
  const inGraph = passTime(backend, recorded), apart = passTime(backend, all);
  const hostTime = (body: () => void) => {
    return median(Array.from({ length: 11 }, () => {
      const began = performance.now();
      body();
      const ms = performance.now() - began;
      out.read();
      return ms;
    }));
  };
  const micro = (ms: number) => (1e3 * ms).toFixed(2);
  return {
    title: "Launches",
    columns: ["what", "µs"],
    rows: [
      ["device: kernel with nothing to do, in a graph", micro(inGraph / count)],
      ["the same, launched one by one: bound by the host", micro(apart / count)],
      ["host: launching a kernel", micro(hostTime(all) / count)],
      [`host: launching a graph of ${count} kernels`, micro(hostTime(recorded))],
    ],
  };
}
