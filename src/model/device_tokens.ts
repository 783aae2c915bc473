/**
 * Tokens that only the device knows, as it drew them itself, and how a pass takes them without the host.
 *
 * @module
 */

import type { Backend, TokenBuffer } from "../backend/backend.ts";
import { indicesOf, runs } from "./runs.ts";

/** Stands for a token that the host does not know. */
export const UNKNOWN: -1 = -1;

/** Tokens on the device: row r of a pass, where its id is {@linkcode UNKNOWN}, takes `tokens[r − at]`. */
export interface DeviceTokens {
  /** On the device that makes the pass, which must have {@linkcode Backend.decisions}. */
  readonly tokens: TokenBuffer;
  /** The row that the first of `tokens` may belong to. */
  readonly at: number;
}

/** Writes the ids of a pass: the host's, and copies of those that only the device knows. */
export function writeTokens(
  backend: Backend,
  to: TokenBuffer,
  ids: Int32Array,
  drafted?: DeviceTokens,
): void {
  if (drafted === undefined) return to.write(ids);
  to.write(ids.map((id) => id === UNKNOWN ? 0 : id));
  for (const [start, count] of runs(indicesOf(ids, UNKNOWN))) {
    const tokens = drafted.tokens.slice(start - drafted.at, count);
    backend.decisions!.copy(to.slice(start, count), tokens, count);
  }
}
