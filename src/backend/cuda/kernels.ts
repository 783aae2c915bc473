/**
 * The compiled kernels on a device, with the kinds of their parameters in order. Their sources, `ffi/kernels/*.cu`,
 * explain each.
 *
 * @module
 */

import type { CudaDevice } from "../../../ffi/driver.ts";
import type { CudaKernel, CudaModule } from "../../../ffi/launch.ts";
import { images } from "../../../ffi/kernels.generated.ts";

/** Blocks of the f16 and bf16 projections, ascending: tiles of 16 outputs, tiles of 8 rows, stages of the ring. */
export const HALF_BLOCKS = [
  { mats: 1, tiles: 1, stages: 5 },
  { mats: 4, tiles: 2, stages: 4 },
  { mats: 4, tiles: 4, stages: 4 },
  { mats: 4, tiles: 6, stages: 3 },
  { mats: 4, tiles: 8, stages: 3 },
] as const;
/** Rows of one block of the f16 and bf16 projections of many rows, ascending; and its outputs. */
export const MANY_ROWS = [64, 128] as const, MANY_OUTPUTS = 128;
/** Heads of a cache of f16, ascending: what their entries are padded to, and stages of a walk over it. */
export const HALF_HEADS = [
  { size: 16, stages: 2 },
  { size: 32, stages: 2 },
  { size: 64, stages: 2 },
  { size: 128, stages: 1 },
] as const;
/** Rows of one block of the f32 and int8 projections, ascending. */
export const PANEL_ROWS = [1, 8] as const;

const F32 = [
  ...["pointer", "pointer"] as const, // out and its groups
  ...["pointer", "pointer"] as const, // x and its groups
  "pointer", // weights
  ...["pointer", "pointer"] as const, // bias, gate
  ...["pointer", "pointer", "f32"] as const, // gain, shift, epsilon
  ...["i32", "i32", "i32"] as const, // rows, inputs, outputs
  "i32", // what follows
] as const;

const HALF = [
  ...["pointer", "pointer"] as const, // out and its groups
  ...["pointer", "pointer"] as const, // x and its groups
  "pointer", // weights
  ...["pointer", "pointer"] as const, // bias, gate
  ...["pointer", "pointer", "f32"] as const, // gain, shift, epsilon
  ...["pointer", "pointer"] as const, // partial sums, arrivals
  ...["i32", "i32", "i32"] as const, // rows, inputs, outputs
  "i32", // what follows
] as const;

const NARROW = [
  "pointer", // rows as halves
  ...["pointer", "pointer"] as const, // x and its groups
  ...["pointer", "pointer", "f32"] as const, // gain, shift, epsilon
  ...["i32", "i32"] as const, // rows, inputs
] as const;

const FINISH = [
  ...["pointer", "pointer"] as const, // out and its groups
  "pointer", // sums
  ...["pointer", "pointer"] as const, // bias, gate
  ...["i32", "i32"] as const, // rows, outputs
  "i32", // what follows
] as const;

const MANY = [
  ...["pointer", "pointer"] as const, // out and its groups
  "pointer", // rows as halves
  "pointer", // weights
  ...["pointer", "pointer"] as const, // bias, gate
  "i32", // blocks that share an output where there are few rows
  ...["i32", "i32", "i32"] as const, // rows, inputs, outputs
  "i32", // what follows
] as const;

const INT8 = [
  ...["pointer", "pointer"] as const, // out and its groups
  ...["pointer", "pointer"] as const, // x as bytes, scale and zero of its rows
  ...["pointer", "pointer", "pointer"] as const, // weights, scales, sums
  ...["pointer", "pointer"] as const, // bias, gate
  ...["i32", "i32", "i32"] as const, // rows, inputs, outputs
  "i32", // what follows
] as const;

const PACK = ["pointer", "pointer", "pointer", "pointer", "i32", "i32", "i32"] as const;
const UNPACK = ["pointer", "pointer", "i32"] as const;
const EMBED = [
  ...["pointer", "pointer"] as const, // out and its groups
  "pointer", // x
  "pointer", // tokens
  ...["pointer", "pointer", "i32"] as const, // table, scales, format
  "i32", // vocabulary
  ...["pointer", "pointer", "i32"] as const, // positions, scales, format
  "pointer", // length
  "i32", // columns
] as const;
const APPEND = ["pointer", "pointer", "pointer", "pointer", "pointer", "i32", "i32"] as const;
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
const APPEND_HALF = [
  ...["pointer", "i32"] as const, // keys of row 0, from row to row
  ...["pointer", "pointer"] as const, // cache
  "pointer", // length
  "pointer", // rotation
  ...["i32", "i32"] as const, // head size, the same padded, / 16
  "i32", // chunks of the cache
  "i32", // rows
] as const;
const ATTENTION_HALF = [
  "pointer", // out
  "pointer", // qkv
  ...["pointer", "pointer"] as const, // keys, values
  "pointer", // length
  "pointer", // rotation
  ...["pointer", "pointer"] as const, // what blocks found: values, softmaxes
  "pointer", // arrivals
  "i32", // whether keys and values are in the cache
  "i32", // head size
  "i32", // chunks of the cache
  "i32", // rows
  "i32", // causal rows
  "i32", // window
  "f32", // scale, to base 2
] as const;
const GROUP = ["pointer", "pointer", "i32"] as const;
const QUANTISE = [
  ...["pointer", "pointer"] as const, // bytes, scale and zero of rows
  ...["pointer", "pointer"] as const, // x and its groups
  ...["pointer", "pointer", "f32"] as const, // gain, shift, epsilon
  "i32", // columns
] as const;
const ROTATION = ["pointer", "pointer", "i32"] as const;
const DISTRIBUTION = ["pointer", "pointer", "i32", "i32", "f32", "i32", "f64"] as const;
const DRAW = ["pointer", "pointer", "i32", "pointer", "u32", "u32", "i32"] as const;
const WEIGH = ["pointer", "pointer", "pointer", "i32", "i32"] as const;
const ACCEPT = [
  "pointer", // out
  ...["pointer", "pointer", "i32"] as const, // p, q, columns
  ...["pointer", "pointer", "i32"] as const, // draft, where q is used, n
  "pointer", // round
  "i32", // test
  ...["u32", "u32"] as const, // purposes: of tests, of what replaces a token
  ...["pointer", "pointer"] as const, // masses, the target's own tokens
] as const;
const RACE = ["pointer", "pointer", "i32", "u32", "u32", "u32", "u32"] as const;

/** All kernels of a device; they live as long as it. */
export class Kernels {
  /** Puts rows of f32 into a matrix. */
  readonly pack: CudaKernel<typeof PACK>;
  /** Takes rows of 16 bits out of a matrix. */
  readonly unpack: CudaKernel<typeof UNPACK>;
  /** Embeddings, and products with them. */
  readonly embed: CudaKernel<typeof EMBED>;
  /** Cosines and sines of positions. */
  readonly rotation: CudaKernel<typeof ROTATION>;
  /** The groups of rows, which a norm needs, for rows that came without. */
  readonly group: CudaKernel<typeof GROUP>;
  /** Rows as bytes. */
  readonly quantise: CudaKernel<typeof QUANTISE>;
  /** Writes keys and values. */
  readonly append: CudaKernel<typeof APPEND>;
  /** Writes keys and values and attends. */
  readonly attention: CudaKernel<typeof ATTENTION>;
  /** The same for a cache of f16. */
  readonly appendHalf: CudaKernel<typeof APPEND_HALF>;
  /** The same for a cache of f16, for {@linkcode HALF_HEADS}. */
  readonly attentionHalf: readonly CudaKernel<typeof ATTENTION_HALF>[];
  /** Laws of logits. */
  readonly distribution: CudaKernel<typeof DISTRIBUTION>;
  /** Draws. */
  readonly race: CudaKernel<typeof RACE>;
  /** Draws for a round. */
  readonly draw: CudaKernel<typeof DRAW>;
  /** Sums of laws. */
  readonly weigh: CudaKernel<typeof WEIGH>;
  /** Tests of a draft. */
  readonly accept: CudaKernel<typeof ACCEPT>;
  /** Projections with blocks of {@linkcode HALF_BLOCKS}. */
  readonly projectHalf: Readonly<Record<"f16" | "bf16", readonly CudaKernel<typeof HALF>[]>>;
  /** Rows on their way into {@linkcode Kernels.projectMany}. */
  readonly narrow: Readonly<Record<"f16" | "bf16", CudaKernel<typeof NARROW>>>;
  /** Rows on their way to cuBLAS. */
  readonly narrowRows: Readonly<Record<"f16" | "bf16", CudaKernel<typeof NARROW>>>;
  /** Bias, activation, gate and addition after a product of cuBLAS. */
  readonly finishRows: CudaKernel<typeof FINISH>;
  /** Projections with blocks of {@linkcode MANY_ROWS}. */
  readonly projectMany: Readonly<Record<"f16" | "bf16", readonly CudaKernel<typeof MANY>[]>>;
  /** Projections with blocks of {@linkcode PANEL_ROWS}. */
  readonly projectF32: readonly CudaKernel<typeof F32>[];
  /** Projections with blocks of {@linkcode PANEL_ROWS}. */
  readonly projectInt8: readonly CudaKernel<typeof INT8>[];

  /**
   * Loads them.
   * @throws {CudaError} if the device is of an architecture they were not compiled for
   */
  constructor(device: CudaDevice) {
    const load = (image: string): CudaModule => device.load(Uint8Array.fromBase64(image));
    const rows = load(images.rows), project = load(images.project), law = load(images.law);
    const attention = load(images.attention),
      accept = load(images.accept),
      projectMany = load(images.project_many);
    const attentionHalf = load(images.attention_half);
    this.pack = rows.kernel("pack", PACK);
    this.unpack = rows.kernel("unpack", UNPACK);
    this.embed = rows.kernel("embed", EMBED);
    this.rotation = rows.kernel("rotation", ROTATION);
    this.group = project.kernel("group", GROUP);
    this.quantise = project.kernel("quantise", QUANTISE);
    this.append = attention.kernel("append", APPEND);
    this.attention = attention.kernel("attention", ATTENTION);
    this.appendHalf = attentionHalf.kernel("append_half", APPEND_HALF);
    this.attentionHalf = HALF_HEADS.map(({ size }) => {
      return attentionHalf.kernel(`attention_half_${size / 16}`, ATTENTION_HALF);
    });
    this.distribution = law.kernel("distribution", DISTRIBUTION);
    this.race = law.kernel("race", RACE);
    this.draw = accept.kernel("draw", DRAW);
    this.weigh = accept.kernel("weigh", WEIGH);
    this.accept = accept.kernel("accept", ACCEPT);
    const half = (dtype: string) =>
      HALF_BLOCKS.map(({ tiles }) => project.kernel(`project_${dtype}_${tiles}`, HALF));
    this.projectHalf = { f16: half("f16"), bf16: half("bf16") };
    this.narrow = {
      f16: projectMany.kernel("narrow_f16", NARROW),
      bf16: projectMany.kernel("narrow_bf16", NARROW),
    };
    this.narrowRows = {
      f16: projectMany.kernel("narrow_rows_f16", NARROW),
      bf16: projectMany.kernel("narrow_rows_bf16", NARROW),
    };
    this.finishRows = projectMany.kernel("finish_rows", FINISH);
    const many = (dtype: string) =>
      MANY_ROWS.map((n) => projectMany.kernel(`project_many_${dtype}_${n}`, MANY));
    this.projectMany = { f16: many("f16"), bf16: many("bf16") };
    this.projectF32 = PANEL_ROWS.map((n) => project.kernel(`project_f32_${n}`, F32));
    this.projectInt8 = PANEL_ROWS.map((n) => project.kernel(`project_int8_${n}`, INT8));
    // what a block may have beyond the shared memory that every kernel may use
    const halves = (["f16", "bf16"] as const).flatMap((dtype) => [
      ...this.projectHalf[dtype],
      ...this.projectMany[dtype],
    ]);
    for (const kernel of [this.attention, ...this.attentionHalf, ...halves]) {
      kernel.allowShared(dynamicShared(device));
    }
  }
}

/**
 * The most dynamic shared memory of a block, bytes: what the device has, less 1 KiB for what these kernels
 * declare and another that code for sm_90 declares for the system, should a driver count that too. An A100,
 * which has 163 KiB, still has room for the largest need, 147 KiB.
 */
export function dynamicShared(device: CudaDevice): number {
  return device.sharedBytesPerBlock - 2048;
}
