/**
 * The models against the outputs of their original implementations, on every backend: every checkpoint in
 * `fixtures/parity` and the embedded pair.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Activation, Backend, Cache, Dtype } from "../src/backend/backend.ts";
import { createCudaBackend } from "../src/backend/cuda/backend.ts";
import type { CausalModel } from "../src/model/model.ts";
import type { SeddModel } from "../src/model/sedd.ts";
import { logLinearSigma } from "../src/model/sedd_score.ts";
import { standIn, whyNoStandIn } from "./cuda/standin.ts";
import { assertClose, assertSame, fixture, presentBackends, readTensors } from "./helpers.ts";
import {
  folders,
  HALF_TOLERANCE,
  lastRows,
  loadDiffusion,
  loadGpt,
  testParity,
  TOLERANCE,
} from "./parity.ts";

/** The drafters of the pair are shipped as int8, and compared with outputs of the f16 originals. */
const INT8_TOLERANCE = 1e-2;

Deno.test("the parity fixtures hold all architectures", () => {
  for (const name of ["gpt2-tiny", "gpt-neo-tiny", "sedd-tiny", "sedd-target-tiny"]) {
    assert(folders.includes(name), name);
  }
});

/** A backend, and the tiny models that are tested on it. */
interface TinyCase {
  readonly backendName: string;
  readonly open: () => Promise<Backend>;
  readonly dtype: Dtype;
  readonly tolerance: number;
  readonly names: readonly string[];
  readonly ignore: boolean;
}

const tinyCases: TinyCase[] = presentBackends().map(([backendName, open]) => {
  return { backendName, open, dtype: "f32", tolerance: TOLERANCE, names: folders, ignore: false };
});
// it computes thread by thread, and is asked for a few of the tiny models only
const onStandIn = {
  "gpt2-bare": "f32",
  "sedd-f16": "f32",
  "gpt-neo-f16": "f16",
  "gpt2-bf16": "bf16",
} as const;
for (const [only, dtype] of Object.entries(onStandIn)) {
  tinyCases.push({
    backendName: `cuda in ${dtype}, stand-in${whyNoStandIn}`,
    open: () => Promise.resolve(createCudaBackend()),
    dtype,
    tolerance: dtype === "f32" ? TOLERANCE : HALF_TOLERANCE,
    names: [only],
    ignore: standIn === undefined,
  });
}

for (const { backendName, open, dtype, tolerance, names, ignore } of tinyCases) {
  for (const name of names) {
    const fn = async () => {
      using backend = await open();
      await testParity(backend, name, { dtype, tolerance });
    };
    Deno.test({ name: `parity on ${backendName}: ${name}`, ignore, fn });
  }
}

for (const [backendName, open] of presentBackends()) {
  Deno.test(`parity on ${backendName}: the pair's target`, async () => {
    using backend = await open();
    const expected = await readTensors(fixture("pair/expected.safetensors"));
    using target = await loadGpt(backend, "pair/target");
    using cache = target.newCache();
    const logits = target.forward(expected.prompt_tokens.values, cache, { headRows: 9 }).read();
    assertClose(logits, expected["target.logits"].values, TOLERANCE, "target");
  });

  Deno.test(`parity on ${backendName}: the pair's drafters, shipped as int8`, async () => {
    using backend = await open();
    const expected = await readTensors(fixture("pair/expected.safetensors"));
    const prompt = expected.prompt_tokens.values, sigma = expected.sigma.values[0];

    using small = await loadGpt(backend, "pair/drafter-gpt2");
    using cache = small.newCache();
    const logits = small.forward(prompt, cache, { headRows: 9 }).read();
    assertClose(logits, expected["drafter-gpt2.logits"].values, INT8_TOLERANCE, "drafter-gpt2");

    using target = await loadGpt(backend, "pair/target");
    for (const name of ["drafter-sedd", "drafter-sedd-causal", "drafter-sedd-target"]) {
      using model = await loadDiffusion(backend, `pair/${name}`, { target });
      const fed = model.prefixAttention === "target", { vocabSize } = model.shape;
      using cache = model.newCache();
      if (fed) feed(backend, target, model, cache, prompt.subarray(0, -1));
      const clean = fed ? prompt.subarray(-1) : prompt; // fed, the last token opens the window
      const window = [...clean, ...new Array(8).fill(vocabSize)];
      const pass = model.denoise(window, cache, sigma, {
        cleanRows: fed ? 0 : prompt.length,
        head: lastRows(8, window.length),
      });
      const logits = () => withoutMask(pass.logits, vocabSize); // [8, V]
      const plain = logits();
      assertClose(plain, expected[`${name}.logits`].values, INT8_TOLERANCE, name);
      assert.equal(model.hasMarkovHead, name !== "drafter-sedd");
      if (!model.hasMarkovHead) continue;

      expected[`${name}.previous`].values.forEach((token, row) => model.markovLogits(pass, row, token));
      const added = logits().map((y, i) => y - plain[i]);
      const original = expected[`${name}.markov_logits`].values.map((y, i) => {
        return y - expected[`${name}.logits`].values[i];
      });
      assertClose(added, original, 2 * INT8_TOLERANCE, `${name}: what the Markov head adds`);
    }
  });

  Deno.test(`a causal prefix on ${backendName} may come in any pieces, and never sees what is masked`, async () => {
    using backend = await open();
    const folder = "pair/drafter-sedd-causal";
    using model = await loadDiffusion(backend, folder);
    using cut = await loadDiffusion(backend, folder, { chunkRows: 5 });
    const mask = model.shape.vocabSize, sigma = logLinearSigma(1);
    const text = Array.from({ length: 29 }, (_, i) => (i * 761 + 13) % mask);
    const masks = new Array(4).fill(mask);
    const denoise = (of: SeddModel, cache: Cache, clean: number[], rest: number[], wanted = 4) => {
      const head = lastRows(wanted, clean.length + rest.length);
      return of.denoise([...clean, ...rest], cache, sigma, { cleanRows: clean.length, head }).logits.read()
        .slice();
    };

    using cache = model.newCache();
    const whole = denoise(model, cache, text, masks);
    assert.equal(cache.length, text.length, "the clean rows are committed, the masked ones are not");
    assertSame(denoise(model, cache, [], masks), whole, "the same masks again");

    // another draft, over the same positions, leaves no trace
    denoise(model, cache, [], [1, mask, 2, mask, mask, 3]);
    assertSame(denoise(model, cache, [], masks), whole, "after another draft");

    cache.truncate(11);
    denoise(model, cache, [7, 7, 7], masks);
    cache.truncate(11);
    denoise(model, cache, text.slice(11, 12), masks);
    assertSame(denoise(model, cache, text.slice(12), masks), whole, "after rollbacks");

    using pieces = cut.newCache();
    const all = denoise(cut, pieces, text, masks, 33);
    assertSame(all.subarray(all.length - whole.length), whole, "one pass cut into chunks");
    pieces.truncate(0);
    const clean = denoise(cut, pieces, text.slice(0, 10), [], 10);
    assertSame(all.subarray(0, clean.length), clean, "clean rows do not see what follows");
  });
}

/** Logits of the real tokens, [R, V]. */
function withoutMask(logits: Activation, vocabSize: number): Float32Array {
  return logits.read().filter((_, i) => i % logits.columns !== vocabSize);
}

/** Gives a drafter what the target makes of a text. */
function feed(backend: Backend, target: CausalModel, model: SeddModel, to: Cache, seen: Float32Array): void {
  const layers = model.hiddenLayers;
  using cache = target.newCache();
  const out = layers.map(() => backend.activation(seen.length, target.shape.width));
  target.forward(seen, cache, { hidden: { layers, out } });
  model.feed(out, to);
  for (const states of out) states[Symbol.dispose]();
}
