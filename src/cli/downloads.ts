/**
 * Shows the progress of downloads: one line on standard error, with rate and time left, only in a terminal.
 *
 * @module
 */

import type { DownloadProgress } from "../hub/options.ts";
import { megabytes, type Output } from "./terminal.ts";

/** Milliseconds between updates of the line. */
const REFRESH = 100;

/** Milliseconds over which the rate is averaged. */
const WINDOW = 5000;

/** Shows downloads on a line that is removed when they are done. */
export function showDownloads(err: Output, now: () => number = () => performance.now()): (
  progress: DownloadProgress,
) => void {
  /** Bytes loaded at recent times, the oldest one window ago. */
  let samples: { readonly at: number; readonly loaded: number }[] = [];
  return ({ model, file, loaded, total }) => {
    const at = now(), last = samples.at(-1);
    if (loaded === total) {
      samples = [];
      err.progress("");
      return;
    }
    // another model, or a restarted download
    if (last !== undefined && loaded < last.loaded) samples = [];
    else if (last !== undefined && at - last.at < REFRESH) return;
    samples.push({ at, loaded });
    while (samples.length > 2 && at - samples[1].at > WINDOW) samples.shift();
    const rate = 1000 * (loaded - samples[0].loaded) / (at - samples[0].at); // bytes per second; NaN at first
    err.progress([
      `${model}: ${file}`,
      `${megabytes(loaded)} of ${megabytes(total)}`,
      ...(rate > 0 ? [`${megabytes(rate)}/s`, `${duration((total - loaded) / rate)} left`] : []),
    ].join(", "));
  };
}

/** Seconds as `5 s`, `2:05 min` or `1:02:05 h`. */
function duration(seconds: number): string {
  const s = Math.ceil(seconds);
  if (s < 60) return `${s} s`;
  const two = (n: number) => String(Math.floor(n) % 60).padStart(2, "0");
  return s < 3600
    ? `${Math.floor(s / 60)}:${two(s)} min`
    : `${Math.floor(s / 3600)}:${two(s / 60)}:${two(s)} h`;
}
