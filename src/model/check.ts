/**
 * Checks that every model makes before it computes anything.
 *
 * Deliberately absent: what a checkpoint must hold (`weights.ts`, `config.ts`).
 *
 * @module
 */

import { type DeviceTokens, UNKNOWN } from "./device_tokens.ts";

/**
 * @param tokens at least one
 * @param vocabSize the ids allowed are those below it
 * @param drafted tokens in place of ids that only the device knows
 * @throws {RangeError} naming the first that is not allowed, and where it stands
 */
export function checkTokens(tokens: ArrayLike<number>, vocabSize: number, drafted?: DeviceTokens): void {
  if (tokens.length === 0) throw new RangeError("Cannot run the model: there are no tokens");
  for (let i = 0; i < tokens.length; i++) {
    if (drafted !== undefined && tokens[i] === UNKNOWN) {
      if (i >= drafted.at && i < drafted.at + drafted.tokens.capacity) continue;
    }
    if (!(Number.isInteger(tokens[i]) && tokens[i] >= 0 && tokens[i] < vocabSize)) {
      throw new RangeError(
        `Cannot run the model: token ${tokens[i]} at index ${i} is not in [0, ${vocabSize})`,
      );
    }
  }
}

/** @throws {RangeError} unless 1 ≤ headRows ≤ rows */
export function checkHeadRows(headRows: number, rows: number): void {
  if (!(Number.isInteger(headRows) && headRows >= 1 && headRows <= rows)) {
    throw new RangeError(
      `Cannot run the model: headRows is ${headRows}, expected an integer within [1, ${rows}]`,
    );
  }
}

/** @throws {RangeError} unless `head` names at least one of `rows` rows, in ascending order */
export function checkHead(head: readonly number[], rows: number): void {
  const inOrder = head.every((row, i) =>
    Number.isInteger(row) && row >= 0 && row < rows && (i === 0 || row > head[i - 1])
  );
  if (head.length === 0 || !inOrder) {
    throw new RangeError(
      `Cannot run the model: head is [${head}], expected ascending rows within [0, ${rows}), at least one`,
    );
  }
}

/**
 * @param what is limited, for the message
 * @throws {RangeError} unless `rows` positions after `length` are within the capacity
 */
export function checkRoom(what: "context" | "cache", length: number, rows: number, capacity: number): void {
  if (length + rows > capacity) {
    throw new RangeError(
      `Cannot run the model: positions [${length}, ${length + rows}) do not fit the ${what} of ${capacity}`,
    );
  }
}
