/**
 * The paper's experiments with whatever models are here: for each target the tasks of Tables 1 and 3 and, for each
 * diffusion drafter, the grid γ × T of Figure 2.
 *
 * @module
 */

import type { Dtype } from "../../src/backend/backend.ts";
import { describeMachine, type Machine } from "../../src/cli/machine.ts";
import { type Engine, loadEngine } from "../../src/engine.ts";
import type { Rule } from "../../src/decode/acceptance.ts";
import { encodeText } from "../../src/hub/tokenizer.ts";
import { type Measurement, measureMethods, type Method } from "./measure.ts";
import { CLASSICAL_GAMMA, targets, type TargetTitle, type Task, type TaskName } from "./paper.ts";
import type { TaskTexts } from "./prompts.ts";

/** How the target is held: anything shorter than its checkpoint would be another target. */
const DTYPE: Dtype = "f32";

/** T of the row that decodes as the paper describes it. Tables 1 and 3 do not say which T they are for. */
const PAPER_STEPS = 4;

/** What the paper's Figure 2 was drawn for, with GPT-2 XL. */
const FIGURE_TASK: TaskName = "openwebtext";

/** What is run on, and with. */
export interface Models {
  /** A folder or a name; absent: the embedded target. */
  readonly target?: string | undefined;
  /** The autoregressive drafter; absent: none. */
  readonly classical?: string | undefined;
  /** Diffusion drafters. The first is also run as the paper describes it. */
  readonly diffusion: readonly string[];
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
  readonly tasks: readonly TaskRun[];
  readonly grids: readonly Grid[];
}

/**
 * Runs the experiments.
 * @param texts of all tasks
 */
export async function runTarget(
  models: Models,
  texts: readonly TaskTexts[],
  effort: Effort,
  progress: (text: string) => void,
): Promise<TargetRun> {
  const { target, classical, diffusion } = models;
  const name = target ?? "embedded";
  progress(`${name}: loading`);
  const drafter = [...(classical === undefined ? [] : [classical]), ...diffusion];
  using engine = await loadEngine({ target, drafter, dtype: DTYPE });
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
  return {
    name,
    title: targets.find((shape) => shape.layers === layers && shape.width === width)?.title ?? null,
    ...{ layers, width, contextLength, bytes: engine.target.bytes, dtype: DTYPE, models },
    machine: describeMachine(engine.device),
    tasks: taskRuns,
    grids,
  };
}

const PLAIN: Method = { title: "plain", options: { drafter: null } };

/** The paper's own test where that is exact, for all alike. */
const RULE: Rule = "ordered";

/** The rows of Tables 1 and 3: the paper's, the same with γ chosen, and the paper's own test. */
function tableMethods({ classical, diffusion }: Models, { gamma }: Task): Method[] {
  return [
    PLAIN,
    ...(classical === undefined ? [] : [{
      title: `classical, ${classical}`,
      options: { drafter: classical, gamma: CLASSICAL_GAMMA, rule: RULE },
    }]),
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
