/**
 * What the decoding loops refuse, and what they tell targets, drafters and policies.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Rule } from "../src/decode/acceptance.ts";
import { HostDistributions } from "../src/decode/distributions.ts";
import type { Draft, Drafter, DraftRequest } from "../src/decode/drafter.ts";
import type { DraftPlan, DraftPolicy } from "../src/decode/policy.ts";
import { speculate, type SpeculateOptions } from "../src/decode/speculative.ts";
import { ToyPair } from "./toy.ts";
import { all, Counter, CountingDrafter, V } from "./counting.ts";

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
