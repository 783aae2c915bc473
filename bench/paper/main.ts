/**
 * The SpecDiff paper's tables and figures, run here: `deno task bench:paper`. Results go to `bench/reports/` as
 * `paper.json`, `paper.md` and pictures. About twenty minutes with the embedded pair, and 4 GB of memory; nothing
 * else should run meanwhile.
 *
 * With checkpoints and data: `--target ./gpt2-xl --classical ./gpt2 --drafter ./sedd-small --prompts
 * cnn-dm=abisee/cnn_dailymail`.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { type TaskName, tasks } from "./paper.ts";
import { textsFor } from "./prompts.ts";
import type { Dtype } from "../../src/backend/backend.ts";
import { drafterWeights, kernelSources, refreshReadme } from "../report.ts";
import { chartsOf, markdown, type Report } from "./report.ts";
import { type Effort, embedded, type FailedTarget, runTarget, type TargetRun, tryTarget } from "./run.ts";
import { paperShapes, runSynthetic } from "./synthetic.ts";

const DTYPES: readonly Dtype[] = ["f32", "f16", "bf16", "int8"];

const HELP = `Usage: deno task bench:paper [OPTION…]

  --target NAME        a target: a folder or owner/name in the cache; several: one after the other
  --classical NAME     its autoregressive drafter
  --drafter NAME       its diffusion drafter; several: a grid each
  --dtype DTYPE        how those targets are held: ${
  DTYPES.join(", ")
} (default: as their checkpoints have it)
  --prompts TASK=WHERE prompts of ${tasks.map(({ name }) => name).join(", ")}: .parquet, .json, .jsonl,
                       .story, .txt, each also with .gz, a folder of them, or
                       owner/name[:CONFIG[:SPLIT]], a data set on the hub
  --prompt-count N     prompts per task (default: 3)
  --repetitions N      runs of each method on each prompt (default: 3)
  --max-tokens N       the most tokens per run (default: as the paper, as far as the context goes)
  --generation NAME    tells processors of one name apart: "Zen 4"
  --only-synthetic     runs the paper's shapes with synthetic acceptance alone, and keeps the rest of the report
  --quick              a few minutes' look: prints the report and writes nothing
  --help               this text

The embedded pair is always run, after the targets that were named.`;

/** Where reports are kept. */
const FOLDER = new URL("../reports/", import.meta.url);

const OPTIONS = {
  dtype: { type: "string" },
  generation: { type: "string" },
  target: { type: "string", multiple: true },
  classical: { type: "string" },
  drafter: { type: "string", multiple: true },
  prompts: { type: "string", multiple: true },
  "prompt-count": { type: "string", default: "3" },
  repetitions: { type: "string", default: "3" },
  "max-tokens": { type: "string", default: "1024" },
  "only-synthetic": { type: "boolean", default: false },
  quick: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
} as const;

const FULL = { gridTokens: 128, gammas: [1, 2, 3, 4, 6, 8, 16, 32], steps: [1, 2, 4, 8] };
const QUICK: Effort = {
  ...{ repetitions: 1, maxTokens: 32 },
  ...{ gridTokens: 32, gammas: [1, 4, 16], steps: [1, 2] },
};

function count(text: string, name: string): number {
  const n = Number(text);
  if (!Number.isSafeInteger(n) || n < 1) {
    throw new TypeError(`--${name} is "${text}", expected an integer of at least 1`);
  }
  return n;
}

function promptFiles(choices: readonly string[]): Map<TaskName, string> {
  return new Map(choices.map((choice) => {
    const [, name, file] = /^([^=]*)=(.+)$/.exec(choice) ?? [];
    const task = tasks.find((task) => task.name === name);
    if (task === undefined) {
      throw new TypeError(
        `--prompts is "${choice}", expected TASK=WHERE with one of ${
          tasks.map(({ name }) => name).join(", ")
        }`,
      );
    }
    return [task.name, file];
  }));
}

async function run(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({ args: [...args], options: OPTIONS, strict: true });
  if (values.help) return console.log(HELP);
  const { quick, generation } = values;
  const tell = (text: string) => console.error(text);
  // whatever is wrong with what was asked for is said before anything is measured
  const dtype = dtypeOf(values.dtype);
  const files = promptFiles(values.prompts ?? []);
  const effort: Effort = quick ? QUICK : {
    ...FULL,
    repetitions: count(values.repetitions, "repetitions"),
    maxTokens: count(values["max-tokens"], "max-tokens"),
  };
  const promptCount = quick ? 1 : count(values["prompt-count"], "prompt-count");
  const texts = await Promise.all(tasks.map((task) => textsFor(task, files.get(task.name), promptCount)));
  const kept: Report | undefined = values["only-synthetic"]
    ? JSON.parse(await Deno.readTextFile(new URL("paper.json", FOLDER)))
    : undefined;
  const synthetic = await runSynthetic(quick ? { ...paperShapes, turns: 1 } : paperShapes, tell, generation);
  if (kept !== undefined) return await publish({ ...kept, quick, synthetic });
  const runs: TargetRun[] = [], failed: FailedTarget[] = [];
  for (const target of values.target ?? []) {
    const models = { target, classical: values.classical, diffusion: values.drafter ?? [], dtype };
    const run = await tryTarget(models, texts, effort, tell, generation);
    if ("failure" in run) failed.push(run);
    else runs.push(run);
  }
  runs.push(await runTarget(embedded, texts, effort, tell, generation));
  const date = new Date().toISOString().slice(0, 10), sources = kernelSources, weights = drafterWeights();
  await publish({ date, sources, weights, quick, targets: runs, failed, synthetic });
}

function dtypeOf(text: string | undefined): Dtype | undefined {
  const dtype = DTYPES.find((dtype) => dtype === text);
  if (text !== undefined && dtype === undefined) {
    throw new TypeError(`--dtype is "${text}", expected one of ${DTYPES.join(", ")}`);
  }
  return dtype;
}

/** Prints a quick report; writes any other. */
async function publish(report: Report): Promise<void> {
  const text = markdown(report);
  if (report.quick) return console.log(text);
  await Deno.writeTextFile(new URL("paper.json", FOLDER), `${JSON.stringify(report, null, 2)}\n`);
  await Deno.writeTextFile(new URL("paper.md", FOLDER), text);
  for (const { file, svg } of chartsOf(report)) await Deno.writeTextFile(new URL(file, FOLDER), svg);
  await refreshReadme();
}

try {
  await run(Deno.args);
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : error}`);
  Deno.exit(1);
}
