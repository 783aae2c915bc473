/**
 * The GPU backend: the contract over the kernels of `ffi/kernels`. It checks shapes, chooses a kernel for each
 * stage and enqueues it; only reads wait. What a kernel finds wrong with its data, such as a logit that is not a
 * number, is thrown by the next read.
 *
 * Deliberately absent: arithmetic (that is in CUDA), knowledge of any model, and libraries beside the driver's.
 * Needs `--allow-ffi`.
 *
 * @module
 */

import { type CudaDevice, CudaDriver, CudaError } from "../../../ffi/driver.ts";
import type {
  Activation,
  AppendOptions,
  AttentionOptions,
  Backend,
  Cache,
  Dtype,
  EmbedOptions,
  Matrix,
  NoiseKey,
  ProjectOptions,
  ProjectResidualOptions,
  Sampling,
  TokenBuffer,
  Vector,
} from "../backend.ts";
import * as check from "../check.ts";
import { formatBytes, OutOfMemory } from "../wasm/memory.ts";
import { CudaDecisions } from "./decisions.ts";
import { dynamicShared, HALF_BLOCKS, Kernels, PANEL_ROWS } from "./kernels.ts";
import {
  CudaActivation,
  CudaCache,
  CudaMatrix,
  CudaTokens,
  CudaVector,
  formats,
  matrixBytes,
  ownOf,
  padded,
  panelOutputs,
  Queue,
} from "./tensors.ts";

/** Options of {@linkcode createCudaBackend}. */
export interface CudaOptions {
  /** Which device, from 0. Default 0. */
  readonly device?: number | undefined;
}

/**
 * Opens a GPU. Dispose it to free the device's memory.
 * @throws {LibraryNotFoundError} if the driver's library is not there, or no permission to load it
 * @throws {CudaError} if the driver or the device refuses
 * @throws {RangeError} if there is no such device
 */
export function createCudaBackend(options: CudaOptions = {}): CudaBackend {
  const device = new CudaDriver().device(options.device ?? 0);
  try {
    return new CudaBackend(device);
  } catch (error) {
    device[Symbol.dispose]();
    throw error;
  }
}

/** Addresses of what may be absent. */
const NONE = 0n;

/** Bytes of a matrix that are on their way to the device at a time; more if a row has more. */
const STAGING = 4 << 20;

/** What follows a projection, as `project.cu` numbers it. */
const STORE = 0, GELU = 1, ADD = 2;

// the sizes of `project.cu` and `attention.cu`
const PROJECT_THREADS = 256;
const ATTENTION_THREADS = 128;
const ATTENTION_TILE = 16;
const ATTENTION_KEYS = 64;
const LAW_THREADS = 1024;

/** As many rows split the cache over blocks; more have enough blocks without. */
const SPLIT_ROWS = 64;

/** Chunks of a cache are launched in whole numbers of these: 256 keys, so that a graph serves as many lengths. */
const CHUNKS = 4;

/** {@linkcode Backend} on a GPU. Made by {@linkcode createCudaBackend}. */
export class CudaBackend implements Backend {
  /** @inheritdoc */
  readonly name = "cuda";
  /** @inheritdoc */
  readonly slowReads = true;
  /** @inheritdoc */
  readonly description: string;
  readonly #device: CudaDevice;
  readonly #queue: Queue;
  readonly #kernels: Kernels;
  /** Whether a kernel may begin before the one ahead of it has ended. */
  readonly #dependent: boolean;
  /** @inheritdoc */
  readonly decisions: CudaDecisions;
  /** f32 memory that lives for one operation, by its use. */
  readonly #scratch = new Map<string, CudaActivation>();

  /** On a device, which it disposes of. */
  constructor(device: CudaDevice) {
    this.#device = device;
    this.#queue = new Queue(device);
    this.#kernels = new Kernels(device);
    this.#dependent = device.capability[0] >= 9;
    this.decisions = new CudaDecisions(this, this.#queue, this.#kernels, this.#dependent);
    this.description = `CUDA ${device.ordinal}: ${device.name}`;
  }

  /** @inheritdoc */
  get room(): number {
    this.#expectOpen();
    return this.#device.memory().free;
  }

  /** @inheritdoc */
  async matrix(
    shape: { readonly outputs: number; readonly inputs: number; readonly dtype: Dtype },
    chunks: AsyncIterable<Float32Array> | Iterable<Float32Array>,
  ): Promise<Matrix> {
    const { outputs, inputs, dtype } = shape;
    check.checkSizes("upload a matrix", { outputs, inputs });
    if (!(dtype in formats)) {
      throw new TypeError(`Cannot upload a matrix: dtype ${dtype} is not one of f32, f16, bf16, int8`);
    }
    this.#expectOpen();
    const matrix = this.#reserve(outputs, inputs, dtype);
    try {
      const most = Math.max(1, Math.floor(STAGING / 4 / inputs)); // rows
      using pinned = this.#device.pin(Math.min(most, outputs) * inputs * 4);
      const staging = new Float32Array(pinned.buffer);
      for await (const { start, rows, values } of check.checkedChunks(shape, chunks)) {
        for (let row = 0; row < rows; row += most) {
          const count = Math.min(rows - row, most);
          staging.set(values.subarray(row * inputs, (row + count) * inputs));
          this.#pack(matrix, pinned.pointer, start + row, count);
          this.#queue.stream.synchronize(); // the kernel reads it from here
        }
      }
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
    return new CudaVector(this.#queue, values);
  }

  /** @inheritdoc */
  activation(rows: number, columns: number): CudaActivation {
    this.#expectOpen();
    check.checkSizes("allocate an activation", { rows, columns });
    return new CudaActivation(this.#queue, rows, columns);
  }

  /** @inheritdoc */
  tokens(capacity: number): TokenBuffer {
    this.#expectOpen();
    check.checkSizes("allocate a token buffer", { capacity });
    return new CudaTokens(this.#queue, capacity);
  }

  /** @inheritdoc */
  cache(shape: { readonly layers: number; readonly width: number; readonly capacity: number }): CudaCache {
    this.#expectOpen();
    const { layers, width, capacity } = shape;
    check.checkSizes("allocate a cache", { layers, width, capacity });
    return new CudaCache(this.#queue, layers, width, capacity);
  }

  /** @inheritdoc */
  embed(out: Activation, options: EmbedOptions): void {
    check.checkEmbed(out, options);
    const cache = this.#own(CudaCache, options.cache);
    this.#gather(out, undefined, options.table, options.tokens, options.positions, cache);
  }

  /** @inheritdoc */
  multiplyEmbedding(
    out: Activation,
    x: Activation,
    options: { readonly table: Matrix; readonly tokens: TokenBuffer },
  ): void {
    check.checkMultiplyEmbedding(out, x, options);
    this.#gather(out, x, options.table, options.tokens, undefined, undefined);
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
    const cache = this.#own(CudaCache, options.cache), { layer, heads, rotary } = options;
    this.#queue.stream.launch(
      this.#kernels.append,
      { grid: [heads, kv.rows, 1], block: ATTENTION_THREADS, dependent: this.#dependent },
      this.#own(CudaActivation, kv).pointer,
      cache.keys(layer),
      cache.values(layer),
      cache.pointer,
      rotary ? this.#rotation(this.#own(CudaVector, rotary), cache.capacity) : NONE,
      cache.width / heads,
      cache.capacity,
    );
  }

  /** @inheritdoc */
  attention(out: Activation, qkv: Activation, options: AttentionOptions): void {
    check.checkAttention(out, qkv, options);
    const cache = this.#own(CudaCache, options.cache), { layer, heads, rotary } = options;
    const rows = qkv.rows, size = cache.width / heads, tiles = Math.ceil(rows / ATTENTION_TILE);
    const chunks = rows > SPLIT_ROWS ? 1 : chunksFor(cache, rows);
    const floats = ATTENTION_KEYS * (2 * size + 1) + ATTENTION_TILE * (2 * size + ATTENTION_KEYS);
    this.#queue.stream.launch(
      this.#kernels.attention,
      {
        grid: [heads, tiles, chunks],
        block: ATTENTION_THREADS,
        shared: floats * 4,
        dependent: this.#dependent,
      },
      this.#target(out).pointer,
      this.#own(CudaActivation, qkv).pointer,
      cache.keys(layer),
      cache.values(layer),
      cache.pointer,
      rotary ? this.#rotation(this.#own(CudaVector, rotary), cache.capacity) : NONE,
      chunks > 1 ? this.#reserveScratch("partials", heads * rows * chunks * (size + 2)) : NONE,
      chunks > 1 ? this.#reserveScratch("arrivals", heads * tiles) : NONE,
      size,
      cache.capacity,
      rows,
      options.causalRows,
      Math.min(options.window ?? 0, 2 ** 30),
      options.scale,
    );
  }

  /** @inheritdoc */
  repeat(
    pass: { readonly cache: Cache; readonly rows: number; readonly key: string },
    body: () => void,
  ): void {
    const cache = this.#own(CudaCache, pass.cache);
    cache.passes.run(`${pass.rows} ${chunksFor(cache, pass.rows)} ${pass.key}`, body);
  }

  /**
   * Milliseconds of the device for what `body` enqueues, from when it begins to when it is done. Waits for that; what
   * the device does not get in time is counted as well, so long work is measured best as a pass that is repeated.
   */
  time(body: () => void): number {
    this.#expectOpen();
    using before = this.#device.event(), after = this.#device.event();
    const { stream } = this.#queue;
    stream.record(before);
    body();
    stream.record(after);
    this.#queue.wait();
    return after.since(before);
  }

  /** @inheritdoc */
  copy(out: Activation, x: Activation): void {
    check.checkCopy(out, x);
    const to = this.#target(out), from = this.#own(CudaActivation, x);
    this.#queue.stream.copy(to.pointer, from.pointer, from.bytes);
  }

  /** @inheritdoc */
  distribution(p: Activation, logits: Activation, sampling: Sampling): void {
    check.checkDistribution(p, logits, sampling);
    const { temperature = 1, topK = 0, topP = 1 } = sampling;
    this.#queue.stream.launch(
      this.#kernels.distribution,
      { grid: p.rows, block: LAW_THREADS, dependent: this.#dependent },
      this.#target(p).pointer,
      this.#own(CudaActivation, logits).pointer,
      p.columns,
      logits.columns,
      temperature,
      Math.min(topK, p.columns),
      topP,
      this.#queue.fault,
    );
  }

  /** @inheritdoc */
  sample(out: TokenBuffer, p: Activation, key: NoiseKey): void {
    check.checkSample(out, p);
    const seed = BigInt.asUintN(64, key.seed);
    this.#queue.stream.launch(
      this.#kernels.race,
      { grid: p.rows, block: LAW_THREADS, dependent: this.#dependent },
      this.#own(CudaTokens, out).pointer,
      this.#own(CudaActivation, p).pointer,
      p.columns,
      Number(seed & 0xffffffffn),
      Number(seed >> 32n),
      key.purpose,
      key.position,
      this.#queue.fault,
    );
  }

  /** Frees the device's memory. Whatever came from this backend cannot be used any more. */
  [Symbol.dispose](): void {
    this.#queue.closed = true;
    this.#device[Symbol.dispose]();
  }

  /** out = activation(norm(x)·Wᵀ + bias), or added to out, as `then` says. */
  #multiply(
    out: Activation,
    x: Activation,
    options: ProjectOptions & ProjectResidualOptions,
    then: number,
  ): void {
    const matrix = this.#own(CudaMatrix, options.matrix), { dtype, inputs, outputs } = matrix;
    const rows = x.rows, panels = Math.ceil(outputs / panelOutputs(dtype));
    const { stream } = this.#queue, dependent = this.#dependent;
    const input = this.#own(CudaActivation, x);
    const inputGroups = options.norm ? this.#groups(input) : NONE;
    const output = this.#target(out, then === ADD);
    const to = [output.pointer, then === ADD ? output.groups : NONE] as const;
    const last = [this.#vector(options.bias), this.#vector(options.gate)] as const;
    const norm = [
      this.#vector(options.norm?.gain),
      this.#vector(options.norm?.shift),
      options.norm?.epsilon ?? 0,
    ] as const;
    const sizes = [rows, inputs, outputs, then] as const;

    if (dtype === "f16" || dtype === "bf16") {
      const which = this.#halfBlock(rows, options.norm !== undefined), { splits } = matrix;
      const { mats, tiles } = HALF_BLOCKS[which];
      const [x, y] = [Math.ceil(panels / mats), Math.ceil(rows / (8 * tiles))];
      const shared = ringBytes(which, options.norm !== undefined);
      stream.launch(
        this.#kernels.projectHalf[dtype][which],
        { grid: [x, y, splits], block: PROJECT_THREADS, shared, dependent },
        ...to,
        input.pointer,
        inputGroups,
        matrix.pointer,
        ...last,
        ...norm,
        splits > 1 ? this.#reserveScratch("partial sums", splits * x * y * mats * tiles * 128) : NONE,
        splits > 1 ? this.#reserveScratch("arrivals", x * y) : NONE,
        ...sizes,
      );
      return;
    }
    const which = rows === 1 ? 0 : 1;
    const grid = [panels, Math.ceil(rows / PANEL_ROWS[which]), 1] as const;
    if (dtype === "f32") {
      stream.launch(
        this.#kernels.projectF32[which],
        { grid, block: PROJECT_THREADS, dependent },
        ...to,
        input.pointer,
        inputGroups,
        matrix.pointer,
        ...last,
        ...norm,
        ...sizes,
      );
      return;
    }
    const bytes = this.#reserveScratch("bytes of rows", rows * padded(inputs) / 4);
    const steps = this.#reserveScratch("steps of rows", rows * 2);
    stream.launch(
      this.#kernels.quantise,
      { grid: rows, block: 32, dependent },
      bytes,
      steps,
      input.pointer,
      inputGroups,
      ...norm,
      inputs,
    );
    stream.launch(
      this.#kernels.projectInt8[which],
      { grid, block: PROJECT_THREADS, dependent },
      ...to,
      bytes,
      steps,
      matrix.pointer,
      matrix.scales,
      matrix.sums,
      ...last,
      ...sizes,
    );
  }

  /** The smallest of {@linkcode HALF_BLOCKS} that holds all rows, or the largest the device has room for. */
  #halfBlock(rows: number, normed: boolean): number {
    let which = HALF_BLOCKS.findIndex(({ tiles }) => tiles * 8 >= rows);
    if (which < 0) which = HALF_BLOCKS.length - 1;
    while (which > 0 && ringBytes(which, normed) > dynamicShared(this.#device)) which--;
    return which;
  }

  /** The address of what a norm has to know of rows, computed if nobody has. */
  #groups(x: CudaActivation): bigint {
    if (!x.grouped) {
      x.changes(true);
      this.#queue.stream.launch(
        this.#kernels.group,
        { grid: x.rows, block: 256, dependent: this.#dependent },
        x.groups,
        x.pointer,
        x.columns,
      );
    }
    return x.groups;
  }

  /** out = table[token] ⊙ x + positions[length of the cache + row] */
  #gather(
    out: Activation,
    x: Activation | undefined,
    table: Matrix,
    tokens: TokenBuffer,
    positions: Matrix | undefined,
    cache: CudaCache | undefined,
  ): void {
    const words = (matrix: Matrix | undefined): [bigint, bigint, number] => {
      if (matrix === undefined) return [NONE, NONE, 0];
      const own = this.#own(CudaMatrix, matrix);
      return [own.pointer, own.dtype === "int8" ? own.scales : NONE, formats[own.dtype]];
    };
    const target = this.#target(out, true);
    this.#queue.stream.launch(
      this.#kernels.embed,
      { grid: out.rows, block: 256, dependent: this.#dependent },
      target.pointer,
      target.groups,
      x ? this.#own(CudaActivation, x).pointer : NONE,
      this.#own(CudaTokens, tokens).pointer,
      ...words(table),
      table.outputs,
      ...words(positions),
      cache?.pointer ?? NONE,
      out.columns,
      this.#queue.fault,
    );
  }

  /** Packs `count` rows of f32 at `rows` as outputs `first` … of a matrix. */
  #pack(matrix: CudaMatrix, rows: bigint, first: number, count: number): void {
    const int8 = matrix.dtype === "int8";
    this.#queue.stream.launch(
      this.#kernels.pack,
      { grid: count, block: 32 },
      matrix.pointer,
      int8 ? matrix.scales : NONE,
      int8 ? matrix.sums : NONE,
      rows,
      formats[matrix.dtype],
      first,
      matrix.inputs,
    );
  }

  /** A matrix of zeros, or an error that says what would fit. */
  #reserve(outputs: number, inputs: number, dtype: Dtype): CudaMatrix {
    try {
      return new CudaMatrix(this.#queue, outputs, inputs, dtype);
    } catch (cause) {
      if (!(cause instanceof CudaError && cause.outOfMemory)) throw cause;
      const { free, total } = this.#device.memory();
      const needs = (other: Dtype) => `${other} needs ${formatBytes(matrixBytes(outputs, inputs, other))}`;
      const smaller: Dtype[] = dtype === "f32" ? ["bf16", "int8"] : dtype === "int8" ? [] : ["int8"];
      throw new OutOfMemory(
        `Cannot hold a [${outputs}, ${inputs}] ${dtype} matrix: ${formatBytes(free)} of ${
          formatBytes(total)
        } ` +
          `are free on ${this.#device.name} and ${needs(dtype)}; ` +
          (smaller.length > 0 ? smaller.map(needs).join(", ") : "no smaller dtype is left"),
        { cause },
      );
    }
  }

  /** The address of at least `floats` entries: zeros at first, then what the operation before left. */
  #reserveScratch(use: string, floats: number): bigint {
    let held = this.#scratch.get(use);
    if (held === undefined || held.columns < floats) {
      held?.[Symbol.dispose]();
      this.#scratch.delete(use);
      held = this.activation(1, Math.max(floats, 2 * (held?.columns ?? 0)));
      this.#scratch.set(use, held);
    }
    return held.pointer;
  }

  /** The address of cosines and sines of the first positions, [positions, 2, D/2], made once. */
  #rotation(frequencies: CudaVector, positions: number): bigint {
    if ((frequencies.rotation?.positions ?? 0) < positions) {
      frequencies.rotation?.table[Symbol.dispose]();
      const half = frequencies.length, table = this.activation(1, positions * 2 * half);
      const { rotation } = this.#kernels;
      this.#queue.stream.launch(
        rotation,
        { grid: positions, block: 32 },
        table.pointer,
        frequencies.pointer,
        half,
      );
      frequencies.rotation = { table, positions };
    }
    return frequencies.rotation!.table.pointer;
  }

  /** The address of a vector that may be absent. */
  #vector(vector: Vector | undefined): bigint {
    return vector === undefined ? NONE : this.#own(CudaVector, vector).pointer;
  }

  /** An activation that is about to be written, perhaps together with its groups. */
  #target(value: Activation, withGroups: boolean = false): CudaActivation {
    const target = this.#own(CudaActivation, value);
    target.changes(withGroups);
    return target;
  }

  /** `value` as one of this backend's own. */
  #own<T extends { readonly queue: Queue }>(kind: new (...args: never[]) => T, value: unknown): T {
    this.#expectOpen();
    return ownOf(this.#queue, kind, value);
  }

  #expectOpen(): void {
    if (this.#queue.closed) throw new Error("Cannot use the CUDA backend: it is disposed");
  }
}

/** Chunks that are launched to cover a cache and the rows to come; the device ends those beyond its length. */
function chunksFor(cache: CudaCache, rows: number): number {
  const chunks = Math.ceil((cache.length + rows) / ATTENTION_KEYS);
  return Math.min(Math.ceil(chunks / CHUNKS) * CHUNKS, Math.ceil(cache.capacity / ATTENTION_KEYS));
}

/** Shared memory of one of {@linkcode HALF_BLOCKS}: a ring of stages, each with weights, rows, gain and shift. */
function ringBytes(which: number, normed: boolean): number {
  const { mats, tiles, stages } = HALF_BLOCKS[which];
  return stages * (mats + tiles + (normed ? 2 : 0)) * PROJECT_THREADS * 16;
}
