/**
 * One row has the bits of many on the CUDA backend, whichever blocks and kernels compute it.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Activation, Backend } from "../src/backend/backend.ts";
import { gpt2, noiseWeights } from "../tools/shapes.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { loadModel } from "../src/model/load.ts";
import { onCudaBackend as test, standIn } from "./cuda/standin.ts";
import { assertClose, assertSame } from "./helpers.ts";
import { filled, values } from "./cuda/values.ts";

test("a sum that blocks share has the same bits for one row and for all sizes of blocks", async (backend) => {
  const outputs = 70, inputs = 1040, most = 50;
  using oracle = createReferenceBackend();
  const run = async (b: Backend, counts: readonly number[]) => {
    using matrix = await b.matrix({ outputs, inputs, dtype: "f16" }, [values(outputs * inputs, 1)]);
    using x = filled(b, most, inputs, 2), out = b.activation(most, outputs);
    using gain = b.vector(values(inputs, 3)), bias = b.vector(values(outputs, 4));
    return counts.map((rows) => {
      const norm = { gain, epsilon: 1e-5 };
      b.project(out.slice(0, rows), x.slice(most - rows, rows), { matrix, norm, bias });
      return out.slice(0, rows).read().slice();
    });
  };
  const [[expected], [all, ...fewer]] = [
    await run(oracle, [most]),
    await run(backend, [most, 1, 8, 9, 20, 40]),
  ];
  assertClose(all, expected, 2e-3, "50 rows");
  for (const some of fewer) {
    assertSame(some, all.subarray(all.length - some.length), `the last ${some.length / outputs} of 50 rows`);
  }
});

test("many rows have the bits of a few, whatever the shape and what follows", async (backend) => {
  const shapes = [
    { what: "one sharer, blocks of 128", dtype: "f16", outputs: 8450, inputs: 40, counts: [129, 65] },
    { what: "five sharers, unevenly dealt", dtype: "bf16", outputs: 810, inputs: 1300, counts: [300] },
    { what: "three sharers, blocks of 64", dtype: "f16", outputs: 2050, inputs: 784, counts: [150] },
    { what: "two steps, the last not full", dtype: "bf16", outputs: 4100, inputs: 23, counts: [66, 100] },
  ] as const;
  using oracle = createReferenceBackend();
  for (const { what, dtype, outputs, inputs, counts } of shapes) {
    const most = Math.max(...counts), few = 3;
    const weights = values(outputs * inputs, 1);
    using matrix = await backend.matrix({ outputs, inputs, dtype }, [weights]);
    using x = filled(backend, most, inputs, 2), out = backend.activation(most, outputs);
    using gain = backend.vector(values(inputs, 3)), bias = backend.vector(values(outputs, 4));
    const norm = { gain, shift: gain, epsilon: 1e-5 };
    const run = (start: number, rows: number) => {
      const from = x.slice(start, rows), to = out.slice(0, rows);
      backend.project(to, from, { matrix, norm, bias, activation: "gelu" });
      standIn?.reset();
      backend.projectResidual(to, from, { matrix, bias, gate: bias });
      return { y: to.read().slice(), kernels: standIn?.calls("cuLaunchKernelEx") };
    };
    for (const rows of counts) {
      const all = run(most - rows, rows);
      assert.equal(all.kernels, 2, `${what}: ${rows} rows are packed, then multiplied`);
      for (const start of [0, rows >> 1, rows - few]) {
        const some = run(most - rows + start, few);
        assert.equal(some.kernels, 1);
        assertSame(
          all.y.subarray(start * outputs, (start + few) * outputs),
          some.y,
          `${what}: rows from ${start} of ${rows}`,
        );
      }
    }
    if (inputs > 40) continue; // the oracle is slow
    using same = await oracle.matrix({ outputs, inputs, dtype }, [weights]);
    using given = filled(oracle, most, inputs, 2), to = oracle.activation(few, outputs);
    oracle.project(to, given.slice(0, few), { matrix: same });
    backend.project(out, x, { matrix });
    assertClose(out.read().subarray(0, few * outputs), to.read(), 2e-2, what);
  }
});

test("as many rows as one block holds are one launch, and have the bits of one", async (backend) => {
  const outputs = 70, inputs = 530, most = 64;
  for (const dtype of ["f16", "bf16"] as const) {
    using matrix = await backend.matrix({ outputs, inputs, dtype }, [values(outputs * inputs, 1)]);
    using x = filled(backend, most, inputs, 2), out = backend.activation(most, outputs);
    using gain = backend.vector(values(inputs, 3)), bias = backend.vector(values(outputs, 4));
    const run = (start: number, rows: number) => {
      const from = x.slice(start, rows), to = out.slice(0, rows);
      const norm = { gain, shift: gain, epsilon: 1e-5 };
      backend.project(to, from, { matrix, norm }); // which also makes the groups of x
      standIn?.reset();
      backend.project(to, from, { matrix, norm, activation: "gelu" });
      backend.projectResidual(to, from, { matrix, bias });
      return { y: to.read().slice(), kernels: standIn?.calls("cuLaunchKernelEx") };
    };
    const alone = Array.from({ length: most }, (_, r) => [...run(r, 1).y]);
    for (const rows of [2, 8, 9, 16, 17, 32, 33, 48, 49, 64]) {
      const { y, kernels } = run(most - rows, rows);
      assert.equal(kernels, 2, `${rows} rows`);
      assertSame(y, Float32Array.from(alone.slice(-rows).flat()), `${dtype}: ${rows} rows`);
    }
  }
});

test("a cache of several chunks gives the same bits split among blocks and walked by one", (backend) => {
  const heads = 2, size = 6, width = heads * size, most = 150;
  using oracle = createReferenceBackend();
  const qkv = values(most * 3 * width, 5);
  const run = (
    b: Backend,
    first: number,
    rows: number,
    options: { window?: number | undefined; causal: boolean },
  ) => {
    using cache = b.cache({ layers: 1, width, capacity: most });
    const results: number[] = [];
    for (let at = 0; at < most;) {
      const count = at === 0 ? first : Math.min(rows, most - at);
      using from = b.activation(count, 3 * width), out = b.activation(count, width);
      from.write(qkv.subarray(at * 3 * width, (at + count) * 3 * width));
      const { window, causal } = options, causalRows = causal ? count : 0;
      b.attention(out, from, { cache, layer: 0, heads, scale: 0.4, causalRows, window });
      cache.advance(count);
      at += count;
      results.push(...out.read());
    }
    return results;
  };
  for (const window of [undefined, 20]) {
    const whole = run(backend, most, most, { window, causal: true });
    assertClose(whole, run(oracle, most, most, { window, causal: true }), 2e-6, "one pass");
    assertSame(run(backend, 70, 5, { window, causal: true }), whole, "five rows at a time");
    assertSame(run(backend, 120, 1, { window, causal: true }), whole, "one row at a time");
  }
  const seen = run(backend, most, most, { causal: false });
  assertClose(seen, run(oracle, most, most, { causal: false }), 2e-6, "a bidirectional pass");
});

test("a cache of f16 gives the same bits split among blocks and walked by one, for heads of all sizes", (backend) => {
  using oracle = createReferenceBackend();
  const most = 300;
  const run = (b: Backend, size: number, passes: readonly number[], options: {
    readonly window?: number;
    readonly causal: (rows: number) => number;
    readonly rotary?: Float32Array;
  }) => {
    const heads = 2, width = heads * size, { window, causal } = options;
    const qkv = values(most * 3 * width, 5).map((x) => 2 * x);
    using rotary = options.rotary && b.vector(options.rotary);
    using cache = b.cache({ layers: 2, width, capacity: most + 1, halfHeads: heads });
    const results: number[] = [];
    for (const count of passes) {
      const at = cache.length;
      using from = b.activation(count, 3 * width), out = b.activation(count, width);
      // a draft that is taken back
      from.write(values(count * 3 * width, 6));
      b.attention(out, from, { cache, layer: 1, heads, scale: 1, causalRows: count, rotary });
      cache.advance(count);
      cache.truncate(at);
      from.write(qkv.subarray(at * 3 * width, (at + count) * 3 * width));
      const causalRows = causal(count);
      b.attention(out, from, { cache, layer: 1, heads, scale: 0.4, causalRows, window, rotary });
      cache.advance(count);
      results.push(...out.read());
    }
    return results;
  };
  const all = (rows: number) => rows, none = () => 0, mostly = (rows: number) => Math.max(0, rows - 20);
  const rotary = Float32Array.of(1, 0.3, 0.01), ones = new Array<number>(21).fill(1);
  const cases = [
    { size: 6, rotary, causal: all },
    { size: 20, causal: all, window: 40 },
    { size: 64, causal: all },
    { size: 72, causal: all },
  ];
  for (const { size, ...options } of cases) {
    const whole = run(backend, size, [most], options), what = `heads of ${size}`;
    assertClose(whole, run(oracle, size, [most], options), 2e-3, what);
    assertSame(run(backend, size, [279, ...ones], options), whole, `${what}, one row at a time`);
    assertSame(run(backend, size, [3, 48, 64, 65, 17, 103], options), whole, `${what}, in pieces`);
  }
  for (const causal of [none, mostly]) {
    const passes = [200, 40];
    assertClose(
      run(backend, 20, passes, { causal }),
      run(oracle, 20, passes, { causal }),
      2e-3,
      "rows that see later ones",
    );
  }
});

test("a norm has the same bits whoever wrote the rows", async (backend) => {
  const rows = 5, columns = 77; // the last group is not full
  using matrix = await backend.matrix({ outputs: columns, inputs: columns, dtype: "f32" }, [
    values(columns * columns, 1),
  ]);
  using table = await backend.matrix({ outputs: 9, inputs: columns, dtype: "f32" }, [values(9 * columns, 2)]);
  using gain = backend.vector(values(columns, 3)),
    cache = backend.cache({ layers: 1, width: 4, capacity: 9 });
  using x = backend.activation(rows, columns), u = filled(backend, rows, columns, 4);
  using same = backend.activation(rows, columns), out = backend.activation(rows, columns);
  using tokens = backend.tokens(rows);
  tokens.write([3, 1, 4, 1, 5]);
  const normed = (of: Activation) => {
    backend.project(out, of, { matrix, norm: { gain, epsilon: 1e-5 } });
    return out.read().slice();
  };
  const check = (what: string) => {
    same.write(x.read());
    assertSame(normed(x), normed(same), what);
  };
  backend.embed(x, { tokens, table, cache });
  check("embed");
  backend.projectResidual(x, u, { matrix });
  check("projectResidual");
  backend.projectResidual(x.slice(3, 2), u.slice(3, 2), { matrix });
  check("projectResidual of the last rows");
  backend.copy(x.slice(1, 1), u.slice(0, 1));
  check("copy into one row");
  backend.project(x, u, { matrix });
  check("project");
});

test("a prompt is read in passes of 512 rows, with the bits of passes of any other size", async (backend) => {
  const size = { layers: 1, width: 32, heads: 2, context: 640, vocabSize: 40 }, rows = 600;
  const tokens = Array.from({ length: rows }, (_, i) => (i * 7 + 3) % size.vocabSize);
  for (const dtype of ["f32", "f16"] as const) {
    const run = async (chunkRows?: number) => {
      const loaded = await loadModel(noiseWeights(gpt2(size)), backend, { dtype, chunkRows });
      assert(loaded.kind === "causal");
      using model = loaded.model;
      using cache = model.newCache();
      standIn?.reset();
      const logits = model.forward(tokens, cache, { headRows: 9 }).read().slice();
      const passes = standIn!.calls("embed");
      return { logits, passes, next: model.forward([1], cache).read().slice() };
    };
    const whole = await run();
    assert.equal(whole.passes, 2);
    for (const chunkRows of [128, 71]) {
      const pieces = await run(chunkRows);
      assertSame(pieces.logits, whole.logits, `${dtype}, passes of ${chunkRows} rows`);
      assertSame(pieces.next, whole.next, `${dtype}, the token after passes of ${chunkRows} rows`);
    }
  }
});
