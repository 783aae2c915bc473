/**
 * The statistics of a text.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Rule } from "../src/decode/acceptance.ts";
import { StatisticsCollector } from "../src/decode/metrics.ts";
import { speculate } from "../src/decode/speculative.ts";
import { all, Counter, CountingDrafter } from "./counting.ts";

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
