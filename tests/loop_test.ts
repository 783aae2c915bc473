import assert from "node:assert/strict";
import { isExact, type Rule } from "../src/decode/acceptance.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import { type Distributions, HostDistributions } from "../src/decode/distributions.ts";
import type { Draft, Drafter, DraftRequest, Target } from "../src/decode/drafter.ts";
import { unlessAborted } from "../src/decode/event_loop.ts";
import type { Round } from "../src/decode/loop.ts";
import { StatisticsCollector } from "../src/decode/metrics.ts";
import { PhiloxSource, type RandomSource } from "../src/decode/random.ts";
import type { DraftPlan, DraftPolicy } from "../src/decode/policy.ts";
import { speculate, type SpeculateOptions } from "../src/decode/speculative.ts";
import { ToyPair } from "./toy.ts";

const V = 10;

/** Continues a text by counting: token n is followed by n + 1 mod 10, for certain. Notes how it is used. */
class Counter implements Target {
  readonly vocabSize = V;
  readonly contextLength: number;
  readonly scored: number[] = [];
  readonly truncated: number[] = [];
  fail = false;

  constructor(contextLength = 64) {
    this.contextLength = contextLength;
  }

  score(tokens: Int32Array, rows: number): Distributions {
    if (this.fail) throw new Error("out of memory");
    assert.ok(tokens.length <= this.contextLength && rows >= 1 && rows <= tokens.length);
    this.scored.push(tokens.length);
    return new HostDistributions(
      Array.from(tokens.slice(-rows), (token) => {
        const law = new Float64Array(V);
        law[(token + 1) % V] = 1;
        return law;
      }),
    );
  }

  truncate(length: number): void {
    this.truncated.push(length);
  }
}

/** Drafts by counting, but for every `wrong`-th position. Notes what it was asked. */
class CountingDrafter implements Drafter {
  readonly name = "counting";
  readonly vocabSize = V;
  readonly leftToRight = true;
  readonly asked: DraftRequest[] = [];
  readonly #wrong: number;

  constructor(wrong = Infinity) {
    this.#wrong = wrong;
  }

  draft(request: DraftRequest) {
    this.asked.push(request);
    const { tokens, gamma } = request;
    const drafted = Int32Array.from({ length: gamma }, (_, j) => {
      const position = tokens.length + j;
      return (tokens[tokens.length - 1] + j + 1 + (position % this.#wrong === 0 ? 5 : 0)) % V;
    });
    return { tokens: drafted, steps: new Int32Array(gamma), passes: 1 };
  }

  reset(): void {}

  [Symbol.dispose](): void {}
}

async function all(rounds: AsyncIterable<Round>): Promise<Round[]> {
  const found: Round[] = [];
  for await (const round of rounds) found.push(round);
  return found;
}

function tokensOf(rounds: readonly Round[]): number[] {
  return rounds.flatMap(({ tokens }) => tokens);
}

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

Deno.test("what makes no sense is refused, saying what was expected", async () => {
  const target = new Counter(8), drafter = new CountingDrafter();
  const decoding = (prompt: number[], options: SpeculateOptions) =>
    all(speculate(target, drafter, prompt, options));
  const cases: [Promise<unknown>, RegExp][] = [
    [decoding([], {}), /the prompt is empty/],
    [
      decoding([0, 1, 2, 3, 4, 5, 6, 7], {}),
      /the prompt has 8 tokens, expected at most 7, since the context is 8$/,
    ],
    [decoding([0, 10], {}), /prompt token 1 is 10, expected an integer in \[0, 10\)/],
    [decoding([0.5], {}), /prompt token 0 is 0.5/],
    [decoding([-1], {}), /prompt token 0 is -1/],
    [decoding([0], { maxTokens: 0 }), /maxTokens is 0, expected a positive integer/],
    [decoding([0], { maxTokens: 1.5 }), /maxTokens is 1.5/],
    [decoding([0], { maxTokens: NaN }), /maxTokens is NaN/],
    [decoding([0], { seed: 0.5 }), /0.5/],
    [decoding([0], { stopTokens: [3, 10] }), /a stop token is 10, expected an integer in \[0, 10\)/],
    [decoding([0], { stopTokens: [undefined as unknown as number] }), /a stop token is undefined/],
    [
      decoding([0], { sampling: { temperature: null as unknown as number } }),
      /temperature is null, expected/,
    ],
    [
      decoding([0], { sampling: { topP: "1" as unknown as number } }),
      /topP is "1", expected a number within/,
    ],
  ];
  await Promise.all(cases.map(([run, message]) => assert.rejects(run, { name: "RangeError", message })));
});

Deno.test("what does not fit together is refused at the call", () => {
  const target = new Counter(), drafter = new CountingDrafter();
  assert.throws(() => speculate(target, drafter, [0], { gamma: -1 }), RangeError);
  assert.throws(() => speculate(target, drafter, [0], { gamma: 1.5 }), RangeError);
  assert.throws(() => speculate(target, drafter, [0], { gamma: "many" as unknown as number }), {
    name: "RangeError",
    message: 'Cannot speculate: gamma is "many", expected a non-negative integer',
  });
  assert.throws(() => speculate(target, drafter, [0], { gamma: { next: () => 1 } as unknown as number }), {
    name: "TypeError",
    message: "Cannot speculate: the policy lacks a method, expected next and observe",
  });
  assert.throws(() => speculate(target, drafter, [0], { rule: "typical" as Rule }), {
    name: "TypeError",
    message: /unknown rule "typical", expected one of block, ordered/,
  });
  const reader = Object.assign(new CountingDrafter(), { hiddenLayers: [0] });
  assert.throws(() => speculate(target, reader, [0]), {
    name: "TypeError",
    message: /"counting" needs hidden states, but the target provides none/,
  });
  assert.throws(() => speculate(new ToyPair(1).target, drafter, [0]), {
    name: "RangeError",
    message: /the drafter has 10 tokens and the target 3, expected the same vocabulary/,
  });
  const anyOrder = Object.assign(new CountingDrafter(), { leftToRight: false });
  assert.throws(() => speculate(target, anyOrder, [0], { rule: "ratio" }), {
    name: "TypeError",
    message: /"counting" are not, expected one of block, ordered, match, coupled$/,
  });
});

Deno.test("a target is told what a drafter asks of it for each round, and not before the text begins", async () => {
  const kept: string[] = [];
  const target = Object.assign(new Counter(), {
    keepHidden: (layers: readonly number[]) => void kept.push(String(layers)),
    hiddenOf: () => [],
  });
  const reader = Object.assign(new CountingDrafter(), { hiddenLayers: [0, 2] });
  const first = speculate(target, reader, [0, 1], { maxTokens: 8, gamma: 1 });
  const second = speculate(target, new CountingDrafter(), [0], { maxTokens: 8, gamma: 1 });
  assert.deepEqual(kept, []);
  await first.next();
  assert.deepEqual(kept, ["0,2", "0,2"]); // the prompt, and a round
  await second.next();
  await first.next();
  assert.deepEqual(kept, ["0,2", "0,2", "", "0,2"]);
  await Promise.all([first.return(), second.return()]);
});

Deno.test("a drafter that drafts too much is refused", async () => {
  const drafter = new CountingDrafter();
  const greedy: Drafter = Object.assign(new CountingDrafter(), {
    draft: (request: DraftRequest) => drafter.draft({ ...request, gamma: request.gamma + 1 }),
  });
  await assert.rejects(
    all(speculate(new Counter(), greedy, [0], { gamma: 2 })),
    /drafted 3 tokens, expected at most 2/,
  );
});

Deno.test("a draft that is not what its drafter promised is refused, naming the drafter", async () => {
  const drafting = async (draft: unknown, options: SpeculateOptions = {}) => {
    const drafter = Object.assign(new CountingDrafter(), { draft: () => draft as Draft });
    await all(speculate(new Counter(), drafter, [0], { gamma: 2, maxTokens: 8, ...options }));
  };
  const tokens = Int32Array.of(1, 2), steps = new Int32Array(2), passes = 1;
  const narrow = new HostDistributions([[0, 1, 0], [0, 0, 1]].map((law) => Float64Array.from(law)));
  const cases: [unknown, SpeculateOptions, RegExp][] = [
    [
      { tokens: [1, 2], steps, passes },
      {},
      /"counting" drafted without its tokens or steps, expected an Int32Array for each$/,
    ],
    [{ tokens: Uint32Array.of(1, 2), steps, passes }, {}, /drafted without its tokens or steps/],
    [{ tokens, steps: [0, 0], passes }, {}, /drafted without its tokens or steps/],
    [{ steps, passes }, {}, /drafted without its tokens or steps/],
    [undefined, {}, /drafted without its tokens or steps/],
    [
      { tokens, steps: new Int32Array(1), passes },
      {},
      /drafted 2 tokens in 1 steps, expected a step for each/,
    ],
    [{ tokens: Int32Array.of(1, V), steps, passes }, {}, /drafted token 10, expected one in \[0, 10\)$/],
    [{ tokens: Int32Array.of(1, -1), steps, passes }, { rule: "block" }, /drafted token -1, expected one in/],
    [
      { tokens, steps: Int32Array.of(1, 0), passes },
      { rule: "ratio" },
      /drafted in the steps 1,0, expected an order from left to right, as it declares$/,
    ],
    [
      { tokens: Int32Array.of(1, 2, 3), steps: Int32Array.of(0, 2, 1), passes },
      { rule: "ratio", gamma: 3 },
      /drafted in the steps 0,2,1, expected an order from left to right/,
    ],
    [{ tokens, steps }, {}, /drafted in undefined passes, expected a non-negative integer$/],
    [
      { tokens, steps, passes, q: [[1]] },
      {},
      /with q = \[\[1\]\], expected an object with the methods row and/,
    ],
    [{ tokens, steps, passes, q: null }, {}, /drafted with q = null, expected/],
    [{ tokens, steps, passes, q: narrow }, {}, /a law of it has 3 entries, expected the target's 10$/],
  ];
  for (const [draft, options, message] of cases) {
    const name = /without its tokens|with q =/.test(message.source) ? "TypeError" : "RangeError";
    await assert.rejects(drafting(draft, options), { name, message });
  }
  await drafting({ tokens, steps: Int32Array.of(1, 0), passes }, { maxTokens: 3 }); // which ordered takes for what it is
});

Deno.test("a policy's gamma is looked at before anybody is asked for a draft of that length", async () => {
  for (const gamma of [NaN, 1.5, -1, "2", undefined]) {
    const drafter = new CountingDrafter();
    const policy = { next: () => ({ gamma: gamma as number }), observe: () => {} };
    await assert.rejects(all(speculate(new Counter(), drafter, [0], { gamma: policy })), {
      name: "RangeError",
      message: `Cannot speculate: gamma in the policy's plan is ${
        typeof gamma === "string" ? `"${gamma}"` : gamma
      }, expected a non-negative integer`,
    });
    assert.equal(drafter.asked.length, 0);
  }
});

Deno.test("a policy is told how much room there is, and of each round with what was planned for it", async () => {
  const pair = new ToyPair(1), rooms: number[] = [], plans: DraftPlan[] = [], drafted: number[] = [];
  const policy: DraftPolicy = {
    next(most) {
      rooms.push(most);
      plans.push({ gamma: 2, steps: 2 });
      return plans.at(-1)!;
    },
    observe({ draft }, plan) {
      assert.equal(plan, plans.at(-1));
      drafted.push(draft.length);
    },
  };
  const options = { gamma: policy, maxTokens: 6, seed: 1 };
  const rounds = await all(speculate(pair.target, pair.diffusion({}), [0, 1], options));
  const left = rounds.map((_, i) => 6 - rounds.slice(0, i).flatMap(({ tokens }) => tokens).length);
  assert.deepEqual(rooms, left.map((n) => n - 1)); // one is not drafted
  assert.deepEqual(drafted, rooms.map((most) => Math.min(2, most)));
});

Deno.test("a policy asks for no T but those that a drafter offers, whatever the rule is exact for", async () => {
  const pair = new ToyPair(1);
  const policy = { next: () => ({ gamma: 2, steps: 2 }), observe: () => {} };
  const drafting = (drafter: Drafter) =>
    all(speculate(pair.target, drafter, [0, 1], { gamma: policy, rule: "ratio" }));
  await assert.rejects(drafting(pair.diffusion({ order: "random" })), {
    name: "RangeError",
    message:
      'Cannot speculate: the policy\'s steps is 2, expected none, as "diffusion (bidirectional)" has its own',
  });
  const offered = Object.assign(pair.diffusion({}), { stepChoices: [1, 3] });
  await assert.rejects(drafting(offered), { message: /the policy's steps is 2, expected one of 1, 3$/ });
  await drafting(pair.diffusion({}));
});

Deno.test("a drafter may do with the text that it is given as it likes", async () => {
  const counting = new CountingDrafter(3);
  const spoiling: Drafter = Object.assign(new CountingDrafter(), {
    draft(request: DraftRequest) {
      const draft = counting.draft(request);
      request.tokens.fill(0);
      return draft;
    },
  });
  const rounds = await all(speculate(new Counter(), spoiling, [4, 5], { gamma: 3, maxTokens: 8 }));
  assert.deepEqual(rounds.flatMap(({ tokens }) => tokens), [6, 7, 8, 9, 0, 1, 2, 3]);
});

Deno.test("the drafter is told the rule's wishes", async () => {
  const asked = async (options: SpeculateOptions) => {
    const drafter = new CountingDrafter();
    await all(speculate(new Counter(), drafter, [0], { ...options, maxTokens: 3 }));
    return drafter.asked[0];
  };
  const sampling = { temperature: 0.7 };
  assert.deepEqual((await asked({ sampling })).sampling, sampling);
  assert.deepEqual((await asked({ sampling, rule: "match" })).sampling, { temperature: 0 });
  assert.deepEqual((await asked({ sampling, rule: "match", draftSampling: {} })).sampling, {});
  assert.equal((await asked({ rule: "coupled" })).coupled, true);
  assert.equal((await asked({ rule: "match" })).coupled, false);
  assert.equal((await asked({})).hidden, undefined);
});

Deno.test("statistics count rounds as they were", async () => {
  const collector = new StatisticsCollector({
    promptTokens: 2,
    drafter: { name: "counting", leftToRight: true },
    rule: "ordered",
    seed: 2n ** 64n - 1n,
  });
  assert.equal(collector.statistics().tokensPerSecond, 0);
  const rounds = await all(
    speculate(new Counter(), new CountingDrafter(6), [2, 3], { gamma: 3, maxTokens: 10 }),
  );
  for (const round of rounds.slice(0, 2)) collector.add(round);
  assert.equal(collector.statistics().finishReason, undefined);
  for (const round of rounds.slice(2)) collector.add(round);
  const { prefillMs, draftMs, verifyMs, otherMs, totalMs, timeToFirstTokenMs, tokensPerSecond, ...counts } =
    collector
      .statistics();
  // accepted 3 of 3, 0 of 3, 3 of 3, and a last plain step
  assert.deepEqual(counts, {
    drafter: "counting",
    rule: "ordered",
    exactness: "exact",
    seed: "18446744073709551615",
    finishReason: "length",
    promptTokens: 2,
    tokens: 10,
    rounds: 4,
    plainRounds: 1,
    draftTokens: 9,
    acceptedTokens: 6,
    draftPasses: 3,
    meanDraftPasses: 1,
    draftAcceptanceRate: 6 / 9,
    meanGamma: 9 / 4,
    meanAcceptanceLength: 2.5,
    meanAcceptedDraftTokens: 1.5,
    draftedPerPosition: [3, 3, 3],
    acceptedPerPosition: [2, 2, 2],
    acceptanceRatePerPosition: [2 / 3, 2 / 3, 2 / 3],
    acceptanceHistogram: [1, 0, 0, 2],
  });
  assert.ok([prefillMs, draftMs, verifyMs, otherMs].every((ms) => ms >= 0));
  assert.ok(Math.abs(prefillMs + draftMs + verifyMs + otherMs - totalMs) < 1e-6);
  assert.ok(timeToFirstTokenMs <= totalMs && timeToFirstTokenMs >= prefillMs);
  assert.ok(Math.abs(tokensPerSecond * (totalMs - prefillMs) - 1e4) < 1e-3);
});

Deno.test("statistics add times up, and the prompt's pass counts until the first token and not after it", () => {
  const collector = new StatisticsCollector({ promptTokens: 2 });
  const round = { tokens: [1, 2, 3], from: [], draft: [4, 5], accepted: 2, draftPasses: 1 };
  collector.add({ ...round, prefillMs: 40, draftMs: 1, verifyMs: 2, totalMs: 8 });
  collector.add({ ...round, prefillMs: 0, draftMs: 3, verifyMs: 4, totalMs: 16 });
  const { prefillMs, draftMs, verifyMs, otherMs, totalMs, timeToFirstTokenMs, tokensPerSecond } = collector
    .statistics();
  assert.deepEqual([prefillMs, draftMs, verifyMs, otherMs, totalMs], [40, 4, 6, 14, 64]);
  assert.equal(timeToFirstTokenMs, 48);
  assert.equal(tokensPerSecond, 250); // 6 tokens in 24 ms
});

Deno.test("statistics count no token that a stop token cut off, and drafts of which none is kept as a whole", () => {
  const collector = new StatisticsCollector({ promptTokens: 1 });
  const times = { draftPasses: 1, prefillMs: 0, draftMs: 1, verifyMs: 1, totalMs: 2 };
  collector.add({ ...times, tokens: [5], from: ["corrected"], draft: [1, 2, 3], accepted: 0 });
  collector.add({ ...times, tokens: [1, 2], from: ["accepted", "accepted"], draft: [1, 2, 3], accepted: 2 });
  const { meanAcceptanceLength, meanAcceptedDraftTokens, acceptanceHistogram } = collector.statistics();
  assert.deepEqual([meanAcceptanceLength, meanAcceptedDraftTokens], [1.5, 1]);
  assert.deepEqual(acceptanceHistogram, [1, 0, 1, 0]); // up to the longest draft
});

Deno.test("statistics say whether the text is exact", () => {
  const exactness = (rule: Rule, leftToRight: boolean) =>
    new StatisticsCollector({ promptTokens: 1, rule, drafter: { name: "", leftToRight } }).statistics()
      .exactness;
  assert.equal(exactness("paper", false), "lossy");
  assert.equal(exactness("paper", true), "exact");
  assert.equal(exactness("ordered", false), "exact");
  const plain = new StatisticsCollector({ promptTokens: 1 }).statistics();
  assert.deepEqual([plain.exactness, plain.drafter, plain.rule], ["exact", "none", "none"]);
});
