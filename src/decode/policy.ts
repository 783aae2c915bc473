/**
 * The interface of a policy that chooses γ and T. `controller.ts` implements it; a fixed γ needs none.
 *
 * @module
 */

import type { Step } from "./loop.ts";

/** What a round drafts. */
export interface DraftPlan {
  /** γ, an integer of at least 0; 0: no draft. */
  readonly gamma: number;
  /** T, one of the drafter's `stepChoices`. @default the drafter's own */
  readonly steps?: number | undefined;
}

/**
 * Decides what each round drafts. It is asked before anything of a round is drawn, and informed once the round is over.
 * A choice can therefore depend only on the past, which keeps every rule exact (see the non-anticipating schedules of
 * DSpark, arXiv 2607.05147, App. A), as long as it does not depend on another text with the same seed.
 */
export interface DraftPolicy {
  /** The plan of the next round, in which at most `most` tokens can be drafted. */
  next(most: number): DraftPlan;
  /** Called after each round, with its plan. */
  observe(step: Step, plan: DraftPlan): void;
}
