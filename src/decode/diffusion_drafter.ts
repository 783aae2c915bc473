/**
 * Drafting by masked discrete diffusion (SpecDiff: Christopher et al. 2024, arXiv 2408.05636; SEDD: Lou et al. 2024): γ
 * masks after the text are denoised in T network evaluations, each of which reveals some of them. The distribution that
 * a token was drawn from is kept, and so is the step that revealed it: the rules in `acceptance.ts` need both.
 *
 * Deliberately absent: remasking or editing revealed tokens, and choosing among several drafts. Both depend on drafted
 * values, and would be exact only under `match` and `coupled`.
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
import { type CacheSettings, cacheSettings, type ContextCache, describeCache } from "./context_cache.ts";
import { DeviceDistributions } from "./device_distributions.ts";
import type { DeviceDraft, Draft, Drafter, DraftRequest } from "./drafter.ts";
import { propose, proposeOnDevice } from "./propose.ts";
import { reveal, type RevealOrder, revealOrders } from "./reveal.ts";

/** Initial capacity of a cache, in positions. It grows with the text, whatever length the checkpoint claims. */
const FIRST_CAPACITY = 512;

/** Descriptions of the kinds of prefix. */
const PREFIXES: Readonly<Record<DiffusionModel["prefixAttention"], string>> = {
  bidirectional: "bidirectional",
  causal: "causal prefix",
  target: "target-fed",
};

/** Options of {@linkcode DiffusionDrafter}. */
export interface DiffusionDrafterOptions {
  /**
   * T, the denoising steps per draft; at most γ are made.
   * @default 1; if γ is chosen for each round, T is too, for a model without a Markov head that drafts left to right
   */
  readonly steps?: number | undefined;
  /** Which masks a step reveals. @default {"left-to-right"} */
  readonly order?: RevealOrder | undefined;
  /**
   * How much of the text is used. A bidirectional model sees at most this many tokens. In other models, each layer
   * attends to at most this many earlier keys (which may themselves depend on earlier text).
   * @default for a bidirectional model its trained length less γ; for others the whole text
   */
  readonly draftContext?: number | undefined;
  /**
   * What a bidirectional model caches between passes. It affects acceptance, never exactness. Other models cache their
   * prefix exactly, and refuse this option. @default {"none"}
   */
  readonly contextCache?: ContextCache | undefined;
  /**
   * σ̄, the noise level given to the model: a number, or `schedule` for σ̄(1 − i/T) at step i.
   * @default σ̄(1) = 6.9078 at every step. The ideal score depends on it only by a factor that the softmax cancels
   * (RADD, arXiv 2406.03736), and the masks are a full block, as at t = 1.
   */
  readonly sigma?: number | "schedule" | undefined;
  /**
   * Reuse the rest of a rejected draft, beyond the corrected token and the one after it, in the next draft (future work
   * of the SpecDiff paper). Reused tokens count as revealed before all others, hence as point masses, which `ratio`
   * refuses. Drafts of fewer than 3 tokens leave nothing to reuse. @default {false}
   */
  readonly hotStart?: boolean | undefined;
}

/** Buffers for a draft that the device draws. */
interface Device {
  readonly round: DeviceRound;
  /** The token at each index. */
  readonly tokens: TokenBuffer;
  /** The token left of each index: the last token of the text, then `tokens`. */
  readonly left: TokenBuffer;
}

/** Drafts with a diffusion model. The model is borrowed: disposing of this leaves it alone. */
export class DiffusionDrafter implements Drafter {
  /** A description for people and statistics. */
  readonly name: string;
  /** V */
  readonly vocabSize: number;
  /** True for one step and for left-to-right steps, without a hot start. */
  readonly leftToRight: boolean;
  /** The target's blocks whose outputs form the prefix; empty unless the model is target-fed. */
  readonly hiddenLayers: readonly number[];
  /** [1, 2, 4] without `steps`, a Markov head or a hot start, and from left to right; otherwise undefined. */
  readonly stepChoices: readonly number[] | undefined;
  readonly #model: DiffusionModel;
  readonly #backend: Backend;
  readonly #q: DeviceDistributions;
  /** Tokens drawn by the device. */
  readonly #drafted: Growing<TokenBuffer>;
  readonly #steps: number;
  readonly #order: RevealOrder;
  readonly #draftContext: number | undefined;
  readonly #sigma: number | "schedule";
  readonly #hotStart: boolean;
  readonly #contextCache: CacheSettings;
  #text: CachedText;
  /** Where the context of a bidirectional model begins in the text. */
  #contextStart = 0;
  /** Drafts since the last full computation. */
  #draftsSinceRefresh = 0;
  /** The last draft and the text it was for, for a hot start. */
  #last: { text: Int32Array; tokens: Int32Array } | undefined;

  /**
   * Drafts on the backend that `model` was loaded on.
   * @throws {RangeError} if `steps` or `draftContext` is not a positive integer, `sigma` is not positive, or
   * `contextCache` is invalid
   * @throws {TypeError} if `order` is unknown
   */
  constructor(model: DiffusionModel, backend: Backend, options: DiffusionDrafterOptions = {}) {
    checkOptions(options);
    this.#steps = options.steps ?? 1;
    this.#order = options.order ?? "left-to-right";
    this.#draftContext = options.draftContext;
    this.#sigma = options.sigma ?? logLinearSigma(1);
    this.#hotStart = options.hotStart ?? false;
    const { contextCache = "none" } = options;
    this.#contextCache = cacheSettings(contextCache);
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
   * Reads the new part of the text, except the last piece. A bidirectional model reads nothing here: the text's rows
   * see the drafted ones and are computed with them.
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
    const sigma = this.#sigmaOf(0, this.#stepsOf(request, gamma)); // as in the pass that reads the last piece
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
   * @throws {TypeError} if the model needs hidden states of the text and the request has none
   */
  draft(request: DraftRequest): Draft {
    return { ...this.#draft(request), q: this.#q };
  }

  /**
   * The same on the device, without waiting for the tokens. Returns nothing if the reveal order depends on q, which the
   * host then has to read, or with a hot start.
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

  /** Drafts. Given a device, the device draws the tokens, and the returned ones are unknown. */
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
      // with one σ for all steps, nothing changes after a step that revealed nothing
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
        // random reveals seldom repeat, so recording them does not pay
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

  /** Has the device draw the tokens at the indices `open`, from the logits of `computed`. */
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

  /** Makes q at the indices `open` from the logits of `computed`, and has tokens drawn from left to right. */
  #open(
    pass: DiffusionPass,
    computed: readonly number[],
    open: readonly number[],
    { sampling, left, draw }: {
      readonly sampling: Sampling;
      /** The token left of an index; undefined if it is still masked. */
      readonly left: (j: number) => number | TokenBuffer | undefined;
      readonly draw: (j: number, count: number) => void;
    },
  ): void {
    // laws that follow one another are made at once, unless a token that is drawn changes the next one's logits
    const together: Run[] = this.#model.hasMarkovHead ? open.map((j) => [j, 1]) : runs(open);
    for (const [j, count] of together) {
      const row = computed.indexOf(j), previous = this.#model.hasMarkovHead ? left(j) : undefined;
      // it adds left context, of which there is none while the left neighbour is masked
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
      // the window starts with the last token of the text, which the target has yet to see
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

  /** Restarts the context of a bidirectional model, unless its cache is to be reused. */
  #placeContext(text: Int32Array, gamma: number): void {
    if (this.#model.prefixAttention !== "bidirectional") return;
    const room = this.#model.shape.contextLength - gamma, context = text.subarray(this.#contextStart);
    const kept = this.#text.length;
    this.#text.rewind(context);
    const usable = kept > 0 && this.#text.length === kept; // otherwise it belongs to another text
    this.#draftsSinceRefresh++;
    const due = this.#draftsSinceRefresh >= this.#contextCache.refresh || context.length > room;
    if (usable && !due) return;
    this.#text.truncate(0);
    this.#contextStart = Math.max(0, text.length - Math.min(this.#draftContext ?? room, room));
    this.#draftsSinceRefresh = 0;
  }

  /** Gives the model the target's hidden states of the tokens after those in the cache. */
  #feed(fresh: Int32Array, hidden: readonly Activation[] | undefined): void {
    if (fresh.length === 0) return;
    const start = this.#text.length;
    if (hidden === undefined) {
      throw new TypeError(
        `Cannot draft: the hidden states for "${this.name}" are missing, expected those of ` +
          `${start + fresh.length} tokens`,
      );
    }
    this.#model.feed(hidden.map((states) => states.slice(start, fresh.length)), this.#text.cache);
    this.#text.committed(fresh);
  }

  #sigmaOf(step: number, steps: number): number {
    return this.#sigma === "schedule" ? logLinearSigma(1 - step / steps) : this.#sigma;
  }

  /**
   * Fills in the earlier draft's tokens beyond the committed text, if this text continues the earlier one. Tokens drawn
   * for another text may depend on the same noise as the coming draws.
   */
  #seed(draft: Int32Array, revealedAt: Int32Array, text: Int32Array): void {
    if (this.#last === undefined) return;
    const { text: before, tokens } = this.#last, start = text.length, from = before.length;
    if (start <= from || before.some((token, i) => token !== text[i])) return;
    // the token after the corrected one is drafted anew: if it were stale, the whole round would depend on it
    for (let j = 1; j < draft.length; j++) {
      const left = start + j - from;
      if (left < 0 || left >= tokens.length) continue;
      draft[j] = tokens[left];
      revealedAt[j] = -1;
      this.#q.pointMass(j, tokens[left]);
    }
  }

  /** Makes room for `length` positions. They are relative, so a text may exceed the trained length. */
  #reserve(length: number): void {
    const { capacity } = this.#text.cache;
    if (length <= capacity) return;
    this.#text.cache[Symbol.dispose]();
    try {
      this.#text = new CachedText(this.#model.newCache(Math.max(length, 2 * capacity)));
    } catch (error) {
      this.#text = new CachedText(this.#model.newCache(capacity)); // which did fit
      throw error;
    }
  }

  /** Forgets the text. */
  reset(): void {
    this.#text.truncate(0);
    this.#last = undefined;
  }

  /** Frees the cache and q. */
  [Symbol.dispose](): void {
    this.#text.cache[Symbol.dispose]();
    this.#q[Symbol.dispose]();
    this.#drafted[Symbol.dispose]();
  }
}

function checkOptions({ steps, draftContext, order, sigma }: DiffusionDrafterOptions): void {
  for (const [name, value] of Object.entries({ steps, draftContext })) {
    if (value !== undefined && !(Number.isInteger(value) && value >= 1)) {
      throw new RangeError(
        `Cannot make a diffusion drafter: ${name} is ${shown(value)}, expected a positive integer`,
      );
    }
  }
  if (order !== undefined && !revealOrders.includes(order)) {
    throw new TypeError(
      `Cannot make a diffusion drafter: order is ${shown(order)}, expected one of ${revealOrders.join(", ")}`,
    );
  }
  const positive = typeof sigma === "number" && sigma > 0 && sigma < Infinity;
  if (sigma !== undefined && sigma !== "schedule" && !positive) {
    throw new RangeError(
      `Cannot make a diffusion drafter: sigma is ${shown(sigma)}, expected a positive number`,
    );
  }
}

function concat(a: Int32Array, b: Int32Array): Int32Array {
  const both = new Int32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
