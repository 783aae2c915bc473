/**
 * Weights whose reading can be watched and interrupted: between two chunks timers, signals and input have their
 * turn, whatever the chunks come from. It changes nothing of what is read.
 *
 * @module
 */

import { takeTurns } from "./decode/event_loop.ts";
import type { Checkpoint } from "./hub/checkpoint.ts";
import type { Weights } from "./model/weights.ts";

/** How far a checkpoint is read. */
export interface LoadProgress {
  /** The checkpoint's folder. */
  readonly folder: string;
  /** Parameters read by now. */
  readonly loaded: number;
  /** Parameters in the files; a model may ask for fewer. */
  readonly total: number;
}

/** What goes on while a checkpoint is read. */
export interface WatchOptions {
  /** Told how far each checkpoint is read, about once per megabyte. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Ends the reading with the signal's reason. */
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
  const pass = async (values: Float32Array) => {
    turn = await takeTurns(turn);
    signal?.throwIfAborted();
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
  };
}

async function* each<T>(items: AsyncIterable<T>, pass: (item: T) => Promise<T>): AsyncGenerator<T> {
  for await (const item of items) yield await pass(item);
}
