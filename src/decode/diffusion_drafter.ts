/**
 * Drafting by masked discrete diffusion (SpecDiff: Christopher et al. 2024, arXiv 2408.05636; SEDD: Lou et
 * al. 2024): γ masks after the text are denoised in T network evaluations, each of which opens some of them.
 * The law a token is drawn from is kept, and so is the step at which it was revealed: the rules in
 * `acceptance.ts` need both.
 *
 * Deliberately absent: remasking or editing of revealed tokens, and choosing among several drafts. Both look
 * at drafted values, and would be exact only under `match` and `coupled`.
 *
 * @module
 */

import type { Activation, Backend, DeviceRound, Sampling, TokenBuffer } from "../backend/backend.ts";
import { Growing, mostRows } from "../backend/buffers.ts";
import { shown } from "../shown.ts";
import { UNKNOWN } from "../model/device_tokens.ts";
import { indicesOf, type Run, runs } from "../model/runs.ts";
import type { DiffusionModel, DiffusionPass, FollowUp } from "../model/model.ts";
import { logLinearSigma } from "../model/sedd_score.ts";
import { CachedText } from "./cached_text.ts";
import { DeviceDistributions } from "./device_distributions.ts";
import type { DeviceDraft, Draft, Drafter, DraftRequest } from "./drafter.ts";
import { propose, proposeOnDevice } from "./propose.ts";
import { reveal, type RevealOrder, revealOrders } from "./reveal.ts";

/** Positions a cache starts with; it grows with the text, whatever length the checkpoint claims. */
const FIRST_CAPACITY = 512;

/** What people are told of a prefix. */
const PREFIXES: Readonly<Record<DiffusionModel["prefixAttention"], string>> = {
  bidirectional: "bidirectional",
  causal: "causal prefix",
  target: "target-fed",
};

/**
 * What a bidirectional model keeps of a text from pass to pass. Every row of it sees every other, so keys and values
 * that are kept are not quite those a new pass would make; q is the law that follows from them.
 *
 * - `none`: nothing; each pass computes all of the text it sees.
 * - `draft`: the steps of a draft take the text's keys and values from its first step, and compute the γ drafted
 *   positions alone (the prefix cache of Fast-dLLM, Wu et al. 2025, arXiv 2505.22618).
 * - an object: a draft takes keys and values of all but the `recent` last tokens from the pass that first saw them
 *   with so many behind them, and computes those and the γ drafted positions. In every `refresh`th draft nothing is
 *   taken from earlier ones (delayed caching: dKV-Cache, Ma et al. 2025, arXiv 2505.15781). What is added to the text
 *   between two of them is seen beyond `draftContext`, as far as the length the model was trained at allows: where the
 *   context fills that, nothing can be kept.
 * - `delayed`: `{ recent: 4, refresh: 16 }`.
 */
export type ContextCache = "none" | "draft" | "delayed" | {
  /** R, an integer of at least 0. */
  readonly recent: number;
  /** N, an integer of at least 1. */
  readonly refresh: number;
};

/** The kinds of {@linkcode ContextCache} that have names. */
export const contextCaches: readonly Extract<ContextCache, string>[] = ["none", "draft", "delayed"];

const NAMED_CACHES: Readonly<Record<Extract<ContextCache, string>, Exclude<ContextCache, string>>> = {
  none: { recent: Infinity, refresh: 1 },
  draft: { recent: 0, refresh: 1 },
  delayed: { recent: 4, refresh: 16 },
};

/** Options of {@linkcode DiffusionDrafter}. */
export interface DiffusionDrafterOptions {
  /**
   * T, denoising steps per draft; no more than γ are ever made.
   * @default 1; where γ is chosen for each round, so is T, for a model without a Markov head that drafts left to right
   */
  readonly steps?: number | undefined;
  /** Which masks a step opens. @default {"left-to-right"} */
  readonly order?: RevealOrder | undefined;
  /**
   * The most tokens of the text a bidirectional model sees; of the others, how many keys each layer does, which were
   * made in sight of earlier ones.
   * @default for a bidirectional model the length it was trained at, less γ; for the others all of the text
   */
  readonly draftContext?: number | undefined;
  /**
   * What a bidirectional model keeps of the text from pass to pass: costs acceptance, never exactness. The others
   * keep theirs exactly, and have no use for this. @default {"none"}
   */
  readonly contextCache?: ContextCache | undefined;
  /**
   * σ̄, the noise level the model is told: a number, or `schedule` for σ̄(1 − i/T) at step i.
   * @default σ̄(1) = 6.9078 at every step. The ideal score depends on it only through a factor that the
   * softmax cancels (RADD, arXiv 2406.03736), and the masks are a full block, as at t = 1.
   */
  readonly sigma?: number | "schedule" | undefined;
  /**
   * Keep what is left of a rejected draft, beyond the corrected token and the one after it, as part of the next
   * one (future work of the SpecDiff paper). Kept tokens count as revealed before everything else, hence as point
   * masses, which `ratio` does not take; nothing is left of drafts of fewer than 3 tokens. @default {false}
   */
  readonly hotStart?: boolean | undefined;
}

/** A draft that the device draws. */
interface Device {
  readonly round: DeviceRound;
  /** Where it puts the token at each index. */
  readonly tokens: TokenBuffer;
  /** The same, after the last token of the text: the token left of each index. */
  readonly left: TokenBuffer;
}

/** Drafts with a diffusion model. The model is borrowed: disposing of this leaves it alone. */
export class DiffusionDrafter implements Drafter {
  /** For people and statistics. */
  readonly name: string;
  /** V */
  readonly vocabSize: number;
  /** True for one step and for left-to-right steps, unless tokens are kept from an earlier draft. */
  readonly leftToRight: boolean;
  /** Blocks of the target whose outputs the model makes its prefix of; mostly none. */
  readonly hiddenLayers: readonly number[];
  /** T that may be chosen: [1, 2, 4] without `steps`, without a Markov head, left to right, no hot start; else none. */
  readonly stepChoices: readonly number[] | undefined;
  readonly #model: DiffusionModel;
  readonly #backend: Backend;
  readonly #q: DeviceDistributions;
  /** What the device drew. */
  readonly #drafted: Growing<TokenBuffer>;
  readonly #steps: number;
  readonly #order: RevealOrder;
  readonly #draftContext: number | undefined;
  readonly #sigma: number | "schedule";
  readonly #hotStart: boolean;
  readonly #contextCache: Exclude<ContextCache, string>;
  #text: CachedText;
  /** Where in the text the context of a bidirectional model begins. */
  #contextStart = 0;
  /** Drafts since nothing was taken from earlier ones. */
  #draftsSinceRefresh = 0;
  /** The last draft and the text it was for, for a hot start. */
  #last: { text: Int32Array; tokens: Int32Array } | undefined;

  /**
   * Drafts on the backend that `model` was loaded on.
   * @throws {RangeError} if `steps` or `draftContext` is not a positive integer, `sigma` not positive, or
   * `contextCache` none of what it can be
   * @throws {TypeError} if there is no such `order`
   */
  constructor(model: DiffusionModel, backend: Backend, options: DiffusionDrafterOptions = {}) {
    this.#steps = options.steps ?? 1;
    this.#order = options.order ?? "left-to-right";
    this.#draftContext = options.draftContext;
    this.#sigma = options.sigma ?? logLinearSigma(1);
    this.#hotStart = options.hotStart ?? false;
    for (
      const [name, value] of [["steps", this.#steps], ["draftContext", this.#draftContext ?? 1]] as const
    ) {
      if (!Number.isInteger(value) || value < 1) {
        throw new RangeError(
          `Cannot make a diffusion drafter: ${name} is ${shown(value)}, expected a positive integer`,
        );
      }
    }
    if (!revealOrders.includes(this.#order)) {
      throw new TypeError(
        `Cannot make a diffusion drafter: order is ${shown(this.#order)}, expected one of ${
          revealOrders.join(", ")
        }`,
      );
    }
    const sigma = this.#sigma;
    if (sigma !== "schedule" && !(typeof sigma === "number" && sigma > 0 && sigma < Infinity)) {
      throw new RangeError(
        `Cannot make a diffusion drafter: sigma is ${shown(sigma)}, expected a positive number`,
      );
    }
    const { contextCache = "none" } = options;
    this.#contextCache = typeof contextCache === "string" ? NAMED_CACHES[contextCache] : { ...contextCache };
    if (!isContextCache(this.#contextCache)) {
      throw new RangeError(
        `Cannot make a diffusion drafter: contextCache is ${shown(contextCache)}, expected one of ${
          contextCaches.join(", ")
        }, or {recent, refresh} of integers from 0 and 1 on`,
      );
    }
    this.#model = model;
    this.#backend = backend;
    this.#drafted = new Growing((size) => backend.tokens(size));
    this.vocabSize = model.shape.vocabSize;
    this.hiddenLayers = model.hiddenLayers;
    this.leftToRight = (this.#steps === 1 || this.#order === "left-to-right") && !this.#hotStart;
    const one = options.steps !== undefined || model.hasMarkovHead || this.#order !== "left-to-right";
    this.stepChoices = one || this.#hotStart ? undefined : [1, 2, 4];
    const cache = model.prefixAttention === "bidirectional" ? describeCache(contextCache) : "";
    const head = model.hasMarkovHead ? ", Markov head" : "";
    this.name = `diffusion (${PREFIXES[model.prefixAttention]}${cache}${head})`;
    this.#text = new CachedText(model.newCache(Math.min(FIRST_CAPACITY, model.shape.contextLength)));
    this.#q = new DeviceDistributions(backend, this.vocabSize, `the drafter (${this.name})`);
  }

  /**
   * Reads what is new of the text, but for a last piece. Of a bidirectional model it reads nothing: the text's rows see
   * those that are drafted, and are computed with them.
   *
   * @throws {TypeError} as {@linkcode draft}
   */
  async prepare(request: DraftRequest): Promise<void> {
    const { tokens, hidden, signal } = request, { prefixAttention } = this.#model;
    const gamma = this.#length(request);
    if (prefixAttention === "bidirectional" || gamma === 0) return;
    const reading = { keep: 0, mostRows: mostRows(this.#backend), signal };
    this.#reserve(tokens.length + gamma);
    if (prefixAttention === "target") {
      await this.#text.catchUp(tokens.subarray(0, -1), {
        ...reading,
        read: (piece) => this.#feed(piece, hidden),
      });
      return;
    }
    const sigma = this.#sigmaOf(0, this.#stepsOf(request, gamma)); // that of the pass which reads the last piece
    const read = (piece: Int32Array) => {
      this.#model.denoise(piece, this.#text.cache, sigma, {
        cleanRows: piece.length,
        head: [piece.length - 1], // a pass has at least one
        window: this.#draftContext,
      });
      this.#text.committed(piece);
    };
    await this.#text.catchUp(tokens, { ...reading, read });
  }

  /**
   * Drafts γ tokens in at most min(T, γ) evaluations; fewer tokens if the model's length is shorter.
   * @throws {TypeError} if the model needs hidden states of the text, and the request has none
   */
  draft(request: DraftRequest): Draft {
    return { ...this.#draft(request), q: this.#q };
  }

  /**
   * The same without waiting for any of the tokens. Nothing where laws decide what is revealed, for they have to be
   * read then, and where tokens are kept from an earlier draft.
   */
  draftOnDevice(request: DraftRequest, round: DeviceRound): DeviceDraft | undefined {
    const gamma = this.#length(request);
    const reads = this.#order === "confidence" && this.#stepsOf(request, gamma) > 1;
    if (round.backend !== this.#backend || gamma === 0 || reads || this.#hotStart) return undefined;
    const left = this.#drafted.atLeast(1 + gamma), tokens = left.slice(1, gamma);
    if (this.#model.hasMarkovHead) left.write(request.tokens.subarray(-1));
    const { steps, passes } = this.#draft(request, { round, tokens, left });
    return { tokens, q: this.#q.slice(0, gamma), steps, passes };
  }

  #length({ gamma }: DraftRequest): number {
    return Math.min(gamma, this.#model.shape.contextLength - 1);
  }

  #stepsOf({ steps = this.#steps }: DraftRequest, gamma: number): number {
    return Math.min(steps, gamma);
  }

  /** Drafts; given a device, it draws the tokens, and those returned are unknown. */
  #draft(request: DraftRequest, device?: Device): Omit<Draft, "q"> {
    const { tokens: text, random, sampling } = request;
    const start = text.length;
    const gamma = this.#length(request);
    const steps = this.#stepsOf(request, gamma);
    const mask = this.vocabSize;
    const draft = new Int32Array(gamma).fill(mask);
    const revealedAt = new Int32Array(gamma);
    this.#q.resize(gamma);
    if (this.#hotStart) this.#seed(draft, revealedAt, text);
    this.#placeContext(text, gamma);

    let passes = 0;
    let changed = true;
    let pass: DiffusionPass | undefined;
    let computed: readonly number[] = []; // the draft indices that the rows of `pass` belong to
    for (let step = 0; step < steps; step++) {
      const masked = indicesOf(draft, mask);
      if (masked.length === 0) break;
      // with one σ for all steps, a step that opened nothing leaves the next nothing new to compute
      const anew = changed || this.#sigma === "schedule" || pass === undefined;
      if (anew) computed = masked;
      const sigma = this.#sigmaOf(step, steps);
      if (anew && device === undefined) pass = this.#denoise(request, draft, computed, sigma);
      const open = reveal(this.#order, {
        masked,
        step,
        steps,
        random,
        start,
        confidence: (j) => {
          this.#q.fill(j, pass!.logits.slice(computed.indexOf(j), 1), sampling);
          let most = 0;
          for (const p of this.#q.row(j)) most = Math.max(most, p);
          return most;
        },
      });
      if (device === undefined) {
        const left = (j: number) => j === 0 ? text[start - 1] : draft[j - 1];
        this.#open(pass!, computed, open, {
          sampling,
          left: (j) => left(j) === mask ? undefined : left(j),
          draw: (j, count) => {
            for (let i = j; i < j + count; i++) draft[i] = propose(this.#q, i, request);
          },
        });
      } else {
        const drawn = this.#drawing(request, draft, computed, open, device);
        // what is opened at random is seldom the same again, and what is not repeated is not worth recording
        const together = anew && (steps === 1 || this.#order === "left-to-right");
        const followUp = together ? drawn : undefined;
        if (anew) pass = this.#denoise(request, draft, computed, sigma, { device, followUp });
        if (!together) drawn.run(pass!);
        for (const j of open) draft[j] = UNKNOWN;
      }
      if (anew) passes++;
      for (const j of open) revealedAt[j] = step;
      changed = open.length > 0;
    }
    if (this.#hotStart) this.#last = { text: text.slice(), tokens: draft };
    return { tokens: draft, steps: revealedAt, passes };
  }

  /** What makes the device draw the tokens at the indices `open`, once there are logits of `computed`. */
  #drawing(
    request: DraftRequest,
    draft: Int32Array,
    computed: readonly number[],
    open: readonly number[],
    { round, tokens, left }: Device,
  ): FollowUp<DiffusionPass> {
    const { sampling, coupled } = request;
    const known = draft.map((token, j) => open.includes(j) ? UNKNOWN : token), mask = this.vocabSize;
    return {
      key: `${known} opens ${open} of ${computed} ${coupled} ${JSON.stringify(sampling)}`,
      uses: [this.#q.slice(0, draft.length), left, round],
      run: (pass) =>
        this.#open(pass, computed, open, {
          sampling,
          left: (j) => j > 0 && known[j - 1] === mask ? undefined : left.slice(j, 1),
          draw: (j, count) => proposeOnDevice(this.#q, j, count, request, round, tokens),
        }),
    };
  }

  /** Makes the laws at the indices `open` from logits of `computed`, and has tokens drawn, from the left. */
  #open(
    pass: DiffusionPass,
    computed: readonly number[],
    open: readonly number[],
    { sampling, left, draw }: {
      readonly sampling: Sampling;
      /** The token left of an index; nothing where it is still a mask. */
      readonly left: (j: number) => number | TokenBuffer | undefined;
      readonly draw: (j: number, count: number) => void;
    },
  ): void {
    // laws that follow one another are made at once, unless a token that is drawn changes the next one's logits
    const together: Run[] = this.#model.hasMarkovHead ? open.map((j) => [j, 1]) : runs(open);
    for (const [j, count] of together) {
      const row = computed.indexOf(j), previous = this.#model.hasMarkovHead ? left(j) : undefined;
      // it restores left context; where the left neighbour is still a mask there is none to restore
      if (previous !== undefined) this.#model.markovLogits(pass, row, previous);
      this.#q.fill(j, pass.logits.slice(row, count), sampling);
      draw(j, count);
    }
  }

  /** One network evaluation: logits of the draft's masked rows, and of no others. */
  #denoise(
    { tokens: text, hidden }: DraftRequest,
    draft: Int32Array,
    masked: readonly number[],
    sigma: number,
    { device, followUp }: {
      readonly device?: Device;
      readonly followUp?: FollowUp<DiffusionPass> | undefined;
    } = {},
  ): DiffusionPass {
    const drafted = (at: number) => device && { tokens: device.tokens, at };
    if (this.#model.prefixAttention === "target") {
      this.#reserve(text.length + draft.length);
      this.#feed(this.#text.rewind(text.subarray(0, -1)), hidden);
      // the last token of the text, which the target has yet to see, opens the window
      return this.#model.denoise(concat(text.subarray(-1), draft), this.#text.cache, sigma, {
        cleanRows: 0,
        head: masked.map((j) => 1 + j),
        window: this.#draftContext,
        drafted: drafted(1),
        followUp,
      });
    }
    if (this.#model.prefixAttention === "causal") {
      this.#reserve(text.length + draft.length);
      const fresh = this.#text.rewind(text);
      const pass = this.#model.denoise(concat(fresh, draft), this.#text.cache, sigma, {
        cleanRows: fresh.length,
        head: masked.map((j) => fresh.length + j),
        window: this.#draftContext,
        drafted: drafted(fresh.length),
        followUp,
      });
      this.#text.committed(fresh);
      return pass;
    }
    const context = text.subarray(this.#contextStart), { recent } = this.#contextCache;
    this.#reserve(context.length + draft.length);
    const fresh = this.#text.rewind(context, Math.max(0, context.length - recent));
    const keep = Math.max(0, fresh.length - recent);
    const pass = this.#model.denoise(concat(fresh, draft), this.#text.cache, sigma, {
      cleanRows: fresh.length,
      head: masked.map((j) => fresh.length + j),
      keep,
      drafted: drafted(fresh.length),
      followUp,
    });
    this.#text.committed(fresh.subarray(0, keep));
    return pass;
  }

  /** Lets the context of a bidirectional model begin anew, unless some of what is kept of it is to be used again. */
  #placeContext(text: Int32Array, gamma: number): void {
    if (this.#model.prefixAttention !== "bidirectional") return;
    const room = this.#model.shape.contextLength - gamma, context = text.subarray(this.#contextStart);
    const kept = this.#text.length;
    this.#text.rewind(context);
    const usable = kept > 0 && this.#text.length === kept; // or it is of another text
    this.#draftsSinceRefresh++;
    const due = this.#draftsSinceRefresh >= this.#contextCache.refresh || context.length > room;
    if (usable && !due) return;
    this.#text.truncate(0);
    this.#contextStart = Math.max(0, text.length - Math.min(this.#draftContext ?? room, room));
    this.#draftsSinceRefresh = 0;
  }

  /** Gives the model what the target made of the tokens that follow those which the cache holds. */
  #feed(fresh: Int32Array, hidden: readonly Activation[] | undefined): void {
    if (fresh.length === 0) return;
    const start = this.#text.length;
    if (hidden === undefined) {
      throw new TypeError(
        `Cannot draft: "${this.name}" needs the target's hidden states of ${start + fresh.length} tokens, ` +
          "and there are none",
      );
    }
    this.#model.feed(hidden.map((states) => states.slice(start, fresh.length)), this.#text.cache);
    this.#text.committed(fresh);
  }

  #sigmaOf(step: number, steps: number): number {
    return this.#sigma === "schedule" ? logLinearSigma(1 - step / steps) : this.#sigma;
  }

  /**
   * Fills in what an earlier draft proposed for positions beyond the committed text, if that goes on with the text of
   * the draft: of another one it may have been drawn by the very noise that draws now.
   */
  #seed(draft: Int32Array, revealedAt: Int32Array, text: Int32Array): void {
    if (this.#last === undefined) return;
    const { text: before, tokens } = this.#last, start = text.length, from = before.length;
    if (start <= from || before.some((token, i) => token !== text[i])) return;
    // what followed the rejected token is drafted anew: with it, a round would stand or fall with a stale token
    for (let j = 1; j < draft.length; j++) {
      const left = start + j - from;
      if (left < 0 || left >= tokens.length) continue;
      draft[j] = tokens[left];
      revealedAt[j] = -1;
      this.#q.pointMass(j, tokens[left]);
    }
  }

  /** Makes room for `length` positions. They are relative, so a text may outgrow what the model was trained at. */
  #reserve(length: number): void {
    const { capacity } = this.#text.cache;
    if (length <= capacity) return;
    this.#text.cache[Symbol.dispose]();
    try {
      this.#text = new CachedText(this.#model.newCache(Math.max(length, 2 * capacity)));
    } catch (error) {
      this.#text = new CachedText(this.#model.newCache(capacity)); // there was room for that
      throw error;
    }
  }

  /** Forgets the text. */
  reset(): void {
    this.#text.truncate(0);
    this.#last = undefined;
  }

  /** Frees the cache and the laws. */
  [Symbol.dispose](): void {
    this.#text.cache[Symbol.dispose]();
    this.#q[Symbol.dispose]();
    this.#drafted[Symbol.dispose]();
  }
}

function isContextCache(cache: Exclude<ContextCache, string> | undefined | null): boolean {
  return cache !== undefined && cache !== null &&
    (cache === NAMED_CACHES.none || Number.isInteger(cache.recent)) &&
    cache.recent >= 0 && Number.isInteger(cache.refresh) && cache.refresh >= 1;
}

function describeCache(cache: ContextCache): string {
  if (cache === "none") return "";
  if (typeof cache === "string") return `, context cache: ${cache}`;
  return `, context cache: recent ${cache.recent}, refresh ${cache.refresh}`;
}

function concat(a: Int32Array, b: Int32Array): Int32Array {
  const both = new Int32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
