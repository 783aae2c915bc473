/**
 * Passes of many rows: products of a drafter's and a target's shapes, by the kernel for many rows, by the one for few
 * in pieces, and by cuBLAS, where that is there; and prefills in passes of several sizes. It is to decide from how many
 * rows on a kernel is worth it, and cuBLAS.
 *
 * @module
 */

import type { Activation } from "../../src/backend/backend.ts";
import type { CausalModel } from "../../src/model/model.ts";
import { noiseActivation, noiseMatrix } from "../kernels.ts";
import type { Table } from "./report.ts";
import { madeUpText, type Shapes } from "../../tools/shapes.ts";
import { passTime, WatchedBackend } from "./watched.ts";

/** As many rows as the kernel for few takes at once. */
const FEW = 64;

/** Consecutive products in one launch, whose weights stay in the device's cache. */
const REPEATS = 10;

/**
 * Products without norm, bias or residual, in f16, on a device: microseconds and arithmetic per second. For cuBLAS as
 * for our own kernels, this includes rounding the rows.
 */
export async function products(ordinal: number, shapes: Shapes): Promise<Table> {
  const { products, productRows } = shapes, rows: (string | number)[][] = [];
  using backend = new WatchedBackend(ordinal, shapes, { cublasRows: 1 });
  const { cublas } = backend;
  using cache = backend.cache({ layers: 1, width: 16, capacity: Math.max(...productRows) });
  for (const [inputs, outputs] of products) {
    using matrix = await noiseMatrix(backend, outputs, inputs, "f16");
    using anyOrder = await noiseMatrix(backend, outputs, inputs, "f16", true);
    const most = Math.max(...productRows);
    using x = backend.activation(most, inputs), out = backend.activation(most, outputs);
    using noise = noiseActivation(backend, Math.min(most, 64), inputs);
    for (let start = 0; start < most; start += noise.rows) {
      const count = Math.min(noise.rows, most - start);
      backend.copy(x.slice(start, count), noise.slice(0, count));
    }
    for (const count of productRows) {
      const time = (key: string, one: (out: Activation, x: Activation) => void) =>
        1e3 / REPEATS * passTime(backend, () => {
          backend.repeat({ cache, rows: count, key: `${key} ${inputs} ${outputs}` }, () => {
            for (let i = 0; i < REPEATS; i++) one(out.slice(0, count), x.slice(0, count));
          });
        });
      const whole = time("whole", (out, x) => backend.project(out, x, { matrix }));
      const pieces = time("pieces", (out, x) => {
        for (let start = 0; start < count; start += FEW) {
          const some = Math.min(FEW, count - start);
          backend.project(out.slice(start, some), x.slice(start, some), { matrix });
        }
      });
      const theirs = "problem" in cublas
        ? undefined
        : time("cuBLAS", (out, x) => backend.project(out, x, { matrix: anyOrder }));
      const rate = (micros: number) => (2e-6 * count * inputs * outputs / micros).toFixed(0);
      rows.push([
        `${count}`,
        `${inputs} → ${outputs}`,
        whole.toFixed(1),
        rate(whole),
        pieces.toFixed(1),
        ...theirs === undefined ? ["", ""] : [theirs.toFixed(1), rate(theirs)],
      ]);
    }
  }
  return {
    title: `Products of many rows in f16: as a whole, in pieces of ${FEW} rows, and by cuBLAS (${
      "problem" in cublas ? "not available" : cublas.version
    })`,
    columns: ["rows", "shape", "µs", "TFLOP/s", "in pieces, µs", "cuBLAS, µs", "TFLOP/s"],
    rows,
  };
}

/** A prompt of `shapes.prefill` tokens in passes of several sizes; the model must not cut them. */
export function prefills(backend: WatchedBackend, model: CausalModel, { prefill }: Shapes): Table {
  using cache = model.newCache(prefill);
  const tokens = madeUpText(prefill, model.shape.vocabSize);
  const sizes = [FEW, 128, 256, prefill].filter((size, i, all) => size <= prefill && all.indexOf(size) === i);
  return {
    title: `GPT-2 XL, f16: reading a prompt of ${prefill} tokens, by rows per pass`,
    columns: ["rows per pass", "ms", "tok/s"],
    rows: sizes.map((size) => {
      const ms = passTime(backend, () => {
        cache.truncate(0);
        for (let start = 0; start < prefill; start += size) {
          model.forward(tokens.subarray(start, start + size), cache);
        }
      });
      return [size, ms.toFixed(2), (1e3 * prefill / ms).toFixed(0)];
    }),
  };
}
