/**
 * What specdiff is worth on this machine: the kernels against what the processor and the memory can do, and the
 * embedded pair, plain against each drafter at several γ. Everything is a ratio of medians of interleaved runs.
 *
 * `deno task bench` prints it, with `--json` as `cpu.json` has it; `deno task bench:report` also writes `bench/reports/cpu.json` and `.md`, and the
 * README's figures from them, so that none is typed. About three minutes; nothing else should run meanwhile.
 *
 * @module
 */

import { loadEngine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { type Comparison, measure, type Row } from "../src/cli/measure.ts";
import { embeddedDrafters } from "../src/pair.ts";
import type { CausalModel } from "../src/model/model.ts";
import { hostile } from "./hostile.ts";
import { type Figure, gemm, gpt2, medians, modelPasses, type Section } from "./kernels.ts";

/** γ that are tried for each drafter. */
const GAMMAS = [1, 2, 3, 4, "auto"] as const;

/** What `bench/reports/cpu.json` holds. */
interface Report {
  /** Day of the run. */
  readonly date: string;
  readonly kernels: readonly Section[];
  /** One per γ, plain decoding measured anew in each. */
  readonly pair: readonly Comparison[];
}

/** Passes of the embedded target over several rows against one: what verifying a draft costs. */
function targetPasses(target: CausalModel): Section {
  const context = 100;
  using cache = target.newCache();
  const pass = modelPasses(target, cache, context);
  const time = medians(101, { 1: pass(1), 2: pass(2), 3: pass(3), 4: pass(4), 8: pass(8) });
  return {
    title: `embedded target, ${(target.bytes / 1e6).toFixed(0)} MB as f32, context ${context}`,
    figures: ([2, 3, 4, 8] as const).map((rows) => ({
      what: `${rows}-row pass / one-token pass`,
      value: time[rows] / time[1],
      unit: "×",
    })),
  };
}

async function run(): Promise<Report> {
  const threads = navigator.hardwareConcurrency;
  const tell = (what: string) => console.error(what);
  tell("kernels");
  const kernels = [await gemm(threads)];
  for (const dtype of ["f32", "bf16", "int8"] as const) kernels.push(await gpt2(threads, dtype));
  const pair: Comparison[] = [];
  using engine = await loadEngine({ drafter: embeddedDrafters });
  kernels.push(targetPasses(engine.target));
  for (const gamma of GAMMAS) {
    tell(`the embedded pair, γ = ${gamma}`);
    const settings = { prompts: PROMPTS, repetitions: 5, maxTokens: 128, options: { gamma } };
    pair.push(await measure(engine, settings, () => {}));
  }
  tell("the embedded pair, nothing accepted");
  kernels.push(await hostile(engine));
  return { date: new Date().toISOString().slice(0, 10), kernels, pair };
}

function amount({ value, unit }: Figure): string {
  if (unit === "%") return `${Math.round(100 * value)} %`;
  return `${value.toFixed(unit === "×" ? 2 : 1)} ${unit}`;
}

/** The row of each drafter at the fixed γ where it was fastest. */
function best(pair: readonly Comparison[]): Row[] {
  const rows = pair.flatMap(({ rows }) =>
    rows.filter(({ drafter, gamma }) => drafter !== null && gamma !== "auto")
  );
  return embeddedDrafters.map((name) =>
    rows.filter(({ drafter }) => drafter === name).reduce((a, b) => b.speedup > a.speedup ? b : a)
  );
}

/** The same drafter with γ chosen. */
function chosen(pair: readonly Comparison[], { drafter }: Row): Row {
  return pair[GAMMAS.indexOf("auto")].rows.find((row) => row.drafter === drafter)!;
}

function perPosition(row: Row): string {
  return row.acceptanceRatePerPosition.map((rate) => rate.toFixed(2)).join(" ");
}

/** Markdown: the machine, the pair, the kernels. */
function markdown({ date, kernels, pair }: Report): string {
  const { cpu, cores, os, arch, deno, device } = pair[0].machine;
  const checked = pair.every(({ rows }) => rows.every((row) => row.equalsPlainUnderCoupled !== false));
  return [
    `${date}, ${
      cpu ?? "unknown processor"
    }, ${cores} cores, ${os} ${arch}, Deno ${deno}, ${device}, Wasm bounds checks on.`,
    "Ratios of medians within one run; `deno task bench` repeats it.",
    "",
    "| embedded pair, temperature 1, f32 target, `ordered` | best γ | against plain | τ | accepted at positions 1, 2, … |",
    "| --- | --- | --- | --- | --- |",
    ...best(pair).map((row) =>
      `| ${row.method} | ${row.gamma} | ${row.speedup.toFixed(2)} × | ${
        row.meanAcceptanceLength.toFixed(2)
      } | ${perPosition(row)} |`
    ),
    "",
    checked
      ? "Under `coupled`, every text equalled that of plain decoding, token for token."
      : "**Under `coupled`, a text differed from that of plain decoding.**",
    "",
    "| kernels | measured | aim |",
    "| --- | --- | --- |",
    ...kernels.flatMap(({ title, figures }) =>
      figures.map((figure) => `| ${title}: ${figure.what} | ${amount(figure)} | ${figure.aim ?? ""} |`)
    ),
    "",
    "Against plain, each drafter at each γ:",
    "",
    `| γ | ${embeddedDrafters.join(" | ")} |`,
    `| --- | ${embeddedDrafters.map(() => "---").join(" | ")} |`,
    ...pair.map(({ rows }, i) =>
      `| ${GAMMAS[i]} | ${
        embeddedDrafters.map((name) => rows.find(({ drafter }) => drafter === name)!).map((row) =>
          `${row.speedup.toFixed(2)} × (τ ${row.meanAcceptanceLength.toFixed(2)}${
            row.gamma === "auto" ? `, mean γ ${row.meanGamma.toFixed(2)}` : ""
          })`
        ).join(" | ")
      } |`
    ),
    `| auto over the best, plain included (aim: ≥ 0.95) | ${
      best(pair).map((row) => (chosen(pair, row).speedup / Math.max(1, row.speedup)).toFixed(2)).join(" | ")
    } |`,
    "",
  ].join("\n");
}

/** Puts the figures between the README's markers. */
async function writeReadme(text: string): Promise<void> {
  const path = new URL("../README.md", import.meta.url);
  const readme = await Deno.readTextFile(path);
  const [begin, end] = ["<!-- figures: deno task bench:report -->", "<!-- /figures -->"];
  const from = readme.indexOf(begin) + begin.length, to = readme.indexOf(end);
  await Deno.writeTextFile(path, `${readme.slice(0, from)}\n\n${text}\n${readme.slice(to)}`);
}

const report = await run();
const text = markdown(report);
console.log(Deno.args.includes("--json") ? JSON.stringify(report, null, 2) : text);
if (Deno.args.includes("--write")) {
  const folder = new URL("./reports/", import.meta.url);
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(new URL("cpu.json", folder), `${JSON.stringify(report, null, 2)}\n`);
  await Deno.writeTextFile(new URL("cpu.md", folder), `# CPU\n\n${text}`);
  await writeReadme(text);
}
