/**
 * What only the CUDA backend does: sums and caches shared among blocks, norms from what the kernel before left, faults
 * that go where the data go, and how many kernels a layer takes. On the stand-in; `backend_test.ts` and
 * `parity_test.ts` hold what every backend has to meet.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Activation, Backend, Cache } from "../src/backend/backend.ts";
import { createCudaBackend, type CudaBackend, PLAIN_LAUNCHES } from "../src/backend/cuda/backend.ts";
import { gpt2, noiseWeights } from "../tools/shapes.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { DeviceDistributions } from "../src/decode/device_distributions.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import { onCudaBackend as test, onStandIn, standIn } from "./cuda/standin.ts";
import { assertClose, assertSame, fixture } from "./helpers.ts";

/** Numbers in (−1, 1), the same each time. */
function values(count: number, seed: number): Float32Array {
  return Float32Array.from(
    { length: count },
    (_, i) => Math.sin((i + 1) * (seed + 0.37)) * Math.cos(i * 0.71),
  );
}

function filled(backend: Backend, rows: number, columns: number, seed: number): Activation {
  const activation = backend.activation(rows, columns);
  activation.write(values(rows * columns, seed));
  return activation;
}

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

test("data without sense is told to whoever reads what was made from it, and to nobody else", (backend) => {
  const { decisions } = backend, columns = 5, none = new Float32Array(columns);
  using logits = backend.activation(2, columns), laws = backend.activation(2, columns);
  using tokens = backend.tokens(2), verdict = backend.tokens(4), round = decisions.round();
  round.begin(1n, 0);
  const purposes = { accept: 1, residual: 3, token: 0 }, p = laws.slice(0, 1), token = tokens.slice(0, 1);
  const fails = (name: string, message: RegExp, ...reads: (() => unknown)[]) => {
    for (const read of reads) assert.throws(read, { name, message });
    for (const read of [() => laws.slice(1, 1).read(), () => tokens.slice(1, 1).read()]) {
      assert.doesNotThrow(read);
    }
  };
  for (
    const [row, message] of [
      [[1, 2, NaN, 4, NaN], /^Cannot make a distribution: the logit of token 2 is not a number$/],
      [[NaN, NaN, NaN, NaN, NaN], /the logit of token 0 is not a number/],
      [none.map(() => -Infinity), /the largest logit is -Infinity/],
      [[1, Infinity, 2, 3, 4], /the largest logit is Infinity/],
    ] as const
  ) {
    logits.write(Float32Array.of(...row, 1, 2, 3, 4, 5));
    backend.distribution(laws, logits, {});
    backend.sample(tokens, laws, { seed: 1n, purpose: 0, position: 0 });
    fails("LogitsError", message, () => p.read(), () => laws.read(), () => tokens.read(), () => token.read());
    for (const by of ["race", "inversion"] as const) {
      decisions.draw(tokens, laws, { round, purpose: 2, offset: 0, by });
      fails("LogitsError", message, () => token.read());
    }
    // of a draft, and of the laws it is tested by
    for (const test of ["each", "joint", "drawn"] as const) {
      const sound = laws.slice(1, 1);
      using both = backend.activation(2, columns);
      for (const [draft, rows] of [[token, [sound, sound]], [tokens.slice(1, 1), [sound, p]]] as const) {
        rows.forEach((row, r) => backend.copy(both.slice(r, 1), row));
        decisions.accept(verdict, { round, test, p: both, draft, purposes });
        fails("LogitsError", message, () => verdict.read());
      }
    }
  }
  p.write(none);
  backend.sample(tokens, laws, { seed: 1n, purpose: 0, position: 0 });
  fails("RangeError", /no weight is positive/, () => token.read());
});

for (const halves of [false, true]) {
  const what = halves ? ", in f16" : "";
  test(`keys and values that are appended are those that attention appends${what}`, (backend) =>
    appended(backend, halves));
}

function appended(backend: CudaBackend, halves: boolean): void {
  const heads = 2, size = 6, width = heads * size, first = 9, rows = 3, all = first + rows;
  const qkv = values(all * 3 * width, 5);
  using rotary = backend.vector(Float32Array.of(1, 0.3, 0.01));
  const run = (apart: number) => {
    using cache = backend.cache({ layers: 2, width, capacity: all, halfHeads: halves ? heads : undefined });
    if (apart > 0) {
      using kv = backend.activation(apart, 2 * width);
      kv.write(Float32Array.from({ length: apart * 2 * width }, (_, i) => {
        return qkv[Math.floor(i / (2 * width)) * 3 * width + width + i % (2 * width)];
      }));
      backend.append(kv, { cache, layer: 1, heads, rotary });
      cache.advance(apart);
    }
    using from = backend.activation(all - apart, 3 * width), out = backend.activation(all - apart, width);
    from.write(qkv.subarray(apart * 3 * width));
    backend.attention(out, from, { cache, layer: 1, heads, scale: 0.4, causalRows: all - apart, rotary });
    return out.slice(out.rows - rows, rows).read().slice();
  };
  assertSame(run(first), run(0), "the last rows");
}

test("what f16 cannot hold makes no numbers of the rows that see it, and of nothing once it is taken back", (backend) => {
  const heads = 2, most = 140, options = { layer: 0, heads, scale: 0.4 };
  for (const size of [6, 64]) {
    const width = heads * size, sound = values(most * 3 * width, 5);
    const run = (
      qkv: Float32Array,
      passes: readonly number[],
      windows: { readonly window?: number } = {},
    ) => {
      using cache = backend.cache({ layers: 1, width, capacity: 2 * most, halfHeads: heads });
      const all: number[] = [];
      const attend = (rows: Float32Array, count: number) => {
        using from = backend.activation(count, 3 * width), out = backend.activation(count, width);
        from.write(rows);
        backend.attention(out, from, { ...options, ...windows, cache, causalRows: count });
        cache.advance(count);
        return out.read();
      };
      for (const count of passes) {
        const at = cache.length;
        all.push(...attend(qkv.subarray(at * 3 * width, (at + count) * 3 * width), count));
      }
      cache.truncate(0);
      const after = attend(sound.subarray(0, 15 * width), 5);
      return { rows: all, after };
    };
    const expected = run(sound, [most]);
    // in the second head; at the beginning of a chunk, and within one; by itself, with others, and with many
    for (
      const [position, passes] of [[128, [128, ...new Array(12).fill(1)]], [70, [64, 48, 28]], [20, [
        most,
      ]]] as const
    ) {
      for (const [part, bad] of [[1, 7e4], [1, NaN], [2, -7e4], [2, NaN], [2, Infinity]] as const) {
        const qkv = sound.slice(),
          what = `${bad} as ${part === 1 ? "key" : "value"} of ${position}, heads of ${size}`;
        qkv[(position * 3 + part) * width + size + 3] = bad;
        const found = run(qkv, passes);
        assertSame(found.after, expected.after, `after ${what}`);
        found.rows.forEach((x, i) => {
          const sees = i >= position * width && i % width >= size;
          assert.ok(Object.is(x, sees ? NaN : expected.rows[i]), `${what}: entry ${i} is ${x}`);
        });
        const windowed = run(qkv, passes, { window: 4 }).rows;
        assert.ok(windowed.slice((position + 4) * width).every(Number.isFinite), `${what}: out of sight`);
      }
    }
  }
});

test("keys and values that are no numbers reach the rows that see them, and no others", (backend) => {
  const heads = 2, size = 6, width = heads * size, most = 140, sound = values(most * 3 * width, 5);
  const run = (qkv: Float32Array, passes: readonly number[], window?: number) => {
    using cache = backend.cache({ layers: 1, width, capacity: most });
    return passes.flatMap((count) => {
      using from = backend.activation(count, 3 * width), out = backend.activation(count, width);
      from.write(qkv.subarray(cache.length * 3 * width, (cache.length + count) * 3 * width));
      backend.attention(out, from, { cache, layer: 0, heads, scale: 0.4, causalRows: count, window });
      cache.advance(count);
      return [...out.read()];
    });
  };
  // walked by one block, split among blocks, and row by row
  const ways = [[most], [64, 40, 36], [100, ...new Array<number>(most - 100).fill(1)]];
  for (const window of [undefined, 4]) {
    const expected = run(sound, [most], window);
    for (const position of [20, 70, 131]) {
      for (const [part, bad] of [[1, NaN], [2, NaN], [2, Infinity], [2, -Infinity]] as const) {
        const qkv = sound.slice(), until = position + (window ?? most);
        qkv[(position * 3 + part) * width + size + 3] = bad;
        for (const passes of ways) {
          const what = `${bad} as ${part === 1 ? "key" : "value"} of ${position}, passes of ${passes}`;
          run(qkv, passes, window).forEach((x, i) => {
            const row = Math.floor(i / width), d = i % width - size;
            const reached = row >= position && row < until && (part === 1 ? d >= 0 : d === 3);
            assert.ok(
              reached ? !Number.isFinite(x) : Object.is(x, expected[i]),
              `${what}: entry ${i} is ${x}`,
            );
          });
        }
      }
    }
  }
});

test("laws of a whole vocabulary are the oracle's: logits that differ late, or not at all", (backend) => {
  const columns = 50257;
  using oracle = createReferenceBackend();
  const noise = values(columns, 7), coarse = values(columns, 8);
  const rows = [
    noise.map((x) => 12 * x - 100), // as GPT-2's: one first byte, few second ones
    coarse.map((x) => Math.round(8 * x) / 2), // both signs, and thousands of each value
    noise.map((x, v) => v % 3 === 0 ? -Infinity : v % 3 === 1 ? -1e9 : 5 * x),
    noise.map(() => -7.25),
  ];
  const samplings = [
    { topK: 50 },
    { topP: 0.9 },
    { topK: 30_000, topP: 0.95, temperature: 0.8 },
    { topP: 0.5, temperature: 30 }, // all weights are large
  ];
  for (const sampling of samplings) {
    const [found, expected] = [backend, oracle].map((b) => {
      using logits = b.activation(rows.length, columns), p = b.activation(rows.length, columns);
      rows.forEach((row, r) => logits.slice(r, 1).write(row));
      b.distribution(p, logits, sampling);
      return p.read().slice();
    });
    const what = JSON.stringify(sampling);
    assertClose(found, expected, 2e-6, what);
    assertSame(found.map(Math.sign), expected.map(Math.sign), `${what}: what is drawn at all`);
  }
});

test("heads that are too large for the device's shared memory are refused", (backend) => {
  const width = 512;
  using cache = backend.cache({ layers: 1, width, capacity: 8 });
  using qkv = backend.activation(1, 3 * width), out = backend.activation(1, width);
  const options = { cache, layer: 0, heads: 1, scale: 1, causalRows: 1 };
  assert.throws(() => backend.attention(out, qkv, options), {
    name: "RangeError",
    message: /^Cannot attend: heads of 512 entries take 332032 bytes of shared memory, expected at most \d+$/,
  });
});

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

test("rows of one law after another are drawn at once, and anew once a law or the noise has changed", (backend) => {
  using oracle = createReferenceBackend();
  const rows = 6, columns = 40;
  const fill = (laws: DeviceDistributions, b: Backend, start: number, count: number, seed: number) => {
    using logits = filled(b, count, columns, seed);
    laws.fill(start, logits, {});
  };
  using laws = new DeviceDistributions(backend, columns, "a model");
  using expected = new DeviceDistributions(oracle, columns, "a model");
  const reads = () => {
    const count = standIn?.calls("cuMemcpyDtoHAsync_v2");
    standIn?.reset();
    return count;
  };
  const drawn: number[] = [];
  const check = (j: number, seed: bigint, purpose = 0, start = 100) => {
    const key = { seed, purpose, position: start + j };
    const token = laws.race(j, key);
    assert.equal(token, expected.race(j, key), `row ${j}`);
    drawn.push(token);
  };
  for (const [b, of] of [[backend, laws], [oracle, expected]] as const) {
    of.resize(rows);
    fill(of, b, 0, 4, 1); // rows 4 and 5 hold none
  }
  reads();
  for (const j of [0, 1, 2, 3, 1]) check(j, 5n);
  assert.equal(reads(), 1);
  check(2, 6n);
  check(2, 6n, 1);
  check(3, 6n, 1, 200);
  assert.equal(reads(), 3, "other noise");
  for (const [b, of] of [[backend, laws], [oracle, expected]] as const) fill(of, b, 3, 3, 2);
  reads();
  for (const j of [2, 3, 4, 5]) check(j, 6n, 1);
  assert.equal(reads(), 1);
  assert.ok(new Set(drawn).size > 3, "not always the same token");
  // of rows that hold no laws any more none is drawn
  for (const [b, of] of [[backend, laws], [oracle, expected]] as const) {
    of.resize(2 * rows);
    fill(of, b, 0, 2, 3);
  }
  for (const j of [0, 1]) check(j, 7n);
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
