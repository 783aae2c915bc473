/**
 * The model as a target: hidden states that it hands on to a drafter, whatever was rolled back, long prompts that do
 * not keep others waiting, and how probable it finds a text.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Backend } from "../src/backend/backend.ts";
import { mostRows } from "../src/backend/buffers.ts";
import { createBackend } from "../src/backend/create.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import type { Draft, Drafter, DraftRequest } from "../src/decode/drafter.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { NgramDrafter } from "../src/decode/ngram_drafter.ts";
import { scoreTokens } from "../src/decode/score.ts";
import { speculate, type SpeculateOptions } from "../src/decode/speculative.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import type { CausalModel } from "../src/model/model.ts";
import { embeddedTarget } from "../src/pair.ts";
import { assertClose, assertSame, fixture, presentBackends, readTensors } from "./helpers.ts";
import { ToyCausalModel, ToyPair } from "./toy.ts";

const PROMPT = [5, 6, 7, 8, 9];

async function load(backend: Backend, folder: URL): Promise<CausalModel> {
  using checkpoint = await openCheckpoint(folder);
  const loaded = await loadModel(checkpoint, backend);
  assert(loaded.kind === "causal");
  return loaded.model;
}

async function tokensOf(
  target: ModelTarget,
  drafter: Drafter | null,
  prompt: number[],
  options: SpeculateOptions,
) {
  const rounds = drafter === null
    ? autoregress(target, prompt, options)
    : speculate(target, drafter, prompt, options);
  const tokens: number[] = [];
  for await (const round of rounds) tokens.push(...round.tokens);
  return tokens;
}

/** The outputs of some blocks for a text, computed at once and from nothing: [n, C] each. */
function hiddenOf(model: CausalModel, backend: Backend, tokens: Int32Array, layers: readonly number[]) {
  using cache = model.newCache();
  const out = layers.map(() => backend.activation(tokens.length, model.shape.width));
  model.forward(tokens, cache, { hidden: { layers, out } });
  const values = out.map((states) => states.read().slice());
  for (const states of out) states[Symbol.dispose]();
  return values;
}

/** Proposes a known continuation with every third token wrong, and checks the hidden states it is given. */
class HiddenReader implements Drafter {
  readonly name = "reader";
  readonly vocabSize: number;
  readonly leftToRight = true;
  readonly hiddenLayers: readonly number[];
  drafts = 0;
  readonly #model: CausalModel;
  readonly #backend: Backend;
  readonly #known: readonly number[];

  constructor(model: CausalModel, backend: Backend, known: readonly number[], layers: readonly number[]) {
    this.vocabSize = model.shape.vocabSize;
    this.#model = model;
    this.#backend = backend;
    this.#known = known;
    this.hiddenLayers = layers;
  }

  draft({ tokens, gamma, hidden }: DraftRequest): Draft {
    this.drafts++;
    const seen = tokens.subarray(0, -1);
    if (seen.length === 0) {
      assert.equal(hidden, undefined);
    } else {
      const expected = hiddenOf(this.#model, this.#backend, seen, this.hiddenLayers);
      assert.equal(hidden!.length, this.hiddenLayers.length);
      for (const [i, states] of hidden!.entries()) {
        assert.deepEqual([states.rows, states.columns], [seen.length, this.#model.shape.width]);
        assertSame(states.read(), expected[i], `layer ${this.hiddenLayers[i]}, ${seen.length} tokens`);
      }
    }
    const drafted = Int32Array.from({ length: gamma }, (_, j) => {
      const position = tokens.length + j;
      return (this.#known[position] + (position % 3 === 0 ? 1 : 0)) % this.vocabSize;
    });
    return { tokens: drafted, steps: new Int32Array(gamma), passes: 0 };
  }

  reset(): void {}

  [Symbol.dispose](): void {}
}

for (const [name, open] of presentBackends()) {
  Deno.test(`${name}: a drafter is given the hidden states it asks for, of each token of the text`, async () => {
    using backend = await open();
    using model = await load(backend, fixture("parity/gpt2-tiny/"));
    using target = new ModelTarget(model, backend);
    const options: SpeculateOptions = { sampling: { temperature: 0 }, maxTokens: 24, gamma: 4 };
    // the target knows the text already, but not its hidden states
    const plain = await tokensOf(target, null, PROMPT, options);
    for (const layers of [[1, 0], [0]]) {
      const reader = new HiddenReader(model, backend, [...PROMPT, ...plain], layers);
      assert.deepEqual(await tokensOf(target, reader, PROMPT, options), plain);
      assert.ok(reader.drafts > 5 && reader.drafts < 24);
      // again, and with another end, which the target has to forget
      assert.deepEqual(await tokensOf(target, reader, PROMPT, options), plain);
      await tokensOf(target, reader, [...PROMPT, 300], options);
      await tokensOf(target, reader, [5], options);
    }
    assert.equal((await target.hiddenOf(Int32Array.from(PROMPT))).length, 1);
    await tokensOf(target, new NgramDrafter(model.shape.vocabSize), PROMPT, options);
    assert.equal((await target.hiddenOf(Int32Array.from(PROMPT))).length, 0);
    assert.throws(() => target.keepHidden([2]), {
      name: "RangeError",
      message: "Cannot keep hidden states: a layer is 2, expected an integer in [0, 2)",
    });
  });
}

Deno.test("a long prompt is read in pieces, between which others have their turn", async () => {
  using backend = await createBackend("wasm");
  using model = await load(backend, embeddedTarget());
  using target = new ModelTarget(model, backend);
  target.keepHidden([2]);
  const tokens = Int32Array.from({ length: 250 }, (_, i) => (i * 37) % 2048);
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  const laws = await target.score(tokens, 3, { topK: 0 });
  clearInterval(timer);
  assert.ok(turns > 0);
  const pieces = [0, 1, 2].map((j) => laws.row(j).slice());
  const [states] = await target.hiddenOf(tokens);
  assertSame(states.read(), hiddenOf(model, backend, tokens, [2])[0], "hidden states");

  using cache = model.newCache();
  const logits = model.forward(tokens, cache, { headRows: 3 }); // [3, V]
  using whole = backend.activation(3, model.shape.vocabSize);
  backend.distribution(whole, logits, {});
  for (const [j, law] of pieces.entries()) assertSame(law, whole.slice(j, 1).read(), `law ${j}`);

  // and a signal is heard
  target.truncate(0);
  await assert.rejects(target.score(tokens, 3, {}, AbortSignal.abort(new Error("enough"))), /enough/);
  const asked = async (prompt: Int32Array) => {
    let count = 0;
    const signal = { throwIfAborted: () => void count++ } as AbortSignal;
    await Array.fromAsync(autoregress(target, prompt, { maxTokens: 1, signal }));
    return count;
  };
  assert.ok(await asked(tokens) > await asked(tokens.subarray(0, 9)));
});

Deno.test("the last piece of a text holds all rows that have laws, however long it is", async () => {
  const most = mostRows(createReferenceBackend()), { model, target } = new ToyPair(1, 3, 2 * most);
  for (let length = most - 1; length <= most + 4; length++) {
    target.truncate(0);
    const tokens = Int32Array.from({ length }, (_, i) => i * i % 3);
    const laws = await target.score(tokens, 4, {});
    for (let j = 0; j < 4; j++) {
      assertClose(
        laws.row(j),
        model.law([...tokens.subarray(0, length - 3 + j)]),
        1e-6,
        `${length}, law ${j}`,
      );
    }
  }
});

Deno.test("a text's log-probabilities are natural logarithms of what the original implementation makes of it", async () => {
  using backend = createReferenceBackend();
  using model = await load(backend, fixture("parity/gpt2-tiny/"));
  const expected = await readTensors(fixture("parity/gpt2-tiny/expected.safetensors"));
  const rows = expected.tokens.shape[1], { vocabSize } = model.shape;
  const tokens = Array.from(expected.tokens.values.subarray(0, rows)); // the first of the texts
  const laws = tokens.slice(1).map((token, r) => {
    const logits = Array.from(expected.logits.values.subarray(r * vocabSize, (r + 1) * vocabSize));
    return logits[token] - Math.log(logits.reduce((sum, y) => sum + Math.exp(y), 0));
  });
  const { logprobs, perplexity } = await scoreTokens(model, tokens);
  assert.equal(logprobs[0], null);
  assertClose(logprobs.slice(1) as number[], laws, 1e-5, "log-probabilities");
  const mean = laws.reduce((sum, logprob) => sum + logprob, 0) / laws.length;
  assertClose([perplexity], [Math.exp(-mean)], 1e-4, "perplexity");
});

Deno.test("a text as long as the context has log-probabilities, a longer one none; a fault is said with its place", async () => {
  const backend = createReferenceBackend(), context = 80;
  const table = (fault?: number) => (key: string) =>
    Float32Array.of(0, 1, key.split(",").length === fault ? NaN : 2);
  const text = Array.from({ length: context }, (_, i) => i % 3);
  const { logprobs } = await scoreTokens(new ToyCausalModel(backend, table(), 3, context), text);
  assert.equal(logprobs.length, context);
  assert.ok(logprobs.slice(1).every((logprob) => logprob! < 0));
  for (const wrong of [[], [...text, 0]]) {
    await assert.rejects(scoreTokens(new ToyCausalModel(backend, table(), 3, context), wrong), {
      name: "RangeError",
      message: `Cannot score a text: it has ${wrong.length} tokens, expected 1 to 80, the target's context`,
    });
  }
  for (const fault of [0, 40, 70]) {
    await assert.rejects(scoreTokens(new ToyCausalModel(backend, table(fault + 1), 3, context), text), {
      name: "LogitsError",
      message: `Cannot score a text: the logits after token ${fault} are not all finite`,
    });
  }
});
