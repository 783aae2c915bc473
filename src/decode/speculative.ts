/**
 * Speculative decoding: a drafter proposes γ tokens, the target scores all of them in one pass, a rule keeps
 * as many as it may. Generic over {@linkcode Drafter}, {@linkcode Target} and {@linkcode Rule}.
 *
 * Deliberately absent: trees and batches. A γ that follows measured times and acceptance is in `controller.ts`.
 *
 * @module
 */

import type { Sampling } from "../backend/backend.ts";
import { checkSampling } from "../backend/distribution.ts";
import { hasMethods } from "../given.ts";
import { shown } from "../shown.ts";
import { DEFAULT_RULE, isExact, type Rule, rules, type Verdict, verify } from "./acceptance.ts";
import {
  type DeviceDraft,
  type Draft,
  type Drafter,
  type DraftRequest,
  isOnDevice,
  NO_DRAFT,
  type Target,
} from "./drafter.ts";
import { decode, type DecodeOptions, holding, type Round, type Step, type StepRequest } from "./loop.ts";

/** What a round drafts. */
export interface DraftPlan {
  /** γ, an integer of at least 0; 0: no draft. */
  readonly gamma: number;
  /** T, one of {@linkcode Drafter.stepChoices}. @default the drafter's own */
  readonly steps?: number | undefined;
}

/**
 * Decides what each round drafts. It is asked before anything of a round is drawn and told of the round when it is
 * over, so that a choice can depend on nothing but the past: that keeps every rule exact (reference: the
 * non-anticipating schedules of DSpark, arXiv 2607.05147, App. A).
 */
export interface DraftPolicy {
  /** The next round's, of which no more than `most` tokens can be drafted. */
  next(most: number): DraftPlan;
  /** Is told of each round, and of what was planned for it. */
  observe(step: Step, plan: DraftPlan): void;
}

/** γ unless told otherwise: what pays on a CPU is short (see the README's figures). */
export const DEFAULT_GAMMA = 4;

/** Options of {@linkcode speculate}. */
export interface SpeculateOptions extends DecodeOptions {
  /** γ, how many tokens to draft per round, or who decides it and T; fewer where the text is about to end. @default {4} */
  readonly gamma?: number | DraftPolicy | undefined;
  /** How drafts are tested. @default {"block"} */
  readonly rule?: Rule | undefined;
  /**
   * How the drafter's law q is made. @default that of the target, which is where acceptance is highest; under
   * `match`, which has no use for q, temperature 0: the likeliest token is the one most often matched
   */
  readonly draftSampling?: Sampling | undefined;
}

/**
 * Decodes with a drafter. The text has the law of the target alone for every rule and drafter that
 * {@linkcode isExact} accepts; the others are refused, except `paper`, which is there to be compared with.
 *
 * @param prompt token ids, at least one
 * @throws {Error} if target or drafter are in the middle of a round of another text
 * @throws {TypeError} if the rule is unknown, or would not be exact for this drafter, or the drafter asks for
 * hidden states of a target that gives none
 * @throws {RangeError} if the vocabularies differ, `gamma` is not a non-negative integer, and as
 * {@linkcode autoregress}
 */
export function speculate(
  target: Target,
  drafter: Drafter,
  prompt: ArrayLike<number>,
  options: SpeculateOptions = {},
): AsyncGenerator<Round, void, void> {
  const { gamma = DEFAULT_GAMMA, rule = DEFAULT_RULE, draftSampling } = options;
  checkDrafting(target, drafter, gamma, rule);
  if (draftSampling !== undefined) checkSampling(draftSampling);
  const round = async ({ text, room, random, sampling, signal }: StepRequest): Promise<Step> => {
    const most = room - 1; // a round emits one token more than it accepts
    const plan = typeof gamma === "number" ? { gamma } : gamma.next(most);
    if (!isCount(plan?.gamma)) {
      throw new RangeError(`Cannot speculate: ${expected("gamma in the policy's plan", plan?.gamma)}`);
    }
    // any other might make drafts of a kind that the rule is not exact for
    if (plan.steps !== undefined && !drafter.stepChoices?.includes(plan.steps)) {
      throw new RangeError(
        `Cannot speculate: the policy's steps is ${shown(plan.steps)}, expected ${
          drafter.stepChoices === undefined
            ? `none, as "${drafter.name}" has its own`
            : `one of ${drafter.stepChoices.join(", ")}`
        }`,
      );
    }
    const settings = { text, random, sampling, signal, rule, draftSampling, steps: plan.steps };
    const step = await holding(
      drafter,
      `the drafter "${drafter.name}"`,
      () => draftAndVerify(target, drafter, Math.min(plan.gamma, most), settings),
    );
    if (typeof gamma !== "number") gamma.observe(step, plan);
    return step;
  };
  return decode(target, prompt, options, round, drafter.hiddenLayers);
}

/** What {@linkcode draftAndVerify} is given. */
interface RoundRequest extends Pick<StepRequest, "text" | "random" | "sampling" | "signal"> {
  readonly rule: Rule;
  readonly draftSampling?: Sampling | undefined;
  /** T, where it is not the drafter's own. */
  readonly steps?: number | undefined;
}

/** One round: a draft of at most γ tokens, the target's pass over it, and the test. */
export async function draftAndVerify(
  target: Target,
  drafter: Drafter,
  gamma: number,
  { text, random, sampling, signal, rule, draftSampling, steps }: RoundRequest,
): Promise<Step> {
  const began = performance.now();
  const request = gamma === 0 ? undefined : {
    tokens: text.slice(), // the drafter's own, to do with as it likes
    gamma,
    steps,
    sampling: draftSampling ?? (rule === "match" ? { temperature: 0 } : sampling),
    random,
    coupled: rule === "coupled",
    hidden: await hiddenFor(drafter, target, text.subarray(0, -1), signal),
    signal,
  };
  // where the laws are on a device that can decide by itself, they stay there
  const round = random.seed === undefined ? undefined : target.beginOnDevice?.(random.seed, text.length);
  if (request !== undefined) await drafter.prepare?.(request);
  const onDevice = request && round && drafter.draftOnDevice?.(request, round);
  const draft = onDevice ?? (request === undefined ? NO_DRAFT : await drafter.draft(request));
  checkDraft(draft, onDevice !== undefined, drafter, gamma, rule);
  const n = draft.steps.length;
  let draftMs = performance.now() - began;
  let verdict: Verdict, tokens: Int32Array;
  if (isOnDevice(draft) || round !== undefined && draft.q === undefined) {
    const found = await target.verifyOnDevice!(text, draft, rule, sampling, signal);
    [verdict, tokens] = [found, found.draft];
    onDevice?.settle?.(tokens);
    if (onDevice !== undefined) draftMs = found.draftMs; // it was no more than enqueued
  } else {
    tokens = draft.tokens;
    const proposal = new Int32Array(text.length + n);
    proposal.set(text);
    proposal.set(tokens, text.length);
    const p = await target.score(proposal, n + 1, sampling, signal);
    verdict = verify(rule, draft, p, random, text.length);
  }
  const { accepted, token, bonus } = verdict;
  return {
    draft: tokens,
    accepted,
    token,
    origin: n === 0 ? "target" : bonus ? "bonus" : "corrected",
    draftPasses: draft.passes,
    draftMs,
    verifyMs: Math.max(0, performance.now() - began - draftMs),
  };
}

/** The hidden states of what the target has seen, for a drafter that asks for them; of nothing there are none. */
async function hiddenFor(
  { hiddenLayers = [] }: Drafter,
  target: Target,
  seen: Int32Array,
  signal: AbortSignal | undefined,
): Promise<DraftRequest["hidden"]> {
  return hiddenLayers.length > 0 && seen.length > 0 ? await target.hiddenOf?.(seen, signal) : undefined;
}

/** A drafter may be anybody's: what it says is looked at before it is believed. */
function checkDraft(
  draft: Draft | DeviceDraft,
  onDevice: boolean,
  { name, vocabSize, leftToRight }: Drafter,
  gamma: number,
  rule: Rule,
): void {
  const refuse = (what: string, Kind: ErrorConstructor = RangeError) =>
    new Kind(`Cannot verify a draft: "${name}" drafted ${what}`);
  const { tokens, steps, q }: Partial<Draft | DeviceDraft> = draft ?? {};
  if (!(steps instanceof Int32Array && (onDevice || tokens instanceof Int32Array))) {
    throw refuse("something else than it should, expected tokens and steps, Int32Array each", TypeError);
  }
  if (!onDevice && q !== undefined && !hasMethods(q, "row", "race")) {
    throw refuse(`with the laws ${shown(q)}, expected an object with the methods row and race`, TypeError);
  }
  if (steps.length > gamma) throw refuse(`${steps.length} tokens, expected at most ${gamma}`);
  if (tokens instanceof Int32Array) {
    if (tokens.length !== steps.length) {
      throw refuse(`${tokens.length} tokens in ${steps.length} steps, expected a step for each token`);
    }
    const wrong = tokens.find((token) => token < 0 || token >= vocabSize);
    if (wrong !== undefined) throw refuse(`token ${wrong}, expected one in [0, ${vocabSize})`);
  }
  if (rule === "ratio" && leftToRight && steps.some((step, j) => j > 0 && step < steps[j - 1])) {
    throw refuse(`in the steps ${steps}, expected them left to right, as it says of itself`);
  }
}

function isCount(n: unknown): n is number {
  return Number.isInteger(n) && (n as number) >= 0;
}

function expected(what: string, found: unknown): string {
  return `${what} is ${shown(found)}, expected a non-negative integer`;
}

/** What {@linkcode speculate} throws before it begins. */
export function checkDrafting(
  target: Target,
  drafter: Drafter,
  gamma: number | DraftPolicy,
  rule: Rule,
): void {
  if (!rules.includes(rule)) {
    throw new TypeError(`Cannot speculate: unknown rule "${rule}", expected one of ${rules.join(", ")}`);
  }
  if (typeof gamma === "object" && gamma !== null) {
    if (typeof gamma.next !== "function" || typeof gamma.observe !== "function") {
      throw new TypeError("Cannot speculate: the policy lacks a method, expected next and observe");
    }
  } else if (!isCount(gamma)) throw new RangeError(`Cannot speculate: ${expected("gamma", gamma)}`);
  if (drafter.vocabSize !== target.vocabSize) {
    throw new RangeError(
      `Cannot speculate: the drafter has ${drafter.vocabSize} tokens and the target ${target.vocabSize}, ` +
        `expected the same vocabulary`,
    );
  }
  if ((drafter.hiddenLayers?.length ?? 0) > 0 && !(target.keepHidden && target.hiddenOf)) {
    throw new TypeError(
      `Cannot speculate: "${drafter.name}" asks for hidden states, and the target gives none, expected one with ` +
        `keepHidden and hiddenOf`,
    );
  }
  if (rule !== "paper" && !isExact(rule, drafter.leftToRight)) {
    const others = rules.filter((other) => isExact(other, drafter.leftToRight));
    throw new TypeError(
      `Cannot speculate: rule "${rule}" is exact only for drafts that are revealed left to right, and those of ` +
        `"${drafter.name}" are not; use one of ${others.join(", ")}`,
    );
  }
}
