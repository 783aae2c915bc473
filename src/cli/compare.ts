/**
 * `compare`: plain decoding and each drafter, measured in one run. `demo`: the same, after a text in colours.
 *
 * @module
 */

import type { Engine } from "../engine.ts";
import { embeddedDrafters } from "../pair.ts";
import { UsageError, type Values } from "./args.ts";
import {
  type Command,
  DECODE_OPTIONS,
  engineOptions,
  generateOptions,
  load,
  MODEL_OPTIONS,
  readText,
  requireUse,
} from "./command.ts";
import { positions, show } from "./generate.ts";
import { type Comparison, measure, type Row, usable } from "./measure.ts";
import { table, type Terminal } from "./terminal.ts";

/** Default prompts: the kind of prose that the embedded pair was trained on. */
export const PROMPTS: readonly string[] = [
  "It was a dark and stormy night, and the old house",
  "“My dear,” said Mr. Bennet to his wife one day, “have you",
  "The captain looked at the sea for a long time before he",
];

/** Default tokens per run of `compare` and `demo`. */
const MAX_TOKENS = 96;
/** Default number of runs. */
const REPETITIONS = 3;

/** The command `compare`. */
export const compare: Command = {
  name: "compare",
  words: "[PROMPT…]",
  summary: "Measure plain decoding and each drafter, taking turns in one run.",
  details: [
    'A PROMPT of "-" is read from standard input. The default is three built-in prompts.',
    "Every method continues the same prompts with the same seeds, one per run. tokens/s is the speed of decoding",
    "without the prompt, the median over all runs; the speed-up is the median of the ratios to plain decoding, run by",
    "run, and their quartiles. τ is the mean number of tokens per round, including the corrected or bonus token.",
    "Milliseconds are per round. Under the rule coupled, the text must equal plain decoding token for token.",
    "Whatever the rule of a row, each prompt is also continued under coupled and compared; a difference is a",
    "failure. Each drafter gets only the options that it uses.",
    "--json prints {machine, settings, rows: [{method, tokensPerSecond, meanAcceptanceLength, …}]}.",
  ],
  options: [...MODEL_OPTIONS, ...DECODE_OPTIONS, "repetitions", "json"],
  examples: [
    "compare",
    "compare --drafter sedd-causal,ngram --gamma 4 --repetitions 5",
    'compare "Call me Ishmael." --max-tokens 64 --json',
  ],
  async run({ words, values }, terminal) {
    if (words.indexOf("-") !== words.lastIndexOf("-")) {
      throw new UsageError('"-" is given more than once, expected standard input to be one PROMPT');
    }
    const prompts = await Promise.all(words.map((word) => readText([word], "PROMPT", terminal)));
    using engine = await loadAll(values, terminal);
    requireUse(engine, generateOptions(values));
    await report(
      engine,
      prompts.length > 0 ? prompts : PROMPTS,
      values.repetitions ?? REPETITIONS,
      values,
      terminal,
    );
  },
};

/** The command `demo`. */
export const demo: Command = {
  name: "demo",
  words: "[PROMPT]",
  summary: "Watch a text being speculated, then measure the speed-up.",
  details: [
    "Continues PROMPT, or a built-in one, in the colours of generate --show-draft, then prints the table of compare",
    "on PROMPT and the built-in ones.",
  ],
  options: [...MODEL_OPTIONS, ...DECODE_OPTIONS, "color"],
  examples: ["demo", 'demo "The last train had gone, and" --temperature 0.8'],
  async run({ words, values }, terminal) {
    const prompt = words.length > 0 ? await readText(words, "PROMPT", terminal) : PROMPTS[0];
    using engine = await loadAll(values, terminal);
    const options = generateOptions(values);
    requireUse(engine, options);
    await show(engine, prompt, usable(engine, options), terminal, true);
    terminal.out.line();
    await report(engine, words.length > 0 ? [prompt, ...PROMPTS] : PROMPTS, REPETITIONS, values, terminal);
  },
};

/** An engine, by default with all embedded drafters. */
function loadAll(values: Values, terminal: Terminal): Promise<Engine> {
  const options = engineOptions(values, terminal);
  const embedded = values.target === undefined && values.drafter === undefined;
  return load(embedded ? { ...options, drafter: embeddedDrafters } : options, terminal);
}

/**
 * Measures, and prints the comparison.
 * @throws {Error} if a text under `coupled` differs from plain decoding
 */
export async function report(
  engine: Engine,
  prompts: readonly string[],
  repetitions: number,
  values: Values,
  { out, err }: Terminal,
): Promise<void> {
  const settings = {
    ...{ prompts, repetitions },
    maxTokens: values["max-tokens"] ?? MAX_TOKENS,
    options: generateOptions(values),
  };
  const comparison = await measure(engine, settings, (text) => err.progress(text));
  err.progress("");
  if (values.json) out.line(JSON.stringify(comparison, null, 2));
  else for (const line of render(comparison)) out.line(line);
  const wrong = comparison.rows.filter((row) => row.equalsPlainUnderCoupled === false).map(({ method }) =>
    method
  );
  if (wrong.length > 0) {
    throw new Error(
      `Cannot vouch for ${
        wrong.join(", ")
      }: the text under coupled differs from plain decoding, expected the same; please report this with the ` +
        "machine named above",
    );
  }
}

/** Whether the text under coupled equals plain decoding; not stated as a success for lossy texts. */
function comparedWithPlain({ equalsPlainUnderCoupled, exactness }: Row): string {
  if (equalsPlainUnderCoupled === null) return "";
  if (!equalsPlainUnderCoupled) return "NO";
  return exactness === "lossy" ? "–" : "yes";
}

/** The comparison as a table, and the machine. */
function render({ machine, settings, rows }: Comparison): string[] {
  const lossy = rows.some((row) => row.exactness === "lossy");
  return [
    ...table([
      [
        "method",
        "γ",
        "rule",
        "tokens/s",
        "speed-up",
        "τ",
        "accepted",
        "ms/round",
        "coupled = plain",
      ],
      ...rows.map((row) => [
        row.exactness === "lossy" ? `${row.method} (lossy)` : row.method,
        row.drafter === null
          ? ""
          : row.gamma === "auto"
          ? `auto ${row.meanGamma.toFixed(1)}`
          : String(row.gamma),
        row.drafter === null ? "" : row.rule,
        row.tokensPerSecond.toFixed(1),
        row.drafter === null
          ? "1.00×"
          : `${row.speedup.toFixed(2)}× (${row.speedupQuartiles.map((ratio) => ratio.toFixed(2)).join("–")})`,
        row.meanAcceptanceLength.toFixed(2),
        positions(row.acceptanceRatePerPosition),
        `${row.msPerRound.draft.toFixed(2)} + ${row.msPerRound.verify.toFixed(2)}`,
        comparedWithPlain(row),
      ]),
    ], 1),
    "",
    ...(rows.some(({ gamma }) => gamma === "auto")
      ? [
        "auto: γ was chosen for each round, and T if a drafter offers several; the number is the mean γ, 0 without a draft",
      ]
      : []),
    "speed-up: over plain decoding of the same prompt and seed, the median of the runs (and quartiles);",
    "τ: tokens per round; accepted: acceptance rates at positions 1, 2, …;",
    "ms/round: drafter + target;",
    "coupled = plain: whether the text under the rule coupled, in an extra run, equals plain decoding",
    `Prompts: ${settings.prompts.length}; runs on each: ${settings.repetitions}; seeds: one per run, from ${settings.seed}; ` +
    `tokens: at most ${settings.maxTokens} each; ${
      lossy ? "a lossy text does not have" : "every text has"
    } the target's distribution`,
    ...(Object.keys(settings.options).length > 0
      ? [
        `Options: ${JSON.stringify(settings.options).slice(1, -1).replaceAll('"', "").replaceAll(",", ", ")}`,
      ]
      : []),
    [
      machine.cpu,
      `${machine.cores} cores`,
      `${machine.os} ${machine.arch}`,
      `Deno ${machine.deno}`,
      machine.device,
      `target held as ${settings.dtype}`,
    ].filter((field) => field !== null).join(", "),
  ];
}
