/**
 * A device by its own clock: what a pass costs, with the host ahead of it, so that nothing of the host's is measured.
 *
 * @module
 */

import { CudaDriver } from "../../ffi/driver.ts";
import type { CudaEvent } from "../../ffi/stream.ts";
import type { Activation } from "../../src/backend/backend.ts";
import { CudaBackend, type CudaOptions } from "../../src/backend/cuda/backend.ts";
import type { Shapes } from "../../tools/shapes.ts";

/** Runs of a pass that count. */
const RUNS = 11;

/** Milliseconds after which clocks that have been idle are taken to be up. */
const WARM = 60;

/** Copies ahead of passes that are timed one after the other: longer than the host takes to enqueue all of these. */
const AHEAD = 10;

/**
 * A backend whose passes can be watched: events before and after each, and ahead of them some work in which the host gets
 * ahead, so that what is between them is the device's alone. A round of the same passes, not watched, takes as much and
 * what is the host's, or waiting for it. The work ahead also empties the device's cache.
 */
export class WatchedBackend extends CudaBackend {
  /** Whether passes are watched. */
  watching = false;
  readonly #newEvent: () => CudaEvent;
  readonly #marks: CudaEvent[] = [];
  readonly #sizes: readonly [rows: number, columns: number];
  #used = 0;
  /** What is copied ahead: on an H200, a third of a millisecond. */
  #work: { readonly from: Activation; readonly to: Activation } | undefined;

  /** On a device by its number, for shapes that say what is much to it. */
  constructor(ordinal: number, { context, xl }: Shapes, options: Omit<CudaOptions, "device"> = {}) {
    const device = new CudaDriver().device(ordinal);
    super(device, options);
    this.#newEvent = () => device.event();
    this.#sizes = [4 * context, xl.vocabSize];
  }

  override repeat(...pass: Parameters<CudaBackend["repeat"]>): void {
    if (!this.watching) return super.repeat(...pass);
    this.#keepBusy(1);
    this.#mark();
    super.repeat(...pass);
    this.#mark();
  }

  override time(...what: Parameters<CudaBackend["time"]>): number[] {
    this.#keepBusy(AHEAD);
    return super.time(...what);
  }

  /** Milliseconds of the device in the passes since the last time, all of which are over. */
  take(): number {
    let ms = 0;
    for (let i = 0; i < this.#used; i += 2) ms += this.#marks[i + 1].since(this.#marks[i]);
    this.#used = 0;
    return ms;
  }

  #mark(): void {
    this.record(this.#marks[this.#used++] ??= this.#newEvent());
  }

  #keepBusy(copies: number): void {
    this.#work ??= { from: this.activation(...this.#sizes), to: this.activation(...this.#sizes) };
    for (let i = 0; i < copies; i++) this.copy(this.#work.to, this.#work.from);
  }
}

/** The median time of the device for a pass over a cache, ms, once it has run for a while. */
export function passTime(backend: WatchedBackend, body: () => void): number {
  const began = performance.now();
  for (let unlike = 0; unlike < 2; unlike++) body(); // as it is, and recorded
  for (;;) {
    const times = backend.time(body, RUNS);
    if (performance.now() - began >= WARM) return median(times);
  }
}

/** The middle one of an odd number of values. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}
