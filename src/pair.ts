/**
 * The embedded pair: a small English target and its drafters, which every command uses unless told otherwise.
 * What they are, and how they were made, stands in `fixtures/pair/README.md`.
 *
 * @module
 */

/** Names of the embedded drafters, and their folders. */
const DRAFTERS: ReadonlyMap<string, string> = new Map([
  ["sedd-causal", "drafter-sedd-causal"],
  ["sedd", "drafter-sedd"],
  ["gpt2", "drafter-gpt2"],
]);

/** Names of the embedded drafters: `sedd-causal`, `sedd`, `gpt2`. */
export const embeddedDrafters: readonly string[] = [...DRAFTERS.keys()];

/** The folder of the embedded target. */
export function embeddedTarget(): URL {
  return embedded("target/");
}

/** The folder of an embedded drafter, or nothing if that is not the name of one. */
export function embeddedDrafter(name: string): URL | undefined {
  const folder = DRAFTERS.get(name);
  return folder === undefined ? undefined : embedded(`${folder}/`);
}

function embedded(path: string): URL {
  const url = new URL(`../fixtures/pair/${path}`, import.meta.url);
  if (url.protocol !== "file:") {
    throw new Error(
      "Cannot load the embedded pair: its weights are in the repository and not in the published package; " +
        "name a target folder, or run from a checkout",
    );
  }
  return url;
}
