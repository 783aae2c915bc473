/**
 * Moves a checkpoint's tensors to a device. The uploads of a model are freed together, also when loading fails half-way.
 * Deliberately knows no names and no architecture.
 *
 * @module
 */

import type { Backend, Dtype, Matrix, MatrixOptions, Vector } from "../backend/backend.ts";
import type { CausalModel } from "./model.ts";
import { checkBeforeReading } from "./plan.ts";
import { tensorError, type Weights } from "./weights.ts";

/** The largest magnitudes that do not overflow where f32 would not. */
const LARGEST: Partial<Readonly<Record<Dtype, number>>> = { f16: 65504, bf16: 0xff * 2 ** 120 };

/** How a model is loaded. */
export interface LoadOptions {
  /** How the device holds the matrices. @default {"f32"} */
  readonly dtype?: Dtype | undefined;
  /**
   * Whether products with the matrices may add in any order ({@linkcode MatrixOptions.anyOrder}), as a drafter's may. A
   * target's decisions would then depend on the length of the draft. @default {false}
   */
  readonly anyOrder?: boolean | undefined;
  /** The most rows computed at once; longer passes are cut, which bounds the workspace. @default {128}, on a GPU 512 */
  readonly chunkRows?: number | undefined;
  /** The target of a drafter, which may need its shape and borrow its matrices: it has to outlive the drafter. */
  readonly target?: CausalModel | undefined;
  /**
   * The backend of the target. If it is another device than the drafter's, the drafter gets copies of the matrices that
   * it borrows, and hidden states that feed it come through the host at each draft.
   * @default the drafter's
   */
  readonly targetBackend?: Backend | undefined;
}

/** The uploads of one model. */
export class Uploads implements Disposable {
  readonly #weights: Weights;
  readonly #backend: Backend;
  readonly #dtype: Dtype;
  readonly #anyOrder: boolean;
  readonly #held: DisposableStack = new DisposableStack();
  #bytes = 0;

  private constructor(weights: Weights, backend: Backend, dtype: Dtype, anyOrder: boolean) {
    this.#weights = weights;
    this.#backend = backend;
    this.#dtype = dtype;
    this.#anyOrder = anyOrder;
  }

  /**
   * Builds a model, which owns its uploads from then on; if that fails, they are freed.
   * @param build run twice, first to see whether all of it is there and fits (`plan.ts`)
   * @throws {CheckpointError} if the checkpoint is not as expected, or the device has not the room
   */
  static async collect<T>(
    weights: Weights,
    backend: Backend,
    { dtype = "f32", anyOrder = false }: Pick<LoadOptions, "dtype" | "anyOrder">,
    build: (uploads: Uploads) => Promise<T>,
  ): Promise<T> {
    await checkBeforeReading(weights, backend, dtype, (...given) => build(new Uploads(...given, anyOrder)));
    const uploads = new Uploads(weights, backend, dtype, anyOrder);
    try {
      return await build(uploads);
    } catch (error) {
      uploads[Symbol.dispose]();
      throw error;
    }
  }

  /** Bytes on the device. */
  get bytes(): number {
    return this.#bytes;
  }

  /** A matrix stored [outputs, inputs]. */
  matrix(name: string, outputs: number, inputs: number, dtype: Dtype = this.#dtype): Promise<Matrix> {
    return this.#upload(outputs, inputs, this.#rows(name, outputs, inputs, dtype), dtype);
  }

  /** A matrix stored [inputs, outputs], as Conv1D does. */
  conv1d(name: string, outputs: number, inputs: number): Promise<Matrix> {
    const chunks = this.#weights.transposed(name, [inputs, outputs]);
    return this.#upload(outputs, inputs, this.#checked(name, chunks, this.#dtype));
  }

  /** Matrices stored [outputs, inputs] each, one below the other. */
  stacked(names: readonly string[], outputs: number, inputs: number): Promise<Matrix> {
    const pieces = names.map((name) => this.#rows(name, outputs, inputs));
    return this.#upload(names.length * outputs, inputs, concat(pieces));
  }

  /** A matrix stored [outputs, inputs], with one more output that is always 0. */
  padded(name: string, outputs: number, inputs: number): Promise<Matrix> {
    const pieces = [this.#rows(name, outputs, inputs), [new Float32Array(inputs)]];
    return this.#upload(outputs + 1, inputs, concat(pieces));
  }

  /**
   * A matrix of another model: itself, or a copy, read back row by row, if another dtype or device is wanted.
   * @param elsewhere where it is, if that is another device
   */
  async borrow(matrix: Matrix, elsewhere: Backend | undefined, dtype: Dtype = this.#dtype): Promise<Matrix> {
    if (elsewhere === undefined && dtype === matrix.dtype) return matrix;
    const { outputs, inputs } = matrix, rows = rowsOnDevice(elsewhere ?? this.#backend, matrix);
    return await this.#upload(outputs, inputs, rows, dtype);
  }

  /** A vector as a matrix of one output, held at full precision. */
  async row(name: string, inputs: number): Promise<Matrix> {
    return await this.#upload(1, inputs, [await this.host(name, [inputs])], "f32");
  }

  /** A vector. */
  async vector(name: string, length: number): Promise<Vector> {
    return this.values(await this.host(name, [length]));
  }

  /** A vector that was computed. */
  values(values: Float32Array): Vector {
    this.#bytes += values.byteLength;
    return this.#held.use(this.#backend.vector(values));
  }

  /** A tensor that stays on the host, row-major. */
  async host(name: string, shape: readonly number[]): Promise<Float32Array> {
    const values = await this.#weights.read(name, shape);
    this.#checkFinite(name, values);
    return values;
  }

  /** Frees all of them. */
  [Symbol.dispose](): void {
    this.#held[Symbol.dispose]();
  }

  /** Rows of a matrix stored [outputs, inputs]. */
  #rows(name: string, outputs: number, inputs: number, dtype = this.#dtype): AsyncGenerator<Float32Array> {
    return this.#checked(name, this.#weights.rows(name, [outputs, inputs]), dtype);
  }

  /** The chunks as they come, each checked: int8 would silently turn NaN into a number. */
  async *#checked(
    name: string,
    chunks: AsyncIterable<Float32Array>,
    dtype: Dtype,
  ): AsyncGenerator<Float32Array> {
    const largest = LARGEST[dtype];
    for await (const chunk of chunks) {
      this.#checkFinite(name, chunk);
      if (largest !== undefined) this.#checkRange(name, chunk, dtype, largest);
      yield chunk;
    }
  }

  #checkFinite(name: string, values: Float32Array): void {
    let sum = 0; // of zeros; NaN with any other
    for (let i = 0; i < values.length; i++) sum += values[i] * 0;
    if (sum === 0) return;
    const stranger = values.find((value) => !Number.isFinite(value));
    throw tensorError(this.#weights, name, `holds ${stranger}, expected finite numbers`);
  }

  #checkRange(name: string, values: Float32Array, dtype: Dtype, largest: number): void {
    const stranger = values.find((value) => Math.abs(value) > largest);
    if (stranger === undefined) return;
    throw tensorError(
      this.#weights,
      name,
      `holds ${stranger}, expected at most ${largest} in magnitude, which is what ${dtype} holds; f32 would do`,
    );
  }

  async #upload(
    outputs: number,
    inputs: number,
    chunks: AsyncIterable<Float32Array> | Iterable<Float32Array>,
    dtype: Dtype = this.#dtype,
  ): Promise<Matrix> {
    const options: MatrixOptions = { outputs, inputs, dtype, anyOrder: this.#anyOrder };
    const matrix = this.#held.use(await this.#backend.matrix(options, chunks));
    this.#bytes += matrix.bytes;
    return matrix;
  }
}

/** The chunks of several matrices, one after the other. */
async function* concat(
  pieces: Iterable<AsyncIterable<Float32Array> | Iterable<Float32Array>>,
): AsyncGenerator<Float32Array> {
  for (const piece of pieces) yield* piece;
}

/** Rows of a matrix on a device, read back some at a time. */
function* rowsOnDevice(backend: Backend, table: Matrix): Generator<Float32Array> {
  const most = Math.min(128, table.outputs);
  using tokens = backend.tokens(most);
  using rows = backend.activation(most, table.inputs);
  using cache = backend.cache({ layers: 1, width: 1, capacity: most }); // for a position, which is not used
  for (let start = 0; start < table.outputs; start += most) {
    const count = Math.min(most, table.outputs - start), out = rows.slice(0, count);
    tokens.write(Array.from({ length: count }, (_, i) => start + i));
    backend.embed(out, { tokens, table, cache });
    yield out.read();
  }
}
