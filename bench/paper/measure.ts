/**
 * Runs a target with several methods on the same prompts with the same seeds, each just after plain decoding, and adds
 * up what each was worth: speed, acceptance under both of its definitions, and how probable its texts are under the target.
 *
 * @module
 */

import type { Statistics } from "../../src/decode/metrics.ts";
import type { Engine, GenerateOptions } from "../../src/engine.ts";
import { perTurn, spreadOf } from "../spread.ts";

/** The first seed: what is measured can be repeated. */
const SEED = 1;

/** Tokens of the run that warms each method up. */
const WARM_UP_TOKENS = 8;

/** A way to decode. */
export interface Method {
  /** What it is, for people. */
  readonly title: string;
  /** Which drafter of the engine, γ, T, order and rule; everything else is alike for all. */
  readonly options: Pick<GenerateOptions, "drafter" | "gamma" | "steps" | "order" | "rule">;
}

/** What is decoded. */
export interface Workload {
  /** Prompts as tokens. */
  readonly prompts: readonly (readonly number[])[];
  /** Tokens per run, fewer only where the context ends. */
  readonly maxTokens: number;
  /** Runs of each method on each prompt. */
  readonly repetitions: number;
}

/** A method, measured. */
export interface Measurement extends Method {
  /** What drafted, as it describes itself; `none` in plain decoding. */
  readonly drafterName: string;
  /** The rule that was in force; `none` in plain decoding. */
  readonly rule: Statistics["rule"];
  /** Whether the text has the target's law. */
  readonly exactness: Statistics["exactness"];
  /** Runs, one per prompt and repetition. */
  readonly runs: number;
  /** Median over the runs; the prompt is not timed. */
  readonly tokensPerSecond: number;
  /** First and third quartile. */
  readonly tokensPerSecondQuartiles: readonly [number, number];
  /**
   * Over plain decoding of the same prompt with the same seed just before: the median of the turns. In reports without
   * quartiles it is a ratio of medians.
   */
  readonly speedup: number;
  readonly speedupQuartiles?: readonly [number, number] | undefined;
  /** Milliseconds from the prompt to the end of the first round: median and quartiles; absent: not recorded. */
  readonly firstMs?: number;
  readonly firstMsQuartiles?: readonly [number, number] | undefined;
  /** γ on average, a plain step counted as 0. */
  readonly meanGamma: number;
  /** Accepted over drafted tokens: α as the paper's text has it, "the ratio of accepted tokens". */
  readonly alphaDrafted: number;
  /**
   * Accepted over tested tokens, those behind a rejection not counted: α as Leviathan et al. 2023 have it, the
   * chance of a token whose left neighbours were accepted.
   */
  readonly alphaTested: number;
  /** Accepted tokens per draft: what the paper's Table 2 shows. */
  readonly acceptedPerDraft: number;
  /** τ, tokens per pass of the target, the corrected or bonus one included. */
  readonly meanAcceptanceLength: number;
  /** Nats per generated token under the target, all texts together; its exp is the perplexity. */
  readonly nats: number;
  /** Standard error of `nats` by the spread between texts; null of a single text. */
  readonly natsError: number | null;
}

/** One run of a method. */
interface Run {
  readonly stats: Statistics;
  /** Tokens per second of plain decoding just before; its own, if it is that. */
  readonly plainSpeed: number;
  /** Drafted tokens that the target corrected: as many rejections. */
  readonly rejected: number;
  /** Nats per generated token. */
  readonly nats: number;
}

/**
 * Measures methods, the first of which is plain decoding.
 * @param progress told how far it is
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
      // a text that stops early would be timed on fewer tokens than the others
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
