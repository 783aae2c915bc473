/**
 * What an engine may be asked for, and what it says to the rest: options, prompts, tokenizers, rules.
 */

import assert from "node:assert/strict";
import {
  type EngineOptions,
  type GenerateOptions,
  type HubOptions,
  loadEngine,
  type Tokenizer,
} from "../mod.ts";
import type { Rule } from "../src/decode/acceptance.ts";
import { scoreTokens } from "../src/decode/score.ts";
import { pullModel } from "../src/hub/models.ts";
import { encodeText } from "../src/hub/tokenizer.ts";
import { fixture } from "./helpers.ts";
import { PROMPT, withEngine } from "./pair_engine.ts";

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
        message: /^Cannot use the text: it is .*, expected a string or a list of token ids$/,
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

Deno.test("a list of far too many tokens is refused by its length alone", async () => {
  await withEngine(async (engine) => {
    const list = Object.defineProperty({ length: 4e9 }, 0, { get: () => assert.fail("it was read") });
    const tokens = list as { length: number };
    await assert.rejects(engine.generate(tokens), {
      name: "RangeError",
      message:
        "Cannot decode: the prompt has 4000000000 tokens, expected at most 255, since the context is 256",
    });
    for (const score of [engine.score(tokens), scoreTokens(engine.target, tokens)]) {
      await assert.rejects(score, {
        name: "RangeError",
        message: "Cannot score a text: it has 4000000000 tokens, expected 1 to 256, the target's context",
      });
    }
  });
});

Deno.test("an engine is not loaded with options of the wrong kind, and the hub is not used", async () => {
  const dtypes = "expected one of f32, f16, bf16, int8";
  const loading: [options: unknown, message: string][] = [
    [
      { drafters: [] },
      'there is no option "drafters", expected one of target, drafter, tokenizer, device, draftDevice, dtype, ' +
      "draftDtype, threads, hub, onProgress, signal",
    ],
    [{ threads: "2" }, 'threads is "2", expected a number'],
    [{ dtype: "fp16" }, `dtype is "fp16", ${dtypes}`],
    [{ draftDtype: "INT8" }, `draftDtype is "INT8", ${dtypes}`],
    [{ hub: "cache" }, 'hub is "cache", expected an object'],
  ];
  for (const [options, message] of loading) {
    await assert.rejects(loadEngine(options as EngineOptions), {
      name: "TypeError",
      message: `Cannot load an engine: ${message}`,
    });
  }
  const hub: [options: unknown, message: string][] = [
    [{ cacheDir: 5 }, "cacheDir is 5, expected a string"],
    [{ token: 5 }, "token is 5, expected a string or null"],
    [{ offline: "yes" }, 'offline is "yes", expected true or false'],
    [{ timeout: "9" }, 'timeout is "9", expected a number'],
    [{ signal: {} }, "signal is {}, expected an AbortSignal"],
  ];
  for (const [options, message] of hub) {
    const expected = { name: "TypeError", message: `Cannot use the hub: ${message}` };
    await assert.rejects(loadEngine({ hub: options as HubOptions }), expected);
    await assert.rejects(pullModel("owner/name", options as HubOptions), expected);
  }
});

Deno.test("options of the wrong kind are refused in one message, with text in quotes", () =>
  withEngine(async (engine) => {
    const cases: [options: unknown, message: string][] = [
      [null, "the options are null, expected an object"],
      [
        { max_tokens: 2 },
        'there is no option "max_tokens", expected one of drafter, rule, gamma, seed, order, contextCache, sigma, ' +
        "hotStart, stop, stopTokens, costs, temperature, topK, topP, maxTokens, steps, draftContext, signal",
      ],
      [{ hotStart: "x" }, 'hotStart is "x", expected true or false'],
      [{ gamma: null }, 'gamma is null, expected a number or "auto"'],
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
    const ids = encodeText(engine.tokenizer, PROMPT), settings = { seed: 1, maxTokens: 9 };
    assert.deepEqual(
      (await engine.generate(BigInt64Array.from(ids, BigInt), settings)).tokens,
      (await engine.generate(ids, settings)).tokens,
    );
    await assert.rejects(
      engine.generate(PROMPT, { topK: -1 }),
      /topK is -1, expected .* at least 0, which is all/,
    );
    for (const gamma of [2, "auto"] as const) {
      await assert.rejects(engine.generate(PROMPT, { gamma, rule: "x" as Rule }), {
        name: "TypeError",
        message:
          'Cannot speculate: unknown rule "x", expected one of block, ordered, ratio, match, coupled, paper',
      });
    }
    await assert.rejects(engine.generate(["a"] as unknown as number[]), {
      name: "RangeError",
      message: 'Cannot decode: prompt token 0 is "a", expected an integer in [0, 2048)',
    });
    for (const sigma of ["a", "3"]) {
      await assert.rejects(
        engine.generate(PROMPT, { sigma: sigma as "schedule" }),
        new RegExp(`sigma is "${sigma}", expected a pos`),
      );
    }
    await assert.rejects(
      engine.generate(PROMPT, { costs: [1], gamma: "1" as "auto" }),
      /gamma is "1", expected a number or "auto"/,
    );
  }));

Deno.test("a drafter refuses options it does not use; plain decoding takes all of them", () =>
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
        message: `Cannot draft with "${drafter}": it does not use steps, hotStart`,
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

Deno.test("the rule is block, which takes any draft, unless another is asked for", () =>
  withEngine(async (engine) => {
    const ruleOf = async (options: GenerateOptions) =>
      (await engine.generate(PROMPT, { ...options, maxTokens: 4 })).stats.rule;
    const anyOrder = { steps: 2, order: "random" } as const;
    for (const options of [{}, { drafter: "ngram" }, { drafter: "sedd-causal", ...anyOrder }]) {
      assert.equal(await ruleOf(options), "block");
      assert.equal(await ruleOf({ ...options, rule: "ordered" }), "ordered");
    }
    assert.equal(await ruleOf({ drafter: null, rule: "ordered" }), "none");
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
    await assert.rejects(engine.generate(PROMPT, { ...anyOrder, rule: "ratio" }), TypeError);
    await assert.rejects(engine.generate(PROMPT, { rule: "ratio", hotStart: true, maxTokens: 8 }), TypeError);
    const label = async (rule: Rule) =>
      (await engine.generate(PROMPT, { ...anyOrder, rule })).stats.exactness;
    assert.equal(await label("paper"), "lossy");
    for (const rule of ["block", "ordered"] as const) assert.equal(await label(rule), "exact");
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
    message: /^Cannot use the tokenizer: it produced token 97, expected one below the target's 97; it /,
  });
});
