/**
 * The options of the command line: their names, their values and how these are parsed. The help is generated from the
 * same table. Deliberately absent: defaults, which are set by the library and the commands.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { dtypes } from "../backend/backend.ts";
import { type Device, devices, isDevice } from "../backend/create.ts";
import { DEFAULT_RULE, type Rule, rules } from "../decode/acceptance.ts";
import { contextCaches } from "../decode/context_cache.ts";
import { revealOrders } from "../decode/reveal.ts";
import { embeddedDrafters } from "../pair.ts";

/** An invalid command line. */
export class UsageError extends Error {
  /** For callers that catch by name. */
  override readonly name: string = "UsageError";
}

/** One option. */
interface Option<T> {
  /** The placeholder of its value in the help; absent: it takes none. */
  readonly value?: string;
  /** One line of help. */
  readonly help: string;
  /** What a value must be: completes `expected …`. */
  readonly expected: string;
  /** Parses a text, given the value of an earlier occurrence; `undefined` if the text is invalid. */
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
  help: "the same seed gives the same text (default: random; compare: 1, 2, …)",
  expected: "an integer in [0, 2^64)",
  parse(text) {
    if (!/^(\d+|0x[\da-f]+)$/i.test(text)) return undefined;
    const seed = BigInt(text);
    return seed < 1n << 64n ? seed : undefined;
  },
};

const SIGMA: Option<number | "schedule"> = {
  value: "X|schedule",
  help: "noise level given to the diffusion drafter (default: that of a fully masked text)",
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
    "γ, tokens drafted per round; auto: chosen by cost and acceptance (default: from the drafter's config.json, else 4)",
  expected: "an integer of at least 1, or auto",
  parse(text) {
    if (text === "auto") return text;
    const gamma = text.trim() === "" ? NaN : Number(text);
    return Number.isSafeInteger(gamma) && gamma >= 1 ? gamma : undefined;
  },
};

const TOKENS: Option<number[]> = {
  value: "N,N,…",
  help: "token ids instead of a text",
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
  `acceptance rule (default: ${DEFAULT_RULE}; ratio needs drafts made left to right or in one step; paper is lossy)`,
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
      `sedd,ngram (default: ${
        embeddedDrafters[0]
      }, or none with --target; compare and demo: all embedded ones)`,
    expected: "a folder, a name, or none",
    parse: (text: string, previous: string[] = []) =>
      text.split(",").every((name) => name !== "") ? [...previous, ...text.split(",")] : undefined,
  },
  device: deviceOption("where to compute (default: auto, the fastest available)"),
  "draft-device": deviceOption("where the drafters compute (default: auto, the target's device)"),
  dtype: choice("precision of the target's weights (default: that of its checkpoint)", dtypes),
  "draft-dtype": choice("precision of the drafters' weights (default: int8; on a GPU f16)", dtypes),
  threads: count("CPU threads (default: all cores); the text does not depend on it"),
  rule: ruleOption,
  gamma: GAMMA,
  steps: count(
    "T, denoising steps per draft of a diffusion drafter, at most γ (default: 1; with --gamma auto, chosen too)",
  ),
  order: choice(
    "which masks each of several denoising steps reveals (default: left-to-right)",
    revealOrders,
  ),
  "draft-context": count(
    "the most tokens of the text that a diffusion drafter sees (default: from its config.json, else all)",
  ),
  "context-cache": choice("what a bidirectional drafter caches of the text (default: none)", contextCaches),
  sigma: SIGMA,
  "hot-start": flag(
    "a diffusion drafter starts from the rest of the previous draft; needs --gamma 3 or more",
  ),
  temperature: number(
    "0 takes the likeliest token (default: 1)",
    "a number of at least 0",
    (x) => x >= 0 && x < Infinity,
  ),
  "top-k": number(
    "keep the k likeliest tokens; 0: all (default: 0)",
    "an integer of at least 0",
    (n) => Number.isSafeInteger(n) && n >= 0,
  ),
  "top-p": number(
    "keep the likeliest tokens that make up this probability (default: 1)",
    "a number in (0, 1]",
    (x) => x > 0 && x <= 1,
  ),
  seed: SEED,
  "max-tokens": count("maximum number of tokens to generate (default: 128; compare: 96 per run)"),
  stop: {
    value: "TEXT",
    help: "a text that ends the generation and is not part of it; may be repeated",
    expected: "some text",
    parse: (text: string, previous: string[] = []) => text === "" ? undefined : [...previous, text],
  },
  repetitions: count("runs of each method on each prompt (default: 3)"),
  tokens: TOKENS,
  "show-draft": flag("colour the tokens by origin, and print statistics to standard error"),
  color: flag("use colours even if NO_COLOR is set or the output is not a terminal"),
  json: flag("print one JSON object and nothing else"),
  help: flag("print this help"),
  version: flag("print the version"),
};

/** Name of an option, without the dashes. */
export type OptionName = keyof typeof OPTIONS;

/** Values of the given options. */
export type Values = {
  [Name in OptionName]?: typeof OPTIONS[Name] extends Option<infer T> ? T
    : NonNullable<ReturnType<typeof OPTIONS[Name]["parse"]>>;
};

/** A parsed command line. */
export interface CommandLine {
  /** The first word that is not an option: the command. */
  readonly command: string | undefined;
  /** The other words. */
  readonly words: readonly string[];
  /** The options. */
  readonly values: Readonly<Values>;
}

/** Short forms of options. */
const SHORT: Readonly<Record<string, OptionName>> = { h: "help", V: "version" };

/**
 * Parses a command line. Options may be anywhere; after `--` everything is a word.
 *
 * @throws {UsageError} if an option is unknown, lacks its value, or has an invalid one
 */
export function parseCommandLine(args: readonly string[]): CommandLine {
  const entries = Object.entries(OPTIONS) as [OptionName, Option<unknown>][];
  const { tokens, positionals } = parseArgs({
    args: [...args],
    // this module reports errors itself
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
    // "--gamma --json" lacks a value; "--gamma -1" has one
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

/** An option for the help: `--gamma N`, and its description. */
export function describeOption(name: OptionName): { readonly usage: string; readonly help: string } {
  const { value, help }: Option<unknown> = OPTIONS[name];
  return { usage: value === undefined ? `--${name}` : `--${name} ${value}`, help };
}
