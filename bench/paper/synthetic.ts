/**
 * The paper's cells with models of its shapes, noise for weights, and its α by lot: the loops, samplers and caches that
 * ship do all of their work, and only the outcome of each test of a drafted token is drawn. What is measured is what
 * rounds cost. Acceptance is put in, not measured, and nothing here is a measurement of the paper's models.
 *
 * Deliberately absent: texts of the paper's length, since a round costs nearly the same anywhere in a text, and a few
 * rounds say what many would.
 *
 * @module
 */

import type { Backend, Dtype } from "../../src/backend/backend.ts";
import { createBackend } from "../../src/backend/create.ts";
import { describeMachine, type Machine } from "../../src/cli/machine.ts";
import { quantile } from "../../src/cli/measure.ts";
import { autoregress } from "../../src/decode/autoregressive.ts";
import { AutoregressiveDrafter } from "../../src/decode/autoregressive_drafter.ts";
import { DiffusionDrafter } from "../../src/decode/diffusion_drafter.ts";
import type { Drafter } from "../../src/decode/drafter.ts";
import type { Round } from "../../src/decode/loop.ts";
import { ModelTarget } from "../../src/decode/model_target.ts";
import { speculate } from "../../src/decode/speculative.ts";
import { kernelSources, type Measured, toldClosely } from "../report.ts";
import { gpt2, loadCausal, loadDiffusion, madeUpText, published } from "../../tools/shapes.ts";
import { SyntheticAcceptance } from "../synthetic.ts";
import { expectedPrefix, type PaperCell, paperCells, type TargetTitle } from "./paper.ts";

/** The rule that tests the drafts. */
export const RULE = "ordered";

type Config = Readonly<Record<string, unknown>>;

/** Which shapes are run, and how long. */
export interface Shapes {
  /** Configurations of the targets, which are loaded one after the other. */
  readonly targets: readonly (readonly [title: TargetTitle, config: Config])[];
  /** Configurations of the drafters. */
  readonly classical: Config;
  readonly diffusion: Config;
  /** How targets and drafters are held. */
  readonly dtype: Dtype;
  /** γ that is tried beside the paper's. */
  readonly smallGamma: number;
  /** Tokens of the made-up prompt. */
  readonly promptTokens: number;
  /** The most tokens of the text that the diffusion drafter sees. */
  readonly draftContext: number;
  /** How often each cell has its turn, and rounds that are timed each time. */
  readonly turns: number;
  readonly rounds: number;
}

/** Positions of the models: no more are made room for than a run uses, so that all of it fits in 4 GiB. */
const CONTEXT = 256;

/**
 * The paper's shapes. int8 is what the larger target fits in 4 GiB as, with its drafters and caches. γ = 3 is verified
 * by a pass over four rows, the most that cost a CPU little more than one (`bench`).
 */
export const paperShapes: Shapes = {
  targets: [
    ["GPT-2 XL", gpt2({ ...published.xl, context: CONTEXT })],
    ["GPT-Neo 2.7B", { ...published.neo, max_position_embeddings: CONTEXT }],
  ],
  classical: gpt2({ layers: 12, width: 768, heads: 12, context: CONTEXT, vocabSize: published.xl.vocabSize }),
  diffusion: published.sedd,
  dtype: "int8",
  smallGamma: 3,
  promptTokens: 64,
  draftContext: 32,
  turns: 5,
  rounds: 2,
};

/** Rounds of one cell, or of plain decoding. */
export interface Timing {
  /** How many were timed. */
  readonly rounds: number;
  /** Milliseconds of a round: median, first and third quartile. */
  readonly ms: number;
  readonly msQuartiles: readonly [number, number];
}

/** A cell of the paper, or the same with a shorter draft. */
export interface SyntheticCell extends Timing {
  readonly cell: PaperCell;
  /** The paper's, or the small one. */
  readonly gamma: number;
  /** Median milliseconds of a round in the drafter; in the target and the test. */
  readonly draftMs: number;
  readonly verifyMs: number;
  /** 1 + α + … + α^γ, the expected tokens per round. */
  readonly tau: number;
  /**
   * τ times a plain step over a round, by the medians of one turn: the median, minimum and maximum of the turns. Both
   * are measured next to each other, so that other load of the machine affects both.
   */
  readonly speedup: number;
  readonly speedupRange: readonly [number, number];
}

/** One target. */
export interface SyntheticTarget {
  readonly title: TargetTitle;
  /** Bytes of the target's weights, and of the drafters'. */
  readonly bytes: number;
  readonly draftBytes: Readonly<Record<PaperCell["method"], number>>;
  readonly plain: Timing;
  readonly cells: readonly SyntheticCell[];
}

/** All of it. */
export interface SyntheticRun extends Pick<Measured, "sources"> {
  /** Day of the run. */
  readonly date: string;
  readonly machine: Machine;
  /** What was run. */
  readonly shapes: Omit<Shapes, "targets" | "classical" | "diffusion">;
  readonly targets: readonly SyntheticTarget[];
}

/**
 * Runs every cell of the paper for each target, and each once more with a small γ. Cells of one drafter and γ differ in α
 * alone and are measured together. All take turns with one another and with plain decoding.
 * @param generation of the processor, if its name does not tell
 */
export async function runSynthetic(
  shapes: Shapes,
  progress: (text: string) => void,
  generation?: string,
): Promise<SyntheticRun> {
  const { targets: configs, classical: _, diffusion: __, ...settings } = shapes;
  const targets: SyntheticTarget[] = [];
  let device = "";
  for (const [title, config] of configs) {
    using backend = await createBackend(); // a heap of its own, since heaps do not shrink
    device = backend.description;
    progress(`${title}'s shape: loading`);
    targets.push(
      await runTarget(backend, title, config, shapes, (text) => progress(`${title}'s shape: ${text}`)),
    );
  }
  return {
    date: new Date().toISOString().slice(0, 10),
    sources: kernelSources,
    machine: toldClosely(describeMachine(device), generation),
    shapes: settings,
    targets,
  };
}

async function runTarget(
  backend: Backend,
  title: TargetTitle,
  config: Config,
  shapes: Shapes,
  progress: (text: string) => void,
): Promise<SyntheticTarget> {
  const { dtype, draftContext, smallGamma, turns } = shapes;
  using model = await loadCausal(backend, config, dtype);
  using small = await loadCausal(backend, shapes.classical, dtype);
  using sedd = await loadDiffusion(backend, shapes.diffusion, dtype);
  using target = new ModelTarget(model, backend);
  using classical = new AutoregressiveDrafter(small, backend);
  using diffusion = new DiffusionDrafter(sedd, backend, { draftContext });
  const drafters: Readonly<Record<PaperCell["method"], Drafter>> = { classical, diffusion };
  const asked = paperCells.filter((cell) => cell.target === title)
    .flatMap((cell) => [cell.gamma, smallGamma].map((gamma) => ({ cell, gamma })));
  // a round costs the same whatever the task: α decides only what it yields
  const runs = [...Map.groupBy(asked, ({ cell, gamma }) => `${cell.method} ${gamma}`).values()].map((
    cells,
  ) => ({
    ...{ method: cells[0].cell.method, gamma: cells[0].gamma, cells: cells.map(({ cell }) => cell) },
    alpha: cells.reduce((sum, { cell }) => sum + cell.alpha, 0) / cells.length,
    ...{ rounds: [] as Round[], ratios: [] as number[] },
  }));
  const prompt = madeUpText(shapes.promptTokens, model.shape.vocabSize);
  const plain: Round[] = [];
  for (let turn = 1; turn <= turns; turn++) {
    for (const { method, gamma, alpha, rounds, ratios } of runs) {
      progress(`turn ${turn} of ${turns}: ${method}, γ = ${gamma}`);
      const steps = () => some(autoregress(target, prompt, { seed: turn }), shapes.rounds);
      // the drafter belongs to all turns
      const random = new SyntheticAcceptance(drafters[method], alpha, turn);
      const options = { gamma, rule: RULE, random } as const;
      const before = await steps();
      const found = await some(speculate(target, random, prompt, options), shapes.rounds);
      const around = [...before, ...await steps()];
      plain.push(...around);
      rounds.push(...found);
      ratios.push(timing(around).ms / timing(found).ms);
    }
  }
  return {
    title,
    bytes: model.bytes,
    draftBytes: { classical: small.bytes, diffusion: sedd.bytes },
    plain: timing(plain),
    cells: asked.map(({ cell, gamma }) => {
      const { rounds, ratios } = runs.find((run) => run.cells.includes(cell) && run.gamma === gamma)!;
      const tau = 1 + expectedPrefix(cell.alpha, gamma), speedups = ratios.map((ratio) => tau * ratio);
      return {
        ...{ cell, gamma, tau },
        ...timing(rounds),
        draftMs: median(rounds.map(({ draftMs }) => draftMs)),
        verifyMs: median(rounds.map(({ verifyMs }) => verifyMs)),
        speedup: median(speedups),
        speedupRange: [Math.min(...speedups), Math.max(...speedups)],
      };
    }),
  };
}

/** Some rounds of a text after its first, which warms up, and in which a drafter may have the prompt to read. */
async function some(rounds: AsyncIterable<Round>, count: number): Promise<Round[]> {
  const found: Round[] = [];
  let first = true;
  for await (const round of rounds) {
    if (!first) found.push(round);
    first = false;
    if (found.length === count) break;
  }
  return found;
}

function timing(rounds: readonly Round[]): Timing {
  const sorted = rounds.map(({ totalMs }) => totalMs).sort((a, b) => a - b);
  return {
    rounds: rounds.length,
    ms: quantile(sorted, 0.5),
    msQuartiles: [quantile(sorted, 0.25), quantile(sorted, 0.75)],
  };
}

function median(values: number[]): number {
  return quantile(values.sort((a, b) => a - b), 0.5);
}
