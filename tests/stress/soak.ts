/**
 * Random options, round after round, on the embedded pair: nothing may fail that should not, nothing may pass that
 * should, and every text must have the target's law. By hand for long (`deno task soak --minutes 10`), by
 * `stress_test.ts` for a few rounds.
 *
 * How a law is tested without drawing one text many times: where x was drawn from p, the share of p before x plus
 * a uniform part of p(x) is uniform in (0, 1), whatever p is and whatever came before. So the tokens of all texts,
 * with all their laws, make one sample, whose χ² any bias raises: once with the tokens in the order of their ids
 * and once in that of their probability, since a bias towards likely tokens is the one to be expected.
 *
 * @module
 */

import assert from "node:assert/strict";
import { readOptions } from "../../tools/arguments.ts";
import { type GenerateOptions, loadEngine } from "../../mod.ts";
import { createBackend, type Device } from "../../src/backend/create.ts";
import { usable } from "../../src/cli/measure.ts";
import { DEFAULT_RULE, isExact, rules } from "../../src/decode/acceptance.ts";
import { type Law, massOf } from "../../src/decode/distributions.ts";
import { ModelTarget } from "../../src/decode/model_target.ts";
import { openCheckpoint } from "../../src/hub/checkpoint.ts";
import { encodeText } from "../../src/hub/tokenizer.ts";
import { loadModel } from "../../src/model/load.ts";
import { embeddedDrafters, embeddedTarget } from "../../src/pair.ts";
import { Choices } from "./choices.ts";

const DRAFTERS = [...embeddedDrafters, "ngram"];
/** Milliseconds of a round by γ, in the ratios of some machine: drafts pay a little, much, or not at all. */
const COSTS = [[10, 12, 13, 14, 16], [10, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7, 10.8], [10, 30, 50]];
const BINS = 10;
/** What χ² of nine degrees exceeds once in a million. */
const CRITICAL = 46;

/** Where the tokens of texts of one kind fell in their laws. */
interface Sample {
  readonly byId: number[];
  readonly byProbability: number[];
}

/** What a soak found. */
export interface SoakReport {
  /** Rounds made. */
  readonly rounds: number;
  /** Of these, options that were refused, as they had to be. */
  readonly refused: number;
  /** Tokens whose laws were tested. */
  readonly tokens: number;
  /** χ² of nine degrees, the larger of the two, for each rule and drafter, and for all that is exact. */
  readonly chi: ReadonlyMap<string, number>;
  /** Those of an exact rule or a drafter whose χ² is too large to be chance. */
  readonly biased: readonly string[];
}

/**
 * Makes rounds until `enough` says so, on a device.
 * @throws {Error} naming the round's options if anything is not as it must be
 */
export async function soak(
  seed: number,
  enough: (rounds: number) => boolean,
  device: Device = "auto",
): Promise<SoakReport> {
  const choices = new Choices(seed);
  using engine = await loadEngine({ drafter: DRAFTERS, device });
  using backend = await createBackend(device, { threads: 1 });
  using checkpoint = await openCheckpoint(embeddedTarget());
  const judge = await loadModel(checkpoint, backend);
  assert.ok(judge.kind === "causal");
  using model = judge.model;
  using target = new ModelTarget(model, backend);
  const { contextLength, vocabSize } = model.shape;
  const words = encodeText(
    engine.tokenizer,
    "The captain came on deck, and the old house was dark and still.",
  );

  const samples = new Map<string, Sample>();
  let rounds = 0, refused = 0, tokens = 0;
  while (!enough(rounds)) {
    rounds++;
    const prompt = choosePrompt();
    const options = usable(engine, chooseOptions(choices));
    try {
      const generate = () => engine.generate(prompt, options);
      const { rule = DEFAULT_RULE, drafter, steps = 1, order = "left-to-right", hotStart = false } = options;
      const diffusion = drafter?.startsWith("sedd") ?? false;
      const leftToRight = !diffusion || (steps === 1 || order === "left-to-right") && !hotStart;
      const tooLong = prompt.length >= contextLength;
      const inexact = drafter !== null && rule !== "paper" && !isExact(rule, leftToRight);
      if (tooLong || inexact) {
        await assert.rejects(
          generate,
          inexact ? { name: "TypeError", message: /is exact only for/ } : /since the context is/,
        );
        refused++;
        continue;
      }
      const { tokens: found, text, stats } = await generate();
      const room = contextLength - prompt.length, { maxTokens = 128, stop = [] } = options;
      assert.ok(found.length >= 1 && found.length <= Math.min(maxTokens, room));
      assert.equal(stats.tokens, found.length);
      if (stats.finishReason === "length") assert.equal(found.length, maxTokens);
      if (stats.finishReason === "context") assert.equal(found.length, room);
      for (const end of stop) assert.ok(!text.includes(end));
      const { gamma, costs } = options;
      const most = drafter === null ? 0 : gamma === "auto" ? (costs?.length ?? Infinity) - 1 : gamma!;
      assert.ok(drafter === null || stats.meanGamma <= most, `γ is ${stats.meanGamma} on average`);
      if (rule === "coupled" || rule === "match" || options.temperature === 0) {
        const plain = await engine.generate(prompt, { ...options, drafter: null });
        assert.deepEqual(found, plain.tokens);
        assert.equal(text, plain.text);
      }
      const whole = Int32Array.of(...prompt, ...found);
      const laws = await target.score(whole.subarray(0, -1), found.length, options);
      const kinds = stats.exactness === "lossy"
        ? ["lossy"]
        : ["all that is exact", `rule ${stats.rule}`, `drafter ${drafter}`];
      // how long a text is may depend on the clock, and the rounds after it must not
      const places = new Choices(seed + rounds);
      for (const [j, token] of found.entries()) {
        const law = laws.row(j);
        assert.ok(law[token] > 0, `token ${j}, ${token}, has no probability`);
        const place = placeOf(law, token, places.uniform());
        for (const kind of kinds) add(kind, place);
      }
      tokens += found.length;
    } catch (error) {
      throw new Error(
        `Soak, seed ${seed}, round ${rounds}: prompt of ${prompt.length} tokens, ${
          JSON.stringify(options, (_, value) => typeof value === "bigint" ? String(value) : value)
        }: ${(error as Error).message}`,
        { cause: error },
      );
    }
  }
  const chi = new Map(
    [...samples].map(([kind, { byId, byProbability }]) =>
      [kind, Math.max(chiSquare(byId), chiSquare(byProbability))] as const
    ),
  );
  const biased = [...chi].filter(([kind, value]) => kind !== "lossy" && value > CRITICAL).map(([kind]) =>
    kind
  );
  return { rounds, refused, tokens, chi, biased };

  /** Tokens of a text, or any tokens; often short, at times as long as the context or longer. */
  function choosePrompt(): number[] {
    const length = choices.chance(0.1) ? contextLength - 8 + choices.below(10) : 1 + choices.below(24);
    const first = choices.below(words.length), random = choices.chance(0.3);
    return Array.from(
      { length },
      (_, i) => random ? choices.below(vocabSize) : words[(first + i) % words.length],
    );
  }

  function add(kind: string, { byId, byProbability }: { byId: number; byProbability: number }): void {
    let sample = samples.get(kind);
    if (sample === undefined) {
      sample = { byId: Array(BINS).fill(0), byProbability: Array(BINS).fill(0) };
      samples.set(kind, sample);
    }
    sample.byId[Math.min(BINS - 1, Math.floor(byId * BINS))]++;
    sample.byProbability[Math.min(BINS - 1, Math.floor(byProbability * BINS))]++;
  }
}

function chooseOptions(choices: Choices): GenerateOptions {
  const some = <T>(value: T): T | undefined => choices.chance(0.5) ? value : undefined;
  return {
    drafter: choices.one([null, ...DRAFTERS, ...DRAFTERS]),
    rule: choices.one(rules),
    ...chooseGamma(choices),
    steps: some(1 + choices.below(4)),
    order: some(choices.one(["left-to-right", "random", "confidence"] as const)),
    draftContext: some(1 + choices.below(40)),
    contextCache: some(choices.one(["none", "draft", "delayed", { recent: 1, refresh: 3 }] as const)),
    sigma: some(choices.one([0.3, 2, 6.9, "schedule"] as const)),
    hotStart: some(choices.chance(0.5)),
    temperature: some(choices.one([0, 0.05, 0.6, 1, 1.7])),
    topK: some(choices.one([0, 1, 2, 5, 40, 5000])),
    topP: some(choices.one([1e-6, 0.3, 0.9, 1])),
    seed: choices.below(2 ** 31),
    maxTokens: 1 + choices.below(20),
    stop: some([choices.one([".", "\n", " the", "ing", "e"])]),
    stopTokens: some([choices.below(2048), 14]),
  };
}

/** γ fixed, chosen by costs that are given, or, as that takes long, at times by the clock. */
function chooseGamma(choices: Choices): Pick<GenerateOptions, "gamma" | "costs"> {
  if (choices.chance(0.7)) return { gamma: 1 + choices.below(choices.chance(0.2) ? 24 : 6) };
  return { gamma: "auto", costs: choices.chance(0.9) ? choices.one(COSTS) : undefined };
}

/** Where in (0, 1) a token of a law falls, in either order. */
function placeOf(law: Law, token: number, u: number): { byId: number; byProbability: number } {
  const mass = massOf(law), own = law[token];
  let before = 0, likelier = 0;
  for (let v = 0; v < law.length; v++) {
    if (v < token) before += law[v];
    if (law[v] > own || law[v] === own && v < token) likelier += law[v];
  }
  return { byId: (before + u * own) / mass, byProbability: (likelier + u * own) / mass };
}

function chiSquare(counts: readonly number[]): number {
  const expected = counts.reduce((sum, n) => sum + n) / counts.length;
  return counts.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
}

if (import.meta.main) {
  const values = readOptions({
    rounds: { type: "string" },
    minutes: { type: "string" },
    seed: { type: "string" },
  });
  const most = Number(values.rounds ?? Infinity),
    end = performance.now() + Number(values.minutes ?? 10) * 60e3;
  const report = await soak(Number(values.seed ?? 1), (rounds) => rounds >= most || performance.now() > end);
  console.log(report);
  if (report.biased.length > 0) Deno.exit(1);
}
