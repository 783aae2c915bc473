/**
 * Speculative decoding: a drafter proposes γ tokens, the target scores all of them in one pass, a rule keeps
 * as many as it may. Generic over {@linkcode Drafter}, {@linkcode Target} and {@linkcode Rule}.
 *
 * Deliberately absent: trees and batches, and a γ that follows measured acceptance.
 *
 * @module
 */

import type { Sampling } from "../backend/backend.ts";
import { isExact, type Rule, rules, verify } from "./acceptance.ts";
import type { Draft, Drafter, Target } from "./drafter.ts";
import { decode, type DecodeOptions, type Round } from "./loop.ts";

/** Options of {@linkcode speculate}. */
export interface SpeculateOptions extends DecodeOptions {
  /** γ, how many tokens to draft per round; fewer where the text is about to end. @default {5} */
  readonly gamma?: number | undefined;
  /** How drafts are tested. @default {"ordered"} */
  readonly rule?: Rule | undefined;
  /**
   * How the drafter's law q is made. @default that of the target, which is where acceptance is highest; under
   * `match`, which has no use for q, temperature 0: the likeliest token is the one most often matched
   */
  readonly draftSampling?: Sampling | undefined;
}

const NO_DRAFT: Draft = { tokens: new Int32Array(0), steps: new Int32Array(0), passes: 0 };

/**
 * Decodes with a drafter. The text has the law of the target alone for every rule and drafter that
 * {@linkcode isExact} accepts; the others are refused, except `paper`, which is there to be compared with.
 *
 * @param prompt token ids, at least one
 * @throws {TypeError} if the rule is unknown, or would not be exact for this drafter, or the drafter asks for
 * hidden states of a target that gives none
 * @throws {RangeError} if the vocabularies differ, `gamma` is not a non-negative integer, and as
 * {@linkcode decode}
 */
export function speculate(
  target: Target,
  drafter: Drafter,
  prompt: ArrayLike<number>,
  options: SpeculateOptions = {},
): AsyncGenerator<Round, void, void> {
  const { gamma = 5, rule = "ordered" } = options;
  check(target, drafter, gamma, rule);
  const { hiddenLayers = [] } = drafter;
  target.keepHidden?.(hiddenLayers);
  return decode(target, prompt, options, async ({ text, room, random, sampling }) => {
    const began = performance.now();
    // a round emits one token more than it accepts
    const most = Math.min(gamma, room - 1);
    const draft = most === 0 ? NO_DRAFT : await drafter.draft({
      tokens: text,
      gamma: most,
      sampling: options.draftSampling ?? (rule === "match" ? { temperature: 0 } : sampling),
      random,
      coupled: rule === "coupled",
      // of a text of one token the target has seen nothing, but may still hold another text
      hidden: hiddenLayers.length > 0 && text.length > 1 ? target.hidden : undefined,
    });
    const n = draft.tokens.length;
    if (n > most) {
      throw new RangeError(
        `Cannot verify a draft: "${drafter.name}" drafted ${n} tokens, expected at most ${most}`,
      );
    }
    const proposal = new Int32Array(text.length + n);
    proposal.set(text);
    proposal.set(draft.tokens, text.length);
    const drafted = performance.now();
    const p = await target.score(proposal, n + 1, sampling);
    const { accepted, token, bonus } = verify(rule, draft, p, random, text.length);
    return {
      draft: draft.tokens,
      accepted,
      token,
      origin: n === 0 ? "target" : bonus ? "bonus" : "corrected",
      draftPasses: draft.passes,
      draftMs: drafted - began,
      verifyMs: performance.now() - drafted,
    };
  });
}

function check(target: Target, drafter: Drafter, gamma: number, rule: Rule): void {
  if (!rules.includes(rule)) {
    throw new TypeError(`Cannot speculate: unknown rule "${rule}", expected one of ${rules.join(", ")}`);
  }
  if (!Number.isInteger(gamma) || gamma < 0) {
    throw new RangeError(`Cannot speculate: gamma is ${gamma}, expected a non-negative integer`);
  }
  if (drafter.vocabSize !== target.vocabSize) {
    throw new RangeError(
      `Cannot speculate: the drafter has ${drafter.vocabSize} tokens and the target ${target.vocabSize}, ` +
        `expected the same vocabulary`,
    );
  }
  if ((drafter.hiddenLayers?.length ?? 0) > 0 && target.keepHidden === undefined) {
    throw new TypeError(
      `Cannot speculate: "${drafter.name}" asks for hidden states, and the target gives none, expected one with ` +
        `keepHidden`,
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
