/**
 * Models against the outputs of their original implementations (`fixtures/parity`, made by
 * `fixtures/make_parity.py`, and the embedded pair), and the bit-exact rule through them: however a text is cut into
 * passes, the logits are the same bits. What is done with it on which backend is the matter of `parity_test.ts` and
 * `gpu/main.ts`.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Activation, Backend, Cache, Dtype } from "../src/backend/backend.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { madeUpText } from "../tools/shapes.ts";
import { type LoadedModel, loadModel } from "../src/model/load.ts";
import type { CausalModel } from "../src/model/model.ts";
import type { SeddModel } from "../src/model/sedd.ts";
import {
  analyticProbabilities,
  denoiserProbabilities,
  logLinearRate,
  logLinearSigma,
  logScores,
  scoreEntropy,
  weightedLoss,
} from "../src/model/sedd_score.ts";
import type { LoadOptions } from "../src/model/uploads.ts";
import { assertClose, assertSame, fixture, readTensors } from "./helpers.ts";

/** f32 against f32, as a share of the largest logit; 1e-4 is what is promised, 1e-6 what is seen. */
export const TOLERANCE = 1e-5;

/** On a GPU, where weights are held as f16 or bf16 and the rows they multiply are rounded too. */
export const HALF_TOLERANCE = 1e-2;

/** The drafters of the pair are shipped as integers of at most 8 bits, and compared with outputs of the f16 originals. */
const INT8_TOLERANCE = 1e-2;

/** The drafter that a target feeds, and that target. */
const FED = "sedd-target-tiny", FED_BY = "gpt2-bare";

type Expected = Awaited<ReturnType<typeof readTensors>>;

async function load(backend: Backend, folder: string, options?: LoadOptions): Promise<LoadedModel> {
  using checkpoint = await openCheckpoint(fixture(folder));
  return await loadModel(checkpoint, backend, options);
}

/** A checkpoint of the fixtures. */
export async function loadGpt(backend: Backend, folder: string, options?: LoadOptions): Promise<CausalModel> {
  const loaded = await load(backend, folder, options);
  assert(loaded.kind === "causal");
  return loaded.model;
}

async function loadDiffusion(
  backend: Backend,
  folder: string,
  options?: LoadOptions,
): Promise<SeddModel> {
  const loaded = await load(backend, folder, options);
  assert(loaded.kind === "diffusion");
  return loaded.model;
}

/** Sequence `b` of a batched tensor. */
function sequence(tensor: Expected[string], b: number): Float32Array {
  const size = tensor.values.length / tensor.shape[0];
  return tensor.values.subarray(b * size, (b + 1) * size);
}

/** The logits of all tokens, [R, V], in passes of the given sizes, repeated. */
function inPasses(
  model: CausalModel,
  cache: Cache,
  tokens: ArrayLike<number>,
  sizes: readonly number[],
): number[] {
  const ids = Array.from(tokens), logits: number[] = [];
  for (let start = 0, pass = 0; start < ids.length; pass++) {
    const chunk = ids.slice(start, start + sizes[pass % sizes.length]);
    logits.push(...model.forward(chunk, cache, { headRows: chunk.length }).read());
    start += chunk.length;
  }
  return logits;
}

function testGpt(
  backend: Backend,
  name: string,
  model: CausalModel,
  cut: CausalModel,
  expected: Expected,
  tolerance: number,
): void {
  const rows = expected.tokens.shape[1], { vocabSize } = model.shape;
  for (let b = 0; b < expected.tokens.shape[0]; b++) {
    const tokens = sequence(expected.tokens, b), what = `${name}, sequence ${b}`;
    using cache = model.newCache();
    const whole = model.forward(tokens, cache, { headRows: rows }).read().slice(); // [R, V]
    assertClose(whole, sequence(expected.logits, b), tolerance, `${what}, at once`);
    assert.equal(cache.length, rows);

    cache.truncate(0);
    assertSame(inPasses(model, cache, tokens, [1]), whole, `${what}, token by token`);

    // a rollback to the middle, over keys and values of another text
    const half = rows >> 1;
    cache.truncate(half);
    model.forward(tokens.slice(0, rows - half).reverse(), cache);
    cache.truncate(half);
    const rest = inPasses(model, cache, tokens.subarray(half), [3, 1, 8, 5]);
    assertSame(rest, whole.subarray(half * vocabSize), `${what}, after a rollback, in odd passes`);

    using other = cut.newCache();
    const headRows = rows - 3;
    const last = cut.forward(tokens, other, { headRows }).read();
    assertSame(last, whole.subarray(3 * vocabSize), `${what}, one pass cut into chunks on ${backend.name}`);
  }
}

function testSedd(
  name: string,
  model: SeddModel,
  expected: Expected,
  { dtype, tolerance }: ParityOptions,
): void {
  const { vocabSize } = model.shape;
  const step = expected.analytic_step.values[0];
  for (let b = 0; b < expected.tokens.shape[0]; b++) {
    const tokens = sequence(expected.tokens, b), what = `${name}, sequence ${b}`;
    const t = expected.t.values[b], sigma = expected.sigma.values[b], rate = expected.rate.values[b];
    assertClose([logLinearSigma(t), logLinearRate(t)], [sigma, rate], 1e-6, `${what}: noise schedule`);

    using cache = model.newCache();
    const pass = model.denoise(tokens, cache, sigma, {
      cleanRows: 0,
      head: lastRows(tokens.length, tokens.length),
    });
    assert.equal(cache.length, 0, "a bidirectional pass commits nothing");
    const scored = logScores(pass.logits.read(), tokens, sigma, vocabSize, model.scaleBySigma);
    assertClose(scored.logScores, sequence(expected.log_score, b), tolerance, `${what}: log-scores`);

    if (dtype === "f32") { // made of the scores on the host, whose exponentials make much of rounding
      const analytic = analyticProbabilities(scored, logLinearSigma(t) - logLinearSigma(t - step));
      assertClose(analytic, sequence(expected.analytic_probs, b), tolerance, `${what}: analytic step`);
      const denoised = denoiserProbabilities(scored, sigma);
      assertClose(denoised, sequence(expected.denoise_probs, b), tolerance, `${what}: denoiser`);

      const entropy = scoreEntropy(scored, sigma, sequence(expected.clean_tokens, b));
      assertClose(entropy, sequence(expected.score_entropy, b), tolerance, `${what}: score entropy`);
      const loss = [weightedLoss(entropy, rate)];
      assertClose(loss, sequence(expected.weighted_loss, b), tolerance, `${what}: weighted loss`);
    }

    // the rows of a window see one another, so that only the head may be asked for less
    const some = model.denoise(tokens, cache, sigma, { cleanRows: 5, head: lastRows(7, tokens.length) })
      .logits.read().slice();
    const full = model.denoise(tokens, cache, sigma, {
      cleanRows: 0,
      head: lastRows(tokens.length, tokens.length),
    })
      .logits.read().slice();
    assertSame(some, full.subarray(full.length - some.length), `${what}, head of the last rows`);
    const spread = [1, 2, 7, tokens.length - 1];
    const few = model.denoise(tokens, cache, sigma, { cleanRows: 0, head: spread }).logits;
    spread.forEach((row, i) => {
      const columns = few.columns;
      assertSame(
        few.slice(i, 1).read(),
        full.subarray(row * columns, (row + 1) * columns),
        `${what}, row ${row}`,
      );
    });

    // rows that are kept are seen as they stood, so that of the same text the others come out the same
    const kept = 4, rest = tokens.length - kept, head = lastRows(rest, rest);
    model.denoise(tokens, cache, sigma, { cleanRows: 5, head: spread, keep: kept });
    assert.equal(cache.length, kept);
    for (let pass = 0; pass < 2; pass++) {
      const others = model.denoise(tokens.slice(kept), cache, sigma, { cleanRows: 1, head }).logits.read();
      assertSame(others, full.subarray(full.length - others.length), `${what}, after rows that are kept`);
    }
  }
}

/**
 * A drafter that its target feeds. However the prefix came about, what follows from it is the same bits.
 *
 * @param cut the same drafter, which computes few rows at once
 */
function testFed(
  backend: Backend,
  name: string,
  target: CausalModel,
  model: SeddModel,
  cut: SeddModel,
  expected: Expected,
  tolerance: number,
): void {
  const layers = model.hiddenLayers, size = expected.window.shape[1];
  const all = Array.from({ length: size }, (_, row) => row);
  for (let b = 0; b < expected.text.shape[0]; b++) {
    const what = `${name}, sequence ${b}`, sigma = expected.sigma.values[b];
    const seen = sequence(expected.text, b).slice(0, -1), window = sequence(expected.window, b);
    using states = target.newCache(), cache = model.newCache(), other = cut.newCache();
    const out = layers.map(() => backend.activation(seen.length, target.shape.width));
    target.forward(seen, states, { hidden: { layers, out } });
    const feed = (of: SeddModel, to: Cache, count: number): void =>
      of.feed(out.map((hidden) => hidden.slice(to.length, count)), to);
    const denoise = (of: SeddModel, from: Cache, head = all) =>
      of.denoise(window, from, sigma, { cleanRows: 0, head });

    feed(model, cache, seen.length);
    assert.equal(cache.length, seen.length);
    const pass = denoise(model, cache);
    const whole = pass.logits.read().slice(); // [size, V]
    assertClose(whole, sequence(expected.logits, b), tolerance, what);
    sequence(expected.previous, b).forEach((token, row) => model.markovLogits(pass, row, token));
    const added = sequence(expected.markov_logits, b);
    assertClose(pass.logits.read(), added, tolerance, `${what}, with what the Markov head adds`);
    assert.equal(cache.length, seen.length, "a window is not committed");
    assertSame(denoise(model, cache).logits.read(), whole, `${what}, the same window again`);
    const some = denoise(model, cache, [1, 4]).logits.read();
    const columns = model.shape.vocabSize;
    assertSame(some.subarray(0, columns), whole.subarray(columns, 2 * columns), `${what}, row 1 alone`);
    assertSame(some.subarray(columns), whole.subarray(4 * columns), `${what}, row 4 alone`);

    while (other.length < seen.length) feed(cut, other, 1);
    assertSame(denoise(cut, other).logits.read(), whole, `${what}, fed one by one`);
    other.truncate(5);
    // what belongs to other positions, in their place and taken back
    cut.feed(out.map((hidden) => hidden.slice(0, 9)), other);
    assert.notDeepEqual(denoise(cut, other).logits.read(), whole);
    other.truncate(5);
    feed(cut, other, seen.length - 5);
    assertSame(denoise(cut, other).logits.read(), whole, `${what}, fed in chunks after a rollback`);
  }
}

/** The tiny checkpoints. */
export const folders: readonly string[] = [...Deno.readDirSync(fixture("parity"))]
  .filter((entry) => entry.isDirectory).map(({ name }) => name).sort();

/** How a tiny model is held, and how far from the original's its outputs may be. */
export interface ParityOptions {
  readonly dtype: Dtype;
  /** As a share of the largest logit. */
  readonly tolerance: number;
}

/** A tiny checkpoint against the original, in passes of all kinds. */
export async function testParity(backend: Backend, name: string, options: ParityOptions): Promise<void> {
  const { dtype, tolerance } = options;
  const expected = await readTensors(fixture(`parity/${name}/expected.safetensors`));
  using target = name === FED ? await loadGpt(backend, `parity/${FED_BY}`, { dtype }) : undefined;
  const loaded = await load(backend, `parity/${name}`, { dtype, target });
  using model = loaded.model;
  if (loaded.kind === "diffusion" && target !== undefined) {
    using cut = await loadDiffusion(backend, `parity/${name}`, { dtype, target, chunkRows: 7 });
    testFed(backend, name, target, loaded.model, cut, expected, tolerance);
  } else if (loaded.kind === "diffusion") {
    testSedd(name, loaded.model, expected, options);
  } else {
    using cut = await loadGpt(backend, `parity/${name}`, { dtype, chunkRows: 7 });
    testGpt(backend, name, loaded.model, cut, expected, tolerance);
  }
  assert(model.bytes > 0);
}

/** The last `count` of `rows` rows. */
function lastRows(count: number, rows: number): number[] {
  return Array.from({ length: count }, (_, i) => rows - count + i);
}

/** What is checked of the embedded pair: what it is called, and how. */
export const pairChecks: readonly (readonly [name: string, check: (backend: Backend) => Promise<void>])[] = [
  ["the pair's target", testPairTarget],
  ["the pair's drafters, shipped as int8", testPairDrafters],
  ["a causal prefix may come in any pieces, and never sees what is masked", testCausalPrefix],
];

async function testPairTarget(backend: Backend): Promise<void> {
  const expected = await readTensors(fixture("pair/expected.safetensors"));
  using target = await loadGpt(backend, "pair/target");
  using cache = target.newCache();
  const logits = target.forward(expected.prompt_tokens.values, cache, { headRows: 9 }).read();
  assertClose(logits, expected["target.logits"].values, TOLERANCE, "target");
}

async function testPairDrafters(backend: Backend): Promise<void> {
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
}

async function testCausalPrefix(backend: Backend): Promise<void> {
  const folder = "pair/drafter-sedd-causal";
  using model = await loadDiffusion(backend, folder);
  using cut = await loadDiffusion(backend, folder, { chunkRows: 5 });
  const mask = model.shape.vocabSize, sigma = logLinearSigma(1);
  const text = [...madeUpText(29, mask)];
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
