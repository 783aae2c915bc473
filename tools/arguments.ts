/**
 * The command lines of benchmarks and long tests: an unknown option ends them with one line, before they begin.
 *
 * @module
 */

import { parseArgs, type ParseArgsOptionsConfig } from "node:util";

/** The given options. */
export function readOptions<const O extends ParseArgsOptionsConfig>(
  options: O,
): ReturnType<typeof parseArgs<{ options: O }>>["values"] {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    refuse((error as Error).message);
  }
}

/** Ends the program with an error in one line. */
export function refuse(why: string): never {
  console.error(`error: ${why}`);
  Deno.exit(2);
}
