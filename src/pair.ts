/**
 * The embedded pair: a small English target and its drafters, which every command uses unless told otherwise.
 * What they are, and how they were made, stands in `fixtures/pair/README.md`.
 *
 * @module
 */

/** An embedded drafter. */
export interface EmbeddedDrafter {
  /** Its folder. */
  readonly folder: URL;
  /** γ at which it was fastest on two cores (`deno task bench`, see the README). */
  readonly gamma: number;
}

const DRAFTERS: ReadonlyMap<string, { readonly folder: string; readonly gamma: number }> = new Map([
  ["sedd-causal", { folder: "drafter-sedd-causal", gamma: 3 }],
  ["sedd", { folder: "drafter-sedd", gamma: 2 }],
  ["gpt2", { folder: "drafter-gpt2", gamma: 3 }],
]);

/** Names of the embedded drafters: `sedd-causal`, `sedd`, `gpt2`. */
export const embeddedDrafters: readonly string[] = [...DRAFTERS.keys()];

/**
 * The folder of the embedded target.
 * @throws {Error} from a published package, which has none
 */
export function embeddedTarget(): URL {
  return embedded("target/");
}

/**
 * An embedded drafter, or nothing if that is not the name of one.
 * @throws {Error} as {@linkcode embeddedTarget}
 */
export function embeddedDrafter(name: string): EmbeddedDrafter | undefined {
  const drafter = DRAFTERS.get(name);
  return drafter && { folder: embedded(`${drafter.folder}/`), gamma: drafter.gamma };
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
