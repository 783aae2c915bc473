/**
 * Acceptance lost and time won by a bidirectional drafter that sees less of the text, caches some of it between passes,
 * or has a lower precision. `deno task bench:drafter` measures it on the embedded pair in about three minutes and
 * writes `bench/reports/drafter.json`, `.md` and `.svg`; nothing else should run meanwhile. `--generation "Zen 4"`
 * distinguishes processors with the same name.
 *
 * All settings draft at the same places of the same texts with the same noise, the next place two tokens on, as if one
 * had been accepted each time. A draft's acceptance is what is to be expected of it given its tokens,
 * Σ_j Π_{i ≤ j} min(1, p_i/q_i), so that little is left to chance when settings are compared.
 *
 * @module
 */

import type { Dtype } from "../src/backend/backend.ts";
import { createBackend } from "../src/backend/create.ts";
import { PROMPTS } from "../src/cli/compare.ts";
import { describeMachine, type Machine } from "../src/cli/machine.ts";
import { quantile } from "../src/cli/measure.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import type { ContextCache } from "../src/decode/context_cache.ts";
import { DiffusionDrafter } from "../src/decode/diffusion_drafter.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { PhiloxSource } from "../src/decode/random.ts";
import { logLinearSigma } from "../src/model/sedd_score.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { encodeText, loadTokenizer } from "../src/hub/tokenizer.ts";
import { loadModel } from "../src/model/load.ts";
import type { DiffusionModel } from "../src/model/model.ts";
import { embeddedDrafter, embeddedTarget } from "../src/pair.ts";
import { readOptions } from "../tools/arguments.ts";
import { type Paths, svg } from "./charts.ts";
import { markdownTable } from "./markdown.ts";
import { drafterWeights, kernelSources, type Measured, refreshReadme, toldClosely, where } from "./report.ts";
import { perTurn, type Spread, spreadOf, told } from "./spread.ts";

const { generation } = readOptions({ generation: { type: "string" } });

const GAMMA = 4;
/** From one draft to the next. */
const STRIDE = 2;
const TEXT_TOKENS = 128;
const SEEDS = [1, 2, 3];
/** Passes of either kind where what σ decides is timed. */
const PASSES = 201;
const WINDOWS = [8, 16, 32, 64, "all"] as const;
const DTYPES: readonly Dtype[] = ["f32", "int8"];
/** Without a second step there is none that could take anything from the first. */
const CACHES: readonly (readonly [steps: number, caches: readonly ContextCache[]])[] = [
  [1, ["none", "delayed"]],
  [2, ["none", "draft", "delayed"]],
];

/** One way to draft. */
interface Setting {
  readonly steps: number;
  readonly window: typeof WINDOWS[number];
  readonly cache: ContextCache;
  readonly dtype: Dtype;
}

/** What came of it, against all of the text in f32 with nothing kept and as many steps. */
interface Row extends Setting {
  readonly drafts: number;
  /** Milliseconds of a draft: median and quartiles. */
  readonly ms: number;
  readonly msQuartiles: readonly [number, number];
  /** Expected accepted tokens per draft. */
  readonly accepted: number;
  /** Share of that time that is won, and of that acceptance that is lost, with its standard error between texts. */
  readonly timeWon: number;
  readonly acceptanceLost: number;
  readonly acceptanceLostError: number;
}

interface Report extends Measured {
  readonly date: string;
  readonly machine: Machine;
  readonly gamma: number;
  readonly texts: number;
  /** Milliseconds of a pass over 8 tokens of text and γ masked ones in int8, by whether it computes what σ decides. */
  readonly conditioning: { readonly kept: Spread; readonly anew: Spread; readonly ratio: Spread };
  readonly rows: readonly Row[];
}

const settings: Setting[] = CACHES.flatMap(([steps, caches]) =>
  DTYPES.flatMap((dtype) =>
    caches.flatMap((cache) => WINDOWS.map((window): Setting => ({ steps, window, cache, dtype })))
  )
);

async function run(): Promise<Report> {
  using backend = await createBackend();
  using stack = new DisposableStack();
  const checkpoint = stack.use(await openCheckpoint(embeddedTarget()));
  const loaded = await loadModel(checkpoint, backend, { dtype: "f32" });
  if (loaded.kind !== "causal") throw new TypeError("Cannot measure: the embedded target is no causal model");
  stack.use(loaded.model);
  const target = stack.use(new ModelTarget(loaded.model, backend));
  const models = new Map<Dtype, DiffusionModel>();
  for (const dtype of DTYPES) {
    const checkpoint = stack.use(await openCheckpoint(embeddedDrafter("sedd")!));
    const drafter = await loadModel(checkpoint, backend, { dtype });
    if (drafter.kind !== "diffusion") {
      throw new TypeError("Cannot measure: the drafter is no diffusion model");
    }
    models.set(dtype, stack.use(drafter.model));
  }
  const tokenizer = await loadTokenizer(embeddedTarget());
  const found = settings.map(() => ({ ms: [] as number[], accepted: [] as number[] }));
  for (const [p, prompt] of PROMPTS.entries()) {
    for (const seed of SEEDS) {
      console.error(`prompt ${p + 1} of ${PROMPTS.length}, seed ${seed} of ${SEEDS.length}`);
      const text = [...encodeText(tokenizer, prompt)], start = text.length;
      target.truncate(0);
      for await (const { tokens } of autoregress(target, text.slice(), { seed, maxTokens: TEXT_TOKENS })) {
        text.push(...tokens);
      }
      for (const [i, { steps, window, cache: contextCache, dtype }] of settings.entries()) {
        const draftContext = window === "all" ? undefined : window;
        using drafter = new DiffusionDrafter(models.get(dtype)!, backend, {
          steps,
          draftContext,
          contextCache,
        });
        found[i].accepted.push(await walk(target, drafter, Int32Array.from(text), start, seed, found[i].ms));
      }
    }
  }
  const summaries = settings.map((setting, i) => ({
    setting,
    ms: found[i].ms.sort((a, b) => a - b),
    accepted: found[i].accepted,
  }));
  return {
    date: new Date().toISOString().slice(0, 10),
    sources: kernelSources,
    weights: drafterWeights(),
    machine: toldClosely(describeMachine(backend.description), generation),
    gamma: GAMMA,
    texts: found[0].accepted.length,
    conditioning: conditioningOf(models.get("int8")!),
    rows: summaries.map(({ setting, ms, accepted }): Row => {
      const base = summaries.find(({ setting: { steps, window, cache, dtype } }) =>
        steps === setting.steps && window === "all" && cache === "none" && dtype === "f32"
      )!;
      const lost = accepted.map((value, text) => (base.accepted[text] - value) / mean(base.accepted));
      const spread = Math.sqrt(mean(lost.map((x) => (x - mean(lost)) ** 2)) / (lost.length - 1));
      return {
        ...setting,
        drafts: ms.length,
        ms: quantile(ms, 0.5),
        msQuartiles: [quantile(ms, 0.25), quantile(ms, 0.75)],
        accepted: mean(accepted),
        timeWon: 1 - quantile(ms, 0.5) / quantile(base.ms, 0.5),
        acceptanceLost: mean(lost),
        acceptanceLostError: spread,
      };
    }),
  };
}

/** What a pass takes with what σ decides kept from pass to pass, and with a σ that no pass had before; in turns. */
function conditioningOf(model: DiffusionModel): Report["conditioning"] {
  const { vocabSize } = model.shape, window = Math.min(...WINDOWS.filter((w) => w !== "all"));
  const tokens = Int32Array.from({ length: window + GAMMA }, (_, i) => i < window ? i : vocabSize);
  const head = Array.from({ length: GAMMA }, (_, j) => window + j);
  using cache = model.newCache(tokens.length);
  const sigma = logLinearSigma(1), kept: number[] = [], anew: number[] = [];
  const time = (sigma: number, times: number[]) => {
    const began = performance.now();
    model.denoise(tokens, cache, sigma, { cleanRows: window, head }).logits.read();
    times.push(performance.now() - began);
  };
  for (let i = 1; i <= PASSES; i++) {
    time(sigma, kept);
    time(sigma * (1 + i * Number.EPSILON), anew);
    // the first of all made what it keeps, and warmed up
    if (i === 1) kept.length = anew.length = 0;
  }
  return { kept: spreadOf(kept), anew: spreadOf(anew), ratio: perTurn(anew, kept) };
}

/** Drafts along a text, and adds what each draft took to `times`. @returns expected accepted tokens per draft */
async function walk(
  target: ModelTarget,
  drafter: DiffusionDrafter,
  text: Int32Array,
  start: number,
  seed: number,
  times: number[],
): Promise<number> {
  const random = new PhiloxSource(seed), sum: number[] = [];
  for (let length = start; length + GAMMA <= text.length; length += STRIDE) {
    const request = { tokens: text.subarray(0, length), gamma: GAMMA, sampling: {}, random, coupled: false };
    const began = performance.now();
    const draft = drafter.draft(request);
    if (length > start) times.push(performance.now() - began); // the first warms up
    const p = await target.score(Int32Array.of(...request.tokens, ...draft.tokens), GAMMA + 1, {});
    let reached = 1, expected = 0;
    for (const [j, token] of draft.tokens.entries()) {
      reached *= Math.min(1, p.row(j)[token] / draft.q!.row(j)[token]);
      expected += reached;
    }
    sum.push(expected);
  }
  return mean(sum);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function markdown(
  { date, machine, gamma, texts, conditioning: { ratio }, rows }: Report,
): string {
  const won = ({ ms, msQuartiles: [low, high], timeWon }: Row) => {
    const base = ms / (1 - timeWon);
    return told(
      { value: 100 * timeWon, quartiles: [100 * (1 - high / base), 100 * (1 - low / base)] },
      "%",
      0,
    );
  };
  return [
    "# Context of the bidirectional drafter: acceptance lost against time won",
    "",
    `${where(date, machine)}.`,
    "Made by `deno task bench:drafter`.",
    "",
    `The embedded drafter \`sedd\`, γ = ${gamma}, left to right, with ${
      rows[0].drafts
    } drafts per row at the same places of`,
    `${texts} texts of ${TEXT_TOKENS} tokens. Accepted: expected tokens per draft. Time won and acceptance lost are`,
    "relative to the whole text in f32 without a cache, with one standard error between texts. The cache",
    "(`--context-cache`) changes only acceptance, never the distribution of the text.",
    "",
    "σ is the same in all passes, so the time conditioning is computed only once in every row. This does not affect",
    `acceptance. A pass over ${
      Math.min(...WINDOWS.filter((w) => w !== "all"))
    } tokens of text and ${gamma} masked ones in int8 takes ${told(ratio)} the time if the`,
    "conditioning is computed again, which is done on the host.",
    "",
    "![Acceptance lost against time won](drafter.svg)",
    "",
    "Larger points: the drafter sees more of the text. Bars: one standard error between texts.",
    "",
    ...markdownTable([
      ["T", "dtype", "context cache", "window", "time won", "accepted", "acceptance lost"],
      ...rows.map((row) => [
        row.steps,
        row.dtype,
        String(row.cache),
        row.window,
        won(row),
        row.accepted.toFixed(2),
        `${(100 * row.acceptanceLost).toFixed(1)} ± ${(100 * row.acceptanceLostError).toFixed(1)} %`,
      ]),
    ]),
    "",
  ].join("\n");
}

function chart({ rows }: Report): string {
  return svg(
    "sedd: from 8 tokens of the text to all, by context cache",
    CACHES.map(([steps, caches]): Paths => ({
      title: `T = ${steps}`,
      xLabel: "time won, %",
      yLabel: "acceptance lost, %",
      paths: DTYPES.flatMap((dtype) =>
        caches.map((cache) => ({
          name: `${dtype}, ${cache}`,
          points: rows.filter((row) => row.steps === steps && row.dtype === dtype && row.cache === cache)
            .map(({ timeWon, acceptanceLost, acceptanceLostError }) =>
              [100 * timeWon, 100 * acceptanceLost, 100 * acceptanceLostError] as const
            ),
        }))
      ),
      marks: WINDOWS.map(String),
    })),
  );
}

const report = await run();
const folder = new URL("./reports/", import.meta.url);
await Deno.writeTextFile(new URL("drafter.json", folder), `${JSON.stringify(report, null, 2)}\n`);
await Deno.writeTextFile(new URL("drafter.md", folder), markdown(report));
await Deno.writeTextFile(new URL("drafter.svg", folder), chart(report));
await refreshReadme();
console.log(markdown(report));
