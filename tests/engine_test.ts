/**
 * The product as a program uses it, end to end: that texts are what plain decoding, the seed and the statistics say.
 * What may be asked for is in `engine_options_test.ts`, how texts end in `engine_ends_test.ts`.
 */

import assert from "node:assert/strict";
import { type GenerateOptions, loadEngine } from "../mod.ts";
import { rules } from "../src/decode/acceptance.ts";
import { autoregress, ModelTarget } from "../src/decode/mod.ts";
import type { CausalModel } from "../src/model/model.ts";
import { ALL, PROMPT, withEngine } from "./pair_engine.ts";

Deno.test("coupled and match give the text of plain decoding with the same seed, for every drafter", () =>
  withEngine(async (engine) => {
    for (const [seed, temperature, topK] of [[1, 1, 0], [2, 0.7, 0], [3, 1.3, 40]]) {
      const options = { seed, temperature, topK, maxTokens: 48 };
      const plain = await engine.generate(PROMPT, { ...options, drafter: null });
      for (const drafter of ALL) {
        for (const rule of ["coupled", "match"] as const) {
          const drafted = await engine.generate(PROMPT, { ...options, drafter, rule, gamma: 3 });
          assert.deepEqual(drafted.tokens, plain.tokens, `${drafter}, ${rule}, seed ${seed}`);
        }
      }
      for (const order of ["left-to-right", "random", "confidence"] as const) {
        const anyOrder = {
          drafter: "sedd",
          rule: "coupled",
          gamma: 4,
          steps: 2,
          order,
          hotStart: true,
        } as const;
        const { tokens } = await engine.generate(PROMPT, { ...options, ...anyOrder });
        assert.deepEqual(tokens, plain.tokens, `sedd, ${order}`);
      }
    }
  }));

Deno.test("at temperature 0 every rule gives the text of plain greedy decoding", () =>
  withEngine(async (engine) => {
    const options = { temperature: 0, maxTokens: 40 };
    const plain = await engine.generate(PROMPT, { ...options, drafter: null });
    for (const rule of rules) {
      for (const drafter of ALL) {
        const { tokens, stats } = await engine.generate(PROMPT, { ...options, drafter, rule, gamma: 5 });
        assert.deepEqual(tokens, plain.tokens, `${drafter}, ${rule}`);
        assert.equal(stats.tokens, 40);
      }
    }
  }));

Deno.test("the text does not depend on a chosen gamma under coupled and at temperature 0, nor with costs", () =>
  withEngine(async (engine) => {
    const told = new Set<number>();
    for (const drafter of ALL) {
      const texts = async (options: GenerateOptions, others: readonly GenerateOptions[]) => {
        const common = { drafter, seed: 6, maxTokens: 20, gamma: "auto", ...options } as const;
        const { tokens } = await engine.generate(PROMPT, { ...common, ...others[0] });
        for (const other of others.slice(1)) {
          const { tokens: same, stats } = await engine.generate(PROMPT, { ...common, ...other });
          assert.deepEqual(same, tokens, `${drafter}, ${JSON.stringify(options)}`);
          assert.equal(stats.meanGamma, stats.draftTokens / stats.rounds);
          told.add(stats.plainRounds / stats.rounds);
        }
      };
      await texts({ rule: "coupled" }, [{ drafter: null }, {}, {}]);
      await texts({ temperature: 0 }, [{ drafter: null }, {}]);
      await texts({ costs: [1, 1.3, 1.6, 1.9] }, [{}, {}]);
    }
    assert.ok(told.size > 1);
    const { stats } = await engine.generate(PROMPT, { gamma: "auto", costs: [1, 9], maxTokens: 20 });
    assert.deepEqual([stats.plainRounds, stats.meanGamma], [20, 0]);
    await assert.rejects(engine.generate(PROMPT, { gamma: "auto", costs: [] }), /costs are \[\]/);
    for (const gamma of [2, undefined]) {
      await assert.rejects(engine.generate(PROMPT, { gamma, costs: [1, 2] }), {
        name: "TypeError",
        message: `Cannot use costs: gamma is ${gamma ?? "the drafter's own"}, expected "auto"`,
      });
    }
    const signal = AbortSignal.abort(new Error("enough"));
    await assert.rejects(engine.generate(PROMPT, { gamma: "auto", topK: 7, signal }), /enough/);
    await assert.rejects(engine.generate(PROMPT, { gamma: "Auto" as "auto" }), {
      name: "TypeError",
      message: 'Cannot generate: gamma is "Auto", expected a number or "auto"',
    });
  }));

Deno.test("costs are measured for one text while others that need them wait, and again if that one ends early", async () => {
  using engine = await loadEngine({ drafter: "ngram", threads: 1 });
  const { forward } = engine.target, lengths: number[] = [];
  engine.target.forward = (...args: Parameters<CausalModel["forward"]>) => {
    lengths.push(args[0].length);
    return forward.apply(engine.target, args);
  };
  // each measurement begins with a pass over 31 tokens, and nothing else is of that length
  const measured = () => lengths.splice(0).filter((length) => length === 31).length;
  const texts = (
    topK: number,
    signals: readonly (AbortSignal | undefined)[],
    rule: GenerateOptions["rule"] = "coupled",
  ) =>
    Promise.allSettled(
      signals.map((signal, i) =>
        engine.generate(PROMPT, { gamma: "auto", rule, seed: i, maxTokens: 4, signal, topK })
      ),
    );
  await texts(0, [undefined, undefined, undefined]);
  assert.equal(measured(), 1);
  await texts(0, [undefined, undefined]);
  assert.equal(measured(), 0);
  await texts(0, [undefined], "match"); // another rule takes other times
  assert.equal(measured(), 1);
  // what cannot be generated is not measured for either
  await assert.rejects(engine.generate([], { gamma: "auto", topP: 0.5 }), /the prompt is empty/);
  assert.equal(measured(), 0);
  const enough = new AbortController(), reason = new Error("enough");
  const pass = forward.bind(engine.target);
  engine.target.forward = (...args: Parameters<CausalModel["forward"]>) => {
    lengths.push(args[0].length);
    enough.abort(reason); // in the midst of the first measurement
    return pass(...args);
  };
  const [first, second, third] = await texts(8, [enough.signal, undefined, enough.signal]);
  assert.deepEqual([first, second.status, third], [
    { status: "rejected", reason },
    "fulfilled",
    { status: "rejected", reason },
  ]);
  assert.equal(measured(), 2);
  // who waits for a measurement is heard before it is over
  const waiting = new AbortController(), all: (number | undefined)[] = [];
  engine.target.forward = (...args: Parameters<CausalModel["forward"]>) => {
    lengths.push(args[0].length);
    waiting.abort(reason);
    return pass(...args);
  };
  const auto = { gamma: "auto", rule: "ratio", maxTokens: 4 } as const;
  await Promise.all([
    engine.generate(PROMPT, auto).then(() => all[1] = lengths.length),
    assert.rejects(engine.generate(PROMPT, { ...auto, signal: waiting.signal }), reason)
      .then(() => all[0] = lengths.length),
  ]);
  assert.equal(measured(), 1);
  assert.ok(all[0]! < all[1]! / 2, `after ${all[0]} of ${all[1]} passes`);
  await texts(7, [undefined]); // a law that is made alike
  assert.equal(measured(), 0);
});

Deno.test("the layers below work on an engine's models", async () => {
  using engine = await loadEngine({ drafter: null, threads: 1 });
  using target = new ModelTarget(engine.target, engine.backend);
  const prompt = [300, 301, 302], tokens: number[] = [];
  for await (const round of autoregress(target, prompt, { seed: 2, maxTokens: 8 })) {
    tokens.push(...round.tokens);
  }
  const { tokens: expected } = await engine.generate(prompt, { seed: 2, maxTokens: 8, stopTokens: [] });
  assert.deepEqual(tokens, expected);
});

Deno.test("the same seed gives the same text for any number of threads, another seed another text", async () => {
  const texts: string[] = [];
  for (const threads of [1, 2, 3]) {
    await withEngine(async (engine) => {
      texts.push((await engine.generate(PROMPT, { seed: 11, maxTokens: 40, gamma: 3 })).text);
      if (threads === 1) {
        assert.notEqual(
          (await engine.generate(PROMPT, { seed: 12, maxTokens: 40, gamma: 3 })).text,
          texts[0],
        );
      }
    }, threads);
  }
  assert.equal(texts[1], texts[0]);
  assert.equal(texts[2], texts[0]);
});

Deno.test("of a seed the low 64 bits count, and the statistics tell them", () =>
  withEngine(async (engine) => {
    const told = async (seed?: number | bigint | string) => {
      const { tokens, stats } = await engine.generate(PROMPT, { seed, maxTokens: 12 });
      return { tokens, seed: stats.seed };
    };
    const last = await told(2n ** 64n - 1n);
    assert.equal(last.seed, "18446744073709551615");
    assert.deepEqual(await told(-1), last);
    const fresh = await told();
    assert.deepEqual(await told(BigInt(fresh.seed!)), fresh);
    assert.deepEqual(await told(fresh.seed), fresh);
    // a number beyond 2^53 stands for several integers
    for (
      const [seed, said] of [[1.5, "1.5"], [2 ** 60, "1152921504606847000"], ["1e3", '"1e3"'], [null, "null"]]
    ) {
      await assert.rejects(told(seed as number), {
        name: "RangeError",
        message:
          `Cannot draw random numbers: the seed is ${said}, expected an integer, beyond 2^53 as a bigint or in ` +
          "decimal",
      });
    }
  }));

Deno.test("eight generations that run at once do not disturb one another", () =>
  withEngine(async (engine) => {
    const options = (seed: number) => ({ seed, maxTokens: 24, gamma: 3, drafter: ALL[seed % ALL.length] });
    const alone: string[] = [];
    for (let seed = 0; seed < 8; seed++) alone.push((await engine.generate(PROMPT, options(seed))).text);
    const together = await Promise.all(alone.map((_, seed) => engine.generate(PROMPT, options(seed))));
    assert.deepEqual(together.map(({ text }) => text), alone);
  }));

Deno.test("a stream's chunks add up to the text, and the statistics to its tokens", () =>
  withEngine(async (engine) => {
    const stream = engine.stream(PROMPT, { seed: 5, maxTokens: 60, gamma: 4 });
    let text = "", count = 0;
    for (;;) {
      const { value, done } = await stream.next();
      if (done) {
        assert.equal(value.text, text);
        assert.equal(value.tokens.length, count);
        assert.equal(engine.tokenizer.decode([...value.tokens]), text);
        const { stats } = value;
        assert.equal(stats.tokens, 60);
        assert.equal(stats.finishReason, "length");
        assert.equal(stats.exactness, "exact");
        assert.ok(stats.rounds < 60 && stats.acceptedTokens > 0);
        assert.equal(stats.meanAcceptanceLength, stats.tokens / stats.rounds);
        break;
      }
      text += value.text;
      count += value.pieces.length;
      assert.equal(value.pieces.map((piece) => piece.text).join(""), value.text);
    }
  }));

Deno.test("score gives the log-probability of each token and the perplexity", () =>
  withEngine(async (engine) => {
    const { tokens, logprobs, perplexity } = await engine.score(
      "The captain came on deck and looked at the sea.",
    );
    assert.equal(logprobs.length, tokens.length);
    assert.equal(logprobs[0], null);
    const rest = logprobs.slice(1) as number[];
    assert.ok(rest.every((logprob) => logprob < 0));
    const mean = rest.reduce((sum, logprob) => sum + logprob, 0) / rest.length;
    assert.ok(Math.abs(perplexity - Math.exp(-mean)) < 1e-9 * perplexity);
    assert.deepEqual(await engine.score([5]), { tokens: [5], logprobs: [null], perplexity: NaN });
    // in pieces, and yet as if each were all there is
    const long = Array.from({ length: 100 }, (_, i) => 300 + 7 * i % 1000);
    const whole = await engine.score(long);
    assert.deepEqual([whole.tokens, whole.logprobs.length], [long, 100]);
    for (const length of [32, 33, 34, 65]) {
      const beginning = await engine.score(long.slice(0, length));
      assert.deepEqual(beginning.logprobs, whole.logprobs.slice(0, length), `${length} tokens`);
    }
    // more probable than the same words shuffled
    const shuffled = await engine.score("sea deck at the and on captain looked. the came The");
    assert.ok(perplexity < shuffled.perplexity);
    for (
      const [wrong, message] of [
        [[], /it has 0 tokens, expected 1 to 256/],
        [new Array(257).fill(5), /it has 257 tokens, expected 1 to 256/],
        [[2048], /2048/],
        [[1.5], /1\.5/],
        [[2 ** 32 + 5], /4294967301/], // 5 in 32 bits
      ] as const
    ) {
      await assert.rejects(engine.score(wrong), { name: "RangeError", message });
    }
    const signal = AbortSignal.abort(new Error("enough"));
    await assert.rejects(engine.score(tokens, { signal }), /enough/);
  }));
