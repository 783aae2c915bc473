/**
 * The CPU backend: the contract over the kernels of `wasm/`, on all cores. It checks shapes, writes a job for each
 * stage and hands it to the pool; every operation is done when its method returns.
 *
 * Deliberately absent: arithmetic (that is in Rust) and knowledge of any model. Needs no permission.
 *
 * @module
 */

import type {
  Activation,
  AppendOptions,
  AttentionOptions,
  Backend,
  CacheOptions,
  EmbedOptions,
  Matrix,
  MatrixOptions,
  NoiseKey,
  ProjectOptions,
  ProjectResidualOptions,
  Sampling,
  TokenBuffer,
  Vector,
} from "../backend.ts";
import * as check from "../check.ts";
import { Growing } from "../buffers.ts";
import { formatBytes, matrixTooLarge, OutOfMemoryError } from "../out_of_memory.ts";
import { writeDistribution } from "../distribution.ts";
import { seedWords } from "../philox.ts";
import { plain, relaxed, reservedPages } from "./kernels.generated.ts";
import { Heap } from "./memory.ts";
import { bits, type Pool, startPool } from "./pool.ts";
import {
  Block,
  formats,
  GROUP_COLUMNS,
  packing,
  WasmActivation,
  WasmCache,
  WasmMatrix,
  WasmTokens,
  WasmVector,
} from "./tensors.ts";

/** Options of {@linkcode createWasmBackend}. */
export interface WasmOptions {
  /** How many threads work, the calling one included, 512 at most. Default: the machine's cores, if they are no more. */
  readonly threads?: number | undefined;
  /** Which build of the kernels. Default: `relaxed` where the runtime has relaxed SIMD, else `plain`. */
  readonly simd?: "relaxed" | "plain" | undefined;
}

/** About as many as the largest machines have cores. Each thread takes megabytes, and time to start. */
const MAX_THREADS = 512;

/** The operation after a projection, as the kernel numbers it. */
const STORE = 0, GELU = 1, ADD = 2;

/** With more than this in memory, little of a matrix is left in a cache from one pass to the next. */
const CACHED_BYTES = 2 ** 25;

/** Rows of one head that attend together, so that keys are used while they are in the nearest cache. At most 24. */
const ATTENTION_BLOCK = 24;

/**
 * Starts the CPU backend. Dispose it to end its threads: a program with live threads does not end by itself.
 * @throws {RangeError} if `threads` is not a positive integer, or more than 512
 * @throws {Error} if the runtime has no WebAssembly SIMD, or a thread does not start
 */
export async function createWasmBackend(options: WasmOptions = {}): Promise<Backend> {
  const { threads = Math.min(navigator.hardwareConcurrency, MAX_THREADS) } = options;
  check.checkSizes("start the WebAssembly backend", { threads });
  if (threads > MAX_THREADS) {
    throw new RangeError(
      `Cannot start the WebAssembly backend: threads is ${threads}, expected at most ${MAX_THREADS}`,
    );
  }
  const bytes = { relaxed: await decode(relaxed), plain: await decode(plain) };
  const simd = options.simd ?? (WebAssembly.validate(bytes.relaxed) ? "relaxed" : "plain");
  if (!WebAssembly.validate(bytes[simd])) {
    throw new Error(
      `Cannot start the WebAssembly backend: this runtime has no ${simd} SIMD with shared memory`,
    );
  }
  const heap = new Heap(reservedPages);
  const pool = await startPool(heap, await WebAssembly.compile(bytes[simd]), threads);
  return new WasmBackend(heap, pool, simd);
}

/** The bytes of a base64 text. */
async function decode(base64: string): Promise<Uint8Array<ArrayBuffer>> {
  if (Object.hasOwn(Uint8Array, "fromBase64")) return Uint8Array.fromBase64(base64);
  const { Buffer } = await import("node:buffer"); // Node has the other from version 25 on
  return Uint8Array.from(Buffer.from(base64, "base64"));
}

/** {@linkcode Backend} on the CPU. Made by {@linkcode createWasmBackend}. */
class WasmBackend implements Backend {
  /** @inheritdoc */
  readonly name = "wasm";
  /** @inheritdoc */
  readonly device = "wasm";
  /** @inheritdoc */
  readonly description: string;
  readonly #heap: Heap;
  readonly #pool: Pool;
  /** Rows on their way into a projection, by their size in bytes. */
  readonly #rows: Growing<Block>;

  /** @param simd which build of the kernels the pool runs, for people */
  constructor(heap: Heap, pool: Pool, simd: "relaxed" | "plain") {
    this.#heap = heap;
    this.#pool = pool;
    this.#rows = new Growing((bytes) => new Block(heap, bytes, "rows", false));
    const threads = pool.threads === 1 ? "1 thread" : `${pool.threads} threads`;
    this.description = `WebAssembly ${simd === "relaxed" ? "relaxed SIMD" : "SIMD"}, ${threads}`;
  }

  /** @inheritdoc */
  get room(): number {
    return this.#heap.limit - this.#heap.used;
  }

  /** @inheritdoc */
  bytesOf({ outputs, inputs, dtype }: MatrixOptions): number {
    return packing(outputs, inputs, dtype).bytes;
  }

  /** @inheritdoc */
  async matrix(
    shape: MatrixOptions,
    chunks: AsyncIterable<Float32Array> | Iterable<Float32Array>,
  ): Promise<Matrix> {
    const { outputs, inputs } = shape;
    check.checkMatrix(shape);
    this.#expectOpen();
    const matrix = this.#reserve(shape);
    try {
      // whole panels at a time, about a megabyte of them: enough to share among threads, little to hold
      const stage = Math.min(Math.ceil(outputs / 8), Math.max(1, Math.ceil(2 ** 18 / (8 * inputs)))) * 8;
      using staging = this.activation(stage, inputs); // [stage, inputs]
      let first = 0, held = 0;
      const flush = () => {
        this.#pack(matrix, staging, first, held);
        first += held;
        held = 0;
      };
      for await (const { rows, values } of check.checkedChunks(shape, chunks)) {
        for (let row = 0; row < rows;) {
          const count = Math.min(rows - row, stage - held);
          staging.slice(held, count).write(values.subarray(row * inputs, (row + count) * inputs));
          row += count;
          held += count;
          if (held === stage) flush();
        }
      }
      if (held > 0) flush();
    } catch (error) {
      matrix[Symbol.dispose]();
      throw error;
    }
    return matrix;
  }

  /** @inheritdoc */
  vector(values: Float32Array): Vector {
    this.#expectOpen();
    check.checkSizes("upload a vector", { length: values.length });
    return new WasmVector(this.#heap, values);
  }

  /** @inheritdoc */
  activation(rows: number, columns: number): WasmActivation {
    this.#expectOpen();
    check.checkSizes("allocate an activation", { rows, columns });
    return new WasmActivation(new Block(this.#heap, rows * columns * 4, "an activation"), 0, rows, columns);
  }

  /** @inheritdoc */
  tokens(capacity: number): TokenBuffer {
    this.#expectOpen();
    check.checkSizes("allocate a token buffer", { capacity });
    return new WasmTokens(new Block(this.#heap, capacity * 4, "a token buffer"), 0, capacity);
  }

  /** @inheritdoc */
  cache(options: CacheOptions): WasmCache {
    this.#expectOpen();
    check.checkCache(options);
    return new WasmCache(this.#heap, options);
  }

  /** @inheritdoc */
  embed(out: Activation, options: EmbedOptions): void {
    check.checkEmbed(out, options);
    const positions = options.positions && this.#own(WasmMatrix, options.positions);
    const { length } = this.#own(WasmCache, options.cache);
    this.#gather(out, undefined, options.table, options.tokens, positions, length);
  }

  /** @inheritdoc */
  multiplyEmbedding(
    out: Activation,
    x: Activation,
    options: { readonly table: Matrix; readonly tokens: TokenBuffer },
  ): void {
    check.checkMultiplyEmbedding(out, x, options);
    this.#gather(out, x, options.table, options.tokens, undefined, 0);
  }

  /** @inheritdoc */
  project(out: Activation, x: Activation, options: ProjectOptions): void {
    check.checkProject(out, x, options);
    this.#multiply(out, x, options, options.activation === "gelu" ? GELU : STORE);
  }

  /** @inheritdoc */
  projectResidual(x: Activation, u: Activation, options: ProjectResidualOptions): void {
    check.checkProjectResidual(x, u, options);
    this.#multiply(x, u, options, ADD);
  }

  /** @inheritdoc */
  append(kv: Activation, options: AppendOptions): void {
    check.checkAppend(kv, options);
    const { address } = this.#own(WasmActivation, kv), { width, length } = options.cache;
    for (let r = 0; r < kv.rows; r++) {
      // the kernel takes rows of q, k, v and does not read q: a row by itself may do without
      const qkv = address + (2 * r - 1) * width * 4;
      const job = this.#attentionJob(0, qkv, 1, length + r, { ...options, causalRows: 0, scale: 0 });
      this.#pool.run("append", job, options.heads, width / options.heads * 4);
    }
  }

  /** @inheritdoc */
  attention(out: Activation, qkv: Activation, options: AttentionOptions): void {
    check.checkAttention(out, qkv, options);
    const { cache, heads } = options;
    const rows = qkv.rows, size = cache.width / heads, end = cache.length + rows;
    const block = Math.min(rows, ATTENTION_BLOCK);
    const to = this.#own(WasmActivation, out).address, from = this.#own(WasmActivation, qkv).address;
    const job = this.#attentionJob(to, from, rows, cache.length, options);
    // one block appends by itself: a job less in every pass of few rows
    if (block < rows) this.#pool.run("append", job, heads, rows * size * 4);
    // scores [block, end padded to panels]; queries or their mixed values [block, size padded]; rows arranged
    const rowsOfFour = Math.ceil(block / 4) * 4;
    this.#pool.reserveScratch((block * (end + 16 + size + 8) + rowsOfFour * Math.max(end, size)) * 4);
    // a key costs its multiplications and a term of the softmax, which costs more
    this.#pool.run("attend", job, heads * Math.ceil(rows / block), block * end * (size * 2 + 512));
  }

  /** @inheritdoc */
  copy(out: Activation, x: Activation): void {
    check.checkCopy(out, x);
    const from = this.#own(WasmActivation, x).address / 4, to = this.#own(WasmActivation, out).address / 4;
    this.#heap.floats.copyWithin(to, from, from + x.rows * x.columns);
  }

  /** @inheritdoc */
  distribution(p: Activation, logits: Activation, sampling: Sampling): void {
    check.checkDistribution(p, logits, sampling);
    const { temperature = 1, topK = 0, topP = 1 } = sampling;
    const to = this.#own(WasmActivation, p), from = this.#own(WasmActivation, logits);
    const rows = p.rows, columns = p.columns;
    const plain = temperature > 0 && topP === 1 && (topK === 0 || topK >= columns);
    if (plain) {
      const job = [to.address, from.address, columns, logits.columns, bits(temperature)];
      this.#pool.run("softmax", job, rows, columns * 8);
    }
    for (let r = 0; r < rows; r++) {
      const row = to.slice(r, 1).read();
      // the kernel writes NaN where logits define no law; the shared function then throws the reason
      if (!plain || Number.isNaN(row[0])) writeDistribution(row, from.slice(r, 1).read(), sampling);
    }
  }

  /** @inheritdoc */
  sample(out: TokenBuffer, p: Activation, key: NoiseKey): void {
    check.checkSample(out, p);
    const tokens = this.#own(WasmTokens, out);
    const job = [
      tokens.address,
      this.#own(WasmActivation, p).address,
      p.columns,
      ...seedWords(key.seed),
      key.purpose,
      key.position,
    ];
    this.#pool.run("race", job, p.rows, p.columns * 8);
    if (tokens.read(p.rows).includes(-1)) throw new RangeError("Cannot draw a token: no weight is positive");
  }

  /** Ends the threads and lets go of the memory. Whatever came from this backend cannot be used any more. */
  [Symbol.dispose](): void {
    if (this.#heap.closed) return;
    this.#pool.dispose();
    this.#heap.close();
  }

  /** out = activation(norm(x)·Wᵀ + bias), or added to out. */
  #multiply(
    out: Activation,
    x: Activation,
    options: ProjectOptions & ProjectResidualOptions,
    then: number,
  ): void {
    const matrix = this.#own(WasmMatrix, options.matrix), { packing, dtype, inputs } = matrix;
    const rows = x.rows, quantised = dtype === "int8", norm = options.norm;
    let data = this.#own(WasmActivation, x).address, stride = inputs * 4, scales = 0;
    if (norm || quantised) {
      // normalised rows [rows, inputs] f32, scales [rows, 2] f32, quantised rows [rows, 4·steps] bytes
      const normed = this.#rows.atLeast(rows * (inputs * 4 + 8 + packing.steps * 4)).address;
      const bytes = normed + rows * (inputs * 4 + 8);
      scales = normed + rows * inputs * 4;
      const job = [
        data,
        norm ? normed : 0,
        quantised ? bytes : 0,
        scales,
        norm ? this.#own(WasmVector, norm.gain).address : 0,
        norm?.shift ? this.#own(WasmVector, norm.shift).address : 0,
        inputs,
        packing.steps * 4,
        bits(norm?.epsilon ?? 0),
      ];
      this.#pool.run("prepare", job, rows, inputs * 8);
      data = quantised ? bytes : normed;
      if (quantised) stride = packing.steps * 4;
    }
    const job = [
      this.#own(WasmActivation, out).address,
      data,
      matrix.address,
      matrix.scales,
      matrix.sums,
      scales,
      options.bias ? this.#own(WasmVector, options.bias).address : 0,
      options.gate ? this.#own(WasmVector, options.gate).address : 0,
      rows,
      matrix.outputs,
      packing.steps,
      stride,
      matrix.outputs * 4,
      formats[dtype],
      then,
      quantised && this.#heap.used > CACHED_BYTES ? 1 : 0,
    ];
    // raw sums of a group of columns; a group widened to f32; rows arranged, four at a time
    const arranged = Math.ceil(rows / 4) * 4 * packing.steps;
    this.#pool.reserveScratch(((rows + packing.steps) * GROUP_COLUMNS + arranged) * 4);
    // reading the weights costs as much as multiplying them by some four rows
    this.#pool.run(
      "project",
      job,
      Math.ceil(matrix.outputs / GROUP_COLUMNS),
      Math.max(4, rows) * inputs * GROUP_COLUMNS,
    );
  }

  /** The job of the kernels `append` and `attend`, for rows from position `start` on. */
  #attentionJob(
    out: number,
    qkv: number,
    rows: number,
    start: number,
    options: AttentionOptions,
  ): readonly number[] {
    const cache = this.#own(WasmCache, options.cache), { layer, heads } = options;
    return [
      out,
      qkv,
      cache.keys(layer),
      cache.values(layer),
      options.rotary ? this.#rotation(this.#own(WasmVector, options.rotary), cache.capacity) : 0,
      cache.paddedCapacity,
      heads,
      cache.width / heads,
      rows,
      start,
      options.causalRows,
      Math.min(options.window ?? 0, 2 ** 31),
      Math.min(rows, ATTENTION_BLOCK),
      bits(options.scale),
    ];
  }

  /** out = table[token] ⊙ x + positions[start + r] */
  #gather(
    out: Activation,
    x: Activation | undefined,
    table: Matrix,
    tokens: TokenBuffer,
    positions: WasmMatrix | undefined,
    start: number,
  ): void {
    const words = (matrix: WasmMatrix | undefined) =>
      matrix ? [matrix.address, matrix.scales, formats[matrix.dtype], matrix.packing.steps] : [0, 0, 0, 0];
    const ids = this.#own(WasmTokens, tokens);
    check.checkIds(ids.read(out.rows), table);
    const job = [
      this.#own(WasmActivation, out).address,
      x ? this.#own(WasmActivation, x).address : 0,
      ids.address,
      ...words(this.#own(WasmMatrix, table)),
      ...words(positions),
      start,
      out.columns,
    ];
    this.#pool.run("embed", job, out.rows, out.columns * 8);
  }

  /** A matrix without contents, or an error that says what would fit. */
  #reserve(options: MatrixOptions): WasmMatrix {
    try {
      return new WasmMatrix(this.#heap, options);
    } catch (cause) {
      if (!(cause instanceof OutOfMemoryError)) throw cause;
      const { used, limit } = this.#heap;
      const room = `${formatBytes(used)} of ${formatBytes(limit)} are in use`;
      throw matrixTooLarge(options, room, this, cause);
    }
  }

  /** Packs `count` rows that stand in `staging` as outputs `first` … of a matrix; `first` is a multiple of 8. */
  #pack(matrix: WasmMatrix, staging: WasmActivation, first: number, count: number): void {
    const { panelBytes, steps } = matrix.packing, last = first + count === matrix.outputs;
    // the last rows take the padding with them
    const panels = last ? matrix.packing.panels - first / 8 : count / 8;
    const job = [
      staging.address,
      matrix.address + first / 8 * panelBytes,
      matrix.scales + first * 4,
      matrix.sums + first * 4,
      count,
      matrix.inputs,
      steps,
      formats[matrix.dtype],
    ];
    this.#pool.run("pack", job, panels, matrix.inputs * 64);
  }

  /** The address of cosines and sines of the first positions, [positions, 2, D/2], made once. */
  #rotation(frequencies: WasmVector, positions: number): number {
    frequencies.rotation ??= new Growing((positions) => {
      const half = frequencies.length, angles = frequencies.values;
      const table = new Float32Array(positions * 2 * half);
      for (let position = 0; position < positions; position++) {
        for (let j = 0; j < half; j++) {
          table[position * 2 * half + j] = Math.cos(position * angles[j]);
          table[position * 2 * half + half + j] = Math.sin(position * angles[j]);
        }
      }
      return new WasmVector(this.#heap, table);
    });
    return frequencies.rotation.atLeast(positions).address;
  }

  /** `value` as one of this backend's own. */
  #own<T extends { readonly heap: Heap }>(kind: new (...args: never[]) => T, value: unknown): T {
    this.#expectOpen();
    if (value instanceof kind && value.heap === this.#heap) return value;
    throw check.notOwn(kind);
  }

  #expectOpen(): void {
    if (this.#heap.closed) throw new Error("Cannot use the WebAssembly backend: it is disposed");
  }
}
