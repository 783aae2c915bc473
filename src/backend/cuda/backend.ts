/**
 * The GPU backend: the contract over the kernels of `ffi/kernels`. It checks shapes and enqueues a kernel for each
 * stage (`products.ts` and `attention.ts` choose among several); only reads wait. A kernel marks the result of bad data,
 * such as a logit that is not a number. Reading the result, or anything made from it, throws.
 *
 * Deliberately absent: arithmetic (that is in CUDA), knowledge of any model, and libraries beside the driver's and,
 * where it is there and bits do not matter, cuBLAS. Needs `--allow-ffi`.
 *
 * @module
 */

import { type CudaDevice, CudaDriver, formatVersion } from "../../../ffi/driver.ts";
import { environment } from "../../../ffi/libraries.ts";
import type { CudaEvent } from "../../../ffi/stream.ts";
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
  RepeatedPass,
  Sampling,
  TokenBuffer,
  Vector,
} from "../backend.ts";
import * as check from "../check.ts";
import { matrixTooLarge, OutOfMemoryError } from "../out_of_memory.ts";
import { seedWords } from "../philox.ts";
import { append, attend, launchedKeys } from "./attention.ts";
import { CudaDecisions, CudaRound } from "./decisions.ts";
import { Gpu, NONE } from "./gpu.ts";
import { ADD, CUBLAS_ROWS, GELU, multiply, STORE } from "./products.ts";
import { Block } from "./memory.ts";
import {
  CudaActivation,
  CudaCache,
  CudaMatrix,
  CudaTokens,
  CudaVector,
  formats,
  matrixBytes,
  RowBlock,
} from "./tensors.ts";

/** Options of {@linkcode createCudaBackend}. */
export interface CudaOptions {
  /** Which device, from 0. Default: the first that can be used. */
  readonly device?: number | undefined;
  /**
   * From how many rows on products that may add in any order go through cuBLAS; for tests and benchmarks.
   * @default {256}
   */
  readonly cublasRows?: number | undefined;
}

/**
 * The environment variable with which, if it is set, no kernel begins before the one ahead of it has ended: to tell what
 * that is worth, and whether a fault comes of it, in whole programs.
 */
export const PLAIN_LAUNCHES = "SPECDIFF_PLAIN_LAUNCHES";

/** The first driver that can use the kernels: 525. */
const OLDEST_CUDA = 12000;

/** The first compute capability that the kernels are made for. */
const OLDEST_CAPABILITY = 8;

/**
 * Opens a GPU. Dispose it to free the device's memory.
 * @throws {LibraryNotFoundError} if the driver's library is not there, or no permission to load it
 * @throws {CudaError} if the driver or the device refuses
 * @throws {RangeError} if there is no such device, or it or the driver is older than the kernels need
 */
export function createCudaBackend(options: CudaOptions = {}): CudaBackend {
  const driver = new CudaDriver();
  if (driver.version < OLDEST_CUDA) {
    throw new RangeError(
      `Cannot use NVIDIA's driver: it serves CUDA ${
        formatVersion(driver.version)
      }, expected 12.0 or later: ` +
        `update it to 525 or later`,
    );
  }
  const { device } = options;
  if (device !== undefined) return open(driver, device, options);
  let first: unknown;
  for (let ordinal = 0; ordinal < Math.max(1, driver.deviceCount); ordinal++) {
    try {
      return open(driver, ordinal, options);
    } catch (error) {
      first ??= error;
    }
  }
  throw first;
}

function open(driver: CudaDriver, ordinal: number, options: CudaOptions): CudaBackend {
  const device = driver.device(ordinal);
  try {
    if (device.capability[0] < OLDEST_CAPABILITY) {
      throw new RangeError(
        `Cannot use CUDA device ${ordinal}, ${device.name}: its compute capability is ` +
          `${device.capability.join(".")}, expected 8.0 (Ampere) or later`,
      );
    }
    return new CudaBackend(device, options);
  } catch (error) {
    device[Symbol.dispose]();
    throw error;
  }
}

/** Bytes of a matrix that are on their way to the device at a time; more if a row has more. */
const STAGING = 4 << 20;

/** Threads of a block of `law.cu`. */
const LAW_THREADS = 1024;

/** {@linkcode Backend} on a GPU. Made by {@linkcode createCudaBackend}. */
export class CudaBackend implements Backend {
  /** @inheritdoc */
  readonly name = "cuda";
  /** @inheritdoc */
  readonly device: `cuda:${number}`;
  /** @inheritdoc */
  readonly passRows = 512;
  /** @inheritdoc */
  readonly description: string;
  /** Which device, from 0. */
  readonly ordinal: number;
  /** @inheritdoc */
  readonly decisions: CudaDecisions;
  readonly #gpu: Gpu;

  /** On a device, which it disposes of. */
  constructor(device: CudaDevice, { cublasRows = CUBLAS_ROWS }: Omit<CudaOptions, "device"> = {}) {
    this.#gpu = new Gpu(device, cublasRows, environment(PLAIN_LAUNCHES) === undefined);
    this.decisions = new CudaDecisions(this, this.#gpu);
    this.ordinal = device.ordinal;
    this.device = `cuda:${device.ordinal}`;
    this.description = `CUDA ${device.ordinal}: ${device.name}`;
  }

  /** @inheritdoc */
  get room(): number {
    this.#gpu.expectOpen();
    return this.#gpu.device.memory().free;
  }

  /** cuBLAS, opened now if it was not needed before; or why there is none. */
  get cublas(): { readonly path: string; readonly version: string } | { readonly problem: string } {
    this.#gpu.expectOpen();
    const { cublas } = this.#gpu;
    return "problem" in cublas ? cublas : { path: cublas.path, version: cublas.version };
  }

  /** @inheritdoc */
  bytesOf(options: MatrixOptions): number {
    return matrixBytes(options);
  }

  /** @inheritdoc */
  async matrix(
    options: MatrixOptions,
    chunks: AsyncIterable<Float32Array> | Iterable<Float32Array>,
  ): Promise<Matrix> {
    const { outputs, inputs } = options;
    check.checkMatrix(options);
    this.#gpu.expectOpen();
    const matrix = this.#reserve(options);
    try {
      const most = Math.max(1, Math.floor(STAGING / 4 / inputs)); // rows
      using pinned = this.#gpu.device.pin(Math.min(most, outputs) * inputs * 4);
      const staging = new Float32Array(pinned.buffer);
      for await (const { start, rows, values } of check.checkedChunks(options, chunks)) {
        this.#gpu.expectOpen(); // whoever made the chunk may have disposed of it
        for (let row = 0; row < rows; row += most) {
          const count = Math.min(rows - row, most);
          staging.set(values.subarray(row * inputs, (row + count) * inputs));
          this.#pack(matrix, pinned.pointer, start + row, count);
          this.#gpu.queue.stream.synchronize(); // the kernel reads it from here
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
    this.#gpu.expectOpen();
    check.checkSizes("upload a vector", { length: values.length });
    return new CudaVector(this.#gpu.queue, values);
  }

  /** @inheritdoc */
  activation(rows: number, columns: number): CudaActivation {
    this.#gpu.expectOpen();
    check.checkSizes("allocate an activation", { rows, columns });
    return new CudaActivation(new RowBlock(this.#gpu.queue, rows, columns), 0, rows);
  }

  /** @inheritdoc */
  tokens(capacity: number): TokenBuffer {
    this.#gpu.expectOpen();
    check.checkSizes("allocate a token buffer", { capacity });
    return new CudaTokens(new Block(this.#gpu.queue, capacity * 4, "a token buffer"), 0, capacity);
  }

  /** @inheritdoc */
  cache(options: CacheOptions): CudaCache {
    this.#gpu.expectOpen();
    check.checkCache(options);
    return new CudaCache(this.#gpu.queue, options);
  }

  /** @inheritdoc */
  embed(out: Activation, options: EmbedOptions): void {
    check.checkEmbed(out, options);
    const cache = this.#gpu.own(CudaCache, options.cache);
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
    multiply(this.#gpu, out, x, options, options.activation === "gelu" ? GELU : STORE);
  }

  /** @inheritdoc */
  projectResidual(x: Activation, u: Activation, options: ProjectResidualOptions): void {
    check.checkProjectResidual(x, u, options);
    multiply(this.#gpu, x, u, options, ADD);
  }

  /** @inheritdoc */
  append(kv: Activation, options: AppendOptions): void {
    check.checkAppend(kv, options);
    append(this.#gpu, kv, options);
  }

  /** @inheritdoc */
  attention(out: Activation, qkv: Activation, options: AttentionOptions): void {
    check.checkAttention(out, qkv, options);
    attend(this.#gpu, out, qkv, options);
  }

  /** @inheritdoc */
  repeat({ cache: of, rows, key, uses = [] }: RepeatedPass, body: () => void): void {
    const cache = this.#gpu.own(CudaCache, of);
    const kinds: readonly (new (...made: never[]) => CudaActivation | CudaTokens | CudaRound)[] = [
      CudaActivation,
      CudaTokens,
      CudaRound,
    ];
    const addresses = uses.map((used) => {
      return this.#gpu.own(kinds.find((kind) => used instanceof kind) ?? CudaActivation, used).pointer;
    });
    cache.passes.run(`${rows} ${launchedKeys(cache, rows)} ${addresses} ${key}`, body);
  }

  /**
   * How many passes were recorded as graphs, and whether kernels in them may begin before the one ahead has ended: not if
   * the device cannot, the driver refused, or {@linkcode PLAIN_LAUNCHES} is set.
   */
  get graphs(): { readonly recorded: number; readonly dependent: boolean } {
    const { recorded, refuses } = this.#gpu.queue.stream;
    return { recorded, dependent: this.#gpu.dependent && !refuses };
  }

  /** Records an event behind what is enqueued, for measurements. */
  record(event: CudaEvent): void {
    this.#gpu.expectOpen();
    this.#gpu.queue.stream.record(event);
  }

  /**
   * Milliseconds of the device for what `body` enqueues, for each of `runs`. Waits for all of them. One more run goes
   * ahead, so that the device waits for the host only if enqueueing takes longer than computing.
   */
  time(body: () => void, runs: number): number[] {
    this.#gpu.expectOpen();
    using held = new DisposableStack();
    const marks = Array.from({ length: runs + 1 }, () => held.use(this.#gpu.device.event()));
    for (const mark of marks) {
      body();
      this.record(mark);
    }
    this.#gpu.queue.stream.synchronize();
    return marks.slice(1).map((mark, i) => mark.since(marks[i]));
  }

  /** @inheritdoc */
  copy(out: Activation, x: Activation): void {
    check.checkCopy(out, x);
    const to = this.#gpu.target(out), from = this.#gpu.own(CudaActivation, x);
    this.#gpu.queue.stream.copy(to.pointer, from.pointer, from.bytes);
  }

  /** @inheritdoc */
  distribution(p: Activation, logits: Activation, sampling: Sampling): void {
    check.checkDistribution(p, logits, sampling);
    const { temperature = 1, topK = 0, topP = 1 } = sampling;
    this.#gpu.launch(
      this.#gpu.kernels.distribution,
      { grid: p.rows, block: LAW_THREADS },
      this.#gpu.target(p).pointer,
      this.#gpu.own(CudaActivation, logits).pointer,
      p.columns,
      logits.columns,
      temperature,
      Math.min(topK, p.columns),
      topP,
    );
  }

  /** @inheritdoc */
  sample(out: TokenBuffer, p: Activation, key: NoiseKey): void {
    check.checkSample(out, p);
    this.#gpu.launch(
      this.#gpu.kernels.race,
      { grid: p.rows, block: LAW_THREADS },
      this.#gpu.own(CudaTokens, out).pointer,
      this.#gpu.own(CudaActivation, p).pointer,
      p.columns,
      ...seedWords(key.seed),
      key.purpose,
      key.position,
    );
  }

  /** Frees the device's memory. Whatever came from this backend cannot be used any more. */
  [Symbol.dispose](): void {
    this.#gpu.queue.closed = true;
    this.#gpu.device[Symbol.dispose]();
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
      const own = this.#gpu.own(CudaMatrix, matrix);
      return [own.pointer, own.dtype === "int8" ? own.scales : NONE, formats[own.dtype]];
    };
    const target = this.#gpu.target(out, true);
    this.#gpu.launch(
      this.#gpu.kernels.embed,
      { grid: out.rows, block: 256 },
      target.pointer,
      target.groups,
      x ? this.#gpu.own(CudaActivation, x).pointer : NONE,
      this.#gpu.own(CudaTokens, tokens).pointer,
      ...words(table),
      table.outputs,
      ...words(positions),
      cache?.pointer ?? NONE,
      out.columns,
    );
  }

  /** Packs `count` rows of f32 at `rows` as outputs `first` … of a matrix. */
  #pack(matrix: CudaMatrix, rows: bigint, first: number, count: number): void {
    const int8 = matrix.dtype === "int8";
    this.#gpu.queue.stream.launch(
      this.#gpu.kernels.pack,
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

  /** A matrix of zeros, or an error that names the dtypes that need less. */
  #reserve(options: MatrixOptions): CudaMatrix {
    try {
      return new CudaMatrix(this.#gpu.queue, options);
    } catch (cause) {
      if (!(cause instanceof OutOfMemoryError)) throw cause;
      throw matrixTooLarge(options, this.#gpu.queue.room, this, cause);
    }
  }
}
