/**
 * γ chosen while decoding, against fixed γ: a drafter and a target that are nothing but rates of acceptance and
 * costs, on a clock that only these move.
 */

import assert from "node:assert/strict";
import { DraftController } from "../src/decode/controller.ts";
import { CostProfile } from "../src/decode/cost_profile.ts";
import type { DraftPolicy } from "../src/decode/policy.ts";
import { PhiloxSource, Purpose } from "../src/decode/random.ts";

/** A machine with a pair of models on it. */
interface Pair {
  /** [longest draft + 1] time of a round by γ; of a plain step: 1. */
  readonly costs: readonly number[];
  /** Rate of acceptance of index j of a draft in T steps at a position of the text. */
  readonly rate: (j: number, position: number, steps: number) => number;
  /** Time a drafter takes to read a token that came by a plain step. @default 0 */
  readonly reading?: number;
  /** The drafter's share of a round with a draft in one step. @default 0 */
  readonly share?: number;
  /** Time of each further step. @default 0 */
  readonly step?: number;
}

/** Passes over several rows cost dear; the drafter is cheap. The embedded GPT-2, roughly. */
const CPU = [1, 1.38, 1.85, 2.25, 2.65, 3.1, 3.5, 3.95, 4.4];
/** The same with a drafter that costs more, and little more for a longer draft. The embedded SEDD, roughly. */
const CPU_DIFFUSION = [1, 1.6, 1.9, 2.2, 2.6, 3, 3.4, 3.8, 4.2];
/** Rows cost next to nothing, a draft of any length as much as some plain steps. */
const GPU_DIFFUSION = Array.from({ length: 17 }, (_, gamma) => gamma === 0 ? 1 : 1.3 + 0.01 * gamma);
/** Rows cost next to nothing, a drafted token a tenth of a plain step. */
const GPU = Array.from({ length: 17 }, (_, gamma) => 1 + 0.1 * gamma);

const fixed = (gamma: number, steps = 1): DraftPolicy => ({
  next: () => ({ gamma, steps }),
  observe: () => {},
});

/**
 * The time that a text takes.
 * @param jitter the policy is told times that are off by up to this share, now and then by a pause, and that are
 * twice as long in one of ten stretches of 32 tokens, as if others used the machine
 */
function timeOf(
  { costs, rate, reading = 0, share = 0, step = 0 }: Pair,
  policy: DraftPolicy,
  tokens: number,
  seed: number,
  jitter = 0,
): number {
  const random = new PhiloxSource(seed);
  let time = 0, unread = 0;
  for (let position = 0; position < tokens;) {
    const most = tokens - position - 1;
    const plan = policy.next(most),
      gamma = Math.min(plan.gamma, most),
      steps = Math.min(plan.steps ?? 1, gamma);
    let accepted = 0;
    while (
      accepted < gamma &&
      random.uniform(Purpose.accept, position, accepted) < rate(accepted, position, steps)
    ) accepted++;
    const draftMs = gamma > 0 ? unread * reading + share * costs[gamma] + (steps - 1) * step : 0;
    const verifyMs = gamma > 0 ? (1 - share) * costs[gamma] : costs[0];
    const draft = new Int32Array(gamma);
    const off = 1 + jitter * (2 * random.uniform(Purpose.reveal, position) - 1);
    const shared = jitter > 0 && random.uniform(Purpose.reveal, position >> 5, 2) < 0.1 ? 2 : 1;
    const told = shared * (jitter > 0 && random.uniform(Purpose.reveal, position, 1) < 0.01 ? 4 : off);
    const ms = { draftMs: told * draftMs, verifyMs: told * verifyMs };
    policy.observe({ draft, accepted, token: 0, origin: "target", draftPasses: 1, ...ms }, plan);
    unread = gamma > 0 ? 0 : unread + 1;
    time += draftMs + verifyMs;
    position += accepted + 1;
  }
  return time;
}

/** The mean time of some texts. */
function meanTime(pair: Pair, policy: () => DraftPolicy, tokens: number, texts: number): number {
  let sum = 0;
  for (let seed = 1; seed <= texts; seed++) sum += timeOf(pair, policy(), tokens, seed);
  return sum / texts;
}

/** The time that each fixed γ takes, the least of which the chosen ones are held to. */
function bestFixed(pair: Pair, tokens: number, texts: number): number {
  return Math.min(...pair.costs.map((_, gamma) => meanTime(pair, () => fixed(gamma), tokens, texts)));
}

const RATES: [string, Pair["rate"]][] = [
  ["0.95", () => 0.95],
  ["0.8", () => 0.8],
  ["0.62", () => 0.62],
  ["0.4", () => 0.4],
  ["falling", (j) => [0.56, 0.34, 0.27][j] ?? 0.25],
];

Deno.test("the chosen γ are within 5 % of the best fixed one, on any machine and for any drafter", () => {
  for (const costs of [CPU, CPU_DIFFUSION, GPU_DIFFUSION, GPU]) {
    for (const [label, rate] of RATES) {
      const pair = { costs, rate }, best = bestFixed(pair, 1000, 6);
      for (
        const make of [() => new DraftController(costs), () => new DraftController(new CostProfile(costs))]
      ) {
        const ratio = meanTime(pair, make, 1000, 6) / best;
        assert.ok(ratio < 1.05, `${costs.slice(0, 3)}, rate ${label}: ${ratio.toFixed(3)} times the best`);
      }
    }
  }
});

Deno.test("the chosen γ are within 5 % of the best fixed one in short texts too, on a clock that jitters", () => {
  // the embedded pair, as measured; of two tokens, two to three are worth their time, but not by much
  const pairs: readonly Pair[] = [
    {
      costs: [1, 1.44, 1.61, 1.8, 2.24],
      rate: (j) => [0.57, 0.47, 0.4, 0.35][j],
      reading: 0.05,
      share: 0.15,
    },
    {
      costs: [1, 1.46, 1.67, 1.88, 2.34],
      rate: (j) => [0.73, 0.72, 0.7, 0.68][j],
      reading: 0.03,
      share: 0.18,
    },
    { costs: [1, 1.35, 1.61, 1.89, 2.42], rate: (j) => [0.62, 0.6, 0.6, 0.6][j], reading: 0.03, share: 0.15 },
    { costs: [1, 1.67, 1.85, 2.05, 2.5], rate: (j) => [0.52, 0.3, 0.25, 0.2][j], share: 0.25 },
  ];
  const texts = 60, tokens = 128;
  for (const pair of pairs) {
    const best = bestFixed(pair, tokens, texts);
    for (const jitter of [0.05, 0.3]) {
      let sum = 0;
      for (let machine = 0; machine < 20; machine++) {
        // each found its costs out by a few rounds
        const random = new PhiloxSource(machine);
        const profile = new CostProfile(
          pair.costs.map((ms, i) => ms * (1 + jitter / 2 * (2 * random.uniform(Purpose.token, i) - 1))),
          pair.reading,
        );
        for (let text = 0; text < texts; text++) {
          sum += timeOf(pair, new DraftController(profile), tokens, 1000 * machine + text, jitter);
        }
      }
      const ratio = sum / 20 / texts / best;
      assert.ok(ratio < 1.05, `${pair.costs}, jitter ${jitter}: ${ratio.toFixed(3)} times the best`);
    }
  }
});

/** T among which to choose, and what each step adds to a round, as a pair of models has it. */
function stepsOf({ step = 0 }: Pair) {
  return { choices: [1, 2, 4], ms: step };
}

Deno.test("the chosen γ and T are within 6 % of the best fixed ones, whether more steps pay or not", () => {
  // of what fewer steps leave to be accepted, each doubling of T adds so much; what adds more than can be hoped for is
  // found out late
  for (const [gain, most] of [[0, 1.06], [0.05, 1.06], [0.2, 1.06], [0.5, 1.2]] as const) {
    for (const [costs, step] of [[CPU_DIFFUSION, 0.4], [GPU_DIFFUSION, 0.2], [GPU, 0.03]] as const) {
      for (const [label, first] of RATES.filter(([label]) => ["0.95", "0.62", "falling"].includes(label))) {
        const pair: Pair = {
          costs,
          step,
          // but for the first token, which is drawn in the first step
          rate: (j, position, steps) =>
            1 - (1 - first(j, position, 1)) * (1 - gain) ** (j === 0 ? 0 : Math.log2(steps)),
        };
        const best = Math.min(
          ...[1, 2, 4].flatMap((steps) =>
            costs.map((_, gamma) => meanTime(pair, () => fixed(gamma, steps), 1000, 12))
          ),
        );
        const profile = new CostProfile(costs, 0, stepsOf(pair));
        const time = meanTime(pair, () => new DraftController(profile), 1000, 12);
        assert.ok(time / best < most, `gain ${gain}, ${costs.slice(0, 3)}, rate ${label}: ${time / best}`);
      }
    }
  }
});

Deno.test("what a step takes is put right by the rounds' own times", () => {
  const pair: Pair = { costs: GPU, step: 0.3, rate: () => 0.8 };
  for (const thought of [0, 0.05, 1]) {
    const profile = new CostProfile(GPU, 0, { choices: [1, 2, 4], ms: thought });
    for (let text = 0; text < 8; text++) timeOf(pair, new DraftController(profile), 500, text);
    const time = meanTime(pair, () => new DraftController(profile), 1000, 6);
    assert.ok(time / bestFixed(pair, 1000, 6) < 1.05, `${thought}: ${time / bestFixed(pair, 1000, 6)}`);
  }
});

Deno.test("a draft of no tokens, or with tokens to be read first, is reckoned as what it is, whatever T was asked", () => {
  const profile = new CostProfile([10, 20, 22], 0.05, { choices: [1, 2], ms: 24 });
  const seen = { draft: new Int32Array(0), draftMs: 0, verifyMs: 10 };
  for (let i = 0; i < 9; i++) profile.observe(seen, 0, 2);
  assert.ok(Math.abs(profile.cost(0, 2) - 10) < 1e-9);
  // 40 tokens at 0.05 ms beside what the round takes without them
  profile.observe({ draft: new Int32Array(2), draftMs: 24, verifyMs: 22 + 2 }, 40, 2);
  assert.ok(Math.abs(profile.readingMs - 0.05) < 1e-9);
});

Deno.test("more steps are tried where they may pay, kept where they do, and given up where they do not", () => {
  /** The share of late drafts in more than one step. */
  const share = (step: number, gain: number): number => {
    const pair: Pair = { costs: GPU, step, rate: (j, _, steps) => j > 0 && steps > 1 ? 0.6 + gain : 0.6 };
    const profile = new CostProfile(GPU, 0, stepsOf(pair));
    let drafts = 0, more = 0;
    for (let text = 0; text < 4; text++) {
      const inner = new DraftController(profile);
      timeOf(
        pair,
        {
          next(most) {
            const plan = inner.next(most);
            if (text === 3 && plan.gamma > 1) {
              drafts++;
              more += plan.steps! > 1 ? 1 : 0;
            }
            return plan;
          },
          observe: (step, plan) => inner.observe(step, plan),
        },
        1000,
        text,
      );
    }
    return more / drafts;
  };
  assert.ok(share(0.03, 0.3) > 0.8, `${share(0.03, 0.3)}`);
  assert.ok(share(0.2, 0) < 0.2, `${share(0.2, 0)}`);
  // where a drafter has but one T, nothing is said of it
  assert.deepEqual(new DraftController(new CostProfile(GPU)).next(3), { gamma: 3 });
});

Deno.test("where acceptance changes within a text, the chosen γ beat every fixed one", () => {
  for (const costs of [CPU, CPU_DIFFUSION, GPU_DIFFUSION, GPU]) {
    const pair: Pair = { costs, rate: (_, position) => position % 600 < 300 ? 0.9 : 0.1 };
    const ratio = meanTime(pair, () => new DraftController(costs), 2400, 3) / bestFixed(pair, 2400, 3);
    assert.ok(ratio < 0.97, `${costs.slice(0, 3)}: ${ratio.toFixed(3)} times the best`);
  }
});

Deno.test("a text in which nothing is accepted takes at most 3 % longer than plainly decoded", () => {
  for (const costs of [CPU, CPU_DIFFUSION, GPU_DIFFUSION, GPU, [1, 4], [1, 1.01]]) {
    for (const tokens of [100, 128, 256, 1000, 4000]) {
      const pair: Pair = { costs, rate: () => 0, reading: 0.02 };
      const time = timeOf(pair, new DraftController(new CostProfile(costs)), tokens, 1);
      assert.ok(time <= 1.03 * tokens, `${costs.slice(0, 3)}, ${tokens} tokens: ${time / tokens}`);
      const dear = { ...pair, step: 0.4 };
      const tried = timeOf(dear, new DraftController(new CostProfile(costs, 0.02, stepsOf(dear))), tokens, 1);
      assert.ok(
        tried <= 1.03 * tokens,
        `${costs.slice(0, 3)}, ${tokens} tokens, several T: ${tried / tokens}`,
      );
      // whatever the texts before it were like
      const profile = new CostProfile(costs);
      for (let seed = 1; seed < 5; seed++) {
        timeOf({ costs, rate: () => 0.95 }, new DraftController(profile), 500, seed);
        const after = timeOf(pair, new DraftController(profile), tokens, seed);
        assert.ok(after <= 1.03 * tokens, `${costs.slice(0, 3)}, ${tokens} tokens, later: ${after / tokens}`);
      }
    }
  }
});

Deno.test("costs that were thought too low are put right by the rounds' own times", () => {
  const pair: Pair = { costs: CPU, rate: () => 0.8 };
  const profile = new CostProfile(CPU.map((_, gamma) => 1 + 0.1 * gamma));
  meanTime(pair, () => new DraftController(profile), 1000, 5);
  const ratio = meanTime(pair, () => new DraftController(profile), 1000, 6) / bestFixed(pair, 1000, 6);
  assert.ok(ratio < 1.05, `${ratio.toFixed(3)} times the best`);
});

Deno.test("no draft is thought cheaper than a shorter one, nor a plain step dearer than a pass over more rows", () => {
  const profile = new CostProfile([2, 1.5, 3, 2.5]);
  assert.deepEqual([...profile.ms], [1.5, 1.5, 2.5, 2.5]);
  // nothing but drafts of 1 is ever made, and yet a plain step is found to be the faster one
  for (let i = 0; i < 100; i++) profile.observe({ draft: new Int32Array(1), draftMs: 0.5, verifyMs: 1 }, 0);
  assert.ok(Math.abs(profile.ms[0] - 1) < 0.01 && Math.abs(profile.ms[1] - 1.5) < 0.01, `${profile.ms}`);
  profile.observe({ draft: new Int32Array(1), draftMs: 100.5, verifyMs: 1 }, 100); // reads 100 tokens first
  assert.ok(profile.readingMs > 0.4 && profile.ms[1] < 1.6);
});

Deno.test("a plain step is not thought as fast as the luckiest of the longer passes", () => {
  const profile = new CostProfile([1, 1.5, 2]), random = new PhiloxSource(1);
  let sum = 0;
  for (let i = 0; i < 1000; i++) {
    const verifyMs = 1.2 + 0.6 * (random.uniform(Purpose.reveal, i) - 0.5); // at times shorter than a plain step
    profile.observe({ draft: new Int32Array(1), draftMs: 0.3, verifyMs }, 0);
    sum += profile.ms[0];
  }
  assert.ok(Math.abs(sum / 1000 - 1) < 0.02, `${sum / 1000}`);
});

Deno.test("what was thought while others used the machine does not outlast them", () => {
  for (const slow of [0, 2]) {
    // plain rounds or drafts take three times as long for a while, in which the others are not made
    const profile = new CostProfile([1, 1.2, 1.3, 2]);
    const round = (gamma: number, times: number) => {
      const ms = gamma === 0 ? 1 : [0, 1.2, 1.3][gamma];
      profile.observe({ draft: new Int32Array(gamma), draftMs: 0, verifyMs: times * ms }, 0);
    };
    for (let i = 0; i < 60; i++) round(i % 3, 1);
    for (let i = 0; i < 60; i++) round(slow, 3);
    assert.ok(profile.ms[1] < 1.5 * profile.ms[0], `${profile.ms}`);
    for (let i = 0; i < 60; i++) round(0, 1);
    assert.ok(profile.ms[0] < 1.1 && profile.ms[1] < 1.4 && profile.ms[2] < 1.6, `${profile.ms}`);
  }
});

Deno.test("a length that was thought too dear is tried now and then, and used once it is known to pay", () => {
  const pair: Pair = { costs: [1, 1.3, 1.5, 1.6, 2.5], rate: (j) => [0.8, 0.75, 0.7, 0.7][j] };
  const best = bestFixed(pair, 128, 60);
  const profile = new CostProfile([1, 1.3, 2.2, 2.6, 3]); // measured in an unlucky moment
  const policies = Array.from({ length: 40 }, () => new DraftController(profile));
  const times = policies.map((policy, seed) => timeOf(pair, policy, 128, seed));
  const mean = (some: number[]) => some.reduce((sum, time) => sum + time) / some.length / best;
  assert.ok(mean(times.slice(0, 3)) > 1.08, `${mean(times.slice(0, 3))}: no unlucky moment`);
  assert.ok(mean(times.slice(10)) < 1.05, `${mean(times.slice(10)).toFixed(3)} times the best`);
  // costs that stand are not doubted
  const fixed = new DraftController([1, 1.3, 2.2, 2.6, 3]);
  for (let round = 0; round < 100; round++) assert.equal(fixed.next(8).gamma, 1);
});

Deno.test("what was accepted in one text is known in the next, unless its costs stand", () => {
  const pair: Pair = { costs: CPU_DIFFUSION, rate: () => 0 };
  const profile = new CostProfile(pair.costs);
  assert.ok(new DraftController(profile).next(9).gamma > 0); // hopeful
  timeOf(pair, new DraftController(profile), 30, 1);
  assert.equal(new DraftController(profile).next(9).gamma, 0);
  timeOf(pair, new DraftController(pair.costs), 30, 1);
  assert.ok(new DraftController(pair.costs).next(9).gamma > 0);
});

/** Tells a controller of a round that took what its costs say. */
function tell(policy: DraftPolicy, costs: readonly number[], gamma: number, accepted: number): void {
  const ms = { draftMs: 0, verifyMs: costs[gamma] }, draft = new Int32Array(gamma);
  policy.observe({ draft, accepted, token: 0, origin: "target", draftPasses: 1, ...ms }, { gamma });
}

Deno.test("a failure does not end drafting; a long draft is made at once where some failures can be afforded", () => {
  // with all that may be lost on one draft, the longest would be the best of each of these, and the last
  for (const dear of [2.6, 3, 3.4]) {
    const costs = [1, 1.5, dear, dear, dear, dear, dear, dear, dear], controller = new DraftController(costs);
    const { gamma } = controller.next(99);
    assert.ok(gamma > 0, `${costs}`);
    tell(controller, costs, gamma, 0);
    assert.ok(controller.next(99).gamma > 0, `${costs}: given up after a draft of ${gamma}`);
  }
  assert.ok(new DraftController(GPU_DIFFUSION).next(99).gamma > 8);
});

Deno.test("drafting may lose 2.5 plain steps of a short text, and a quarter more for each accepted token", () => {
  const costs = [1, 1.5];
  // after texts that make the drafter look better than it is, one of so many rounds is accepted
  for (const every of [Infinity, 3]) {
    const profile = new CostProfile(costs);
    for (let i = 0; i < 200; i++) profile.remember(1, i % 10 < 9 ? 1 : 0);
    const controller = new DraftController(profile);
    let lost = 0, accepted = 0;
    for (let round = 1; round < 100 && controller.next(99).gamma > 0; round++) {
      const one = round % every === 0 ? 1 : 0;
      tell(controller, costs, 1, one);
      lost += costs[1] - (1 + one);
      accepted += one;
    }
    assert.ok(lost <= 2.5 + accepted / 4, `${lost} steps, ${accepted} accepted`);
    assert.ok(
      every === Infinity ? lost > 2 : lost > 2.5,
      `given up after ${lost} steps, ${accepted} accepted`,
    );
  }
});

Deno.test("all that plain rounds leave to be read counts against a draft", () => {
  const costs = [1, 1.5], profile = new CostProfile(costs, 0.1), controller = new DraftController(profile);
  for (let i = 0; i < 40; i++) tell(controller, costs, 0, 0);
  assert.deepEqual([controller.next(9).gamma, new DraftController(profile).next(9).gamma], [0, 1]);
});

Deno.test("what the first draft of a text takes says nothing of the others: it reads the prompt", () => {
  const costs = [1, 1.5], profile = new CostProfile(costs), controller = new DraftController(profile);
  const draft = { draft: new Int32Array(1), accepted: 1, token: 0, origin: "bonus", draftPasses: 1 } as const;
  controller.observe({ ...draft, draftMs: 1, verifyMs: 1 }, { gamma: 1 });
  assert.deepEqual([...profile.ms], costs);
  controller.observe({ ...draft, draftMs: 1, verifyMs: 1 }, { gamma: 1 });
  assert.ok(profile.ms[1] > 1.5);
});

Deno.test("a pause of the program does not end drafting", () => {
  const controller = new DraftController(new CostProfile(CPU));
  const round = (verifyMs: number) => {
    const { gamma } = controller.next(100);
    const draft = new Int32Array(gamma);
    controller.observe({
      draft,
      accepted: gamma,
      token: 0,
      origin: "bonus",
      draftPasses: 1,
      draftMs: 0,
      verifyMs,
    }, { gamma });
    return gamma;
  };
  for (let i = 0; i < 20; i++) round(3);
  round(1000);
  assert.ok(round(3) > 0);
});

Deno.test("with costs that stand, the choice depends on acceptance alone", () => {
  const choices = (slow: number) => {
    const controller = new DraftController(CPU), random = new PhiloxSource(1);
    return Array.from({ length: 200 }, (_, i) => {
      const { gamma } = controller.next(100), draft = new Int32Array(gamma);
      const accepted = Math.floor(random.uniform(Purpose.accept, i) * (gamma + 1));
      const ms = { draftMs: slow * i, verifyMs: slow };
      controller.observe({ draft, accepted, token: 0, origin: "target", draftPasses: 1, ...ms }, { gamma });
      return gamma;
    });
  };
  assert.deepEqual(choices(1), choices(100));
  assert.ok(new Set(choices(1)).size > 1);
});

Deno.test("no more is drafted than there is room for, and nothing where nothing can be gained", () => {
  for (let most = 0; most < 4; most++) assert.ok(new DraftController(GPU).next(most).gamma <= most);
  assert.equal(new DraftController([1]).next(10).gamma, 0);
  assert.equal(new DraftController([1, 2, 3, 4]).next(10).gamma, 0);
});

Deno.test("costs that are none are refused", () => {
  for (const costs of [[], [1, 0], [1, NaN], [-1], [1, Infinity]]) {
    assert.throws(() => new DraftController(costs), {
      name: "RangeError",
      message: /^Cannot choose gamma: costs are \[/,
    });
  }
  for (
    const [choices, ms] of [[[], 1], [[2, 4], 1], [[1, 1], 1], [[1, 2.5], 1], [[1, 2], NaN], [
      [1, 2],
      -1,
    ]] as const
  ) {
    assert.throws(() => new CostProfile([1, 2, 3], 0, { choices, ms }), {
      name: "RangeError",
      message: /^Cannot choose T: the choices are \[/,
    });
  }
  for (const readingMs of [NaN, -1, Infinity]) {
    assert.throws(() => new CostProfile([1, 2], readingMs), {
      name: "RangeError",
      message: `Cannot choose gamma: readingMs is ${readingMs}, expected milliseconds of at least 0`,
    });
  }
  const draft = new Int32Array(2);
  const step = {
    draft,
    accepted: 0,
    token: 0,
    origin: "corrected",
    draftPasses: 1,
    draftMs: 1,
    verifyMs: 1,
  } as const;
  assert.throws(
    () => new DraftController([1, 1]).observe(step, { gamma: 2 }),
    /expected at most 1, the longest with a cost/,
  );
});
