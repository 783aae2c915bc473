/**
 * The interface of models for the decoding loops, the same for every architecture and device.
 *
 * Deliberately absent: laws, drawing and text. A model takes ids and gives logits.
 *
 * @module
 */

import type { Activation, Cache, Matrix, TokenBuffer, Used } from "../backend/backend.ts";
import type { DeviceTokens } from "./device_tokens.ts";

/** The sizes of a model, from its checkpoint's configuration. */
export interface ModelShape {
  /** V, number of real tokens (a diffusion model's mask is not one of them). */
  readonly vocabSize: number;
  /** The most positions it can see (for SEDD, which has no position table, the length that it was trained at). */
  readonly contextLength: number;
  /** Number of blocks. */
  readonly layers: number;
  /** C, width of the residual stream. */
  readonly width: number;
  /** H, attention heads. */
  readonly heads: number;
}

/** A request for hidden states: copies of the residual stream as it leaves some blocks. */
export interface HiddenTap {
  /** Which blocks, 0-based. */
  readonly layers: readonly number[];
  /** One buffer per entry of `layers`, each [R, C], filled by the pass. */
  readonly out: readonly Activation[];
}

/** Operations that are enqueued after a pass, and recorded with it where a device records passes: `Backend.repeat`. */
export interface FollowUp<Result> {
  /** Tells it from others with the same `uses`. */
  readonly key: string;
  /** The buffers it uses, those of the model apart. */
  readonly uses: readonly Used[];
  /** Enqueues it. It must not allocate, write, read or commit. */
  run(result: Result): void;
}

/** Options of {@linkcode CausalModel.forward}. */
export interface ForwardOptions {
  /** How many of the last rows have logits, 1 … R. @default {1} */
  readonly headRows?: number;
  /** The hidden states that are wanted of the R rows. @default none */
  readonly hidden?: HiddenTap | undefined;
  /** Tokens in place of ids that only the device knows. @default none */
  readonly drafted?: DeviceTokens | undefined;
  /** Operations on the logits. @default none */
  readonly followUp?: FollowUp<Activation> | undefined;
}

/** An autoregressive language model: GPT-2, GPT-Neo. */
export interface CausalModel extends Disposable {
  /** Its shape. */
  readonly shape: ModelShape;
  /** Bytes of weights held on the device. */
  readonly bytes: number;
  /** [V, C], the token embedding, which a drafter may share. */
  readonly embedding: Matrix;
  /** [V, C], the matrix of the head, which a drafter may share; the embedding itself where they are tied. */
  readonly head: Matrix;
  /**
   * An empty cache for one sequence.
   * @param capacity default: the context length
   */
  newCache(capacity?: number): Cache;
  /**
   * Appends `tokens` (R of them) to the sequence in `cache`, commits them, and computes the logits that
   * follow each of the last `headRows`.
   *
   * @returns logits [headRows, V], in a buffer of the model's that the next pass overwrites
   * @throws {RangeError} if a token is not in [0, V), or the context or the cache would overflow
   */
  forward(tokens: ArrayLike<number>, cache: Cache, options?: ForwardOptions): Activation;
}

/** The result of a denoising pass; {@linkcode DiffusionModel.markovLogits} adds to its logits. */
export interface DiffusionPass {
  /**
   * [rows asked for, V+1] log-scores up to a constant per row; the mask is the last column. [rows, V] from a
   * model that shares its target's head, which has none for the mask.
   */
  readonly logits: Activation;
  /** [rows asked for, rank] of the Markov head, if the checkpoint has one. */
  readonly markov: Activation | undefined;
}

/** Options of {@linkcode DiffusionModel.denoise}. */
export interface DenoiseOptions {
  /** How many of the first rows are clean prefix, 0 … R. */
  readonly cleanRows: number;
  /** Indices in `tokens`, ascending, of the rows whose logits are wanted: at least one. */
  readonly head: readonly number[];
  /** A row sees no key further than this many positions back. @default all keys */
  readonly window?: number | undefined;
  /**
   * Of a `bidirectional` prefix: how many of the first clean rows are committed, with keys and values as this
   * pass made them. @default {0}
   */
  readonly keep?: number | undefined;
  /** Tokens in place of ids that only the device knows. @default none */
  readonly drafted?: DeviceTokens | undefined;
  /** Operations on the logits. @default none */
  readonly followUp?: FollowUp<DiffusionPass> | undefined;
}

/** A masked discrete-diffusion language model: SEDD-Absorb. Its mask token has id V. */
export interface DiffusionModel extends Disposable {
  /** Its shape. */
  readonly shape: ModelShape;
  /** Bytes of weights held on the device. */
  readonly bytes: number;
  /**
   * `causal`: clean prefix rows attend causally and never see masked ones, so a cache can keep them across rounds.
   * `bidirectional`: every row sees every row, so keys and values of an earlier pass are an approximation, which `keep`
   * of {@linkcode denoise} allows. `target`: the prefix has no rows; {@linkcode feed} makes its keys and values from the
   * target's hidden states.
   */
  readonly prefixAttention: "bidirectional" | "causal" | "target";
  /** Blocks of the target, 0-based, whose outputs {@linkcode feed} takes; none unless the prefix is the target's. */
  readonly hiddenLayers: readonly number[];
  /** Whether the checkpoint has a Markov head. */
  readonly hasMarkovHead: boolean;
  /**
   * An empty cache for one sequence.
   * @param capacity default: the context length
   */
  newCache(capacity?: number): Cache;
  /**
   * Appends R positions of prefix to the cache, and commits them.
   *
   * @param hidden of those positions, [R, width of the target] for each of `hiddenLayers`
   * @throws {Error} unless `prefixAttention` is `target`
   * @throws {RangeError} if the shapes are others, or the cache would overflow
   */
  feed(hidden: readonly Activation[], cache: Cache): void;
  /**
   * One denoising pass. `tokens` stand at positions cache.length …; the first `options.cleanRows` of them are
   * clean prefix (committed to the cache if `prefixAttention` is `causal`; none if it is `target`), the rest the
   * window being denoised, masked (id V) or already revealed, never committed. What the cache holds is seen by
   * every row.
   *
   * @param sigma σ̄, the noise level given to the model
   * @returns logits of the rows in `options.head`, in buffers of the model's that the next pass overwrites
   * @throws {RangeError} if a token is not in [0, V], the cache would overflow, or `keep` exceeds `cleanRows` or is
   * asked of another prefix
   */
  denoise(
    tokens: ArrayLike<number>,
    cache: Cache,
    sigma: number,
    options: DenoiseOptions,
  ): DiffusionPass;
  /**
   * Adds the Markov head's term to one row of logits, in place:
   * logits[row] += W·((A·h + a)[row] ⊙ B[previous]), `previous` the token just left of it, or a buffer of it.
   * @throws {Error} if the checkpoint has no Markov head
   */
  markovLogits(pass: DiffusionPass, row: number, previous: number | TokenBuffer): void;
}
