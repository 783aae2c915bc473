/**
 * The report of `bench:paper` as Markdown, and its charts. Every figure comes from the measurements, or is computed
 * here from the paper's printed figures.
 *
 * @module
 */

import { type Curves, type HeatMap, svg } from "../charts.ts";
import { markdownTable } from "../markdown.ts";
import { megabytes } from "../peak.ts";
import { type Measured, where } from "../report.ts";
import { over, told } from "../spread.ts";
import type { Measurement } from "./measure.ts";
import { bounds, type PaperCell, paperCells, targets, type TaskName, tasks } from "./paper.ts";
import { type FailedTarget, FIGURE_TASK, type Grid, type TargetRun, type TaskRun } from "./run.ts";
import { RULE, type SyntheticCell, type SyntheticRun, type SyntheticTarget } from "./synthetic.ts";

/** The contents of `bench/reports/paper.json`. */
export interface Report extends Measured {
  /** Day of the run. */
  readonly date: string;
  /** A short run, which only shows that everything works. */
  readonly quick: boolean;
  /** Named targets, then the embedded one. */
  readonly targets: readonly TargetRun[];
  /** Named targets that could not be run; absent: none. */
  readonly failed?: readonly FailedTarget[];
  /** The paper's shapes with its acceptance drawn at random. */
  readonly synthetic: SyntheticRun;
}

/** The whole report. */
export function markdown(report: Report): string {
  return [
    "# The SpecDiff paper, cell by cell",
    "",
    `${where(report.date, report.targets[0].machine)}.`,
    "Made by `deno task bench:paper`.",
    ...(report.quick ? ["", "**A quick run: too short for any figure to be meaningful.**"] : []),
    "",
    "Speed-ups are relative to plain decoding by this engine of the same prompt and seed, run immediately before: the",
    "median of the turns, with quartiles in brackets, without the time of the prompt. The time to the first token is that",
    "to the end of the first round, including the prompt, relative to plain decoding's median. Temperature 1. α has two",
    "definitions: _drafted_ is accepted over drafted tokens, and depends on γ; _tested_ is accepted over tested tokens, not",
    "counting those after a rejection (Leviathan et al. 2023). Perplexity is that of the generated texts under the target,",
    "with a range of one standard error: exact rows differ only by chance. Peak memory: that of a separate process that",
    "generates a text with the target and this drafter, including Deno itself.",
    "",
    "## Tables 1 and 3: the paper's models",
    "",
    ...paperTable(report),
    "",
    ...(report.failed ?? []).filter(({ title }) => title === null)
      .flatMap(({ name, failure }) => [`Not run: \`${name}\`: ${inCell(failure)}`, ""]),
    "## The paper's figures against one another",
    "",
    ...inconsistencies(),
    "",
    ...report.targets.flatMap(targetSection),
    "## Synthetic acceptance: the paper's shapes",
    "",
    ...syntheticSection(report.synthetic),
  ].join("\n");
}

/** Every cell of the paper, with its run here or the reason why there is none. */
function paperTable({ targets: runs, failed = [] }: Report): string[] {
  return markdownTable([
    ["task", "target", "drafter", "γ", "paper α", "paper", "α drafted", "α tested", "here", "what ran"],
    ...paperCells.map((cell) => {
      const { task, target, method, gamma, alpha, speedup } = cell;
      const run = runs.find(({ title }) => title === target);
      const found = run && rowOf(cell, run);
      return [
        titleOf(task),
        target,
        method === "classical" ? "GPT-2" : "SEDD small",
        String(gamma),
        alpha.toFixed(2),
        times(speedup),
        found ? found.alphaDrafted.toFixed(2) : "",
        found ? found.alphaTested.toFixed(2) : "",
        found ? speedupOf(found) : "",
        found
          ? `${describeTarget(run)}; ${describeDrafter(found)}, \`${found.rule}\``
          : whyNot(cell, run, failed.find(({ title }) => title === target)),
      ];
    }),
  ]);
}

function rowOf({ task, method, gamma }: PaperCell, run: TargetRun): Measurement | undefined {
  const { classical, diffusion } = run.models;
  const drafter = method === "classical" ? classical : diffusion[0];
  return run.tasks.find((taskRun) => taskRun.task === task)!.rows.find(({ options }) =>
    drafter !== undefined && options.drafter === drafter && options.gamma === gamma &&
    (options.steps ?? 1) === 1
  );
}

/** The speed-up of a row, with its spread if recorded. */
function speedupOf({ speedup, speedupQuartiles }: Measurement): string {
  return told({ value: speedup, quartiles: speedupQuartiles });
}

function whyNot(
  { target, method }: PaperCell,
  run: TargetRun | undefined,
  failed: FailedTarget | undefined,
): string {
  if (run !== undefined) {
    return `not run: no ${method === "classical" ? "--classical" : "--drafter"} was named`;
  }
  if (failed !== undefined) return `not run: \`${failed.name}\`: ${inCell(failed.failure)}`;
  const { layers, width } = targets.find(({ title }) => title === target)!;
  return `not run: no weights of this shape (${layers} × ${width}) were named`;
}

/** A message in a cell of a table. */
function inCell(message: string): string {
  return message.replace(/\s+/g, " ").replaceAll("|", "\\|");
}

/** What the paper's α and γ imply under both definitions, and the contradictions. */
function inconsistencies(): string[] {
  const rows = paperCells.map((cell) => ({ cell, ...bounds(cell.alpha, cell.gamma) }));
  return [
    ...markdownTable([
      ["task", "target", "γ", "α", "α·γ", "α + … + α^γ", "limit", "reported", ""],
      ...rows.map((
        { cell: { task, target, gamma, alpha, speedup }, acceptedIfDrafted, acceptedIfTested, most },
      ) => [
        titleOf(task),
        target,
        String(gamma),
        alpha.toFixed(2),
        acceptedIfDrafted.toFixed(2),
        acceptedIfTested.toFixed(2),
        times(most),
        times(speedup),
        speedup > most ? "**above the limit**" : "",
      ]),
    ]),
    "",
    "α·γ and α + … + α^γ are the accepted tokens per draft (Table 2) under the two definitions of α. _limit_ is the",
    "speed-up if drafts cost nothing and a verify pass cost no more than a pass over one row.",
    "",
    "- The text defines accepted tokens per draft as α·γ. In every diffusion row, this exceeds the axis of the paper's own",
    "  Table 2, which ends at 12; the expected prefix does not. So α must be the acceptance rate of each tested token.",
    "- A reported speed-up above _limit_ is then impossible relative to plain decoding by the same implementation.",
    "- The text says that α decreases with a diffusion drafter; the tables show an increase in every pair of rows.",
    "- GPT-2 XL is to generate 1024 tokens, which with a prompt exceed its 1024 positions. Here, texts end with the",
    "  context.",
    "- Tables 1 and 3 do not state T, the prompts, or the implementation of the baseline.",
    "- The paper's test of drafts in several steps does not preserve the target's distribution if tokens are revealed in",
    "  any order. The rows below called \"the paper's test\" apply it anyway, in SEDD's random order, and are marked lossy.",
  ];
}

function targetSection(run: TargetRun): string[] {
  const drafted = run.tasks[0].rows.filter(({ options }) => options.drafter !== null);
  const drafters = new Set(
    drafted.map(({ options, drafterName }) => `\`${options.drafter}\`, ${drafterName}`),
  );
  return [
    `## ${run.name === "embedded" ? "The embedded pair, scaled" : run.name}`,
    "",
    `Target: ${describeTarget(run)}, ${run.contextLength} positions${
      run.title === null ? ", not one of the paper's" : `, the paper's ${run.title}`
    }. Drafters: ${
      [...drafters].join("; ")
    }. γ are the paper's; so are lengths, as far as the context allows.`,
    "",
    ...run.tasks.flatMap((taskRun) => taskSection(run, taskRun)),
    ...(run.grids.length > 0 ? ["### Figure 2", ""] : []),
    ...run.grids.flatMap((grid) => gridSection(run, grid)),
  ];
}

function taskSection(
  { peakBytes }: TargetRun,
  { task, source, promptTokens, maxTokens, rows }: TaskRun,
): string[] {
  const number = task === "lm1b" ? 3 : 1;
  const prompts = source === null ? "our own" : `the first of \`${source}\``;
  return [
    `### Table${number === 1 ? "s 1 and 2" : " 3"}: ${titleOf(task)}`,
    "",
    `Prompts: ${promptTokens.length}, ${prompts}, of up to ${
      Math.max(...promptTokens)
    } tokens. Tokens generated: ` +
    `${maxTokens}. Runs per row: ${rows[0].runs}.`,
    "",
    ...markdownTable([
      [
        "method",
        "γ",
        "T",
        "rule",
        "α drafted",
        "α tested",
        "accepted / draft",
        "τ",
        "speed-up",
        "first token",
        "peak memory",
        "perplexity",
      ],
      ...rows.map((row) =>
        measurementRow(row, rows[0], megabytes(peakBytes?.[row.options.drafter ?? rows[0].title]))
      ),
    ]),
    "",
  ];
}

function measurementRow(row: Measurement, baseline: Measurement, peak: string): string[] {
  const { title, options, rule, exactness, meanGamma, natsError, firstMs, firstMsQuartiles } = row;
  const plain = options.drafter === null;
  const range = natsError === null
    ? ""
    : ` (${Math.exp(row.nats - natsError).toFixed(1)}–${Math.exp(row.nats + natsError).toFixed(1)})`;
  return [
    title,
    plain ? "" : options.gamma === "auto" ? `mean ${meanGamma.toFixed(2)}` : String(options.gamma),
    plain ? "" : String(options.steps ?? ""),
    plain ? "" : `\`${rule}\`${exactness === "lossy" ? ", **lossy**" : ""}`,
    plain ? "" : row.alphaDrafted.toFixed(2),
    plain ? "" : row.alphaTested.toFixed(2),
    plain ? "" : row.acceptedPerDraft.toFixed(2),
    row.meanAcceptanceLength.toFixed(2),
    plain ? "1.00 ×" : speedupOf(row),
    firstMs === undefined || baseline.firstMs === undefined
      ? ""
      : told(over({ value: firstMs, quartiles: firstMsQuartiles }, baseline.firstMs)),
    peak,
    `${Math.exp(row.nats).toFixed(1)}${range}`,
  ];
}

function gridSection(run: TargetRun, grid: Grid): string[] {
  const best = grid.cells.reduce((a, b) => b.speedup > a.speedup ? b : a);
  const most = grid.cells.reduce((a, b) => b.acceptedPerDraft > a.acceptedPerDraft ? b : a);
  const [map, lines] = gridFiles(run, grid),
    steps = distinct(grid.cells.map(({ options }) => options.steps!));
  return [
    `${grid.drafter} on our stand-in for the task of the paper's figure, ${grid.maxTokens} tokens, \`${best.rule}\`, ` +
    `left to right. Runs per cell: ${best.runs}. The fastest of ${grid.cells.length} cells is ${best.title} with ` +
    `${speedupOf(best)} (biased upwards by the selection); the most accepted is ${most.title} with ` +
    `${
      most.acceptedPerDraft.toFixed(2)
    } per draft. There are no cells with T > γ, since a draft has at most as many steps ` +
    `as tokens.${drift(run, grid)}`,
    "",
    `![Speed-up and accepted tokens per draft over γ and T, ${grid.drafter}](${map})`,
    "",
    `![The same as curves over γ, one for each T, ${grid.drafter}](${lines})`,
    "",
    ...markdownTable([
      ["speed-up", ...steps.map((T) => `T = ${T}`)],
      ...distinct(grid.cells.map(({ options }) => options.gamma as number)).map((gamma) => [
        `γ = ${gamma}`,
        ...steps.map((T) => {
          const cell = grid.cells.find(({ options }) => options.gamma === gamma && options.steps === T);
          return cell === undefined ? "" : speedupOf(cell);
        }),
      ]),
    ]),
    "",
  ];
}

/** A larger ratio of plain decoding speeds within one report is pointed out. */
const DRIFT = 1.1;

/** A note if plain decoding differs between a grid and the table of the same task. */
function drift({ tasks }: TargetRun, { plain }: Grid): string {
  const table = tasks.find(({ task }) => task === FIGURE_TASK)!.rows[0].tokensPerSecond;
  const ratio = plain.tokensPerSecond / table;
  if (Math.max(ratio, 1 / ratio) <= DRIFT) return "";
  return ` Plain decoding had ${
    ratio.toFixed(2)
  } times the speed here that it had in the table above: the machine's ` +
    "speed changed in between, so compare speed-ups of one table only.";
}

/** The paper's shapes: measured costs, random acceptance. */
function syntheticSection({ date, machine, shapes, targets }: SyntheticRun): string[] {
  const { dtype, promptTokens, draftContext, smallGamma } = shapes;
  return [
    "**Synthetic acceptance: not a measurement of these models.** Their weights are not available here. Models of these",
    `shapes with random weights, as ${dtype}, ran through the real decoding loops under \`${RULE}\`. Whether a tested token`,
    "was accepted was drawn at random with the mean of the paper's α. The cost of a round is thus measured, and its yield",
    "is assumed: τ = 1 + α + … + α^γ, as if the paper's α held for drafts made in one step with so little context. It does",
    "not state its T, and drafts in one step are accepted less. The speed-up is τ over the time of a round in plain steps, both measured in the same turn: the",
    "median of the turns, with minimum and maximum. Draft, verify and round are times in plain steps, medians (with",
    `quartiles). Texts start with ${promptTokens} tokens; SEDD (T = 1) sees the last ${draftContext}.`,
    `Each cell was run with the paper's γ and with γ = ${smallGamma}, which suits a CPU. A round costs the same in all tasks:`,
    "rows with the same drafter and γ share one measurement.",
    "",
    `${where(date, machine)}.`,
    "",
    ...targets.flatMap(syntheticTarget),
  ];
}

function syntheticTarget({ title, bytes, draftBytes, plain, cells }: SyntheticTarget): string[] {
  return [
    `### Shape of ${title}, synthetic acceptance`,
    "",
    `Weights read: target ${megabytes(bytes)}, GPT-2's shape ${
      megabytes(draftBytes.classical)
    }, SEDD small's ` +
    `${megabytes(draftBytes.diffusion)}. Rounds per cell: ${cells[0].rounds}.`,
    "",
    ...markdownTable([
      [
        "task",
        "drafter",
        "α",
        "γ",
        "τ",
        "draft",
        "verify",
        "round",
        "speed-up",
        "paper",
      ],
      ...cells.map((cell) => syntheticRow(cell, plain.ms)),
    ]),
    "",
  ];
}

/** @param stepMs milliseconds of a plain step */
function syntheticRow(row: SyntheticCell, stepMs: number): string[] {
  const { cell, gamma, tau, draftMs, verifyMs, ms, msQuartiles, speedup, speedupRange } = row;
  return [
    titleOf(cell.task),
    cell.method === "classical" ? "GPT-2" : "SEDD small",
    cell.alpha.toFixed(2),
    String(gamma),
    tau.toFixed(2),
    times(draftMs / stepMs),
    times(verifyMs / stepMs),
    told(over({ value: ms, quartiles: msQuartiles }, stepMs)),
    told({ value: speedup, quartiles: speedupRange }), // minimum and maximum, as stated above
    gamma === cell.gamma ? times(cell.speedup) : "",
  ];
}

/** The charts, by the file names in the report. */
export function chartsOf(report: Report): { readonly file: string; readonly svg: string }[] {
  return report.targets.flatMap((run) =>
    run.grids.flatMap((grid) => {
      const files = gridFiles(run, grid), title = `${run.name}, ${grid.drafter}`;
      return [
        { file: files[0], svg: svg(title, gridMaps(grid)) },
        { file: files[1], svg: svg(title, gridCurves(grid)) },
      ];
    })
  );
}

function gridFiles({ name }: TargetRun, { drafter }: Grid): readonly [map: string, curves: string] {
  const base = `paper-${name}-${drafter}`.replace(/[^\w]+/g, "-");
  return [`${base}-map.svg`, `${base}-curves.svg`];
}

/** The two panels of Figure 2. */
const PANELS = [
  { title: "speed-up", of: (cell: Measurement) => cell.speedup, reference: 1 },
  { title: "accepted tokens per draft", of: (cell: Measurement) => cell.acceptedPerDraft },
] as const;

function gridMaps({ cells }: Grid): HeatMap[] {
  const x = distinct(cells.map(({ options }) => options.gamma as number));
  const y = distinct(cells.map(({ options }) => options.steps!));
  return PANELS.map(({ title, of }) => ({
    ...{ title, xLabel: "γ", yLabel: "T", x, y },
    values: y.map((T) =>
      x.map((gamma) => {
        const cell = cells.find(({ options }) => options.gamma === gamma && options.steps === T);
        return cell === undefined ? null : of(cell);
      })
    ),
  }));
}

function gridCurves({ cells }: Grid): Curves[] {
  return PANELS.map(({ title, of, ...rest }) => ({
    ...{ title, xLabel: "γ", yLabel: title, ...rest },
    series: distinct(cells.map(({ options }) => options.steps!)).map((T) => ({
      name: `T = ${T}`,
      points: cells.filter(({ options }) => options.steps === T).map((cell) =>
        [cell.options.gamma as number, of(cell)] as const
      ),
    })),
  }));
}

function distinct(values: readonly number[]): number[] {
  return [...new Set(values)].sort((a, b) => a - b);
}

function titleOf(name: TaskName): string {
  return tasks.find((task) => task.name === name)!.title;
}

function describeTarget({ name, layers, width, bytes, dtype }: TargetRun): string {
  return `\`${name}\`, ${layers} × ${width}, ${megabytes(bytes)} as ${dtype}`;
}

function describeDrafter({ options, drafterName }: Measurement): string {
  return `\`${options.drafter}\`, ${drafterName}${
    options.steps === undefined ? "" : `, T = ${options.steps}`
  }`;
}

function times(x: number): string {
  return `${x.toFixed(2)} ×`;
}
