/**
 * The CPU kernels relative to the limits of the machine, as medians of ratios turn by turn. Cores and memory are shared
 * with other processes, so absolute figures vary from minute to minute, and ratios much less.
 *
 * Part of `deno task bench`. Needs about 1 GiB of memory.
 *
 * @module
 */

import type { Activation, Backend, Cache, Dtype, Matrix } from "../src/backend/backend.ts";
import { createWasmBackend } from "../src/backend/wasm/backend.ts";
import { relaxed, reservedPages } from "../src/backend/wasm/kernels.generated.ts";
import { Heap } from "../src/backend/wasm/memory.ts";
import { type Pool, startPool } from "../src/backend/wasm/pool.ts";
import type { CausalModel } from "../src/model/model.ts";
import { madeUpText } from "../tools/shapes.ts";
import { into, over, perTurn, type Spread, spreadOf } from "./spread.ts";

/** Random weights. Their values do not matter, as long as they are not denormal. */
const noise = Float32Array.from({ length: 1 << 20 }, () => (Math.random() - 0.5) * 0.2);

/** Rows of noise that fill a matrix. */
function* noiseRows(outputs: number, inputs: number): Generator<Float32Array> {
  const most = Math.floor(noise.length / inputs);
  for (let row = 0; row < outputs; row += most) {
    yield noise.subarray(0, Math.min(most, outputs - row) * inputs);
  }
}

/** A matrix of noise. */
export function noiseMatrix(
  backend: Backend,
  outputs: number,
  inputs: number,
  dtype: Dtype,
  anyOrder: boolean = false,
): Promise<Matrix> {
  return backend.matrix({ outputs, inputs, dtype, anyOrder }, noiseRows(outputs, inputs));
}

/** An activation of noise. */
export function noiseActivation(backend: Backend, rows: number, columns: number): Activation {
  const activation = backend.activation(rows, columns);
  activation.write(noise.subarray(0, rows * columns));
  return activation;
}

/**
 * Milliseconds of several interleaved tasks, one per turn each, so that a disturbance affects all of them.
 *
 * @param before run before each task, without timing
 */
export function takeTurns<K extends string>(
  turns: number,
  tasks: Record<K, () => void>,
  before: Partial<Record<K, () => void>> = {},
): Record<K, readonly number[]> {
  const names = Object.keys(tasks) as K[];
  const times = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<K, number[]>;
  for (let turn = -2; turn < turns; turn++) { // two to warm up
    for (const name of names) {
      before[name]?.();
      const start = performance.now();
      tasks[name]();
      if (turn >= 0) times[name].push(performance.now() - start);
    }
  }
  return times;
}

/** A separate pool for the probes, with `bytes` of zeros to read. */
async function openProbe(threads: number, bytes: number): Promise<{ pool: Pool; data: number } & Disposable> {
  const heap = new Heap(reservedPages);
  const pool = await startPool(heap, await WebAssembly.compile(Uint8Array.fromBase64(relaxed)), threads);
  const data = heap.allocateZeroed(bytes);
  pool.reserveScratch(4096);
  return { pool, data, [Symbol.dispose]: () => pool.dispose() };
}

/** The operations of a pass of GPT-2 124M, with random weights. */
export class Gpt2Shape implements Disposable {
  static readonly layers = 12;
  static readonly width = 768;
  static readonly heads = 12;
  static readonly vocabSize = 50257;
  readonly #backend: Backend;
  readonly #matrices: Record<"qkv" | "out" | "up" | "down", Matrix>[] = [];
  #table!: Matrix;

  private constructor(backend: Backend) {
    this.#backend = backend;
  }

  /** Uploads the weights. */
  static async open(backend: Backend, dtype: Dtype): Promise<Gpt2Shape> {
    const shape = new Gpt2Shape(backend), width = Gpt2Shape.width;
    const matrix = (outputs: number, inputs: number) => noiseMatrix(backend, outputs, inputs, dtype);
    for (let layer = 0; layer < Gpt2Shape.layers; layer++) {
      shape.#matrices.push({
        qkv: await matrix(3 * width, width),
        out: await matrix(width, width),
        up: await matrix(4 * width, width),
        down: await matrix(width, 4 * width),
      });
    }
    shape.#table = await matrix(Gpt2Shape.vocabSize, width);
    return shape;
  }

  /** Bytes of weights that a pass reads. */
  get bytes(): number {
    return this.#matrices.reduce(
      (sum, { qkv, out, up, down }) => sum + qkv.bytes + out.bytes + up.bytes + down.bytes,
      this.#table.bytes,
    );
  }

  /** A pass over `rows` rows after `context` positions, head included on every row. */
  pass(rows: number, context: number): () => void {
    const backend = this.#backend, { width, heads, layers, vocabSize } = Gpt2Shape;
    const cache = backend.cache({ layers, width, capacity: context + rows });
    cache.advance(context);
    const x = noiseActivation(backend, rows, width), qkv = backend.activation(rows, 3 * width);
    const mixed = backend.activation(rows, width), hidden = backend.activation(rows, 4 * width);
    const logits = backend.activation(rows, vocabSize), tokens = backend.tokens(rows);
    const norm = { gain: backend.vector(new Float32Array(width).fill(1)), epsilon: 1e-5 };
    return () => {
      backend.embed(x, { tokens, table: this.#table, cache });
      for (const [layer, { qkv: project, out, up, down }] of this.#matrices.entries()) {
        backend.project(qkv, x, { norm, matrix: project });
        backend.attention(mixed, qkv, { cache, layer, heads, scale: 0.125, causalRows: rows });
        backend.projectResidual(x, mixed, { matrix: out });
        backend.project(hidden, x, { norm, matrix: up, activation: "gelu" });
        backend.projectResidual(x, hidden, { matrix: down });
      }
      backend.project(logits, x, { norm, matrix: this.#table });
    };
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    for (const layer of this.#matrices) for (const matrix of Object.values(layer)) matrix[Symbol.dispose]();
    this.#table[Symbol.dispose]();
  }
}

/**
 * Fills an empty cache with a made-up text of `context` tokens, and returns passes after it, with logits of all rows.
 */
export function modelPasses(model: CausalModel, cache: Cache, context: number): (rows: number) => () => void {
  const text = madeUpText(context, model.shape.vocabSize);
  model.forward(text, cache);
  return (rows) => () => {
    cache.truncate(context);
    model.forward(text.slice(0, rows), cache, { headRows: rows });
  };
}

/** A measured figure. */
export interface Figure extends Spread {
  /** What it is. */
  readonly what: string;
  /** Its unit; of `%`, the value is a share of 1. */
  readonly unit: "×" | "%" | "GFLOPS" | "GB/s" | "ms";
  /** The aim. Figures with an aim are in the README. */
  readonly aim?: string | undefined;
  /** Whether it is in the README without an aim. */
  readonly told?: boolean | undefined;
}

/** Figures of one run. */
export interface Section {
  /** The subject of the figures. */
  readonly title: string;
  readonly figures: readonly Figure[];
}

/** Aims for passes of GPT-2 124M's shape over several rows, relative to one row, by dtype and rows. */
export const PASS_AIMS: Partial<Record<Dtype, Record<number, string>>> = {
  f32: { 4: "≤ 1.3 ×", 9: "≤ 2 ×" },
  int8: { 4: "≤ 1.3 ×", 9: "≤ 2 ×" },
};

/** f32 GEMM relative to the multiply-add peak, int8 to f32, several threads to one. */
export async function gemm(threads: number): Promise<Section> {
  const rows = 60, outputs = 3072, inputs = 768, flops = 2 * rows * outputs * inputs;
  using probe = await openProbe(1, 128);
  using one = await createWasmBackend({ threads: 1 });
  using many = await createWasmBackend({ threads });
  const task = async (backend: Backend, dtype: Dtype) => {
    const matrix = await noiseMatrix(backend, outputs, inputs, dtype);
    const x = noiseActivation(backend, rows, inputs), out = backend.activation(rows, outputs);
    return () => backend.project(out, x, { matrix });
  };
  const blocks = 3000, peakFlops = blocks * 1000 * 12 * 8;
  const manyF32 = await task(many, "f32"), manyInt8 = await task(many, "int8");
  // threads sleep during the other tasks, and waking one can take longer than the task itself
  const time = takeTurns(41, {
    peak: () => probe.pool.run("probe_madd", [probe.data], blocks, 1e9),
    dots: () => probe.pool.run("probe_dot", [probe.data], blocks, 1e9),
    f32: await task(one, "f32"),
    f16: await task(one, "f16"),
    bf16: await task(one, "bf16"),
    int8: await task(one, "int8"),
    manyF32,
    manyInt8,
  }, { manyF32, manyInt8 });
  const faster = (than: keyof typeof time, of: keyof typeof time) => perTurn(time[than], time[of]);
  return {
    title: `GEMM ${rows}×${outputs}×${inputs}, packed, one thread`,
    figures: [
      {
        what: "f32 multiply-add peak of the core, 128 bits",
        ...into(peakFlops / 1e6, spreadOf(time.peak)),
        unit: "GFLOPS",
      },
      {
        what: "f32 rate / that peak",
        ...over(faster("peak", "f32"), peakFlops / flops),
        unit: "%",
        aim: "≥ 70 %",
      },
      // 16 products of bytes for every 4 of f32 that one vector holds
      {
        what: "int8 peak / f32 peak (near 4 with VNNI, 2 without)",
        ...over(faster("peak", "dots"), 1 / 4),
        unit: "×",
      },
      { what: "int8 rate / f32 rate", ...faster("f32", "int8"), unit: "×", aim: "≥ 3 ×" },
      { what: "f16 rate / f32 rate", ...faster("f32", "f16"), unit: "×" },
      { what: "bf16 rate / f32 rate", ...faster("f32", "bf16"), unit: "×" },
      {
        what: `f32, ${threads} threads / 1 thread`,
        ...faster("f32", "manyF32"),
        unit: "×",
        aim: "≥ 1.6 ×",
      },
      { what: `int8, ${threads} threads / 1 thread`, ...faster("int8", "manyInt8"), unit: "×" },
    ],
  };
}

/** Passes of GPT-2's shape relative to memory bandwidth and to one another. */
export async function gpt2(threads: number, dtype: Dtype): Promise<Section> {
  const bytes = 512 * 2 ** 20, context = 128;
  using probe = await openProbe(threads, bytes);
  using backend = await createWasmBackend({ threads });
  using model = await Gpt2Shape.open(backend, dtype);
  const time = takeTurns(15, {
    read: () => probe.pool.run("probe_read", [probe.data], bytes / 65536, 1e6),
    places: () => probe.pool.run("probe_read_places", [probe.data], bytes / 65536, 1e6),
    1: model.pass(1, context),
    2: model.pass(2, context),
    4: model.pass(4, context),
    8: model.pass(8, context),
    9: model.pass(9, context),
  });
  // the faster way of reading is the memory's bandwidth
  const read = [time.read, time.places].sort((a, b) => spreadOf(a).value - spreadOf(b).value)[0];
  const aims: Partial<Record<number, string>> = {
    ...PASS_AIMS[dtype],
    ...dtype === "f32" ? { 8: "≤ 2.2 ×" } : {},
  };
  return {
    title: `GPT-2 124M shape, ${dtype}, context ${context}, ${threads} threads`,
    figures: [
      { what: "read bandwidth of the memory", ...into(bytes / 1e6, spreadOf(read)), unit: "GB/s" },
      {
        what: "one-token pass: weight bytes over time / bandwidth",
        ...over(perTurn(read, time[1]), bytes / model.bytes),
        unit: "%",
        aim: dtype === "f32" ? "≥ 75 %" : undefined,
      },
      ...([2, 4, 8, 9] as const).map((rows): Figure => ({
        what: `${rows}-row pass / one-token pass`,
        ...perTurn(time[rows], time[1]),
        unit: "×",
        aim: aims[rows],
      })),
    ],
  };
}
