/**
 * The parts of a drafter that come from its target: a prefix made of the target's hidden states, in place of rows of
 * its own, and the matrices at both ends of the model. At each position, with h_l the output of the target's block l:
 * f = norm(Σ_l W_l·h_l + b), and block j of the drafter has the keys and values K_j·f.
 *
 * Deliberately absent: attention, which is that of every SEDD, and the record of which positions were fed.
 *
 * @module
 */

import type { Activation, Backend, Cache, Matrix, Norm, Vector } from "../backend/backend.ts";
import { Growing } from "../backend/buffers.ts";
import { enqueue } from "./block.ts";
import { checkRoom } from "./check.ts";
import type { Config } from "./config.ts";
import type { CausalModel, ModelShape } from "./model.ts";
import { NORM_EPSILON } from "./sedd_conditioning.ts";
import type { Uploads } from "./uploads.ts";

/** The weights of a prefix, on the device. */
export interface PrefixWeights {
  /** [C, width of the target] for each layer. */
  readonly fuse: readonly Matrix[];
  /** [C] */
  readonly fuseBias: Vector;
  /** [C] */
  readonly norm: Norm;
  /** [2*C, C] for each block of the drafter: keys, then values. */
  readonly kv: readonly Matrix[];
  /** [C/H/2] inverse frequencies. */
  readonly rotary: Vector;
  /** Whether the target is on another device, so that its hidden states come through the host. */
  readonly elsewhere: boolean;
}

/**
 * The blocks of the target that feed a drafter, 0-based.
 *
 * @param specdiff the part of the configuration that says so
 * @throws {CheckpointError} if no target is given, or it is not one the drafter was made for
 */
export function targetLayers(specdiff: Config, target: CausalModel | undefined): readonly number[] {
  const { layers: count, width } = expectTarget(specdiff, "prefix_attention", target).shape;
  if (specdiff.size("target_width") !== width) {
    throw specdiff.fault("target_width", `the width ${width} of the target that it is loaded with`);
  }
  const layers = specdiff.list("target_layers");
  const known = (layer: unknown): layer is number =>
    Number.isInteger(layer) && layer as number >= 0 && layer as number < count;
  if (layers.length === 0 || !layers.every(known)) {
    throw specdiff.fault("target_layers", `blocks of the target, integers in [0, ${count})`);
  }
  return layers;
}

/**
 * The target whose embedding and head a drafter shares; none if it has its own.
 *
 * @throws {CheckpointError} as {@linkcode targetLayers}
 */
export function sharedTarget(
  specdiff: Config,
  { vocabSize, width }: ModelShape,
  target: CausalModel | undefined,
): CausalModel | undefined {
  if (!specdiff.has("shares")) return undefined;
  if (String(specdiff.list("shares")) !== "embedding,head") {
    throw specdiff.fault("shares", `["embedding","head"]`);
  }
  const { embedding } = expectTarget(specdiff, "shares", target);
  if (embedding.outputs !== vocabSize || embedding.inputs !== width) {
    throw specdiff.fault(
      "shares",
      `a target of shape [${vocabSize}, ${width}] there, and this one's are [${embedding.outputs}, ${embedding.inputs}]`,
    );
  }
  return target;
}

function expectTarget(specdiff: Config, field: string, target: CausalModel | undefined): CausalModel {
  if (target === undefined) throw specdiff.fault(field, "a target to be given with it");
  return target;
}

/**
 * Reads the weights of a prefix for a drafter of a shape, fed by so many layers of a width, of a target that may be
 * elsewhere.
 */
export async function loadPrefix(
  uploads: Uploads,
  { width, layers: blocks }: ModelShape,
  rotary: Vector,
  target: { readonly layers: number; readonly width: number; readonly elsewhere: boolean },
): Promise<PrefixWeights> {
  const fuse: Matrix[] = [], kv: Matrix[] = [];
  for (let l = 0; l < target.layers; l++) {
    // f32 whatever the dtype: a few entries of a residual stream may dwarf the rest (Sun et al. 2024, arXiv 2402.17762),
    // which would then be lost in a step of int8
    fuse.push(await uploads.matrix(`prefix.fuse.${l}.weight`, width, target.width, "f32"));
  }
  for (let i = 0; i < blocks; i++) {
    kv.push(await uploads.matrix(`blocks.${i}.prefix_kv.weight`, 2 * width, width));
  }
  const fuseBias = await uploads.vector("prefix.fuse.bias", width);
  const norm = { gain: await uploads.vector("prefix.norm.weight", width), epsilon: NORM_EPSILON };
  return { fuse, fuseBias, norm, kv, rotary, elsewhere: target.elsewhere };
}

/** Turns hidden states of the target into keys and values of the prefix. */
export class TargetPrefix implements Disposable {
  readonly #backend: Backend;
  readonly #weights: PrefixWeights;
  readonly #heads: number;
  readonly #chunkRows: number;
  readonly #fused: Growing<Activation>;
  readonly #kv: Growing<Activation>;
  readonly #received: Growing<Activation>;

  /**
   * @param heads H
   * @param chunkRows the most rows computed at once
   */
  constructor(backend: Backend, weights: PrefixWeights, heads: number, chunkRows: number) {
    this.#backend = backend;
    this.#weights = weights;
    this.#heads = heads;
    this.#chunkRows = chunkRows;
    const width = weights.fuseBias.length;
    this.#fused = new Growing((rows) => backend.activation(rows, width));
    this.#kv = new Growing((rows) => backend.activation(rows, 2 * width));
    this.#received = new Growing((rows) => backend.activation(rows, weights.fuse[0].inputs));
  }

  /** As `DiffusionModel.feed`. Where passes are recorded, this is one, and reads a buffer that stays the same. */
  feed(hidden: readonly Activation[], cache: Cache): void {
    const rows = this.#rowsOf(hidden);
    checkRoom("cache", cache.length, rows, cache.capacity);
    const { fuse, fuseBias: bias, norm, kv: matrices, rotary } = this.#weights;
    for (let start = 0; start < rows; start += this.#chunkRows) {
      const count = Math.min(this.#chunkRows, rows - start);
      const fused = this.#fused.atLeast(count).slice(0, count); // [count, C]
      const kv = this.#kv.atLeast(count).slice(0, count); // [count, 2*C]
      const states = this.#here(hidden.map((all) => all.slice(start, count))); // [count, width of the target] each
      enqueue(this.#backend, { cache, rows: count, key: "feed", uses: states }, () => {
        fuse.forEach((matrix, l) => {
          if (l === 0) this.#backend.project(fused, states[l], { matrix, bias });
          else this.#backend.projectResidual(fused, states[l], { matrix });
        });
        matrices.forEach((matrix, layer) => {
          this.#backend.project(kv, fused, { norm, matrix });
          this.#backend.append(kv, { cache, layer, heads: this.#heads, rotary });
        });
      });
      cache.advance(count);
    }
  }

  /** Hidden states on this device, of each layer. */
  #here(states: readonly Activation[]): readonly Activation[] {
    const { elsewhere } = this.#weights;
    if (!elsewhere && this.#backend.repeat === undefined) return states;
    const { rows } = states[0], received = this.#received.atLeast(states.length * rows);
    return states.map((of, l) => {
      const here = received.slice(l * rows, rows);
      if (elsewhere) here.write(of.read());
      else this.#backend.copy(here, of);
      return here;
    });
  }

  #rowsOf(hidden: readonly Activation[]): number {
    const { fuse } = this.#weights;
    if (hidden.length !== fuse.length) {
      throw new RangeError(
        `Cannot feed a prefix: it is made of ${fuse.length} layers, not of ${hidden.length}`,
      );
    }
    const { rows } = hidden[0];
    hidden.forEach((states, l) => {
      if (states.rows === rows && states.columns === fuse[l].inputs) return;
      throw new RangeError(
        `Cannot feed a prefix: hidden states ${l} have shape [${states.rows}, ${states.columns}], ` +
          `expected [${rows}, ${fuse[l].inputs}]`,
      );
    });
    return rows;
  }

  /** Frees the buffers. */
  [Symbol.dispose](): void {
    this.#fused[Symbol.dispose]();
    this.#kv[Symbol.dispose]();
    this.#received[Symbol.dispose]();
  }
}
