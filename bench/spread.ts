/**
 * Medians with quartiles, and ratios of interleaved measurements. All ratios in reports are computed and formatted
 * here, so that each comes with its spread if that was measured.
 *
 * @module
 */

import { quantile } from "../src/cli/measure.ts";

/** A median with the first and third quartile. */
export interface Spread {
  readonly value: number;
  /** Absent in reports that did not record them. */
  readonly quartiles?: readonly [number, number] | undefined;
}

/** The spread of measurements. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  return { value: quantile(sorted, 0.5), quartiles: [quantile(sorted, 0.25), quantile(sorted, 0.75)] };
}

/** The spread of ratios of two interleaved measurements, turn by turn: a disturbance affects both. */
export function perTurn(above: readonly number[], below: readonly number[]): Spread {
  return spreadOf(above.map((value, turn) => value / below[turn]));
}

/** The spread divided by `base`. */
export function over({ value, quartiles }: Spread, base: number): Spread {
  return { value: value / base, quartiles: quartiles && [quartiles[0] / base, quartiles[1] / base] };
}

/** `base` divided by the spread: a rate, or a speed relative to `base`. */
export function into(base: number, { value, quartiles }: Spread): Spread {
  return { value: base / value, quartiles: quartiles && [base / quartiles[1], base / quartiles[0]] };
}

/** `1.23 × (1.20–1.26)` */
export function told({ value, quartiles }: Spread, unit: string = "×", digits: number = 2): string {
  const range = quartiles && ` (${quartiles.map((quartile) => quartile.toFixed(digits)).join("–")})`;
  return `${value.toFixed(digits)} ${unit}${range ?? ""}`;
}
