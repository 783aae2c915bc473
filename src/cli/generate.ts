/**
 * `generate`: a text, as it comes. The text alone goes to standard output; what is said about it does not.
 *
 * @module
 */

import type { Statistics } from "../decode/metrics.ts";
import type { Engine, GenerateOptions, Generation, Piece } from "../engine.ts";
import { UsageError } from "./args.ts";
import {
  type Command,
  DECODE_OPTIONS,
  engineOptions,
  generateOptions,
  load,
  MODEL_OPTIONS,
  readTokensOrText,
  requireUse,
} from "./command.ts";
import { type Output, printable, type Terminal } from "./terminal.ts";

/** The command. */
export const generate: Command = {
  name: "generate",
  words: "[PROMPT]",
  summary: "Continue a text, as fast as the drafter allows and with the law of the target alone.",
  details: [
    'Without PROMPT, or with "-", the text is read from standard input, and a newline at its end is dropped.',
    "With --tokens, token ids go in and token ids come out, and the target needs no tokenizer.",
    "--show-draft tells accepted tokens (drafted, and kept by the target) from corrected ones (the target's own,",
    "in place of a rejected one) and bonus ones (the target's own, after a draft that was kept as a whole).",
    "--json prints {text, tokens, stats}; stats.dtype is how the target's weights are held.",
  ],
  options: [...MODEL_OPTIONS, ...DECODE_OPTIONS, "stop", "tokens", "show-draft", "color", "json"],
  examples: [
    'generate "It was a dark and stormy night" --show-draft',
    "generate --max-tokens 50 --seed 7 --json < prompt.txt",
    "generate --target ./gpt2-large --drafter ./sedd-small --gamma 8 --temperature 0 - < prompt.txt",
    'generate --target openai-community/gpt2 --drafter louaaron/sedd-small "In a shocking finding,"',
    'generate --target ./gpt2-xl --drafter ./sedd-small --device cuda:0 --draft-device cuda:1 "It was"',
  ],
  async run(line, terminal) {
    const { values } = line;
    if ((values.drafter?.length ?? 0) > 1) throw new UsageError("--drafter names several, expected one");
    if (values.json && values["show-draft"]) {
      throw new UsageError("both --json and --show-draft are given, expected one of them");
    }
    if (values.color && !values["show-draft"]) {
      throw new UsageError("--color is given without --show-draft, which colours the text");
    }
    const prompt = await readTokensOrText(line, "PROMPT", terminal);
    using engine = await load(engineOptions(values, terminal), terminal);
    const options = generateOptions(values);
    requireUse(engine, options);
    if (values.json) {
      const { text, tokens, stats } = await engine.generate(prompt, options);
      const all = { text, tokens, stats: { dtype: engine.dtype, ...stats } };
      terminal.out.line(JSON.stringify(all, null, 2));
    } else {
      await show(engine, prompt, options, terminal, values["show-draft"] ?? false);
    }
  },
};

/**
 * Streams a text to standard output, or token ids if that is what the prompt is.
 * @param draft whether to tell the tokens' origins by colour, between a legend and statistics on standard error
 */
export async function show(
  engine: Engine,
  prompt: string | readonly number[],
  options: GenerateOptions,
  { out, err }: Terminal,
  draft: boolean,
): Promise<Generation> {
  // what a terminal would take for a command, a model may well say
  const safe = (text: string) => out.isTerminal ? printable(text) : text;
  let separator = "";
  const shown = ({ token, text }: Piece) => {
    if (typeof prompt === "string") return safe(text);
    const id = `${separator}${token}`;
    separator = ",";
    return id;
  };
  if (draft) {
    if (options.drafter !== null && engine.drafters.length > 0) err.line(legend(err));
    // to a person the text continues the prompt; elsewhere it stands alone
    if (out.isTerminal) {
      out.write(out.styled("dim", typeof prompt === "string" ? safe(prompt) : `${prompt.join(",")},`));
    }
  }
  const stream = engine.stream(prompt, options);
  try {
    for (;;) {
      const { done, value } = await stream.next();
      if (done) {
        out.endLine();
        if (draft) err.line(describe(value.stats));
        return value;
      }
      for (const piece of value.pieces) {
        const text = shown(piece), { origin } = piece;
        out.write(draft && origin !== "target" ? out.styled(origin, text) : text);
      }
    }
  } finally {
    out.endLine();
  }
}

/** What the colours mean. */
function legend(output: Output): string {
  return output.color
    ? (["accepted", "corrected", "bonus"] as const).map((origin) => output.styled(origin, origin)).join("  ")
    : "Colours are off: the output is no terminal, or NO_COLOR is set; --color turns them on";
}

/** Statistics in one line. */
export function describe(stats: Statistics): string {
  const ended = stats.finishReason === "context" ? " up to the end of the context" : "";
  const speed = `${stats.tokens} tokens${ended}, ${stats.tokensPerSecond.toFixed(1)} tokens/s`;
  if (stats.rule === "none") return `${speed}, plain decoding, seed ${stats.seed}`;
  return [
    speed,
    `τ ${stats.meanAcceptanceLength.toFixed(2)} tokens per round`,
    stats.draftTokens === 0
      ? "nothing drafted"
      : `accepted at positions 1, 2, …: ${positions(stats.acceptanceRatePerPosition)}`,
    `${stats.drafter}`,
    `γ ${stats.meanGamma.toFixed(1)} on average`,
    `${stats.meanDraftPasses.toFixed(1)} passes of the drafter per draft`,
    `${stats.plainRounds} of ${stats.rounds} rounds without a draft`,
    `rule ${stats.rule} (${stats.exactness})`,
    `seed ${stats.seed}`,
  ].join(", ");
}

/** Rates of acceptance, one per position: `.61 .54 .50`. */
export function positions(rates: readonly number[]): string {
  return rates.map((rate) => rate.toFixed(2).replace(/^0/, "")).join(" ");
}
