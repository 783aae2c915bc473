/**
 * Formats values for error messages.
 *
 * @module
 */

/** The maximum number of characters of a value in a message. */
const BRIEF = 80;

/** A value from a file: JSON, truncated if it is long. */
export function brief(value: unknown): string {
  let json: string;
  try {
    json = JSON.stringify(value, (_, inner) => typeof inner === "bigint" ? `${inner}n` : inner) ??
      String(value);
  } catch {
    return "a value too deeply nested to be shown";
  }
  return json.length > BRIEF ? `${json.slice(0, BRIEF)}…` : json;
}

/** An argument: text in quotes, so that `"1"` differs from 1. */
export function shown(value: unknown): string {
  if (typeof value === "function") return "a function";
  if (typeof value === "bigint") return `${value}n`;
  return typeof value === "string" || typeof value === "object" ? brief(value) : String(value);
}
