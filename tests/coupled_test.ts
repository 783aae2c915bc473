/**
 * The promise of the same text: under `match` and `coupled` at any temperature, and under every rule at
 * temperature 0, speculative decoding gives plain decoding's text with the same seed, token for token.
 */

import assert from "node:assert/strict";
import type { Sampling } from "../src/backend/backend.ts";
import { isExact, type Rule, rules } from "../src/decode/acceptance.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import { HostDistributions } from "../src/decode/distributions.ts";
import type { Drafter } from "../src/decode/drafter.ts";
import type { Round } from "../src/decode/loop.ts";
import { NgramDrafter } from "../src/decode/ngram_drafter.ts";
import { speculate } from "../src/decode/speculative.ts";
import { ToyPair } from "./toy.ts";

const PROMPT = [3, 1, 4, 1];
const MAX_TOKENS = 20;

/** Reads the target's noise, and is right or wrong as it pleases, in an order of reveal it makes up. */
function adversary(pair: ToyPair): Drafter {
  return {
    name: "adversary",
    vocabSize: pair.vocabSize,
    leftToRight: false,
    draft: ({ tokens, gamma, random }) => {
      const text = [...tokens];
      const drafted = Array.from({ length: gamma }, (_, j) => {
        const law = new HostDistributions([Float64Array.from(pair.model.law(text))]);
        const token = random.race(law, 0, text.length);
        text.push(token);
        return text.length % 4 === 0 ? (token + 1 + j) % pair.vocabSize : token;
      });
      const steps = Int32Array.from(drafted, (token) => token);
      return { tokens: Int32Array.from(drafted), steps, passes: 0 };
    },
    reset() {},
    [Symbol.dispose]() {},
  };
}

function drafters(pair: ToyPair): Drafter[] {
  return [
    pair.diffusion({ steps: 1 }),
    pair.diffusion({ steps: 3, order: "random" }),
    pair.diffusion({ steps: 2, order: "confidence", hotStart: true }),
    pair.diffusion({ steps: 2, contextCache: { recent: 1, refresh: 3 } }),
    pair.markov({ steps: 1 }),
    pair.markov({ steps: 3, order: "confidence", draftContext: 4 }),
    pair.fed({ steps: 1 }),
    pair.fed({ steps: 3, order: "random", draftContext: 4, hotStart: true }),
    pair.autoregressive(),
    new NgramDrafter(pair.vocabSize),
    adversary(pair),
  ];
}

async function textOf(rounds: AsyncIterable<Round>): Promise<{ text: number[]; rounds: number }> {
  const text: number[] = [];
  let count = 0;
  for await (const { tokens } of rounds) {
    text.push(...tokens);
    count++;
  }
  return { text, rounds: count };
}

async function compare(
  samplings: readonly Sampling[],
  rulesOf: (drafter: Drafter) => readonly Rule[],
): Promise<void> {
  let rounds = 0, texts = 0;
  for (let seed = 0; seed < 60; seed++) {
    const pair = new ToyPair(seed % 6, 5);
    const sampling = samplings[seed % samplings.length];
    const options = { seed, sampling, maxTokens: MAX_TOKENS };
    const plain = await textOf(autoregress(pair.target, PROMPT, options));
    assert.equal(plain.text.length, MAX_TOKENS);
    for (const drafter of drafters(pair)) {
      for (const rule of rulesOf(drafter)) {
        const gamma = 1 + (seed + texts) % 5;
        const speculated = await textOf(speculate(pair.target, drafter, PROMPT, { ...options, rule, gamma }));
        assert.deepEqual(
          speculated.text,
          plain.text,
          `${rule}, ${drafter.name}, seed ${seed}, gamma ${gamma}`,
        );
        rounds += speculated.rounds;
        texts++;
      }
    }
  }
  // with hardly anything accepted, hardly anything would have been compared
  assert.ok(rounds < 0.9 * texts * MAX_TOKENS, `${rounds} rounds for ${texts} texts`);
}

Deno.test("coupled and match give the text of plain decoding at any temperature", async () => {
  const samplings = [{}, { temperature: 0.4 }, { temperature: 2 }, { topK: 3 }, {
    topP: 0.7,
    temperature: 1.3,
  }];
  await compare(samplings, () => ["coupled", "match"]);
});

Deno.test("every rule gives the text of plain decoding at temperature 0", async () => {
  await compare(
    [{ temperature: 0 }],
    (drafter) => rules.filter((rule) => rule === "paper" || isExact(rule, drafter.leftToRight)),
  );
});

Deno.test("a coupled drafter of the target's own law has every token accepted", async () => {
  const pair = new ToyPair(1, 5);
  const drafter = pair.diffusion({ steps: 3, share: 1 });
  for (let seed = 0; seed < 5; seed++) {
    const options = { seed, rule: "coupled", gamma: 3, maxTokens: 12 } as const;
    for await (const { draft, accepted } of speculate(pair.target, drafter, PROMPT, options)) {
      assert.equal(accepted, draft.length);
    }
  }
});

Deno.test("other seeds give other texts, the same seed the same", async () => {
  const pair = new ToyPair(2, 5);
  const drafter = pair.diffusion({ steps: 2, order: "random" });
  for (const rule of ["ordered", "coupled"] as const) {
    const texts = [];
    for (const seed of [1, 2, 3, 1n, 2n]) {
      const { text } = await textOf(
        speculate(pair.target, drafter, PROMPT, { seed, rule, maxTokens: MAX_TOKENS }),
      );
      texts.push(text.join());
    }
    assert.equal(new Set(texts).size, 3);
    assert.deepEqual(texts.slice(3), texts.slice(0, 2));
    const free = [];
    for (let i = 0; i < 3; i++) {
      free.push(
        (await textOf(speculate(pair.target, drafter, PROMPT, { rule, maxTokens: MAX_TOKENS }))).text.join(),
      );
    }
    assert.equal(new Set(free).size, 3);
  }
});
