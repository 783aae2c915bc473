/**
 * What an engine loads: how far it is, how it is held, what suits a drafter, and what cannot work. What is generated is
 * the matter of `engine_test.ts`.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type TensorData, writeSafetensors } from "../fixtures/write_safetensors.ts";
import { type EngineOptions, type GenerateOptions, loadEngine, type LoadProgress } from "../mod.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { listModels } from "../src/hub/models.ts";
import { watchedWeights } from "../src/watched_weights.ts";
import { fixture, tensorsOf, withFolder } from "./helpers.ts";

Deno.test("loading tells how far it is, and a signal ends it anywhere", async () => {
  const target = fixture("parity/gpt2-tiny/"), drafter = fixture("parity/sedd-tiny/");
  const seen: LoadProgress[] = [];
  (await loadEngine({ target, drafter, threads: 1, onProgress: (progress) => seen.push(progress) }))
    [Symbol.dispose]();
  assert.deepEqual([...new Set(seen.map(({ folder }) => folder))], [
    fileURLToPath(target),
    fileURLToPath(drafter),
  ]);
  for (const [i, { folder, loaded, total }] of seen.entries()) {
    assert.ok(loaded > 0 && loaded <= total);
    if (i > 0 && seen[i - 1].folder === folder) assert.ok(loaded > seen[i - 1].loaded);
  }
  assert.ok(seen.at(-1)!.loaded > 0.99 * seen.at(-1)!.total); // the files hold a buffer that nobody asks for
  for (const stop of [0, 1, 2, Math.floor(seen.length / 2), seen.length - 2]) {
    const controller = new AbortController();
    let told = 0;
    const onProgress = () => {
      if (++told === stop) controller.abort(new Error("enough"));
    };
    if (stop === 0) controller.abort(new Error("enough"));
    const { signal } = controller;
    await assert.rejects(loadEngine({ target, drafter, threads: 2, onProgress, signal }), /enough/);
    assert.equal(told, stop);
  }
});

Deno.test("a target is held as all of its matrices are stored, unless another dtype is asked for", async () => {
  using embedded = await loadEngine({ drafter: null, threads: 1 });
  assert.equal(embedded.dtype, "f16");
  const folder = await Deno.makeTempDir();
  try {
    using checkpoint = await openCheckpoint(fixture("parity/gpt2-tiny"));
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(checkpoint.config));
    const tensors = await tensorsOf(checkpoint);
    const matrices = tensors.filter(({ shape }) => shape.length === 2);
    // the upper half of an f32 is a bf16; vectors stay as they are
    const halves = ({ name, shape, data }: TensorData): TensorData => {
      const values = data as Float32Array, words = new Uint32Array(values.buffer);
      return { name, shape, dtype: "BF16", data: Uint16Array.from(words, (word) => word >>> 16) };
    };
    const cases = [["f32", 0], ["bf16", matrices.length], ["f32", matrices.length - 1]] as const;
    for (const [expected, count] of cases) {
      const few = new Set(matrices.slice(0, count));
      const stored = tensors.map((tensor) => few.has(tensor) ? halves(tensor) : tensor);
      await Deno.writeFile(`${folder}/model.safetensors`, writeSafetensors(stored));
      using engine = await loadEngine({ target: folder, device: "reference" });
      assert.equal(
        engine.dtype,
        expected,
        `${count} of ${matrices.length} matrices in bf16`,
      );
    }
    using engine = await loadEngine({ target: folder, device: "reference", dtype: "int8" });
    assert.equal(engine.dtype, "int8");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("what suits a drafter its configuration says, by whatever name it is loaded; options win", async () => {
  const names = ["sedd-target", "sedd-causal", "sedd", "gpt2"];
  const folders = names.map((name) => fileURLToPath(fixture(`pair/drafter-${name}`)));
  using engine = await loadEngine({ drafter: [...names, ...folders], threads: 1 });
  const of = async (drafter: string, options: GenerateOptions = {}) => {
    const { tokens, stats } = await engine.generate("It was", {
      drafter,
      seed: 3,
      maxTokens: 40,
      ...options,
    });
    const { rule, draftedPerPosition, acceptedPerPosition } = stats;
    return { tokens, rule, draftedPerPosition, acceptedPerPosition };
  };
  for (const [i, name] of names.entries()) {
    const named = await of(name);
    assert.deepEqual(await of(folders[i]), named);
    assert.deepEqual([named.rule, named.draftedPerPosition.length], ["block", name === "sedd" ? 1 : 3]);
    const other = await of(folders[i], { rule: "ratio", gamma: 4 });
    assert.deepEqual([other.rule, other.draftedPerPosition.length], ["ratio", 4]);
  }
  // how much a drafter sees shows in what is drafted
  const seeing = (draftContext?: number) => of("sedd", { draftContext, maxTokens: 100 });
  assert.deepEqual(await seeing(), await seeing(8));
  assert.notDeepEqual(await seeing(), await seeing(200));
});

Deno.test("what a configuration says of drafting is refused where it makes no sense", async () => {
  const weights = await Deno.readFile(fixture("parity/gpt2-tiny/model.safetensors"));
  const config = JSON.parse(await Deno.readTextFile(fixture("parity/gpt2-tiny/config.json")));
  const cases: [specdiff: unknown, field: string, expected: string][] = [
    [7, "specdiff", "an object"],
    [{ drafting: [] }, "specdiff.drafting", "an object"],
    [{ drafting: { gamma: 0 } }, "specdiff.drafting.gamma", "a positive integer"],
    [{ drafting: { gamma: "auto" } }, "specdiff.drafting.gamma", "a positive integer"],
    [{ drafting: { draft_context: 1.5 } }, "specdiff.drafting.draft_context", "a positive integer"],
  ];
  for (const [specdiff, field, expected] of cases) {
    const files = { "config.json": JSON.stringify({ ...config, specdiff }), "model.safetensors": weights };
    await withFolder(
      files,
      (drafter) =>
        assert.rejects(
          loadEngine({ target: fixture("parity/gpt2-tiny/"), drafter, device: "reference" }),
          (error) => {
            assert.equal((error as Error).name, "CheckpointError");
            assert.ok((error as Error).message.includes(`field "${field}" of config.json is `));
            assert.ok((error as Error).message.includes(`, expected ${expected}`));
            return true;
          },
        ),
    );
  }
});

Deno.test("loadEngine refuses what cannot work with one clear message", async () => {
  await assert.rejects(loadEngine({ target: "no/such/folder" }), /no\/such\/folder/);
  await assert.rejects(
    loadEngine({ drafter: "sed" }),
    /there is no such folder, .*; embedded drafters are sedd-target, sedd-causal, sedd, gpt2$/,
  );
  await assert.rejects(
    loadEngine({ drafter: "sedd", draftDtype: "q4" as "int8", threads: 1 }),
    ({ message }) => !message.includes("embedded drafters"),
  );
  await assert.rejects(loadEngine({ device: "cuda" }), /Cannot open the device "cuda"/);
  const wrong: [options: unknown, message: string][] = [
    [null, "the options are null, expected an object"],
    [{ target: 5 }, "target is 5, expected a folder or a name, as a string or a URL"],
    [
      { drafter: 5 },
      "drafter is 5, expected a folder or a name, as a string or a URL, a list of them, or null",
    ],
    [
      { drafter: ["ngram", null] },
      'drafter is ["ngram",null], expected a folder or a name, as a string or a URL, a list of them, or null',
    ],
    [{ tokenizer: {} }, "tokenizer is {}, expected an object with the methods encode and decode"],
    [{ device: 5 }, "device is 5, expected the name of a device"],
    [{ threads: "2" }, 'threads is "2", expected a number'],
    [{ hub: null }, "hub is null, expected an object"],
    [{ onProgress: 5 }, "onProgress is 5, expected a function"],
    [{ signal: {} }, "signal is {}, expected an AbortSignal"],
  ];
  for (const [options, message] of wrong) {
    await assert.rejects(loadEngine(options as EngineOptions), {
      name: "TypeError",
      message: `Cannot load an engine: ${message}`,
    });
  }
  await assert.rejects(loadEngine({ threads: 513 }), /threads is 513, expected at most 512$/);
  await assert.rejects(
    loadEngine({ target: new URL("../fixtures/pair/drafter-sedd/", import.meta.url), tokenizer: undefined }),
    /diffusion model, expected an autoregressive one/,
  );
});

const PAIR = fileURLToPath(fixture("pair/"));
const refused = {
  name: "NotCapable",
  message: `Cannot read "${PAIR}": permission to read it is missing; run with --allow-read="${PAIR}"`,
};

Deno.test({
  name: "a permission that is missing is asked for the embedded pair, and not for one file after the other",
  permissions: { read: false },
  async fn() {
    await assert.rejects(loadEngine({ threads: 1 }), refused);
  },
});

Deno.test({
  name: "and that of what stands beside a folder for all that stands there",
  permissions: { read: [fixture("pair/target")] },
  async fn() {
    await assert.rejects(loadEngine({ threads: 1 }), refused); // for the drafter
    using engine = await loadEngine({ drafter: null, threads: 1 });
    const beside = PAIR.slice(0, -1);
    await assert.rejects(engine.generate("x"), {
      name: "NotCapable",
      message: refused.message.replaceAll(PAIR, beside),
    });
  },
});

Deno.test({
  name: "who may read no environment is told of folders only where one would do",
  permissions: { read: true, env: false },
  async fn() {
    const missing =
      /^Cannot look for models: permission to read the environment variable HF_HUB_CACHE is missing; run with --allow-env="[^"]*"/;
    await assert.rejects(listModels(), { name: "NotCapable", message: new RegExp(`${missing.source}$`) });
    await assert.rejects(loadEngine({ target: "owner/name", threads: 1 }), {
      name: "NotCapable",
      message: new RegExp(`${missing.source}, or name a folder that exists$`),
    });
  },
});

Deno.test("a drafter that its target feeds is loaded with it, and follows the options of a draft", async () => {
  const folder = (name: string) => new URL(`../fixtures/parity/${name}`, import.meta.url);
  const drafter = folder("sedd-target-tiny");
  const tokenizer = { encode: () => [], decode: (ids: number[]) => ids.join(" ") };
  using engine = await loadEngine({ target: folder("gpt2-bare"), drafter, tokenizer });
  for (const [seed, temperature, rule] of [[1, 0, "ordered"], [2, 1, "coupled"]] as const) {
    const options = { seed, temperature, maxTokens: 24 };
    const plain = await engine.generate([1, 2, 3], { ...options, drafter: null });
    for (const draft of [{}, { steps: 2, order: "random", draftContext: 5 }] as const) {
      const { tokens, stats } = await engine.generate([1, 2, 3], { ...options, ...draft, rule });
      assert.deepEqual(tokens, plain.tokens);
      assert.equal(stats.drafter, "diffusion (target-fed, Markov head)");
    }
  }
  await assert.rejects(loadEngine({ drafter: [folder("sedd-target-tiny")] }), {
    name: "CheckpointError",
    message: /expected the width 384 of the target that it is loaded with$/,
  });
});

Deno.test("the comparison of a head with its embedding is ended by a signal, and may be made again", async () => {
  using checkpoint = await openCheckpoint(fixture("parity/gpt2-untied/"));
  const names = checkpoint.tensors().filter(({ name }) => /(wte|lm_head)\.weight$/.test(name));
  const [{ name: one, shape: [rows, columns] }, { name: other }] = names;
  const equal = (signal?: AbortSignal) =>
    watchedWeights(checkpoint, { signal }).equal!(one, other, [rows, columns]);
  await assert.rejects(equal(AbortSignal.abort(new Error("enough"))), /enough/);
  assert.equal(await equal(), false);
  await assert.rejects(
    watchedWeights(checkpoint, {}).equal!(one, other, [rows, columns + 1]),
    { name: "CheckpointError", message: /has shape/ },
  );
});
