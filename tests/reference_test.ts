/**
 * The oracle against values that were worked out by hand, and the refusals that all backends share. Everything
 * else is compared with the oracle, so nothing here is computed by another backend.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Activation, AttentionOptions, Backend, Dtype, Matrix } from "../src/backend/backend.ts";
import { checkSampling, writeDistribution } from "../src/backend/distribution.ts";
import { createCudaBackend } from "../src/backend/cuda/backend.ts";
import { race } from "../src/backend/philox.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { standIn } from "./cuda/standin.ts";
import { assertClose, assertSame, presentBackends } from "./helpers.ts";

function activation(backend: Backend, columns: number, values: readonly number[]): Activation {
  const made = backend.activation(values.length / columns, columns);
  made.write(Float32Array.from(values));
  return made;
}

function matrix(
  backend: Backend,
  inputs: number,
  values: readonly number[],
  dtype: Dtype = "f32",
): Promise<Matrix> {
  const outputs = values.length / inputs;
  return backend.matrix({ outputs, inputs, dtype }, [Float32Array.from(values)]);
}

/** Like a seeded generator, in (−1, 1). */
function noise(i: number): number {
  const x = Math.sin(i * 12.9898 + 1) * 43758.5453;
  return 2 * (x - Math.floor(x)) - 1;
}

Deno.test("project: y = x·Wᵀ + b, per row", async () => {
  using backend = createReferenceBackend();
  const x = activation(backend, 3, [1, 2, 3, -1, 0, 0.5]), out = backend.activation(2, 2);
  const bias = backend.vector(Float32Array.of(10, 20));
  backend.project(out, x, { matrix: await matrix(backend, 3, [1, 0, 2, -1, 1, 1]), bias });
  assertSame(out.read(), [17, 24, 10, 21.5], "projection");
});

Deno.test("project: the norm comes first, GELU is the tanh form", async () => {
  using backend = createReferenceBackend();
  const identity = await matrix(backend, 2, [1, 0, 0, 1]);
  const x = activation(backend, 2, [1, 3]), out = backend.activation(1, 2);
  const norm = {
    gain: backend.vector(Float32Array.of(2, 3)),
    shift: backend.vector(Float32Array.of(0.5, -1)),
    epsilon: 3, // variance 1 and 3 make a deviation of 2
  };
  backend.project(out, x, { norm, matrix: identity });
  assertSame(out.read(), [-0.5 * 2 + 0.5, 0.5 * 3 - 1], "norm");
  backend.project(out, activation(backend, 2, [1, -2]), { matrix: identity, activation: "gelu" });
  assertClose(out.read(), [0.8411919906082768, -0.0454023059122249], 1e-7, "GELU");
});

Deno.test("projectResidual: the gate multiplies projection and bias, then they are added", async () => {
  using backend = createReferenceBackend();
  const x = activation(backend, 2, [100, 200]), u = activation(backend, 1, [3]);
  const w = await matrix(backend, 1, [1, 2]), bias = backend.vector(Float32Array.of(1, 1));
  backend.projectResidual(x, u, { matrix: w, bias, gate: backend.vector(Float32Array.of(0.5, -1)) });
  assertSame(x.read(), [102, 193], "gated");
  backend.projectResidual(x, u, { matrix: w });
  assertSame(x.read(), [105, 199], "plain");
});

Deno.test("f16 and bf16 round to nearest, ties to even", async () => {
  using backend = createReferenceBackend();
  const values = [
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    1 + 2 ** -8,
    1 + 3 * 2 ** -8,
    -1 - 2 ** -8 - 2 ** -20,
    65504,
  ];
  const rounded = {
    f16: [1, 1 + 2 ** -9, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -1 - 2 ** -8, 65504],
    bf16: [1, 1, 1, 1 + 2 ** -6, -1 - 2 ** -7, 65536],
  };
  for (const dtype of ["f16", "bf16"] as const) {
    const one = activation(backend, 1, [1]), out = backend.activation(1, values.length);
    backend.project(out, one, { matrix: await matrix(backend, 1, values, dtype) });
    assertSame(out.read(), rounded[dtype], dtype);
  }
});

Deno.test("int8: integers that need no rounding come out exactly", async () => {
  using backend = createReferenceBackend();
  // channels that span ±127 and rows that span 127 have scales of 1: what is quantised is what was there
  const w = await matrix(backend, 3, [127, -5, 3, 0, 127, -127], "int8");
  const x = activation(backend, 3, [100, -27, 7, -127, -1, 0]), out = backend.activation(2, 2);
  backend.project(out, x, { matrix: w });
  const dot = (a: number[], b: number[]) => a.reduce((sum, v, i) => sum + v * b[i], 0);
  const rows = [[100, -27, 7], [-127, -1, 0]], weights = [[127, -5, 3], [0, 127, -127]];
  assertSame(out.read(), rows.flatMap((row) => weights.map((channel) => dot(row, channel))), "int8");
  assert.equal(w.bytes, 6 + 2 * 4);
});

Deno.test("int8: weights and rows are rounded to their grids", async () => {
  using backend = createReferenceBackend();
  const w = await matrix(backend, 2, [1, 0.3], "int8");
  const x = activation(backend, 2, [0.5, 0.2, 0, 0, 0.75, -0.25]), out = backend.activation(3, 1);
  backend.project(out, x, { matrix: w });
  // 0.3 is 38.1 steps of 1/127; 0.2 is 50.8 steps of 0.5/127; a row of zeros stays 0; and of 127 steps of 1/127
  // from −0.25 to 0.75 the zero point is 31.75, so 32 are below 0 and 95 above
  const expected = [(127 * 127 + 51 * 38) * 0.5 / 127 / 127, 0, (95 * 127 - 32 * 38) / 127 / 127];
  assertClose(out.read(), expected, 1e-6, "int8");
  const embedded = backend.activation(1, 2), tokens = backend.tokens(1);
  using cache = backend.cache({ layers: 1, width: 1, capacity: 1 });
  backend.embed(embedded, { tokens, table: w, cache });
  assertClose(embedded.read(), [1, 38 / 127], 1e-7, "a table is held in the same way");
});

Deno.test("embed: positions continue from the cache; multiplyEmbedding and copy", async () => {
  using backend = createReferenceBackend();
  const table = await matrix(backend, 2, [1, 2, 3, 4, 5, 6]);
  const positions = await matrix(backend, 2, [10, 10, 20, 20, 30, 30]);
  const tokens = backend.tokens(3), out = backend.activation(2, 2);
  tokens.write([2, 0]);
  using cache = backend.cache({ layers: 1, width: 2, capacity: 4 });
  cache.advance(1);
  backend.embed(out, { tokens, table, positions, cache });
  assertSame(out.read(), [25, 26, 31, 32], "with positions");
  backend.embed(out, { tokens, table, cache });
  assertSame(out.read(), [5, 6, 1, 2], "without");
  backend.multiplyEmbedding(out, out, { table, tokens });
  assertSame(out.read(), [25, 36, 1, 4], "multiplied, in place");
  const other = backend.activation(4, 2);
  backend.copy(other.slice(1, 2), out);
  assertSame(other.read(), [0, 0, 25, 36, 1, 4, 0, 0], "a view shares the buffer");
});

/**
 * Attention over one head of size 2 whose queries are 0, so that weights are equal and the result is the mean
 * of the values a row sees; values are powers of 2, so that a mean times its count tells which.
 */
function seen(backend: Backend, rows: number, before: number, options: Partial<AttentionOptions>): string[] {
  using cache = backend.cache({ layers: 1, width: 2, capacity: before + rows });
  const make = (count: number, first: number) =>
    activation(backend, 6, Array.from({ length: count }, (_, r) => [0, 0, 1, 1, 2 ** (first + r), 1]).flat());
  const base = { cache, layer: 0, heads: 1, scale: 1, ...options };
  if (before > 0) {
    backend.attention(backend.activation(before, 2), make(before, 0), { ...base, causalRows: before });
    cache.advance(before);
  }
  const out = backend.activation(rows, 2);
  backend.attention(out, make(rows, before), { ...base, causalRows: options.causalRows ?? rows });
  return Array.from({ length: rows }, (_, r) => {
    const mean = out.read()[2 * r];
    for (let count = 1; count <= before + rows; count++) {
      const mask = mean * count, whole = Math.round(mask);
      const bits = whole.toString(2);
      if (Math.abs(mask - whole) < 1e-4 && bits.replaceAll("0", "").length === count) {
        return bits.padStart(before + rows, "0").split("").reverse().join("");
      }
    }
    return `mean ${mean}`;
  });
}

Deno.test("attention: which keys a row sees", () => {
  using backend = createReferenceBackend();
  assert.deepEqual(seen(backend, 3, 0, {}), ["100", "110", "111"]);
  assert.deepEqual(seen(backend, 2, 2, {}), ["1110", "1111"]);
  assert.deepEqual(seen(backend, 3, 1, { causalRows: 0 }), ["1111", "1111", "1111"]);
  assert.deepEqual(seen(backend, 4, 1, { causalRows: 2 }), ["11000", "11100", "11111", "11111"]);
  assert.deepEqual(seen(backend, 3, 2, { window: 2 }), ["01100", "00110", "00011"]);
  assert.deepEqual(seen(backend, 3, 2, { window: 2, causalRows: 1 }), ["01100", "00111", "00011"]);
});

Deno.test("attention: scores, heads, and keys that stay in the cache", () => {
  using backend = createReferenceBackend();
  using cache = backend.cache({ layers: 2, width: 2, capacity: 2 });
  const out = backend.activation(1, 2), options = { cache, layer: 1, heads: 2, scale: 0.5, causalRows: 1 };
  backend.attention(out, activation(backend, 6, [1, 1, 2, -1, 10, 20]), options);
  assertSame(out.read(), [10, 20], "one key");
  cache.advance(1);
  backend.attention(out, activation(backend, 6, [3, 4, 1, 0, 30, 40]), options);
  // head 0: 0.5·3·(2, 1), head 1: 0.5·4·(−1, 0)
  const a = 1 / (1 + Math.exp(1.5 - 3)), b = 1 / (1 + Math.exp(0 + 2));
  assertClose(out.read(), [a * 10 + (1 - a) * 30, b * 20 + (1 - b) * 40], 1e-7, "two keys");
  cache.truncate(0);
  backend.attention(out, activation(backend, 6, [3, 4, 1, 0, 30, 40]), options);
  assertSame(out.read(), [30, 40], "after a rollback");
});

Deno.test("attention: rotary pairs entry j with j + D/2 and depends on distance alone", () => {
  using backend = createReferenceBackend();
  const rotary = backend.vector(Float32Array.of(1, 0.25));
  const values = (r: number) => [1, 2, 3, 4, 0.5, -1, 2, 1, r, 0, 0, 0]; // q, k, v of one head of size 4
  const result = (start: number): Float32Array => {
    using cache = backend.cache({ layers: 1, width: 4, capacity: 64 });
    cache.advance(start);
    const out = backend.activation(2, 4);
    const qkv = activation(backend, 12, [...values(0), ...values(1)]);
    backend.attention(out, qkv, { cache, layer: 0, heads: 1, scale: 1, causalRows: 2, rotary, window: 2 });
    return out.read().slice(4);
  };
  // the key one step back is turned by one step of each pair (0, 2), (1, 3)
  const turned = (x: number, y: number, angle: number) => x * Math.cos(angle) - y * Math.sin(angle);
  const pair = (q0: number, q2: number, k0: number, k2: number, angle: number) =>
    q0 * turned(k0, k2, -angle) + q2 * turned(k2, -k0, -angle);
  const near = 1 * 0.5 + 3 * 2 + 2 * -1 + 4 * 1;
  const far = pair(1, 3, 0.5, 2, 1) + pair(2, 4, -1, 1, 0.25);
  assertClose(result(0), [1 / (1 + Math.exp(far - near)), 0, 0, 0], 1e-6, "rotary");
  // from position 17 on, two keys before the window are never seen
  assertClose(result(17), result(0), 1e-6, "moved");
});

Deno.test("sample: the race of philox.ts at each row's own position", () => {
  using backend = createReferenceBackend();
  const laws = Array.from({ length: 5 * 7 }, (_, i) => Math.abs(noise(i)));
  const tokens = backend.tokens(5), key = { seed: 123456789012345n, purpose: 2, position: 40 };
  backend.sample(tokens, activation(backend, 7, laws), key);
  const expected = [0, 1, 2, 3, 4].map((r) =>
    race(Float32Array.from(laws.slice(7 * r, 7 * r + 7)), { ...key, position: 40 + r })
  );
  assert.deepEqual([...tokens.read()], expected);
});

function law(
  logits: readonly number[],
  sampling: Parameters<typeof writeDistribution>[2],
  size = logits.length,
) {
  const p = new Float32Array(size).fill(NaN);
  writeDistribution(p, Float32Array.from(logits), sampling);
  return p;
}

const ln = Math.log;

Deno.test("distribution: softmax, temperature, and columns beyond the vocabulary", () => {
  assertClose(law([ln(1), ln(3), ln(4)], {}), [1 / 8, 3 / 8, 4 / 8], 1e-7, "softmax");
  assertClose(law([ln(1), ln(3)], { temperature: 0.5 }), [1 / 10, 9 / 10], 1e-7, "temperature");
  assertClose(law([ln(1), ln(3), 50], {}, 2), [1 / 4, 3 / 4], 1e-7, "two of three columns");
  assertClose(law([1000, 1000 + ln(3)], {}), [1 / 4, 3 / 4], 1e-4, "large logits");
  assertSame(law([0, -Infinity], {}), [1, 0], "impossible tokens");
  assertSame(law([1, 0], { temperature: 1e-300 }), [1, 0], "hardly any temperature");
});

Deno.test("distribution: temperature 0 is a point mass on the lowest id among the largest", () => {
  assertSame(law([1, 7, 7, 3], { temperature: 0, topK: 3, topP: 0.5 }), [0, 1, 0, 0], "ties");
});

Deno.test("distribution: top-k keeps all that equal the k-th", () => {
  assertClose(law([ln(4), ln(2), ln(2), ln(1)], { topK: 2 }), [0.5, 0.25, 0.25, 0], 1e-7, "ties");
  assertClose(law([ln(4), ln(2), ln(1)], { topK: 1 }), [1, 0, 0], 1e-7, "one");
  assertClose(law([ln(4), ln(2), ln(2)], { topK: 9 }), [0.5, 0.25, 0.25], 1e-7, "more than there are");
  assertClose(law([ln(4), ln(2), ln(2)], { topK: 0 }), [0.5, 0.25, 0.25], 1e-7, "none");
});

Deno.test("distribution: top-p keeps the smallest set that reaches it, lower ids first", () => {
  const logits = [ln(1), ln(4), ln(2), ln(2), ln(1)]; // in tenths
  assertClose(law(logits, { topP: 0.3 }), [0, 1, 0, 0, 0], 1e-7, "0.3");
  assertClose(law(logits, { topP: 0.5 }), [0, 4 / 6, 2 / 6, 0, 0], 1e-7, "0.5");
  assertClose(law(logits, { topP: 0.7 }), [0, 0.5, 0.25, 0.25, 0], 1e-7, "0.7");
  assertClose(law(logits, { topP: 0.85 }), [1 / 9, 4 / 9, 2 / 9, 2 / 9, 0], 1e-7, "0.85");
  assertClose(law(logits, { topP: 1 }), [0.1, 0.4, 0.2, 0.2, 0.1], 1e-7, "1");
  // what holds it to the last digit is enough
  assertClose(law([0, 0, 0, 0], { topP: 0.5 }), [0.5, 0.5, 0, 0], 1e-7, "0.5 of equal ones");
  // after top-k the rest is what counts: 4 of 8
  assertClose(law(logits, { topK: 2, topP: 0.5 }), [0, 1, 0, 0, 0], 1e-7, "after top-k");
  // and after the temperature: 16 of 26
  assertClose(law(logits, { temperature: 0.5, topP: 0.6 }), [0, 1, 0, 0, 0], 1e-7, "after temperature");
});

Deno.test("distribution: top-k and top-p agree with their definition on random logits", () => {
  for (let round = 0; round < 50; round++) {
    const size = 40 + round;
    // coarse logits, so that many are equal
    const logits = Array.from({ length: size }, (_, v) => Math.round(6 * noise(97 * round + v)) / 2);
    const topK = 1 + round % 30, topP = 0.05 + 0.9 * Math.abs(noise(round)), temperature = 0.5 + round / 40;
    const kth = logits.toSorted((a, b) => b - a)[topK - 1];
    const weights = logits.map((y) => y >= kth ? Math.exp(y / temperature) : 0);
    const total = weights.reduce((sum, w) => sum + w, 0);
    const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a] || a - b);
    let held = 0;
    const kept = new Set(order.filter((v) => {
      const needed = held < topP * total;
      held += weights[v];
      return needed;
    }));
    const sum = [...kept].reduce((sum, v) => sum + weights[v], 0);
    const expected = weights.map((w, v) => kept.has(v) ? w / sum : 0);
    const p = law(logits, { temperature, topK, topP });
    assertClose(p, expected, 1e-6, `round ${round}`);
    p.forEach((found, v) => assert.equal(found === 0, expected[v] === 0, `round ${round}: token ${v}`));
  }
});

Deno.test("distribution: settings and logits that make no sense are refused", () => {
  for (const temperature of [-1, NaN, Infinity]) {
    assert.throws(() => checkSampling({ temperature }), { name: "RangeError", message: /temperature is/ });
  }
  for (const topK of [-1, 1.5, NaN]) {
    assert.throws(() => checkSampling({ topK }), { name: "RangeError", message: /topK is/ });
  }
  for (const topP of [0, -0.1, 1.01, NaN]) {
    assert.throws(() => checkSampling({ topP }), { name: "RangeError", message: /topP is/ });
  }
  checkSampling({ temperature: 0, topK: 0, topP: 1 });
  for (const temperature of [0, 1]) {
    assert.throws(() => law([0, NaN], { temperature }), /logit of token 1 is not a number/);
    assert.throws(() => law([0, Infinity], { temperature }), /largest logit is Infinity/);
    assert.throws(() => law([-Infinity, -Infinity], { temperature }), /largest logit is -Infinity/);
  }
});

/** How each backend is opened, the GPU's on the stand-in. */
const backends = presentBackends();
if (standIn !== undefined) {
  backends.push(["cuda, stand-in", () => Promise.resolve(createCudaBackend())]);
}

for (const [name, open] of backends) {
  Deno.test(`${name}: shapes that do not fit are refused, and both are named`, async () => {
    using b = await open();
    const range = (run: () => unknown, message: string) =>
      assert.throws(run, { name: "RangeError", message }, message);
    const w = await matrix(b, 3, [1, 2, 3, 4, 5, 6]); // [2, 3]
    const x = b.activation(4, 3), out = b.activation(4, 2), three = b.vector(new Float32Array(3));
    const tokens = b.tokens(2), cache = b.cache({ layers: 2, width: 4, capacity: 6 });
    const qkv = b.activation(4, 12), attended = b.activation(4, 4);
    const heads = { cache, layer: 0, heads: 2, scale: 1, causalRows: 4 };

    range(() => b.project(x, x, { matrix: w }), "Cannot project: out has shape [4, 3], expected [4, 2]");
    range(() => b.project(out, out, { matrix: w }), "Cannot project: x has shape [4, 2], expected [4, 3]");
    range(
      () => b.project(out.slice(0, 3), x, { matrix: w }),
      "Cannot project: out has shape [3, 2], expected [4, 2]",
    );
    range(
      () => b.project(out, x, { matrix: w, bias: three }),
      "Cannot project: bias has length 3, expected 2",
    );
    range(
      () => b.project(out, x, { matrix: w, norm: { gain: b.vector(new Float32Array(2)), epsilon: 1e-5 } }),
      "Cannot project: norm.gain has length 2, expected 3",
    );
    range(
      () => b.projectResidual(x, x, { matrix: w }),
      "Cannot add a projection: x has shape [4, 3], expected [4, 2]",
    );
    range(
      () => b.projectResidual(out, x, { matrix: w, gate: three }),
      "Cannot add a projection: gate has length 3, expected 2",
    );
    range(
      () => b.embed(x, { tokens, table: w, cache }),
      "Cannot embed: the token buffer has capacity 2, expected at least 4",
    );
    range(
      () => b.embed(x.slice(0, 2), { tokens, table: w, positions: w, cache: advanced(b, 1) }),
      "Cannot embed: positions [1, 3) do not fit the position table of 2",
    );
    range(() => b.append(qkv, heads), "Cannot append: kv has shape [4, 12], expected [4, 8]");
    range(() => b.attention(attended, x, heads), "Cannot attend: qkv has shape [4, 3], expected [4, 12]");
    range(() => b.attention(out, qkv, heads), "Cannot attend: out has shape [4, 2], expected [4, 4]");
    range(
      () => b.attention(attended, qkv, { ...heads, layer: 2 }),
      "Cannot attend: layer is 2, expected an integer within [0, 1]",
    );
    range(
      () => b.attention(attended, qkv, { ...heads, causalRows: 5 }),
      "Cannot attend: causalRows is 5, expected an integer within [0, 4]",
    );
    range(
      () => b.attention(attended, qkv, { ...heads, heads: 3 }),
      "Cannot attend: 3 heads do not divide the cache's width 4",
    );
    range(
      () => b.attention(attended, qkv, { ...heads, rotary: three }),
      "Cannot attend: rotary has length 3, expected 1",
    );
    range(
      () => b.attention(attended, qkv, { ...heads, window: 0 }),
      "Cannot attend: window is 0, expected an integer within [1, Infinity]",
    );
    const narrow = { ...heads, cache: b.cache({ layers: 1, width: 4, capacity: 6, halfHeads: 4 }) };
    range(() => b.attention(attended, qkv, narrow), "Cannot attend: heads is 2, expected the cache's 4");
    cache.advance(3);
    range(
      () => b.attention(attended, qkv, heads),
      "Cannot attend: positions [3, 7) do not fit the cache of 6",
    );
    range(() => cache.advance(4), "Cannot advance a cache: 4 positions do not fit, 3 of 6 are in use");
    range(() => cache.truncate(4), "Cannot truncate a cache: length 4 is not within [0, 3]");
    range(() => b.copy(x, out), "Cannot copy: out has shape [4, 3], expected [4, 2]");
    range(
      () => b.distribution(x, out, {}),
      "Cannot make a distribution: logits have 2 columns, expected at least 3",
    );
    range(
      () => b.distribution(out, x, { topP: 0 }),
      "Cannot make a distribution: topP is 0, expected a number within (0, 1]",
    );
    range(
      () => b.sample(tokens, x, { seed: 0n, purpose: 0, position: 0 }),
      "Cannot sample: the token buffer has capacity 2, expected at least 4",
    );
    range(() => x.slice(3, 2), "Cannot slice an activation: rows [3, 5) are not within [0, 4)");
    range(
      () => x.write(new Float32Array(3)),
      "Cannot write an activation: 3 values do not fill its shape [4, 3]",
    );
    range(() => tokens.write([1, 2, 3]), "Cannot use 3 tokens of a buffer: its capacity is 2");
    range(() => b.activation(0, 3), "Cannot allocate an activation: rows is 0, expected a positive integer");
  });

  Deno.test(`${name}: a matrix may come in any chunks of whole rows, and must be complete`, async () => {
    using b = await open();
    const values = Float32Array.from({ length: 12 }, (_, i) => i);
    const upload = (...sizes: number[]) => {
      let start = 0;
      return b.matrix(
        { outputs: 4, inputs: 3, dtype: "f32" },
        sizes.map((n) => values.slice(start, start += n)),
      );
    };
    const x = activation(b, 3, [1, 10, 100]), out = b.activation(1, 4);
    for (const sizes of [[12], [3, 3, 6], [3, 0, 9]]) {
      using w = await upload(...sizes);
      b.project(out, x, { matrix: w });
      assertSame(out.read(), [210, 543, 876, 1209], `chunks of ${sizes}`);
    }
    await assert.rejects(upload(4, 8), {
      name: "RangeError",
      message: "Cannot upload a matrix: a chunk holds 4 entries, expected [4, 3] in rows",
    });
    await assert.rejects(upload(9), /the chunks hold 3 rows, expected \[4, 3\]/);
    await assert.rejects(
      b.matrix({ outputs: 2, inputs: 3, dtype: "f32" }, [values]),
      /the chunks hold more than 2 rows, expected \[2, 3\]/,
    );
  });

  Deno.test(`${name}: int8 rows are quantised as the oracle does`, async () => {
    using oracle = createReferenceBackend();
    using b = await open();
    const [inputs, outputs, rows] = [45, 30, 50];
    const weights = Array.from({ length: outputs * inputs }, (_, i) => noise(i));
    const entries = Array.from({ length: rows * inputs }, (_, i) => noise(i + 0.5) + (i % 7) / 7);
    const [found, expected] = await Promise.all([b, oracle].map(async (backend) => {
      const out = backend.activation(rows, outputs);
      const w = await matrix(backend, inputs, weights, "int8");
      backend.project(out, activation(backend, inputs, entries), { matrix: w });
      return out.read().slice();
    }));
    assertClose(found, expected, 1e-6, "a step missed by one would show as 1e-3");
  });

  Deno.test(`${name}: what it does not know or did not make is refused`, async () => {
    using b = await open(), other = await open();
    for (const shape of [{ outputs: 1, inputs: 3, dtype: "f8" as Dtype }]) {
      await assert.rejects(b.matrix(shape, [new Float32Array(3)]), {
        name: "TypeError",
        message: 'Cannot upload a matrix: dtype is "f8", expected one of f32, f16, bf16, int8',
      });
    }
    await assert.rejects(b.matrix({ outputs: 0, inputs: 3, dtype: "f32" }, []), {
      name: "RangeError",
      message: "Cannot upload a matrix: outputs is 0, expected a positive integer",
    });
    assert.throws(() => b.vector(new Float32Array(0)), {
      name: "RangeError",
      message: "Cannot upload a vector: length is 0, expected a positive integer",
    });

    using table = await matrix(b, 3, [1, 2, 3, 4, 5, 6]); // [2, 3]
    using x = b.activation(1, 3), out = b.activation(1, 3), tokens = b.tokens(1);
    using cache = b.cache({ layers: 1, width: 3, capacity: 1 });
    for (const id of [7, -1]) {
      tokens.write([id]);
      const message = `Cannot embed token ${id}: the table has ids [0, 2)`;
      const embed = () => b.embed(out, { tokens, table, cache });
      for (const run of [embed, () => b.multiplyEmbedding(out, x, { table, tokens })]) {
        if (b.name !== "cuda") assert.throws(run, { name: "RangeError", message });
        else { // the host does not see the ids
          run();
          assert.deepEqual([...out.read()], [NaN, NaN, NaN]);
        }
      }
    }

    using foreignTable = await matrix(other, 3, [1, 2, 3, 4, 5, 6]), foreign = other.activation(1, 3);
    using foreignBias = other.vector(new Float32Array(2)), foreignTokens = other.tokens(1);
    using foreignCache = other.cache({ layers: 1, width: 3, capacity: 1 }), two = b.activation(1, 2);
    for (
      const [what, run] of [
        ["activation", () => b.copy(out, foreign)],
        ["activation", () => b.copy(foreign, out)],
        ["matrix", () => b.project(two, x, { matrix: foreignTable })],
        ["vector", () => b.project(two, x, { matrix: table, bias: foreignBias })],
        ["tokens", () => b.embed(out, { tokens: foreignTokens, table, cache })],
        ["cache", () => b.embed(out, { tokens, table, cache: foreignCache })],
        ["cache", () => b.append(b.activation(1, 6), { cache: foreignCache, layer: 0, heads: 1 })],
      ] as const
    ) {
      assert.throws(run, { name: "TypeError", message: `Cannot use the ${what}: it is another backend's` });
    }
  });

  Deno.test(`${name}: nothing can be used after it, or its backend, was disposed of`, async () => {
    const b = await open();
    const w = await matrix(b, 3, [1, 2, 3]), gone = await matrix(b, 3, [1, 2, 3]);
    const x = b.activation(1, 3), out = b.activation(1, 1), view = x.slice(0, 1), tokens = b.tokens(2);
    gone[Symbol.dispose]();
    gone[Symbol.dispose]();
    const refused = (what: string, run: () => unknown) =>
      assert.throws(run, { name: "Error", message: `Cannot use ${what} disposed` });
    refused("a matrix: it is", () => b.project(out, x, { matrix: gone }));
    view[Symbol.dispose]();
    tokens.slice(0, 1)[Symbol.dispose]();
    tokens.read(); // a view is not what it is a view of
    b.project(out, view, { matrix: w });
    x[Symbol.dispose]();
    refused("an activation: it is", () => x.read());
    refused("an activation: it is", () => view.read());
    refused("an activation: it is", () => b.project(out, view, { matrix: w }));
    tokens[Symbol.dispose]();
    refused("a token buffer: it is", () => tokens.read());
    b[Symbol.dispose]();
    refused("an activation: its backend is", () => out.read());
    assert.throws(() => b.activation(1, 1), /^Error: Cannot use the \w+ backend: it is disposed$/);
    assert.throws(() => b.copy(out, out), /^Error: Cannot use the \w+ backend: it is disposed$/);
    b[Symbol.dispose]();
  });
}

function advanced(backend: Backend, length: number) {
  const cache = backend.cache({ layers: 1, width: 1, capacity: 8 });
  cache.advance(length);
  return cache;
}
