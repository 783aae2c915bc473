/**
 * How the texts of an engine end: at stops, with the context, by a signal or a fault, and what is left then.
 */

import assert from "node:assert/strict";
import { loadEngine } from "../mod.ts";
import { createBackend } from "../src/backend/create.ts";
import {
  DiffusionDrafter,
  type Drafter,
  ModelTarget,
  NgramDrafter,
  scoreTokens,
  speculate,
} from "../src/decode/mod.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { encodeText } from "../src/hub/tokenizer.ts";
import { loadModel } from "../src/model/load.ts";
import type { CausalModel } from "../src/model/model.ts";
import { checkpointOf, fixture, tensorsOf } from "./helpers.ts";
import { ALL, PROMPT, withEngine } from "./pair_engine.ts";

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

Deno.test("a stop string that only the end of the text completes ends it", () =>
  withEngine(async (engine) => {
    const half = encodeText(engine.tokenizer, "\u00e9")[0]; // the first of its two bytes
    const tokenizer = { encode: () => [half], decode: () => "\ufffd" };
    using other = await loadEngine({ drafter: null, threads: 1, tokenizer });
    const { text, stats } = await other.generate([half], { maxTokens: 1, stop: "\ufffd" });
    assert.deepEqual([text, stats.finishReason], ["", "stop"]);
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

Deno.test("stop tokens that are asked for stand in place of the target's own", () =>
  withEngine(async (engine) => {
    // a seed whose sixth token ends a text
    const options = { drafter: null, seed: 103, temperature: 30, maxTokens: 12 };
    const own = await engine.generate("It was", options);
    assert.deepEqual([own.tokens.length, own.tokens.at(-1), own.stats.finishReason], [6, 0, "stop"]);
    const first = own.tokens.slice(0, 2);
    for (const [stopTokens, length] of [[[], 12], [[first[1]], 2]] as const) {
      const { text, tokens } = await engine.generate("It was", { ...options, stopTokens });
      assert.deepEqual([tokens.length, tokens.slice(0, 2)], [length, first]);
      assert.equal(text.includes("<|endoftext|>"), length === 12);
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
    await assert.rejects(engine.generate(new Array(contextLength).fill(5)), /expected at most 255/);
  }));

Deno.test("a text's cache has room for the text, and not for the whole context", () =>
  withEngine(async (engine) => {
    const capacities: unknown[] = [], target: CausalModel = engine.target;
    const newCache = target.newCache.bind(target);
    target.newCache = (capacity) => (capacities.push(capacity), newCache(capacity));
    try {
      for (const maxTokens of [1, 100, 10_000]) {
        for (const drafter of [null, "gpt2"]) {
          const { stats } = await engine.generate(PROMPT, { drafter, maxTokens, seed: 1, stopTokens: [] });
          assert.equal(stats.finishReason, maxTokens === 10_000 ? "context" : "length");
        }
      }
    } finally {
      target.newCache = newCache;
    }
    assert.deepEqual(capacities, [128, 128, 128, 128, 256, 256]);
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

Deno.test("the end of a text is not held back, and of a draft that a stop string cuts only what is left counts", async () => {
  const target = fixture("parity/gpt2-bare/");
  const letters = (ids: number[]) => ids.map((id) => String.fromCharCode(0x4e00 + id)).join("");
  const generate = async (decode: (ids: number[]) => string, stop: string[]) => {
    const tokenizer = { encode: () => [], decode };
    // a drafter with the target's own law: every token is accepted
    using engine = await loadEngine({ target, drafter: target, draftDtype: "f32", tokenizer, threads: 1 });
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
