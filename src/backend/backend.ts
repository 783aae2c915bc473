/**
 * The contract between a model and a device.
 *
 * The operations are the stages of a transformer block, coarse enough for a device to fuse, not scalar
 * arithmetic. A model (`src/model`) is written once over this file; a backend (`reference.ts`, `wasm/`,
 * `cuda/`) implements it. It is made for a GPU: weights are uploaded once into the device's own layout, activations
 * and caches live on the device, and a position is derived from the cache's length, not passed by the host. Every
 * operation is only enqueued; {@linkcode Activation.read} and {@linkcode TokenBuffer.read} alone wait for a result.
 *
 * Deliberately absent: a graph, autograd, broadcasting, dtypes of activations (always f32), and batches of
 * several sequences.
 *
 * Axis letters used throughout: R rows (consecutive positions of one sequence in this pass), C width of the
 * residual stream, H heads, D head size (H*D is often C), V vocabulary, L positions held by a cache.
 *
 * **The bit-exact rule.** Every value of a row is reduced in an order that depends on that row's own inputs alone: not
 * on the number of rows in the pass, the row's index in it, or the number of threads. So the pass that verifies γ+1
 * tokens and the pass that decodes one give bit-identical logits. Products with a matrix that has
 * {@linkcode MatrixOptions.anyOrder} are exempt.
 *
 * @module
 */

/**
 * How a device holds the entries of a {@linkcode Matrix}. Accumulation is f32 (int32 for `int8`).
 * `int8` is symmetric per output channel; the rows it is multiplied with are quantised on the fly, per row.
 * A target that is held in another dtype than its checkpoint's is another target: decoding is exact to the law of the
 * converted weights.
 */
export type Dtype = "f32" | "f16" | "bf16" | "int8";

/** All dtypes. */
export const dtypes: readonly Dtype[] = ["f32", "f16", "bf16", "int8"];

/** Options of {@linkcode Backend.matrix}. */
export interface MatrixOptions {
  /** Rows of W. */
  readonly outputs: number;
  /** Columns of W. */
  readonly inputs: number;
  /** How the entries are to be held. */
  readonly dtype: Dtype;
  /**
   * Whether products with it may add in any order, so that the bits of a row may depend on the number of rows. A device
   * may then use a faster product. For drafters alone: a target has to obey the bit-exact rule. @default {false}
   */
  readonly anyOrder?: boolean | undefined;
}

/** A weight matrix on the device, [outputs, inputs]: y = x·Wᵀ. */
export interface Matrix extends Disposable {
  /** Rows of W, the width of what it produces. */
  readonly outputs: number;
  /** Columns of W, the width of what it consumes. */
  readonly inputs: number;
  /** How the entries are held. */
  readonly dtype: Dtype;
  /** Bytes held on the device. */
  readonly bytes: number;
}

/** A vector of f32 on the device: a bias, a gain, a table of rotary frequencies. */
export interface Vector extends Disposable {
  /** Number of entries. */
  readonly length: number;
}

/** A row-major f32 buffer on the device, [rows, columns]. */
export interface Activation extends Disposable {
  /** R, the rows of this buffer or view. */
  readonly rows: number;
  /** Entries in each row. */
  readonly columns: number;
  /**
   * A view of rows [start, start + count) that shares the buffer. Views need no disposal and die with it.
   * @throws {RangeError} if the range does not lie inside.
   */
  slice(start: number, count: number): Activation;
  /**
   * Waits for what was enqueued and returns the contents, [rows * columns]. On a CPU this is a view of the
   * device's memory that the next operation may overwrite: copy what has to outlive it.
   */
  read(): Float32Array;
  /**
   * Overwrites the contents.
   * @throws {RangeError} if `values` does not hold rows * columns entries.
   */
  write(values: Float32Array): void;
}

/** A buffer of token ids on the device. */
export interface TokenBuffer extends Disposable {
  /** The most tokens it holds. */
  readonly capacity: number;
  /** Waits and returns the first `count` ids (default: all). The same warning as {@linkcode Activation.read}. */
  read(count?: number): Int32Array;
  /**
   * Overwrites the first `tokens.length` ids.
   * @throws {RangeError} if they exceed the capacity.
   */
  write(tokens: ArrayLike<number>): void;
  /**
   * A view of ids [start, start + count) that shares the buffer. Views need no disposal and die with it.
   * @throws {RangeError} if the range does not lie inside.
   */
  slice(start: number, count: number): TokenBuffer;
}

/**
 * Keys and values of one sequence, for all layers of one model, and the sequence's length, which every
 * operation that needs a position reads from here: row r of a pass stands at position `length + r`.
 */
export interface Cache extends Disposable {
  /** Number of attention layers. */
  readonly layers: number;
  /** H*D, entries of a key (and of a value) in one layer at one position. */
  readonly width: number;
  /** L, the most positions it can hold. */
  readonly capacity: number;
  /** See {@linkcode CacheOptions.halfHeads}. */
  readonly halfHeads?: number | undefined;
  /** Positions that are committed. Rows written by a pass are committed by {@linkcode Cache.advance}. */
  readonly length: number;
  /**
   * Commits the `count` positions that the pass just made wrote.
   * @throws {RangeError} beyond the capacity.
   */
  advance(count: number): void;
  /**
   * Rolls back to `length` positions.
   * @throws {RangeError} if `length` is not within [0, this.length].
   */
  truncate(length: number): void;
}

/** Options of {@linkcode Backend.cache}. */
export interface CacheOptions {
  /** Number of attention layers. */
  readonly layers: number;
  /** H*D, entries of a key (and of a value) in one layer at one position. */
  readonly width: number;
  /** L, the most positions it can hold. */
  readonly capacity: number;
  /**
   * The number of heads, given if keys and values may be stored as f16 and attention may compute with f16. The number is
   * then fixed, and values beyond ±65504 become NaN. A device may store f32 all the same. Absent: f32.
   */
  readonly halfHeads?: number | undefined;
}

/** A layer norm: `(x − mean) / sqrt(var + epsilon) * gain + shift`, over the columns of each row. */
export interface Norm {
  /** [C] */
  readonly gain: Vector;
  /** [C]; absent means 0. */
  readonly shift?: Vector | undefined;
  /** Added to the variance. */
  readonly epsilon: number;
}

/** Options of {@linkcode Backend.embed}. */
export interface EmbedOptions {
  /** Token ids; the first R are used. */
  readonly tokens: TokenBuffer;
  /** [V, C], the token embedding. */
  readonly table: Matrix;
  /** [positions, C], a learned position table, indexed by `cache.length + r`; absent: none. */
  readonly positions?: Matrix | undefined;
  /** Where the sequence stands. */
  readonly cache: Cache;
}

/** Options of {@linkcode Backend.project}. */
export interface ProjectOptions {
  /** Applied to each input row first; absent: none. */
  readonly norm?: Norm | undefined;
  /** [outputs, inputs] */
  readonly matrix: Matrix;
  /** [outputs]; absent: none. */
  readonly bias?: Vector | undefined;
  /** `gelu` is the tanh form, 0.5·y·(1 + tanh(√(2/π)·(y + 0.044715·y³))). Absent: none. */
  readonly activation?: "gelu" | undefined;
}

/** Options of {@linkcode Backend.projectResidual}. */
export interface ProjectResidualOptions {
  /** [outputs, inputs] */
  readonly matrix: Matrix;
  /** [outputs]; absent: none. */
  readonly bias?: Vector | undefined;
  /** [outputs], multiplies the projection (bias included) before it is added; absent: 1. */
  readonly gate?: Vector | undefined;
}

/** Options of {@linkcode Backend.append}. */
export interface AppendOptions {
  /** Keys and values, of this pass and of earlier ones. */
  readonly cache: Cache;
  /** Which layer of the cache. */
  readonly layer: number;
  /** H; must divide the cache's width. */
  readonly heads: number;
  /**
   * [D/2] inverse frequencies. Queries and keys are rotated (half-split: entry j is paired with j + D/2) by
   * their absolute position before use; keys are cached rotated. Absent: not rotated.
   */
  readonly rotary?: Vector | undefined;
}

/** Options of {@linkcode Backend.attention}. */
export interface AttentionOptions extends AppendOptions {
  /** Multiplies q·k before the softmax (1/√D, or 1 for GPT-Neo). */
  readonly scale: number;
  /**
   * Of the R rows the first `causalRows` see keys up to their own position; the others see every key up to
   * the end of this pass. R: a causal model. 0: a bidirectional one. Between: a causal prefix followed by
   * masked rows that see all of it and one another.
   */
  readonly causalRows: number;
  /** A row at position t sees no key at or before t − window. Absent: no such limit. */
  readonly window?: number | undefined;
}

/** How logits become the law that is sampled from. Applied in the order of the fields, as Hugging Face does. */
export interface Sampling {
  /** Logits are divided by it. 0: a point mass on the largest logit, the lowest id among equals. Default 1. */
  readonly temperature?: number | undefined;
  /** Keep the k largest (all that equal the k-th are kept). Absent or 0: all. */
  readonly topK?: number | undefined;
  /** Keep the smallest set of largest probabilities whose sum reaches topP. Absent or 1: all. */
  readonly topP?: number | undefined;
}

/** A key into the counter-based noise (Philox4x32-10, `src/backend/philox.ts`). */
export interface NoiseKey {
  /** 64-bit seed of the run. */
  readonly seed: bigint;
  /** What the noise is for: distinct numbers give independent noise. */
  readonly purpose: number;
  /** Absolute position of the first row; row r uses `position + r`. */
  readonly position: number;
}

/** One round of speculative decoding on a device: the seed and the text's length, and a clock for the draft. */
export interface DeviceRound extends Disposable {
  /** The backend that it runs on. */
  readonly backend: Backend;
  /**
   * Begins a round: the decisions are those of `seed`, and the text has `start` tokens.
   * @throws {RangeError} if `start` is not a non-negative integer
   */
  begin(seed: bigint, start: number): void;
  /** Marks that the draft has been enqueued. */
  drafted(): void;
  /** Milliseconds of the device from {@linkcode begin} to {@linkcode drafted}; after a read. */
  readonly draftMs: number;
}

/** Options of {@linkcode Decisions.draw}. */
export interface DrawOptions {
  /** Seed and length of the text. */
  readonly round: DeviceRound;
  /** What the noise is for, as in {@linkcode NoiseKey}. */
  readonly purpose: number;
  /** Row 0 stands at this distance from the end of the text; the others follow. */
  readonly offset: number;
  /**
   * `race`: as {@linkcode Backend.sample}. `inversion`: where the running sum of the law exceeds the row's uniform of
   * 52 bits, whose draw is the length of the text (`PhiloxSource.choose` in `decode/random.ts`).
   */
  readonly by: "inversion" | "race";
}

/** Options of {@linkcode Decisions.accept}. */
export interface AcceptOptions {
  /** Seed and length of the text. */
  readonly round: DeviceRound;
  /** How the n drafted tokens are tested; `decode/acceptance.ts` explains, and says which rule makes which test. */
  readonly test: "each" | "joint" | "drawn";
  /** The target's laws, [n + 1, V]. */
  readonly p: Activation;
  /** The laws the tokens were drawn from, [≥ n, V]; absent: point masses. */
  readonly q?: Activation | undefined;
  /** Where q is to be used, [n] of 0 or 1; elsewhere a token is a point mass. Absent: everywhere. */
  readonly useQ?: TokenBuffer | undefined;
  /** The drafted tokens; the first n are used. */
  readonly draft: TokenBuffer;
  /** Purposes of the noise ({@linkcode NoiseKey}): for tests, for replacements and bonus tokens, for the target's draws. */
  readonly purposes: { readonly accept: number; readonly residual: number; readonly token: number };
}

/**
 * Decisions that the device makes, where the laws are: no law is read, and the host waits once a round. They equal the
 * host's decisions with the same seed, up to the rounding of sums in float64.
 */
export interface Decisions {
  /** Allocates what a round needs. */
  round(): DeviceRound;
  /** The first `count` ids of out are those of tokens. */
  copy(out: TokenBuffer, tokens: TokenBuffer, count: number): void;
  /** Draws out[r] from p[r]. p [R, V]. */
  draw(out: TokenBuffer, p: Activation, options: DrawOptions): void;
  /**
   * Tests a draft of n tokens. out [3 + n] = how many are kept, the token after them, 1 if it follows a draft that was
   * kept as a whole or else 0, and the draft itself.
   */
  accept(out: TokenBuffer, options: AcceptOptions): void;
}

/** A buffer that a pass may use: {@linkcode RepeatedPass.uses}. */
export type Used = Activation | TokenBuffer | DeviceRound;

/** Identifies a pass for {@linkcode Backend.repeat}. */
export interface RepeatedPass {
  /** The cache that it runs over. */
  readonly cache: Cache;
  /** R */
  readonly rows: number;
  /** Tells it from others over the same cache with as many rows. */
  readonly key: string;
  /** Buffers that may be others the next time. @default none */
  readonly uses?: readonly Used[] | undefined;
}

/** The operations of a device. Shapes are checked: a mismatch throws a `RangeError` that names both. */
export interface Backend extends Disposable {
  /** Which implementation this is. */
  readonly name: "reference" | "wasm" | "cuda";
  /** Where it computes, as `createBackend` opens it. */
  readonly device: "reference" | "wasm" | `cuda:${number}`;
  /** A description for people: `WebAssembly relaxed SIMD, 2 threads`. */
  readonly description: string;
  /** Bytes that can still be allocated. A checkpoint that needs more is refused before it is read. Absent: unknown. */
  readonly room?: number | undefined;
  /** Rows of a pass beyond which it is no faster per row: longer inputs are cut at this size. @default {128} */
  readonly passRows?: number | undefined;
  /**
   * Decisions made on the device. Present where a read stalls the device, so that computing a few extra rows costs less
   * than reading twice. Absent: reading laws costs nothing, and the host decides.
   */
  readonly decisions?: Decisions | undefined;

  /** Bytes that a matrix takes here, padding and what belongs to its channels included: what its `bytes` will be. */
  bytesOf(options: MatrixOptions): number;
  /**
   * Uploads a matrix. It is converted and packed into the device's layout chunk by chunk, so that the host never holds a
   * whole one. `chunks` yields f32 rows of W in order, [n, inputs] each, for any whole n. Entries must be finite and
   * within the dtype's range: devices treat others differently.
   * @throws {RangeError} if the chunks do not add up to [outputs, inputs]
   * @throws {OutOfMemoryError} if the device's memory does not suffice; the message names a dtype that might fit
   */
  matrix(
    options: MatrixOptions,
    chunks: AsyncIterable<Float32Array> | Iterable<Float32Array>,
  ): Promise<Matrix>;
  /** Uploads a vector of f32. */
  vector(values: Float32Array): Vector;
  /** Allocates a buffer of zeros, [rows, columns]. */
  activation(rows: number, columns: number): Activation;
  /** Allocates a buffer for token ids. */
  tokens(capacity: number): TokenBuffer;
  /**
   * Allocates an empty cache.
   * @throws {RangeError} if the heads do not divide the width
   */
  cache(options: CacheOptions): Cache;

  /**
   * Enqueues a pass, by calling `body` or by replaying what an earlier body enqueued for the same cache, rows, key and
   * `uses`. So two such bodies must enqueue the same operations on the same buffers. The contents of the buffers and the
   * length of the cache may differ. A body must not allocate, write, read or commit. Absent: recording gains nothing on
   * this device, call `body`.
   */
  repeat?(pass: RepeatedPass, body: () => void): void;

  /** out[r] = table[tokens[r]] (+ positions[cache.length + r]). out [R, C]. */
  embed(out: Activation, options: EmbedOptions): void;
  /** out = activation(norm(x)·Wᵀ + bias). x [R, inputs], out [R, outputs]; they must not overlap. */
  project(out: Activation, x: Activation, options: ProjectOptions): void;
  /** x += gate ⊙ (u·Wᵀ + bias). u [R, inputs], x [R, outputs]. */
  projectResidual(x: Activation, u: Activation, options: ProjectResidualOptions): void;
  /**
   * Writes the keys and values of R rows to a layer at positions [cache.length, cache.length + R), without
   * committing them. kv [R, 2*H*D] with k and v side by side, each head-major.
   * @throws {RangeError} if the rows do not fit the cache's capacity.
   */
  append(kv: Activation, options: AppendOptions): void;
  /**
   * Appends the keys and values of R rows as {@linkcode Backend.append} does, then attends. qkv [R, 3*H*D] with q, k,
   * v side by side, each head-major; out [R, H*D].
   * @throws {RangeError} if the rows do not fit the cache's capacity.
   */
  attention(out: Activation, qkv: Activation, options: AttentionOptions): void;
  /** out[r] = x[r] ⊙ table[tokens[r]]. x, out [R, C] (may be the same), table [V, C]. */
  multiplyEmbedding(
    out: Activation,
    x: Activation,
    options: { readonly table: Matrix; readonly tokens: TokenBuffer },
  ): void;
  /** out = x, same shape. */
  copy(out: Activation, x: Activation): void;
  /**
   * The law of the next token: p[r] = softmax of the first `p.columns` logits of row r after temperature,
   * top-k and top-p. logits [R, ≥ V], p [R, V]; removed tokens are exactly 0.
   */
  distribution(p: Activation, logits: Activation, sampling: Sampling): void;
  /**
   * Draws out[r] from p[r] as argmin over v of E_v/p[r][v], the lowest id among equals, where E_v is the
   * exponential noise of {@linkcode NoiseKey} (`toExponential` in `philox.ts`). Equivalent to the Gumbel
   * trick. p [R, V].
   */
  sample(out: TokenBuffer, p: Activation, key: NoiseKey): void;
}
