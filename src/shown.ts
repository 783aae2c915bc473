/**
 * How messages show what was found, in a file or in a call. Deliberately absent: what was expected, which those who
 * throw say themselves.
 *
 * @module
 */

/** The most characters of a value that a message shows. */
const BRIEF = 80;

/** A value of a file: JSON, cut where it is long. */
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

/** A value that a caller gave: text in quotes, so that `"1"` is not taken for 1. */
export function shown(value: unknown): string {
  if (typeof value === "function") return "a function";
  if (typeof value === "bigint") return `${value}n`;
  return typeof value === "string" || typeof value === "object" ? brief(value) : String(value);
}
