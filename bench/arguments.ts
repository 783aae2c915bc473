/**
 * The command lines of benches and long tests: what they do not know ends them with one line, before they begin.
 *
 * @module
 */

import { parseArgs, type ParseArgsOptionsConfig } from "node:util";

/** The options given, of those known. */
export function readOptions<const O extends ParseArgsOptionsConfig>(
  options: O,
): ReturnType<typeof parseArgs<{ options: O }>>["values"] {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    refuse((error as Error).message);
  }
}

/** Ends the program: it was asked for something that it cannot do. */
export function refuse(why: string): never {
  console.error(`error: ${why}`);
  Deno.exit(2);
}
