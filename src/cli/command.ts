/**
 * What a command is, its help, and what several of them do alike with their options and words.
 *
 * Deliberately absent: the commands, each in its file, and the parsing of options (`args.ts`).
 *
 * @module
 */

import { type Engine, type EngineOptions, type GenerateOptions, loadEngine } from "../engine.ts";
import { type CommandLine, describeOption, type OptionName, UsageError, type Values } from "./args.ts";
import { showDownloads } from "./downloads.ts";
import { printable, type Terminal } from "./terminal.ts";

/** A command of the command line. */
export interface Command {
  /** What it is called. */
  readonly name: string;
  /** The words it takes, for the help: `[PROMPT]`. */
  readonly words: string;
  /** What it does, in one line. */
  readonly summary: string;
  /** More about it, in lines of at most 100 columns. */
  readonly details: readonly string[];
  /** The options it takes, besides `--help`. */
  readonly options: readonly OptionName[];
  /** What to write after `specdiff`. */
  readonly examples: readonly string[];
  /** Does it. */
  run(line: CommandLine, terminal: Terminal): Promise<void>;
}

/** Options that say what is loaded, and where it runs. */
export const MODEL_OPTIONS: readonly OptionName[] = [
  "target",
  "drafter",
  "device",
  "draft-device",
  "dtype",
  "drafter-dtype",
  "threads",
];

/** Options that say how a text is generated. */
export const DECODE_OPTIONS: readonly OptionName[] = [
  "rule",
  "gamma",
  "steps",
  "order",
  "draft-context",
  "context-cache",
  "sigma",
  "hot-start",
  "temperature",
  "top-k",
  "top-p",
  "seed",
  "max-tokens",
];

/** How to run the program, for the help. */
const PERMISSIONS = [
  "Permissions:",
  "  deno run --allow-read=FOLDERS cli.ts   where FOLDERS are fixtures/pair (the embedded models) and those you name;",
  '  --allow-env="HF_*,XDG_CACHE_HOME,HOME" to find models by name, in a cache that may be read (--allow-read=CACHE);',
  '  --allow-net="huggingface.co,*.huggingface.co,*.hf.co" --allow-write=CACHE',
  "                                         to fetch those that are not there;",
  "  --allow-sys=cpus,osRelease             only lets compare, demo and doctor name the machine",
  "  --allow-ffi                            lets the program use an NVIDIA GPU; it loads the driver's library, and cuBLAS",
];

/** What the exit codes mean, for the help. */
const EXIT_CODES = [
  "Exit codes:",
  "    0  done",
  "    1  failed; one line on standard error says why",
  "    2  the command line was not understood, or has an option that nothing would use; nothing was generated",
  "  130  interrupted by Ctrl-C (SIGINT)",
  "  141  whoever read the output closed it, as head does",
  "  143  terminated (SIGTERM)",
];

/** The help of a command. */
export function commandHelp(command: Command): string {
  const options = [...command.options, "help" as const].map(describeOption);
  const width = Math.max(...options.map(({ usage }) => Math.min(usage.length, 21)));
  return [
    `specdiff ${command.name} ${command.words}`.trimEnd() + ` [OPTIONS]`,
    "",
    ...[command.summary, ...command.details].map((line) => `  ${line}`),
    "",
    "Options:",
    // a long list of values has a line of its own
    ...options.flatMap(({ usage, help }) =>
      usage.length > width
        ? [`  ${usage}`, `  ${" ".repeat(width)}  ${help}`]
        : [`  ${usage.padEnd(width)}  ${help}`]
    ),
    "",
    "Examples:",
    ...command.examples.map((example) => `  specdiff ${example}`),
    "",
    ...PERMISSIONS,
    "",
    ...EXIT_CODES,
  ].join("\n");
}

/** The help of the program. */
export function programHelp(commands: readonly Command[]): string {
  const width = Math.max(...commands.map(({ name, words }) => name.length + words.length + 1));
  return [
    "specdiff COMMAND [OPTIONS]",
    "",
    "  Lossless speculative decoding with discrete-diffusion drafters.",
    "",
    "Commands:",
    ...commands.map(({ name, words, summary }) => `  ${`${name} ${words}`.padEnd(width)}  ${summary}`),
    "",
    "  specdiff help COMMAND, or COMMAND --help, says more; specdiff --version prints the version",
    "",
    ...PERMISSIONS,
    "",
    ...EXIT_CODES,
  ].join("\n");
}

/** Milliseconds of loading that need no word. */
const PATIENCE_MS = 1000;

/** Loads, and shows to a person who has waited for a while how far it is. */
export async function load(options: EngineOptions, { err }: Terminal): Promise<Engine> {
  const began = performance.now();
  try {
    return await loadEngine({
      ...options,
      onProgress({ folder, loaded, total }) {
        if (performance.now() - began < PATIENCE_MS) return;
        err.progress(printable(`loading ${folder}: ${Math.floor(100 * loaded / total)} %`));
      },
    });
  } finally {
    err.progress("");
  }
}

/**
 * What to load, and that downloads are shown. No drafter named: the library's default.
 * @throws {UsageError} if `none` is one of several drafters, there is said how to load drafters and there are none, or
 * how many threads and nothing uses them
 */
export function engineOptions(values: Values, { err }: Terminal): EngineOptions {
  const { drafter } = values;
  const none = drafter?.includes("none") ?? false;
  if (none && drafter!.length > 1) {
    throw new UsageError("--drafter is none and others, expected one or the other");
  }
  const weightless = drafter?.every((name) => name === "none" || name === "ngram") ??
    values.target !== undefined;
  const unused = (["draft-device", "drafter-dtype"] as const).find((name) => values[name] !== undefined);
  if (weightless && unused !== undefined) {
    throw new UsageError(`--${unused} is given, and there is no drafter that is a model`);
  }
  const { device = "auto", "draft-device": draftDevice } = values;
  if (values.threads !== undefined && device !== "auto" && device !== "wasm" && draftDevice !== "wasm") {
    throw new UsageError("--threads is given, and nothing computes on them: they are the device wasm's");
  }
  return {
    target: values.target,
    drafter: none ? null : drafter,
    device: values.device,
    draftDevice: values["draft-device"],
    dtype: values.dtype,
    drafterDtype: values["drafter-dtype"],
    threads: values.threads,
    hub: { onDownload: showDownloads(err) },
  };
}

/** How to generate. */
export function generateOptions(values: Values): GenerateOptions {
  return {
    rule: values.rule,
    gamma: values.gamma,
    steps: values.steps,
    order: values.order,
    draftContext: values["draft-context"],
    contextCache: values["context-cache"],
    sigma: values.sigma,
    hotStart: values["hot-start"],
    temperature: values.temperature,
    topK: values["top-k"],
    topP: values["top-p"],
    seed: values.seed,
    maxTokens: values["max-tokens"],
    stop: values.stop,
  };
}

/**
 * Throws if an option is given that none of the engine's drafters, or plain decoding if there are none, has a use for.
 * @throws {UsageError} naming such options
 */
export function requireUse(engine: Engine, options: GenerateOptions): void {
  const { drafters } = engine;
  const [first, ...others] = (drafters.length > 0 ? drafters : [null]).map((drafter) =>
    engine.unused({ ...options, drafter })
  );
  const unused = first.filter((name) => others.every((names) => names.includes(name)));
  if (unused.length === 0) return;
  const flags = unused.map((name) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`);
  const whose = drafters.length > 0
    ? `drafting with ${drafters.join(", ")}`
    : "plain decoding, without a --drafter,";
  throw new UsageError(`${whose} has no use for ${flags.join(", ")}`);
}

/**
 * The one text a command takes: its word, or standard input without the newline at its end if there is no word
 * or it is `-`.
 *
 * @param what what the text is called, for messages
 * @throws {UsageError} if there are several words, or the text is empty
 */
export async function readText(words: readonly string[], what: string, terminal: Terminal): Promise<string> {
  if (words.length > 1) {
    throw new UsageError(`${words.length} words are given, expected one ${what}: put it in quotes`);
  }
  const text = words.length === 0 || words[0] === "-"
    ? (await terminal.input()).replace(/\r?\n$/, "")
    : words[0];
  if (text === "") throw new UsageError(`the ${what} is empty`);
  return text;
}

/**
 * What a command works on: the ids of `--tokens`, else a text as {@linkcode readText} finds it.
 * @throws {UsageError} if both are given, and as {@linkcode readText}
 */
export async function readTokensOrText(
  { words, values }: CommandLine,
  what: string,
  terminal: Terminal,
): Promise<number[] | string> {
  if (values.tokens !== undefined && words.length > 0) {
    throw new UsageError(`both a ${what} and --tokens are given, expected one of them`);
  }
  return values.tokens ?? await readText(words, what, terminal);
}
