/**
 * The report of the GPU benchmark: figures beside their aims, and predictions made before a GPU was available. Figures
 * that were not measured are marked.
 *
 * @module
 */

import { markdownTable } from "../markdown.ts";

/** One of the figures with aims. */
export interface Figure {
  /** What it is. */
  readonly what: string;
  readonly unit: "%" | "×" | "ms";
  /** The required value, and one that would lead the field. */
  readonly reach: string;
  readonly lead: string;
  /** A prediction from bytes and launches, not a measurement. */
  readonly prediction: string;
  /** The measurement; null: none yet. */
  value: number | null;
}

/** Measurements beside the figures. */
export interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: (readonly (string | number)[])[];
}

/** The results of a run. */
export interface Report {
  /** Day of the run. */
  readonly date: string;
  /** The driver's name of it; null: there was none. */
  gpu: string | null;
  readonly environment: Record<string, string>;
  /** Tokens per second of GPT-2 XL's plain decoding; null: not measured. */
  plainSpeed: number | null;
  readonly figures: Record<FigureName, Figure>;
  readonly tables: Table[];
  /** Parts that failed, each with its error. */
  readonly failures: string[];
}

/** Names of the figures. */
type FigureName = keyof ReturnType<typeof figures>;

/** An empty report. */
export function emptyReport(): Report {
  const date = new Date().toISOString().slice(0, 10);
  return {
    date,
    gpu: null,
    environment: {},
    plainSpeed: null,
    figures: figures(),
    tables: [],
    failures: [],
  };
}

/** Merges reports. Of single values, the last one given counts. */
export function merge(reports: readonly Report[]): Report {
  const whole = emptyReport();
  for (const report of reports) {
    whole.gpu = report.gpu ?? whole.gpu;
    whole.plainSpeed = report.plainSpeed ?? whole.plainSpeed;
    Object.assign(whole.environment, report.environment);
    for (const [name, { value }] of Object.entries(report.figures)) {
      const figure = whole.figures[name as FigureName];
      figure.value = value ?? figure.value;
    }
    whole.tables.push(...report.tables);
    whole.failures.push(...report.failures);
  }
  return whole;
}

/** The figures, unmeasured. Predictions are for an H200 with f16 or bf16 weights at context 1024. */
function figures() {
  const figure = (
    what: string,
    unit: Figure["unit"],
    reach: string,
    lead: string,
    prediction: string,
  ): Figure => ({ what, unit, reach, lead, prediction, value: null });
  return {
    plain: figure("GPT-2 XL plain decoding, share of the bandwidth limit", "%", "≥ 60 %", "≥ 75 %", "62 %"),
    verify: figure("48-row verify pass / one-token pass", "×", "≤ 1.20 ×", "≤ 1.10 ×", "1.08 ×"),
    draft: figure(
      "SEDD-small draft step, 48 live rows, cached context / GPT-2 XL one-token pass",
      "×",
      "≤ 0.25 ×",
      "≤ 0.20 ×",
      "0.20 ×",
    ),
    fullDraft: figure(
      "SEDD-small draft step, full 1024+47 rows",
      "ms",
      "≤ 0.70 ms",
      "≤ 0.45 ms",
      "0.60–0.65 ms",
    ),
    host: figure(
      "a round beside the device's time in its passes, at most: host, and waiting for it",
      "%",
      "≤ 5 %",
      "≤ 2 %",
      "none",
    ),
    huggingFace: figure(
      "GPT-2 XL plain decoding vs Hugging Face generate in PyTorch, same GPU, same run",
      "×",
      "≥ 8 ×",
      "≥ 15 ×",
      "none",
    ),
    speculation: figure(
      "SpecDiff vs plain at τ = 6, T = 1, cached (synthetic acceptance), best of two γ and two rules",
      "×",
      "≥ 4.0 ×",
      "≥ 4.6 ×",
      "4.6 ×",
    ),
  };
}

function amount({ value, unit }: Figure): string {
  if (value === null) return "not measured";
  if (unit === "%") return `${(100 * value).toFixed(1)} %`;
  return `${value.toFixed(unit === "×" ? 2 : 3)} ${unit}`;
}

/** Cells of the short table, with a heading row. */
export function summary({ figures }: Report): string[][] {
  return [
    ["figure", "measured", "reach", "lead", "predicted"],
    ...Object.values(figures).map((figure) => {
      return [figure.what, amount(figure), figure.reach, figure.lead, figure.prediction];
    }),
  ];
}

/** The whole report. */
export function markdown(report: Report): string {
  const grid = (rows: readonly (readonly (string | number)[])[]) => markdownTable(rows).join("\n");
  return [
    `# ${report.gpu ?? "No GPU"}`,
    `${report.date}. ${Object.entries(report.environment).map((entry) => entry.join(" ")).join(", ")}.`,
    "Weights are random in the published shapes; times do not depend on them. Medians of one run; reproduce with `deno task bench:gpu`.",
    grid(summary(report)),
    ...report.tables.map(({ title, columns, rows }) => `${title}\n\n${grid([columns, ...rows])}`),
    ...(report.failures.length > 0
      ? [`Failed:\n\n${report.failures.map((line) => `- ${line}`).join("\n")}`]
      : []),
  ].join("\n\n") + "\n";
}
