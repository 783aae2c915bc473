/**
 * The compiled kernels on a device, with the kinds of their parameters, in the order of their sources
 * (`ffi/kernels/*.cu`, where each is explained). Computes nothing and decides nothing.
 *
 * @module
 */

import type { CudaDevice, CudaKernel, CudaModule } from "../../../ffi/driver.ts";
import { images } from "../../../ffi/kernels.generated.ts";
import type { Dtype } from "../backend.ts";

/** Rows of one block of the f16 and bf16 projections, in tiles of 8. */
export const TILES = [1, 2, 4, 6, 8] as const;
/** Rows of one block of the f32 and int8 projections. */
export const PANEL_ROWS = [1, 8] as const;

const WEIGHTS = [
  "pointer", // out
  "pointer", // x
  "pointer", // weights
  "pointer", // bias
  "pointer", // gate
  "pointer", // gain
  "pointer", // shift
  "pointer", // statistics of the rows, or 0: computed by every block
  "f32", // epsilon
  "i32", // rows
  "i32", // inputs
  "i32", // outputs
  "i32", // what follows
] as const;

const BYTES = [
  "pointer", // out
  "pointer", // bytes of x
  "pointer", // scale and zero of each row
  "pointer", // weights
  "pointer", // scales
  "pointer", // sums
  "pointer", // bias
  "pointer", // gate
  "i32", // rows
  "i32", // inputs
  "i32", // outputs
  "i32", // what follows
] as const;

const PACK = ["pointer", "pointer", "pointer", "pointer", "i32", "i32", "i32"] as const;
const EMBED = [
  "pointer", // out
  "pointer", // x
  "pointer", // tokens
  ...["pointer", "pointer", "i32"] as const, // table, scales, format
  "i32", // vocabulary
  ...["pointer", "pointer", "i32"] as const, // positions, scales, format
  "pointer", // length
  "i32", // columns
  "pointer", // fault
] as const;
const ATTENTION = [
  "pointer", // out
  "pointer", // qkv
  "pointer", // keys
  "pointer", // values
  "pointer", // length
  "pointer", // rotation
  "pointer", // partials
  "pointer", // arrivals
  "i32", // head size
  "i32", // capacity
  "i32", // rows
  "i32", // causal rows
  "i32", // window
  "f32", // scale
] as const;
const STATISTICS = ["pointer", "pointer", "i32", "f32"] as const;
const QUANTISE = ["pointer", "pointer", "pointer", "pointer", "pointer", "f32", "i32"] as const;
const ROTATION = ["pointer", "pointer", "i32"] as const;
const DISTRIBUTION = ["pointer", "pointer", "i32", "i32", "f32", "i32", "f64", "pointer"] as const;
const RACE = ["pointer", "pointer", "i32", "u32", "u32", "u32", "u32", "pointer"] as const;

/** A projection of f32, f16 or bf16. */
export type WeightsKernel = CudaKernel<typeof WEIGHTS>;
/** A projection of int8. */
export type BytesKernel = CudaKernel<typeof BYTES>;

/** All kernels of a device; they live as long as it. */
export class Kernels {
  /** Puts rows of f32 into a matrix. */
  readonly pack: CudaKernel<typeof PACK>;
  /** Embeddings, and products with them. */
  readonly embed: CudaKernel<typeof EMBED>;
  /** Cosines and sines of positions. */
  readonly rotation: CudaKernel<typeof ROTATION>;
  /** Mean and scale of each row. */
  readonly statistics: CudaKernel<typeof STATISTICS>;
  /** Rows as bytes. */
  readonly quantise: CudaKernel<typeof QUANTISE>;
  /** Appends and attends. */
  readonly attention: CudaKernel<typeof ATTENTION>;
  /** Laws of logits. */
  readonly distribution: CudaKernel<typeof DISTRIBUTION>;
  /** Draws. */
  readonly race: CudaKernel<typeof RACE>;
  /** For each dtype but int8, by tiles or rows of a block, ascending. */
  readonly project: Readonly<Record<Exclude<Dtype, "int8">, readonly WeightsKernel[]>>;
  /** By rows of a block, ascending. */
  readonly projectInt8: readonly BytesKernel[];

  /**
   * Loads them.
   * @throws {CudaError} if the device is of an architecture they were not compiled for
   */
  constructor(device: CudaDevice) {
    const load = (image: string): CudaModule => device.load(Uint8Array.fromBase64(image));
    const rows = load(images.rows), project = load(images.project), law = load(images.law);
    this.pack = rows.kernel("pack", PACK);
    this.embed = rows.kernel("embed", EMBED);
    this.rotation = rows.kernel("rotation", ROTATION);
    this.statistics = project.kernel("statistics", STATISTICS);
    this.quantise = project.kernel("quantise", QUANTISE);
    this.attention = load(images.attention).kernel("attention", ATTENTION);
    this.distribution = law.kernel("distribution", DISTRIBUTION);
    this.race = law.kernel("race", RACE);
    this.project = {
      f32: PANEL_ROWS.map((n) => project.kernel(`project_f32_${n}`, WEIGHTS)),
      f16: TILES.map((n) => project.kernel(`project_f16_${n}`, WEIGHTS)),
      bf16: TILES.map((n) => project.kernel(`project_bf16_${n}`, WEIGHTS)),
    };
    this.projectInt8 = PANEL_ROWS.map((n) => project.kernel(`project_int8_${n}`, BYTES));
    // what a block may have beyond the shared memory that every kernel may use
    for (const kernel of [this.attention, ...this.project.f16, ...this.project.bf16]) {
      kernel.allowShared(device.sharedBytesPerBlock - 1024);
    }
  }
}
