/**
 * The command line of specdiff; `deno run --allow-read cli.ts --help` lists its commands. This is a program, not a
 * library: import the package's main module instead.
 *
 * ```sh
 * deno run --allow-read cli.ts generate "It was a dark and stormy night" --show-draft
 * ```
 *
 * @module
 */

import { main } from "./src/cli/main.ts";

if (import.meta.main) Deno.exit(await main(Deno.args));
