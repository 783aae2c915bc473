/**
 * The pre-norm transformer block that GPT-2, GPT-Neo and SEDD share, and the buffers a pass through it needs.
 * They differ in weights, gates and what attention may see, never in the order of operations.
 *
 * Deliberately absent: names of tensors, and embeddings and heads, which differ.
 *
 * @module
 */

import type {
  Activation,
  Backend,
  Cache,
  Matrix,
  Norm,
  RepeatedPass,
  TokenBuffer,
  Vector,
} from "../backend/backend.ts";
import { Growing } from "../backend/buffers.ts";

/** Everything that one block computes with. C is the width, F the width inside the MLP. */
export interface Block {
  /** Norm before attention, [C]. */
  readonly attentionNorm: Norm;
  /** [3*C, C] */
  readonly qkv: Matrix;
  /** [3*C] */
  readonly qkvBias?: Vector | undefined;
  /** [C, C] */
  readonly attentionOut: Matrix;
  /** [C] */
  readonly attentionOutBias?: Vector | undefined;
  /** [C] */
  readonly attentionGate?: Vector | undefined;
  /** Multiplies q·k. */
  readonly scale: number;
  /** How many keys back a row sees, itself included. */
  readonly window?: number | undefined;
  /** [C/H/2] inverse frequencies. */
  readonly rotary?: Vector | undefined;
  /** Norm before the MLP, [C]. */
  readonly mlpNorm: Norm;
  /** [F, C] */
  readonly up: Matrix;
  /** [F] */
  readonly upBias: Vector;
  /** [C, F] */
  readonly down: Matrix;
  /** [C] */
  readonly downBias: Vector;
  /** [C] */
  readonly mlpGate?: Vector | undefined;
}

/** An empty cache for such blocks: its keys and values may be of 16 bits where the weights are. */
export function newCache(
  backend: Backend,
  block: Pick<Block, "up">,
  { layers, width, heads }: { readonly layers: number; readonly width: number; readonly heads: number },
  capacity: number,
): Cache {
  const { dtype } = block.up;
  const halfHeads = dtype === "f16" || dtype === "bf16" ? heads : undefined;
  return backend.cache({ layers, width, capacity, halfHeads });
}

/** Enqueues a pass; a backend that records passes may replay an earlier one instead. */
export function enqueue(backend: Backend, pass: RepeatedPass, body: () => void): void {
  if (backend.repeat === undefined) body();
  else backend.repeat(pass, body);
}

/** The buffers of a pass of R rows. */
export interface PassBuffers {
  /** The first R are the pass's. */
  readonly tokens: TokenBuffer;
  /** [R, C], the residual stream. */
  readonly x: Activation;
  /** [R, 3*C] */
  readonly qkv: Activation;
  /** [R, C] */
  readonly attended: Activation;
  /** [R, F] */
  readonly inner: Activation;
}

/**
 * Runs one block over `buffers.x`, in place; keys and values go to `layer` of the cache, uncommitted. Rows
 * before `from` stop after attention: in the last block, a row without a head needs no more than keys and values.
 */
export function runBlock(
  backend: Backend,
  buffers: PassBuffers,
  block: Block,
  where: {
    readonly cache: Cache;
    readonly layer: number;
    readonly heads: number;
    readonly causalRows: number;
    readonly from?: number;
  },
): void {
  const { from = 0, ...place } = where;
  const { qkv } = buffers, rest = qkv.rows - from;
  backend.project(qkv, buffers.x, { norm: block.attentionNorm, matrix: block.qkv, bias: block.qkvBias });
  const { scale, window, rotary } = block;
  backend.attention(buffers.attended, qkv, { ...place, scale, window, rotary });
  if (rest === 0) return;
  const [x, attended, inner] = [buffers.x, buffers.attended, buffers.inner].map((b) => b.slice(from, rest));
  backend.projectResidual(x, attended, {
    matrix: block.attentionOut,
    bias: block.attentionOutBias,
    gate: block.attentionGate,
  });
  backend.project(inner, x, {
    norm: block.mlpNorm,
    matrix: block.up,
    bias: block.upBias,
    activation: "gelu",
  });
  backend.projectResidual(x, inner, { matrix: block.down, bias: block.downBias, gate: block.mlpGate });
}

/** The buffers of one model's passes. */
export class Workspace implements Disposable {
  readonly #tokens: Growing<TokenBuffer>;
  readonly #activations: readonly Growing<Activation>[];

  /**
   * @param width C
   * @param inner F
   */
  constructor(backend: Backend, width: number, inner: number) {
    this.#tokens = new Growing((size) => backend.tokens(size));
    this.#activations = [width, 3 * width, width, inner].map((columns) =>
      new Growing((size) => backend.activation(size, columns))
    );
  }

  /** Buffers for R rows; their contents are undefined. */
  pass(rows: number): PassBuffers {
    const [x, qkv, attended, inner] = this.#activations.map((buffer) => buffer.atLeast(rows).slice(0, rows));
    return { tokens: this.#tokens.atLeast(rows), x, qkv, attended, inner };
  }

  /** Frees the buffers. */
  [Symbol.dispose](): void {
    this.#tokens[Symbol.dispose]();
    for (const buffer of this.#activations) buffer[Symbol.dispose]();
  }
}
