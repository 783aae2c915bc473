/**
 * Drafters that the target's hidden states feed, in the loop that ships: however a text came about, what is drafted
 * after it is what would be drafted by one that sees it for the first time.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Backend } from "../src/backend/backend.ts";
import { createBackend } from "../src/backend/create.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import { DiffusionDrafter, type DiffusionDrafterOptions } from "../src/decode/diffusion_drafter.ts";
import type { Draft, Drafter, DraftRequest } from "../src/decode/drafter.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { NgramDrafter } from "../src/decode/ngram_drafter.ts";
import { PhiloxSource } from "../src/decode/random.ts";
import { speculate, type SpeculateOptions } from "../src/decode/speculative.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadGpt2, loadSedd } from "../src/model/mod.ts";
import { logLinearSigma } from "../src/model/sedd_score.ts";
import type { CausalModel, DiffusionModel } from "../src/model/model.ts";
import { assertSame, checkpointOf, fixture, presentBackends, tensorsOf } from "./helpers.ts";

const PROMPT = [5, 6, 7, 8, 9];

async function loadTarget(backend: Backend): Promise<CausalModel> {
  using checkpoint = await openCheckpoint(fixture("parity/gpt2-bare"));
  return await loadGpt2(checkpoint, backend);
}

/** The drafter, trained at a length of 8: texts outgrow that, and the cache with it. */
async function loadDrafter(backend: Backend, target: CausalModel): Promise<DiffusionModel> {
  using checkpoint = await openCheckpoint(fixture("parity/sedd-target-tiny"));
  const model = { ...checkpoint.config.model as Record<string, unknown>, length: 8 };
  const short = await checkpointOf({ ...checkpoint.config, model }, await tensorsOf(checkpoint));
  return await loadSedd(short, backend, { target });
}

async function textOf(
  target: ModelTarget,
  drafter: Drafter | null,
  prompt: readonly number[],
  options: SpeculateOptions,
): Promise<number[]> {
  const rounds = drafter === null
    ? autoregress(target, prompt, options)
    : speculate(target, drafter, prompt, options);
  const tokens: number[] = [];
  for await (const round of rounds) tokens.push(...round.tokens);
  return tokens;
}

/** Drafts with a drafter and with one made for the occasion, compares, and proposes what is mostly accepted. */
class Compared implements Drafter {
  readonly name = "compared";
  readonly vocabSize: number;
  readonly leftToRight = true;
  readonly hiddenLayers: readonly number[];
  drafts = 0;
  readonly #old: DiffusionDrafter;
  readonly #fresh: () => DiffusionDrafter;
  readonly #known: readonly number[];

  /** @param known a text, of which each third token will be missed */
  constructor(fresh: () => DiffusionDrafter, known: readonly number[]) {
    this.#old = fresh();
    this.#fresh = fresh;
    this.#known = known;
    this.vocabSize = this.#old.vocabSize;
    this.hiddenLayers = this.#old.hiddenLayers;
  }

  draft(request: DraftRequest): Draft {
    this.drafts++;
    using fresh = this.#fresh();
    const expected = fresh.draft(request), found = this.#old.draft(request);
    assert.deepEqual([found.tokens, found.steps], [expected.tokens, expected.steps]);
    for (let j = 0; j < expected.tokens.length; j++) {
      assertSame(found.q!.row(j), expected.q!.row(j), `law ${j} after ${request.tokens.length} tokens`);
    }
    const tokens = found.tokens.map((_, j) => {
      const position = request.tokens.length + j;
      return (this.#known[position] + (position % 3 === 0 ? 1 : 0)) % this.vocabSize;
    });
    return { tokens, steps: new Int32Array(tokens.length), passes: 1 };
  }

  reset(): void {}

  [Symbol.dispose](): void {
    this.#old[Symbol.dispose]();
  }
}

const VARIANTS: readonly DiffusionDrafterOptions[] = [
  {},
  { steps: 3, order: "random" },
  { steps: 2, order: "confidence", draftContext: 4, sigma: "schedule" },
];

for (const [name, open] of presentBackends()) {
  Deno.test(`${name}: a target-fed drafter follows the text, whatever is accepted or taken back`, async () => {
    using backend = await open();
    using model = await loadTarget(backend), drafter = await loadDrafter(backend, model);
    using target = new ModelTarget(model, backend);
    const options: SpeculateOptions = { sampling: { temperature: 0 }, gamma: 4, maxTokens: 16 };
    for (const variant of VARIANTS) {
      const plain = await textOf(target, null, PROMPT, options);
      using compared = new Compared(() => new DiffusionDrafter(drafter, backend, variant), [
        ...PROMPT,
        ...plain,
      ]);
      assert.deepEqual(await textOf(target, compared, PROMPT, options), plain);
      assert.ok(compared.drafts > 4 && compared.drafts < 12, `${compared.drafts} drafts`);
      // another end, one token alone, a text that fills the context, and the first again
      for (const prompt of [[5, 6, 7, 1], [5], new Array(40).fill(3), PROMPT]) {
        const expected = await textOf(target, null, prompt, options);
        assert.deepEqual(await textOf(target, compared, prompt, options), expected, `${prompt}`);
      }
    }
  });
}

Deno.test("greedy and coupled texts of a target-fed drafter are those of plain decoding", async () => {
  using backend = await createBackend("wasm");
  using model = await loadTarget(backend), fed = await loadDrafter(backend, model);
  using target = new ModelTarget(model, backend);
  for (const variant of [...VARIANTS, { steps: 2, hotStart: true }]) {
    using drafter = new DiffusionDrafter(fed, backend, variant);
    assert.equal(drafter.name, "diffusion (target-fed, Markov head)");
    for (
      const [seed, temperature, rule] of [[1, 0, "ordered"], [2, 1, "coupled"], [3, 0.5, "match"]] as const
    ) {
      for (const prompt of [PROMPT, [9], PROMPT.slice(0, 3)]) {
        const options: SpeculateOptions = {
          sampling: { temperature },
          seed,
          rule,
          gamma: 4,
          maxTokens: 30,
        };
        const plain = await textOf(target, null, prompt, options);
        assert.deepEqual(await textOf(target, drafter, prompt, options), plain, `${rule}, ${prompt}`);
      }
      drafter.reset();
    }
  }
});

Deno.test("texts that take turns on one target, fed by it or not, are what each is alone", async () => {
  using backend = await createBackend("wasm");
  using model = await loadTarget(backend), fed = await loadDrafter(backend, model);
  using target = new ModelTarget(model, backend);
  const options = { rule: "block", gamma: 3, maxTokens: 16 } as const;
  const prompts = [PROMPT, [...PROMPT, 1, 2], PROMPT.slice(0, 2), [3, 3, 3, 3]];
  const drafterOf = (i: number): Drafter =>
    i === 3 ? new NgramDrafter(model.shape.vocabSize) : new DiffusionDrafter(fed, backend);
  const alone: number[][] = [];
  for (const [i, prompt] of prompts.entries()) {
    using drafter = drafterOf(i);
    alone.push(await textOf(target, drafter, prompt, { ...options, seed: i }));
  }
  using stack = new DisposableStack();
  const texts = prompts.map((prompt, i) =>
    speculate(target, stack.use(drafterOf(i)), prompt, { ...options, seed: i })
  );
  const together: number[][] = texts.map(() => []);
  for (let left = texts.length; left > 0;) {
    left = texts.length;
    for (const [i, text] of texts.entries()) {
      const { value, done } = await text.next();
      if (done) left--;
      else together[i].push(...value!.tokens);
    }
  }
  assert.deepEqual(together, alone);
});

Deno.test("a text that is refused, as another is in the middle of its round, leaves that one's hidden states alone", async () => {
  using backend = await createBackend("wasm");
  using model = await loadTarget(backend), fed = await loadDrafter(backend, model);
  using target = new ModelTarget(model, backend);
  const options = { seed: 1, gamma: 3, maxTokens: 16 };
  using drafter = new DiffusionDrafter(fed, backend), other = new DiffusionDrafter(fed, backend);
  for (
    const [first, second] of [[drafter, new NgramDrafter(model.shape.vocabSize)], [null, other]] as const
  ) {
    const expected = await textOf(target, first, PROMPT, options);
    const [whole, refused] = await Promise.allSettled([
      textOf(target, first, PROMPT, options),
      textOf(target, second, [1, 2, 3], options),
    ]);
    assert.deepEqual(whole, { status: "fulfilled", value: expected });
    assert.equal(refused.status, "rejected");
    assert.match(
      String(refused.reason),
      /^Error: Cannot decode: the target is in the middle of another text's/,
    );
  }
});

Deno.test("a target-fed drafter draws from the model's law after the last token, which the target has not seen", async () => {
  using backend = createReferenceBackend();
  using model = await loadTarget(backend), fed = await loadDrafter(backend, model);
  using target = new ModelTarget(model, backend), drafter = new DiffusionDrafter(fed, backend);
  target.keepHidden(drafter.hiddenLayers);
  const text = Int32Array.of(5, 6, 7, 8),
    seen = text.subarray(0, -1),
    last = text[3],
    mask = fed.shape.vocabSize;
  const hidden = await target.hiddenOf(seen); // which it has not been asked about
  const request = { tokens: text, gamma: 2, sampling: {}, random: new PhiloxSource(1), coupled: false };
  const draft = drafter.draft({ ...request, hidden });
  const drawn = [0, 1].map((j) => draft.q!.row(j).slice());

  using cache = fed.newCache(), p = backend.activation(2, mask);
  fed.feed(hidden, cache);
  const pass = fed.denoise([last, mask, mask], cache, logLinearSigma(1), { cleanRows: 0, head: [1, 2] });
  fed.markovLogits(pass, 0, last);
  fed.markovLogits(pass, 1, draft.tokens[0]);
  backend.distribution(p, pass.logits, {});
  for (const j of [0, 1]) assertSame(drawn[j], p.slice(j, 1).read(), `law ${j}`);
});

Deno.test("a target-fed drafter without hidden states says so, but needs none for a text of one token", async () => {
  using backend = createReferenceBackend();
  using model = await loadTarget(backend), fed = await loadDrafter(backend, model);
  using drafter = new DiffusionDrafter(fed, backend);
  const request = { gamma: 2, sampling: {}, random: new PhiloxSource(1), coupled: false };
  assert.equal(drafter.draft({ ...request, tokens: Int32Array.of(5) }).tokens.length, 2);
  assert.throws(() => drafter.draft({ ...request, tokens: Int32Array.of(5, 6, 7) }), {
    name: "TypeError",
    message:
      'Cannot draft: the hidden states for "diffusion (target-fed, Markov head)" are missing, expected those of 2 tokens',
  });
});
