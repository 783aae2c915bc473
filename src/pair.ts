/**
 * The embedded pair: a small English target and its drafters, the default of every command. Their model card is
 * `fixtures/pair/README.md`.
 *
 * @module
 */

import { type Checkpoint, openCheckpoint } from "./hub/checkpoint.ts";
import { toPath, withinFolder } from "./hub/files.ts";

/** Names of the embedded drafters. */
export const embeddedDrafters: readonly string[] = ["sedd-target", "sedd-causal", "sedd", "gpt2"];

/**
 * The folder of the embedded target.
 * @throws {Error} in a published package, which does not contain it
 */
export function embeddedTarget(): URL {
  return embedded("target/");
}

/**
 * The folder of an embedded drafter, or undefined if there is none of that name.
 * @throws {Error} as {@linkcode embeddedTarget}
 */
export function embeddedDrafter(name: string): URL | undefined {
  return embeddedDrafters.includes(name) ? embedded(`drafter-${name}/`) : undefined;
}

/**
 * Opens an embedded model by its folder. A missing permission is requested for the whole pair, because the tokenizer is
 * beside the folders and most callers load several models.
 *
 * @throws as {@linkcode openCheckpoint}
 */
export function openEmbedded(folder: URL): Promise<Checkpoint> {
  return withinFolder(toPath(new URL("..", folder)), () => openCheckpoint(folder));
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
