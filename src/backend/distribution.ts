/**
 * From logits to the law that is sampled from: temperature, top-k and top-p as Hugging Face applies them, in
 * float64 on the host. The oracle for every device, and what a CPU uses where the law is not a plain softmax.
 *
 * Deliberately absent: drawing (`race` in `philox.ts`), penalties, and any other warper.
 *
 * @module
 */

import { shown } from "../shown.ts";
import type { Sampling } from "./backend.ts";

/** Logits that define no law: the weights that computed them are damaged, or their dtype overflowed. */
export class LogitsError extends RangeError {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "LogitsError";
  /** What is wrong with the logits, for a caller whose own message also names the model. */
  readonly fault: string;
  /** Whether they are the drafter's, found by a device that was to test its draft. */
  readonly drafted: boolean;

  /**
   * An error that says what is wrong, and what failed.
   * @param fault what is wrong with the logits
   * @param doing what failed, completes `Cannot …`
   * @param drafted as below
   */
  constructor(fault: string, doing: string = "make a distribution", drafted: boolean = false) {
    super(`Cannot ${doing}: ${fault}`);
    this.fault = fault;
    this.drafted = drafted;
  }
}

/**
 * Throws unless the settings make sense.
 * @throws {RangeError} if `temperature` is not a finite number ≥ 0, `topK` not an integer ≥ 0, or `topP` not
 * within (0, 1]
 */
export function checkSampling(sampling: Sampling): void {
  const { temperature = 1, topK = 0, topP = 1 } = sampling;
  if (!(Number.isFinite(temperature) && temperature >= 0)) {
    throw new RangeError(
      `Cannot make a distribution: temperature is ${
        shown(temperature)
      }, expected a finite number of at least 0`,
    );
  }
  if (!(Number.isInteger(topK) && topK >= 0)) {
    throw new RangeError(
      `Cannot make a distribution: topK is ${shown(topK)}, expected an integer of at least 0, which is all`,
    );
  }
  if (!(Number.isFinite(topP) && topP > 0 && topP <= 1)) {
    throw new RangeError(
      `Cannot make a distribution: topP is ${shown(topP)}, expected a number within (0, 1]`,
    );
  }
}

/**
 * Writes the law that `logits` stand for under `sampling`. Computed in float64, rounded once.
 *
 * @param p receives the law, [V]
 * @param logits [≥ V], natural; the first V count; −∞ is a token that is never drawn
 * @throws {RangeError} if the settings make no sense (see {@linkcode checkSampling})
 * @throws {LogitsError} if a logit that counts is NaN or +∞, or all are −∞
 */
export function writeDistribution(p: Float32Array, logits: Float32Array, sampling: Sampling): void {
  checkSampling(sampling);
  const { temperature = 1, topK = 0, topP = 1 } = sampling;
  const vocabSize = p.length;
  const largest = argmax(logits, vocabSize);
  if (temperature === 0) {
    p.fill(0);
    p[largest] = 1;
    return;
  }
  const weights = new Float64Array(vocabSize); // [V]
  const threshold = topK > 0 && topK < vocabSize
    ? kthLargest(logits.subarray(0, vocabSize), topK)
    : -Infinity;
  for (let v = 0; v < vocabSize; v++) {
    if (logits[v] >= threshold) weights[v] = Math.exp((logits[v] - logits[largest]) / temperature);
  }
  if (topP < 1) keepNucleus(weights, topP);
  const total = sum(weights);
  for (let v = 0; v < vocabSize; v++) p[v] = weights[v] / total;
}

/** The lowest id of the largest of the first `count` logits. */
function argmax(logits: Float32Array, count: number): number {
  let best = 0;
  for (let v = 0; v < count; v++) {
    if (Number.isNaN(logits[v])) {
      throw new LogitsError(`the logit of token ${v} is not a number`);
    }
    if (logits[v] > logits[best]) best = v;
  }
  if (!Number.isFinite(logits[best])) {
    throw new LogitsError(`the largest logit is ${logits[best]}`);
  }
  return best;
}

/** The k-th largest value, k from 1, by quickselect: sorting a vocabulary would cost as much as a small model. */
function kthLargest(values: Float32Array, k: number): number {
  const left = values.slice();
  for (let low = 0, high = left.length - 1;;) {
    const pivot = left[(low + high) >> 1];
    let i = low, j = high;
    while (i <= j) {
      while (left[i] > pivot) i++;
      while (left[j] < pivot) j--;
      if (i <= j) {
        const value = left[i];
        left[i++] = left[j];
        left[j--] = value;
      }
    }
    // descending now: [low, j] ≥ pivot, [i, high] ≤ pivot, and what is between equals it
    if (k - 1 <= j) high = j;
    else if (k - 1 >= i) low = i;
    else return left[k - 1];
  }
}

/** Zeroes what is not in the smallest set of largest weights that holds `topP` of their sum; lower ids first. */
function keepNucleus(weights: Float64Array, topP: number): void {
  const total = sum(weights);
  // all entries below this together hold less than 1 − topP, so none of them is needed: only the rest is sorted
  const least = (1 - topP) * total / weights.length;
  const candidates = weights.filter((w) => w >= least).sort().reverse();
  let held = 0, kept = 0;
  while (kept < candidates.length && held < topP * total) held += candidates[kept++];
  const smallest = candidates[kept - 1];
  let equals = 0; // how many of those that equal the smallest are kept
  while (equals < kept && candidates[kept - 1 - equals] === smallest) equals++;
  for (let v = 0; v < weights.length; v++) {
    if (weights[v] < smallest || weights[v] === smallest && equals-- <= 0) weights[v] = 0;
  }
}

function sum(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
