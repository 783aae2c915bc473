/**
 * The measurement of `compare`: plain decoding and each drafter, on the same prompts with the same seeds, in one run.
 * They take turns, so that other load of the machine affects all of them equally. Deliberately absent: output.
 *
 * @module
 */

import type { Dtype } from "../backend/backend.ts";
import type { Rule } from "../decode/acceptance.ts";
import type { Statistics } from "../decode/metrics.ts";
import type { Engine, GenerateOptions, Generation } from "../engine.ts";
import { describeMachine, type Machine } from "./machine.ts";

/** Tokens of the warm-up run of each method. */
const WARM_UP_TOKENS = 128;

/** The default first seed; fixed, so that comparisons can be repeated. */
const SEED = 1n;

/** Settings of a comparison. */
export interface CompareSettings {
  /** Texts to continue. */
  readonly prompts: readonly string[];
  /**
   * Runs of each method on each prompt. Each run has its own seed, shared by all methods: from `seed` on, prompt by
   * prompt, then run by run.
   */
  readonly repetitions: number;
  /** Tokens per run; fewer only at the end of the context. */
  readonly maxTokens: number;
  /**
   * Options of generating. Each drafter gets those that it uses. Without γ, each uses its default; `auto` measures
   * costs in the warm-up.
   */
  readonly options: GenerateOptions;
  /** Several γ instead of the one in `options`: each makes a method of each drafter. */
  readonly gammas?: readonly (number | "auto")[] | undefined;
}

/** The measurement of one method. */
export interface Row {
  /** `plain`, `autoregressive`, `diffusion sedd-causal`, … */
  readonly method: string;
  /** The drafter as it was named; null for plain decoding. */
  readonly drafter: string | null;
  /**
   * γ as given, or the longest draft if each drafter used its default; 0 for plain decoding; `auto` if it was chosen
   * for each round.
   */
  readonly gamma: number | "auto";
  /** The mean γ, where a plain step counts as 0. */
  readonly meanGamma: number;
  /** The share of rounds without a draft. */
  readonly plainShare: number;
  /** The acceptance rule. */
  readonly rule: Rule | "none";
  /** Whether the text has the target's distribution. */
  readonly exactness: Statistics["exactness"];
  /** Runs, one per prompt and repetition. */
  readonly runs: number;
  /** Median over the runs. */
  readonly tokensPerSecond: number;
  /** First and third quartile. */
  readonly tokensPerSecondQuartiles: readonly [number, number];
  /** Speed relative to plain decoding of the same prompt and seed: median of the runs. */
  readonly speedup: number;
  /** First and third quartile. */
  readonly speedupQuartiles: readonly [number, number];
  /** τ, tokens per round, over all runs. */
  readonly meanAcceptanceLength: number;
  /** Accepted of drafted tokens, over all runs. */
  readonly draftAcceptanceRate: number;
  /** [longest draft] the same for each position of a draft. */
  readonly acceptanceRatePerPosition: readonly number[];
  /** Milliseconds per round in the drafter, in the target and the test of the draft, and elsewhere. */
  readonly msPerRound: { readonly draft: number; readonly verify: number; readonly other: number };
  /**
   * Whether the text under `coupled` equalled plain decoding, token for token, on every prompt; null for plain decoding
   * itself.
   */
  readonly equalsPlainUnderCoupled: boolean | null;
}

/** What `compare --json` prints. */
export interface Comparison {
  /** The machine. */
  readonly machine: Machine;
  /** The settings. */
  readonly settings: {
    /** The prompts. */
    readonly prompts: readonly string[];
    /** Runs of each method on each prompt. */
    readonly repetitions: number;
    /** Tokens per run. */
    readonly maxTokens: number;
    /** The first seed, in decimal. */
    readonly seed: string;
    /** The precision of the target's weights. */
    readonly dtype: Dtype;
    /** The other given options; the rest were defaults. */
    readonly options: Omit<GenerateOptions, "seed" | "maxTokens">;
  };
  /** The methods, plain decoding first. */
  readonly rows: readonly Row[];
}

/** A method to compare. */
interface Method {
  readonly drafter: string | null;
  readonly options: GenerateOptions;
  readonly runs: Statistics[];
  /** Whether `coupled` equals plain decoding, checked after the measurement. */
  equalsPlain: boolean | null;
}

/**
 * Measures plain decoding and all of the engine's drafters.
 * @param progress called with the current activity
 */
export async function measure(
  engine: Engine,
  { prompts, repetitions, maxTokens, options, gammas }: CompareSettings,
  progress: (text: string) => void,
): Promise<Comparison> {
  const { seed: first = SEED, maxTokens: _, ...others } = options;
  const seed = BigInt(first);
  const method = (drafter: string | null, gamma = options.gamma): Method => ({
    drafter,
    // no stop tokens: a text that stops early would be timed on fewer tokens than the others
    options: usable(engine, { ...options, drafter, gamma, maxTokens, stopTokens: [] }),
    runs: [],
    equalsPlain: null,
  });
  const drafting = engine.drafters.flatMap((drafter) =>
    gammas?.map((gamma) => method(drafter, gamma)) ?? [method(drafter)]
  );
  const methods = [method(null), ...drafting];
  const texts = prompts.length * repetitions; // of each method
  // one for each text: if γ is chosen, acceptance in one text affects drafting in the next
  const seedOf = (text: number) => seed + BigInt(text);
  progress("warming up");
  for (const method of methods) {
    await engine.generate(prompts[0], { ...method.options, seed: seedOf(texts), maxTokens: WARM_UP_TOKENS });
  }

  const plainTexts: Generation[] = []; // of the first repetition, one per prompt
  for (let r = 0; r < repetitions; r++) {
    for (const [i, prompt] of prompts.entries()) {
      for (const method of methods) {
        const done = methods.reduce((sum, { runs }) => sum + runs.length, 0);
        progress(`run ${done + 1} of ${methods.length * texts}: ${method.drafter ?? "plain"}`);
        const seed = seedOf(r * prompts.length + i);
        const generation = await engine.generate(prompt, { ...method.options, seed });
        method.runs.push(generation.stats);
        if (r === 0 && method.drafter === null) plainTexts.push(generation);
      }
    }
  }

  for (const method of methods) {
    if (method.drafter === null) continue;
    progress(`comparing texts under coupled: ${method.drafter}`);
    method.equalsPlain = true;
    for (const [i, prompt] of prompts.entries()) {
      const coupled = { ...method.options, seed: seedOf(i), rule: "coupled" } as const;
      const { tokens } = await engine.generate(prompt, coupled);
      const expected = plainTexts[i].tokens;
      method.equalsPlain &&= tokens.length === expected.length &&
        tokens.every((token, j) => token === expected[j]);
    }
  }

  const labels = methodLabels(methods);
  const { device, draftDevice, dtype } = engine;
  return {
    machine: describeMachine(device === draftDevice ? device : `${device}, drafts on ${draftDevice}`),
    settings: { prompts, repetitions, maxTokens, seed: String(seed), dtype, options: given(others) },
    rows: methods.map((method, i) => toRow(labels[i], method, methods[0].runs)),
  };
}

/** Options without undefined ones. */
function given<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

/** Options without those that the chosen drafter does not use. */
export function usable(engine: Pick<Engine, "unused">, options: GenerateOptions): GenerateOptions {
  const unused = engine.unused(options);
  return Object.fromEntries(
    Object.entries(options).filter(([name]) => !unused.some((other) => other === name)),
  );
}

/** The kind of drafting, with the drafter's name where the kind is ambiguous. */
function methodLabels(methods: readonly Method[]): string[] {
  const kinds = methods.map(({ drafter, runs }) =>
    drafter === null ? "plain" : runs[0].drafter.split(" ")[0]
  );
  return methods.map(({ drafter }, i) =>
    drafter !== null && (kinds[i] === "diffusion" || kinds.indexOf(kinds[i]) !== kinds.lastIndexOf(kinds[i]))
      ? `${kinds[i]} ${drafter}`
      : kinds[i]
  );
}

function toRow(
  method: string,
  { drafter, options, runs, equalsPlain }: Method,
  plain: readonly Statistics[],
): Row {
  const [tokensPerSecond, tokensPerSecondQuartiles] = middle(runs.map((run) => run.tokensPerSecond));
  const [speedup, speedupQuartiles] = middle(
    runs.map((run, i) => run.tokensPerSecond / plain[i].tokensPerSecond),
  );
  const sum = (of: (run: Statistics) => number) => runs.reduce((total, run) => total + of(run), 0);
  const longest = Math.max(...runs.map((run) => run.draftedPerPosition.length));
  const drafted = sum((run) => run.draftTokens), rounds = sum((run) => run.rounds);
  return {
    method,
    drafter,
    gamma: drafter === null ? 0 : options.gamma ?? longest,
    meanGamma: drafted / rounds,
    plainShare: sum((run) => run.plainRounds) / rounds,
    rule: runs[0].rule,
    exactness: runs[0].exactness,
    runs: runs.length,
    ...{ tokensPerSecond, tokensPerSecondQuartiles, speedup, speedupQuartiles },
    meanAcceptanceLength: sum((run) => run.tokens) / rounds,
    draftAcceptanceRate: drafted === 0 ? 0 : sum((run) => run.acceptedTokens) / drafted,
    acceptanceRatePerPosition: Array.from(
      { length: longest },
      (_, j) => sum((run) => run.acceptedPerPosition[j] ?? 0) / sum((run) => run.draftedPerPosition[j] ?? 0),
    ),
    msPerRound: {
      draft: sum((run) => run.draftMs) / rounds,
      verify: sum((run) => run.verifyMs) / rounds,
      other: sum((run) => run.otherMs) / rounds,
    },
    equalsPlainUnderCoupled: equalsPlain,
  };
}

/** The median, and the first and third quartile. */
function middle(values: readonly number[]): [median: number, quartiles: [number, number]] {
  const sorted = values.toSorted((a, b) => a - b);
  return [quantile(sorted, 0.5), [quantile(sorted, 0.25), quantile(sorted, 0.75)]];
}

/** A quantile of ascending values, interpolated between neighbours. */
export function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1), low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}
