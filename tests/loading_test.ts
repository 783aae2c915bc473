/**
 * What an engine loads: how far it is, how it is held, what suits a drafter, and what cannot work. What is generated is
 * the matter of `engine_test.ts`.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type TensorData, writeSafetensors } from "../fixtures/write_safetensors.ts";
import { loadEngine, type LoadProgress } from "../mod.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { fixture, tensorsOf } from "./helpers.ts";

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
  assert.equal(embedded.target.embedding.dtype, "f16");
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
        engine.target.embedding.dtype,
        expected,
        `${count} of ${matrices.length} matrices in bf16`,
      );
    }
    using engine = await loadEngine({ target: folder, device: "reference", dtype: "int8" });
    assert.equal(engine.target.embedding.dtype, "int8");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("loadEngine refuses what cannot work with one clear message", async () => {
  await assert.rejects(loadEngine({ target: "no/such/folder" }), /no\/such\/folder/);
  await assert.rejects(
    loadEngine({ drafter: "sed" }),
    /there is no such folder, .*; embedded drafters are sedd-target, sedd-causal, sedd, gpt2$/,
  );
  await assert.rejects(loadEngine({ device: "cuda" }), /Cannot open the device "cuda"/);
  await assert.rejects(loadEngine({ threads: 100_000 }), /threads is 100000, expected at most 1024$/);
  await assert.rejects(
    loadEngine({ target: new URL("../fixtures/pair/drafter-sedd/", import.meta.url), tokenizer: undefined }),
    /diffusion model, expected an autoregressive one/,
  );
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
