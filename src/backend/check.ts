/**
 * The checks of the contract. Every backend makes them, so that all refuse the same arguments in the same words.
 *
 * Deliberately absent: what an activation holds, and how a backend holds it. A GPU does not make {@linkcode checkIds},
 * as the host cannot see its token ids: it makes the row NaN instead, and so the law of its logits throws.
 *
 * @module
 */

import {
  type AcceptOptions,
  type Activation,
  type AppendOptions,
  type AttentionOptions,
  type Cache,
  type CacheOptions,
  type DrawOptions,
  type Dtype,
  dtypes,
  type EmbedOptions,
  type Matrix,
  type MatrixOptions,
  type Norm,
  type ProjectOptions,
  type ProjectResidualOptions,
  type Sampling,
  type TokenBuffer,
  type Vector,
} from "./backend.ts";
import { checkSampling } from "./distribution.ts";
import { shown } from "../shown.ts";

type Shape = Pick<Activation, "rows" | "columns">;

/**
 * Throws unless each size is a positive integer.
 * @param doing completes `Cannot …`, for example `allocate an activation`
 * @throws {RangeError} naming the size and its value
 */
export function checkSizes(doing: string, sizes: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(sizes)) {
    if (!(Number.isSafeInteger(value) && value > 0)) {
      throw new RangeError(`Cannot ${doing}: ${name} is ${shown(value)}, expected a positive integer`);
    }
  }
}

/**
 * Throws unless there is such a dtype.
 * @param doing completes `Cannot …`
 * @throws {TypeError} naming those there are
 */
export function checkDtype(doing: string, dtype: Dtype): void {
  if (dtypes.includes(dtype)) return;
  throw new TypeError(`Cannot ${doing}: dtype is ${shown(dtype)}, expected one of ${dtypes.join(", ")}`);
}

/**
 * The error for the use of a part of a backend that is disposed, or whose backend is.
 * @param what the part: `a matrix`
 */
export function disposed(what: string, withBackend: boolean): Error {
  return new Error(`Cannot use ${what}: ${withBackend ? "its backend" : "it"} is disposed`);
}

/**
 * The error for an argument that a backend did not make itself.
 * @param kind the class that was expected, whose name begins with the backend's: `WasmMatrix`
 */
export function notOwn(kind: { readonly name: string }): TypeError {
  const what = kind.name.replace(/^[A-Z][a-z]+/, "").toLowerCase();
  return new TypeError(`Cannot use the ${what}: it is another backend's`);
}

/** Checks the options of `Backend.matrix`. */
export function checkMatrix({ outputs, inputs, dtype }: MatrixOptions): void {
  checkSizes("upload a matrix", { outputs, inputs });
  checkDtype("upload a matrix", dtype);
}

/**
 * The chunks of a matrix as they come, each with the index of its first row.
 * @throws {RangeError} if a chunk is not a whole number of rows, or they do not add up to [outputs, inputs]
 */
export async function* checkedChunks(
  shape: { readonly outputs: number; readonly inputs: number },
  chunks: AsyncIterable<Float32Array> | Iterable<Float32Array>,
): AsyncGenerator<{ readonly start: number; readonly rows: number; readonly values: Float32Array }> {
  const { outputs, inputs } = shape;
  const expected = `expected [${outputs}, ${inputs}]`;
  let start = 0;
  for await (const values of chunks) {
    const rows = values.length / inputs;
    if (!Number.isInteger(rows)) {
      throw new RangeError(
        `Cannot upload a matrix: a chunk holds ${values.length} entries, ${expected} in rows`,
      );
    }
    if (start + rows > outputs) {
      throw new RangeError(`Cannot upload a matrix: the chunks hold more than ${outputs} rows, ${expected}`);
    }
    yield { start, rows, values };
    start += rows;
  }
  if (start !== outputs) {
    throw new RangeError(`Cannot upload a matrix: the chunks hold ${start} rows, ${expected}`);
  }
}

/** Checks {@linkcode Activation.slice}. */
export function checkSlice(rows: number, start: number, count: number): void {
  expectRange("slice an activation", "rows", start, count, rows);
}

/** Checks {@linkcode Activation.write}. */
export function checkWrite(shape: Shape, length: number): void {
  if (length !== shape.rows * shape.columns) {
    throw new RangeError(
      `Cannot write an activation: ${length} values do not fill its shape [${shape.rows}, ${shape.columns}]`,
    );
  }
}

/** Checks the count of {@linkcode TokenBuffer.read} and {@linkcode TokenBuffer.write}. */
export function checkTokenCount(capacity: number, count: number): void {
  if (!(Number.isInteger(count) && count >= 0 && count <= capacity)) {
    throw new RangeError(`Cannot use ${count} tokens of a buffer: its capacity is ${capacity}`);
  }
}

/** Checks `Backend.cache`. */
export function checkCache({ layers, width, capacity, halfHeads }: CacheOptions): void {
  checkSizes("allocate a cache", { layers, width, capacity });
  if (halfHeads !== undefined && !(Number.isInteger(halfHeads) && halfHeads > 0 && width % halfHeads === 0)) {
    throw new RangeError(`Cannot allocate a cache: ${halfHeads} heads do not divide its width ${width}`);
  }
}

/** Checks {@linkcode TokenBuffer.slice}. */
export function checkTokenSlice(capacity: number, start: number, count: number): void {
  expectRange("slice a token buffer", "ids", start, count, capacity);
}

/** Checks {@linkcode Cache.advance}. */
export function checkAdvance(cache: Cache, count: number): void {
  if (!(Number.isInteger(count) && count >= 0 && cache.length + count <= cache.capacity)) {
    throw new RangeError(
      `Cannot advance a cache: ${count} positions do not fit, ${cache.length} of ${cache.capacity} are in use`,
    );
  }
}

/** Checks {@linkcode Cache.truncate}. */
export function checkTruncate(cache: Cache, length: number): void {
  if (!(Number.isInteger(length) && length >= 0 && length <= cache.length)) {
    throw new RangeError(`Cannot truncate a cache: length ${length} is not within [0, ${cache.length}]`);
  }
}

/** Checks `Backend.embed`. */
export function checkEmbed(out: Activation, options: EmbedOptions): void {
  const { tokens, table, positions, cache } = options;
  expectShape("embed", "out", out, out.rows, table.inputs);
  expectTokens("embed", tokens, out.rows);
  if (positions !== undefined) {
    expectMatrix("embed", "positions", positions, positions.outputs, table.inputs);
    expectRoom("embed", "the position table", cache.length, out.rows, positions.outputs);
  }
}

/**
 * Checks the ids that `Backend.embed` and `Backend.multiplyEmbedding` look up.
 * @throws {RangeError} naming the first that the table does not have
 */
export function checkIds(ids: Int32Array, table: Matrix): void {
  const stranger = ids.find((id) => id < 0 || id >= table.outputs);
  if (stranger !== undefined) {
    throw new RangeError(`Cannot embed token ${stranger}: the table has ids [0, ${table.outputs})`);
  }
}

/** Checks `Backend.project`. */
export function checkProject(out: Activation, x: Activation, options: ProjectOptions): void {
  const { norm, matrix, bias, activation } = options;
  expectShape("project", "x", x, x.rows, matrix.inputs);
  expectShape("project", "out", out, x.rows, matrix.outputs);
  expectVector("project", "bias", bias, matrix.outputs);
  if (norm !== undefined) checkNorm("project", norm, matrix.inputs);
  if (activation !== undefined && activation !== "gelu") {
    throw new TypeError(`Cannot project: activation is ${shown(activation)}, expected "gelu"`);
  }
}

/** Checks `Backend.projectResidual`. */
export function checkProjectResidual(x: Activation, u: Activation, options: ProjectResidualOptions): void {
  const { matrix, bias, gate } = options;
  expectShape("add a projection", "u", u, u.rows, matrix.inputs);
  expectShape("add a projection", "x", x, u.rows, matrix.outputs);
  expectVector("add a projection", "bias", bias, matrix.outputs);
  expectVector("add a projection", "gate", gate, matrix.outputs);
}

/** Checks `Backend.append`. */
export function checkAppend(kv: Activation, options: AppendOptions): void {
  expectShape("append", "kv", kv, kv.rows, 2 * options.cache.width);
  expectPlace("append", kv.rows, options);
}

/** Checks `Backend.attention`. */
export function checkAttention(out: Activation, qkv: Activation, options: AttentionOptions): void {
  const { cache, scale, causalRows, window } = options;
  expectShape("attend", "qkv", qkv, qkv.rows, 3 * cache.width);
  expectShape("attend", "out", out, qkv.rows, cache.width);
  expectInteger("attend", "causalRows", causalRows, 0, qkv.rows);
  expectPlace("attend", qkv.rows, options);
  if (!Number.isFinite(scale)) {
    throw new RangeError(`Cannot attend: scale is ${shown(scale)}, expected a finite number`);
  }
  if (window !== undefined) expectInteger("attend", "window", window, 1, Infinity);
}

/** Checks `Backend.multiplyEmbedding`. */
export function checkMultiplyEmbedding(
  out: Activation,
  x: Activation,
  options: { readonly table: Matrix; readonly tokens: TokenBuffer },
): void {
  expectShape("multiply by an embedding", "x", x, x.rows, options.table.inputs);
  expectShape("multiply by an embedding", "out", out, x.rows, options.table.inputs);
  expectTokens("multiply by an embedding", options.tokens, x.rows);
}

/** Checks `Backend.copy`. */
export function checkCopy(out: Activation, x: Activation): void {
  expectShape("copy", "out", out, x.rows, x.columns);
}

/** Checks `Backend.distribution`. */
export function checkDistribution(p: Activation, logits: Activation, sampling: Sampling): void {
  checkSampling(sampling);
  expectShape("make a distribution", "p", p, logits.rows, p.columns);
  if (logits.columns < p.columns) {
    throw new RangeError(
      `Cannot make a distribution: logits have ${logits.columns} columns, expected at least ${p.columns}`,
    );
  }
}

/** Checks `Backend.sample`. */
export function checkSample(out: TokenBuffer, p: Activation): void {
  expectTokens("sample", out, p.rows);
}

/** Checks `Decisions.draw`. */
export function checkDraw(out: TokenBuffer, p: Activation, options: DrawOptions): void {
  expectTokens("draw tokens", out, p.rows);
  expectInteger("draw tokens", "offset", options.offset, 0, Infinity);
}

/** Checks `Decisions.accept`. */
export function checkAccept(out: TokenBuffer, options: AcceptOptions): void {
  const { p, q, useQ, draft } = options, n = p.rows - 1;
  expectTokens("test a draft", out, 3 + n);
  expectTokens("test a draft", draft, n);
  if (useQ !== undefined) expectTokens("test a draft", useQ, n);
  if (q !== undefined) expectShape("test a draft", "q", q, Math.max(n, q.rows), p.columns);
}

function checkNorm(doing: string, norm: Norm, columns: number): void {
  expectVector(doing, "norm.gain", norm.gain, columns);
  expectVector(doing, "norm.shift", norm.shift, columns);
  if (!(norm.epsilon >= 0)) {
    throw new RangeError(
      `Cannot ${doing}: norm.epsilon is ${shown(norm.epsilon)}, expected a non-negative number`,
    );
  }
}

function expectShape(doing: string, name: string, found: Shape, rows: number, columns: number): void {
  if (found.rows !== rows || found.columns !== columns) {
    throw new RangeError(
      `Cannot ${doing}: ${name} has shape [${found.rows}, ${found.columns}], expected [${rows}, ${columns}]`,
    );
  }
}

function expectPlace(doing: string, rows: number, { cache, layer, heads, rotary }: AppendOptions): void {
  expectInteger(doing, "layer", layer, 0, cache.layers - 1);
  expectInteger(doing, "heads", heads, 1, cache.width);
  expectRoom(doing, "the cache", cache.length, rows, cache.capacity);
  if (cache.width % heads !== 0) {
    throw new RangeError(`Cannot ${doing}: ${heads} heads do not divide the cache's width ${cache.width}`);
  }
  if (cache.halfHeads !== undefined && cache.halfHeads !== heads) {
    throw new RangeError(
      `Cannot ${doing}: heads is ${shown(heads)}, expected the cache's ${cache.halfHeads}`,
    );
  }
  if (rotary === undefined) return;
  const size = cache.width / heads;
  if (size % 2 !== 0) throw new RangeError(`Cannot ${doing}: head size ${size} is odd, rotary needs pairs`);
  expectVector(doing, "rotary", rotary, size / 2);
}

function expectMatrix(doing: string, name: string, found: Matrix, outputs: number, inputs: number): void {
  expectShape(doing, name, { rows: found.outputs, columns: found.inputs }, outputs, inputs);
}

function expectVector(doing: string, name: string, found: Vector | undefined, length: number): void {
  if (found !== undefined && found.length !== length) {
    throw new RangeError(`Cannot ${doing}: ${name} has length ${found.length}, expected ${length}`);
  }
}

function expectTokens(doing: string, found: TokenBuffer, rows: number): void {
  if (found.capacity < rows) {
    throw new RangeError(
      `Cannot ${doing}: the token buffer has capacity ${found.capacity}, expected at least ${rows}`,
    );
  }
}

function expectInteger(doing: string, name: string, found: number, least: number, most: number): void {
  if (!(Number.isInteger(found) && found >= least && found <= most)) {
    throw new RangeError(
      `Cannot ${doing}: ${name} is ${shown(found)}, expected an integer within [${least}, ${most}]`,
    );
  }
}

function expectRange(doing: string, what: string, start: number, count: number, size: number): void {
  if (
    !(Number.isInteger(start) && Number.isInteger(count) && start >= 0 && count > 0 && start + count <= size)
  ) {
    throw new RangeError(`Cannot ${doing}: ${what} [${start}, ${start + count}) are not within [0, ${size})`);
  }
}

function expectRoom(doing: string, what: string, length: number, rows: number, capacity: number): void {
  if (length + rows > capacity) {
    throw new RangeError(
      `Cannot ${doing}: positions [${length}, ${length + rows}) do not fit ${what} of ${capacity}`,
    );
  }
}
