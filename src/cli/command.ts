/**
 * The interface of commands, their help, and what several of them share.
 *
 * Deliberately absent: the commands, each in its own file, and parsing options (`args.ts`).
 *
 * @module
 */

import { type Engine, type EngineOptions, type GenerateOptions, loadEngine } from "../engine.ts";
import { type CommandLine, describeOption, type OptionName, UsageError, type Values } from "./args.ts";
import { showDownloads } from "./downloads.ts";
import { printable, type Terminal } from "./terminal.ts";

/** A command of the command line. */
export interface Command {
  /** Its name. */
  readonly name: string;
  /** The words it takes, for the help: `[PROMPT]`. */
  readonly words: string;
  /** What it does, in one line. */
  readonly summary: string;
  /** A description, in lines of at most 100 columns. */
  readonly details: readonly string[];
  /** Its options, besides `--help`. */
  readonly options: readonly OptionName[];
  /** Examples, without the leading `specdiff`. */
  readonly examples: readonly string[];
  /** Runs it. */
  run(line: CommandLine, terminal: Terminal): Promise<void>;
}

/** Options of what is loaded and where it runs. */
export const MODEL_OPTIONS: readonly OptionName[] = [
  "target",
  "drafter",
  "device",
  "draft-device",
  "dtype",
  "draft-dtype",
  "threads",
];

/** Options of generating a text. */
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

/** The permissions, for the help. */
const PERMISSIONS = [
  "Permissions:",
  "  deno run --allow-read=FOLDERS cli.ts   FOLDERS are fixtures/pair (the embedded models) and those you name",
  '  --allow-env="HF_*,XDG_CACHE_HOME,HOME" for models by name; the cache must be readable (--allow-read=CACHE)',
  '  --allow-net="huggingface.co,*.huggingface.co,*.hf.co" --allow-write=CACHE',
  "                                         to download models that are missing",
  "  --allow-sys=cpus,osRelease             optional: lets compare, demo and doctor name the machine",
  "  --allow-ffi                            to use an NVIDIA GPU; loads the driver's library, and cuBLAS",
];

/** The exit codes, for the help. */
const EXIT_CODES = [
  "Exit codes:",
  "    0  success",
  "    1  failure; one line on standard error gives the reason",
  "    2  invalid command line, or an option that would have no effect; nothing was generated",
  "  130  interrupted by Ctrl-C (SIGINT)",
  "  141  the reader closed the output, as head does",
  "  143  terminated (SIGTERM)",
];

/** The most characters of a line about an option. */
const LINE = 110;

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
    ...options.flatMap(({ usage, help }) => {
      const lines = help.match(new RegExp(`.{1,${LINE - width - 4}}(?: |$)`, "g"))!;
      // a long list of values gets its own line
      const [first, ...rest] = usage.length > width
        ? [usage, ...lines]
        : [`${usage.padEnd(width)}  ${lines[0]}`, ...lines.slice(1)];
      return [first, ...rest.map((line) => " ".repeat(width + 2) + line)].map((line) =>
        `  ${line}`.trimEnd()
      );
    }),
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
    "  specdiff help COMMAND, or COMMAND --help, describes a command; specdiff --version prints the version",
    "",
    ...PERMISSIONS,
    "",
    ...EXIT_CODES,
  ].join("\n");
}

/** Milliseconds of loading without progress. */
const PATIENCE_MS = 1000;

/** Loads an engine, and shows progress if that takes long. */
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
 * The engine's options, with downloads shown. Without `--drafter`, the library's default applies.
 * @throws {UsageError} if `none` is combined with other drafters, there are drafter options without a drafter that has
 * weights, or `--threads` without a CPU device
 */
export function engineOptions(values: Values, { err }: Terminal): EngineOptions {
  const { drafter } = values;
  const none = drafter?.includes("none") ?? false;
  if (none && drafter!.length > 1) {
    throw new UsageError("--drafter is none and other names, expected one or the other");
  }
  const weightless = drafter?.every((name) => name === "none" || name === "ngram") ??
    values.target !== undefined;
  const unused = (["draft-device", "draft-dtype"] as const).find((name) => values[name] !== undefined);
  if (weightless && unused !== undefined) {
    throw new UsageError(`--${unused} is given without a drafter that is a model`);
  }
  const { device = "auto", "draft-device": draftDevice } = values;
  if (values.threads !== undefined && device !== "auto" && device !== "wasm" && draftDevice !== "wasm") {
    throw new UsageError("--threads is given without the device wasm, which they belong to");
  }
  return {
    target: values.target,
    drafter: none ? null : drafter,
    device: values.device,
    draftDevice: values["draft-device"],
    dtype: values.dtype,
    draftDtype: values["draft-dtype"],
    threads: values.threads,
    hub: { onDownload: showDownloads(err) },
  };
}

/** The options of generating a text. */
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
 * Throws if a given option is used by none of the engine's drafters (or by plain decoding, if there are none), or has no
 * effect because drafts have too few tokens or steps.
 * @throws {UsageError} naming these options
 */
export function requireUse(
  engine: Pick<Engine, "drafters" | "unused" | "defaultGamma">,
  options: GenerateOptions,
): void {
  const { drafters } = engine;
  // by drafter: the options that do nothing, with a message if they would in another draft
  const [first, ...others] = (drafters.length > 0 ? drafters : [null]).map((drafter) => {
    const its = { ...options, drafter };
    const unused = engine.unused(its).map((name) => [name, undefined] as const);
    return new Map([...drafter === null ? [] : withoutEffect(its, engine.defaultGamma(its)), ...unused]);
  });
  const idle = [...first.keys()].filter((name) => others.every((its) => its.has(name)));
  const reasonOf = (name: keyof GenerateOptions) =>
    [first, ...others].map((its) => its.get(name)).find((reason) => reason !== undefined);
  const unused = idle.filter((name) => reasonOf(name) === undefined);
  if (unused.length > 0) {
    const flags = unused.map((name) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`);
    const whose = drafters.length > 0
      ? `drafting with ${drafters.join(", ")}`
      : "plain decoding, without a --drafter,";
    throw new UsageError(`${whose} does not use ${flags.join(", ")}`);
  }
  if (idle.length > 0) throw new UsageError(reasonOf(idle[0])!);
}

/** The options that have no effect on drafts of so few tokens or steps, each with a message. */
function* withoutEffect(
  { gamma: given, steps: asked, order = "left-to-right", contextCache, sigma, hotStart }: GenerateOptions,
  defaultGamma: number,
): Generator<readonly [name: keyof GenerateOptions, message: string]> {
  const auto = given === "auto", gamma = auto ? Infinity : given ?? defaultGamma;
  const short = `has no effect on drafts of ${gamma} token${gamma === 1 ? "" : "s"}`;
  if (gamma < 2 && (asked ?? 1) > 1) yield ["steps", `--steps ${short}: add --gamma 2 or more`];
  if (gamma < 3 && hotStart) yield ["hotStart", `--hot-start ${short}: add --gamma 3 or more`];
  // T may be chosen with γ, but not in another order or with a hot start
  const steps = asked ?? (auto && order === "left-to-right" && !hotStart ? Infinity : 1);
  if (Math.min(steps, gamma) > 1) return;
  const once = "has no effect with 1 step: add --steps 2 or more";
  if (order !== "left-to-right") yield ["order", `--order ${once}`];
  if (contextCache === "draft") yield ["contextCache", `--context-cache draft ${once}`];
  if (sigma === "schedule") yield ["sigma", `--sigma schedule ${once}`];
}

/**
 * The text that a command takes: its word, or, without a word or for `-`, standard input less a final newline.
 *
 * @param what the name of the text, for messages
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
 * The input of a command: the ids of `--tokens`, or a text by {@linkcode readText}.
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
