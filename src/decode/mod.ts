/**
 * Plain and speculative decoding, for any implementation of the {@linkcode Target} and {@linkcode Drafter} interfaces.
 *
 * The sampler is `speculate` in `speculative.ts`; the acceptance rules are in `acceptance.ts`.
 *
 * ```ts
 * import { createBackend } from "@specdiff/specdiff/backend";
 * import { DiffusionDrafter, ModelTarget, speculate } from "@specdiff/specdiff/decode";
 * import { openCheckpoint } from "@specdiff/specdiff/hub";
 * import { loadGpt2, loadSedd } from "@specdiff/specdiff/model";
 *
 * using backend = await createBackend();
 * using targetWeights = await openCheckpoint("fixtures/parity/gpt2-tiny");
 * using drafterWeights = await openCheckpoint("fixtures/parity/sedd-tiny");
 * using gpt2 = await loadGpt2(targetWeights, backend);
 * using sedd = await loadSedd(drafterWeights, backend);
 * using target = new ModelTarget(gpt2, backend);
 * using drafter = new DiffusionDrafter(sedd, backend, { steps: 1 });
 * const prompt = [1, 2, 3];
 * for await (const round of speculate(target, drafter, prompt, { gamma: 4, seed: 1, maxTokens: 20 })) {
 *   console.log(round.tokens, round.accepted);
 * }
 * ```
 *
 * @module
 */

export { DEFAULT_RULE, isExact, type Rule, rules, type Verdict, verify } from "./acceptance.ts";
export { autoregress } from "./autoregressive.ts";
export { AutoregressiveDrafter } from "./autoregressive_drafter.ts";
export { type ContextCache, contextCaches } from "./context_cache.ts";
export { DraftController } from "./controller.ts";
export { CostProfile } from "./cost_profile.ts";
export { DiffusionDrafter, type DiffusionDrafterOptions } from "./diffusion_drafter.ts";
export { type Distributions, HostDistributions, type Law } from "./distributions.ts";
export type { DeviceDraft, DeviceVerdict, Draft, Drafter, DraftRequest, Target } from "./drafter.ts";
export { measureCosts, type MeasureOptions } from "./measure_costs.ts";
export type { DecodeOptions, FinishReason, Origin, Round, Step } from "./loop.ts";
export { type RunDescription, type Statistics, StatisticsCollector } from "./metrics.ts";
export { ModelTarget } from "./model_target.ts";
export { NgramDrafter } from "./ngram_drafter.ts";
export { invert, PhiloxSource, Purpose, type RandomSource } from "./random.ts";
export { SharedProfile } from "./shared_profile.ts";
export { reveal, type RevealOrder, revealOrders, type RevealRequest } from "./reveal.ts";
export type { DraftPlan, DraftPolicy } from "./policy.ts";
export { type Score, scoreTokens } from "./score.ts";
export { DEFAULT_GAMMA, speculate, type SpeculateOptions } from "./speculative.ts";
// types in the signatures above
export type * from "../backend/backend.ts";
export type * from "../model/model.ts";
export type { DeviceTokens } from "../model/device_tokens.ts";
