import assert from "node:assert/strict";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { AutoregressiveDrafter } from "../src/decode/autoregressive_drafter.ts";
import type { ContextCache } from "../src/decode/context_cache.ts";
import { DiffusionDrafter } from "../src/decode/diffusion_drafter.ts";
import { HostDistributions } from "../src/decode/distributions.ts";
import type { Drafter, DraftRequest } from "../src/decode/drafter.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { NgramDrafter } from "../src/decode/ngram_drafter.ts";
import { propose } from "../src/decode/propose.ts";
import { PhiloxSource, Purpose } from "../src/decode/random.ts";
import { speculate } from "../src/decode/speculative.ts";
import { reveal } from "../src/decode/reveal.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import { logLinearSigma } from "../src/model/sedd_score.ts";
import type { DenoiseOptions } from "../src/model/model.ts";
import { fixture } from "./helpers.ts";
import { randomTable, ToyCausalModel, ToyDiffusionModel, ToyPair } from "./toy.ts";

function request(tokens: number[], gamma: number): DraftRequest {
  return {
    tokens: Int32Array.from(tokens),
    gamma,
    sampling: {},
    random: new PhiloxSource(1),
    coupled: false,
  };
}

Deno.test("NgramDrafter proposes what followed the latest occurrence of the longest suffix", () => {
  const drafter = new NgramDrafter(10);
  const { tokens, q, passes } = drafter.draft(request([1, 2, 3, 4, 9, 2, 3, 5, 6, 1, 2, 3], 2));
  assert.deepEqual([...tokens], [4, 9]); // "1 2 3" occurs first; "2 3" later
  assert.equal(q, undefined);
  assert.equal(passes, 0);
  assert.deepEqual([...drafter.draft(request([7, 2, 3, 5, 8, 2, 3], 5)).tokens], [5, 8, 2, 3]);
});

Deno.test("NgramDrafter drafts nothing where nothing repeats, and stops at the end of the text", () => {
  const drafter = new NgramDrafter(10);
  assert.equal(drafter.draft(request([1, 2, 3], 4)).tokens.length, 0);
  assert.equal(drafter.draft(request([1], 4)).tokens.length, 0);
  assert.deepEqual([...drafter.draft(request([5, 5], 4)).tokens], [5]);
});

Deno.test("AutoregressiveDrafter drafts less at the end of its context, and nothing beyond it", async () => {
  using backend = createReferenceBackend(), checkpoint = await openCheckpoint(fixture("parity/gpt2-tiny"));
  const loaded = await loadModel(checkpoint, backend);
  assert(loaded.kind === "causal");
  using model = loaded.model, drafter = new AutoregressiveDrafter(model, backend);
  const { contextLength } = model.shape;
  // first what leaves nothing to be held for the laws
  const lengths = [2, 1, 0, -1].map((beyond) =>
    drafter.draft(request(Array(contextLength + beyond).fill(3), 3)).tokens.length
  );
  assert.deepEqual(lengths, [0, 0, 1, 2]);
  assert.equal(drafter.draft(request([1, 2], 3)).passes, 3); // one for each token
});

Deno.test("reveal opens every mask in exactly T steps, in each order", () => {
  const random = new PhiloxSource(3);
  const confidence = (j: number) => [0.2, 0.9, 0.2, 0.5, 0.1, 0.6, 0.3][j];
  for (const order of ["left-to-right", "random", "confidence"] as const) {
    for (const steps of [1, 2, 3, 7]) {
      let masked = [0, 1, 2, 3, 4, 5, 6];
      for (let step = 0; step < steps; step++) {
        const open = reveal(order, { masked, step, steps, random, start: 10, confidence });
        assert.deepEqual(open, [...open].sort((a, b) => a - b));
        assert.ok(open.every((j) => masked.includes(j)));
        masked = masked.filter((j) => !open.includes(j));
      }
      assert.deepEqual(masked, []);
    }
  }
  const first = (order: "left-to-right" | "confidence") =>
    reveal(order, { masked: [0, 1, 2, 3, 4, 5, 6], step: 0, steps: 3, random, start: 0, confidence });
  assert.deepEqual(first("left-to-right"), [0, 1, 2]);
  assert.deepEqual(first("confidence"), [1, 3, 5]);
  // of equal ones the left one
  const equal = { masked: [1, 2, 4, 6], step: 0, steps: 2, random, start: 0, confidence: () => 0.5 };
  assert.deepEqual(reveal("confidence", equal), [1, 2]);
});

Deno.test("reveal in random order opens each mask with probability dt/t", () => {
  const steps = 4, runs = 4000;
  const opened = [0, 0, 0, 0];
  for (let seed = 0; seed < runs; seed++) {
    const random = new PhiloxSource(seed);
    let masked = [0];
    for (let step = 0; step < steps && masked.length > 0; step++) {
      const open = reveal("random", { masked, step, steps, random, start: 5, confidence: () => 0 });
      if (open.length > 0) opened[step]++;
      masked = masked.filter((j) => !open.includes(j));
    }
  }
  // uniform over the steps: χ² with 3 degrees of freedom, 0.1 % critical value
  const chi = opened.reduce((sum, n) => sum + (n - runs / steps) ** 2 / (runs / steps), 0);
  assert.ok(chi < 16.27, `χ² = ${chi.toFixed(2)} for ${opened}`);
});

Deno.test("propose draws a position afresh in every round, but with the target's noise when coupled", () => {
  const law = new Float64Array(64).fill(1 / 64);
  const q = new HostDistributions([law, law, law, law]);
  const drawn = (length: number, j: number, coupled: boolean) =>
    propose(q, j, { ...request(new Array(length).fill(0), 4), coupled });
  // position 12, drafted in three rounds that began at 9, 10 and 11
  assert.equal(new Set([drawn(9, 3, false), drawn(10, 2, false), drawn(11, 1, false)]).size, 3);
  assert.equal(new Set([drawn(9, 3, true), drawn(10, 2, true), drawn(11, 1, true)]).size, 1);
  assert.equal(drawn(10, 2, true), q.race(2, { seed: 1n, purpose: Purpose.token, position: 12 }));
});

Deno.test("a drafter makes its laws as it is asked to, and draws from those", async () => {
  const pair = new ToyPair(1, 5), tokens = [0, 1, 2], text = request(tokens, 3);
  const drafters = [
    pair.diffusion({}),
    pair.diffusion({ steps: 2, order: "confidence" }),
    pair.markov({}),
    pair.fed({}),
    pair.autoregressive(),
  ];
  pair.target.keepHidden([0]);
  const hidden = await pair.target.hiddenOf(text.tokens.subarray(0, -1));
  for (const drafter of drafters) {
    for (
      const [sampling, left] of [[{ temperature: 0 }, 1], [{ topK: 2 }, 2], [{ topP: 1e-9 }, 1]] as const
    ) {
      const draft = await drafter.draft({ ...text, hidden, sampling });
      for (const [j, token] of draft.tokens.entries()) {
        const law = Array.from(draft.q!.row(j));
        assert.equal(law.filter((p) => p > 0).length, left, drafter.name);
        assert.ok(law[token] > 0, drafter.name);
      }
    }
  }
});

/** Notes how many rows each pass has. */
class Counting extends ToyDiffusionModel {
  readonly rows: number[] = [];

  override denoise(...pass: Parameters<ToyDiffusionModel["denoise"]>) {
    this.rows.push(pass[0].length);
    return super.denoise(...pass);
  }
}

const SLOW_MS = 0.2, LONG = 600;

/** Takes a while for each row. */
function compute(rows: number): void {
  for (const began = performance.now(); performance.now() - began < SLOW_MS * rows;);
}

Deno.test("a drafter's first reading of a long text gives others their turn and hears a signal", async () => {
  const backend = createReferenceBackend(), table = randomTable(3, 1), size = LONG + 20;
  let rows = 0, began = () => {};
  const read = (count: number) => {
    if (rows === 0) began();
    rows += count;
    compute(count);
  };
  class SlowCausal extends ToyCausalModel {
    override forward(...pass: Parameters<ToyCausalModel["forward"]>) {
      read(pass[0].length);
      return super.forward(...pass);
    }
  }
  class SlowDiffusion extends ToyDiffusionModel {
    override denoise(...pass: Parameters<ToyDiffusionModel["denoise"]>) {
      read(pass[0].length);
      return super.denoise(...pass);
    }
    override feed(...pass: Parameters<ToyDiffusionModel["feed"]>) {
      read(pass[0][0].rows);
      super.feed(...pass);
    }
  }
  const diffusion = (prefixAttention: "causal" | "target") =>
    new DiffusionDrafter(new SlowDiffusion(backend, table, 3, size, { prefixAttention }), backend);
  const prompt = Array.from({ length: LONG }, (_, i) => i % 3);
  for (
    const open of [
      () => new AutoregressiveDrafter(new SlowCausal(backend, table, 3, size), backend),
      () => diffusion("causal"),
      () => diffusion("target"),
    ]
  ) {
    using target = new ModelTarget(new ToyCausalModel(backend, table, 3, size), backend);
    const generate = async (drafter: Drafter, signal?: AbortSignal) => {
      const options = { gamma: 2, seed: 1, maxTokens: 4, signal };
      rows = 0;
      const tokens: number[] = [];
      for await (const round of speculate(target, drafter, prompt, options)) tokens.push(...round.tokens);
      return tokens;
    };
    using drafter = open(), fresh = open();
    const controller = new AbortController();
    began = () => setTimeout(() => controller.abort(new Error("enough")), 0);
    await assert.rejects(generate(drafter, controller.signal), /enough/);
    assert.ok(rows > 0 && rows < LONG / 2, `${drafter.name} read ${rows} tokens after the signal`);
    // it goes on from there, to what one that was never interrupted drafts
    began = () => {};
    assert.deepEqual(await generate(drafter), await generate(fresh), drafter.name);
  }
});

Deno.test("a context cache spares the rows it is meant to, until the next refresh", () => {
  const backend = createReferenceBackend();
  const rowsOf = (contextCache: ContextCache, steps: number) => {
    const model = new Counting(backend, randomTable(3, 1), 3, 32);
    using drafter = new DiffusionDrafter(model, backend, { contextCache, steps, draftContext: 6 });
    const text = Array.from({ length: 14 }, (_, i) => i % 3);
    // what the model saw of the prompt, or of the last 6 tokens, and the 2 that are drafted
    for (const length of [10, 12, 13, 14]) drafter.draft(request(text.slice(0, length), 2));
    drafter.draft(request([2, 2, 2, 2, 2, 2, 2, 2, 2, 2], 2)); // another text
    return model.rows;
  };
  assert.deepEqual(rowsOf("none", 1), [8, 8, 8, 8, 8]);
  assert.deepEqual(rowsOf("none", 2), [8, 8, 8, 8, 8, 8, 8, 8, 8, 8]);
  assert.deepEqual(rowsOf("draft", 2), [8, 2, 8, 2, 8, 2, 8, 2, 8, 2]);
  assert.deepEqual(rowsOf({ recent: 1, refresh: 3 }, 1), [8, 1 + 2 + 2, 1 + 1 + 2, 8, 8]);
  assert.deepEqual(rowsOf({ recent: 0, refresh: 9 }, 2), [8, 2, 4, 2, 3, 2, 3, 2, 8, 2]);
});

Deno.test("a bidirectional drafter sees no more of the text than there is room for, whatever it was asked", () => {
  const backend = createReferenceBackend();
  for (const draftContext of [undefined, 99, 7]) {
    const model = new Counting(backend, randomTable(3, 1), 3, 12);
    using drafter = new DiffusionDrafter(model, backend, { draftContext });
    drafter.draft(request(new Array(20).fill(0), 2));
    assert.deepEqual(model.rows, [draftContext === 7 ? 9 : 12]);
  }
});

Deno.test("a context cache keeps nothing of the last tokens of a text that has become shorter", () => {
  const backend = createReferenceBackend();
  const model = new Counting(backend, randomTable(3, 1), 3, 32);
  using drafter = new DiffusionDrafter(model, backend, { contextCache: { recent: 2, refresh: 9 } });
  const text = Array.from({ length: 10 }, (_, i) => i % 3);
  for (const length of [10, 9, 8]) drafter.draft(request(text.slice(0, length), 1));
  assert.deepEqual(model.rows, [10 + 1, 2 + 1, 2 + 1]);
});

Deno.test("a context that is kept begins anew where it outgrows what the model was trained at", () => {
  const backend = createReferenceBackend();
  const model = new Counting(backend, randomTable(3, 1), 3, 12);
  const contextCache = { recent: 0, refresh: 9 };
  using drafter = new DiffusionDrafter(model, backend, { contextCache, draftContext: 6 });
  for (const length of [10, 12, 14, 15]) drafter.draft(request(new Array(length).fill(0), 2));
  // from token 4 on, until 11 of them and 2 masks are more than 12
  assert.deepEqual(model.rows, [6 + 2, 2 + 2, 2 + 2, 6 + 2]);
});

Deno.test("a hot start keeps what is left of a draft, but for the token after the corrected one", () => {
  const backend = createReferenceBackend();
  const model = new ToyDiffusionModel(backend, randomTable(3, 1), 3, 32);
  using drafter = new DiffusionDrafter(model, backend, { hotStart: true });
  const text = Array.from({ length: 11 }, (_, i) => i % 3);
  const first = drafter.draft(request(text.slice(0, 10), 4)).tokens;
  // of positions 10 … 13, 10 is corrected now and 11 drafted anew
  const { tokens, steps, q } = drafter.draft(request(text, 4));
  assert.deepEqual([...steps], [0, -1, -1, 0]);
  assert.deepEqual([...tokens.subarray(1, 3)], [...first.subarray(2)]);
  for (const j of [1, 2]) assert.equal(q!.row(j)[tokens[j]], 1);
  drafter.draft(request(text.slice(0, 10), 4));
  drafter.reset();
  assert.deepEqual([...drafter.draft(request(text, 4)).steps], [0, 0, 0, 0]);
});

Deno.test("a hot start takes nothing from another text", async () => {
  const other = new ToyPair(2).diffusion({ hotStart: true }), first = [0, 1, 2, 0, 1];
  const stepsAfter = (text: number[]) => {
    other.draft(request(first, 4));
    return [...other.draft(request(text, 4)).steps];
  };
  assert.deepEqual(stepsAfter([...first, 2]), [0, -1, -1, 0]); // it goes on with it
  assert.deepEqual(stepsAfter([1, ...first.slice(1), 2]), [0, 0, 0, 0]);
  const pair = new ToyPair(2), texts: string[] = [];
  const drafter = pair.markov({ steps: 1, hotStart: true });
  for (let seed = 0; seed < 100; seed++) {
    for (const turn of [0, 1]) {
      const tokens: number[] = [];
      const rounds = speculate(pair.target, drafter, [0, 1, 0], { seed, gamma: 3, maxTokens: 4 });
      for await (const round of rounds) tokens.push(...round.tokens);
      if (turn === 0) texts.push(String(tokens));
      else assert.equal(String(tokens), texts.at(-1), `seed ${seed}: the same text again`);
    }
  }
  assert.ok(new Set(texts).size > 10);
});

Deno.test("a step that opens no mask costs the next no pass, unless the noise level changes", () => {
  const backend = createReferenceBackend();
  const model = new ToyDiffusionModel(backend, randomTable(3, 1), 3, 64);
  const options = { order: "random", steps: 3 } as const;
  using same = new DiffusionDrafter(model, backend, options);
  using changing = new DiffusionDrafter(model, backend, { ...options, sigma: "schedule" });
  let idle = 0;
  for (let length = 1; length <= 20; length++) {
    const text = new Array(length).fill(0), { steps, passes } = same.draft(request(text, 3));
    const last = Math.max(...steps);
    assert.equal(passes, new Set(steps).size);
    idle += last + 1 - passes;
    const scheduled = changing.draft(request(text, 3));
    assert.equal(scheduled.passes, Math.max(...scheduled.steps) + 1);
  }
  assert.ok(idle > 0);
});

/** Notes what each pass is told: the noise level, and how far back a row sees. */
class Told extends ToyDiffusionModel {
  readonly sigmas: number[] = [];
  readonly windows: (number | undefined)[] = [];
  /** Passes over nothing but the text. */
  readings = 0;

  override denoise(...pass: Parameters<ToyDiffusionModel["denoise"]>) {
    const [tokens, , sigma, options] = pass;
    this.sigmas.push(sigma);
    this.windows.push((options as DenoiseOptions).window);
    if (options.cleanRows === tokens.length) this.readings++;
    return super.denoise(...pass);
  }
}

Deno.test("the model is told the noise level that was asked for, or in each step the schedule's", async () => {
  const backend = createReferenceBackend(), table = randomTable(3, 1);
  const ends = [logLinearSigma(1), logLinearSigma(0.5)];
  for (const prefixAttention of ["bidirectional", "causal", "target"] as const) {
    const sigmasOf = async (sigma: number | "schedule" | undefined, length: number, steps = 2) => {
      const model = new Told(backend, table, 3, LONG + 20, { prefixAttention });
      using drafter = new DiffusionDrafter(model, backend, { sigma, steps });
      const text = request(Array.from({ length }, (_, i) => i % 3), 2);
      await drafter.prepare(text);
      assert.equal(model.sigmas.length, model.readings);
      assert.equal(drafter.draft(text).passes, 2);
      return model.sigmas;
    };
    assert.deepEqual(await sigmasOf(undefined, 1), [ends[0], ends[0]], prefixAttention);
    assert.deepEqual(await sigmasOf(0.5, 1), [0.5, 0.5], prefixAttention);
    assert.deepEqual(await sigmasOf("schedule", 1), ends, prefixAttention);
    assert.deepEqual(await sigmasOf("schedule", 1, 4), ends, prefixAttention); // as many steps as there are tokens
    if (prefixAttention !== "causal") continue;
    // a long text is read as the first step's pass would read it
    const scheduled = await sigmasOf("schedule", LONG), told = await sigmasOf(0.5, LONG);
    assert.ok(scheduled.length > 2 && told.length === scheduled.length);
    assert.deepEqual(scheduled, [...scheduled.slice(2).fill(ends[0]), ...ends]);
    assert.ok(told.every((sigma) => sigma === 0.5));
  }
});

Deno.test("a drafter that keeps the text's keys has the model see no more of them than it was asked to", async () => {
  const backend = createReferenceBackend(), table = randomTable(3, 1), size = LONG + 20;
  const prompt = Array.from({ length: LONG }, (_, i) => i % 3);
  for (const prefixAttention of ["causal", "target"] as const) {
    for (const draftContext of [7, undefined]) {
      const model = new Told(backend, table, 3, size, { prefixAttention });
      using target = new ModelTarget(new ToyCausalModel(backend, table, 3, size), backend);
      using drafter = new DiffusionDrafter(model, backend, { draftContext, steps: 2 });
      await Array.fromAsync(speculate(target, drafter, prompt, { gamma: 2, seed: 1, maxTokens: 4 }));
      assert.equal(model.readings > 0, prefixAttention === "causal"); // a target-fed one is fed the text
      assert.ok(model.windows.length > model.readings);
      assert.deepEqual(new Set(model.windows), new Set([draftContext]), prefixAttention);
    }
  }
});

Deno.test("a diffusion drafter drafts fewer tokens than the model's length", () => {
  const backend = createReferenceBackend();
  for (const prefixAttention of ["bidirectional", "causal"] as const) {
    const model = new Told(backend, randomTable(3, 1), 3, 5, { prefixAttention });
    using drafter = new DiffusionDrafter(model, backend, { steps: 9 });
    const { tokens, steps, passes } = drafter.draft(request([0, 1, 2], 9));
    assert.deepEqual([tokens.length, [...steps], passes], [4, [0, 1, 2, 3], 4], prefixAttention);
  }
});

Deno.test("a diffusion drafter drafts in as many steps as it is asked for, where it offers a choice", () => {
  const pair = new ToyPair(1, 5), open = pair.diffusion({});
  assert.deepEqual(open.stepChoices, [1, 2, 4]);
  for (const steps of [1, 2, 4]) {
    const own = pair.diffusion({ steps }).draft(request([0, 1], 4));
    const asked = open.draft({ ...request([0, 1], 4), steps });
    assert.deepEqual([asked.tokens, asked.steps, asked.passes], [own.tokens, own.steps, own.passes]);
    assert.equal(asked.passes, steps);
  }
  assert.equal(open.draft(request([0, 1], 4)).passes, 1);
  // none where T was said, where a head does what steps would, and where the order makes drafts of another kind of them
  for (
    const drafter of [
      pair.diffusion({ steps: 1 }),
      pair.diffusion({ order: "random" }),
      pair.diffusion({ hotStart: true }),
      pair.markov({}),
      pair.fed({}),
    ]
  ) assert.equal(drafter.stepChoices, undefined);
});

Deno.test("a diffusion drafter says what it keeps of the text, and refuses what it cannot keep", () => {
  const backend = createReferenceBackend();
  const make = (contextCache: ContextCache, prefixAttention: "bidirectional" | "causal" = "bidirectional") =>
    new DiffusionDrafter(
      new ToyDiffusionModel(backend, randomTable(3, 1), 3, 32, { prefixAttention }),
      backend,
      { contextCache },
    );
  assert.equal(make("none").name, "diffusion (bidirectional)");
  assert.equal(make("delayed").name, "diffusion (bidirectional, context cache: delayed)");
  assert.equal(
    make({ recent: 2, refresh: 8 }).name,
    "diffusion (bidirectional, context cache: recent 2, refresh 8)",
  );
  assert.equal(make("delayed", "causal").name, "diffusion (causal prefix)"); // which is kept as it is
  for (
    const bad of [
      { recent: -1, refresh: 2 },
      { recent: 0.5, refresh: 2 },
      { recent: 1, refresh: 0 },
      "all",
      null,
    ]
  ) {
    assert.throws(() => make(bad as ContextCache), {
      name: "RangeError",
      message:
        /^Cannot make a diffusion drafter: contextCache is .*, expected one of none, draft, delayed, or/,
    });
  }
});
