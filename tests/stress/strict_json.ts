/**
 * JSON read by the letter of RFC 8259, and without duplicate names: an account of a file that shares nothing with
 * the one under test. Slow, and deliberately so simple that it can be believed.
 *
 * @module
 */

/** A JSON value; objects are maps, so that no name is special. */
export type Json = null | boolean | number | string | readonly Json[] | ReadonlyMap<string, Json>;

/** Parses a text. @throws {SyntaxError} if it is not JSON, names something twice, or is nested 500 deep */
export function parseStrictly(text: string): Json {
  let at = 0;
  const fail = (): never => {
    throw new SyntaxError(`no JSON at ${at}`);
  };
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    if (found !== undefined) at += found.length;
    return found;
  };
  const token = (expected: string): boolean => {
    match(/[ \t\r\n]*/y);
    if (!text.startsWith(expected, at)) return false;
    at += expected.length;
    return true;
  };
  const string = (): string => {
    match(/[ \t\r\n]*/y);
    // deno-lint-ignore no-control-regex
    const found = match(/"(?:[^"\\\0-\x1f]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"/y) ?? fail();
    const named: Record<string, string> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
    return found.slice(1, -1).replace(
      /\\(?:u(....)|(.))/g,
      (_, hex, letter) =>
        hex === undefined ? named[letter] ?? letter : String.fromCharCode(parseInt(hex, 16)),
    );
  };
  const value = (depth: number): Json => {
    if (depth > 500) fail();
    if (token("{")) {
      const members = new Map<string, Json>();
      if (token("}")) return members;
      do {
        const name = string();
        if (members.has(name) || !token(":")) fail();
        members.set(name, value(depth + 1));
      } while (token(","));
      return token("}") ? members : fail();
    }
    if (token("[")) {
      const items: Json[] = [];
      if (token("]")) return items;
      do items.push(value(depth + 1)); while (token(","));
      return token("]") ? items : fail();
    }
    for (const [word, meaning] of [["null", null], ["true", true], ["false", false]] as const) {
      if (token(word)) return meaning;
    }
    if (text[at] === '"') return string();
    return Number(match(/-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y) ?? fail());
  };
  const whole = value(0);
  match(/[ \t\r\n]*/y);
  return at === text.length ? whole : fail();
}
