/**
 * The operations of the CPU backend one by one, at GPT-2 124M's shapes, for `deno bench`. What they mean as shares
 * of what the machine can do: `kernels.ts`.
 *
 * @module
 */

import type { Backend, Dtype } from "../src/backend/backend.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { createWasmBackend } from "../src/backend/wasm/backend.ts";
import { noiseActivation, noiseMatrix } from "./kernels.ts";

const backend = await createWasmBackend();
const width = 768, vocabSize = 50257;

const backends: readonly (readonly [name: string, backend: Backend])[] = [
  ["relaxed SIMD, one thread", await createWasmBackend({ threads: 1 })],
  ["relaxed SIMD, all threads", backend],
  ["plain SIMD, one thread", await createWasmBackend({ threads: 1, simd: "plain" })],
  ["the float64 reference", createReferenceBackend()],
];
for (const [i, [name, backend]] of backends.entries()) {
  const rows = 4, context = 64, baseline = i === 0;
  const matrix = await noiseMatrix(backend, width, width, "f32");
  const x = noiseActivation(backend, rows, width), out = backend.activation(rows, width);
  const qkv = noiseActivation(backend, rows, 3 * width), law = backend.activation(rows, width);
  const cache = backend.cache({ layers: 1, width, capacity: context + rows });
  cache.advance(context);
  const kernels: Readonly<Record<string, () => void>> = {
    [`project [${rows}, ${width}] to ${width}, f32`]: () => backend.project(out, x, { matrix }),
    [`attention, ${rows} rows after ${context}`]: () =>
      backend.attention(out, qkv, { cache, layer: 0, heads: 12, scale: 0.125, causalRows: rows }),
    [`law of [${rows}, ${width}]`]: () => backend.distribution(law, x, {}),
  };
  for (const [kernel, run] of Object.entries(kernels)) {
    Deno.bench(`${name}: ${kernel}`, { group: `backends: ${kernel}`, baseline }, run);
  }
}

for (const dtype of ["f32", "f16", "bf16", "int8"] as const satisfies readonly Dtype[]) {
  const matrix = await noiseMatrix(backend, 4 * width, width, dtype);
  for (const rows of [1, 2, 4, 8, 60]) {
    const x = noiseActivation(backend, rows, width), out = backend.activation(rows, 4 * width);
    Deno.bench(
      `project [${rows}, ${width}] to ${4 * width}, ${dtype}`,
      { group: `project, ${rows} rows`, baseline: dtype === "f32" },
      () => {
        backend.project(out, x, { matrix });
      },
    );
  }
}

for (const [rows, context] of [[1, 128], [8, 128], [1, 1000], [8, 1000], [128, 0]]) {
  const cache = backend.cache({ layers: 1, width, capacity: 1024 });
  cache.advance(context);
  const qkv = noiseActivation(backend, rows, 3 * width), out = backend.activation(rows, width);
  Deno.bench(`attention, ${rows} rows after ${context}`, {
    group: "attention",
    baseline: rows === 1 && context === 128,
  }, () => {
    backend.attention(out, qkv, { cache, layer: 0, heads: 12, scale: 0.125, causalRows: rows });
  });
}

const logits = noiseActivation(backend, 1, vocabSize), p = backend.activation(1, vocabSize);
const tokens = backend.tokens(1);
for (const [i, sampling] of [{}, { temperature: 0 }, { topK: 50 }, { topP: 0.9 }].entries()) {
  Deno.bench(`distribution ${JSON.stringify(sampling)}`, { group: "law", baseline: i === 0 }, () => {
    backend.distribution(p, logits, sampling);
  });
}
Deno.bench(
  "sample",
  { group: "law" },
  () => backend.sample(tokens, p, { seed: 1n, purpose: 0, position: 0 }),
);
