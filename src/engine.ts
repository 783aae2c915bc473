/**
 * What most people import: models loaded from folders or by name, text out, faster, with the target's law.
 *
 * Deliberately thin: it wires hub, models, drafters and the decoding loops together. All but stop strings and what
 * its configuration says suits a drafter can be had from the lower entry points (`./backend`, `./model`, `./decode`,
 * `./hub`).
 *
 * @module
 */

import type { Backend, Dtype, Sampling } from "./backend/backend.ts";
import { createBackend, type Device, isOn } from "./backend/create.ts";
import { DEFAULT_RULE, type Rule } from "./decode/acceptance.ts";
import { DraftController, measureCosts } from "./decode/controller.ts";
import { autoregress } from "./decode/autoregressive.ts";
import type { DiffusionDrafterOptions } from "./decode/diffusion_drafter.ts";
import type { Drafter, Target } from "./decode/drafter.ts";
import { unlessAborted } from "./decode/event_loop.ts";
import { checkRequest, type Origin, type Round } from "./decode/loop.ts";
import { type Statistics, StatisticsCollector } from "./decode/metrics.ts";
import { ModelTarget } from "./decode/model_target.ts";
import { PhiloxSource } from "./decode/random.ts";
import { type Score, scoreTokens } from "./decode/score.ts";
import { checkDrafting, speculate } from "./decode/speculative.ts";
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

/** What {@linkcode loadEngine} loads, where it runs, and what goes on meanwhile. */
export interface EngineOptions extends WatchOptions {
  /**
   * A folder with `config.json` and `model.safetensors`, or the name of a model on a hub: `owner/name[@revision]`,
   * which is fetched into the cache if it is not there. A folder that exists is meant before a model of that name.
   * @default the embedded English target
   */
  readonly target?: string | URL | undefined;
  /**
   * Drafters to load, the first of which {@linkcode Engine.generate} uses unless told otherwise: a folder or a
   * name as for the target (of a SEDD or of a smaller causal model with the same vocabulary), the name of an
   * embedded drafter (`sedd-target`, `sedd-causal`, `sedd`, `gpt2`: before a folder of that name, which is `./gpt2`),
   * or `ngram`. `null`: none. With what one is fastest its `config.json` may say (`specdiff.drafting`: `gamma`,
   * `draft_context`), and so it drafts unless a text's options say otherwise.
   * @default `sedd-target` with the embedded target, none with any other
   */
  readonly drafter?: string | URL | readonly (string | URL)[] | null | undefined;
  /** Used instead of the `tokenizer.json` in or beside the target's folder. */
  readonly tokenizer?: Tokenizer | undefined;
  /** Where to compute: `cuda:1`, `wasm`, …. @default {"auto"} the fastest that is present */
  readonly device?: Device | undefined;
  /**
   * Where the drafters compute, if not where the target does: another GPU, as in the SpecDiff paper, or the CPU
   * beside one. Drafts and their laws then pass through the host; for a target-fed drafter the target's hidden states
   * do too, and what it borrows of the target's matrices is copied once.
   * @default {"auto"} where the target is
   */
  readonly draftDevice?: Device | undefined;
  /**
   * How the target's weights are held. Fewer bits than the checkpoint has make another target of it.
   * @default as the checkpoint has them: f16 or bf16 where all of its matrices are stored so, else f32
   */
  readonly dtype?: Dtype | undefined;
  /**
   * How a drafter's weights are held: costs acceptance, never exactness. Numbers beyond the range of f16 would end a text
   * with a {@linkcode LogitsError}; those of published models are far from it.
   * @default what is fastest: `"int8"` on a CPU, `"f16"` on a GPU, whose tensor cores it is for
   */
  readonly drafterDtype?: Dtype | undefined;
  /** Threads of the CPU backend, 512 at most. The text does not depend on it. @default the machine's cores */
  readonly threads?: number | undefined;
  /** For models by name: the cache, the hub, and a look at the download. @default as the environment says */
  readonly hub?: HubOptions | undefined;
}

/**
 * How a text is generated. Plain decoding takes all of these and drafts nothing, so that the same options give what to
 * compare with; a drafter refuses those it has no use for ({@linkcode Engine.unused}).
 */
export interface GenerateOptions extends Sampling, DiffusionDrafterOptions {
  /** Which of the engine's drafters, by the name it was loaded under; `null`: plain decoding. @default the first */
  readonly drafter?: string | null | undefined;
  /**
   * The acceptance rule. Only `ratio` asks for drafts made left to right or at once.
   * @default {"block"} which keeps the most of any draft
   */
  readonly rule?: Rule | undefined;
  /**
   * γ, tokens drafted per round; `auto`: chosen for each round by the times that rounds take on this machine and
   * by what was accepted of late, down to none where drafting does not pay, and with it T for a diffusion drafter without
   * a Markov head, unless `steps`, another `order` or `costs` are given. The text has the target's law either
   * way, but times differ from run to run: with `auto`, the same seed gives the same text only under `coupled` and
   * `match`, at temperature 0, or with `costs`. The first text with `auto` waits until rounds have been timed, and so
   * does the first that drafts otherwise, by another rule, or is the first at temperature 0 or with top-k or top-p.
   * What was accepted bears on the next texts' γ, so that those of one engine must not share a seed.
   * @default what the drafter's `config.json` says suits it (`specdiff.drafting.gamma`), else 4
   */
  readonly gamma?: number | "auto" | undefined;
  /**
   * With `gamma: "auto"`: milliseconds of a round for each γ from 0 (a plain step) to the longest draft wanted, in
   * place of measured ones. Then nothing depends on the clock, and the same seed gives the same text. Refused with any
   * other γ.
   */
  readonly costs?: readonly number[] | undefined;
  /**
   * An integer, also in decimal as the statistics have it, of which the low 64 bits count. The same seed and options
   * give the same text. In plain decoding and under `coupled` and `match`, a longer `maxTokens` goes on with the same
   * text; under other rules its end is drafted otherwise, and may read otherwise.
   * @default a fresh one, reported in the statistics
   */
  readonly seed?: number | bigint | string | undefined;
  /** The most tokens to generate. @default {128} */
  readonly maxTokens?: number | undefined;
  /** A string that ends the text, or several; it is not part of it. */
  readonly stop?: string | readonly string[] | undefined;
  /** Tokens that end the text, in place of the target's end-of-text token; `[]`: none. @default that token */
  readonly stopTokens?: readonly number[] | undefined;
  /** Ends the generation with its reason. */
  readonly signal?: AbortSignal | undefined;
}

/** One token of a stream. */
export interface Piece {
  /** Its id. */
  readonly token: number;
  /**
   * Text that became final with it: empty within a character, more than its own after one; always empty if the
   * target has no tokenizer. Special tokens are there by their names, but for one that ends the text.
   */
  readonly text: string;
  /** Where it came from. */
  readonly origin: Origin;
}

/** What one round added to a stream. */
export interface Chunk {
  /** Text that became final, to be appended to what came before. */
  readonly text: string;
  /** The tokens, one by one. */
  readonly pieces: readonly Piece[];
  /** What was measured so far. */
  readonly stats: Statistics;
}

/** A finished text. */
export interface Generation {
  /** The generated text, without the prompt. */
  readonly text: string;
  /** Its tokens; one that ended the text is the last. */
  readonly tokens: readonly number[];
  /** What was measured. */
  readonly stats: Statistics;
}

/** In place of a tokenizer that is not there: ids go in, and come out without text. */
const WORDLESS: Pick<Tokenizer, "decode"> = { decode: () => "" };

/** Options of drafting, for which plain decoding has no use. */
const DRAFT_OPTIONS: readonly (keyof GenerateOptions)[] = ["rule", "gamma", "costs", ...DIFFUSION_OPTIONS];

/** How many ways of drafting a drafter remembers the times of. */
const MOST_COSTS = 64;

/** Tokens that caches have room for, however short the text. */
const LEAST_CAPACITY = 128;

/** Values with which an option asks for nothing, and is welcome everywhere. */
const OFF: Readonly<Partial<GenerateOptions>> = { hotStart: false, contextCache: "none" };

/**
 * Loads a target, its drafters and a tokenizer. Declare it with `using`, or dispose of it: until then its threads keep
 * the process alive. An engine computes on the thread that loaded it; where that has an event loop to keep free, load
 * it in a worker, where the API is the same.
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
 * @throws {TypeError} if an option is of the wrong kind, a drafter's vocabulary is not the target's, or there is no such
 * device or dtype
 * @throws {BackendUnavailableError} if a device is not there
 * @throws the signal's reason once it is aborted; nothing stays loaded then
 */
export async function loadEngine(options: EngineOptions = {}): Promise<Engine> {
  checkKinds("load an engine", options, LOADING);
  checkKinds("use the hub", options.hub ?? {}, HUB);
  options.signal?.throwIfAborted();
  const { device = "auto", draftDevice = "auto", threads } = options;
  using held = new DisposableStack(); // what is freed if loading fails
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

/** Models, loaded, and what can be done with them. Several generations may run at once: each has its own caches. */
export class Engine implements Disposable {
  /** The target model. */
  readonly target: CausalModel;
  /** How the target's weights are held. */
  readonly dtype: Dtype;
  /** Names of the drafters as they were asked for. */
  readonly drafters: readonly string[];
  /** What computes, for people. */
  readonly device: string;
  /** What computes drafts, for people. */
  readonly draftDevice: string;
  /** Where the target is, for the layers below: `new ModelTarget(engine.target, engine.backend)`. The engine's own. */
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
   * @throws {CheckpointError} if the target came without one, which matters only to those who need words
   */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer instanceof Error) throw this.#tokenizer;
    return this.#tokenizer;
  }

  /**
   * Generates a text as it comes, one chunk per round of speculation. The options are read when the first chunk is asked
   * for. Its caches are freed where it ends: who takes chunks by hand and wants no more of them calls `return()`, as
   * leaving a `for await` does.
   *
   * @param prompt text, or its tokens, which need no tokenizer (a `BigInt64Array` of them as well)
   * @throws {CheckpointError} if the target came without a tokenizer, and the prompt or a stop string is text
   * @throws {RangeError} if the prompt is empty or fills the context, or an option is out of range
   * @throws {TypeError} if an option is unknown or of the wrong kind, the rule would not be exact for the drafter, the
   * drafter was not loaded or has no use for an option, there are costs without `gamma: "auto"`, or the tokenizer's tokens
   * are not the target's
   * @throws {OutOfMemoryError} if there is no room for another text's caches
   * @throws {LogitsError} if a model computes what is no number
   * @throws the signal's reason once it is aborted; what was yielded until then stands
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
        gamma: await chooseGamma(options, loaded!, target, drafter, rule),
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
      // token by token, so that where a stop string cuts does not depend on the rounds
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
   * @throws as {@linkcode Engine.stream}; what was generated is lost, so use that to keep it
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
   * @param options.signal ends it with the signal's reason
   * @throws {TypeError} if the text is neither, or the signal none
   * @throws {RangeError} if there are none, more than the context holds, or one is outside the vocabulary
   */
  async score(
    text: string | ArrayLike<number | bigint>,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Score> {
    checkKinds("score", options, { signal: SIGNAL });
    return await scoreTokens(this.target, this.#tokensOf(text), options.signal);
  }

  /**
   * Names of the options given for which the drafter they name, or plain decoding, has no use; not of those that ask
   * for nothing (`hotStart: false`, `contextCache: "none"`). For a drafter, {@linkcode Engine.stream} refuses them.
   *
   * @throws {TypeError} if the drafter was not loaded
   */
  unused(options: GenerateOptions): (keyof GenerateOptions)[] {
    const { unused } = this.#find(options) ?? { unused: DRAFT_OPTIONS };
    return unused.filter((name) => options[name] !== undefined && options[name] !== OFF[name]);
  }

  #tokensOf(text: string | ArrayLike<number | bigint>): number[] {
    if (typeof text !== "string") {
      if (!Number.isSafeInteger(text?.length)) {
        throw new TypeError("Cannot use the text: it is neither a string nor a list of token ids");
      }
      return Array.from(text, (id) => typeof id === "bigint" ? Number(id) : id);
    }
    const { contextLength, vocabSize } = this.target.shape;
    // of a text that is far too long the beginning tells, and millions of characters would keep the event loop waiting
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
        `Cannot use the tokenizer: it made token ${foreign} of the text, expected one below the target's ${vocabSize}; ` +
          "it is another model's",
      );
    }
    return tokens;
  }

  /** The drafter asked for, if it can do all that is asked; none for plain decoding. */
  #choose(options: GenerateOptions): LoadedDrafter | undefined {
    const { gamma, costs } = options;
    if (costs !== undefined && gamma !== "auto") {
      throw new TypeError(
        `Cannot use costs: gamma is ${
          gamma === undefined ? "the drafter's own" : shown(gamma)
        }, expected "auto", which they decide`,
      );
    }
    const loaded = this.#find(options);
    const unused = loaded && this.unused(options);
    if (unused?.length) {
      throw new TypeError(
        `Cannot draft with "${options.drafter ?? this.drafters[0]}": it has no use for ${unused.join(", ")}`,
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
 * For how many tokens a text's caches have room. A power of two, so that the caches of one text fit the next, and enough
 * to measure on what rounds cost.
 */
function capacityFor(length: number, contextLength: number): number {
  return Math.min(contextLength, Math.max(LEAST_CAPACITY, 2 ** Math.ceil(Math.log2(length))));
}

/** γ as asked for, or who decides it. */
async function chooseGamma(
  options: GenerateOptions,
  { gamma, costs }: LoadedDrafter,
  target: Target,
  drafter: Drafter,
  rule: Rule,
): Promise<number | DraftController> {
  if (typeof options.gamma === "string" && options.gamma !== "auto") {
    throw new RangeError(
      `Cannot speculate: gamma is "${options.gamma}", expected a non-negative integer or "auto"`,
    );
  }
  if (options.gamma !== "auto") return options.gamma ?? gamma;
  if (options.costs !== undefined) return new DraftController(options.costs);
  const { temperature, topK, topP, signal } = options;
  const drafting = DIFFUSION_OPTIONS.map((name) => options[name]);
  // laws that are made alike take alike
  const law = temperature === 0 ? "greedy" : topK || (topP ?? 1) < 1 ? "truncated" : "plain";
  const key = JSON.stringify([rule, law, ...drafting]);
  for (;;) {
    // measured for one text while the others wait: in the midst of one another the times would be wrong
    const others = costs.get(key);
    if (others === undefined) break;
    // that one's signal is not this one's
    const profile = await unlessAborted(others.catch(() => undefined), signal);
    if (profile !== undefined) return new DraftController(profile);
  }
  checkDrafting(target, drafter, 0, rule); // before anything is measured
  const own = measureCosts(target, drafter, { rule, sampling: { temperature, topK, topP }, signal });
  if (costs.size === MOST_COSTS) costs.delete(costs.keys().next().value!); // the oldest
  costs.set(key, own);
  try {
    return new DraftController(await own);
  } catch (error) {
    costs.delete(key);
    throw error;
  }
}

function textOf(pieces: readonly Piece[]): string {
  return pieces.map((piece) => piece.text).join("");
}

/** A round that a stop string ended after its first `count` tokens. */
function cut(round: Round, count: number): Round {
  return {
    ...round,
    tokens: round.tokens.slice(0, count),
    from: round.from.slice(0, count),
    accepted: Math.min(round.accepted, count),
    finishReason: "stop",
  };
}

/** What is to be drafted with. */
function choices({ target, drafter }: EngineOptions): readonly (string | URL)[] {
  if (drafter === undefined) return target === undefined ? ["sedd-target"] : [];
  if (drafter === null) return [];
  return typeof drafter === "string" || drafter instanceof URL ? [drafter] : drafter;
}
