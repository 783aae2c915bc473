/**
 * `generate`: streams a text. Only the text goes to standard output; everything about it goes to standard error.
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
  summary: "Continue a text with speculative decoding, from exactly the target's distribution.",
  details: [
    'Without PROMPT, or with "-", the text is read from standard input without its final newline.',
    "With --tokens, input and output are token ids, and the target needs no tokenizer.",
    "--show-draft distinguishes accepted tokens (drafted, and accepted by the target) from corrected ones (the",
    "target's own, replacing a rejected token) and bonus ones (the target's own, after a fully accepted draft).",
    "--json prints {text, tokens, stats}; stats.dtype is the precision of the target's weights.",
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
 * Streams a text to standard output, or token ids if the prompt is token ids.
 * @param draft whether to colour tokens by origin, with a legend and statistics on standard error
 */
export async function show(
  engine: Engine,
  prompt: string | readonly number[],
  options: GenerateOptions,
  { out, err }: Terminal,
  draft: boolean,
): Promise<Generation> {
  // a model may generate control sequences
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
    // only in a terminal is the prompt repeated before the text
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

/** The legend of the colours. */
function legend(output: Output): string {
  return output.color
    ? (["accepted", "corrected", "bonus"] as const).map((origin) => output.styled(origin, origin)).join("  ")
    : "Colours are off: the output is not a terminal, or NO_COLOR is set; --color turns them on";
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

/** Acceptance rates, one per position: `.61 .54 .50`. */
export function positions(rates: readonly number[]): string {
  return rates.map((rate) => rate.toFixed(2).replace(/^0/, "")).join(" ");
}
