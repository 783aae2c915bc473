/**
 * The embedded pair: a small English target and its drafters, which every command uses unless told otherwise.
 * What they are, and how they were made, stands in `fixtures/pair/README.md`.
 *
 * @module
 */

/** Names of the embedded drafters. */
export const embeddedDrafters: readonly string[] = ["sedd-target", "sedd-causal", "sedd", "gpt2"];

/**
 * The folder of the embedded target.
 * @throws {Error} from a published package, which has none
 */
export function embeddedTarget(): URL {
  return embedded("target/");
}

/**
 * The folder of an embedded drafter, or nothing if that is not the name of one.
 * @throws {Error} as {@linkcode embeddedTarget}
 */
export function embeddedDrafter(name: string): URL | undefined {
  return embeddedDrafters.includes(name) ? embedded(`drafter-${name}/`) : undefined;
}

function embedded(path: string): URL {
  const url = new URL(`../fixtures/pair/${path}`, import.meta.url);
  if (url.protocol !== "file:" || url.pathname.includes("/node_modules/")) {
    throw new Error(
      "Cannot load the embedded pair: its weights are in the repository and not in the published package; clone " +
        "the repository and name the folder fixtures/pair/target as the target, or name another model",
    );
  }
  return url;
}
