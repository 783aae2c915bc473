/**
 * Every operation of every backend against the oracle, at shapes that fit no tile, and the bit-exact rule. A
 * backend that is not present is not tested; on a CPU the plain build of the kernels counts as one more.
 *
 * @module
 */

import assert from "node:assert/strict";
import {
  type Activation,
  type AttentionOptions,
  type Backend,
  type Dtype,
  dtypes,
  type Sampling,
} from "../src/backend/backend.ts";
import { race } from "../src/backend/philox.ts";
import { createCudaBackend } from "../src/backend/cuda/backend.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { createWasmBackend } from "../src/backend/wasm/backend.ts";
import { standIn, whyNoStandIn } from "./cuda/standin.ts";
import { assertClose } from "./helpers.ts";

/** f32 against float64. */
const TOLERANCE = 2e-6;
/** One step of one entry of a row, of the many that a product sums. */
const INT8_TOLERANCE = 2e-3;
const rowCounts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17];

/** A backend, and how close it comes to the oracle, as a share of the largest value. */
interface Candidate {
  readonly open: () => Promise<Backend>;
  /** Where a matrix is held as f16 or bf16. A GPU rounds the rows it is multiplied with as well. */
  readonly halfTolerance: Readonly<Record<"f16" | "bf16", number>>;
  /** [outputs, inputs] */
  readonly shapes: readonly (readonly [number, number])[];
  /** [size, count] of heads. */
  readonly heads: readonly (readonly [number, number])[];
}

const CPU = {
  halfTolerance: { f16: TOLERANCE, bf16: TOLERANCE },
  // smaller than a panel, odd, whole groups, several chunks for several threads
  shapes: [[3, 5], [131, 77], [64, 64], [1000, 130]],
  heads: [[4, 3], [6, 1], [10, 2], [16, 4], [64, 2]],
} as const;

const candidates: Record<string, Candidate> = {
  "wasm, 1 thread": { ...CPU, open: () => createWasmBackend({ threads: 1 }) },
  "wasm, 3 threads": { ...CPU, open: () => createWasmBackend({ threads: 3 }) },
  "wasm, plain SIMD": { ...CPU, open: () => createWasmBackend({ threads: 2, simd: "plain" }) },
};
if (standIn !== undefined) {
  candidates["cuda, stand-in"] = {
    open: () => Promise.resolve(createCudaBackend()),
    halfTolerance: { f16: 1e-3, bf16: 8e-3 },
    // smaller than a tile, odd, whole tiles, more groups of a row than a warp holds
    shapes: [[3, 5], [131, 77], [64, 64], [5, 2085]],
    heads: [[4, 3], [10, 2], [64, 2]],
  };
}

/** Numbers in (−1, 1) with some structure in their size, the same each time. */
function values(count: number, seed: number, scale = 1): Float32Array {
  let state = Math.imul(seed, 0x9E3779B9) + 1 | 0;
  return Float32Array.from({ length: count }, () => {
    state = Math.imul(state ^ state >>> 15, 0x2C1B3C6D) + 0x6D2B79F5 | 0;
    return state / 2 ** 31 * scale;
  });
}

function filled(backend: Backend, rows: number, columns: number, seed: number, scale = 1): Activation {
  const activation = backend.activation(rows, columns);
  activation.write(values(rows * columns, seed, scale));
  return activation;
}

/** The same on two backends; the results side by side. */
async function both(
  candidate: Backend,
  run: (backend: Backend) => Promise<Float32Array> | Float32Array,
): Promise<[found: Float32Array, expected: Float32Array]> {
  using oracle = createReferenceBackend();
  const expected = (await run(oracle)).slice();
  return [(await run(candidate)).slice(), expected];
}

async function project(
  backend: Backend,
  outputs: number,
  inputs: number,
  rows: number,
  dtype: Dtype,
  options: { norm?: boolean; bias?: boolean; gelu?: boolean },
): Promise<Float32Array> {
  using matrix = await backend.matrix({ outputs, inputs, dtype }, [values(outputs * inputs, 1)]);
  using x = filled(backend, rows, inputs, 2, 3);
  using out = backend.activation(rows, outputs);
  using gain = backend.vector(values(inputs, 3, 2)), shift = backend.vector(values(inputs, 4));
  using bias = backend.vector(values(outputs, 5));
  backend.project(out, x, {
    matrix,
    norm: options.norm ? { gain, shift, epsilon: 1e-5 } : undefined,
    bias: options.bias ? bias : undefined,
    activation: options.gelu ? "gelu" : undefined,
  });
  return out.read().slice();
}

/** Attention in three passes with a rollback between, so that the cache is used, reused and continued. */
function attention(
  backend: Backend,
  size: number,
  heads: number,
  passes: readonly { rows: number; causal: number; keep: number }[],
  options: Partial<AttentionOptions> & { frequencies?: Float32Array },
): Float32Array {
  const width = heads * size, results: number[] = [];
  using cache = backend.cache({ layers: 2, width, capacity: 61 });
  using rotary = options.frequencies && backend.vector(options.frequencies);
  for (const [seed, { rows, causal, keep }] of passes.entries()) {
    for (const layer of [0, 1]) {
      using qkv = filled(backend, rows, 3 * width, 10 + seed * 2 + layer, 2);
      using out = backend.activation(rows, width);
      backend.attention(out, qkv, {
        cache,
        layer,
        heads,
        scale: 1 / Math.sqrt(size),
        causalRows: causal,
        window: options.window,
        rotary,
      });
      results.push(...out.read());
    }
    cache.advance(rows);
    cache.truncate(keep);
  }
  return Float32Array.from(results);
}

const passes = [
  { rows: 30, causal: 30, keep: 21 },
  { rows: 1, causal: 1, keep: 22 },
  { rows: 9, causal: 4, keep: 26 },
  { rows: 2, causal: 2, keep: 27 },
  { rows: 7, causal: 0, keep: 0 },
  { rows: 61, causal: 13, keep: 61 },
];

for (const [name, { open, halfTolerance, shapes, heads: headShapes }] of Object.entries(candidates)) {
  const tolerances: Record<Dtype, number> = { ...halfTolerance, f32: TOLERANCE, int8: INT8_TOLERANCE };

  Deno.test(`${name}: projections are the oracle's`, async () => {
    using backend = await open();
    for (const [outputs, inputs] of shapes) {
      for (const dtype of dtypes) {
        for (const rows of dtype === "f32" ? rowCounts : [1, 2, 7, 17]) {
          const options = { norm: rows % 2 === 0, bias: rows % 3 !== 0, gelu: rows > 4 };
          const what = `${dtype} [${rows}, ${inputs}] to ${outputs}`;
          const [found, expected] = await both(
            backend,
            (b) => project(b, outputs, inputs, rows, dtype, options),
          );
          // int8: both quantise rows alike, but norm in f32 may round an entry to the next of 127 steps
          assertClose(found, expected, tolerances[dtype], what);
        }
      }
    }
  });

  Deno.test(`${name}: residual projections are the oracle's`, async () => {
    using backend = await open();
    for (const rows of [1, 3, 8]) {
      for (const gated of [false, true]) {
        const [found, expected] = await both(backend, async (b) => {
          using matrix = await b.matrix({ outputs: 75, inputs: 42, dtype: "f32" }, [values(75 * 42, 1)]);
          using u = filled(b, rows, 42, 2), x = filled(b, rows, 75, 3);
          using bias = b.vector(values(75, 4)), gate = b.vector(values(75, 5));
          b.projectResidual(x, u, { matrix, bias, gate: gated ? gate : undefined });
          return x.read().slice();
        });
        assertClose(found, expected, TOLERANCE, `${rows} rows, gate ${gated}`);
      }
    }
  });

  Deno.test(`${name}: a backend that is disposed of while a matrix loads is named as the reason`, async () => {
    const backend = await open();
    const chunks = function* () {
      yield values(20, 1);
      backend[Symbol.dispose]();
      yield values(20, 2);
    };
    await assert.rejects(backend.matrix({ outputs: 4, inputs: 10, dtype: "f32" }, chunks()), {
      name: "Error",
      message: /backend\b.* is disposed$/,
    });
  });

  Deno.test(`${name}: int8 products are exact integers`, async () => {
    using backend = await open();
    // rows that span exactly 0 … 127 and channels that span exactly ±127 quantise to themselves
    const inputs = 77, outputs = 35, rows = 9;
    const whole = (count: number, seed: number, low: number, high: number, per: number) =>
      values(count, seed).map((v, i) => i % per === 0 ? high : Math.round(low + (v + 1) / 2 * (high - low)));
    const w = whole(outputs * inputs, 1, -127, 127, inputs), x = whole(rows * inputs, 2, 0, 127, inputs);
    const expected = new Float32Array(rows * outputs);
    for (let i = 0; i < expected.length; i++) {
      const r = Math.floor(i / outputs), o = i % outputs;
      for (let k = 0; k < inputs; k++) expected[i] += x[r * inputs + k] * w[o * inputs + k];
    }
    using matrix = await backend.matrix({ outputs, inputs, dtype: "int8" }, [w]);
    using from = backend.activation(rows, inputs), out = backend.activation(rows, outputs);
    from.write(x);
    backend.project(out, from, { matrix });
    assert.deepEqual([...out.read()], [...expected]);
  });

  Deno.test(`${name}: what is no number stays none`, async () => {
    using backend = await open();
    const inputs = 24, outputs = 5, rows = 3;
    using gain = backend.vector(values(inputs, 3, 2)), bias = backend.vector(values(outputs, 5));
    using x = backend.activation(rows, inputs), out = backend.activation(rows, outputs);
    for (const dtype of dtypes) {
      using matrix = await backend.matrix({ outputs, inputs, dtype }, [values(outputs * inputs, 1)]);
      for (const norm of [undefined, { gain, epsilon: 1e-5 }]) {
        // squares beyond the range of f32 are none either
        for (const stranger of norm === undefined ? [NaN] : [NaN, Infinity, 1e25]) {
          const entries = values(rows * inputs, 2);
          entries[inputs + 7] = stranger;
          using embedded = await backend.matrix({ outputs: rows, inputs, dtype: "f32" }, [entries]);
          using tokens = backend.tokens(rows), cache = backend.cache({ layers: 1, width: 1, capacity: 8 });
          tokens.write([0, 1, 2]);
          backend.embed(x, { tokens, table: embedded, cache });
          backend.project(out, x, { matrix, bias, norm });
          const finite = [...out.read()].map(Number.isFinite);
          const expected = finite.map((_, i) => Math.floor(i / outputs) !== 1);
          assert.deepEqual(finite, expected, `${dtype}, ${stranger}${norm ? ", norm" : ""}`);
        }
      }
    }
  });

  Deno.test(`${name}: embeddings are exactly the oracle's`, async () => {
    using backend = await open();
    const vocabSize = 43, width = 21, rows = 6;
    for (const dtype of dtypes) {
      const [found, expected] = await both(backend, async (b) => {
        // small entries too, that f16 holds as subnormal numbers
        const entries = values(vocabSize * width, 1).map((v, i) => i % 5 === 0 ? v * 1e-5 : v);
        using table = await b.matrix({ outputs: vocabSize, inputs: width, dtype }, [entries]);
        using positions = await b.matrix({ outputs: 20, inputs: width, dtype: "f32" }, [
          values(20 * width, 2),
        ]);
        using cache = b.cache({ layers: 1, width, capacity: 20 });
        cache.advance(7);
        using tokens = b.tokens(10);
        tokens.write([0, 42, 7, 8, 9, 33]);
        using out = b.activation(3 * rows, width);
        b.embed(out.slice(0, rows), { tokens, table, cache });
        b.embed(out.slice(rows, rows), { tokens, table, positions, cache });
        const last = out.slice(2 * rows, rows);
        last.write(values(rows * width, 3));
        b.multiplyEmbedding(last, last, { table, tokens });
        return out.read().slice();
      });
      assert.deepEqual(found, expected, dtype);
    }
  });

  Deno.test(`${name}: f16 holds every half, beside any other`, async () => {
    using backend = await open();
    const inputs = 62, outputs = 1024; // together as many as there are finite halves
    const halves = Float32Array.from({ length: inputs * outputs }, (_, i) => {
      const exponent = Math.floor(i / 2048), mantissa = i % 1024, sign = i % 2048 < 1024 ? 1 : -1;
      return sign *
        (exponent === 0 ? mantissa / 1024 * 2 ** -14 : (1 + mantissa / 1024) * 2 ** (exponent - 15));
    });
    const identity = Float32Array.from({ length: inputs ** 2 }, (_, i) => i % (inputs + 1) === 0 ? 1 : 0);
    // in order, so that those of one channel are alike; then of all sizes in each
    for (const stride of [1, 12347]) {
      const w = halves.map((_, i) => halves[i * stride % halves.length]); // [outputs, inputs]
      using matrix = await backend.matrix({ outputs, inputs, dtype: "f16" }, [w]);
      using tokens = backend.tokens(outputs),
        cache = backend.cache({ layers: 1, width: 1, capacity: outputs });
      using rows = backend.activation(outputs, inputs);
      tokens.write(Array.from({ length: outputs }, (_, i) => i));
      backend.embed(rows, { tokens, table: matrix, cache });
      assert.deepEqual(rows.read(), w);
      using x = backend.activation(inputs, inputs), out = backend.activation(inputs, outputs);
      x.write(identity);
      for (const count of [1, 5, inputs]) {
        const some = out.slice(0, count);
        backend.project(some, x.slice(0, count), { matrix });
        const found = some.read();
        // `===`: a sum with zeros may lose the sign of a zero
        const wrong = found.findIndex((y, i) => y !== w[i % outputs * inputs + Math.floor(i / outputs)]);
        assert.equal(wrong, -1, `${count} rows: ${found[wrong]}`);
      }
    }
  });

  Deno.test(`${name}: attention is the oracle's`, async () => {
    using backend = await open();
    for (const [size, heads] of headShapes) {
      const frequencies = Float32Array.from({ length: size / 2 }, (_, j) => 100 ** (-2 * j / size));
      for (const window of [undefined, 1, 5, 16]) {
        for (const options of [{ window }, { window, frequencies }]) {
          const [found, expected] = await both(backend, (b) => attention(b, size, heads, passes, options));
          assertClose(found, expected, TOLERANCE, `${heads} heads of ${size}, ${JSON.stringify(options)}`);
        }
      }
    }
  });

  Deno.test(`${name}: rotary positions reach as far as each cache that comes with the same frequencies`, async () => {
    using backend = await open();
    const size = 8, heads = 2, width = size * heads;
    const [found, expected] = await both(backend, (b) => {
      using rotary = b.vector(Float32Array.of(1, 0.3, 0.1, 0.01));
      const results: number[] = [];
      for (const capacity of [7, 150, 7, 400]) {
        using cache = b.cache({ layers: 1, width, capacity }),
          qkv = filled(b, capacity, 3 * width, capacity, 2);
        using out = b.activation(capacity, width);
        b.attention(out, qkv, { cache, layer: 0, heads, scale: 0.4, causalRows: capacity, rotary });
        results.push(...out.slice(capacity - 3, 3).read());
      }
      return Float32Array.from(results);
    });
    assertClose(found, expected, TOLERANCE, "the last rows");
  });

  Deno.test(`${name}: keys and values that are appended are those that attention appends`, async () => {
    using backend = await open();
    using oracle = createReferenceBackend();
    const size = 6, heads = 3, width = size * heads, first = 13, rows = 4;
    const qkv = values((first + rows) * 3 * width, 5, 2);
    const kv = (begin: number, end: number) =>
      Float32Array.from({ length: (end - begin) * 2 * width }, (_, i) => {
        return qkv[(begin + Math.floor(i / (2 * width))) * 3 * width + width + i % (2 * width)];
      });
    /** What the last rows see, the first having been appended up to some row by themselves, then with attention. */
    const run = (b: Backend, apart: readonly number[], frequencies: Float32Array | undefined) => {
      using cache = b.cache({ layers: 2, width, capacity: 29 });
      using rotary = frequencies && b.vector(frequencies);
      const options = { cache, layer: 1, heads, rotary };
      for (const end of apart) {
        using from = b.activation(end - cache.length, 2 * width);
        from.write(kv(cache.length, end));
        b.append(from, options);
        cache.advance(from.rows);
      }
      const left = first + rows - cache.length;
      using from = b.activation(left, 3 * width), out = b.activation(left, width);
      from.write(qkv.subarray(cache.length * 3 * width));
      b.attention(out, from, { ...options, scale: 0.4, causalRows: left });
      return out.slice(left - rows, rows).read().slice();
    };
    for (const frequencies of [undefined, Float32Array.of(1, 0.3, 0.01)]) {
      const whole = run(backend, [], frequencies);
      assertClose(whole, run(oracle, [], frequencies), 2e-6, "against the oracle");
      for (const apart of [[first], [1, 2, 9], [5, first]]) {
        assert.deepEqual(run(backend, apart, frequencies), whole, `appended up to ${apart}`);
      }
    }
  });

  Deno.test(`${name}: keys that are no numbers leave none in the rows that see them, and in no other`, async () => {
    using backend = await open();
    const size = 4, heads = 2, width = size * heads, strange = 64, first = 100; // as many as a kernel takes at a time
    for (const rows of [1, 3, 70]) {
      for (const window of [undefined, 20]) {
        using cache = backend.cache({ layers: 1, width, capacity: first + rows });
        using kv = backend.activation(first, 2 * width), out = backend.activation(rows, width);
        kv.write(values(first * 2 * width, 1).fill(NaN, 0, strange * 2 * width));
        backend.append(kv, { cache, layer: 0, heads });
        cache.advance(first);
        using qkv = filled(backend, rows, 3 * width, 2);
        backend.attention(out, qkv, { cache, layer: 0, heads, scale: 0.5, causalRows: rows, window });
        const numbers = out.read().filter((y) => !Number.isNaN(y)).length;
        assert.equal(numbers, window === undefined ? 0 : rows * width, `${rows} rows, window ${window}`);
      }
    }
  });

  Deno.test(`${name}: distributions are the oracle's`, async () => {
    using backend = await open();
    const samplings: Sampling[] = [
      {},
      { temperature: 0.3 },
      { temperature: 0 },
      { topK: 5 },
      { temperature: 2, topP: 0.7 },
      { topK: 9, topP: 0.5 },
    ];
    for (const sampling of samplings) {
      const [found, expected] = await both(backend, (b) => {
        using logits = b.activation(3, 55), p = b.activation(3, 53); // [R, V+2] and [R, V]
        logits.write(values(3 * 55, 1, 8).map((v, i) => i % 11 === 3 ? -Infinity : i % 7 === 0 ? -300 : v));
        b.distribution(p, logits, sampling);
        return p.read().slice();
      });
      assertClose(found, expected, 1e-6, JSON.stringify(sampling));
      assert.deepEqual(found.map(Number).map((v) => v === 0 ? 0 : 1), expected.map((v) => v < 1e-38 ? 0 : 1));
    }
    using logits = backend.activation(1, 9), p = backend.activation(1, 9);
    for (
      const odd of [
        [NaN],
        [1, 2, NaN],
        [1, Infinity],
        [0, 0, 0, 0, 0, 0, 0, 0, NaN],
        Array(9).fill(-Infinity),
      ]
    ) {
      logits.write(Float32Array.from({ length: 9 }, (_, i) => odd[i] ?? 0));
      assert.throws(
        () => {
          backend.distribution(p, logits, {});
          p.read(); // a device may say it only now
        },
        RangeError,
        String(odd),
      );
    }
  });

  Deno.test(`${name}: draws are those of race()`, async () => {
    using backend = await open();
    const rows = 40, vocabSize = 259;
    using logits = filled(backend, rows, vocabSize, 1, 6), p = backend.activation(rows, vocabSize);
    using tokens = backend.tokens(rows);
    backend.distribution(p, logits, {});
    for (const seed of [0n, 0x0123456789ABCDEFn]) {
      const key = { seed, purpose: 3, position: 1000 };
      backend.sample(tokens, p, key);
      const expected = Array.from(
        { length: rows },
        (_, r) => race(p.slice(r, 1).read(), { ...key, position: 1000 + r }),
      );
      assert.deepEqual([...tokens.read()], expected);
    }
    p.write(new Float32Array(rows * vocabSize));
    assert.throws(() => {
      backend.sample(tokens, p, { seed: 0n, purpose: 0, position: 0 });
      tokens.read();
    }, RangeError);
  });

  Deno.test(`${name}: the bit-exact rule: a row alone and among others`, async () => {
    using backend = await open();
    const inputs = 130, outputs = 331, most = 17;
    const x = values(most * inputs, 2, 3);
    for (const dtype of dtypes) {
      using matrix = await backend.matrix({ outputs, inputs, dtype }, [values(outputs * inputs, 1)]);
      using gain = backend.vector(values(inputs, 3)), bias = backend.vector(values(outputs, 4));
      const run = (start: number, rows: number) => {
        using from = backend.activation(rows, inputs), out = backend.activation(rows, outputs);
        from.write(x.subarray(start * inputs, (start + rows) * inputs));
        const norm = { gain, epsilon: 1e-5 };
        backend.project(out, from, { norm, matrix, bias, activation: "gelu" });
        return out.read().slice();
      };
      const alone = Array.from({ length: most }, (_, r) => run(r, 1));
      for (const rows of rowCounts) {
        const together = run(most - rows, rows);
        for (let r = 0; r < rows; r++) {
          const row = together.subarray(r * outputs, (r + 1) * outputs);
          assert.deepEqual(row, alone[most - rows + r], `${dtype}, row ${r} of ${rows}`);
        }
      }
    }
  });

  Deno.test(`${name}: the bit-exact rule: a verify pass and one-row passes`, async () => {
    using backend = await open();
    const size = 24, heads = 2, width = size * heads, first = 19, most = 40;
    const qkv = values((first + most) * 3 * width, 5, 2);
    const run = (window: number | undefined, rows: number) => {
      using cache = backend.cache({ layers: 1, width, capacity: 64 });
      const results: Float32Array[] = [];
      for (let at = 0; at < first + most;) {
        const count = at === 0 ? first : Math.min(rows, first + most - at);
        using from = backend.activation(count, 3 * width), out = backend.activation(count, width);
        from.write(qkv.subarray(at * 3 * width, (at + count) * 3 * width));
        backend.attention(out, from, { cache, layer: 0, heads, scale: 0.2, causalRows: count, window });
        cache.advance(count);
        for (let r = 0; r < count; r++) results.push(out.slice(r, 1).read().slice());
        at += count;
      }
      return results;
    };
    for (const window of [undefined, 7]) {
      const alone = run(window, 1);
      for (const rows of [2, 3, 5, 8, 9, 40]) assert.deepEqual(run(window, rows), alone, `${rows} rows`);
    }
  });
}

Deno.test({
  name: `cuda: nothing the stand-in objects to${whyNoStandIn}`,
  ignore: standIn === undefined,
  fn: () => assert.deepEqual(standIn?.complaints(), []),
});

Deno.test("wasm: the number of threads changes no bit", async () => {
  using one = await createWasmBackend({ threads: 1 }), three = await createWasmBackend({ threads: 3 });
  for (const dtype of dtypes) {
    for (const rows of [1, 5, 40]) {
      const run = (b: Backend) => project(b, 2000, 260, rows, dtype, { norm: true, bias: true, gelu: true });
      assert.deepEqual(await run(three), await run(one), `${dtype}, ${rows} rows`);
    }
  }
  const run = (b: Backend) => attention(b, 64, 12, passes, {});
  assert.deepEqual(run(three), run(one));
});

Deno.test("wasm: memory that grows is seen by every thread", async () => {
  using backend = await createWasmBackend({ threads: 3 });
  const inputs = 512, outputs = 4096;
  const w = values(outputs * inputs, 1);
  let expected: Float32Array | undefined;
  for (let round = 0; round < 6; round++) { // 8 MiB each, none given back
    const matrix = await backend.matrix({ outputs, inputs, dtype: "f32" }, [w]);
    const x = filled(backend, 2, inputs, 2), out = backend.activation(2, outputs);
    backend.project(out, x, { matrix });
    expected ??= out.read().slice();
    assert.deepEqual(out.read(), expected);
    await new Promise((resolve) => setTimeout(resolve, round * 5)); // threads fall asleep in between
  }
});

Deno.test("wasm: memory that is given back is used again", async () => {
  using backend = await createWasmBackend({ threads: 1 });
  const address = () => {
    using a = backend.activation(100, 100), b = backend.activation(7, 7), c = backend.activation(1000, 100);
    const dirty = [a, b, c].map((t) => {
      const clean = t.read().every((v) => v === 0);
      t.write(new Float32Array(t.rows * t.columns).fill(NaN));
      return clean;
    });
    assert.deepEqual(dirty, [true, true, true]);
    assert.ok(backend.room! <= room - 4 * (100 * 100 + 7 * 7 + 1000 * 100));
    return [a, b, c].map((t) => t.read().byteOffset);
  };
  const room = backend.room!;
  assert.deepEqual(address(), address());
  assert.equal(backend.room, room);
});

Deno.test("wasm: errors say what was found", async () => {
  using backend = await createWasmBackend({ threads: 2 });
  await assert.rejects(
    backend.matrix({ outputs: 1 << 20, inputs: 1 << 10, dtype: "f32" }, []),
    /Cannot hold a \[1048576, 1024\] f32 matrix: .* of 4\.00 GiB are in use and f32 needs 4\.00 GiB; .*int8 needs 1\.01 GiB/,
  );
  await assert.rejects(
    backend.matrix({ outputs: 2, inputs: 2, dtype: "f32" }, [new Float32Array(2)]),
    RangeError,
  );
  await assert.rejects(createWasmBackend({ threads: 0 }), RangeError);
});

Deno.test("wasm: a thread that does not start is reported", async () => {
  const { Worker } = globalThis;
  globalThis.Worker = class extends Worker {
    constructor(_url: string | URL, options?: WorkerOptions) {
      super("data:text/javascript,throw new Error('no thread today')", options);
    }
  };
  try {
    await assert.rejects(
      createWasmBackend({ threads: 2 }),
      /Cannot start worker thread 1 of 1: .*no thread today/,
    );
  } finally {
    globalThis.Worker = Worker;
  }
});

Deno.test({
  name: "wasm: needs no permission",
  permissions: "none",
  fn: async () => {
    using backend = await createWasmBackend({ threads: 2 });
    assert.match(backend.description, /^WebAssembly .*SIMD, 2 threads$/);
  },
});
