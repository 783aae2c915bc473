/** The engine that most of its tests use: the embedded pair with all of its drafters. */

import { type Engine, loadEngine } from "../mod.ts";

export const PROMPT = "It was a dark and stormy night; the captain";
export const ALL = ["sedd-target", "sedd-causal", "sedd", "gpt2", "ngram"] as const;

/** Calls `body` with an engine that is disposed of afterwards. */
export async function withEngine(body: (engine: Engine) => Promise<void>, threads?: number): Promise<void> {
  using engine = await loadEngine({ drafter: ALL, threads });
  await body(engine);
}
