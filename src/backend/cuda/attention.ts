/**
 * Attention of the CUDA backend: which kernel of `attention.cu` and `attention_half.cu` a pass takes, by the cache and
 * the number of rows. Split over blocks or not, a row has the same bits.
 *
 * @module
 */

import type { Activation, AppendOptions, AttentionOptions } from "../backend.ts";
import { dynamicShared, HALF_HEADS } from "./kernels.ts";
import { type Gpu, NONE } from "./gpu.ts";
import { CudaActivation, CudaCache, CudaVector, HALF_KEYS, type HalfLayout, padded } from "./tensors.ts";

// the sizes of `attention.cu` and `attention_half.cu`
const THREADS = 128;
const TILE = 16;
const CHUNK = 64;
const HALF_TILE = 64;

/** Up to this many rows, the cache is split over blocks; more rows are enough blocks without. */
const SPLIT_ROWS = 64;

/** The number of keys that is launched for is a multiple of this, so that one graph serves as many lengths. */
const KEYS = 256;

/** Enqueues `Backend.append`. */
export function append(gpu: Gpu, kv: Activation, options: AppendOptions): void {
  const cache = gpu.own(CudaCache, options.cache), { layer, heads, rotary } = options;
  if (cache.half) {
    const rows = gpu.own(CudaActivation, kv);
    appendHalf(gpu, rows.pointer, padded(kv.columns), kv.rows, cache, cache.half, options);
    return;
  }
  gpu.launch(
    gpu.kernels.append,
    { grid: [heads, kv.rows, 1], block: THREADS },
    gpu.own(CudaActivation, kv).pointer,
    cache.keys(layer),
    cache.values(layer),
    cache.pointer,
    rotary ? gpu.rotation(gpu.own(CudaVector, rotary), cache.capacity) : NONE,
    cache.width / heads,
    cache.capacity,
  );
}

/** Enqueues `Backend.attention`. */
export function attend(gpu: Gpu, out: Activation, qkv: Activation, options: AttentionOptions): void {
  const cache = gpu.own(CudaCache, options.cache), { layer, heads, rotary } = options;
  if (cache.half) {
    attendHalf(gpu, gpu.target(out), gpu.own(CudaActivation, qkv), cache, cache.half, options);
    return;
  }
  const rows = qkv.rows, size = cache.width / heads, tiles = Math.ceil(rows / TILE);
  const chunks = rows > SPLIT_ROWS ? 1 : Math.ceil(launchedKeys(cache, rows) / CHUNK);
  const floats = CHUNK * (2 * size + 1) + TILE * (2 * size + CHUNK), shared = dynamicShared(gpu.device);
  if (floats * 4 > shared) {
    throw new RangeError(
      `Cannot attend: heads of ${size} entries take ${
        floats * 4
      } bytes of shared memory, expected at most ${shared}`,
    );
  }
  gpu.launch(
    gpu.kernels.attention,
    {
      grid: [heads, tiles, chunks],
      block: THREADS,
      shared: floats * 4,
    },
    gpu.target(out).pointer,
    gpu.own(CudaActivation, qkv).pointer,
    cache.keys(layer),
    cache.values(layer),
    cache.pointer,
    rotary ? gpu.rotation(gpu.own(CudaVector, rotary), cache.capacity) : NONE,
    chunks > 1 ? gpu.scratch("partials", heads * rows * chunks * (size + 2)) : NONE,
    chunks > 1 ? gpu.scratch("arrivals", heads * tiles) : NONE,
    size,
    cache.capacity,
    rows,
    options.causalRows,
    Math.min(options.window ?? 0, 2 ** 30),
    options.scale,
  );
}

/** Appends rows to a cache of f16. `keys`: the address of the first row's; `stride`: from row to row. */
function appendHalf(
  gpu: Gpu,
  keys: bigint,
  stride: number,
  rows: number,
  cache: CudaCache,
  half: HalfLayout,
  { layer, rotary }: AppendOptions,
): void {
  gpu.launch(
    gpu.kernels.appendHalf,
    {
      grid: [half.heads, Math.ceil(rows / 16) + 1, 1],
      block: THREADS,
    },
    keys,
    stride,
    cache.keys(layer),
    cache.values(layer),
    cache.pointer,
    rotary ? gpu.rotation(gpu.own(CudaVector, rotary), cache.capacity) : NONE,
    cache.width / half.heads,
    half.size / 16,
    half.chunks,
    rows,
  );
}

/** Attention over a cache of f16: in one launch for few rows, or as many as there is room to merge. */
function attendHalf(
  gpu: Gpu,
  out: CudaActivation,
  qkv: CudaActivation,
  cache: CudaCache,
  half: HalfLayout,
  options: AttentionOptions,
): void {
  const { heads, which, size } = half, { rows } = qkv, { layer, rotary } = options;
  const found = Math.ceil(launchedKeys(cache, rows) / HALF_KEYS), stage = 4 * HALF_KEYS * size;
  const split = rows <= HALF_TILE && rows * found * 8 <= dynamicShared(gpu.device);
  const chunks = split ? found : 1;
  if (!split) {
    const keys = qkv.pointer + BigInt(cache.width * 4);
    appendHalf(gpu, keys, padded(qkv.columns), rows, cache, half, options);
  }
  gpu.launch(
    gpu.kernels.attentionHalf[which],
    {
      grid: [heads, Math.ceil(rows / HALF_TILE), chunks],
      block: THREADS,
      shared: split ? Math.max(stage, rows * found * 8) : HALF_HEADS[which].stages * stage,
    },
    out.pointer,
    qkv.pointer,
    cache.keys(layer),
    cache.values(layer),
    cache.pointer,
    rotary ? gpu.rotation(gpu.own(CudaVector, rotary), cache.capacity) : NONE,
    chunks > 1 ? gpu.scratch("partials", heads * rows * chunks * size) : NONE,
    chunks > 1 ? gpu.scratch("softmaxes", heads * rows * chunks * 2) : NONE,
    chunks > 1 ? gpu.scratch("arrivals", heads) : NONE,
    split ? 0 : 1,
    cache.width / heads,
    half.chunks,
    rows,
    options.causalRows,
    Math.min(options.window ?? 0, 2 ** 30),
    options.scale * Math.LOG2E,
  );
}

/** Keys that blocks are launched for, the rows to come included; blocks beyond the length end at once. */
export function launchedKeys(cache: CudaCache, rows: number): number {
  return Math.min(Math.ceil((cache.length + rows) / KEYS) * KEYS, cache.capacity);
}
