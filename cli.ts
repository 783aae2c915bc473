/**
 * The command line of specdiff: `deno run --allow-read cli.ts --help` says what it does. A program, not a library:
 * what it does can be had from the package's main module.
 *
 * ```sh
 * deno run --allow-read cli.ts generate "It was a dark and stormy night" --show-draft
 * ```
 *
 * @module
 */

import { main } from "./src/cli/main.ts";

if (import.meta.main) Deno.exit(await main(Deno.args));
