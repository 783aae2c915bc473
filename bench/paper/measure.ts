/**
 * Runs a target with several methods on the same prompts and seeds, each immediately after plain decoding, and
 * summarises their speed, acceptance under both definitions, and the probability of their texts under the target.
 *
 * @module
 */

import type { Statistics } from "../../src/decode/metrics.ts";
import type { Engine, GenerateOptions } from "../../src/engine.ts";
import { perTurn, spreadOf } from "../spread.ts";

/** The first seed; fixed, so that measurements can be repeated. */
const SEED = 1;

/** Tokens of the warm-up run of each method. */
const WARM_UP_TOKENS = 8;

/** A way to decode. */
export interface Method {
  /** Its name in the report. */
  readonly title: string;
  /** The drafter, γ, T, order and rule; all other options are the same for all methods. */
  readonly options: Pick<GenerateOptions, "drafter" | "gamma" | "steps" | "order" | "rule">;
}

/** The texts to decode. */
export interface Workload {
  /** Prompts as tokens. */
  readonly prompts: readonly (readonly number[])[];
  /** Tokens per run; fewer only at the end of the context. */
  readonly maxTokens: number;
  /** Runs of each method on each prompt. */
  readonly repetitions: number;
}

/** The measurement of a method. */
export interface Measurement extends Method {
  /** The drafter's own name; `none` in plain decoding. */
  readonly drafterName: string;
  /** The acceptance rule; `none` in plain decoding. */
  readonly rule: Statistics["rule"];
  /** Whether the text has the target's distribution. */
  readonly exactness: Statistics["exactness"];
  /** Runs, one per prompt and repetition. */
  readonly runs: number;
  /** Median over the runs; the prompt is not timed. */
  readonly tokensPerSecond: number;
  /** First and third quartile. */
  readonly tokensPerSecondQuartiles: readonly [number, number];
  /**
   * Relative to plain decoding of the same prompt and seed, run immediately before: the median of the turns. In reports
   * without quartiles it is a ratio of medians.
   */
  readonly speedup: number;
  readonly speedupQuartiles?: readonly [number, number] | undefined;
  /** Milliseconds from the prompt to the end of the first round: median and quartiles; absent: not recorded. */
  readonly firstMs?: number;
  readonly firstMsQuartiles?: readonly [number, number] | undefined;
  /** The mean γ, where a plain step counts as 0. */
  readonly meanGamma: number;
  /** Accepted over drafted tokens: α as in the paper's text, "the ratio of accepted tokens". */
  readonly alphaDrafted: number;
  /**
   * Accepted over tested tokens, not counting those after a rejection: α as in Leviathan et al. 2023, the probability
   * that a token is accepted given that all tokens left of it were.
   */
  readonly alphaTested: number;
  /** Accepted tokens per draft, as in the paper's Table 2. */
  readonly acceptedPerDraft: number;
  /** τ, tokens per pass of the target, including the corrected or bonus one. */
  readonly meanAcceptanceLength: number;
  /** Nats per generated token under the target, all texts together; its exp is the perplexity. */
  readonly nats: number;
  /** Standard error of `nats` between texts; null for a single text. */
  readonly natsError: number | null;
}

/** One run of a method. */
interface Run {
  readonly stats: Statistics;
  /** Tokens per second of the preceding plain decoding; for plain decoding, its own. */
  readonly plainSpeed: number;
  /** Corrected tokens, which is the number of rejections. */
  readonly rejected: number;
  /** Nats per generated token. */
  readonly nats: number;
}

/**
 * Measures methods, the first of which is plain decoding.
 * @param progress called with the current activity
 */
export async function measureMethods(
  engine: Engine,
  methods: readonly Method[],
  { prompts, maxTokens, repetitions }: Workload,
  progress: (text: string) => void,
): Promise<Measurement[]> {
  for (const { options } of methods) {
    await engine.generate(prompts[0], { ...options, seed: SEED, maxTokens: WARM_UP_TOKENS, stopTokens: [] });
  }
  const runs: Run[][] = methods.map(() => []);
  const total = repetitions * prompts.length;
  for (let turn = 0; turn < total; turn++) {
    const prompt = prompts[turn % prompts.length], seed = SEED + Math.floor(turn / prompts.length);
    for (const [i, { title, options }] of methods.entries()) {
      progress(`turn ${turn + 1} of ${total}: ${title}`);
      // no stop tokens: a text that stops early would be timed on fewer tokens than the others
      const common = { seed, maxTokens, stopTokens: [] };
      const before = i === 0
        ? undefined
        : await engine.generate(prompt, { ...methods[0].options, ...common });
      runs[i].push(await runOnce(engine, prompt, { ...options, ...common }, before?.stats.tokensPerSecond));
    }
  }
  return methods.map((method, i) => toMeasurement(method, runs[i]));
}

async function runOnce(
  engine: Engine,
  prompt: readonly number[],
  options: GenerateOptions,
  plainSpeed: number | undefined,
): Promise<Run> {
  const tokens = [...prompt];
  let stats: Statistics | undefined, rejected = 0;
  for await (const chunk of engine.stream(prompt, options)) {
    for (const { token, origin } of chunk.pieces) {
      tokens.push(token);
      if (origin === "corrected") rejected++;
    }
    stats = chunk.stats;
  }
  if (stats === undefined) throw new Error("Cannot measure: nothing was generated");
  const { logprobs } = await engine.score(tokens);
  const generated = logprobs.slice(prompt.length) as number[]; // the prompt has a token at least
  return {
    stats,
    plainSpeed: plainSpeed ?? stats.tokensPerSecond,
    rejected,
    nats: -generated.reduce((sum, logprob) => sum + logprob, 0) / generated.length,
  };
}

function toMeasurement(method: Method, runs: readonly Run[]): Measurement {
  const speeds = runs.map(({ stats }) => stats.tokensPerSecond), speed = spreadOf(speeds);
  const speedup = perTurn(speeds, runs.map(({ plainSpeed }) => plainSpeed));
  const first = spreadOf(runs.map(({ stats }) => stats.timeToFirstTokenMs));
  const sum = (of: (run: Run) => number) => runs.reduce((total, run) => total + of(run), 0);
  const tokens = sum(({ stats }) => stats.tokens), rounds = sum(({ stats }) => stats.rounds);
  const drafted = sum(({ stats }) => stats.draftTokens), accepted = sum(({ stats }) => stats.acceptedTokens);
  const drafts = rounds - sum(({ stats }) => stats.plainRounds), rejected = sum((run) => run.rejected);
  const nats = sum((run) => run.nats * run.stats.tokens) / tokens;
  const squares = sum((run) => (run.nats - nats) ** 2);
  const { drafter, rule, exactness } = runs[0].stats;
  return {
    ...method,
    drafterName: drafter,
    rule,
    exactness,
    runs: runs.length,
    tokensPerSecond: speed.value,
    tokensPerSecondQuartiles: speed.quartiles!,
    speedup: speedup.value,
    speedupQuartiles: speedup.quartiles,
    firstMs: first.value,
    firstMsQuartiles: first.quartiles,
    meanGamma: drafted / rounds,
    alphaDrafted: share(accepted, drafted),
    alphaTested: share(accepted, accepted + rejected),
    acceptedPerDraft: share(accepted, drafts),
    meanAcceptanceLength: tokens / rounds,
    nats,
    natsError: runs.length > 1 ? Math.sqrt(squares / (runs.length - 1) / runs.length) : null,
  };
}

function share(count: number, of: number): number {
  return of > 0 ? count / of : 0;
}
