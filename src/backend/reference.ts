/**
 * The oracle: every operation of the contract as the loops of its definition, accumulated in float64. Other backends
 * are compared with it. It is never optimised.
 *
 * @module
 */

import type {
  Activation,
  AppendOptions,
  AttentionOptions,
  Backend,
  Cache,
  CacheOptions,
  Dtype,
  EmbedOptions,
  Matrix,
  MatrixOptions,
  NoiseKey,
  Norm,
  ProjectOptions,
  ProjectResidualOptions,
  Sampling,
  TokenBuffer,
  Vector,
} from "./backend.ts";
import {
  checkAdvance,
  checkAppend,
  checkAttention,
  checkCache,
  checkCopy,
  checkDistribution,
  checkedChunks,
  checkEmbed,
  checkIds,
  checkMatrix,
  checkMultiplyEmbedding,
  checkProject,
  checkProjectResidual,
  checkSample,
  checkSizes,
  checkSlice,
  checkTokenCount,
  checkTokenSlice,
  checkTruncate,
  checkWrite,
  disposed,
  notOwn,
} from "./check.ts";
import { writeDistribution } from "./distribution.ts";
import { race } from "./philox.ts";

/** The oracle as a backend. Slow on purpose; any number of them may exist. */
export function createReferenceBackend(): Backend {
  return new ReferenceBackend();
}

/** Memory that can be used until it, or its backend, is disposed. */
class Resource<T> {
  /** The backend that made it. */
  readonly owner: ReferenceBackend;
  readonly #what: string;
  #data: T | undefined;

  /** @param what for messages: `a matrix` */
  constructor(owner: ReferenceBackend, what: string, data: T) {
    this.owner = owner;
    this.#what = what;
    this.#data = data;
  }

  get data(): T {
    if (this.owner.closed || this.#data === undefined) throw disposed(this.#what, this.owner.closed);
    return this.#data;
  }

  [Symbol.dispose](): void {
    this.#data = undefined;
  }
}

/** Entries of a matrix: rounded to the dtype, or int8 with a scale for each output channel. */
interface Entries {
  /** [outputs, inputs] */
  readonly values: Float32Array | Int8Array;
  /** [outputs], int8 only: an entry is values·scale. */
  readonly scales?: Float32Array;
}

class ReferenceMatrix extends Resource<Entries> implements Matrix {
  readonly outputs: number;
  readonly inputs: number;
  readonly dtype: Dtype;
  readonly bytes: number;

  constructor(owner: ReferenceBackend, options: MatrixOptions, entries: Entries) {
    super(owner, "a matrix", entries);
    this.outputs = options.outputs;
    this.inputs = options.inputs;
    this.dtype = options.dtype;
    this.bytes = owner.bytesOf(options);
  }

  /** W[row][column] */
  entry(row: number, column: number): number {
    const { values, scales } = this.data;
    const value = values[row * this.inputs + column];
    return scales === undefined ? value : Math.fround(value * scales[row]);
  }
}

class ReferenceVector extends Resource<Float32Array> implements Vector {
  readonly length: number;

  constructor(owner: ReferenceBackend, values: Float32Array) {
    super(owner, "a vector", values.slice());
    this.length = values.length;
  }
}

class ReferenceActivation implements Activation {
  readonly rows: number;
  readonly columns: number;
  readonly #buffer: Resource<Float32Array>;
  readonly #start: number;
  readonly #isView: boolean;

  /** Rows [start, start + rows) of a buffer. */
  constructor(
    buffer: Resource<Float32Array>,
    start: number,
    rows: number,
    columns: number,
    isView: boolean = false,
  ) {
    this.#buffer = buffer;
    this.#start = start;
    this.#isView = isView;
    this.rows = rows;
    this.columns = columns;
  }

  get owner(): ReferenceBackend {
    return this.#buffer.owner;
  }

  get data(): Float32Array {
    return this.#buffer.data.subarray(this.#start * this.columns, (this.#start + this.rows) * this.columns);
  }

  row(r: number): Float32Array {
    return this.data.subarray(r * this.columns, (r + 1) * this.columns);
  }

  slice(start: number, count: number): Activation {
    checkSlice(this.rows, start, count);
    return new ReferenceActivation(this.#buffer, this.#start + start, count, this.columns, true);
  }

  read(): Float32Array {
    return this.data;
  }

  write(values: Float32Array): void {
    checkWrite(this, values.length);
    this.data.set(values);
  }

  [Symbol.dispose](): void {
    if (!this.#isView) this.#buffer[Symbol.dispose]();
  }
}

class ReferenceTokens implements TokenBuffer {
  readonly capacity: number;
  readonly #buffer: Resource<Int32Array>;
  readonly #start: number;
  readonly #isView: boolean;

  /** Ids [start, start + capacity) of a buffer. */
  constructor(buffer: Resource<Int32Array>, start: number, capacity: number, isView: boolean = false) {
    this.#buffer = buffer;
    this.#start = start;
    this.#isView = isView;
    this.capacity = capacity;
  }

  get owner(): ReferenceBackend {
    return this.#buffer.owner;
  }

  get data(): Int32Array {
    return this.#buffer.data.subarray(this.#start, this.#start + this.capacity);
  }

  read(count: number = this.capacity): Int32Array {
    checkTokenCount(this.capacity, count);
    return this.data.subarray(0, count);
  }

  write(tokens: ArrayLike<number>): void {
    checkTokenCount(this.capacity, tokens.length);
    this.data.set(tokens);
  }

  slice(start: number, count: number): TokenBuffer {
    checkTokenSlice(this.capacity, start, count);
    return new ReferenceTokens(this.#buffer, this.#start + start, count, true);
  }

  [Symbol.dispose](): void {
    if (!this.#isView) this.#buffer[Symbol.dispose]();
  }
}

/** Keys and values of one layer, each [capacity, width]. */
interface LayerCache {
  readonly keys: Float32Array;
  readonly values: Float32Array;
}

class ReferenceCache extends Resource<readonly LayerCache[]> implements Cache {
  readonly layers: number;
  readonly width: number;
  readonly capacity: number;
  readonly halfHeads: number | undefined;
  length = 0;

  constructor(owner: ReferenceBackend, { layers, width, capacity, halfHeads }: CacheOptions) {
    const layer = () => ({
      keys: new Float32Array(capacity * width),
      values: new Float32Array(capacity * width),
    });
    super(owner, "a cache", Array.from({ length: layers }, layer));
    this.layers = layers;
    this.width = width;
    this.capacity = capacity;
    this.halfHeads = halfHeads;
  }

  advance(count: number): void {
    checkAdvance(this, count);
    this.length += count;
  }

  truncate(length: number): void {
    checkTruncate(this, length);
    this.length = length;
  }
}

class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly device = "reference";
  readonly description: string = "plain TypeScript, float64 accumulation";
  /** Whether it is disposed. */
  closed = false;

  /** Of entries that are packed as tightly as their dtype allows: the oracle's own memory is of no interest. */
  bytesOf({ outputs, inputs, dtype }: MatrixOptions): number {
    return outputs * inputs * ENTRY_BYTES[dtype] + (dtype === "int8" ? 4 * outputs : 0);
  }

  async matrix(
    shape: MatrixOptions,
    chunks: AsyncIterable<Float32Array> | Iterable<Float32Array>,
  ): Promise<Matrix> {
    const { outputs, inputs, dtype } = shape;
    checkMatrix(shape);
    this.#expectOpen();
    const int8 = dtype === "int8";
    const values = int8 ? new Int8Array(outputs * inputs) : new Float32Array(outputs * inputs);
    const scales = new Float32Array(int8 ? outputs : 0);
    for await (const chunk of checkedChunks(shape, chunks)) {
      for (let r = 0; r < chunk.rows; r++) {
        const row = chunk.values.subarray(r * inputs, (r + 1) * inputs); // [inputs]
        const o = chunk.start + r;
        if (int8) scales[o] = largestMagnitude(row) / 127 || 1;
        const entry = int8 ? (w: number) => roundHalfEven(Math.fround(w / scales[o])) : ROUND[dtype];
        for (let i = 0; i < inputs; i++) values[o * inputs + i] = entry(row[i]);
      }
    }
    return new ReferenceMatrix(this, shape, int8 ? { values, scales } : { values });
  }

  vector(values: Float32Array): Vector {
    this.#expectOpen();
    checkSizes("upload a vector", { length: values.length });
    return new ReferenceVector(this, values);
  }

  activation(rows: number, columns: number): Activation {
    this.#expectOpen();
    checkSizes("allocate an activation", { rows, columns });
    const buffer = new Resource(this, "an activation", new Float32Array(rows * columns));
    return new ReferenceActivation(buffer, 0, rows, columns);
  }

  tokens(capacity: number): TokenBuffer {
    this.#expectOpen();
    checkSizes("allocate a token buffer", { capacity });
    return new ReferenceTokens(new Resource(this, "a token buffer", new Int32Array(capacity)), 0, capacity);
  }

  cache(options: CacheOptions): Cache {
    this.#expectOpen();
    checkCache(options);
    return new ReferenceCache(this, options);
  }

  embed(out: Activation, options: EmbedOptions): void {
    checkEmbed(out, options);
    const table = this.#own(ReferenceMatrix, options.table);
    const positions = options.positions && this.#own(ReferenceMatrix, options.positions);
    const ids = this.#own(ReferenceTokens, options.tokens).read(out.rows); // [R]
    const { length } = this.#own(ReferenceCache, options.cache);
    checkIds(ids, table);
    for (let r = 0; r < out.rows; r++) {
      const row = this.#own(ReferenceActivation, out).row(r); // [C]
      for (let c = 0; c < row.length; c++) {
        row[c] = table.entry(ids[r], c) + (positions?.entry(length + r, c) ?? 0);
      }
    }
  }

  project(out: Activation, x: Activation, options: ProjectOptions): void {
    checkProject(out, x, options);
    const matrix = this.#own(ReferenceMatrix, options.matrix);
    const bias = options.bias && this.#own(ReferenceVector, options.bias).data;
    for (let r = 0; r < x.rows; r++) {
      const input = this.#own(ReferenceActivation, x).row(r); // [inputs]
      const y = multiply(matrix, options.norm ? this.#normalise(input, options.norm) : input); // [outputs]
      const row = this.#own(ReferenceActivation, out).row(r);
      for (let o = 0; o < row.length; o++) {
        const sum = y[o] + (bias?.[o] ?? 0);
        row[o] = options.activation === "gelu" ? gelu(sum) : sum;
      }
    }
  }

  projectResidual(x: Activation, u: Activation, options: ProjectResidualOptions): void {
    checkProjectResidual(x, u, options);
    const matrix = this.#own(ReferenceMatrix, options.matrix);
    const bias = options.bias && this.#own(ReferenceVector, options.bias).data;
    const gate = options.gate && this.#own(ReferenceVector, options.gate).data;
    for (let r = 0; r < u.rows; r++) {
      const y = multiply(matrix, this.#own(ReferenceActivation, u).row(r)); // [outputs]
      const row = this.#own(ReferenceActivation, x).row(r);
      for (let o = 0; o < row.length; o++) row[o] += (gate?.[o] ?? 1) * (y[o] + (bias?.[o] ?? 0));
    }
  }

  append(kv: Activation, options: AppendOptions): void {
    checkAppend(kv, options);
    this.#append(kv, 0, options);
  }

  attention(out: Activation, qkv: Activation, options: AttentionOptions): void {
    checkAttention(out, qkv, options);
    this.#append(qkv, options.cache.width, options);
    const { heads, scale, causalRows, window = Infinity } = options;
    const cache = this.#own(ReferenceCache, options.cache);
    const { keys, values } = cache.data[options.layer];
    const rotary = options.rotary && this.#own(ReferenceVector, options.rotary).data;
    const rows = qkv.rows, width = cache.width, size = width / heads, first = cache.length;
    const input = this.#own(ReferenceActivation, qkv);
    for (let r = 0; r < rows; r++) {
      const query = rotate(input.row(r).subarray(0, width), size, first + r, rotary); // [H*D]
      const start = Math.max(0, first + r - window + 1);
      const end = first + (r < causalRows ? r + 1 : rows);
      const sums = new Float64Array(width);
      for (let h = 0; h < heads; h++) {
        const scores = new Float64Array(end - start);
        for (let t = start; t < end; t++) {
          let dot = 0;
          for (let d = h * size; d < (h + 1) * size; d++) dot += query[d] * keys[t * width + d];
          scores[t - start] = dot * scale;
        }
        const largest = scores.reduce((most, s) => Math.max(most, s), -Infinity);
        let total = 0;
        for (let t = start; t < end; t++) total += scores[t - start] = Math.exp(scores[t - start] - largest);
        for (let t = start; t < end; t++) {
          const weight = scores[t - start] / total;
          for (let d = h * size; d < (h + 1) * size; d++) sums[d] += weight * values[t * width + d];
        }
      }
      this.#own(ReferenceActivation, out).row(r).set(sums);
    }
  }

  multiplyEmbedding(
    out: Activation,
    x: Activation,
    options: { readonly table: Matrix; readonly tokens: TokenBuffer },
  ): void {
    checkMultiplyEmbedding(out, x, options);
    const table = this.#own(ReferenceMatrix, options.table);
    const ids = this.#own(ReferenceTokens, options.tokens).read(x.rows); // [R]
    checkIds(ids, table);
    for (let r = 0; r < x.rows; r++) {
      const input = this.#own(ReferenceActivation, x).row(r); // [C]
      const row = this.#own(ReferenceActivation, out).row(r);
      for (let c = 0; c < row.length; c++) row[c] = input[c] * table.entry(ids[r], c);
    }
  }

  copy(out: Activation, x: Activation): void {
    checkCopy(out, x);
    this.#own(ReferenceActivation, out).data.set(this.#own(ReferenceActivation, x).data);
  }

  distribution(p: Activation, logits: Activation, sampling: Sampling): void {
    checkDistribution(p, logits, sampling);
    for (let r = 0; r < p.rows; r++) {
      writeDistribution(
        this.#own(ReferenceActivation, p).row(r),
        this.#own(ReferenceActivation, logits).row(r),
        sampling,
      );
    }
  }

  sample(out: TokenBuffer, p: Activation, key: NoiseKey): void {
    checkSample(out, p);
    const tokens = this.#own(ReferenceTokens, out).data;
    for (let r = 0; r < p.rows; r++) {
      tokens[r] = race(this.#own(ReferenceActivation, p).row(r), { ...key, position: key.position + r });
    }
  }

  /** Whatever came from this backend cannot be used any more. */
  [Symbol.dispose](): void {
    this.closed = true;
  }

  /** The layer norm of one row, [C]. */
  #normalise(x: Float32Array, norm: Norm): Float64Array {
    const gain = this.#own(ReferenceVector, norm.gain).data;
    const shift = norm.shift && this.#own(ReferenceVector, norm.shift).data;
    let mean = 0, variance = 0;
    for (const value of x) mean += value / x.length;
    for (const value of x) variance += (value - mean) ** 2 / x.length;
    const scale = 1 / Math.sqrt(variance + norm.epsilon);
    return Float64Array.from(x, (value, c) => (value - mean) * scale * gain[c] + (shift?.[c] ?? 0));
  }

  /** Writes the keys that begin at a column of each row, and the values after them, after a cache's last position. */
  #append(rows: Activation, column: number, options: AppendOptions): void {
    const { length, width, data } = this.#own(ReferenceCache, options.cache);
    const { keys, values } = data[options.layer];
    const rotary = options.rotary && this.#own(ReferenceVector, options.rotary).data;
    for (let r = 0; r < rows.rows; r++) {
      const kv = this.#own(ReferenceActivation, rows).row(r).subarray(column); // [2*H*D]
      keys.set(
        rotate(kv.subarray(0, width), width / options.heads, length + r, rotary),
        (length + r) * width,
      );
      values.set(kv.subarray(width), (length + r) * width);
    }
  }

  /** `value` as one of this backend's own. */
  #own<T extends { readonly owner: ReferenceBackend }>(
    kind: abstract new (...args: never[]) => T,
    value: unknown,
  ): T {
    this.#expectOpen();
    if (value instanceof kind && value.owner === this) return value;
    throw notOwn(kind);
  }

  #expectOpen(): void {
    if (this.closed) throw new Error("Cannot use the reference backend: it is disposed");
  }
}

/** Bytes of an entry of a matrix. */
const ENTRY_BYTES: Readonly<Record<Dtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

/** How an entry is rounded to what a dtype can hold, to nearest, ties to even. */
const ROUND: Readonly<Record<Exclude<Dtype, "int8">, (value: number) => number>> = {
  f32: (value) => value,
  f16: Math.f16round,
  bf16: roundToBf16,
};

function roundToBf16(value: number): number {
  const float = new Float32Array([value]), bits = new Uint32Array(float.buffer);
  bits[0] += 0x7fff + (bits[0] >>> 16 & 1);
  bits[0] &= 0xffff0000;
  return float[0];
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value), rest = value - floor;
  return rest < 0.5 || rest === 0.5 && floor % 2 === 0 ? floor : floor + 1;
}

function largestMagnitude(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]));
  return most;
}

/** x·Wᵀ for one row, [outputs]. */
function multiply(matrix: ReferenceMatrix, x: ArrayLike<number>): Float64Array {
  const { outputs, inputs } = matrix;
  const { values, scales } = matrix.data;
  if (scales !== undefined) return multiplyInt8(matrix, values, scales, x);
  const y = new Float64Array(outputs);
  for (let o = 0; o < outputs; o++) {
    let sum = 0;
    for (let i = 0; i < inputs; i++) sum += values[o * inputs + i] * x[i];
    y[o] = sum;
  }
  return y;
}

/**
 * x·Wᵀ in integers. A row's range, widened to hold 0, is cut into 127 steps, x ≈ scale·(q − zero) with q in
 * 0 … 127, so that a device may multiply signed by unsigned 7-bit numbers: y = scale·scales·(Σ w·q − zero·Σ w).
 */
function multiplyInt8(
  matrix: ReferenceMatrix,
  values: ArrayLike<number>,
  scales: Float32Array,
  x: ArrayLike<number>,
): Float64Array {
  const { outputs, inputs } = matrix;
  const row = Float32Array.from(x);
  const low = Math.min(0, ...row), high = Math.max(0, ...row);
  const scale = Math.fround(Math.fround(high - low) / 127) || 1;
  const zero = roundHalfEven(Math.fround(-low / scale));
  const q = Int32Array.from(row, (value) => {
    return Math.min(Math.max(roundHalfEven(Math.fround(value / scale)) + zero, 0), 127);
  });
  const y = new Float64Array(outputs);
  for (let o = 0; o < outputs; o++) {
    let dot = 0, sum = 0;
    for (let i = 0; i < inputs; i++) {
      dot += values[o * inputs + i] * q[i];
      sum += values[o * inputs + i];
    }
    y[o] = scale * scales[o] * (dot - zero * sum);
  }
  return y;
}

/** The heads of one row turned by their position, [H*D]; as they are without frequencies. */
function rotate(
  x: Float32Array,
  size: number,
  position: number,
  frequencies?: Float32Array,
): ArrayLike<number> {
  if (frequencies === undefined) return x;
  const out = new Float64Array(x.length), half = size / 2;
  for (let start = 0; start < x.length; start += size) {
    for (let j = 0; j < half; j++) {
      const a = x[start + j], b = x[start + j + half];
      const cos = Math.cos(position * frequencies[j]), sin = Math.sin(position * frequencies[j]);
      out[start + j] = a * cos - b * sin;
      out[start + j + half] = b * cos + a * sin;
    }
  }
  return out;
}

function gelu(y: number): number {
  return 0.5 * y * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (y + 0.044715 * y ** 3)));
}
