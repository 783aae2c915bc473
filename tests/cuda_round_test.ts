/**
 * Rounds whose decisions the device makes: they are those of the host with the same seed, whatever the rule, and no law
 * crosses the bus. On the stand-in, with the host's own `verify` and `PhiloxSource` as the oracle.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Activation, Backend, TokenBuffer } from "../src/backend/backend.ts";
import { isExact, type Rule, rules } from "../src/decode/acceptance.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import { AutoregressiveDrafter } from "../src/decode/autoregressive_drafter.ts";
import { DiffusionDrafter } from "../src/decode/diffusion_drafter.ts";
import { HostDistributions } from "../src/decode/distributions.ts";
import type { Drafter } from "../src/decode/drafter.ts";
import type { Round } from "../src/decode/loop.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { NgramDrafter } from "../src/decode/ngram_drafter.ts";
import { PhiloxSource, Purpose, type RandomSource } from "../src/decode/random.ts";
import { speculate, type SpeculateOptions } from "../src/decode/speculative.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import type { CausalModel, DiffusionModel } from "../src/model/model.ts";
import { onCudaBackend as test, standIn } from "./cuda/standin.ts";
import { checkpointOf, fixture, tensorsOf } from "./helpers.ts";
import { buffersFor, compareVerdicts, Numbers, verdictOf } from "./verdicts.ts";

test("tokens are drawn as PhiloxSource draws them", (backend) => {
  const { decisions } = backend, numbers = new Numbers();
  using round = decisions.round();
  for (const columns of [1, 3, 31, 32, 33, 97, 1000, 2085]) {
    const rows = 5;
    using p = backend.activation(rows, columns), tokens = backend.tokens(rows + 2);
    for (let i = 0; i < 12; i++) {
      const laws = Array.from({ length: rows }, () => numbers.law(columns));
      p.write(Float32Array.from(laws.flatMap((law) => [...law])));
      const seed = BigInt(numbers.below(2 ** 31)) * 0x100000001n, start = numbers.below(3000);
      const random = new PhiloxSource(seed);
      round.begin(seed, start);
      const drawn = (purpose: number, by: "race" | "inversion") => {
        decisions.draw(tokens.slice(1, rows), p, { round, purpose, offset: 2, by });
        return [...tokens.slice(1, rows).read()];
      };
      const host = new HostDistributions(laws);
      assert.deepEqual(
        drawn(Purpose.draft, "inversion"),
        laws.map((law, r) => random.choose(law, Purpose.draft, start + 2 + r, start)),
        `${columns} tokens`,
      );
      assert.deepEqual(
        drawn(Purpose.token, "race"),
        laws.map((_, r) => random.race(host, r, start + 2 + r)),
        `${columns} tokens`,
      );
    }
  }
});

test("a device's verdicts are those of the host, for every rule", (backend) => {
  compareVerdicts(backend, 3000);
});

test("a draft or a law without sense is the error that the host's test is, where it is come to", (backend) => {
  const buffers = buffersFor(backend, 2);
  const law = (...weights: number[]) => Float32Array.from(weights);
  const run = (
    rule: Rule,
    p: readonly Float32Array[],
    q: readonly Float32Array[] | undefined,
    tokens: number[],
  ) => verdictOf(backend, buffers, rule, { p, q, tokens, steps: tokens.map(() => 0) }, 1, 4);
  const good = law(0.5, 0.25, 0.25), none = law(1, 0, 0);
  for (const rule of ["ordered", "ratio", "paper", "block"] as const) {
    const fails = (message: RegExp, ...made: [Float32Array[], Float32Array[] | undefined, number[]]) => {
      assert.throws(() => run(rule, ...made), { name: "RangeError", message });
      run(rule, [good, good], [good], [1]); // once
    };
    fails(/it sums to NaN/, [law(NaN, 0.5, 0.5), good], [good], [1]);
    fails(/it sums to 0/, [law(0, 0, 0), good], [good], [1]);
    fails(/an entry is negative/, [law(-0.5, 1, 0.5), good], [good], [1]);
    fails(/it sums to NaN/, [good, good], [law(NaN, 0.5, 0.5)], [1]);
    fails(/an entry is negative/, [good, good], [law(-0.5, 1, 0.5)], [1]);
    fails(/token 1 has probability 0 in the law it was drawn from/, [good, good], [law(0.5, 0, 0.5)], [1]);
    fails(/it sums to NaN/, [law(NaN, 0.5, 0.5)], undefined, []);
    fails(/has no such id/, [good, good], undefined, [3]);
    // beyond a token that is certainly rejected nothing is looked at, except by a test of all
    const beyond = () => run(rule, [none, law(NaN, 1, 1), good], [good, good], [1, 1]);
    if (rule === "block") assert.throws(beyond, /it sums to NaN/);
    else assert.deepEqual(beyond(), { accepted: 0, token: 0, bonus: false });
  }
  assert.throws(() => run("match", [law(NaN, NaN, NaN), good], [good], [1]), /no weight is positive/);
});

test("buffers that do not fit are refused before anything is enqueued", (backend) => {
  const { decisions } = backend, few = backend.tokens(2), enough = backend.tokens(9);
  using round = decisions.round(), p = backend.activation(4, 3), q = backend.activation(2, 3);
  round.begin(1n, 0);
  const accept = (
    buffers: { out?: TokenBuffer; draft?: TokenBuffer; useQ?: TokenBuffer; q?: Activation },
  ) => {
    const { out = enough, draft = enough, ...laws } = buffers;
    decisions.accept(out, { round, test: "each", p, draft, purposes: Purpose, ...laws });
  };
  const lacks = (found: number, expected: number) =>
    `Cannot test a draft: the token buffer has capacity ${found}, expected at least ${expected}`;
  const cases: [() => void, string][] = [
    [() => accept({ out: enough.slice(0, 5) }), lacks(5, 6)], // of three tokens
    [() => accept({ draft: few }), lacks(2, 3)],
    [() => accept({ useQ: few }), lacks(2, 3)],
    [() => accept({ q }), "Cannot test a draft: q has shape [2, 3], expected [3, 3]"],
    [
      () => decisions.draw(few, p, { round, purpose: Purpose.draft, offset: 0, by: "race" }),
      "Cannot draw tokens: the token buffer has capacity 2, expected at least 4",
    ],
    [
      () => decisions.draw(enough, p, { round, purpose: Purpose.draft, offset: -1, by: "race" }),
      "Cannot draw tokens: offset is -1, expected an integer within [0, Infinity]",
    ],
  ];
  for (const [run, message] of cases) assert.throws(run, { name: "RangeError", message });
});

/** The same decisions, made by the host. */
function hostOnly(seed: number): RandomSource {
  const source = new PhiloxSource(seed);
  return {
    bernoulli: (...decision) => source.bernoulli(...decision),
    choose: (...decision) => source.choose(...decision),
    race: (...decision) => source.race(...decision),
  };
}

/** A checkpoint whose tensor `broken` holds numbers that overflow. */
async function checkpointWith(name: string, broken?: string, specdiff?: Record<string, unknown>) {
  using checkpoint = await openCheckpoint(fixture(name));
  const config = specdiff === undefined ? checkpoint.config : { ...checkpoint.config, specdiff };
  const tensors = (await tensorsOf(checkpoint)).map((tensor) => {
    return tensor.name === broken
      ? { ...tensor, data: (tensor.data as Float32Array).map(() => 3e38) }
      : tensor;
  });
  return await checkpointOf(config, tensors);
}

async function causal(backend: Backend, name: string, broken?: string): Promise<CausalModel> {
  using checkpoint = await checkpointWith(name, broken);
  const loaded = await loadModel(checkpoint, backend);
  assert(loaded.kind === "causal");
  return loaded.model;
}

/** @param specdiff what the checkpoint is to say of itself, in place of what it says */
async function diffusion(
  backend: Backend,
  name: string,
  options: { target?: CausalModel; specdiff?: Record<string, unknown>; broken?: string } = {},
): Promise<DiffusionModel> {
  const { target, specdiff, broken } = options;
  using changed = await checkpointWith(name, broken, specdiff);
  const loaded = await loadModel(changed, backend, { target });
  assert(loaded.kind === "diffusion");
  return loaded.model;
}

/** Rounds of a text, with everything that the device and the host could disagree about. */
async function roundsOf(rounds: AsyncIterable<Round>) {
  const all: { tokens: readonly number[]; draft: readonly number[]; accepted: number }[] = [];
  for await (const { tokens, draft, accepted } of rounds) all.push({ tokens, draft, accepted });
  return all;
}

test("under every rule a text is that of the host with the same seed, draft for draft", async (backend) => {
  using gpt2 = await causal(backend, "parity/gpt2-tiny"), bare = await causal(backend, "parity/gpt2-bare");
  using gptNeo = await causal(backend, "parity/gpt-neo-tiny");
  using sedd = await diffusion(backend, "parity/sedd-tiny");
  using prefixed = await diffusion(backend, "parity/sedd-tiny", { specdiff: { prefix_attention: "causal" } });
  using fed = await diffusion(backend, "parity/sedd-target-tiny", { target: bare });
  const made: [CausalModel, Drafter][] = [
    [gpt2, new DiffusionDrafter(sedd, backend, { draftContext: 8 })],
    [gpt2, new DiffusionDrafter(sedd, backend, { draftContext: 4, steps: 3, order: "random" })],
    [
      gpt2,
      new DiffusionDrafter(sedd, backend, {
        draftContext: 6,
        steps: 2,
        contextCache: { recent: 1, refresh: 3 },
      }),
    ],
    [gpt2, new DiffusionDrafter(prefixed, backend, { steps: 2 })],
    [gpt2, new DiffusionDrafter(prefixed, backend, { steps: 2, order: "confidence" })],
    [bare, new DiffusionDrafter(fed, backend)],
    [bare, new DiffusionDrafter(fed, backend, { steps: 3, order: "random" })],
    [bare, new DiffusionDrafter(fed, backend, { steps: 2, hotStart: true })],
    [gpt2, new AutoregressiveDrafter(gptNeo, backend)],
    [gpt2, new NgramDrafter(gpt2.shape.vocabSize)],
  ];
  let accepted = 0, drafted = 0, texts = 0;
  for (const [model, drafter] of made) {
    using target = new ModelTarget(model, backend);
    for (const rule of rules) {
      if (rule !== "paper" && !isExact(rule, drafter.leftToRight)) continue;
      const seed = 40 + texts++, greedy = texts % 4 === 0;
      const options: SpeculateOptions = {
        rule,
        gamma: 1 + texts % 4,
        maxTokens: 8,
        // models of noise agree on little but that much is possible
        sampling: greedy
          ? { temperature: 0 }
          : texts % 4 === 1
          ? { temperature: 3, topP: 0.9 }
          : { temperature: 5 },
      };
      const prompt = [5, 6, 7, 5, 6, 7, 5];
      const onDevice = await roundsOf(speculate(target, drafter, prompt, { ...options, seed }));
      const what = `${drafter.name}, ${rule}, text ${texts}`;
      drafter.reset();
      const random = hostOnly(seed);
      assert.deepEqual(
        onDevice,
        await roundsOf(speculate(target, drafter, prompt, { ...options, random })),
        what,
      );
      if (greedy || rule === "coupled" || rule === "match") {
        const plain = await roundsOf(autoregress(target, prompt, { ...options, seed }));
        assert.deepEqual(onDevice.flatMap((r) => r.tokens), plain.flatMap((r) => r.tokens), what);
      }
      for (const round of onDevice) {
        accepted += round.accepted;
        drafted += round.draft.length;
      }
    }
    drafter[Symbol.dispose]();
  }
  assert.ok(accepted > 0.1 * drafted && accepted < 0.9 * drafted, `${accepted} of ${drafted} accepted`);
});

/** A target that fails in a round, once: before it has scored what the device drafted, or when that is tested. */
class Failing extends ModelTarget {
  rounds = 0;
  constructor(model: CausalModel, backend: Backend, readonly at: number, readonly scored: boolean) {
    super(model, backend);
  }

  override async verifyOnDevice(...round: Parameters<ModelTarget["verifyOnDevice"]>) {
    const fails = ++this.rounds === this.at;
    if (fails && !this.scored) throw new Error("a failure");
    const verdict = await super.verifyOnDevice(...round);
    if (fails) throw new Error("a failure");
    return verdict;
  }
}

test("after a round that failed between draft and verdict, a text that goes on is what it would have been", async (backend) => {
  using gpt2 = await causal(backend, "parity/gpt2-tiny"), bare = await causal(backend, "parity/gpt2-bare");
  using sedd = await diffusion(backend, "parity/sedd-tiny");
  using prefixed = await diffusion(backend, "parity/sedd-tiny", { specdiff: { prefix_attention: "causal" } });
  using fed = await diffusion(backend, "parity/sedd-target-tiny", { target: bare });
  const made: [CausalModel, () => Drafter][] = [
    [gpt2, () => new DiffusionDrafter(sedd, backend, { contextCache: "draft", steps: 2 })],
    [gpt2, () => new DiffusionDrafter(prefixed, backend, { steps: 2 })],
    [bare, () => new DiffusionDrafter(fed, backend)],
    [gpt2, () => new AutoregressiveDrafter(gpt2, backend)],
  ];
  // cold, so that laws differ where contexts do
  const options = { gamma: 3, maxTokens: 8, seed: 9, sampling: { temperature: 0.3 } };
  const prompt = [5, 6, 7, 5, 6, 7];
  for (const [model, make] of made) {
    for (const scored of [false, true]) {
      using failing = new Failing(model, backend, 2, scored), used = make();
      const text = [...prompt];
      await assert.rejects(async () => {
        for await (const { tokens } of speculate(failing, used, prompt, options)) text.push(...tokens);
      }, { message: "a failure" });
      assert.ok(text.length > prompt.length);
      text.push(1, 2, 3); // where the draft was
      using target = new ModelTarget(model, backend), drafter = make();
      assert.deepEqual(
        await roundsOf(speculate(failing, used, text, options)),
        await roundsOf(speculate(target, drafter, text, options)),
        `${used.name}, ${scored ? "scored" : "not scored"}`,
      );
    }
  }
});

test("a round waits once, and what it brings back is the verdict and the draft", async (backend) => {
  using gpt2 = await causal(backend, "parity/gpt2-tiny"), bare = await causal(backend, "parity/gpt2-bare");
  using sedd = await diffusion(backend, "parity/sedd-tiny");
  using fed = await diffusion(backend, "parity/sedd-target-tiny", { target: bare });
  const made: [CausalModel, Drafter][] = [
    [gpt2, new DiffusionDrafter(sedd, backend, { draftContext: 8, order: "random" })],
    [gpt2, new DiffusionDrafter(sedd, backend, { draftContext: 8, order: "random", steps: 3 })],
    [bare, new DiffusionDrafter(fed, backend)],
    [bare, new DiffusionDrafter(fed, backend, { steps: 2 })],
    [gpt2, new AutoregressiveDrafter(gpt2, backend)],
    [gpt2, new NgramDrafter(gpt2.shape.vocabSize)],
  ];
  for (const [model, drafter] of made) {
    using target = new ModelTarget(model, backend);
    for (const rule of rules) {
      if (rule !== "paper" && !isExact(rule, drafter.leftToRight)) continue;
      // other rounds wait as well, and the first also for memory
      const rounds = speculate(target, drafter, [5, 6, 7, 5, 6, 7], {
        rule,
        gamma: 3,
        maxTokens: 8,
        seed: 3,
      });
      await rounds.next();
      for (;;) {
        standIn?.reset();
        const { value, done } = await rounds.next();
        if (done) break;
        const found = [standIn?.calls("cuStreamSynchronize"), standIn?.downloaded()];
        const bytes = 4 * (3 + value.draft.length);
        assert.deepEqual(found, [1, bytes], `${drafter.name}, ${rule}`);
        assert.equal(standIn?.calls("cuCtxSynchronize"), 0);
      }
    }
    drafter[Symbol.dispose]();
  }
});

test("once its passes are recorded, a round is a graph for each with its laws and decisions, and no kernel beside", async (backend) => {
  using gpt2 = await causal(backend, "parity/gpt2-tiny"),
    gptNeo = await causal(backend, "parity/gpt-neo-tiny");
  using bare = await causal(backend, "parity/gpt2-bare"), sedd = await diffusion(backend, "parity/sedd-tiny");
  using fed = await diffusion(backend, "parity/sedd-target-tiny", { target: bare });
  assert.ok(fed.hasMarkovHead);
  // graphs of the drafter: of a step each, of what the target feeds it, of a token each
  const made: [CausalModel, Drafter, graphs: number][] = [
    [gpt2, new DiffusionDrafter(sedd, backend, { draftContext: 4 }), 1],
    [gpt2, new DiffusionDrafter(sedd, backend, { draftContext: 4, steps: 3 }), 3],
    [bare, new DiffusionDrafter(fed, backend), 2],
    [gpt2, new AutoregressiveDrafter(gptNeo, backend), 3],
    [gpt2, new NgramDrafter(gpt2.shape.vocabSize), 0],
  ];
  for (const [model, drafter, graphs] of made) {
    using target = new ModelTarget(model, backend);
    const options = { gamma: 3, maxTokens: 40, seed: 3, sampling: { temperature: 3 } };
    const launches: (number | undefined)[][] = [];
    standIn?.reset();
    for await (const _ of speculate(target, drafter, [5, 6, 7, 8], options)) {
      launches.push(["cuGraphLaunch", "cuLaunchKernelEx"].map((name) => standIn?.calls(name)));
      standIn?.reset();
    }
    // Passes over so many new rows run as they are, are recorded, and then are graphs; a round that takes more memory
    // than those before makes all of them anew.
    const expected = String([graphs + 1, 0]);
    const alike = launches.filter((found) => String(found) === expected).length;
    assert.ok(alike >= 7, `${drafter.name}: ${launches.join(" | ")}`);
    drafter[Symbol.dispose]();
  }
});

test("a drafter that serves two targets in turn, and a target two drafters, take nothing from one another", async (backend) => {
  using gpt2 = await causal(backend, "parity/gpt2-tiny"), sedd = await diffusion(backend, "parity/sedd-tiny");
  const make = () => new DiffusionDrafter(sedd, backend, { draftContext: 4 });
  const text = (target: ModelTarget, drafter: Drafter, seed: number) =>
    speculate(target, drafter, [5, 6, 7, seed], {
      gamma: 3,
      maxTokens: 30,
      seed,
      sampling: { temperature: 5 },
    });
  const inTurn = async (texts: AsyncGenerator<Round>[]) => {
    const all = texts.map((): number[] => []);
    for (let left = texts.length; left > 0;) {
      left = 0;
      for (const [i, text] of texts.entries()) {
        const { value, done } = await text.next();
        if (done) continue;
        left++;
        all[i].push(...value.tokens);
      }
    }
    return all;
  };
  using one = new ModelTarget(gpt2, backend), other = new ModelTarget(gpt2, backend);
  using drafter = make(), second = make();
  const alone: number[][] = [];
  for (const seed of [1, 2]) {
    using target = new ModelTarget(gpt2, backend), drafter = make();
    alone.push(...await inTurn([text(target, drafter, seed)]));
  }
  assert.deepEqual(await inTurn([text(one, drafter, 1), text(other, drafter, 2)]), alone, "one drafter");
  assert.deepEqual(await inTurn([text(one, drafter, 1), text(one, second, 2)]), alone, "one target");
});

test("a drafter that is asked to draft otherwise repeats nothing of what it recorded", async (backend) => {
  using gpt2 = await causal(backend, "parity/gpt2-tiny"),
    gptNeo = await causal(backend, "parity/gpt-neo-tiny");
  using sedd = await diffusion(backend, "parity/sedd-tiny");
  const makers: (() => Drafter)[] = [
    () => new AutoregressiveDrafter(gptNeo, backend),
    () => new DiffusionDrafter(sedd, backend, { draftContext: 4 }),
  ];
  const settings: SpeculateOptions[] = [
    { rule: "ordered", sampling: { temperature: 5 } },
    { rule: "coupled", sampling: { temperature: 5 } },
    { rule: "ordered", sampling: { temperature: 5 } },
    { rule: "ordered", sampling: { temperature: 0.5 } },
  ];
  const text = (target: ModelTarget, drafter: Drafter, options: SpeculateOptions) =>
    roundsOf(speculate(target, drafter, [5, 6, 7], { gamma: 2, maxTokens: 14, seed: 3, ...options }));
  for (const make of makers) {
    const expected = [];
    for (const options of settings) {
      using target = new ModelTarget(gpt2, backend), drafter = make();
      expected.push(await text(target, drafter, options));
    }
    // nothing is given back in between, which would drop what was recorded
    using target = new ModelTarget(gpt2, backend), drafter = make();
    for (const [i, options] of settings.entries()) {
      assert.deepEqual(await text(target, drafter, options), expected[i], `${drafter.name}, ${i}`);
    }
  }
});

test("logits that are no numbers end the text whose pass made them, and no other", async (backend) => {
  using sound = await causal(backend, "parity/gpt2-tiny");
  using target = await causal(backend, "parity/gpt2-tiny", "transformer.ln_f.bias");
  using sedd = await diffusion(backend, "parity/sedd-tiny");
  using drafting = await diffusion(backend, "parity/sedd-tiny", { broken: "blocks.1.attn_qkv.weight" });
  const text = async (model: CausalModel, denoiser: DiffusionModel, random?: RandomSource) => {
    using target = new ModelTarget(model, backend), drafter = new DiffusionDrafter(denoiser, backend);
    return await roundsOf(speculate(target, drafter, [5, 6, 7], { gamma: 3, maxTokens: 8, seed: 3, random }));
  };
  const alone = await text(sound, sedd);
  for (const [model, denoiser] of [[target, sedd], [sound, drafting]] as const) {
    for (const random of [undefined, hostOnly(3)]) {
      // their passes take turns, and what the other enqueued runs when one reads
      const [other, broken] = await Promise.allSettled([text(sound, sedd), text(model, denoiser, random)]);
      assert.deepEqual(other, { status: "fulfilled", value: alone });
      assert.equal(broken.status, "rejected");
      assert.equal(broken.reason.name, "LogitsError");
      assert.match(
        broken.reason.message,
        model === target
          ? /^Cannot decode after 3 tokens: the (largest )?logit .*, as the target computed it; its weights may be/
          : /^Cannot decode after 3 tokens: the (largest )?logit .*, as the drafter.* computed it; its weights may be/,
      );
    }
    // one that is left after the prompt was read leaves nothing behind
    const aborted = new AbortController();
    using first = new ModelTarget(model, backend), drafter = new DiffusionDrafter(denoiser, backend);
    const rounds = speculate(first, drafter, [5, 6, 7], { signal: aborted.signal }).next();
    aborted.abort(new Error("no longer wanted"));
    await assert.rejects(rounds, { message: "no longer wanted" });
    assert.deepEqual(await text(sound, sedd), alone);
  }
});
