/**
 * Speculative decoding: a drafter proposes γ tokens, the target scores all of them in one pass, and a rule decides how
 * many are accepted. Generic over {@linkcode Drafter}, {@linkcode Target} and {@linkcode Rule}.
 *
 * Deliberately absent: trees and batches. Choosing γ by cost and acceptance is in `controller.ts`, and checks of the
 * arguments are in `check.ts`.
 *
 * @module
 */

import type { Sampling } from "../backend/backend.ts";
import { checkSampling } from "../backend/distribution.ts";
import { DEFAULT_RULE, type Rule, type Verdict, verify } from "./acceptance.ts";
import { checkDraft, checkDrafting, checkPlan } from "./check.ts";
import { type Drafter, type DraftRequest, isOnDevice, NO_DRAFT, type Target } from "./drafter.ts";
import { decode, type DecodeOptions, holding, type Round, type Step, type StepRequest } from "./loop.ts";
import type { DraftPolicy } from "./policy.ts";

/** The default γ. On a CPU, short drafts pay best (see the README's figures). */
export const DEFAULT_GAMMA = 4;

/** Options of {@linkcode speculate}. */
export interface SpeculateOptions extends DecodeOptions {
  /** γ, tokens to draft per round (fewer near the end of the text), or a policy that chooses γ and T. @default {4} */
  readonly gamma?: number | DraftPolicy | undefined;
  /** The acceptance rule. @default {"block"} */
  readonly rule?: Rule | undefined;
  /**
   * How the drafter samples from q. @default as the target, which gives the highest acceptance; under `match`, which
   * does not use q, temperature 0, because the likeliest token matches most often
   */
  readonly draftSampling?: Sampling | undefined;
}

/**
 * Decodes with a drafter. The text has the distribution of the target alone for every rule and drafter that `isExact`
 * accepts. Others are refused, except `paper`, which is for comparison.
 *
 * @param prompt token ids, at least one
 * @throws {Error} if target or drafter are in the middle of another text's round
 * @throws {TypeError} if the rule is unknown or would not be exact for this drafter, or the drafter needs hidden states
 * that the target does not provide
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
    const most = room - 1; // a round emits one more token than it accepts
    const plan = typeof gamma === "number" ? { gamma } : gamma.next(most);
    checkPlan(plan, drafter);
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

/** Options of {@linkcode draftAndVerify}. */
interface RoundRequest extends Pick<StepRequest, "text" | "random" | "sampling" | "signal"> {
  readonly rule: Rule;
  readonly draftSampling?: Sampling | undefined;
  /** T, if it is not the drafter's own. */
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
    tokens: text.slice(), // a copy, which the drafter may modify
    gamma,
    steps,
    sampling: draftSampling ?? (rule === "match" ? { temperature: 0 } : sampling),
    random,
    coupled: rule === "coupled",
    hidden: await hiddenFor(drafter, target, text.subarray(0, -1), signal),
    signal,
  };
  // if the target's device can decide by itself, distributions stay there
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
    if (onDevice !== undefined) draftMs = found.draftMs; // so far the draft was only enqueued
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

/** The target's hidden states of the text it has seen, if the drafter needs them and there is such text. */
async function hiddenFor(
  { hiddenLayers = [] }: Drafter,
  target: Target,
  seen: Int32Array,
  signal: AbortSignal | undefined,
): Promise<DraftRequest["hidden"]> {
  return hiddenLayers.length > 0 && seen.length > 0 ? await target.hiddenOf?.(seen, signal) : undefined;
}
