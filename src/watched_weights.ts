/**
 * Weights with progress reports and cancellation: reading yields to timers, signals and input between chunks. The
 * weights themselves are unchanged.
 *
 * @module
 */

import { takeTurns } from "./decode/event_loop.ts";
import type { Checkpoint } from "./hub/checkpoint.ts";
import type { Weights } from "./model/weights.ts";

/** Progress of reading a checkpoint. */
export interface LoadProgress {
  /** The checkpoint's folder. */
  readonly folder: string;
  /** Parameters read so far. */
  readonly loaded: number;
  /** Parameters in the files; a model may read fewer. */
  readonly total: number;
}

/** Progress and cancellation while checkpoints are read. */
export interface WatchOptions {
  /** Called with the progress of each checkpoint, about once per megabyte. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Aborts the reading with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** The weights of a checkpoint, watched. */
export function watchedWeights(checkpoint: Checkpoint, { onProgress, signal }: WatchOptions): Weights {
  const { origin: folder, config } = checkpoint;
  const total = checkpoint.tensors().reduce(
    (sum, { shape }) => sum + shape.reduce((n, axis) => n * axis, 1),
    0,
  );
  let loaded = 0, turn = performance.now();
  const between = async () => {
    turn = await takeTurns(turn);
    signal?.throwIfAborted();
  };
  const pass = async (values: Float32Array) => {
    await between();
    loaded += values.length;
    onProgress?.({ folder, loaded, total });
    return values;
  };
  return {
    origin: folder,
    config,
    has: (name) => checkpoint.has(name),
    fileOf: (name) => checkpoint.fileOf(name),
    read: async (name, shape) => await pass(await checkpoint.read(name, shape)),
    rows: (name, shape) => each(checkpoint.rows(name, shape), pass),
    transposed: (name, shape) => each(checkpoint.transposed(name, shape), pass),
    equal: (one, other, shape) => checkpoint.equal(one, other, shape, between),
  };
}

async function* each<T>(items: AsyncIterable<T>, pass: (item: T) => Promise<T>): AsyncGenerator<T> {
  for await (const item of items) yield await pass(item);
}
