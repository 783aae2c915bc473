/**
 * The benchmark of specdiff on this machine: the kernels against the limits of processor and memory, and the embedded
 * pair, plain decoding against each drafter at several γ. Every figure is a ratio of interleaved runs: a median with
 * its quartiles.
 *
 * `deno task bench` prints the report, with `--json` as one object. `deno task bench:report` also writes
 * `bench/reports/cpu-<processor>.json` and `.md`, and updates the README's figures from them. `--generation "Zen 4"`
 * distinguishes processors with the same name. It takes about four minutes; nothing else should run meanwhile.
 *
 * @module
 */

import { loadEngine } from "../mod.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { measure, type Row } from "../src/cli/measure.ts";
import { embeddedDrafters } from "../src/pair.ts";
import type { CausalModel } from "../src/model/model.ts";
import { alone } from "./alone.ts";
import { readOptions } from "../tools/arguments.ts";
import { halves } from "./halves.ts";
import { hostile } from "./hostile.ts";
import { gemm, gpt2, modelPasses, type Section, takeTurns } from "./kernels.ts";
import { markdownTable } from "./markdown.ts";
import { megabytes } from "./peak.ts";
import {
  allEqual,
  best,
  chosenOverBest,
  type CpuReport,
  drafterWeights,
  judged,
  kernelSources,
  speedup,
  toldClosely,
  where,
  writeReport,
} from "./report.ts";
import { over, perTurn, told } from "./spread.ts";

/** The γ to try for each drafter. */
const GAMMAS = [1, 2, 3, 4, 6, "auto"] as const;

/** Passes of the embedded target over several rows against one: the cost of verifying a draft. */
function targetPasses(target: CausalModel): Section {
  const context = 100;
  using cache = target.newCache();
  const pass = modelPasses(target, cache, context);
  const time = takeTurns(101, { 1: pass(1), 2: pass(2), 3: pass(3), 4: pass(4), 8: pass(8) });
  return {
    title: `embedded target, ${megabytes(target.bytes)} as ${target.embedding.dtype}, context ${context}`,
    figures: ([2, 3, 4, 8] as const).map((rows) => ({
      what: `${rows}-row pass / one-token pass`,
      ...perTurn(time[rows], time[1]),
      unit: "×",
    })),
  };
}

const options = readOptions({
  json: { type: "boolean" },
  write: { type: "boolean" },
  generation: { type: "string" },
});

async function run(): Promise<CpuReport> {
  const threads = navigator.hardwareConcurrency;
  const tell = (what: string) => console.error(what);
  tell("kernels");
  const kernels = [await gemm(threads)];
  for (const dtype of ["f32", "bf16", "int8"] as const) kernels.push(await gpt2(threads, dtype));
  using engine = await loadEngine({ drafter: embeddedDrafters });
  kernels.push(targetPasses(engine.target));
  tell(`the embedded pair, γ = ${GAMMAS.join(", ")}`);
  const settings = { prompts: PROMPTS, repetitions: 5, maxTokens: 128, options: {}, gammas: GAMMAS };
  const comparison = await measure(engine, settings, () => {});
  const pair = [{ ...comparison, machine: toldClosely(comparison.machine, options.generation) }];
  tell("the embedded pair, nothing accepted");
  kernels.push(await hostile(engine));
  tell("the embedded pair, its target as f16 and as f32");
  kernels.push(await halves());
  tell("the embedded pair, first tokens and memory");
  const each = await alone(engine);
  return {
    date: new Date().toISOString().slice(0, 10),
    sources: kernelSources,
    weights: drafterWeights(),
    alone: each,
    kernels,
    dtype: engine.target.embedding.dtype,
    pair,
  };
}

function perPosition(row: Row): string {
  return row.acceptanceRatePerPosition.map((rate) => rate.toFixed(2)).join(" ");
}

/** Markdown: the machine, the pair, the kernels. */
function markdown({ date, alone = {}, kernels, dtype, pair }: CpuReport): string {
  const { machine } = pair[0];
  const each = (gamma: Row["gamma"], name: string): string => {
    const row = pair[0].rows.find((row) => row.drafter === name && row.gamma === gamma)!;
    const chosen = gamma === "auto" ? `, mean γ ${row.meanGamma.toFixed(2)}` : "";
    return `${told(speedup(row))}, τ ${row.meanAcceptanceLength.toFixed(2)}${chosen}`;
  };
  const first = (method: string) =>
    method in alone ? told(over(alone[method].firstMs, alone.plain.firstMs.value)) : "";
  const peak = (method: string) => megabytes(alone[method]?.peakBytes);
  return [
    `${where(date, machine)}.`,
    "All ratios are medians of ratios turn by turn within one run, with quartiles in brackets. The pair: each method on",
    `the ${PROMPTS.length} prompts of \`compare\`, ${pair[0].settings.repetitions} texts of ${
      pair[0].settings.maxTokens
    } tokens each, against plain decoding of the`,
    "same prompt and seed. Reproduce with `deno task bench`.",
    "",
    ...markdownTable([
      [
        `embedded pair, temperature 1, target in ${dtype}`,
        "rule",
        "best γ",
        "speed-up",
        "τ",
        "accepted at positions 1, 2, …",
        "first token",
        "peak memory",
      ],
      ["plain", "", "", "", "", "", first("plain"), peak("plain")],
      ...embeddedDrafters.map((name) => best(pair, name)).map((row) => [
        row.method,
        `\`${row.rule}\``,
        String(row.gamma),
        told(speedup(row)),
        row.meanAcceptanceLength.toFixed(2),
        perPosition(row),
        first(row.drafter!),
        peak(row.drafter!),
      ]),
    ]),
    "",
    "First token: the time from a prompt of a dozen tokens to the end of the first round, relative to plain decoding's",
    "median. Peak memory: that of a separate process, including Deno itself.",
    "",
    allEqual(pair)
      ? "Under `coupled`, every text equalled plain decoding, token for token."
      : "**Under `coupled`, a text differed from plain decoding.**",
    "",
    ...markdownTable([
      ["kernels", "measured", "aim"],
      ...kernels.flatMap(({ title, figures }) =>
        figures.map((figure) => [`${title}: ${figure.what}`, judged(figure), figure.aim ?? ""])
      ),
    ]),
    "",
    "Speed-up over plain decoding, for each drafter and γ. The best of several is a little higher than it would be in",
    "another run, since it was selected by this one:",
    "",
    ...markdownTable([
      ["γ", ...embeddedDrafters],
      ...GAMMAS.map((gamma) => [String(gamma), ...embeddedDrafters.map((name) => each(gamma, name))]),
      [
        "auto / the best, plain decoding included (aim: ≥ 0.95)",
        ...embeddedDrafters.map((name) => judged(chosenOverBest(pair, name))),
      ],
    ]),
    "",
  ].join("\n");
}

const report = await run();
const text = markdown(report);
console.log(options.json ? JSON.stringify(report, null, 2) : text);
if (options.write) await writeReport("cpu", report.pair[0].machine, report, text);
