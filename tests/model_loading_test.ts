/**
 * From a checkpoint to a model: what its configuration decides, what is refused and in which words, and what is freed.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { TensorData } from "../fixtures/write_safetensors.ts";
import { type Activation, type Backend, type Dtype, dtypes } from "../src/backend/backend.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadGpt2, loadModel, loadSedd } from "../src/model/mod.ts";
import type { CausalModel } from "../src/model/model.ts";
import { Plan } from "../src/model/plan.ts";
import { CheckpointError, type Weights } from "../src/model/weights.ts";
import { altered, fixture, presentBackends } from "./helpers.ts";

type Json = Record<string, unknown>;

Deno.test("the configuration decides what is loaded, and which tokens end a text", async () => {
  using backend = createReferenceBackend();
  const gpt2 = await loadModel(await altered("gpt2-tiny", { eos_token_id: [3, 5000, 0] }), backend);
  assert(gpt2.kind === "causal");
  assert.deepEqual(gpt2.stopTokens, [3, 0]);
  assert.deepEqual(gpt2.model.shape, { vocabSize: 320, contextLength: 128, layers: 2, width: 64, heads: 4 });
  const none = await loadModel(await altered("gpt-neo-tiny", { eos_token_id: null }), backend);
  assert(none.kind === "causal");
  assert.deepEqual(none.stopTokens, []);
  const sedd = await loadModel(await altered("sedd-tiny", {}), backend);
  assert(sedd.kind === "diffusion");
  assert.deepEqual(sedd.model.shape, { vocabSize: 320, contextLength: 128, layers: 2, width: 64, heads: 4 });
  assert.equal(sedd.model.prefixAttention, "bidirectional");
});

const refusals: [name: string, fields: Json, message: RegExp][] = [
  [
    "gpt2-tiny",
    { model_type: "llama" },
    /"model_type" of config\.json is "llama", expected "gpt2" or "gpt_neo"$/,
  ],
  ["gpt2-tiny", { model_type: undefined }, /"model_type" of config\.json is missing, expected/],
  ["gpt2-tiny", { n_embd: undefined }, /"n_embd" of config\.json is missing, expected a positive integer$/],
  ["gpt2-tiny", { n_layer: "2" }, /"n_layer" of config\.json is "2", expected a positive integer$/],
  ["gpt2-tiny", { n_positions: 0 }, /"n_positions" of config\.json is 0, expected a positive integer$/],
  ["gpt2-tiny", { n_head: 5 }, /"n_head" of config\.json is 5, expected a divisor of the width 64$/],
  ["gpt2-tiny", { activation_function: "gelu" }, /is "gelu", expected "gelu_new" or "gelu_pytorch_tanh"$/],
  [
    "gpt2-tiny",
    { scale_attn_weights: 1 },
    /"scale_attn_weights" of config\.json is 1, expected true or false$/,
  ],
  [
    "gpt2-tiny",
    { layer_norm_epsilon: -1 },
    /"layer_norm_epsilon" of config\.json is -1, expected a positive/,
  ],
  ["gpt2-tiny", { n_embd: 32, n_head: 2 }, /tensor ".*" has shape \[128, 64\], expected \[128, 32\]$/],
  [
    "gpt2-tiny",
    { n_layer: 3 },
    /tensor "transformer\.h\.2\.attn\.c_attn\.weight" is missing, expected shape \[64, 192\]$/,
  ],
  [
    "gpt2-tiny",
    { eos_token_id: "319" },
    /field "eos_token_id" of config\.json is "319", expected a token's id, or a/,
  ],
  [
    "gpt2-tiny",
    { n_layer: 1 },
    /tensor "transformer\.h\.1\.ln_1\.weight" is there, expected no more than the 1 layers of config\.json$/,
  ],
  ["sedd-tiny", { "model.n_blocks": 1 }, /tensor "blocks\.1\.attn_qkv\.weight" is there, expected no more/],
  [
    "gpt2-tiny",
    { n_embd: [Array(1e5).fill(1)] },
    /"n_embd" of config\.json is \[\[1,1,.{74}…, expected a positive/,
  ],
  [
    "gpt2-tiny",
    { tie_word_embeddings: false },
    /tensor "lm_head\.weight" is missing, expected shape \[320, 64\]$/,
  ],
  [
    "gpt-neo-tiny",
    { attention_layers: ["global"] },
    /"attention_layers" .* expected "global" or "local" for each of 4/,
  ],
  [
    "gpt-neo-tiny",
    { attention_layers: ["a", "a", "a", "a"] },
    /expected "global" or "local" for each of 4 layers$/,
  ],
  ["gpt-neo-tiny", { attention_layers: null, attention_types: [[["global"], 1e9]] }, /"attention_types" of/],
  [
    "gpt-neo-tiny",
    { attention_layers: null, attention_types: [7] },
    /"attention_types" of config\.json is \[7\]/,
  ],
  // written out, these would not fit the memory
  [
    "gpt-neo-tiny",
    { num_layers: 1e12, attention_layers: null, attention_types: [[["local"], 1e12]] },
    /"transformer\.h\.4\..*" is missing/,
  ],
  [
    "gpt-neo-tiny",
    { attention_layers: null, attention_types: [[["global"], -4], [["global"], 8]] },
    /"attention_types" of/,
  ],
  ["gpt-neo-tiny", { window_size: null }, /"window_size" of config\.json is missing/],
  [
    "sedd-tiny",
    { "graph.type": "uniform" },
    /"graph\.type" of config\.json is "uniform", expected "absorb"$/,
  ],
  ["sedd-tiny", { tokens: 50.5 }, /"tokens" of config\.json is 50\.5, expected a positive integer$/],
  [
    "sedd-tiny",
    { "model.length": 1 },
    /"model\.length" of config\.json is 1, expected at least 2: a token of/,
  ],
  ["sedd-tiny", { "model.hidden_size": 2e12 }, /has shape \[321, 64\], expected \[321, 2000000000000\]$/],
  ["sedd-tiny", { model: 3 }, /"model" of config\.json is 3, expected an object$/],
  [
    "sedd-tiny",
    { "model.n_heads": 3 },
    /"model\.n_heads" of config\.json is 3, expected a divisor of the width 64$/,
  ],
  [
    "sedd-tiny",
    { "model.n_heads": 64 },
    /"model\.n_heads" of config\.json is 64, expected heads of even size/,
  ],
  [
    "sedd-tiny",
    { specdiff: { prefix_attention: "both" } },
    /"specdiff\.prefix_attention" of config\.json is "both"/,
  ],
  ["sedd-tiny", { specdiff: { markov_head: { rank: 8 } } }, /tensor "markov_head\.a\.weight" is missing/],
];

Deno.test("configurations and tensors that do not fit are refused by name", async () => {
  using backend = createReferenceBackend();
  for (const [name, fields, message] of refusals) {
    const checkpoint = await altered(name, fields);
    await assert.rejects(loadModel(checkpoint, backend), (error) => {
      assert(error instanceof CheckpointError, String(error));
      assert.match(error.message, /^Cannot load checkpoint "memory/);
      assert.match(error.message, message);
      return true;
    });
  }
});

Deno.test("a drafter that takes parts of its target is refused without it, and with another", async () => {
  using backend = createReferenceBackend();
  using target = await loadGpt2(await altered("gpt2-bare", {}), backend);
  using wide = await loadGpt2(await altered("gpt2-tiny", {}), backend);
  const of = (fields: Json) => ({
    prefix_attention: "target",
    target_layers: [1, 0],
    target_width: 32,
    shares: ["embedding", "head"],
    ...fields,
  });
  const cases: [specdiff: Json, target: CausalModel | undefined, message: RegExp][] = [
    [
      of({}),
      undefined,
      /"specdiff\.prefix_attention" of config\.json is "target", expected a target to be given with it$/,
    ],
    [
      { shares: ["embedding", "head"] },
      undefined,
      /shares" of config\.json is .*, expected a target to be given with it$/,
    ],
    [
      of({}),
      wide,
      /"specdiff\.target_width" of config\.json is 32, expected the width 64 of the target that it is loaded with$/,
    ],
    [
      of({ target_layers: [2] }),
      target,
      /target_layers" of config\.json is \[2\], expected blocks .* in \[0, 2\)$/,
    ],
    [
      of({ target_layers: [] }),
      target,
      /target_layers" of config\.json is \[\], expected blocks of the target/,
    ],
    [of({ target_layers: undefined }), target, /"specdiff\.target_layers" of config\.json is missing/],
    [of({ shares: ["head"] }), target, /is \["head"\], expected \["embedding","head"\]$/],
    [
      { shares: ["embedding", "head"] },
      wide,
      /"specdiff\.shares" .* expected a target of shape \[97, 32\] there, and this one's are \[320, 64\]$/,
    ],
    [of({ target_layers: [0, 1, 0] }), target, /tensor "prefix\.fuse\.2\.weight" is missing/],
    [
      of({ shares: undefined }),
      target,
      /tensor "vocab_embed\.embedding" is missing, expected shape \[98, 32\]$/,
    ],
  ];
  for (const [specdiff, given, message] of cases) {
    const checkpoint = await altered("sedd-target-tiny", { specdiff });
    await assert.rejects(loadSedd(checkpoint, backend, { target: given }), (error) => {
      assert(error instanceof CheckpointError, String(error));
      assert.match(error.message, message);
      return true;
    });
  }

  using model = await loadSedd(await altered("sedd-target-tiny", {}), backend, { target });
  using cache = model.newCache(3), states = backend.activation(4, 32), other = backend.activation(4, 31);
  const refused = (hidden: Activation[], message: string) =>
    assert.throws(() => model.feed(hidden, cache), { name: "RangeError", message });
  refused([states], "Cannot feed a prefix: it is made of 2 layers, not of 1");
  refused(
    [states, other],
    "Cannot feed a prefix: hidden states 1 have shape [4, 31], expected [4, 32]",
  );
  refused(
    [states, states.slice(0, 3)],
    "Cannot feed a prefix: hidden states 1 have shape [3, 32], expected [4, 32]",
  );
  refused([states, states], "Cannot run the model: positions [0, 4) do not fit the cache of 3");
  assert.throws(() => model.denoise([1, 97], cache, 1, { cleanRows: 1, head: [1] }), {
    message: "Cannot run the model: cleanRows is 1, expected an integer within [0, 0]",
  });
  using sedd = await loadSedd(await altered("sedd-tiny", {}), backend);
  assert.throws(() => sedd.feed([states], cache), {
    message: "Cannot feed a prefix: the checkpoint's is bidirectional, expected target",
  });
});

Deno.test("weights that are no numbers are refused, whichever tensor holds them and however it would be held", async () => {
  using backend = createReferenceBackend();
  const cases: [folder: string, tensor: string, value: number][] = [
    ["gpt2-tiny", "transformer.h.1.mlp.c_fc.weight", NaN],
    ["gpt2-tiny", "transformer.wte.weight", -Infinity],
    ["gpt2-tiny", "transformer.ln_f.bias", NaN],
    ["gpt-neo-tiny", "transformer.h.3.attn.attention.v_proj.weight", Infinity],
    ["sedd-tiny", "blocks.1.adaLN_modulation.weight", NaN],
  ];
  for (const [folder, name, value] of cases) {
    const broken = await altered(folder, {}, (all) =>
      all.map((tensor) => {
        if (tensor.name !== name) return tensor;
        const data = (tensor.data as Float32Array).slice();
        data[data.length - 1] = value;
        return { ...tensor, data };
      }));
    for (const dtype of ["f32", "int8"] as const) {
      await assert.rejects(loadModel(broken, backend, { dtype }), {
        name: "CheckpointError",
        message:
          `Cannot load checkpoint "memory.safetensors": tensor "${name}" holds ${value}, expected finite numbers`,
      });
    }
  }
});

Deno.test("weights that would overflow as they are to be held are refused, and held as others", async () => {
  using backend = createReferenceBackend();
  const large = await altered("gpt2-tiny", {}, (all) =>
    all.map((tensor) => {
      if (tensor.name !== "transformer.h.0.mlp.c_fc.weight") return tensor;
      const data = (tensor.data as Float32Array).slice();
      data[5] = -65536;
      return { ...tensor, data };
    }));
  await assert.rejects(loadModel(large, backend, { dtype: "f16" }), {
    name: "CheckpointError",
    message:
      'Cannot load checkpoint "memory.safetensors": tensor "transformer.h.0.mlp.c_fc.weight" holds -65536, expected at ' +
      "most 65504 in magnitude, which is what f16 holds; f32 would do",
  });
  for (const dtype of ["f32", "bf16", "int8"] as const) {
    (await loadModel(large, backend, { dtype })).model[Symbol.dispose]();
  }
});

Deno.test("a head beside a tied embedding: one matrix if they are equal, two if they differ; either may be alone", async () => {
  using backend = createReferenceBackend();
  const run = async (...[folder, fields, tensors]: Parameters<typeof altered>) => {
    const loaded = await loadModel(await altered(folder, fields, tensors), backend);
    assert(loaded.kind === "causal");
    using model = loaded.model;
    using cache = model.newCache(3);
    return { bytes: model.bytes, logits: model.forward([1, 2, 3], cache).read().slice() };
  };
  const isEmbedding = ({ name }: TensorData) => /^(transformer\.)?wte\.weight$/.test(name);
  const asHead = (tensor: TensorData) => ({ ...tensor, name: "lm_head.weight" });
  const both = (all: TensorData[]) => [...all, asHead(all.find(isEmbedding)!)];
  const headOnly = (all: TensorData[]) => all.map((one) => isEmbedding(one) ? asHead(one) : one);
  const neither = (all: TensorData[]) => all.filter((one) => !isEmbedding(one));
  for (const folder of ["gpt2-tiny", "gpt2-bare", "gpt-neo-tiny"]) {
    const tied = await run(folder, {});
    for (const tie_word_embeddings of [undefined, true]) {
      assert.deepEqual(await run(folder, { tie_word_embeddings }, both), tied);
      assert.deepEqual(await run(folder, { tie_word_embeddings }, headOnly), tied);
    }
    const lacking = { name: "CheckpointError", message: /"(transformer\.)?wte\.weight" is missing/ };
    await assert.rejects(run(folder, {}, neither), lacking);
    await assert.rejects(run(folder, { tie_word_embeddings: false }, headOnly), lacking);
  }
  const untied = await run("gpt2-untied", {});
  for (const tie_word_embeddings of [undefined, true]) {
    assert.deepEqual(await run("gpt2-untied", { tie_word_embeddings }), untied);
  }
});

Deno.test("what is borrowed as it is takes no room, and what has to be held otherwise does", async () => {
  using backend = createReferenceBackend();
  using targetFile = await openCheckpoint(fixture("parity/gpt2-bare"));
  using drafterFile = await openCheckpoint(fixture("parity/sedd-target-tiny"));
  const planned = async (targetDtype: Dtype): Promise<number> => {
    using target = await loadGpt2(targetFile, backend, { dtype: targetDtype });
    const plan = new Plan(backend);
    await loadSedd(drafterFile, plan.device, { dtype: "f16", target });
    return plan.bytes;
  };
  using target = await loadGpt2(targetFile, backend);
  const { outputs, inputs } = target.head, alike = await planned("f16");
  for (const other of ["f32", "bf16", "int8"] as const) {
    assert.equal(await planned(other) - alike, outputs * inputs * 2, other);
  }
});

for (const [name, open] of presentBackends()) {
  Deno.test(`${name}: what is planned is what is held, padding included`, async () => {
    using backend = await open();
    using checkpoint = await openCheckpoint(fixture("parity/gpt2-tiny"));
    for (const dtype of dtypes) {
      const plan = new Plan(backend);
      await loadGpt2(checkpoint, plan.device, { dtype });
      using model = await loadGpt2(checkpoint, backend, { dtype });
      assert.equal(plan.bytes, model.bytes, dtype);
    }
  });
}

Deno.test("what does not fit the device is refused before it is read, naming what does", async () => {
  using real = createReferenceBackend();
  // [320 + 2·12·64, 64] entries of any dtype beside [128, 64] positions, always f32
  const needs = (bytes: number) => (1856 * bytes + 128 * 4) * 64;
  const backend = (room: number): Backend =>
    new Proxy(real, {
      get(target, key) {
        if (key === "room") return room;
        const value = Reflect.get(target, key);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  const unread = async (): Promise<Weights> => {
    const all = await altered("gpt2-tiny", {});
    const read = () => assert.fail("a tensor was read");
    // deno-lint-ignore require-yield
    const chunks = async function* (): AsyncGenerator<Float32Array> {
      read();
    };
    return {
      origin: "big",
      config: all.config,
      has: (name) => all.has(name),
      read,
      rows: chunks,
      transposed: chunks,
    };
  };
  const refused = async (room: number, dtype: Dtype, message: RegExp) =>
    await assert.rejects(loadModel(await unread(), backend(room), { dtype }), (error) => {
      assert(error instanceof CheckpointError, String(error));
      assert.match(error.message, /^Cannot load checkpoint "big": its matrices need 0\.00 GB as /);
      assert.match(error.message, message);
      return true;
    });
  await refused(
    needs(4) - 1,
    "f32",
    /f16 would fit \(.* GB\), bf16 would fit \(.*\), int8 would fit \(.*\)$/,
  );
  await refused(needs(2) - 1, "f32", /left; int8 would fit \(0\.00 GB\)$/);
  await refused(needs(2) - 1, "bf16", /as bf16, .*left; int8 would fit \(0\.00 GB\)$/);
  await refused(needs(1) - 1, "int8", /left; not even int8 would fit \(0\.00 GB\)$/);
  await assert.rejects(loadModel(await unread(), backend(needs(4)), { dtype: "f64" as Dtype }), {
    name: "TypeError",
    message: 'Cannot load a model: dtype is "f64", expected one of f32, f16, bf16, int8',
  });
  const { model } = await loadModel(await altered("gpt2-tiny", {}), backend(needs(4)));
  model[Symbol.dispose]();
});

Deno.test("a model that cannot be loaded leaves nothing on the device", async () => {
  const backend = createReferenceBackend();
  let held = 0;
  const counted = new Proxy(backend, {
    get(target, key) {
      const method = Reflect.get(target, key);
      if (key !== "matrix" && key !== "vector") {
        return typeof method === "function" ? method.bind(target) : method;
      }
      return (...args: unknown[]) => {
        const made = method.apply(target, args);
        const count = (resource: Disposable) => {
          held++;
          const free = resource[Symbol.dispose].bind(resource);
          resource[Symbol.dispose] = () => (held--, free());
          return resource;
        };
        return key === "matrix" ? made.then(count) : count(made);
      };
    },
  });
  const broken = await altered("gpt2-tiny", {}, (all) => all.filter((t) => !t.name.endsWith("ln_f.bias")));
  await assert.rejects(loadGpt2(broken, counted), /ln_f\.bias" is missing/);
  assert.equal(held, 0);

  for (const name of ["gpt2-tiny", "sedd-tiny"]) {
    const { model } = await loadModel(await altered(name, {}), counted);
    assert(held > 0);
    if ("denoise" in model) {
      using cache = model.newCache();
      // more noise levels than are kept
      for (let i = 1; i < 200; i++) model.denoise([320], cache, i / 10, { cleanRows: 0, head: [0] });
      assert(held < 2000, `${held} vectors are held`);
    }
    model[Symbol.dispose]();
    assert.equal(held, 0, name);
  }
});
