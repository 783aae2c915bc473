/**
 * Indices that follow one another, so that what stands there can be copied or computed at once.
 *
 * @module
 */

/** Consecutive indices. */
export type Run = readonly [start: number, count: number];

/** Indices as runs, in their order. */
export function runs(indices: readonly number[]): Run[] {
  const found: [start: number, count: number][] = [];
  for (const index of indices) {
    const last = found.at(-1);
    if (last !== undefined && index === last[0] + last[1]) last[1]++;
    else found.push([index, 1]);
  }
  return found;
}

/** Where a token stands, ascending. */
export function indicesOf(tokens: Int32Array, token: number): number[] {
  const found: number[] = [];
  for (let i = 0; i < tokens.length; i++) if (tokens[i] === token) found.push(i);
  return found;
}
