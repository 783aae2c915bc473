/**
 * Whole models of the published shapes: the cost of passes by the device's clock, of texts by wall-clock time, and the
 * host's share of a round.
 *
 * @module
 */

import { DEFAULT_RULE } from "../../src/decode/acceptance.ts";
import { autoregress } from "../../src/decode/autoregressive.ts";
import { DiffusionDrafter } from "../../src/decode/diffusion_drafter.ts";
import type { Round } from "../../src/decode/loop.ts";
import { ModelTarget } from "../../src/decode/model_target.ts";
import { speculate } from "../../src/decode/speculative.ts";
import type { CausalModel } from "../../src/model/model.ts";
import type { SeddModel } from "../../src/model/sedd.ts";
import { logLinearSigma } from "../../src/model/sedd_score.ts";
import type { Report } from "./report.ts";
import { madeUpText, type Shapes } from "../../tools/shapes.ts";
import { acceptanceFor, SyntheticVerdicts } from "../synthetic.ts";
import { median, passTime, type WatchedBackend } from "./watched.ts";

/** τ of the figure that is aimed at. */
const TAU = 6;

/**
 * Passes of a target over 1 … rows after so many positions, ms by number of rows. The last position that the longest
 * sees is the same for all, so that they read as much. One row, by which others are judged, comes last: were the device
 * still getting faster, they would seem the dearer for it.
 */
export function targetPasses(
  backend: WatchedBackend,
  model: CausalModel,
  { context, verifyRows }: Shapes,
): Map<number, number> {
  using cache = model.newCache(context + verifyRows);
  const { vocabSize } = model.shape;
  model.forward(madeUpText(context + verifyRows - 1, vocabSize), cache);
  const counts = [verifyRows, ...[40, 32, 24, 17, 16, 9, 8, 4, 2, 1].filter((rows) => rows < verifyRows)];
  const times = counts.map((rows): [number, number] => {
    const tokens = madeUpText(rows, vocabSize), from = context + verifyRows - rows;
    return [
      rows,
      passTime(backend, () => {
        cache.truncate(from);
        model.forward(tokens, cache, { headRows: rows });
      }),
    ];
  });
  return new Map(times.reverse());
}

/** A draft step: rows of text that are new, then masks, after `cached` positions; logits of the masks. ms. */
export function draftPass(
  backend: WatchedBackend,
  model: SeddModel,
  { cached, fresh, masks }: { readonly cached: number; readonly fresh: number; readonly masks: number },
): number {
  const { vocabSize } = model.shape, sigma = logLinearSigma(1);
  using cache = model.newCache(cached + fresh + masks);
  const pass = (clean: number, masked: number, head: number[]) => {
    const tokens = [...madeUpText(clean, vocabSize), ...new Array<number>(masked).fill(vocabSize)];
    model.denoise(tokens, cache, sigma, { cleanRows: clean, head });
  };
  if (cached > 0) pass(cached, 1, [cached]);
  const head = Array.from({ length: masks }, (_, j) => fresh + j);
  return passTime(backend, () => {
    cache.truncate(cached);
    pass(fresh, masks, head);
  });
}

/** A text by plain decoding: tokens per second, the prompt not counted. */
export async function plainSpeed(
  backend: WatchedBackend,
  model: CausalModel,
  { prompt, text: maxTokens }: Shapes,
): Promise<number> {
  using target = new ModelTarget(model, backend);
  const speeds: number[] = [];
  for (let seed = 0; seed < 4; seed++) { // the first to warm up
    target.truncate(0);
    const options = { seed, maxTokens };
    const { tokens, ms } = await total(
      autoregress(target, madeUpText(prompt, model.shape.vocabSize), options),
    );
    if (seed > 0) speeds.push(1000 * tokens / ms);
  }
  return median(speeds);
}

/** All rounds of a text. */
async function total(rounds: AsyncIterable<Round>, watched?: WatchedBackend): Promise<Total> {
  const sum = { tokens: 0, ms: 0, rounds: 0, laterMs: 0, device: 0 };
  for await (const round of rounds) {
    const device = watched?.take() ?? 0;
    if (sum.rounds > 0) { // the first comes with the prompt
      sum.device += device;
      sum.laterMs += round.totalMs;
    }
    sum.tokens += round.tokens.length;
    sum.ms += round.totalMs;
    sum.rounds++;
  }
  return sum;
}

/** What {@linkcode total} adds up. */
interface Total {
  readonly tokens: number;
  readonly ms: number;
  readonly rounds: number;
  /** Milliseconds of the rounds but the first. */
  readonly laterMs: number;
  /** Of these, what was watched. */
  readonly device: number;
}

/** Speculation with synthetic acceptance, and what of a round is the host's. */
export async function rounds(
  backend: WatchedBackend,
  target: CausalModel,
  drafter: SeddModel,
  shapes: Shapes,
  plain: number,
  report: Report,
): Promise<void> {
  const { vocabSize } = target.shape, { prompt, text: maxTokens } = shapes;
  const table = {
    title:
      `Speculation with synthetic acceptance at τ = ${TAU}, T = 1, cached prefix, against plain decoding at ` +
      `${
        plain.toFixed(0)
      } tok/s over the same positions, which waits for the host after each token; the device's clock ` +
      `is read in passes that find nothing in its cache, and what is beside them is the less for it`,
    columns: [
      "rule",
      "γ",
      "τ",
      "tok/s",
      "× plain",
      "round, ms",
      "its passes by the device's clock, ms",
      "overhead over the passes, %",
      "graphs recorded while timed",
    ],
    rows: [] as (string | number)[][],
  };
  report.tables.push(table);
  let best = 0;
  for (const gamma of [Math.ceil(shapes.verifyRows / 3) - 1, shapes.verifyRows - 1]) {
    for (const rule of [DEFAULT_RULE, "coupled"] as const) {
      using scored = new ModelTarget(target, backend), drafting = new DiffusionDrafter(drafter, backend);
      const run = async () => { // the same rounds each time
        scored.truncate(0);
        drafting.reset();
        const synthetic = new SyntheticVerdicts(scored, acceptanceFor(Math.min(TAU, gamma), gamma), 1);
        const options = { maxTokens, gamma, rule, seed: 1 };
        return await total(speculate(synthetic, drafting, madeUpText(prompt, vocabSize), options), backend);
      };
      // a pass is recorded when it comes for the second time
      for (let warm = 0; warm < 3; warm++) await run();
      const { recorded } = backend.graphs, runs: Total[] = [];
      for (let timed = 0; timed < 3; timed++) runs.push(await run());
      const { tokens, ms, rounds, laterMs } = runs.sort((a, b) => a.ms - b.ms)[1];
      const late = backend.graphs.recorded - recorded, watched: number[] = [];
      backend.watching = true;
      for (let timed = 0; timed < 3; timed++) watched.push((await run()).device);
      backend.watching = false;
      const device = median(watched);
      const speed = 1000 * tokens / ms, host = laterMs / device - 1;
      table.rows.push([
        rule,
        gamma,
        (tokens / rounds).toFixed(2),
        speed.toFixed(0),
        (speed / plain).toFixed(2),
        (laterMs / (rounds - 1)).toFixed(3),
        (device / (rounds - 1)).toFixed(3),
        (100 * host).toFixed(1),
        late,
      ]);
      if (speed / plain > best) {
        best = speed / plain;
        report.figures.speculation.value = best;
      }
      report.figures.host.value = Math.max(report.figures.host.value ?? -Infinity, host);
    }
  }
}
