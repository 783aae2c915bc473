/**
 * The decoding loops: rounds, how texts end, what a text that was left leaves behind, and texts at once.
 *
 * @module
 */

import assert from "node:assert/strict";
import { isExact } from "../src/decode/acceptance.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import type { Drafter, Target } from "../src/decode/drafter.ts";
import { unlessAborted } from "../src/decode/event_loop.ts";
import { PhiloxSource, type RandomSource } from "../src/decode/random.ts";
import { speculate, type SpeculateOptions } from "../src/decode/speculative.ts";
import { ToyPair } from "./toy.ts";
import { all, Counter, CountingDrafter, tokensOf, V } from "./counting.ts";

Deno.test("a round tells what was drafted, accepted and emitted, and from where", async () => {
  const rounds = await all(
    speculate(new Counter(), new CountingDrafter(6), [2, 3], { gamma: 3, maxTokens: 9 }),
  );
  assert.deepEqual(
    rounds.map(({ draft, tokens, from, accepted, finishReason }) => ({
      draft,
      tokens,
      from,
      accepted,
      finishReason,
    })),
    [
      {
        draft: [4, 5, 6],
        tokens: [4, 5, 6, 7],
        from: ["accepted", "accepted", "accepted", "bonus"],
        accepted: 3,
        finishReason: undefined,
      },
      { draft: [3, 9, 0], tokens: [8], from: ["corrected"], accepted: 0, finishReason: undefined },
      {
        draft: [9, 0, 1],
        tokens: [9, 0, 1, 2],
        from: ["accepted", "accepted", "accepted", "bonus"],
        accepted: 3,
        finishReason: "length",
      },
    ],
  );
});

Deno.test("plain decoding emits one token per round, the target's", async () => {
  const target = new Counter();
  const rounds = await all(autoregress(target, [7, 8], { maxTokens: 3 }));
  assert.deepEqual(rounds.map(({ tokens, from, draft }) => [tokens, from, draft]), [
    [[9], ["target"], []],
    [[0], ["target"], []],
    [[1], ["target"], []],
  ]);
  assert.deepEqual(target.scored, [1, 2, 3, 4]); // the prompt but its last token, then a row for each token
  assert.equal(rounds.at(-1)!.finishReason, "length");
});

Deno.test("gamma shrinks to what is left, and a round without a draft is a plain step", async () => {
  for (let maxTokens = 1; maxTokens <= 12; maxTokens++) {
    for (const gamma of [0, 1, 2, 5, 40]) {
      const drafter = new CountingDrafter();
      const rounds = await all(speculate(new Counter(), drafter, [0], { gamma, maxTokens }));
      assert.deepEqual(tokensOf(rounds), Array.from({ length: maxTokens }, (_, i) => (i + 1) % V));
      for (const { gamma: asked, tokens } of drafter.asked) {
        assert.ok(asked >= 1 && asked <= gamma && asked <= maxTokens - tokens.length);
      }
      assert.ok(rounds.every(({ draft, from }) => draft.length > 0 || from[0] === "target"));
      assert.equal(rounds.length, Math.ceil(maxTokens / (gamma + 1)));
    }
  }
});

Deno.test("a text may grow for as long as its reader wants", async () => {
  let length = 2;
  for await (const { tokens } of autoregress(new Counter(Infinity), [1, 2])) {
    assert.deepEqual(tokens, [++length % V]);
    if (length === 3000) break;
  }
});

Deno.test("a text ends with the target's context", async () => {
  for (const gamma of [0, 3]) {
    const target = new Counter(8);
    const rounds = await all(speculate(target, new CountingDrafter(), [0, 1, 2], { gamma }));
    assert.deepEqual(tokensOf(rounds), [3, 4, 5, 6, 7]);
    assert.equal(rounds.at(-1)!.finishReason, "context");
    assert.ok(Math.max(...target.scored) <= 7); // the last token is emitted and never read
  }
  for (const maxTokens of [1, 5]) { // five fill it, and no more were asked for
    const rounds = await all(autoregress(new Counter(8), [0, 1, 2], { maxTokens }));
    assert.equal(rounds.length, maxTokens);
    assert.equal(rounds.at(-1)!.finishReason, "length");
  }
});

Deno.test("a stop token ends the text wherever it stands in a round", async () => {
  for (let stop = 1; stop <= 9; stop++) {
    for (const wrong of [Infinity, 2, 3, 4]) {
      const target = new Counter();
      const options = { gamma: 4, stopTokens: [stop], maxTokens: 30 };
      const rounds = await all(speculate(target, new CountingDrafter(wrong), [0], options));
      assert.deepEqual(tokensOf(rounds), Array.from({ length: stop }, (_, i) => i + 1));
      const { tokens, from, accepted, finishReason } = rounds.at(-1)!;
      assert.equal(finishReason, "stop");
      assert.equal(from.length, tokens.length);
      assert.equal(from.filter((origin) => origin === "accepted").length, accepted);
      assert.equal(tokens.at(-1), stop);
      assert.ok(target.truncated.at(-1)! <= 1 + stop);
    }
  }
});

Deno.test("the target is rolled back to what it has seen of the text after each round", async () => {
  const target = new Counter();
  await all(speculate(target, new CountingDrafter(6), [2, 3], { gamma: 3, maxTokens: 9 }));
  // three accepted, none accepted, three accepted; then once more on leaving
  assert.deepEqual(target.truncated, [5, 6, 10, 10]);
});

Deno.test("a loop that was left early or failed leaves target and drafter usable", async () => {
  const pair = new ToyPair(3, 4);
  const drafter = pair.markov({ steps: 2 });
  const options: SpeculateOptions = { seed: 5, gamma: 3, maxTokens: 16 };
  const fresh = new ToyPair(3, 4);
  const expected = tokensOf(await all(speculate(fresh.target, fresh.markov({ steps: 2 }), [1, 2], options)));
  const again = async () => tokensOf(await all(speculate(pair.target, drafter, [1, 2], options)));

  for await (const { finishReason } of speculate(pair.target, drafter, [3, 0, 1], options)) {
    assert.equal(finishReason, undefined);
    break;
  }
  assert.deepEqual(await again(), expected);

  const broken: Drafter = {
    ...{ name: "broken", vocabSize: 4, leftToRight: true, reset() {}, [Symbol.dispose]() {} },
    draft: (request) => {
      if (request.tokens.length > 8) throw new Error("the drafter broke");
      return drafter.draft(request);
    },
  };
  await assert.rejects(all(speculate(pair.target, broken, [1, 2], options)), /the drafter broke/);
  assert.deepEqual(await again(), expected);

  const controller = new AbortController();
  await assert.rejects(async () => {
    for await (const _ of speculate(pair.target, drafter, [2], { ...options, signal: controller.signal })) {
      controller.abort(new Error("enough"));
    }
  }, /enough/);
  assert.deepEqual(await again(), expected);

  const target = new Counter();
  target.fail = true;
  await assert.rejects(all(autoregress(target, [1], {})), /out of memory/);
  assert.deepEqual(target.truncated, [0]);
});

Deno.test("a signal that is aborted already ends the loop before anything is computed", async () => {
  const target = new Counter();
  await assert.rejects(all(autoregress(target, [1, 2], { signal: AbortSignal.abort() })), {
    name: "AbortError",
  });
  assert.deepEqual(target.scored, []);
});

Deno.test("who waited for a promise leaves no listener on the signal", async () => {
  const controller = new AbortController(), { signal } = controller, listeners = new Set<unknown>();
  const add = signal.addEventListener.bind(signal), remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (type: string, listener: EventListener) => {
    listeners.add(listener);
    add(type, listener);
  };
  signal.removeEventListener = (type: string, listener: EventListener) => {
    listeners.delete(listener);
    remove(type, listener);
  };
  assert.equal(await unlessAborted(Promise.resolve(5), signal), 5);
  await assert.rejects(unlessAborted(Promise.reject(new Error("its own")), signal), /its own/);
  const never = unlessAborted(new Promise(() => {}), signal);
  assert.equal(listeners.size, 1);
  controller.abort(new Error("enough"));
  await assert.rejects(never, /enough/);
  assert.equal(listeners.size, 0);
});

Deno.test("timers run while a loop computes, however it is awaited", async () => {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 1);
  // nothing in here ever waits: without turns of the event loop the text would be finished first
  await assert.rejects(all(autoregress(new Counter(1e6), [1], { signal: controller.signal })), {
    name: "AbortError",
  });
});

Deno.test({
  name: "signals are heard while a loop computes, within some passes",
  ignore: Deno.build.os === "windows",
  async fn() {
    let heard = 0;
    const listener = () => heard++;
    const target = new Counter(1e6), score = target.score.bind(target);
    target.score = (tokens, rows) => {
      for (const began = performance.now(); performance.now() - began < 40;);
      return score(tokens, rows);
    };
    Deno.addSignalListener("SIGUSR2", listener);
    try {
      for (let time = 1; time <= 4; time++) { // once may be luck
        let rounds = 0;
        for await (const _ of autoregress(target, [1], { maxTokens: 60 })) {
          if (rounds++ === 0) Deno.kill(Deno.pid, "SIGUSR2");
          if (heard === time) break;
        }
        assert.ok(rounds <= 6, `heard after ${rounds} passes`);
      }
    } finally {
      Deno.removeSignalListener("SIGUSR2", listener);
    }
  },
});

Deno.test("two texts at once on one target, or with one drafter, are refused, and the first is not disturbed", async () => {
  const prompt = [0, 1, 0], options = { seed: 5, maxTokens: 6, gamma: 3 };
  const read = async (rounds: AsyncIterable<{ readonly tokens: readonly number[] }>) => {
    const tokens: number[] = [];
    for await (const round of rounds) tokens.push(...round.tokens);
    return tokens;
  };
  const pair = new ToyPair(1), other = new ToyPair(1);
  const expected = await read(speculate(pair.target, pair.markov({ steps: 1 }), prompt, options));
  const drafter = pair.markov({ steps: 1 });
  for (const target of [pair.target, other.target]) { // the same target, another one
    const [first, second] = await Promise.allSettled(
      [pair.target, target].map((target) => read(speculate(target, drafter, prompt, options))),
    );
    assert.deepEqual(first, { status: "fulfilled", value: expected });
    assert.equal(second.status, "rejected");
    assert.match(
      String(second.reason),
      /^Error: Cannot decode: the (target|drafter ".*") is in the middle of /,
    );
  }
});

Deno.test("a text that is left while another has its round on the target leaves that one's alone", async () => {
  const counter = new Counter(), began = Promise.withResolvers<void>(), gate = Promise.withResolvers<void>();
  const target: Target = {
    vocabSize: V,
    contextLength: 64,
    async score(tokens, rows) {
      if (tokens[0] === 4) {
        began.resolve();
        await gate.promise;
      }
      return counter.score(tokens, rows);
    },
    truncate: (length) => counter.truncate(length),
  };
  const first = autoregress(target, [1, 2]), second = autoregress(target, [4]);
  await first.next();
  const round = second.next();
  await began.promise;
  const before = [...counter.truncated];
  await first.return();
  assert.deepEqual(counter.truncated, before);
  gate.resolve();
  assert.deepEqual((await round).value!.tokens, [5]);
  await second.return();
  assert.deepEqual(counter.truncated, [...before, 1, 1]);
});

Deno.test("no noise decides twice in a text", async () => {
  const pair = new ToyPair(1, 5);
  const drafters = [
    pair.diffusion({ steps: 3, order: "random" }),
    pair.diffusion({ steps: 3, order: "random", hotStart: true }),
    pair.markov({ steps: 1 }),
    pair.fed({ steps: 2 }),
    pair.autoregressive(),
  ];
  for (const drafter of drafters) {
    for (const rule of ["ordered", "ratio", "block", "paper", "match"] as const) {
      if (rule !== "paper" && !isExact(rule, drafter.leftToRight)) continue;
      let decisions = 0;
      // short texts too: where γ shrinks, so does the number of steps
      for (let seed = 0; seed < 20; seed++) {
        const source = new PhiloxSource(seed), used = new Set<string>();
        const fresh = (purpose: number, position: number, draw = 0) => {
          const key = [purpose, position, draw];
          assert.ok(!used.has(`${key}`), `${rule}: purpose, position, draw = ${key}`);
          used.add(`${key}`);
          decisions++;
        };
        const random: RandomSource = {
          bernoulli: (probability, ...key) => (fresh(...key), source.bernoulli(probability, ...key)),
          choose: (weights, ...key) => (fresh(...key), source.choose(weights, ...key)),
          race: (...race) => source.race(...race), // made to be shared
        };
        await all(speculate(pair.target, drafter, [0, 1], { rule, gamma: 5, maxTokens: 2 + seed, random }));
      }
      assert.ok(decisions > 20 * 10);
    }
  }
});
