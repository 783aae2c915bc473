/**
 * JSON files that must hold an object: configurations, indices, tokenizers. It deliberately says nothing of what
 * should be in them.
 *
 * @module
 */

import { CheckpointError } from "../model/weights.ts";
import { readText } from "./files.ts";

/** Whether a JSON value is an object. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Reads a JSON file whose value is an object.
 * @throws {CheckpointError} if it is not
 * @throws {Deno.errors.NotFound} if there is no such file
 * @throws {Deno.errors.NotCapable} if the permission to read it is missing
 */
export async function readJson(path: string): Promise<Record<string, unknown>> {
  const text = await readText(path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(`Cannot read "${path}": it is not valid JSON (${(error as Error).message})`);
  }
  if (!isRecord(value)) throw new CheckpointError(`Cannot read "${path}": it is not a JSON object`);
  return value;
}
