/**
 * The options of the command line: what each is called, what it takes, and how its text becomes a value. The
 * help is made from the same table. It deliberately knows nothing of what the commands do with them, and sets no
 * defaults: those are the library's and the commands'.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { dtypes } from "../backend/backend.ts";
import { type Device, devices, isDevice } from "../backend/create.ts";
import { DEFAULT_RULE, type Rule, rules } from "../decode/acceptance.ts";
import { contextCaches } from "../decode/diffusion_drafter.ts";
import { revealOrders } from "../decode/reveal.ts";
import { embeddedDrafters } from "../pair.ts";

/** A command line that cannot be carried out as written. */
export class UsageError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "UsageError";
}

/** One option. */
interface Option<T> {
  /** What stands for its value in the help; absent: it takes none. */
  readonly value?: string;
  /** One line of help. */
  readonly help: string;
  /** What a value must be, for messages. */
  readonly expected: string;
  /** The value of a text, given that of an earlier occurrence; `undefined` if the text is not what is expected. */
  parse(text: string, previous: T | undefined): T | undefined;
}

function flag(help: string): Option<boolean> {
  return { help, expected: "no value", parse: () => true };
}

function text(value: string, help: string): Option<string> {
  return { value, help, expected: "some text", parse: (text) => text || undefined };
}

function choice<T extends string>(help: string, names: readonly T[]): Option<T> {
  return {
    value: names.join("|"),
    help,
    expected: `one of ${names.join(", ")}`,
    parse: (text) => names.find((name) => name === text),
  };
}

function number(help: string, expected: string, accepts: (x: number) => boolean): Option<number> {
  return {
    value: expected.includes("integer") ? "N" : "X",
    help,
    expected,
    parse(text) {
      const x = text.trim() === "" ? NaN : Number(text);
      return accepts(x) ? x : undefined;
    },
  };
}

function count(help: string): Option<number> {
  return number(help, "an integer of at least 1", (n) => Number.isSafeInteger(n) && n >= 1);
}

const SEED: Option<bigint> = {
  value: "N",
  help: "the same seed gives the same text (default: a fresh one; compare: 1 and on)",
  expected: "an integer in [0, 2^64)",
  parse(text) {
    if (!/^(\d+|0x[\da-f]+)$/i.test(text)) return undefined;
    const seed = BigInt(text);
    return seed < 1n << 64n ? seed : undefined;
  },
};

const SIGMA: Option<number | "schedule"> = {
  value: "X|schedule",
  help: "noise level the diffusion drafter is told (default: that of a text all masked)",
  expected: "a positive number, or schedule",
  parse(text) {
    if (text === "schedule") return text;
    const sigma = Number(text);
    return sigma > 0 && sigma < Infinity ? sigma : undefined;
  },
};

const GAMMA: Option<number | "auto"> = {
  value: "N|auto",
  help:
    "γ, tokens drafted per round; auto: by what pays (default: what suits the drafter by its config.json, else 4)",
  expected: "an integer of at least 1, or auto",
  parse(text) {
    if (text === "auto") return text;
    const gamma = text.trim() === "" ? NaN : Number(text);
    return Number.isSafeInteger(gamma) && gamma >= 1 ? gamma : undefined;
  },
};

const TOKENS: Option<number[]> = {
  value: "N,N,…",
  help: "token ids in place of a text",
  expected: "token ids, as in 1,2,3",
  parse: (text) => /^\s*\d+(\s*,\s*\d+)*\s*$/.test(text) ? text.split(",").map(Number) : undefined,
};

function deviceOption(help: string): Option<Device> {
  return {
    value: `${devices.join("|")}|cuda:N`,
    help,
    expected: `one of ${devices.join(", ")}, cuda:N`,
    parse: (text) => isDevice(text) ? text : undefined,
  };
}

const ruleOption: Option<Rule> = choice(
  `acceptance rule (default: ${DEFAULT_RULE}; ratio takes drafts made left to right or at once, paper is lossy)`,
  rules,
);

const OPTIONS = {
  target: text(
    "FOLDER|NAME",
    "target checkpoint, or owner/name[@revision] on a hub (default: the embedded one)",
  ),
  drafter: {
    value: "NAME",
    help:
      `a folder, owner/name, ${embeddedDrafters.join(", ")}, ngram, or none; compare takes several, as in ` +
      `sedd,ngram (default: none with a --target, else ${
        embeddedDrafters[0]
      }; compare and demo: all of those named)`,
    expected: "a folder, a name, or none",
    parse: (text: string, previous: string[] = []) =>
      text.split(",").every((name) => name !== "") ? [...previous, ...text.split(",")] : undefined,
  },
  device: deviceOption("where to compute (default: auto, the fastest present)"),
  "draft-device": deviceOption("where the drafters compute (default: auto, where the target does)"),
  dtype: choice("how the target's weights are held (default: as its checkpoint has them)", dtypes),
  "drafter-dtype": choice("how the drafters' weights are held (default: int8; on a GPU f16)", dtypes),
  threads: count("threads of the CPU (default: its cores); the text does not depend on it"),
  rule: ruleOption,
  gamma: GAMMA,
  steps: count(
    "T, denoising steps per draft of a diffusion drafter, γ at most (default: 1; where γ is auto, what pays)",
  ),
  order: choice(
    "which masks a denoising step opens, where there are several (default: left-to-right)",
    revealOrders,
  ),
  "draft-context": count(
    "the most tokens of the text a diffusion drafter sees (default: what suits it by its config.json, else all)",
  ),
  "context-cache": choice("what a bidirectional drafter keeps of the text (default: none)", contextCaches),
  sigma: SIGMA,
  "hot-start": flag(
    "a diffusion drafter begins a draft with what was left of the one before, from --gamma 3 on",
  ),
  temperature: number(
    "0 takes the likeliest token (default: 1)",
    "a number of at least 0",
    (x) => x >= 0 && x < Infinity,
  ),
  "top-k": number(
    "keep the k likeliest tokens; 0 keeps all (default: 0)",
    "an integer of at least 0",
    (n) => Number.isSafeInteger(n) && n >= 0,
  ),
  "top-p": number(
    "keep the likeliest tokens that make up this share (default: 1)",
    "a number in (0, 1]",
    (x) => x > 0 && x <= 1,
  ),
  seed: SEED,
  "max-tokens": count("the most tokens to generate (default: 128; compare: 96 per run)"),
  stop: {
    value: "TEXT",
    help: "a text that ends the generation and is not part of it; may be repeated",
    expected: "some text",
    parse: (text: string, previous: string[] = []) => text === "" ? undefined : [...previous, text],
  },
  repetitions: count("runs of each method on each prompt (default: 3)"),
  tokens: TOKENS,
  "show-draft": flag("colour the tokens by where they came from, with statistics on standard error"),
  color: flag("colour even where NO_COLOR is set or the output is no terminal"),
  json: flag("print one JSON object and nothing else"),
  help: flag("print this help"),
  version: flag("print the version"),
};

/** Name of an option, without the dashes. */
export type OptionName = keyof typeof OPTIONS;

/** Values of the options that were given. */
export type Values = {
  [Name in OptionName]?: typeof OPTIONS[Name] extends Option<infer T> ? T
    : NonNullable<ReturnType<typeof OPTIONS[Name]["parse"]>>;
};

/** A command line, taken apart. */
export interface CommandLine {
  /** The first word that is no option: the command. */
  readonly command: string | undefined;
  /** The other words. */
  readonly words: readonly string[];
  /** The options. */
  readonly values: Readonly<Values>;
}

/** Short forms of options. */
const SHORT: Readonly<Record<string, OptionName>> = { h: "help", V: "version" };

/**
 * Takes a command line apart. Options may stand anywhere; after `--` everything is a word.
 *
 * @throws {UsageError} if an option is unknown, lacks its value, or its value is not what it must be
 */
export function parseCommandLine(args: readonly string[]): CommandLine {
  const entries = Object.entries(OPTIONS) as [OptionName, Option<unknown>][];
  const { tokens, positionals } = parseArgs({
    args: [...args],
    // this module says itself what is wrong, in its own words
    strict: false,
    tokens: true,
    allowPositionals: true,
    options: Object.fromEntries(
      entries.map(([name, { value }]) => [name, { type: value === undefined ? "boolean" : "string" }]),
    ),
  });
  const values: Partial<Record<OptionName, unknown>> = {};
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const name = token.rawName.startsWith("--") ? token.name : SHORT[token.name];
    if (!isOption(name)) {
      throw new UsageError(`unknown option "${token.rawName}"; a text that begins with "-" goes after "--"`);
    }
    const option: Option<unknown> = OPTIONS[name];
    const { value, inlineValue } = token;
    if (option.value === undefined) {
      if (value !== undefined) throw new UsageError(`--${name} is "${value}", expected ${option.expected}`);
      values[name] = true;
      continue;
    }
    // "--gamma --json" forgot a value; "--gamma -1" did not
    if (value === undefined || !inlineValue && value.startsWith("--")) {
      throw new UsageError(`--${name} has no value, expected ${option.expected}`);
    }
    const parsed = option.parse(value, values[name]);
    if (parsed === undefined) {
      throw new UsageError(`--${name} is "${value}", expected ${option.expected}`);
    }
    values[name] = parsed;
  }
  const [command, ...words] = positionals;
  return { command, words, values: values as Values };
}

function isOption(name: string | undefined): name is OptionName {
  return name !== undefined && Object.hasOwn(OPTIONS, name);
}

/** An option as the help shows it: `--gamma N` and what it does. */
export function describeOption(name: OptionName): { readonly usage: string; readonly help: string } {
  const { value, help }: Option<unknown> = OPTIONS[name];
  return { usage: value === undefined ? `--${name}` : `--${name} ${value}`, help };
}
