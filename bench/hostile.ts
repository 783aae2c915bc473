/**
 * The cost of choosing γ if drafting is hopeless: the embedded target with a drafter that takes its usual time but
 * proposes a token that is never accepted, against plain decoding.
 *
 * @module
 */

import type { Engine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { createBackend } from "../src/backend/create.ts";
import { DEFAULT_RULE } from "../src/decode/acceptance.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import { AutoregressiveDrafter } from "../src/decode/autoregressive_drafter.ts";
import { DraftController } from "../src/decode/controller.ts";
import { measureCosts } from "../src/decode/measure_costs.ts";
import { DiffusionDrafter } from "../src/decode/diffusion_drafter.ts";
import type { Drafter } from "../src/decode/drafter.ts";
import type { Round } from "../src/decode/loop.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { speculate } from "../src/decode/speculative.ts";
import { draftingOf } from "../src/drafting.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { encodeText } from "../src/hub/tokenizer.ts";
import { loadModel } from "../src/model/load.ts";
import { embeddedDrafter, embeddedDrafters, embeddedTarget } from "../src/pair.ts";
import { loadAsCausal } from "../tools/shapes.ts";
import type { Section } from "./kernels.ts";
import { spreadOf } from "./spread.ts";

const TOKENS = 128;
const REPETITIONS = 5;
/** The tokenizer's last merge, which the target almost never generates. */
const UNLIKELY = 2047;

/** A drafter with the same cost, but without accepted tokens. */
function unlucky(drafter: Drafter): Drafter {
  return {
    name: drafter.name,
    vocabSize: drafter.vocabSize,
    leftToRight: true,
    hiddenLayers: drafter.hiddenLayers,
    stepChoices: drafter.stepChoices,
    draft: async (request) => {
      const { tokens, steps, passes } = await drafter.draft(request);
      return { tokens: new Int32Array(tokens.length).fill(UNLIKELY), steps, passes };
    },
    reset: () => drafter.reset(),
    [Symbol.dispose]: () => drafter[Symbol.dispose](),
  };
}

/** Milliseconds of decoding, without the prompt, and accepted tokens. */
async function timeOf(rounds: AsyncIterable<Round>): Promise<{ ms: number; accepted: number }> {
  let ms = 0, accepted = 0;
  for await (const round of rounds) {
    ms += round.totalMs;
    accepted += round.accepted;
  }
  return { ms, accepted };
}

/** Chosen γ against plain decoding, interleaved, for each embedded drafter. */
export async function hostile({ tokenizer, target: { embedding: { dtype } } }: Engine): Promise<Section> {
  using backend = await createBackend("auto", { threads: navigator.hardwareConcurrency });
  using checkpoint = await openCheckpoint(embeddedTarget());
  using model = await loadAsCausal(checkpoint, backend, { dtype });
  const figures: Section["figures"][number][] = [];
  for (const name of embeddedDrafters) {
    using draftCheckpoint = await openCheckpoint(embeddedDrafter(name)!);
    const { draftContext } = draftingOf(draftCheckpoint);
    const drafting = await loadModel(draftCheckpoint, backend, { dtype: "int8", target: model });
    using _model = drafting.model;
    const create = () =>
      drafting.kind === "diffusion"
        ? new DiffusionDrafter(drafting.model, backend, { draftContext })
        : new AutoregressiveDrafter(drafting.model, backend);
    using target = new ModelTarget(model, backend);
    using measured = create();
    const costs = await measureCosts(target, measured, { rule: DEFAULT_RULE, sampling: {} });
    const ratios: number[] = [];
    let accepted = 0;
    for (let seed = 1; seed <= REPETITIONS; seed++) {
      for (const prompt of PROMPTS) {
        const tokens = encodeText(tokenizer, prompt), options = { seed, maxTokens: TOKENS };
        target.truncate(0);
        const plain = await timeOf(autoregress(target, tokens, options));
        target.truncate(0);
        using drafter = unlucky(create());
        const gamma = new DraftController(costs);
        const chosen = await timeOf(speculate(target, drafter, tokens, { ...options, gamma }));
        ratios.push(chosen.ms / plain.ms);
        accepted += chosen.accepted;
      }
    }
    figures.push({
      what: `${name}: time with γ chosen / plain (${accepted} tokens accepted in ${ratios.length} texts)`,
      ...spreadOf(ratios),
      unit: "×",
      aim: "≤ 1.03 ×",
    });
  }
  return {
    title: `a drafter of which nothing is accepted, ${TOKENS} tokens, target held as ${dtype}`,
    figures,
  };
}
