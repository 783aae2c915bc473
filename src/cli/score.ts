/**
 * `score`: the log-probability of a text under the target.
 *
 * @module
 */

import { decodeTokens } from "../hub/tokenizer.ts";
import { type Command, engineOptions, load, readTokensOrText } from "./command.ts";
import { printable, table } from "./terminal.ts";

/** The command. */
export const score: Command = {
  name: "score",
  words: "[TEXT]",
  summary: "Log-probability of each token of a text under the target, and the perplexity.",
  details: [
    "Logarithms are natural, at temperature 1. The first token has none, because nothing precedes it.",
    'Without TEXT, or with "-", the text is read from standard input without its final newline.',
    "--json prints {tokens, logprobs, perplexity}. logprobs[0] is null, as is the perplexity of a single token.",
  ],
  options: ["tokens", "target", "device", "dtype", "threads", "json"],
  examples: ['score "It was a dark and stormy night"', "score --target ./gpt2 --tokens 464,3290,318 --json"],
  async run(line, terminal) {
    const { values } = line;
    const text = await readTokensOrText(line, "TEXT", terminal);
    using engine = await load({ ...engineOptions(values, terminal), drafter: null }, terminal);
    const result = await engine.score(text);
    if (values.json) {
      terminal.out.line(JSON.stringify(result, null, 2));
      return;
    }
    const rows = result.tokens.map((token, i) => [
      values.tokens ? "" : printable(JSON.stringify(decodeTokens(engine.tokenizer, [token]))),
      String(token),
      result.logprobs[i]?.toFixed(4) ?? "",
    ]);
    for (const line of table([["token", "id", "logprob"], ...rows], 1)) terminal.out.line(line);
    const scored = result.tokens.length - 1; // all but the first
    terminal.out.line(
      scored === 0
        ? "no perplexity: there is only one token"
        : `perplexity ${result.perplexity.toPrecision(5)} over ${scored} tokens`,
    );
  },
};
