/**
 * Which launches the CUDA backend makes: passes that are recorded and launched as one, and how many kernels a layer takes.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Cache } from "../src/backend/backend.ts";
import { createCudaBackend, type CudaBackend, PLAIN_LAUNCHES } from "../src/backend/cuda/backend.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import { onCudaBackend as test, onStandIn, standIn } from "./cuda/standin.ts";
import { assertSame, fixture } from "./helpers.ts";
import { fileURLToPath } from "node:url";
import { loadEngine } from "../mod.ts";
import { filled } from "./cuda/values.ts";

for (const refuses of [0, 1]) {
  const what = refuses ? ", also where no dependent launches are recorded" : "";
  test(`a pass that is repeated is one launch, until memory is given back${what}`, (backend) => {
    return standIn?.withMachine({ refuses }, () => repeated(backend, refuses));
  });
}

async function repeated(backend: CudaBackend, refused: number): Promise<void> {
  using checkpoint = await openCheckpoint(fixture("parity/gpt2-bf16"));
  const loaded = await loadModel(checkpoint, backend, { dtype: "bf16" });
  assert(loaded.kind === "causal");
  using model = loaded.model;
  using cache = model.newCache(), fresh = model.newCache();
  const tokens = [3, 1, 4, 1, 5, 9];
  const expected = model.forward(tokens, fresh, { headRows: tokens.length }).read().slice(); // [R, V]
  const launches = () => {
    const counts = ["cuLaunchKernelEx", "cuGraphLaunch"].map((name) => standIn?.calls(name));
    standIn?.reset();
    return counts;
  };
  const all = 5 * model.shape.layers + 2, columns = model.shape.vocabSize;
  launches();
  const seen = tokens.map((token, at) => {
    if (at === 4) backend.vector(new Float32Array(1))[Symbol.dispose]();
    const logits = model.forward([token], cache).read();
    assertSame(logits, expected.subarray(at * columns, (at + 1) * columns), `token ${at}`);
    return launches();
  });
  // run, recorded and run, run, run; then anew
  assert.deepEqual(seen, [[all, 0], [2 * refused + all, 1], [0, 1], [0, 1], [all, 0], [all, 1]]);
  assert.deepEqual(backend.graphs, { recorded: 2, dependent: refused === 0 });
}

onStandIn("cuda: where plain launches are asked for, none is dependent", async (standIn) => {
  using checkpoint = await openCheckpoint(fixture("parity/gpt2-bf16"));
  const dependent = async () => {
    using backend = createCudaBackend();
    const loaded = await loadModel(checkpoint, backend, { dtype: "bf16" });
    assert(loaded.kind === "causal");
    using model = loaded.model;
    using cache = model.newCache();
    standIn.reset();
    for (const token of [3, 1, 4]) model.forward([token], cache).read();
    return [standIn.calls("dependent launches") > 0, backend.graphs.dependent];
  };
  assert.deepEqual(await dependent(), [true, true]);
  Deno.env.set(PLAIN_LAUNCHES, "1");
  try {
    assert.deepEqual(await dependent(), [false, false]);
  } finally {
    Deno.env.delete(PLAIN_LAUNCHES);
  }
});

test("what is timed is enqueued once more than it is counted, and nothing of it waits", (backend) => {
  using x = filled(backend, 4, 16, 1), y = backend.activation(4, 16);
  let enqueued = 0;
  standIn!.reset();
  const times = backend.time(() => {
    assert.equal(standIn!.calls("cuStreamSynchronize"), 0);
    backend.copy(y, x);
    enqueued++;
  }, 3);
  assert.ok(times.length === 3 && times.every((ms) => ms >= 0));
  assert.equal(enqueued, 4);
});

test("a denoising pass that is repeated is one launch and one for its head, for each σ and place of masks", async (backend) => {
  using of = await openCheckpoint(fixture("parity/gpt2-bare"));
  const loaded = await loadModel(of, backend);
  assert(loaded.kind === "causal");
  using target = loaded.model;
  using checkpoint = await openCheckpoint(fixture("parity/sedd-target-tiny"));
  const drafting = await loadModel(checkpoint, backend, { target });
  assert(drafting.kind === "diffusion");
  using model = drafting.model;
  const mask = model.shape.vocabSize, head = [1, 2, 3];
  const denoise = (cache: Cache, tokens: readonly number[], sigma: number) => {
    standIn?.reset();
    const logits = model.denoise(tokens, cache, sigma, { cleanRows: 0, head }).logits.read().slice();
    return { logits, graphs: standIn?.calls("cuGraphLaunch"), others: standIn?.calls("cuLaunchKernelEx") };
  };
  using cache = model.newCache();
  const passes = [[[7, mask, mask, 5, mask], 3], [[7, mask, mask, mask, 5], 3], [
    [7, mask, mask, 5, mask],
    0.5,
  ]];
  for (const [tokens, sigma] of passes as [number[], number][]) {
    using fresh = model.newCache();
    const other = tokens.map((id) => id === mask ? mask : id + 1);
    for (const ids of [other, other, tokens]) denoise(cache, ids, sigma);
    const replayed = denoise(cache, tokens, sigma);
    assert.deepEqual([replayed.graphs, replayed.others], [1, 2], "blocks; logits and the Markov head's rows");
    const expected = denoise(fresh, tokens, sigma);
    assert.equal(expected.graphs, 0);
    assertSame(replayed.logits, expected.logits, `${tokens} at ${sigma}`);
    assert.notDeepEqual(denoise(cache, other, sigma).logits, expected.logits);
  }
});

test("a layer takes five kernels, for one row and for many", async (backend) => {
  using checkpoint = await openCheckpoint(fixture("parity/gpt2-bf16"));
  const loaded = await loadModel(checkpoint, backend, { dtype: "bf16" });
  assert(loaded.kind === "causal");
  using model = loaded.model;
  using cache = model.newCache();
  for (const rows of [12, 1]) {
    standIn?.reset();
    model.forward(new Int32Array(rows), cache, { headRows: rows });
    const launches = standIn?.calls("cuLaunchKernelEx");
    assert.equal(launches, 5 * model.shape.layers + 2, `${rows} rows: embedding, layers, head`);
  }
});

onStandIn(
  "the passes of a text are repeated as graphs: plain, drafted, and with hidden states for the drafter",
  async (standIn) => {
    const target = fixture("parity/gpt2-bare"), drafter = fileURLToPath(fixture("parity/sedd-target-tiny"));
    using engine = await loadEngine({ target, drafter, device: "cuda" });
    for (const [name, passes] of [[null, 1], [drafter, 2]] as const) {
      standIn.reset();
      const options = { drafter: name, temperature: 0, gamma: 3, maxTokens: 24, stopTokens: [] };
      const { stats } = await engine.generate([5, 6, 7, 8], options);
      assert.ok(stats.rounds > 12, `${stats.rounds} rounds`);
      // of each kind of pass the first runs as it is; near the end of a text drafts, and so passes, are shorter
      const graphs = standIn.calls("cuGraphLaunch");
      assert.ok(graphs >= passes * (stats.rounds - 5), `${graphs} graphs in ${stats.rounds} rounds`);
    }
  },
);
