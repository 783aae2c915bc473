/**
 * Errors that kernels write in place of a result, as `ffi/kernels/faults.cuh` encodes them. Deliberately absent: faults
 * of shapes, which are found before anything is enqueued.
 *
 * @module
 */

import { LogitsError } from "../distribution.ts";

/** The bits of a NaN without a payload. */
const NAN = 0x7fc00000;

/**
 * Checks ids that were read.
 * @throws {LogitsError} if a token could not be drawn, as its logits define no law
 * @throws {RangeError} if it could not be drawn for another reason
 */
export function checkDrawn(ids: Int32Array): void {
  const fault = ids.find((id) => id >>> 30 === 2);
  if (fault !== undefined) throw faultOf(fault & 7, fault << 2 >> 5);
}

/**
 * Checks rows that were read, one each `stride` entries.
 * @throws {LogitsError} if the logits of a row define no law
 */
export function checkLaws(values: Float32Array, stride: number): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let at = 0; at < bits.length; at += stride) {
    if (bits[at] > NAN && bits[at] <= NAN + 0x1fffff) throw faultOf(0, bits[at] - NAN);
  }
}

/** The codes are those of `faults.cuh`. */
function faultOf(code: number, detail: number): RangeError {
  const drafted = code >= 6; // of a draft that was tested
  switch (code) {
    case 0:
    case 6:
      return new LogitsError(
        detail < 3
          ? `the largest logit is ${detail === 1 ? -Infinity : Infinity}`
          : `the logit of token ${detail - 3} is not a number`,
        undefined,
        drafted,
      );
    case 2:
      return new RangeError("Cannot use a law: an entry is negative");
    case 3:
      return new RangeError(
        `Cannot use a law: it sums to ${
          new Float32Array(Int32Array.of(detail << 5).buffer)[0]
        }, expected a positive finite number`,
      );
    case 4:
      return new RangeError(
        `Cannot verify a draft: token ${detail} has probability 0 in the law it was drawn from`,
      );
    case 5:
      return new RangeError(`Cannot embed token ${detail}: the table has no such id`);
    default:
      return new RangeError("Cannot draw a token: no weight is positive");
  }
}
