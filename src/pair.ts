/**
 * The embedded pair: a small English target and its drafters, which every command uses unless told otherwise.
 * What they are, and how they were made, stands in `fixtures/pair/README.md`.
 *
 * @module
 */

import type { Rule } from "./decode/acceptance.ts";

/** With what an embedded drafter was fastest on two cores (`deno task bench`, see the README). */
export interface EmbeddedSettings {
  /** γ */
  readonly gamma: number;
  /** The most tokens of the text it sees: more hardly raises acceptance, and costs. */
  readonly draftContext?: number | undefined;
  /** The rule, where it is not `ordered`. */
  readonly rule?: Rule | undefined;
}

/** An embedded drafter. */
export interface EmbeddedDrafter extends EmbeddedSettings {
  /** Its folder. */
  readonly folder: URL;
}

const DRAFTERS: ReadonlyMap<string, EmbeddedSettings & { readonly folder: string }> = new Map([
  ["sedd-target", { folder: "drafter-sedd-target", gamma: 2, rule: "block" }],
  ["sedd-causal", { folder: "drafter-sedd-causal", gamma: 2, draftContext: 32, rule: "block" }],
  ["sedd", { folder: "drafter-sedd", gamma: 1, draftContext: 8, rule: "block" }],
  ["gpt2", { folder: "drafter-gpt2", gamma: 2, rule: "block" }],
]);

/** Names of the embedded drafters. */
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
  return drafter && { ...drafter, folder: embedded(`${drafter.folder}/`) };
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
