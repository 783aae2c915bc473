/**
 * The paper's experiments with whatever models are here: for each target the tasks of Tables 1 and 3 and, for each
 * diffusion drafter, the grid γ × T of Figure 2.
 *
 * @module
 */

import type { Dtype } from "../../src/backend/backend.ts";
import { describeMachine, type Machine } from "../../src/cli/machine.ts";
import { type Engine, loadEngine } from "../../src/engine.ts";
import { openCheckpoint } from "../../src/hub/checkpoint.ts";
import { locateModel } from "../../src/hub/models.ts";
import type { Rule } from "../../src/decode/acceptance.ts";
import { encodeText } from "../../src/hub/tokenizer.ts";
import { peakOf } from "../alone.ts";
import { toldClosely } from "../report.ts";
import { type Measurement, measureMethods, type Method } from "./measure.ts";
import { CLASSICAL_GAMMA, targets, type TargetTitle, type Task, type TaskName } from "./paper.ts";
import type { TaskTexts } from "./prompts.ts";

/** T of the row that decodes as the paper describes it. Tables 1 and 3 do not say which T they are for. */
const PAPER_STEPS = 4;

/** What the paper's Figure 2 was drawn for, with GPT-2 XL. */
export const FIGURE_TASK: TaskName = "openwebtext";

/** What is run on, and with. */
export interface Models {
  /** A folder or a name; absent: the embedded target. */
  readonly target?: string | undefined;
  /** The autoregressive drafter; absent: none. */
  readonly classical?: string | undefined;
  /** Diffusion drafters. The first is also run as the paper describes it. */
  readonly diffusion: readonly string[];
  /** How the target is held; absent: as its checkpoint has it, as anything shorter would be another target. */
  readonly dtype?: Dtype | undefined;
}

/** The embedded pair; `sedd` is what the paper has, `sedd-target` what drafts best. */
export const embedded: Models = { classical: "gpt2", diffusion: ["sedd", "sedd-target"] };

/** How much is run. */
export interface Effort {
  /** Runs of each method on each prompt. */
  readonly repetitions: number;
  /** The most tokens per run, whatever the task asks for. */
  readonly maxTokens: number;
  /** Tokens per run of the grid. */
  readonly gridTokens: number;
  /** γ and T of the grid. */
  readonly gammas: readonly number[];
  readonly steps: readonly number[];
}

/** One task, measured. */
export interface TaskRun {
  readonly task: TaskName;
  /** File of the prompts; null: our own. */
  readonly source: string | null;
  /** [prompts] their lengths in tokens. */
  readonly promptTokens: readonly number[];
  /** Tokens per run. */
  readonly maxTokens: number;
  /** Plain decoding first. */
  readonly rows: readonly Measurement[];
}

/** Figure 2 for one drafter. */
export interface Grid {
  readonly drafter: string;
  /** Tokens per run. */
  readonly maxTokens: number;
  readonly plain: Measurement;
  /** One for each γ and each T ≤ γ. */
  readonly cells: readonly Measurement[];
}

/** All that was run on one target. */
export interface TargetRun {
  /** As it was named, or `embedded`. */
  readonly name: string;
  /** Which of the paper's targets has its shape. */
  readonly title: TargetTitle | null;
  readonly layers: number;
  readonly width: number;
  readonly contextLength: number;
  /** Bytes of weights, and how they are held. */
  readonly bytes: number;
  readonly dtype: Dtype;
  readonly models: Models;
  readonly machine: Machine;
  /** Peak memory of separate processes: plain decoding (`plain`) and each drafter; absent: not recorded. */
  readonly peakBytes?: Readonly<Record<string, number | null>>;
  readonly tasks: readonly TaskRun[];
  readonly grids: readonly Grid[];
}

/** A target that could not be run. */
export interface FailedTarget {
  /** As it was named. */
  readonly name: string;
  /** Which of the paper's targets has its shape, as far as its configuration could be read. */
  readonly title: TargetTitle | null;
  /** Why. */
  readonly failure: string;
}

/** The same, or why there is nothing: what one target is refused for is nothing to the rest of the report. */
export async function tryTarget(
  ...[models, texts, effort, progress, generation]: Parameters<typeof runTarget>
): Promise<TargetRun | FailedTarget> {
  try {
    return await runTarget(models, texts, effort, progress, generation);
  } catch (error) {
    const name = nameOf(models), failure = (error as Error).message;
    progress(`${name}: ${failure}`);
    return { name, title: await configuredTitle(models.target), failure };
  }
}

function nameOf({ target }: Models): string {
  return target ?? "embedded";
}

function titleOf(layers: number, width: number): TargetTitle | null {
  return targets.find((shape) => shape.layers === layers && shape.width === width)?.title ?? null;
}

/** What a target that does not load would have been. */
async function configuredTitle(target: string | undefined): Promise<TargetTitle | null> {
  try {
    if (target === undefined) return null;
    using checkpoint = await openCheckpoint(await locateModel(target));
    const { n_layer, n_embd, num_layers, hidden_size } = checkpoint.config;
    return titleOf(Number(n_layer ?? num_layers), Number(n_embd ?? hidden_size));
  } catch {
    return null; // that it cannot be read has been said
  }
}

/**
 * Runs the experiments.
 * @param texts of all tasks
 * @param generation of the processor, if its name does not tell
 */
export async function runTarget(
  models: Models,
  texts: readonly TaskTexts[],
  effort: Effort,
  progress: (text: string) => void,
  generation?: string,
): Promise<TargetRun> {
  const { target, classical, diffusion, dtype } = models;
  const name = nameOf(models);
  progress(`${name}: loading`);
  const drafters = [...(classical === undefined ? [] : [classical]), ...diffusion];
  using engine = await loadEngine({ target, drafter: drafters, dtype });
  const { layers, width, contextLength } = engine.target.shape;
  const taskRuns: TaskRun[] = [];
  for (const taskTexts of texts) {
    const { task } = taskTexts;
    const tell = (text: string) => progress(`${name}, ${task.title}: ${text}`);
    taskRuns.push(await runTask(engine, taskTexts, tableMethods(models, task), effort, tell));
  }
  const grids: Grid[] = [];
  const figureTexts = texts.find(({ task }) => task.name === FIGURE_TASK)!;
  for (const drafter of diffusion) {
    const { rows: [plain, ...cells], maxTokens } = await runTask(
      engine,
      figureTexts,
      gridMethods(drafter, effort),
      { ...effort, maxTokens: effort.gridTokens },
      (text) => progress(`${name}, Figure 2, ${drafter}: ${text}`),
    );
    grids.push({ drafter, maxTokens, plain, cells });
  }
  const peaks: Record<string, number | null> = {};
  for (const drafter of [null, ...drafters]) {
    progress(`${name}: memory of ${drafter ?? PLAIN.title}`);
    peaks[drafter ?? PLAIN.title] = await peakOf({ target, drafter, dtype }).catch((error) => {
      progress(error.message);
      return null;
    });
  }
  return {
    name,
    title: titleOf(layers, width),
    ...{ layers, width, contextLength, bytes: engine.target.bytes, dtype: engine.dtype, models },
    machine: toldClosely(describeMachine(engine.device), generation),
    peakBytes: peaks,
    tasks: taskRuns,
    grids,
  };
}

const PLAIN: Method = { title: "plain", options: { drafter: null } };

/** The paper's own test where that is exact, for all alike. */
const RULE: Rule = "ordered";

/** The rows of Tables 1 and 3: the paper's, the same drafters with γ chosen, and the paper's own test. */
function tableMethods({ classical, diffusion }: Models, { gamma }: Task): Method[] {
  return [
    PLAIN,
    ...(classical === undefined ? [] : [CLASSICAL_GAMMA, "auto" as const].map((gamma) => ({
      title: `classical, ${classical}${gamma === "auto" ? ", γ chosen" : ""}`,
      options: { drafter: classical, gamma, rule: RULE },
    }))),
    ...diffusion.flatMap((drafter): Method[] => [
      { title: `diffusion, ${drafter}`, options: { drafter, gamma, steps: 1, rule: RULE } },
      { title: `diffusion, ${drafter}, γ chosen`, options: { drafter, gamma: "auto", steps: 1, rule: RULE } },
    ]),
    ...diffusion.slice(0, 1).map((drafter): Method => ({
      title: `diffusion, ${drafter}, the paper's test`,
      options: { drafter, gamma, steps: PAPER_STEPS, order: "random", rule: "paper" },
    })),
  ];
}

function gridMethods(drafter: string, { gammas, steps }: Effort): Method[] {
  const cells = gammas.flatMap((gamma) =>
    // no more steps are made than there are tokens
    steps.filter((T) => T <= gamma).map((T): Method => ({
      title: `γ = ${gamma}, T = ${T}`,
      options: { drafter, gamma, steps: T, rule: RULE },
    }))
  );
  return [PLAIN, ...cells];
}

async function runTask(
  engine: Engine,
  { task, source, texts }: TaskTexts,
  methods: readonly Method[],
  effort: Effort,
  progress: (text: string) => void,
): Promise<TaskRun> {
  const { contextLength } = engine.target.shape;
  const suffix = encodeText(engine.tokenizer, task.suffix);
  const length = task.promptTokens(contextLength) - suffix.length;
  const prompts = texts.map((text) => [...encodeText(engine.tokenizer, text).slice(0, length), ...suffix]);
  const promptTokens = prompts.map((prompt) => prompt.length);
  const maxTokens = Math.min(task.maxTokens, effort.maxTokens, contextLength - Math.max(...promptTokens));
  const { repetitions } = effort;
  const rows = await measureMethods(engine, methods, { prompts, maxTokens, repetitions }, progress);
  return { task: task.name, source, promptTokens, maxTokens, rows };
}
