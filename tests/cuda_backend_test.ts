/**
 * What only the CUDA backend does beside graphs and bits: faults that go where the data go, appended keys and values, laws of a
 * whole vocabulary. On the stand-in; `backend_test.ts` and `parity_test.ts` hold what every backend has to meet.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Backend } from "../src/backend/backend.ts";
import type { CudaBackend } from "../src/backend/cuda/backend.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { DeviceDistributions } from "../src/decode/device_distributions.ts";
import { onCudaBackend as test, standIn } from "./cuda/standin.ts";
import { assertClose, assertSame } from "./helpers.ts";
import { filled, values } from "./cuda/values.ts";

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
