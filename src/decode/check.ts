/**
 * Checks of what the sampler is given. Targets, drafters and policies may come from anyone, so nothing is assumed of
 * them.
 *
 * @module
 */

import { hasMethods } from "../given.ts";
import { shown } from "../shown.ts";
import { isExact, type Rule, rules } from "./acceptance.ts";
import type { DeviceDraft, Draft, Drafter, Target } from "./drafter.ts";
import type { DraftPlan, DraftPolicy } from "./policy.ts";

/**
 * Throws unless these can decode together.
 * @throws as `speculate`, before it begins
 */
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
      `Cannot speculate: "${drafter.name}" needs hidden states, but the target provides none, expected one with ` +
        `keepHidden and hiddenOf`,
    );
  }
  if (rule !== "paper" && !isExact(rule, drafter.leftToRight)) {
    const others = rules.filter((other) => isExact(other, drafter.leftToRight));
    throw new TypeError(
      `Cannot speculate: rule "${rule}" is exact only for drafts revealed left to right, and those of ` +
        `"${drafter.name}" are not, expected one of ${others.join(", ")}`,
    );
  }
}

/**
 * Throws unless a policy's plan can be drafted.
 * @throws {RangeError} if γ is not a count, or T is not one of the drafter's choices
 */
export function checkPlan(plan: DraftPlan, drafter: Drafter): void {
  if (!isCount(plan?.gamma)) {
    throw new RangeError(`Cannot speculate: ${expected("gamma in the policy's plan", plan?.gamma)}`);
  }
  // with any other T, the rule might not be exact for the drafts
  if (plan.steps !== undefined && !drafter.stepChoices?.includes(plan.steps)) {
    throw new RangeError(
      `Cannot speculate: the policy's steps is ${shown(plan.steps)}, expected ${
        drafter.stepChoices === undefined
          ? `none, as "${drafter.name}" has its own`
          : `one of ${drafter.stepChoices.join(", ")}`
      }`,
    );
  }
}

/**
 * Throws unless a draft is what the drafter promised.
 * @throws {RangeError | TypeError} naming the drafter, what it drafted and what was expected
 */
export function checkDraft(
  draft: Draft | DeviceDraft,
  onDevice: boolean,
  { name, vocabSize, leftToRight }: Drafter,
  gamma: number,
  rule: Rule,
): void {
  const refuse = (what: string, Kind: ErrorConstructor = RangeError) =>
    new Kind(`Cannot verify a draft: "${name}" drafted ${what}`);
  const { tokens, steps, q, passes }: Partial<Draft | DeviceDraft> = draft ?? {};
  if (!(steps instanceof Int32Array && (onDevice || tokens instanceof Int32Array))) {
    throw refuse("without its tokens or steps, expected an Int32Array for each", TypeError);
  }
  if (!onDevice && q !== undefined && !hasMethods(q, "row", "race")) {
    throw refuse(`with q = ${shown(q)}, expected an object with the methods row and race`, TypeError);
  }
  if (!isCount(passes)) throw refuse(`in ${shown(passes)} passes, expected a non-negative integer`);
  if (steps.length > gamma) throw refuse(`${steps.length} tokens, expected at most ${gamma}`);
  if (tokens instanceof Int32Array) {
    if (tokens.length !== steps.length) {
      throw refuse(`${tokens.length} tokens in ${steps.length} steps, expected a step for each token`);
    }
    const wrong = tokens.find((token) => token < 0 || token >= vocabSize);
    if (wrong !== undefined) throw refuse(`token ${wrong}, expected one in [0, ${vocabSize})`);
  }
  if (rule === "ratio" && leftToRight && steps.some((step, j) => j > 0 && step < steps[j - 1])) {
    throw refuse(`in the steps ${steps}, expected an order from left to right, as it declares`);
  }
}

function isCount(n: unknown): n is number {
  return Number.isInteger(n) && (n as number) >= 0;
}

function expected(what: string, found: unknown): string {
  return `${what} is ${shown(found)}, expected a non-negative integer`;
}
