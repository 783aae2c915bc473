/**
 * `score`: how probable a text is under the target.
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
    "Logarithms are natural, at temperature 1; the first token has none, since nothing is left of it.",
    'Without TEXT, or with "-", it is read from standard input, and a newline at its end is dropped.',
    "--json prints {tokens, logprobs, perplexity}, where logprobs[0] is null, and so is the perplexity of one token.",
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
        ? "no perplexity: there is no token but the first"
        : `perplexity ${result.perplexity.toPrecision(5)} over ${scored} tokens`,
    );
  },
};
