/**
 * The main entry point: loads models from folders or by name, and generates text with the target's distribution.
 *
 * Deliberately thin: it connects hub, models, drafters and the decoding loops. Everything except stop strings and a
 * drafter's configured options is also available from the lower entry points (`./backend`, `./model`, `./decode`,
 * `./hub`).
 *
 * @module
 */

import type { Backend, Dtype, Sampling } from "./backend/backend.ts";
import { createBackend, type Device, isOn } from "./backend/create.ts";
import { DEFAULT_RULE, type Rule } from "./decode/acceptance.ts";
import { DraftController } from "./decode/controller.ts";
import { autoregress } from "./decode/autoregressive.ts";
import { checkDrafting } from "./decode/check.ts";
import type { DiffusionDrafterOptions } from "./decode/diffusion_drafter.ts";
import type { Drafter, Target } from "./decode/drafter.ts";
import { unlessAborted } from "./decode/event_loop.ts";
import { checkRequest, type Origin, type Round } from "./decode/loop.ts";
import { type Statistics, StatisticsCollector } from "./decode/metrics.ts";
import { measureCosts } from "./decode/measure_costs.ts";
import { SharedProfile } from "./decode/shared_profile.ts";
import { ModelTarget } from "./decode/model_target.ts";
import { PhiloxSource } from "./decode/random.ts";
import { type Score, scoreTokens } from "./decode/score.ts";
import { speculate } from "./decode/speculative.ts";
import { openCheckpoint } from "./hub/checkpoint.ts";
import { locateModel } from "./hub/models.ts";
import type { HubOptions } from "./hub/options.ts";
import { encodeText, loadTokenizer, TextStream, type Tokenizer } from "./hub/tokenizer.ts";
import { checkKinds, GENERATING, HUB, LOADING, SIGNAL } from "./given.ts";
import { shown } from "./shown.ts";
import type { CausalModel } from "./model/model.ts";
import { DIFFUSION_OPTIONS, hubOptions, load, loadDrafter, type LoadedDrafter } from "./loading.ts";
import { embeddedTarget, openEmbedded } from "./pair.ts";
import { TextStops } from "./text_stops.ts";
import type { WatchOptions } from "./watched_weights.ts";

/** What {@linkcode loadEngine} loads, where it runs, and how loading is watched. */
export interface EngineOptions extends WatchOptions {
  /**
   * A folder with `config.json` and `model.safetensors`, or the name of a model on a hub, `owner/name[@revision]`.
   * A named model is downloaded into the cache if it is missing. An existing folder takes precedence over a name.
   * @default the embedded English target
   */
  readonly target?: string | URL | undefined;
  /**
   * Drafters to load. Each is a folder or name as for the target (a SEDD or a smaller causal model with the same
   * vocabulary), `ngram`, or an embedded drafter: `sedd-target`, `sedd-causal`, `sedd` or `gpt2`. These names take
   * precedence over folders; write `./gpt2` for a folder. `null`: none. {@linkcode Engine.generate} uses the first by
   * default. A drafter's `config.json` may set defaults for drafting (`specdiff.drafting`: `gamma`, `draft_context`).
   * @default `sedd-target` with the embedded target, none with any other
   */
  readonly drafter?: string | URL | readonly (string | URL)[] | null | undefined;
  /** Replaces the `tokenizer.json` in or beside the target's folder. */
  readonly tokenizer?: Tokenizer | undefined;
  /** Where to compute: `cuda:1`, `wasm`, …. @default {"auto"} the fastest available */
  readonly device?: Device | undefined;
  /**
   * Where the drafters compute: another GPU, as in the SpecDiff paper, or the CPU beside a GPU. On a device of their
   * own, drafts and their distributions pass through the host. For a target-fed drafter so do the target's hidden
   * states, and the matrices that it borrows from the target are copied once.
   * @default {"auto"} the target's device
   */
  readonly draftDevice?: Device | undefined;
  /**
   * The precision of the target's weights. Fewer bits than in the checkpoint make a different target.
   * @default the checkpoint's: f16 or bf16 if all of its matrices are stored in it, else f32
   */
  readonly dtype?: Dtype | undefined;
  /**
   * The precision of a drafter's weights. It affects acceptance, never exactness. Numbers beyond the range of f16
   * would end a text with a {@linkcode LogitsError}; those of published models are far from it.
   * @default the fastest: `"int8"` on a CPU, `"f16"` on a GPU, for its tensor cores
   */
  readonly draftDtype?: Dtype | undefined;
  /** Threads of the CPU backend, at most 512. The text does not depend on it. @default the number of cores */
  readonly threads?: number | undefined;
  /** For models by name: the cache, the hub, and download progress. @default from the environment */
  readonly hub?: HubOptions | undefined;
}

/**
 * How a text is generated. Plain decoding accepts all of these and ignores those of drafting, so the same options give
 * the baseline. A drafter refuses options that it does not use ({@linkcode Engine.unused}).
 */
export interface GenerateOptions extends Sampling, DiffusionDrafterOptions {
  /** The drafter, by the name it was loaded under; `null`: plain decoding. @default the engine's first */
  readonly drafter?: string | null | undefined;
  /**
   * The acceptance rule. Only `ratio` requires drafts made left to right or in one step.
   * @default {"block"} which accepts the most of any draft
   */
  readonly rule?: Rule | undefined;
  /**
   * γ, the number of tokens drafted per round.
   *
   * `auto` chooses γ for each round from the measured cost of rounds on this machine and from recent acceptance. It
   * chooses 0 where drafting does not pay. For a diffusion drafter without a Markov head it also chooses T, unless
   * `steps`, another `order` or `costs` are given. The text always has the target's distribution. But times vary
   * between runs: with `auto`, the same seed gives the same text only under `coupled` and `match`, at temperature 0, or
   * with `costs`. The first text with `auto` waits until rounds have been timed. So does the first with another rule,
   * other drafting options, or another kind of sampling (greedy, or with top-k or top-p). Acceptance in one text
   * affects γ in later ones, except in those with the same seed, which have the same noise.
   * @default the drafter's `config.json` (`specdiff.drafting.gamma`), else 4
   */
  readonly gamma?: number | "auto" | undefined;
  /**
   * With `gamma: "auto"`: the milliseconds of a round for each γ from 0 (a plain step) to the longest draft allowed,
   * instead of measured ones. Nothing then depends on the clock, and the same seed gives the same text. Refused with
   * any other γ.
   */
  readonly costs?: readonly number[] | undefined;
  /**
   * An integer, or its decimal text as in the statistics; only the low 64 bits count. The same seed and options give
   * the same text. In plain decoding and under `coupled` and `match`, a larger `maxTokens` continues the same text.
   * Under other rules the last drafts change, and the end of the text may differ. Under `coupled` with several steps in
   * another order than from left to right, a text whose stream was left after some round has to be continued with the
   * same seed: where the round ended depended on the noise of later positions, so fresh noise would change the law.
   * @default a random one, reported in the statistics
   */
  readonly seed?: number | bigint | string | undefined;
  /** The maximum number of tokens to generate. @default {128} */
  readonly maxTokens?: number | undefined;
  /** One or more strings that end the text. They are not part of it. */
  readonly stop?: string | readonly string[] | undefined;
  /** Tokens that end the text; `[]`: none. @default the target's end-of-text token */
  readonly stopTokens?: readonly number[] | undefined;
  /** Aborts the generation, which then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** One token of a stream. */
export interface Piece {
  /** Its id. */
  readonly token: number;
  /**
   * Text that became final with this token: empty in the middle of a character, and longer once the character is
   * complete. Always empty if the target has no tokenizer. Special tokens appear by name, except one that ends the
   * text.
   */
  readonly text: string;
  /** Whether it was drafted, or how the target produced it. */
  readonly origin: Origin;
}

/** What one round added to a stream. */
export interface Chunk {
  /** Text that became final, to be appended to the text so far. */
  readonly text: string;
  /** The tokens, one by one. */
  readonly pieces: readonly Piece[];
  /** Measurements so far. */
  readonly stats: Statistics;
}

/** A finished text. */
export interface Generation {
  /** The generated text, without the prompt. */
  readonly text: string;
  /** Its tokens, including a stop token that ended it. */
  readonly tokens: readonly number[];
  /** Measurements. */
  readonly stats: Statistics;
}

/** Stands in for a missing tokenizer: tokens have no text. */
const WORDLESS: Pick<Tokenizer, "decode"> = { decode: () => "" };

/** Options of drafting, which plain decoding does not use. */
const DRAFT_OPTIONS: readonly (keyof GenerateOptions)[] = ["rule", "gamma", "costs", ...DIFFUSION_OPTIONS];

/** For how many combinations of options a drafter remembers its measured costs. */
const MOST_COSTS = 64;

/** The least capacity of a text's caches, in tokens. */
const LEAST_CAPACITY = 128;

/** Values that turn an option off, and are therefore accepted everywhere. */
const OFF: Readonly<Partial<GenerateOptions>> = { hotStart: false, contextCache: "none" };

/**
 * Loads a target, its drafters and a tokenizer. Declare the engine with `using`, or dispose of it: until then its
 * threads keep the process alive. An engine computes on the thread that loaded it. If that thread's event loop must
 * stay responsive, load the engine in a worker, where the API is the same.
 *
 * @example Generate with the embedded pair
 * ```ts
 * import { loadEngine } from "@specdiff/specdiff";
 *
 * using engine = await loadEngine();
 * for await (const { text } of engine.stream("It was a dark and stormy night", { seed: 1 })) {
 *   console.log(text);
 * }
 * ```
 *
 * @throws {CheckpointError} if a checkpoint cannot be loaded
 * @throws {HubError} if a model by name cannot be fetched
 * @throws {TypeError} if an option has the wrong type, a drafter's vocabulary is not the target's, or a device or dtype
 * does not exist
 * @throws {BackendUnavailableError} if a device is not available
 * @throws the signal's reason once it is aborted; nothing stays loaded
 */
export async function loadEngine(options: EngineOptions = {}): Promise<Engine> {
  checkKinds("load an engine", options, LOADING);
  checkKinds("use the hub", options.hub ?? {}, HUB);
  options.signal?.throwIfAborted();
  const { device = "auto", draftDevice = "auto", threads } = options;
  using held = new DisposableStack(); // freed if loading fails
  const backend = held.use(await createBackend(device, { threads }));
  const draftBackend = isOn(draftDevice, backend)
    ? backend
    : held.use(await createBackend(draftDevice, { threads }));
  using checkpoint = options.target === undefined
    ? await openEmbedded(embeddedTarget())
    : await openCheckpoint(await locateModel(options.target, hubOptions(options)));
  const target = await load(checkpoint, backend, { dtype: options.dtype }, options);
  if (target.kind !== "causal") {
    throw new TypeError(
      `Cannot use "${checkpoint.origin}" as a target: it is a diffusion model, expected an autoregressive one`,
    );
  }
  const tokenizer = options.tokenizer ??
    await loadTokenizer(checkpoint.origin).catch((error: Error) => error);
  const drafters = new Map<string, LoadedDrafter>();
  for (const [name, choice] of new Map(choices(options).map((choice) => [String(choice), choice]))) {
    drafters.set(name, await loadDrafter(choice, target.model, backend, draftBackend, options));
  }
  const engine = new Engine(backend, draftBackend, target.model, target.stopTokens, tokenizer, drafters);
  held.move();
  return engine;
}

/** A loaded target and its drafters. Several generations may run at once, each with its own caches. */
export class Engine implements Disposable {
  /** The target model. */
  readonly target: CausalModel;
  /** The precision of the target's weights. */
  readonly dtype: Dtype;
  /** Names of the drafters, as given in the options. */
  readonly drafters: readonly string[];
  /** The target's device, as a description. */
  readonly device: string;
  /** The drafters' device, as a description. */
  readonly draftDevice: string;
  /**
   * The target's backend, for use with lower layers: `new ModelTarget(engine.target, engine.backend)`. Owned by the
   * engine.
   */
  readonly backend: Backend;
  readonly #draftBackend: Backend;
  readonly #stopTokens: readonly number[];
  readonly #tokenizer: Tokenizer | Error;
  readonly #loaded: ReadonlyMap<string, LoadedDrafter>;

  /** Use {@linkcode loadEngine}. */
  constructor(
    backend: Backend,
    draftBackend: Backend,
    target: CausalModel,
    stopTokens: readonly number[],
    tokenizer: Tokenizer | Error,
    drafters: ReadonlyMap<string, LoadedDrafter>,
  ) {
    this.target = target;
    this.dtype = target.embedding.dtype;
    this.#tokenizer = tokenizer;
    this.drafters = [...drafters.keys()];
    this.device = backend.description;
    this.draftDevice = draftBackend.description;
    this.backend = backend;
    this.#draftBackend = draftBackend;
    this.#stopTokens = stopTokens;
    this.#loaded = drafters;
  }

  /**
   * The target's tokenizer.
   * @throws {CheckpointError} if the target came without one; generating from token ids needs none
   */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer instanceof Error) throw this.#tokenizer;
    return this.#tokenizer;
  }

  /**
   * Streams a text, one chunk per round of speculation. The options are read when the first chunk is requested. The
   * caches are freed when the stream ends. To stop early, call `return()`, as leaving a `for await` does.
   *
   * @param prompt text, or its tokens, which need no tokenizer and may be a `BigInt64Array`
   * @throws {CheckpointError} if the target came without a tokenizer, and the prompt or a stop string is text
   * @throws {RangeError} if the prompt is empty or fills the context, or an option is out of range
   * @throws {TypeError} if an option is unknown or has the wrong type, the rule would not be exact for the drafter, the
   * drafter was not loaded or does not use an option, there are costs without `gamma: "auto"`, or the tokenizer does
   * not match the target
   * @throws {OutOfMemoryError} if there is no room for another text's caches
   * @throws {LogitsError} if a model computes a logit that is not a number
   * @throws the signal's reason once it is aborted; chunks yielded before remain valid
   */
  async *stream(
    prompt: string | ArrayLike<number | bigint>,
    options: GenerateOptions = {},
  ): AsyncGenerator<Chunk, Generation> {
    checkKinds("generate", options, GENERATING);
    const loaded = this.#choose(options);
    const tokens = this.#tokensOf(prompt);
    const stop = typeof options.stop === "string" ? [options.stop] : [...options.stop ?? []];
    const stops = new TextStops(stop);
    const wordless = typeof prompt !== "string" && stop.length === 0 && this.#tokenizer instanceof Error;
    const words = new TextStream(wordless ? WORDLESS : this.tokenizer);
    const { temperature, topK, topP, rule = DEFAULT_RULE, maxTokens = 128 } = options;
    const random = new PhiloxSource(options.seed);
    const stopTokens = [...options.stopTokens ?? this.#stopTokens];
    const settings = {
      sampling: { temperature, topK, topP },
      random,
      maxTokens,
      stopTokens,
      signal: options.signal,
    };
    checkRequest(this.target.shape, tokens, settings);
    const capacity = capacityFor(tokens.length + maxTokens, this.target.shape.contextLength);
    using target = new ModelTarget(this.target, this.backend, capacity);
    using drafter = loaded?.create(options, capacity);
    const rounds = drafter === undefined
      ? autoregress(target, tokens, settings)
      : speculate(target, drafter, tokens, {
        ...settings,
        rule,
        gamma: await chooseGamma(options, loaded!, target, drafter, rule, random.seed),
      });
    const collector = new StatisticsCollector({
      promptTokens: tokens.length,
      seed: random.seed,
      drafter,
      rule: drafter && rule,
    });

    const all: Piece[] = [];
    let stopped = false;
    for await (const round of rounds) {
      // token by token, so that the cut at a stop string does not depend on the rounds
      const pieces: Piece[] = [];
      for (let j = 0; j < round.tokens.length && !stopped; j++) {
        const token = round.tokens[j];
        const step = stops.push(stopTokens.includes(token) ? "" : words.push(token));
        stopped = step.stopped;
        pieces.push({ token, text: step.text, origin: round.from[j] });
      }
      const ended = stopped || round.finishReason !== undefined;
      if (ended && !stopped && pieces.length > 0) {
        const last = pieces[pieces.length - 1];
        const rest = stops.push(words.flush());
        stopped = rest.stopped;
        pieces[pieces.length - 1] = {
          ...last,
          text: last.text + rest.text + (rest.stopped ? "" : stops.flush()),
        };
      }
      collector.add(stopped ? cut(round, pieces.length) : round);
      all.push(...pieces);
      yield { text: textOf(pieces), pieces, stats: collector.statistics() };
      if (ended) break;
    }
    return { text: textOf(all), tokens: all.map((piece) => piece.token), stats: collector.statistics() };
  }

  /**
   * Generates a text and returns it as a whole.
   *
   * @throws as {@linkcode Engine.stream}; the text so far is then lost, so use `stream` to keep it
   */
  async generate(
    prompt: string | ArrayLike<number | bigint>,
    options: GenerateOptions = {},
  ): Promise<Generation> {
    const stream = this.stream(prompt, options);
    for (;;) {
      const { value, done } = await stream.next();
      if (done) return value;
    }
  }

  /**
   * Log-probabilities of each token of a text, or of token ids, under the target.
   *
   * @param options.signal aborts it with the signal's reason
   * @throws {TypeError} if the text or the signal has the wrong type
   * @throws {RangeError} if there are no tokens, more than the context holds, or one is outside the vocabulary
   */
  async score(
    text: string | ArrayLike<number | bigint>,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Score> {
    checkKinds("score", options, { signal: SIGNAL });
    return await scoreTokens(this.target, this.#tokensOf(text), options.signal);
  }

  /**
   * Names of the given options that the chosen drafter, or plain decoding, does not use. Options that are turned off
   * (`hotStart: false`, `contextCache: "none"`) are not listed. For a drafter, {@linkcode Engine.stream} refuses them.
   *
   * @throws {TypeError} if the drafter was not loaded
   */
  unused(options: GenerateOptions): (keyof GenerateOptions)[] {
    const { unused } = this.#find(options) ?? { unused: DRAFT_OPTIONS };
    return unused.filter((name) => options[name] !== undefined && options[name] !== OFF[name]);
  }

  /**
   * γ of the chosen drafter without the option `gamma`; 0 for plain decoding.
   *
   * @throws {TypeError} if the drafter was not loaded
   */
  defaultGamma(options: Pick<GenerateOptions, "drafter"> = {}): number {
    return this.#find(options)?.gamma ?? 0;
  }

  #tokensOf(text: string | ArrayLike<number | bigint>): ArrayLike<number> {
    const { contextLength, vocabSize } = this.target.shape;
    if (typeof text !== "string") {
      if (!Number.isSafeInteger(text?.length)) {
        throw new TypeError(
          `Cannot use the text: it is ${shown(text)}, expected a string or a list of token ids`,
        );
      }
      // it will be refused for its length; a copy would block the event loop
      if (text.length > contextLength) return text as ArrayLike<number>;
      return Array.from(text, (id) => typeof id === "bigint" ? Number(id) : id);
    }
    // a prefix is enough to refuse a text that is far too long; tokenizing all of it would block the event loop
    for (let length = 16 * contextLength; length < text.length; length *= 2) {
      if (encodeText(this.tokenizer, text.slice(0, length)).length > 2 * contextLength) {
        throw new RangeError(
          `Cannot use a text of ${text.length} characters: it has more than ${
            2 * contextLength
          } tokens, and the ` +
            `target's context is ${contextLength}`,
        );
      }
    }
    const tokens = encodeText(this.tokenizer, text);
    const foreign = tokens.find((token) => token >= vocabSize);
    if (foreign !== undefined) {
      throw new TypeError(
        `Cannot use the tokenizer: it produced token ${foreign}, expected one below the target's ${vocabSize}; ` +
          "it belongs to another model",
      );
    }
    return tokens;
  }

  /** The chosen drafter, or nothing for plain decoding. Throws if it does not use one of the options. */
  #choose(options: GenerateOptions): LoadedDrafter | undefined {
    const { gamma, costs } = options;
    if (costs !== undefined && gamma !== "auto") {
      throw new TypeError(
        `Cannot use costs: gamma is ${
          gamma === undefined ? "the drafter's own" : shown(gamma)
        }, expected "auto"`,
      );
    }
    const loaded = this.#find(options);
    const unused = loaded && this.unused(options);
    if (unused?.length) {
      throw new TypeError(
        `Cannot draft with "${options.drafter ?? this.drafters[0]}": it does not use ${unused.join(", ")}`,
      );
    }
    return loaded;
  }

  #find(options: GenerateOptions): LoadedDrafter | undefined {
    const name = options.drafter === undefined ? this.drafters[0] : options.drafter;
    if (name === null || name === undefined) return undefined;
    const loaded = this.#loaded.get(String(name)); // of a URL too
    if (loaded === undefined) {
      throw new TypeError(
        `Cannot draft with "${name}": it was not loaded, expected ${
          this.drafters.length > 0 ? `one of ${this.drafters.join(", ")}` : "none"
        }`,
      );
    }
    return loaded;
  }

  /** Frees the models and the devices, and ends their threads. */
  [Symbol.dispose](): void {
    for (const drafter of this.#loaded.values()) drafter.dispose();
    this.target[Symbol.dispose]();
    this.#draftBackend[Symbol.dispose]();
    this.backend[Symbol.dispose]();
  }
}

/**
 * The capacity of a text's caches, in tokens: a power of two, so that the next text finds memory of the same size, and
 * enough to measure costs in.
 */
function capacityFor(length: number, contextLength: number): number {
  return Math.min(contextLength, Math.max(LEAST_CAPACITY, 2 ** Math.ceil(Math.log2(length))));
}

/** γ as given, or the controller that chooses it. */
async function chooseGamma(
  options: GenerateOptions,
  { gamma, costs }: LoadedDrafter,
  target: Target,
  drafter: Drafter,
  rule: Rule,
  seed: bigint,
): Promise<number | DraftController> {
  if (options.gamma !== "auto") return options.gamma ?? gamma;
  if (options.costs !== undefined) return new DraftController(options.costs);
  const { temperature, topK, topP, signal } = options;
  const drafting = DIFFUSION_OPTIONS.map((name) => options[name]);
  // the same kind of sampling costs the same
  const law = temperature === 0 ? "greedy" : topK || (topP ?? 1) < 1 ? "truncated" : "plain";
  const key = JSON.stringify([rule, law, ...drafting]);
  for (;;) {
    // only one text measures while the others wait: concurrent measurements would be wrong
    const others = costs.get(key);
    if (others === undefined) break;
    // the other text may be aborted; that does not affect this one
    const shared = await unlessAborted(others.catch(() => undefined), signal);
    if (shared !== undefined) return new DraftController(shared.of(seed));
  }
  checkDrafting(target, drafter, 0, rule); // before anything is measured
  const own = measureCosts(target, drafter, { rule, sampling: { temperature, topK, topP }, signal })
    .then((profile) => new SharedProfile(profile));
  if (costs.size === MOST_COSTS) costs.delete(costs.keys().next().value!); // the oldest
  costs.set(key, own);
  try {
    return new DraftController((await own).of(seed));
  } catch (error) {
    costs.delete(key);
    throw error;
  }
}

function textOf(pieces: readonly Piece[]): string {
  return pieces.map((piece) => piece.text).join("");
}

/** A round cut by a stop string after its first `count` tokens. */
function cut(round: Round, count: number): Round {
  return {
    ...round,
    tokens: round.tokens.slice(0, count),
    from: round.from.slice(0, count),
    accepted: Math.min(round.accepted, count),
    finishReason: "stop",
  };
}

/** The drafters to load. */
function choices({ target, drafter }: EngineOptions): readonly (string | URL)[] {
  if (drafter === undefined) return target === undefined ? ["sedd-target"] : [];
  if (drafter === null) return [];
  return typeof drafter === "string" || drafter instanceof URL ? [drafter] : drafter;
}
