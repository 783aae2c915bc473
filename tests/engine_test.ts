/**
 * The product as a program uses it: the embedded pair on the CPU backend, end to end.
 */

import assert from "node:assert/strict";
import { type Engine, type GenerateOptions, loadEngine, type Tokenizer } from "../mod.ts";
import { createBackend } from "../src/backend/create.ts";
import { type Rule, rules } from "../src/decode/acceptance.ts";
import {
  autoregress,
  DiffusionDrafter,
  type Drafter,
  ModelTarget,
  NgramDrafter,
  scoreTokens,
  speculate,
} from "../src/decode/mod.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import type { CausalModel } from "../src/model/model.ts";
import { checkpointOf, fixture, tensorsOf } from "./helpers.ts";

const PROMPT = "It was a dark and stormy night; the captain";
const ALL = ["sedd-target", "sedd-causal", "sedd", "gpt2", "ngram"] as const;

async function withEngine(body: (engine: Engine) => Promise<void>, threads?: number): Promise<void> {
  using engine = await loadEngine({ drafter: ALL, threads });
  await body(engine);
}

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
        message: `Cannot use costs: gamma is ${
          gamma ?? "the drafter's own"
        }, expected "auto", which they decide`,
      });
    }
    const signal = AbortSignal.abort(new Error("enough"));
    await assert.rejects(engine.generate(PROMPT, { gamma: "auto", topK: 7, signal }), /enough/);
    await assert.rejects(engine.generate(PROMPT, { gamma: "Auto" as "auto" }), {
      name: "RangeError",
      message: 'Cannot speculate: gamma is "Auto", expected a non-negative integer or "auto"',
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
  const texts = (topK: number, signals: readonly (AbortSignal | undefined)[]) =>
    Promise.allSettled(
      signals.map((signal, i) =>
        engine.generate(PROMPT, { gamma: "auto", rule: "coupled", seed: i, maxTokens: 4, signal, topK })
      ),
    );
  await texts(9, [undefined, undefined, undefined]);
  assert.equal(measured(), 1);
  await texts(9, [undefined, undefined]);
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
});

Deno.test("options are read when a text begins, and what becomes of them then is nothing to it", async () => {
  await withEngine(async (engine) => {
    const stopTokens: number[] = [], stop: string[] = [];
    const contextCache = { recent: 2, refresh: 3 };
    const settings = { drafter: "sedd", seed: 3, maxTokens: 24, rule: "coupled" } as const;
    const expected = await engine.generate(PROMPT, {
      ...settings,
      contextCache: { ...contextCache },
      stopTokens: [],
    });
    let text = "";
    for await (const chunk of engine.stream(PROMPT, { ...settings, stopTokens, stop, contextCache })) {
      text += chunk.text;
      stopTokens.push(...expected.tokens);
      stop.push("e", "a");
      Object.assign(contextCache, { recent: NaN, refresh: NaN });
    }
    assert.equal(text, expected.text);
  });
});

Deno.test("prompts and tokenizers of the wrong kind are told apart from empty ones", async () => {
  await withEngine(async (engine) => {
    for (const prompt of [Promise.resolve(PROMPT), 5, {}, null]) {
      await assert.rejects(engine.generate(prompt as unknown as string), {
        name: "TypeError",
        message: "Cannot use the text: it is neither a string nor a list of token ids",
      });
    }
  });
  const tokenizers: [unknown, string][] = [
    [
      { encode: () => Promise.resolve([1]), decode: () => "" },
      "encode gives a Promise, expected an array of ids",
    ],
    [
      { encode: () => ({ input_ids: [1] }), decode: () => "" },
      "encode gives an Object, expected an array of ids",
    ],
    [{ encode: () => [1], decode: () => Promise.resolve("") }, "decode gives a Promise, expected a string"],
  ];
  for (const [tokenizer, message] of tokenizers) {
    using engine = await loadEngine({ drafter: null, threads: 1, tokenizer: tokenizer as Tokenizer });
    await assert.rejects(engine.generate("text"), {
      name: "TypeError",
      message: `Cannot use the tokenizer: its ${message}`,
    });
  }
});

Deno.test("options of the wrong kind are refused in one message, with text in quotes", () =>
  withEngine(async (engine) => {
    const cases: [options: unknown, message: string][] = [
      [null, "the options are null, expected an object"],
      [{ stop: 1 }, "stop is 1, expected a string or a list of strings"],
      [{ stopTokens: 5 }, "stopTokens is 5, expected a list of numbers"],
      [{ stopTokens: "5" }, 'stopTokens is "5", expected a list of numbers'],
      [{ signal: {} }, "signal is {}, expected an AbortSignal"],
      [{ gamma: "auto", costs: null }, "costs is null, expected a list of numbers"],
      ...["temperature", "topK", "topP", "maxTokens", "steps", "draftContext"].map((
        name,
      ): [unknown, string] => [
        { [name]: "1" },
        `${name} is "1", expected a number`,
      ]),
    ];
    for (const [options, message] of cases) {
      await assert.rejects(engine.generate(PROMPT, options as GenerateOptions), {
        name: "TypeError",
        message: `Cannot generate: ${message}`,
      });
    }
    await assert.rejects(engine.score(PROMPT, { signal: 5 as unknown as AbortSignal }), {
      name: "TypeError",
      message: "Cannot score: signal is 5, expected an AbortSignal",
    });
    await assert.rejects(engine.generate(PROMPT, { stopTokens: ["a"] as unknown as number[] }), {
      name: "RangeError",
      message: 'Cannot decode: a stop token is "a", expected an integer in [0, 2048)',
    });
    await assert.rejects(engine.generate(["a"] as unknown as number[]), {
      name: "RangeError",
      message: 'Cannot decode: prompt token 0 is "a", expected an integer in [0, 2048)',
    });
    await assert.rejects(
      engine.generate(PROMPT, { sigma: "a" as "schedule" }),
      /sigma is "a", expected a pos/,
    );
    await assert.rejects(
      engine.generate(PROMPT, { costs: [1], gamma: "1" as "auto" }),
      /gamma is "1", expected "auto"/,
    );
  }));

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

Deno.test("a drafter refuses options it has no use for; plain decoding takes all of them", () =>
  withEngine(async (engine) => {
    const diffusion = {
      steps: 1,
      order: "random",
      draftContext: 9,
      contextCache: "draft",
      sigma: 1,
      hotStart: true,
    } as const;
    const all: GenerateOptions = { rule: "ordered", gamma: "auto", costs: [1, 2], ...diffusion };
    for (const drafter of ["gpt2", "ngram"]) {
      assert.deepEqual(engine.unused({ drafter, ...all, steps: undefined }), Object.keys(diffusion).slice(1));
      await assert.rejects(engine.generate(PROMPT, { drafter, steps: 1, hotStart: true }), {
        name: "TypeError",
        message: `Cannot draft with "${drafter}": it has no use for steps, hotStart`,
      });
    }
    for (const drafter of ["sedd-target", "sedd-causal"]) {
      assert.deepEqual(engine.unused({ drafter, ...all }), ["contextCache"]);
    }
    assert.deepEqual(engine.unused({ drafter: "sedd", ...all }), []);
    assert.deepEqual(engine.unused({ drafter: "ngram", hotStart: false, contextCache: "none" }), []);
    assert.deepEqual(engine.unused({ drafter: null, ...all }), Object.keys(all));
    const text = { seed: 4, maxTokens: 9, drafter: null };
    const plain = await engine.generate(PROMPT, text),
      same = await engine.generate(PROMPT, { ...text, ...all });
    assert.deepEqual(same.tokens, plain.tokens);
  }));

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

Deno.test("a stop string ends the text at the same place in plain and in coupled decoding", () =>
  withEngine(async (engine) => {
    const options = { seed: 3, maxTokens: 100, stop: [".", "\n"] };
    const plain = await engine.generate(PROMPT, { ...options, drafter: null });
    assert.equal(plain.stats.finishReason, "stop");
    assert.ok(!/[.\n]/.test(plain.text));
    const stop = plain.text.slice(-9); // as a whole, not any of its characters
    const one = await engine.generate(PROMPT, { ...options, drafter: null, stop });
    assert.equal(one.stats.finishReason, "stop");
    assert.equal(one.text, plain.text.slice(0, plain.text.indexOf(stop)));
    for (const gamma of [1, 4, 7]) {
      const drafted = await engine.generate(PROMPT, { ...options, rule: "coupled", gamma });
      assert.equal(drafted.text, plain.text);
      assert.deepEqual(drafted.tokens, plain.tokens);
      assert.equal(drafted.stats.tokens, plain.tokens.length);
    }
  }));

Deno.test("a stop token ends the text inside a draft and is not part of it", () =>
  withEngine(async (engine) => {
    const options = { seed: 4, maxTokens: 60 };
    const free = await engine.generate(PROMPT, { ...options, drafter: null });
    const stopTokens = [free.tokens[17]];
    const first = free.tokens.indexOf(stopTokens[0]);
    for (const drafter of [null, ...ALL]) {
      const { text, tokens, stats } = await engine.generate(PROMPT, {
        ...options,
        drafter,
        rule: "coupled",
        gamma: 6,
        stopTokens,
      });
      assert.deepEqual(tokens, free.tokens.slice(0, first + 1));
      assert.equal(text, engine.tokenizer.decode(tokens.slice(0, -1)));
      assert.equal(stats.finishReason, "stop");
    }
    for (const wrong of [-1, 1.5, NaN, engine.target.shape.vocabSize]) {
      await assert.rejects(engine.generate(PROMPT, { stopTokens: [1, wrong] }), {
        name: "RangeError",
        message:
          `Cannot decode: a stop token is ${wrong}, expected an integer in [0, ${engine.target.shape.vocabSize})`,
      });
    }
  }));

Deno.test("the text ends where the context does, for every drafter", () =>
  withEngine(async (engine) => {
    const room = 9, { contextLength } = engine.target.shape;
    const prompt = Array.from({ length: contextLength - room }, (_, i) => 300 + i % 1000);
    const plain = await engine.generate(prompt, { drafter: null, seed: 1, maxTokens: 1000 });
    assert.equal(plain.tokens.length, room);
    assert.equal(plain.stats.finishReason, "context");
    const whole = await engine.generate(prompt, { drafter: null, seed: 1, maxTokens: room });
    assert.deepEqual([whole.tokens, whole.stats.finishReason], [plain.tokens, "length"]); // nothing asked for lacks
    for (const drafter of ALL) {
      for (const gamma of [3, 40]) {
        const { tokens } = await engine.generate(prompt, {
          drafter,
          rule: "coupled",
          seed: 1,
          gamma,
          maxTokens: 1000,
        });
        assert.deepEqual(tokens, plain.tokens, `${drafter}, gamma ${gamma}`);
      }
    }
    await assert.rejects(engine.generate(new Array(contextLength).fill(5)), /fills|has no room/);
  }));

Deno.test("a drafter's own rule is used where it is exact, unless another is asked for", () =>
  withEngine(async (engine) => {
    const ruleOf = async (options: GenerateOptions) =>
      (await engine.generate(PROMPT, { ...options, maxTokens: 4 })).stats.rule;
    for (const drafter of ["sedd-target", "sedd-causal", "gpt2"]) {
      assert.equal(await ruleOf({ drafter }), "block");
      assert.equal(await ruleOf({ drafter, rule: "ratio" }), "ratio");
    }
    assert.equal(await ruleOf({ drafter: "ngram" }), "ordered");
    assert.equal(await ruleOf({ drafter: "sedd" }), "block");
    const anyOrder = { steps: 2, order: "random" } as const;
    assert.equal(await ruleOf({ drafter: "sedd-causal", ...anyOrder }), "ordered");
    assert.equal(await ruleOf({ drafter: null }), "none");
  }));

Deno.test("combinations that are not exact are refused, but for paper, which is labelled", () =>
  withEngine(async (engine) => {
    const anyOrder = {
      drafter: "sedd",
      gamma: 4,
      steps: 2,
      order: "random",
      maxTokens: 12,
      seed: 1,
    } as const;
    for (const rule of ["ratio", "block"] as const) {
      await assert.rejects(engine.generate(PROMPT, { ...anyOrder, rule }), TypeError);
      await assert.rejects(engine.generate(PROMPT, { rule, hotStart: true, maxTokens: 8 }), TypeError);
    }
    const label = async (rule: Rule) =>
      (await engine.generate(PROMPT, { ...anyOrder, rule })).stats.exactness;
    assert.equal(await label("paper"), "lossy");
    assert.equal(await label("ordered"), "exact");
    await assert.rejects(
      engine.generate(PROMPT, { drafter: "absent" }),
      /was not loaded, expected one of sedd-target/,
    );
    for (const steps of [1, 2]) {
      const backwards = { ...anyOrder, steps, order: "backwards" as "random" };
      await assert.rejects(engine.generate(PROMPT, backwards), {
        name: "TypeError",
        message:
          'Cannot make a diffusion drafter: order is "backwards", expected one of left-to-right, random, ' +
          "confidence",
      });
    }
  }));

Deno.test("a signal ends a generation with its reason and leaves the engine usable", () =>
  withEngine(async (engine) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("enough")), 0); // heard at the first turn
    await assert.rejects(engine.generate(PROMPT, { maxTokens: 240, signal: controller.signal }), /enough/);
    assert.equal((await engine.generate(PROMPT, { maxTokens: 5 })).tokens.length, 5);
  }));

Deno.test("a signal is heard at every turn of a generation, and leaves nothing behind on the device", async () => {
  using backend = await createBackend("auto", { threads: 2 });
  using checkpoint = await openCheckpoint(fixture("parity/gpt2-tiny/"));
  using sedd = await openCheckpoint(fixture("parity/sedd-tiny/"));
  const loaded = await loadModel(checkpoint, backend), drafting = await loadModel(sedd, backend);
  assert.ok(loaded.kind === "causal" && drafting.kind === "diffusion");
  const prompt = Array.from({ length: 60 }, (_, i) => i);
  const generate = async (signal?: AbortSignal) => {
    using target = new ModelTarget(loaded.model, backend);
    using drafter = new DiffusionDrafter(drafting.model, backend);
    const tokens: number[] = [];
    const options = { seed: 1, maxTokens: 12, gamma: 3, signal };
    for await (const round of speculate(target, drafter, prompt, options)) tokens.push(...round.tokens);
    return tokens;
  };
  const expected = await generate();
  const { room } = backend;
  let turns = 0;
  for (;; turns++) {
    let left = turns;
    const signal = {
      throwIfAborted() {
        if (left-- === 0) throw new Error("enough");
      },
    };
    try {
      assert.deepEqual(await generate(signal as AbortSignal), expected);
      break; // it was not asked as often
    } catch (error) {
      assert.equal((error as Error).message, "enough");
    }
    assert.equal(backend.room, room);
  }
  assert.ok(turns >= 5, `asked ${turns} times`); // before the prompt, and in each round
  loaded.model[Symbol.dispose]();
  drafting.model[Symbol.dispose]();
});

Deno.test("a target without a tokenizer takes token ids, and says what it lacks for text", async () => {
  using engine = await loadEngine({ target: fixture("parity/gpt2-bare/"), drafter: "ngram", threads: 1 });
  const { text, tokens } = await engine.generate([1, 2, 3, 1, 2], { maxTokens: 6, seed: 1 });
  assert.deepEqual([text, tokens.length], ["", 6]);
  const missing = { name: "CheckpointError", message: /^Cannot load tokenizer .*: there is no / };
  await assert.rejects(engine.generate("text"), missing);
  await assert.rejects(engine.generate([1], { stop: ["."] }), missing);
  await assert.rejects(engine.generate([1, 97]), {
    name: "RangeError",
    message: "Cannot decode: prompt token 1 is 97, expected an integer in [0, 97)",
  });
});

Deno.test("a text that is far too long, or in tokens of another model, is refused before anything is computed", async () => {
  using pair = await loadEngine({ drafter: null, threads: 1 });
  let most = 0;
  const encode: Tokenizer["encode"] = (text, options) => {
    most = Math.max(most, text.length);
    return pair.tokenizer.encode(text, options);
  };
  const tokenizer = { encode, decode: pair.tokenizer.decode };
  using engine = await loadEngine({ tokenizer, drafter: null, threads: 1 });
  const text = "It was a dark night. ".repeat(10_000), context = engine.target.shape.contextLength;
  for (const refused of [engine.generate(text), engine.score(text)]) {
    await assert.rejects(refused, {
      name: "RangeError",
      message:
        `Cannot use a text of 210000 characters: it has more than ${2 * context} tokens, and the target's ` +
        `context is ${context}`,
    });
  }
  assert.equal(most, 16 * context);
  // few tokens may be many letters
  const long = { encode: (text: string) => Array(Math.ceil(text.length / 200)).fill(5), decode: () => "" };
  using patient = await loadEngine({ tokenizer: long, drafter: null, threads: 1 });
  assert.equal((await patient.score(".".repeat(40_000))).tokens.length, 200);

  const foreign = { encode: () => [3, 97], decode: () => "" };
  using other = await loadEngine({ target: fixture("parity/gpt2-bare/"), tokenizer: foreign, threads: 1 });
  await assert.rejects(other.generate("text"), {
    name: "TypeError",
    message:
      /^Cannot use the tokenizer: it made token 97 of the text, expected one below the target's 97; it is /,
  });
});

Deno.test("the end of a text is not held back, and of a draft that a stop string cuts only what is left counts", async () => {
  const target = fixture("parity/gpt2-bare/");
  const letters = (ids: number[]) => ids.map((id) => String.fromCharCode(0x4e00 + id)).join("");
  const generate = async (decode: (ids: number[]) => string, stop: string[]) => {
    const tokenizer = { encode: () => [], decode };
    // a drafter with the target's own law: every token is accepted
    using engine = await loadEngine({ target, drafter: target, drafterDtype: "f32", tokenizer, threads: 1 });
    return await engine.generate([1, 2, 3], { rule: "coupled", seed: 1, gamma: 5, maxTokens: 12, stop });
  };
  const { text, tokens } = await generate(letters, []);
  assert.deepEqual([text, tokens.length], [letters([...tokens]), 12]);
  assert.equal((await generate(letters, [`${text.at(-1)}.`])).text, text);
  const unfinished = await generate((ids) => "\ufffd".repeat(ids.length), []);
  assert.equal(unfinished.text, "\ufffd".repeat(12));
  const count = text.indexOf(text[2]) + 1;
  const cut = await generate(letters, [text[2]]);
  assert.deepEqual([cut.text, cut.tokens], [text.slice(0, count - 1), tokens.slice(0, count)]);
  assert.deepEqual([cut.stats.acceptedTokens, cut.stats.finishReason], [count, "stop"]);
});

Deno.test("an engine that is disposed of says so to what still runs", async () => {
  using engine = await loadEngine({ target: fixture("parity/gpt2-bare/"), drafter: "ngram", threads: 2 });
  const stream = engine.stream([1, 2, 3], { maxTokens: 40 });
  await stream.next();
  engine[Symbol.dispose]();
  await assert.rejects(stream.next(), /the WebAssembly backend: it is disposed/);
  await assert.rejects(engine.generate([1]), /it is disposed/);
});

Deno.test("logits that are no numbers end a generation, naming the model and the place", async () => {
  using backend = await createBackend("auto", { threads: 1 });
  const broken = async (name: string, tensor: string) => {
    using checkpoint = await openCheckpoint(fixture(`parity/${name}/`));
    const all = (await tensorsOf(checkpoint)).map((one) =>
      one.name === tensor ? { ...one, data: (one.data as Float32Array).map(() => 3e38) } : one
    );
    return await loadModel(await checkpointOf(checkpoint.config, all), backend);
  };
  const sound = await loadModel(await openCheckpoint(fixture("parity/gpt2-tiny/")), backend);
  const target = await broken("gpt2-tiny", "transformer.ln_f.bias");
  const drafter = await broken("sedd-tiny", "blocks.1.attn_qkv.weight");
  assert.ok(sound.kind === "causal" && target.kind === "causal" && drafter.kind === "diffusion");
  const run = async (model: CausalModel, drafter: Drafter) => {
    using _ = drafter;
    using target = new ModelTarget(model, backend);
    for await (const _ of speculate(target, drafter, [1, 2, 3], { gamma: 2, maxTokens: 8 }));
  };
  await assert.rejects(run(target.model, new NgramDrafter(320)), {
    name: "LogitsError",
    message:
      /^Cannot decode after 3 tokens: the (largest )?logit .*, as the target computed it; its weights may be damaged, or its dtype too narrow$/,
  });
  await assert.rejects(run(sound.model, new DiffusionDrafter(drafter.model, backend)), {
    name: "LogitsError",
    message: /^Cannot decode after 3 tokens: .*, as the drafter \(diffusion \(bidirectional\)\) computed it;/,
  });
  await assert.rejects(scoreTokens(target.model, [1, 2, 3]), {
    name: "LogitsError",
    message: "Cannot score a text: the logits after token 0 are not all finite",
  });
  for (const { model } of [sound, target, drafter]) model[Symbol.dispose]();
});

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
