/**
 * Reports of `deno task bench` and `deno task bench:peers` for each processor, and the README's figures, which are
 * generated from all reports, with a note of which ones are up to date.
 *
 * `deno run --allow-read=bench/reports,README.md,fixtures/pair --allow-write=README.md bench/report.ts` updates the
 * README's figures. With `--check`, it writes nothing and fails if they are outdated.
 *
 * Deliberately absent: measuring.
 *
 * @module
 */

import { createHash } from "node:crypto";
import type { Dtype } from "../src/backend/backend.ts";
import { sources } from "../src/backend/wasm/kernels.generated.ts";
import type { Comparison, Row } from "../src/cli/measure.ts";
import type { Machine } from "../src/cli/machine.ts";
import { embeddedDrafter, embeddedDrafters } from "../src/pair.ts";
import { readOptions } from "../tools/arguments.ts";
import { type Figure, PASS_AIMS, type Section } from "./kernels.ts";
import { markdownTable } from "./markdown.ts";
import { into, over, type Spread, told } from "./spread.ts";

/** The sources of a measurement, to tell whether it is up to date. */
export interface Measured {
  /** The version of the CPU kernels, as {@linkcode kernelSources}; absent: not recorded. */
  readonly sources?: string;
  /** The version of each drafter's weights, as {@linkcode drafterWeights}; absent: not recorded. */
  readonly weights?: Readonly<Record<string, string>>;
}

/** Figures of a method that need a separate process, or its first round. */
export interface Alone {
  /** Milliseconds from the prompt to the end of the first round. */
  readonly firstMs: Spread;
  /** Peak memory of a separate process; null: unknown. */
  readonly peakBytes: number | null;
}

/** The report of `deno task bench`: `bench/reports/cpu-<processor>.json`. */
export interface CpuReport extends Measured {
  /** Day of the run. */
  readonly date: string;
  /** Plain decoding (`plain`) and each drafter in separate processes; absent: not measured. */
  readonly alone?: Readonly<Record<string, Alone>>;
  readonly kernels: readonly Section[];
  /** The precision of the target of the pair. */
  readonly dtype: Dtype;
  /** Plain decoding and each drafter at each γ: one run, or one for each γ. */
  readonly pair: readonly Comparison[];
}

/** One engine on one model. */
export interface PeerRow {
  readonly engine: string;
  /** Why there are no figures. */
  readonly failure?: string;
  /** Medians over the turns, in milliseconds, by task; absent: not measured for this engine. */
  readonly ms: Readonly<Record<string, number>>;
  /** Quartiles of the same. */
  readonly quartiles: Readonly<Record<string, readonly [number, number]>>;
  /** Median time to the first token. */
  readonly firstMs: number | null;
  /** Quartiles of the same; absent: not recorded. */
  readonly firstQuartiles?: readonly [number, number] | undefined;
  /** Peak memory of a separate process. */
  readonly peakBytes: number | null;
}

/** One model in one dtype; the first row is specdiff's plain decoding. */
export interface PeerTable {
  readonly title: string;
  /** The engines that chose the same tokens as specdiff in plain decoding; absent: not recorded. */
  readonly same?: readonly string[];
  readonly rows: readonly PeerRow[];
}

/** The report of `deno task bench:peers`: `bench/reports/peers-<processor>.json`. */
export interface PeerReport extends Measured {
  /** Day of the run. */
  readonly date: string;
  readonly machine: Machine;
  /** The peers' versions; absent: not recorded. */
  readonly versions?: Readonly<Record<string, string>>;
  readonly tables: readonly PeerTable[];
}

const folder = new URL("./reports/", import.meta.url);
const readmePath = new URL("../README.md", import.meta.url);

/** The short name of a processor in files and columns: Intel Xeon for `Intel(R) Xeon(R) Processor`. */
function processor({ cpu }: Machine): string {
  return (cpu ?? "unknown").replace(/\((R|TM)\)|\b(Processor|CPU)\b/gi, "").replace(/\s+/g, " ").trim();
}

/**
 * The machine with a more precise name of its processor, if one is given: `--generation "Zen 4"` distinguishes
 * generations with the same name.
 */
export function toldClosely(machine: Machine, generation: string | undefined): Machine {
  return generation === undefined
    ? machine
    : { ...machine, cpu: `${machine.cpu ?? "unknown"} ${generation}` };
}

/** Writes `<kind>-<processor>.json` and `.md`, and updates the README's figures. */
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
  await refreshReadme();
}

/** Updates the README's figures. */
export async function refreshReadme(): Promise<void> {
  await Deno.writeTextFile(readmePath, withFigures(await Deno.readTextFile(readmePath)));
}

/** The day, the machine, its runtime and the device. */
export function where(date: string, { cpu, cores, os, arch, deno, device, v8Flags }: Machine): string {
  const flags = v8Flags === undefined || v8Flags === null
    ? []
    : v8Flags === ""
    ? ["no flags of V8, so Wasm bounds checks are on"]
    : [`V8 with \`${v8Flags}\``];
  const machine = [cpu ?? "unknown processor", `${cores} cores`, `${os} ${arch}`, `Deno ${deno}`];
  return [date, ...machine, ...device === "" ? [] : [device], ...flags].join(", ");
}

/** A figure with its unit and spread, with `more` digits than usual. */
function amount({ value, quartiles, unit }: Figure, more = 0): string {
  const percent = unit === "%";
  const spread = { value, quartiles };
  return told(percent ? over(spread, 1 / 100) : spread, unit, (percent ? 0 : unit === "×" ? 2 : 1) + more);
}

/** A figure, with a cross if it misses its aim. It has enough digits to show that. */
export function judged(figure: Figure): string {
  const [, relation, bound] = /^([≥≤]) ([\d.]+)/.exec(figure.aim ?? "") ?? [];
  if (relation === undefined) return amount(figure);
  const meets = (value: number) => relation === "≥" ? value >= Number(bound) : value <= Number(bound);
  const met = meets(figure.unit === "%" ? 100 * figure.value : figure.value);
  let more = 0;
  while (meets(parseFloat(amount(figure, more))) !== met) more++;
  return met ? amount(figure, more) : `${amount(figure, more)} ✗`;
}

/** A row's speed relative to plain decoding; in older reports a ratio of medians, with the quartiles of its own runs. */
export function speedup(row: Omit<Row, "speedupQuartiles"> & Partial<Row>): Spread {
  const { speedup, speedupQuartiles, tokensPerSecond, tokensPerSecondQuartiles } = row;
  const quartiles = speedupQuartiles ??
    over({ value: 0, quartiles: tokensPerSecondQuartiles }, tokensPerSecond / speedup).quartiles;
  return { value: speedup, quartiles };
}

/** The row of a drafter at its fastest fixed γ. */
export function best(pair: readonly Comparison[], drafter: string): Row {
  return pair.flatMap(({ rows }) => rows)
    .filter((row) => row.drafter === drafter && row.gamma !== "auto")
    .reduce((a, b) => b.speedup > a.speedup ? b : a);
}

/** The speed of a drafter with chosen γ, relative to its best fixed γ, or to plain decoding if that is faster. */
export function chosenOverBest(pair: readonly Comparison[], drafter: string): Figure {
  const chosen = pair.flatMap(({ rows }) => rows)
    .find((row) => row.drafter === drafter && row.gamma === "auto")!;
  const ratio = over(speedup(chosen), Math.max(1, best(pair, drafter).speedup));
  return { what: "", ...ratio, unit: "×", aim: "≥ 0.95 ×" };
}

/** Whether every text under `coupled` equalled plain decoding. */
export function allEqual(pair: readonly Comparison[]): boolean {
  return pair.every(({ rows }) => rows.every((row) => row.equalsPlainUnderCoupled !== false));
}

/** The stored reports of one kind, ordered by name. */
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

/** The README's label of a figure, shorter than in its report. */
function label(title: string, what: string): string {
  const titles: readonly (readonly [begins: string, short: string])[] = [
    ["GEMM ", "GEMM of 60 rows"],
    ["GPT-2 124M shape, f32", "GPT-2 124M's shape, f32"],
    ["GPT-2 124M shape, int8", "GPT-2 124M's shape, int8"],
    ["a drafter of which nothing is accepted", "a drafter without accepted tokens"],
    ["the embedded target held as f16", "the target in f16"],
  ];
  const short = titles.find(([begins]) => title.startsWith(begins))?.[1] ?? title;
  const told = what.replace("that peak", "the core's multiply-add peak, 128 bits").replace(
    / \(\d+ tokens .*\)$/,
    "",
  );
  return `${short}: ${told}`;
}

/** A hash of the current weights of each embedded drafter. */
export function drafterWeights(): Record<string, string> {
  return Object.fromEntries(embeddedDrafters.map((name) => {
    const file = new URL("model.safetensors.gz", embeddedDrafter(name)!);
    return [name, createHash("sha256").update(Deno.readFileSync(file)).digest("hex").slice(0, 16)];
  }));
}

/** A hash of the sources of the current CPU kernels. */
export const kernelSources: string = sources.slice(0, 16);

/** Whether a report is of the current kernels, as text. */
function which({ sources }: Measured): string {
  return sources === kernelSources ? "current" : "older";
}

/** Whether a drafter's weights are those of a report. If not, its figures there are omitted. */
type UpToDate = (report: Measured, drafter: string) => boolean;

/** Speed-ups on the embedded pair, then the figures with an aim; a column for each processor. */
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
      return `${told(speedup(row))}, γ ${gamma}, τ ${meanAcceptanceLength.toFixed(2)}`;
    }),
  ]);
  const chosenRows = drafters.map((drafter) => [
    `γ chosen per round / the best fixed γ or plain decoding: ${drafter}`,
    "≥ 0.95 ×",
    ...reports.map(({ report }) =>
      upToDate(report, drafter) ? judged(chosenOverBest(report.pair, drafter)) : ""
    ),
  ]);
  // by label: an aim in one report applies to all
  const aims = new Map<string, string>();
  for (const { title, figures } of reports.flatMap(({ report }) => report.kernels)) {
    for (const { what, aim, told } of figures) {
      if (told || aim !== undefined) aims.set(label(title, what), aim ?? "");
    }
  }
  const figures = reports.map(({ report }) => {
    const found = new Map<string, string>();
    for (const { title, figures } of report.kernels) {
      for (const figure of figures) {
        const name = label(title, figure.what), aim = aims.get(name);
        if (aim === undefined) continue;
        const drafter = drafters.find((name) => new RegExp(`^${name}[: ]`).test(figure.what));
        if (drafter !== undefined && !upToDate(report, drafter)) continue;
        found.set(name, judged({ ...figure, aim }));
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
        "speed-up over plain decoding, at the best γ",
        ...recent.map(({ name, report }) => link(name, report.pair[0].machine)),
      ],
      [
        "run",
        ...recent.map(({ report: { date, pair, dtype } }) =>
          `${date}, ${pair[0].machine.cores} cores, target in ${dtype}`
        ),
      ],
      ["kernels", ...recent.map(({ report }) => which(report))],
      ...bestRows,
    ]),
    "",
    reports.every(({ report }) => allEqual(report.pair))
      ? "Under `coupled`, every text equalled plain decoding, token for token."
      : "**Under `coupled`, a text differed from plain decoding.**",
    "",
    ...markdownTable([
      ["", "aim", ...machines],
      ["kernels", "", ...reports.map(({ report }) => which(report))],
      ...chosenRows,
      ...aimedRows,
    ]),
  ].join("\n");
}

/** Aims of specdiff relative to its peers, by the names that {@linkcode againstPeers} gives. */
const PEER_AIMS: Readonly<Record<string, string>> = {
  "GPT-2 124M's shape, f32: plain decoding, against onnxruntime-node": "≥ 1.1 ×",
  "GPT-2 124M's shape, f32: plain decoding, against onnxruntime-web": "≥ 1.8 ×",
  "GPT-2 124M's shape, int8 / q8: plain decoding, against llama.cpp": "≥ 0.85 ×",
};

/** A task's time, with its quartiles; undefined if this engine does not have the task, or failed. */
export function timeOf(row: PeerRow, task: string): Spread | undefined {
  return task in row.ms ? { value: row.ms[task], quartiles: row.quartiles[task] } : undefined;
}

/** A pass over several rows relative to the engine's pass over one; undefined as {@linkcode timeOf}. */
export function passCost(row: PeerRow, rows: number): Spread | undefined {
  const pass = timeOf(row, `${rows}-row pass`), one = timeOf(row, "1-row pass");
  return pass && one && over(pass, one.value);
}

/** A figure of specdiff relative to a peer, or with an aim. */
export interface Comparable {
  readonly what: string;
  readonly aim: string | undefined;
  /** Undefined if the peer does not run there. */
  readonly found: Spread | undefined;
}

/** The speed of plain decoding relative to each peer, and the cost of passes over several rows. */
export function againstPeers({ tables }: PeerReport): Comparable[] {
  return tables.flatMap(({ title, rows }) => {
    const own = rows.find(({ engine }) => engine === "specdiff")!, time = timeOf(own, "one token");
    const peers = rows.filter(({ engine }) => !/^specdiff| \+ /.test(engine)).map(({ engine, ...row }) => {
      const what = `${title}: plain decoding, against ${engine}`,
        peer = timeOf({ engine, ...row }, "one token");
      return { what, aim: PEER_AIMS[what], found: time && peer && over(peer, time.value) };
    });
    const [, dtype] = /^GPT-2 124M's shape, (\w+)/.exec(title) ?? [];
    const passes = Object.entries(PASS_AIMS[dtype as Dtype] ?? {}).flatMap(([rows, aim]) => {
      const found = passCost(own, Number(rows));
      return found ? [{ what: `${title}: ${rows}-row pass / one-row pass`, aim, found }] : [];
    });
    return [...peers, ...passes];
  });
}

/** A figure as a cell of a table. */
export function compared({ what, aim, found }: Comparable): string {
  return found === undefined ? "does not run there" : judged({ what, ...found, unit: "×", aim });
}

/** Speeds relative to each peer, a column for each processor. */
function peerFigures(upToDate: UpToDate): string {
  const reports = kept<PeerReport>("peers");
  const found = reports.map(({ report }) => againstPeers(report));
  const aims = new Map(found.flat().map(({ what, aim }) => [what, aim]));
  const rows = [...aims].map(([what, aim]) => [
    what,
    aim ?? "",
    ...found.map((all) => all.filter((one) => one.what === what).map(compared).join()),
  ]);
  const pair = (report: PeerReport) => report.tables[0].rows;
  const time = (row: PeerRow | undefined) => row && timeOf(row, "one token");
  /** The fastest of the matching rows that ran. */
  const fastest = (report: PeerReport, which: RegExp) =>
    pair(report).filter((row) => which.test(row.engine) && row.failure === undefined)
      .toSorted((a, b) => time(a)!.value - time(b)!.value).at(0);
  /** The speed of one row relative to another. */
  const faster = (row: PeerRow | undefined, than: PeerRow | undefined) => {
    const own = time(row), other = time(than);
    return own && other ? told(into(other.value, own)) : "";
  };
  const [{ report: { tables: [{ title }] } }] = reports;
  return markdownTable([
    [
      "specdiff, CPU, 2 threads each",
      "aim",
      ...reports.map(({ name, report }) => link(name, report.machine)),
    ],
    ["run", "", ...reports.map(({ report }) => report.date)],
    ["kernels", "", ...reports.map(({ report }) => which(report))],
    ...rows,
    [
      `${title}: speculative decoding at temperature 1, against the fastest peer's plain decoding`,
      "",
      ...reports.map(({ report }) => {
        const own = fastest(report, /^specdiff \+ /), drafter = own?.engine.replace("specdiff + ", "");
        if (drafter === undefined || !upToDate(report, drafter)) return "";
        return `${faster(own, fastest(report, /^(?!specdiff)[^+]*$/))}, ${drafter}`;
      }),
    ],
    [
      `${title}: speculative decoding with gpt2 at temperature 1, against the best of llama.cpp's`,
      "",
      ...reports.map(({ report }) =>
        upToDate(report, "gpt2")
          ? faster(fastest(report, /^specdiff \+ gpt2/), fastest(report, /^llama.cpp \+ gpt2/))
          : ""
      ),
    ],
  ]).join("\n");
}

/** The part of the other reports that is used here; each is of one machine. */
type OtherReport = Measured & {
  readonly date: string;
  readonly machine?: Machine;
  readonly targets?: readonly { readonly machine: Machine }[];
};

/** The other reports, and whether they are up to date. */
function otherReports(upToDate: UpToDate): string {
  const rows = [["paper", "bench:paper"], ["drafter", "bench:drafter"], ["groups", "bench:groups:report"]]
    .map(([name, command]) => {
      const report: OtherReport = JSON.parse(Deno.readTextFileSync(new URL(`${name}.json`, folder)));
      const machine = report.machine ?? report.targets?.at(-1)?.machine;
      const trained = embeddedDrafters.filter((drafter) => !upToDate(report, drafter));
      return [
        `[\`deno task ${command}\`](bench/reports/${name}.md)`,
        `${report.date}, ${machine === undefined ? "unknown" : processor(machine)}`,
        which(report),
        report.weights === undefined
          ? "not recorded"
          : trained.length === 0
          ? "current"
          : `older: ${trained.join(", ")}`,
      ];
    });
  return markdownTable([["report", "run", "kernels", "drafters"], ...rows]).join("\n");
}

/** The README with the figures of all reports between its markers. */
function withFigures(readme: string): string {
  const now = drafterWeights();
  const upToDate: UpToDate = ({ weights }, drafter) => weights?.[drafter] === now[drafter];
  const parts = {
    "deno task bench:report": cpuFigures(upToDate),
    "deno task bench:peers --write": peerFigures(upToDate),
    "the other reports": otherReports(upToDate),
  };
  for (const [command, text] of Object.entries(parts)) {
    const begin = `<!-- figures: ${command} -->`, end = "<!-- /figures -->";
    const from = readme.indexOf(begin), to = readme.indexOf(end, from);
    if (from < 0 || to < 0) {
      throw new Error(
        `Cannot write the README's figures: a marker is missing, expected "${begin}" … "${end}"`,
      );
    }
    readme = `${readme.slice(0, from)}${begin}\n\n${text}\n\n${readme.slice(to)}`;
  }
  return readme;
}

if (import.meta.main) {
  const { check } = readOptions({ check: { type: "boolean" } });
  const readme = await Deno.readTextFile(readmePath), fresh = withFigures(readme);
  // compare words only, since the formatter wraps lines and aligns tables
  const words = (text: string) => text.replace(/-{3,}/g, "---").replace(/\s+/g, " ");
  if (!check) await Deno.writeTextFile(readmePath, fresh);
  else if (words(readme) !== words(fresh)) {
    console.error("Outdated figures in README.md: run bench/report.ts to update them from bench/reports");
    Deno.exit(1);
  }
}
