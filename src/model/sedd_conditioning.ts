/**
 * The conditioning of SEDD on the noise level: σ → the gains, shifts and gates of every block (adaLN). They depend on σ
 * alone, so they are computed once per σ, on the host in float64, and kept on the device. The matrices of the
 * conditioning network stay on the host.
 *
 * @module
 */

import type { Backend, Norm, Vector } from "../backend/backend.ts";
import type { Uploads } from "./uploads.ts";

/** ε of all norms of SEDD. */
export const NORM_EPSILON = 1e-5;

/** How many values of σ are kept; a schedule has one per denoising step. */
const KEPT = 64;

/** Width of the embedding of σ. */
const FREQUENCIES = 256;

/** An affine map on the host, y = W·x + b. */
interface Affine {
  /** [outputs, inputs] */
  readonly weight: Float32Array;
  /** [outputs] */
  readonly bias: Float32Array;
}

/** The modulation of one block by one σ; C is the width. */
export interface BlockModulation {
  /** [C] */
  readonly attentionNorm: Norm;
  /** [C] */
  readonly attentionGate: Vector;
  /** [C] */
  readonly mlpNorm: Norm;
  /** [C] */
  readonly mlpGate: Vector;
}

/** The modulation of the model by one σ. */
export interface Modulation {
  /** One per block. */
  readonly blocks: readonly BlockModulation[];
  /** Before the head, [C]. */
  readonly finalNorm: Norm;
}

interface HostWeights {
  readonly first: Affine;
  readonly second: Affine;
  readonly blocks: readonly { modulation: Affine; attentionGain: Float32Array; mlpGain: Float32Array }[];
  readonly final: { modulation: Affine; gain: Float32Array };
}

/** The conditioning network, and the modulations it has made. */
export class Conditioning implements Disposable {
  readonly #backend: Backend;
  readonly #width: number;
  readonly #weights: HostWeights;
  readonly #made: Map<number, { modulation: Modulation; held: DisposableStack }> = new Map();

  private constructor(backend: Backend, width: number, weights: HostWeights) {
    this.#backend = backend;
    this.#width = width;
    this.#weights = weights;
  }

  /**
   * Reads the network.
   * @param width C
   * @param condition width of the conditioning vector
   * @param blocks how many
   */
  static async load(
    backend: Backend,
    uploads: Uploads,
    { width, condition, blocks }: {
      readonly width: number;
      readonly condition: number;
      readonly blocks: number;
    },
  ): Promise<Conditioning> {
    const affine = async (name: string, outputs: number, inputs: number): Promise<Affine> => ({
      weight: await uploads.host(`${name}.weight`, [outputs, inputs]),
      bias: await uploads.host(`${name}.bias`, [outputs]),
    });
    const perBlock = [];
    for (let i = 0; i < blocks; i++) {
      perBlock.push({
        modulation: await affine(`blocks.${i}.adaLN_modulation`, 6 * width, condition),
        attentionGain: await uploads.host(`blocks.${i}.norm1.weight`, [width]),
        mlpGain: await uploads.host(`blocks.${i}.norm2.weight`, [width]),
      });
    }
    return new Conditioning(backend, width, {
      first: await affine("sigma_map.mlp.0", condition, FREQUENCIES),
      second: await affine("sigma_map.mlp.2", condition, condition),
      blocks: perBlock,
      final: {
        modulation: await affine("output_layer.adaLN_modulation", 2 * width, condition),
        gain: await uploads.host("output_layer.norm_final.weight", [width]),
      },
    });
  }

  /** The modulation by σ; valid until {@linkcode KEPT} other values have been asked for. */
  at(sigma: number): Modulation {
    const known = this.#made.get(sigma);
    if (known !== undefined) return known.modulation;
    for (const [oldest, { held }] of this.#made) {
      if (this.#made.size < KEPT) break;
      this.#made.delete(oldest);
      held.dispose();
    }
    using stack = new DisposableStack();
    const modulation = this.#make(
      sigma,
      (values) => stack.use(this.#backend.vector(Float32Array.from(values))),
    );
    this.#made.set(sigma, { modulation, held: stack.move() });
    return modulation;
  }

  #make(sigma: number, upload: (values: Float64Array) => Vector): Modulation {
    const { first, second, blocks, final } = this.#weights;
    const hidden = apply(first, embedSigma(sigma)).map(silu);
    const condition = apply(second, hidden).map(silu);
    const norm = (gain: Float32Array, scale: Float64Array, shift: Float64Array): Norm => ({
      gain: upload(scale.map((s, c) => gain[c] * (1 + s))),
      shift: upload(shift),
      epsilon: NORM_EPSILON,
    });
    const chunks = (modulation: Affine): Float64Array[] => {
      const all = apply(modulation, condition);
      return Array.from({ length: all.length / this.#width }, (_, i) => {
        return all.subarray(i * this.#width, (i + 1) * this.#width);
      });
    };
    const [finalShift, finalScale] = chunks(final.modulation);
    return {
      blocks: blocks.map(({ modulation, attentionGain, mlpGain }) => {
        const [shift1, scale1, gate1, shift2, scale2, gate2] = chunks(modulation);
        return {
          attentionNorm: norm(attentionGain, scale1, shift1),
          attentionGate: upload(gate1),
          mlpNorm: norm(mlpGain, scale2, shift2),
          mlpGate: upload(gate2),
        };
      }),
      finalNorm: norm(final.gain, finalScale, finalShift),
    };
  }

  /** Frees what was made. */
  [Symbol.dispose](): void {
    for (const { held } of this.#made.values()) held.dispose();
    this.#made.clear();
  }
}

/** σ as cosines, then sines, of 128 frequencies from 1 down to 1/10000. */
function embedSigma(sigma: number): Float64Array {
  const half = FREQUENCIES / 2;
  return Float64Array.from({ length: FREQUENCIES }, (_, i) => {
    const angle = sigma * Math.exp(-Math.log(10000) * (i % half) / half);
    return i < half ? Math.cos(angle) : Math.sin(angle);
  });
}

function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

/** W·x + b */
function apply({ weight, bias }: Affine, x: Float64Array): Float64Array {
  return Float64Array.from(bias, (b, o) => {
    let sum = b;
    for (let i = 0; i < x.length; i++) sum += weight[o * x.length + i] * x[i];
    return sum;
  });
}
