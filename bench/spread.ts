/**
 * Medians with their quartiles, and ratios of what was measured in turn: whatever a report prints as a ratio is made and
 * shown here, so that none stands without its spread where that was measured.
 *
 * @module
 */

import { quantile } from "../src/cli/measure.ts";

/** A median, and the first and third quartile about it. */
export interface Spread {
  readonly value: number;
  /** Absent: of a time when they were not recorded. */
  readonly quartiles?: readonly [number, number] | undefined;
}

/** Of some measurements. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  return { value: quantile(sorted, 0.5), quartiles: [quantile(sorted, 0.25), quantile(sorted, 0.75)] };
}

/** Of the ratios of two things turn by turn, in which they were neighbours: what disturbs one disturbs both. */
export function perTurn(above: readonly number[], below: readonly number[]): Spread {
  return spreadOf(above.map((value, turn) => value / below[turn]));
}

/** How many times `base` it is. */
export function over({ value, quartiles }: Spread, base: number): Spread {
  return { value: value / base, quartiles: quartiles && [quartiles[0] / base, quartiles[1] / base] };
}

/** How many times it goes into `base`: a rate, or how many times as fast as what takes `base`. */
export function into(base: number, { value, quartiles }: Spread): Spread {
  return { value: base / value, quartiles: quartiles && [base / quartiles[1], base / quartiles[0]] };
}

/** `1.23 × (1.20–1.26)` */
export function told({ value, quartiles }: Spread, unit: string = "×", digits: number = 2): string {
  const range = quartiles && ` (${quartiles.map((quartile) => quartile.toFixed(digits)).join("–")})`;
  return `${value.toFixed(digits)} ${unit}${range ?? ""}`;
}
