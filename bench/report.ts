/**
 * What `deno task bench` and `deno task bench:peers` find, as text: a report for each processor, and the README's
 * figures, which are made of all of them. Measuring is not its matter.
 *
 * `deno run --allow-read=bench/reports,README.md,fixtures/pair --allow-write=README.md bench/report.ts` puts the figures into the
 * README anew; with `--check` it writes nothing and fails if they are not those of the reports.
 *
 * @module
 */

import { createHash } from "node:crypto";
import type { Dtype } from "../src/backend/backend.ts";
import { sources } from "../src/backend/wasm/kernels.generated.ts";
import type { Comparison, Row } from "../src/cli/measure.ts";
import type { Machine } from "../src/cli/machine.ts";
import { embeddedDrafter, embeddedDrafters } from "../src/pair.ts";
import { readOptions } from "./arguments.ts";
import type { Figure, Section } from "./kernels.ts";
import { markdownTable } from "./markdown.ts";

/** What `deno task bench` finds: `bench/reports/cpu-<processor>.json`. */
export interface CpuReport {
  /** Day of the run. */
  readonly date: string;
  /** What tells the CPU's kernels from those of other times, see {@linkcode kernelSources}; absent: not recorded. */
  readonly sources?: string;
  /** What tells the weights of each drafter from those it had at other times, see {@linkcode drafterWeights}. */
  readonly weights: Readonly<Record<string, string>>;
  readonly kernels: readonly Section[];
  /** How the target of the pair was held. */
  readonly dtype: Dtype;
  /** Plain decoding and each drafter at each γ: one run, or one for each γ. */
  readonly pair: readonly Comparison[];
}

/** One engine on one model. */
export interface PeerRow {
  readonly engine: string;
  /** Why there is nothing else. */
  readonly failure?: string;
  /** Medians over the turns, in milliseconds, by task; absent: not of this engine. */
  readonly ms: Readonly<Record<string, number>>;
  /** Quartiles of the same. */
  readonly quartiles: Readonly<Record<string, readonly [number, number]>>;
  /** Time to the first token after the context, the median. */
  readonly firstMs: number | null;
  readonly peakBytes: number | null;
}

/** One model in one dtype; the first row is specdiff's plain decoding. */
export interface PeerTable {
  readonly title: string;
  readonly rows: readonly PeerRow[];
}

/** What `deno task bench:peers` finds: `bench/reports/peers-<processor>.json`. */
export interface PeerReport {
  /** Day of the run. */
  readonly date: string;
  /** As in {@linkcode CpuReport}. */
  readonly sources?: string;
  /** As in {@linkcode CpuReport}. */
  readonly weights: Readonly<Record<string, string>>;
  readonly machine: Machine;
  /** The peers' versions; absent: not recorded. */
  readonly versions?: Readonly<Record<string, string>>;
  readonly tables: readonly PeerTable[];
}

const folder = new URL("./reports/", import.meta.url);
const readmePath = new URL("../README.md", import.meta.url);

/** A processor as files and columns are named: `Intel(R) Xeon(R) Processor` is Intel Xeon. */
function processor({ cpu }: Machine): string {
  return (cpu ?? "unknown").replace(/\((R|TM)\)|\b(Processor|CPU)\b/gi, "").replace(/\s+/g, " ").trim();
}

/**
 * The machine with its processor told more closely, if whoever runs the bench does: `--generation "Zen 4"`, where one
 * name stands for processors that have little in common.
 */
export function toldClosely(machine: Machine, generation: string | undefined): Machine {
  return generation === undefined
    ? machine
    : { ...machine, cpu: `${machine.cpu ?? "unknown"} ${generation}` };
}

/** Writes `<kind>-<processor>.json` and `.md`, and the README's figures anew. */
export async function writeReport(
  kind: "cpu" | "peers",
  machine: Machine,
  report: CpuReport | PeerReport,
  text: string,
): Promise<void> {
  const name = `${kind}-${processor(machine).toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  const title = kind === "cpu" ? "CPU" : "Peers";
  await Deno.writeTextFile(new URL(`${name}.json`, folder), `${JSON.stringify(report, null, 2)}\n`);
  await Deno.writeTextFile(new URL(`${name}.md`, folder), `# ${title}\n\n${text}`);
  await Deno.writeTextFile(readmePath, withFigures(await Deno.readTextFile(readmePath)));
}

/** The day, the machine and its runtime. */
export function where(date: string, { cpu, cores, os, arch, deno }: Machine): string {
  return `${date}, ${cpu ?? "unknown processor"}, ${cores} cores, ${os} ${arch}, Deno ${deno}`;
}

/** A figure with its unit. */
export function amount({ value, unit }: Figure): string {
  if (unit === "%") return `${Math.round(100 * value)} %`;
  return `${value.toFixed(unit === "×" ? 2 : 1)} ${unit}`;
}

/** The row of a drafter at the fixed γ where it was fastest. */
export function best(pair: readonly Comparison[], drafter: string): Row {
  return pair.flatMap(({ rows }) => rows)
    .filter((row) => row.drafter === drafter && row.gamma !== "auto")
    .reduce((a, b) => b.speedup > a.speedup ? b : a);
}

/** The speed of a drafter whose γ is chosen over that of its best fixed one, or of plain decoding if that is faster. */
export function chosenOverBest(pair: readonly Comparison[], drafter: string): number {
  const chosen = pair.flatMap(({ rows }) => rows)
    .find((row) => row.drafter === drafter && row.gamma === "auto")!;
  return chosen.speedup / Math.max(1, best(pair, drafter).speedup);
}

/** Whether under `coupled` every text was that of plain decoding. */
export function allEqual(pair: readonly Comparison[]): boolean {
  return pair.every(({ rows }) => rows.every((row) => row.equalsPlainUnderCoupled !== false));
}

/** The reports of one kind that are kept, in the order of their names. */
function kept<T>(kind: "cpu" | "peers"): { readonly name: string; readonly report: T }[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name)
    .filter((name) => name.startsWith(`${kind}-`) && name.endsWith(".json")).sort()
    .map((name) => ({
      name: name.replace(".json", ""),
      report: JSON.parse(Deno.readTextFileSync(new URL(name, folder))) as T,
    }));
}

function link(name: string, machine: Machine): string {
  return `[${processor(machine)}](bench/reports/${name}.md)`;
}

/** What the README calls a figure: less than its report does, which says of what it is. */
function label(title: string, what: string): string {
  const titles: readonly (readonly [begins: string, short: string])[] = [
    ["GEMM ", "GEMM of 60 rows"],
    ["GPT-2 124M shape, f32", "GPT-2 124M's shape, f32"],
    ["a drafter of which nothing is accepted", "a drafter of which nothing is accepted"],
    ["the embedded target held as f16", "the target held as f16"],
  ];
  const short = titles.find(([begins]) => title.startsWith(begins))?.[1] ?? title;
  const told = what.replace("that peak", "the core's multiply-add peak, 128 bits").replace(
    / \(\d+ tokens .*\)$/,
    "",
  );
  return `${short}: ${told}`;
}

/** A hash of the weights of each embedded drafter as they are now. */
export function drafterWeights(): Record<string, string> {
  return Object.fromEntries(embeddedDrafters.map((name) => {
    const file = new URL("model.safetensors.gz", embeddedDrafter(name)!);
    return [name, createHash("sha256").update(Deno.readFileSync(file)).digest("hex").slice(0, 16)];
  }));
}

/** What tells the CPU's kernels as they are now from those of other times. */
export const kernelSources: string = sources.slice(0, 16);

/** Whether a report is of the kernels as they are now, for people. */
function which({ sources }: CpuReport | PeerReport): string {
  return sources === kernelSources ? "these" : "earlier ones";
}

/** A figure, and a cross where it is not what it was to be. */
function judged(figure: Figure): string {
  const shown = amount(figure), value = parseFloat(shown);
  const [, relation, bound] = /^([≥≤]) ([\d.]+)/.exec(figure.aim ?? "") ?? [];
  const met = relation === undefined || (relation === "≥" ? value >= Number(bound) : value <= Number(bound));
  return met ? shown : `${shown} ✗`;
}

/** Whether drafters are still what they were in a report: of one whose weights have changed it says nothing any more. */
type UpToDate = (report: CpuReport | PeerReport, drafter: string) => boolean;

/** What drafting wins on the embedded pair, then the figures that have an aim; a column for each processor. */
function cpuFigures(upToDate: UpToDate): string {
  const reports = kept<CpuReport>("cpu");
  const machines = reports.map(({ name, report }) => link(name, report.pair[0].machine));
  const drafters = embeddedDrafters;
  const recent = reports.filter(({ report }) => drafters.some((drafter) => upToDate(report, drafter)));
  const bestRows = drafters.map((drafter) => [
    drafter,
    ...recent.map(({ report }) => {
      if (!upToDate(report, drafter)) return "";
      const row = best(report.pair, drafter), { gamma, meanAcceptanceLength } = row;
      const [low, high] = row.tokensPerSecondQuartiles.map((speed) =>
        (row.speedup * speed / row.tokensPerSecond).toFixed(2)
      );
      const tau = meanAcceptanceLength.toFixed(2);
      return `${row.speedup.toFixed(2)} × (${low}–${high}; γ ${gamma}, τ ${tau})`;
    }),
  ]);
  const chosenRows = drafters.map((drafter) => [
    `γ chosen round by round / the best fixed γ or plain decoding: ${drafter}`,
    "≥ 0.95 ×",
    ...reports.map(({ report }) =>
      upToDate(report, drafter)
        ? judged({ what: "", value: chosenOverBest(report.pair, drafter), unit: "×", aim: "≥ 0.95 ×" })
        : ""
    ),
  ]);
  const aims = new Map<string, string>(); // of each label
  const figures = reports.map(({ report }) => {
    const found = new Map<string, string>();
    for (const { title, figures } of report.kernels) {
      for (const figure of figures.filter(({ aim, told }) => told || aim !== undefined)) {
        const name = label(title, figure.what);
        if (!aims.has(name)) aims.set(name, figure.aim ?? "");
        const drafter = drafters.find((name) => new RegExp(`^${name}[: ]`).test(figure.what));
        if (drafter !== undefined && !upToDate(report, drafter)) continue;
        found.set(name, judged(figure));
      }
    }
    return found;
  });
  const aimedRows = [...aims].map((
    [name, aim],
  ) => [name, aim, ...figures.map((found) => found.get(name) ?? "")]);
  return [
    ...markdownTable([
      [
        "each drafter at its best γ / plain decoding",
        ...recent.map(({ name, report }) => link(name, report.pair[0].machine)),
      ],
      [
        "run",
        ...recent.map(({ report: { date, pair, dtype } }) =>
          `${date}, ${pair[0].machine.cores} cores, target held as ${dtype}`
        ),
      ],
      ["kernels", ...recent.map(({ report }) => which(report))],
      ...bestRows,
    ]),
    "",
    reports.every(({ report }) => allEqual(report.pair))
      ? "Under `coupled`, every text equalled that of plain decoding, token for token."
      : "**Under `coupled`, a text differed from that of plain decoding.**",
    "",
    ...markdownTable([
      ["", "aim", ...machines],
      ["kernels", "", ...reports.map(({ report }) => which(report))],
      ...chosenRows,
      ...aimedRows,
    ]),
  ].join("\n");
}

/** How many times as fast as each peer, a column for each processor. */
function peerFigures(upToDate: UpToDate): string {
  const reports = kept<PeerReport>("peers");
  const speed = (row: PeerRow) => 1 / row.ms["one token"];
  const rows = reports[0].report.tables.flatMap(({ title, rows }) =>
    rows.filter(({ engine }) => !/^specdiff| \+ /.test(engine)).map(({ engine }) => [
      `${title}: plain decoding, against ${engine}`,
      ...reports.map(({ report }) => {
        const here = report.tables.find((table) => table.title === title)?.rows;
        const peer = here?.find((row) => row.engine === engine);
        if (here === undefined || peer === undefined) return "";
        return peer.failure ? "does not run there" : `${(speed(here[0]) / speed(peer)).toFixed(2)} ×`;
      }),
    ])
  );
  const pair = (report: PeerReport) => report.tables[0].rows;
  const fastest = (report: PeerReport) =>
    pair(report).filter(({ engine }) => engine.startsWith("specdiff +")).reduce((a, b) =>
      speed(b) > speed(a) ? b : a
    );
  const rival = (report: PeerReport) =>
    Math.max(
      ...pair(report).filter((row) => !/^specdiff| \+ /.test(row.engine) && !row.failure).map(speed),
    );
  const named = (report: PeerReport, engine: string) =>
    pair(report).find((row) => row.engine === engine && !row.failure);
  return markdownTable([
    [
      "specdiff, CPU, 2 threads each",
      ...reports.map(({ name, report }) => link(name, report.machine)),
    ],
    ["run", ...reports.map(({ report }) => report.date)],
    ["kernels", ...reports.map(({ report }) => which(report))],
    ...rows,
    [
      `${
        reports[0].report.tables[0].title
      }: speculative decoding at temperature 1, against the fastest peer's ` +
      "plain decoding",
      ...reports.map(({ report }) => {
        const drafter = fastest(report).engine.replace("specdiff + ", "");
        if (!upToDate(report, drafter)) return "";
        return `${(speed(fastest(report)) / rival(report)).toFixed(2)} × (${drafter})`;
      }),
    ],
    [
      `${
        reports[0].report.tables[0].title
      }: speculative decoding with gpt2 at temperature 1, against llama.cpp's`,
      ...reports.map(({ report }) => {
        const own = named(report, "specdiff + gpt2"), other = named(report, "llama.cpp + gpt2");
        return own && other && upToDate(report, "gpt2") ? `${(speed(own) / speed(other)).toFixed(2)} ×` : "";
      }),
    ],
  ]).join("\n");
}

/** The README with the figures of all reports between its markers. */
function withFigures(readme: string): string {
  const now = drafterWeights();
  const upToDate: UpToDate = ({ weights }, drafter) => weights[drafter] === now[drafter];
  const parts = {
    "deno task bench:report": cpuFigures(upToDate),
    "deno task bench:peers --write": peerFigures(upToDate),
  };
  for (const [command, text] of Object.entries(parts)) {
    const begin = `<!-- figures: ${command} -->`, end = "<!-- /figures -->";
    const from = readme.indexOf(begin), to = readme.indexOf(end, from);
    if (from < 0 || to < 0) {
      throw new Error(`Cannot write the README's figures: it has no "${begin}" … "${end}"`);
    }
    readme = `${readme.slice(0, from)}${begin}\n\n${text}\n\n${readme.slice(to)}`;
  }
  return readme;
}

if (import.meta.main) {
  const { check } = readOptions({ check: { type: "boolean" } });
  const readme = await Deno.readTextFile(readmePath), fresh = withFigures(readme);
  // the formatter sets tables and lines: what counts is the words
  const words = (text: string) => text.replace(/-{3,}/g, "---").replace(/\s+/g, " ");
  if (!check) await Deno.writeTextFile(readmePath, fresh);
  else if (words(readme) !== words(fresh)) {
    console.error("README.md has other figures than bench/reports: run bench/report.ts");
    Deno.exit(1);
  }
}
