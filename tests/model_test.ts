/**
 * Models beyond parity: what a configuration makes of them, which passes are refused, hidden states, dtypes. How they
 * are loaded, and what is refused there, is in `model_loading_test.ts`.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { TensorData } from "../fixtures/write_safetensors.ts";
import type { Dtype } from "../src/backend/backend.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { Growing } from "../src/backend/buffers.ts";
import { loadGpt2, loadGptNeo, loadModel, loadSedd } from "../src/model/mod.ts";
import type { CausalModel } from "../src/model/model.ts";
import { altered, assertClose, assertSame, presentBackends } from "./helpers.ts";

/** Logits of a fixed text, [16, V]. */
function logitsOf(model: CausalModel): Float32Array {
  using cache = model.newCache();
  const tokens = Array.from({ length: 16 }, (_, i) => (i * 31 + 7) % model.shape.vocabSize);
  return model.forward(tokens, cache, { headRows: 16 }).read().slice();
}

/** Multiplies the queries that block i of a GPT-2 computes. */
function scaledQueries(scale: (i: number) => number): (all: TensorData[]) => TensorData[] {
  return (all) =>
    all.map((tensor) => {
      const block = /h\.(\d+)\.attn\.c_attn/.exec(tensor.name);
      if (block === null) return tensor;
      const columns = tensor.shape.at(-1)!, values = tensor.data as Float32Array;
      const data = values.map((v, i) => i % columns < columns / 3 ? v * scale(Number(block[1])) : v);
      return { ...tensor, data };
    });
}

Deno.test("GPT-2: both switches of the attention's scale are honoured", async () => {
  using backend = createReferenceBackend();
  const plain = logitsOf(await loadGpt2(await altered("gpt2-tiny", {}), backend));
  const unscaled = await altered("gpt2-tiny", { scale_attn_weights: false }, scaledQueries(() => 0.25));
  assertSame(logitsOf(await loadGpt2(unscaled, backend)), plain, "a head size of 16 divides by 4");
  const byLayer = await altered("gpt2-tiny", { scale_attn_by_inverse_layer_idx: true });
  const expected = await altered("gpt2-tiny", {}, scaledQueries((i) => 1 / (i + 1)));
  const found = logitsOf(await loadGpt2(byLayer, backend));
  assertSame(found, logitsOf(await loadGpt2(expected, backend)), "block i divides by i + 1");
  assert.notDeepEqual(found, plain);
});

Deno.test("GPT-2: an inner width of its own, and a stray n_ctx", async () => {
  using backend = createReferenceBackend();
  const plain = logitsOf(await loadGpt2(await altered("gpt2-tiny", {}), backend));
  // 8 more columns that nothing reads: c_fc [64, 264], c_proj [264, 64]
  const wider = await altered("gpt2-tiny", { n_inner: 264, n_ctx: 7 }, (all) =>
    all.map((tensor) => {
      const { name, shape } = tensor, values = tensor.data as Float32Array;
      if (!name.includes("mlp") || name.endsWith("c_proj.bias")) return tensor;
      if (name.endsWith("c_fc.weight")) {
        const data = Float32Array.from({ length: 64 * 264 }, (_, i) => {
          const column = i % 264;
          return column < 256 ? values[Math.floor(i / 264) * 256 + column] : 0.5;
        });
        return { ...tensor, shape: [64, 264], data };
      }
      const size = shape.length === 1 ? 264 : 264 * 64, data = new Float32Array(size);
      data.set(values);
      return { ...tensor, shape: shape.length === 1 ? [264] : [264, 64], data };
    }));
  using model = await loadGpt2(wider, backend);
  assert.equal(model.shape.contextLength, 128);
  assertSame(logitsOf(model), plain, "wider");
});

Deno.test("GPT-Neo: attention_types say the same as attention_layers, and the window counts", async () => {
  using backend = createReferenceBackend();
  const plain = logitsOf(await loadGptNeo(await altered("gpt-neo-tiny", {}), backend));
  const types = await altered("gpt-neo-tiny", { attention_layers: undefined });
  assertSame(logitsOf(await loadGptNeo(types, backend)), plain, "types");
  const narrow = await altered("gpt-neo-tiny", { window_size: 3 });
  assert.notDeepEqual(logitsOf(await loadGptNeo(narrow, backend)), plain);
  const global = { attention_layers: ["global", "global", "global", "global"], window_size: undefined };
  // 16 tokens fit the window of 16
  assertSame(logitsOf(await loadGptNeo(await altered("gpt-neo-tiny", global), backend)), plain, "global");
});

Deno.test("SEDD: bf16 tensors, and a configuration as published, with all it says beside what is used", async () => {
  using backend = createReferenceBackend();
  const published: Record<string, unknown> = {
    ngpus: 8,
    training: { batch_size: 512, accum: 1 },
    "graph.file": "data",
    noise: { type: "loglinear", sigma_min: 0.0001, sigma_max: 20 },
    "model.name": "small",
    "model.type": "ddit",
    "model.dropout": 0.1,
  };
  const truncate = (values: Float32Array) => {
    const bits = new Uint32Array(values.slice().buffer);
    return {
      bf16: Uint16Array.from(bits, (b) => b >>> 16),
      f32: new Float32Array(bits.map((b) => b & 0xffff0000).buffer),
    };
  };
  const as = (dtype: "bf16" | "f32") => (all: TensorData[]) =>
    all.map((t) => ({ ...t, dtype: dtype.toUpperCase(), data: truncate(t.data as Float32Array)[dtype] }));
  const logits = async (dtype: "bf16" | "f32") => {
    const { model } = await loadModel(await altered("sedd-tiny", published, as(dtype)), backend);
    assert("denoise" in model);
    using cache = model.newCache();
    return model.denoise([1, 320, 2], cache, 1, { cleanRows: 0, head: [1] }).logits.read().slice();
  };
  assertSame(await logits("bf16"), await logits("f32"), "bf16");
});

Deno.test("SEDD: what a noise level does to the model is computed and uploaded once", async () => {
  using backend = createReferenceBackend();
  using model = await loadSedd(await altered("sedd-tiny", {}), backend);
  using cache = model.newCache();
  const vector = backend.vector.bind(backend);
  let made = 0;
  backend.vector = (values) => {
    made++;
    return vector(values);
  };
  const pass = (sigma: number) => {
    made = 0;
    const { logits } = model.denoise([1, 320, 2], cache, sigma, { cleanRows: 0, head: [1] });
    return { made, logits: logits.read().slice() };
  };
  const first = pass(1), again = pass(1), other = pass(2), before = pass(1);
  assert.ok(first.made > 0);
  assert.deepEqual([again.made, other.made, before.made], [0, first.made, 0]);
  assertSame(again.logits, first.logits, "the same noise level");
  assertSame(before.logits, first.logits, "the same noise level, after another");
  assert.notDeepEqual(other.logits, first.logits);
});

Deno.test("a buffer that could not be allocated is not asked for again", () => {
  const asked: number[] = [];
  using buffer = new Growing((size) => {
    asked.push(size);
    if (size > 20) throw new RangeError("too large");
    return { [Symbol.dispose]: () => {} };
  });
  buffer.atLeast(2);
  buffer.atLeast(3);
  assert.throws(() => buffer.atLeast(30), /too large/);
  buffer.atLeast(2);
  buffer[Symbol.dispose]();
  buffer.atLeast(3);
  assert.deepEqual(asked, [2, 4, 30, 2, 3]);
});

Deno.test("passes that make no sense are refused, and leave the cache alone", async () => {
  using backend = createReferenceBackend();
  using model = await loadGpt2(await altered("gpt2-tiny", {}), backend);
  using cache = model.newCache(), small = model.newCache(4);
  const refused = (run: () => unknown, message: string) =>
    assert.throws(run, { name: "RangeError", message });
  const range = "Cannot run the model: token 320 at index 2 is not in [0, 320)";
  refused(() => model.forward([1, 2, 320], cache), range);
  for (const token of [-1, 0.5, NaN]) {
    refused(
      () => model.forward([token], cache),
      `Cannot run the model: token ${token} at index 0 is not in [0, 320)`,
    );
  }
  refused(() => model.forward([], cache), "Cannot run the model: there are no tokens");
  for (const headRows of [0, 3, 1.5]) {
    refused(
      () => model.forward([1, 2], cache, { headRows }),
      `Cannot run the model: headRows is ${headRows}, expected an integer within [1, 2]`,
    );
  }
  model.forward([1, 2, 3], small);
  refused(
    () => model.forward([1, 2], small),
    "Cannot run the model: positions [3, 5) do not fit the cache of 4",
  );
  using large = model.newCache(500);
  model.forward(new Array(128).fill(1), large);
  refused(
    () => model.forward([1], large),
    "Cannot run the model: positions [128, 129) do not fit the context of 128",
  );
  assert.deepEqual([cache.length, small.length, large.length], [0, 3, 128]);

  using sedd = await loadSedd(await altered("sedd-tiny", {}), backend);
  using window = sedd.newCache(8);
  const rows = { cleanRows: 0, head: [0] };
  refused(
    () => sedd.denoise([321], window, 1, rows),
    "Cannot run the model: token 321 at index 0 is not in [0, 321)",
  );
  for (const sigma of [0, -1, NaN, Infinity]) {
    refused(
      () => sedd.denoise([320], window, sigma, rows),
      `Cannot run the model: sigma is ${sigma}, expected a positive number`,
    );
  }
  refused(
    () => sedd.denoise([320], window, 1, { cleanRows: 2, head: [0] }),
    "Cannot run the model: cleanRows is 2, expected an integer within [0, 1]",
  );
  refused(
    () => sedd.denoise([320], window, 1, { cleanRows: 0, head: [0], keep: 1 }),
    "Cannot run the model: keep is 1, expected an integer within [0, 0]",
  );
  for (const head of [[], [1], [0, 0], [-1]]) {
    refused(
      () => sedd.denoise([320], window, 1, { cleanRows: 0, head }),
      `Cannot run the model: head is [${head}], expected ascending rows within [0, 1), at least one`,
    );
  }
  refused(
    () => sedd.denoise(new Array(9).fill(320), window, 1, rows),
    "Cannot run the model: positions [0, 9) do not fit the cache of 8",
  );
  const pass = sedd.denoise([320], window, 1, rows);
  assert.equal(pass.markov, undefined);
  assert.throws(() => sedd.markovLogits(pass, 0, 1), /the checkpoint has no Markov head/);
});

for (const [name, open] of presentBackends()) {
  Deno.test(`${name}: hidden states are the residual stream as it leaves each block`, async () => {
    using backend = await open();
    using model = await loadGpt2(await altered("gpt2-tiny", {}), backend);
    using cut = await loadGpt2(await altered("gpt2-tiny", {}), backend, { chunkRows: 3 });
    const tokens = [5, 6, 7, 8, 9, 10, 11];
    using cache = model.newCache(), other = cut.newCache();
    using first = backend.activation(7, 64), last = backend.activation(7, 64);
    const hidden = { layers: [1, 0], out: [last, first] };
    model.forward(tokens, cache, { hidden });
    const whole = [first.read().slice(), last.read().slice()];
    cut.forward(tokens, other, { hidden });
    assertSame(first.read(), whole[0], "block 0, in chunks");
    assertSame(last.read(), whole[1], "block 1, in chunks");

    // the first block's output is that of the same model without the second
    const withoutSecond = (all: TensorData[]) => all.filter(({ name }) => !name.includes("h.1."));
    using short = await loadGpt2(await altered("gpt2-tiny", { n_layer: 1 }, withoutSecond), backend);
    using fresh = short.newCache();
    short.forward(tokens, fresh, { hidden: { layers: [0], out: [last] } });
    assertSame(last.read(), whole[0], "block 0");
    assert.notDeepEqual(whole[0], whole[1]);

    const tap = (layers: number[], out = [first]) => () =>
      model.forward(tokens, cache, { hidden: { layers, out } });
    assert.throws(tap([2]), { message: "Cannot tap block 2: it is not in [0, 2)" });
    assert.throws(tap([0], [first.slice(0, 6)]), {
      message: "Cannot tap block 0: its buffer has shape [6, 64], expected [7, 64]",
    });
    assert.throws(tap([0], []), { message: "Cannot tap 1 blocks: there are 0 buffers for them" });
  });

  Deno.test(`${name}: whatever the dtype, the logits do not depend on how a text is cut`, async () => {
    using backend = await open();
    using oracle = createReferenceBackend();
    // in int8 the last bit of a row's entry may decide on which side of a step it falls, here one in 64 entries
    const tolerances: Record<Dtype, number> = { f32: 1e-5, f16: 1e-5, bf16: 1e-5, int8: 5e-2 };
    const exact = logitsOf(await loadGpt2(await altered("gpt2-tiny", {}), oracle));
    for (const dtype of ["f32", "f16", "bf16", "int8"] as const) {
      using model = await loadGpt2(await altered("gpt2-tiny", {}), backend, { dtype });
      using cut = await loadGpt2(await altered("gpt2-tiny", {}), backend, { dtype, chunkRows: 1 });
      using reference = await loadGpt2(await altered("gpt2-tiny", {}), oracle, { dtype });
      const found = logitsOf(model);
      assertSame(logitsOf(cut), found, dtype);
      assertClose(found, logitsOf(reference), tolerances[dtype], `${dtype}, against the oracle`);
      assertClose(found, exact, dtype === "f32" ? 1e-5 : 0.1, `${dtype}, against f32`);
      if (dtype !== "f32") assert.notDeepEqual(found, exact);
    }
  });
}
