import assert from "node:assert/strict";
import { philox, race, toExponential, toUniform } from "../src/backend/philox.ts";
import { HostDistributions } from "../src/decode/distributions.ts";
import { invert, PhiloxSource, Purpose } from "../src/decode/random.ts";

/** Σ (observed − expected)²/expected. */
function chiSquare(observed: readonly number[], expected: readonly number[]): number {
  return observed.reduce((sum, n, i) => sum + (n - expected[i]) ** 2 / expected[i], 0);
}

Deno.test("philox gives the known answers of Random123", () => {
  // counter [4], key [2], result [4], from the file kat_vectors of the Random123 distribution
  const known = [
    ["00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
    ["ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"],
    ["243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"],
  ].map((words) => words.map((text) => text.split(" ").map((word) => parseInt(word, 16))));
  const out = new Uint32Array(4);
  for (const [[c0, c1, c2, c3], [k0, k1], expected] of known) {
    philox(out, c0, c1, c2, c3, k0, k1);
    assert.deepEqual([...out], expected);
  }
});

Deno.test("philox agrees with its definition in integers of any size", () => {
  const mask = 0xffffffffn;
  const defined = (c: bigint[], k: bigint[]): number[] => {
    for (let round = 0n; round < 10n; round++) {
      const a = 0xD2511F53n * c[0], b = 0xCD9E8D57n * c[2];
      const [k0, k1] = [k[0] + round * 0x9E3779B9n, k[1] + round * 0xBB67AE85n].map((key) => key & mask);
      c = [(b >> 32n) ^ c[1] ^ k0, b & mask, (a >> 32n) ^ c[3] ^ k1, a & mask];
    }
    return c.map(Number);
  };
  const out = new Uint32Array(4), words = new Uint32Array(8);
  for (let i = 0; i < 500; i++) {
    philox(words, i, 0, 0, 0, 0, 0);
    philox(words.subarray(4), i, 1, 0, 0, 0, 0);
    const [c0, c1, c2, c3, k0, k1] = words;
    philox(out, c0, c1, c2, c3, k0, k1);
    assert.deepEqual([...out], defined([c0, c1, c2, c3].map(BigInt), [k0, k1].map(BigInt)));
  }
});

Deno.test("uniforms and exponentials are finite at both ends", () => {
  assert.equal(toUniform(0), 2 ** -33);
  assert.equal(toUniform(0xffffffff), 1 - 2 ** -33);
  assert.ok(Math.abs(toExponential(2 ** -33) / 2 ** -33 - 1) < 1e-9);
  assert.ok(Math.abs(toExponential(1 - 2 ** -33) - 33 * Math.LN2) < 1e-9);
});

Deno.test("PhiloxSource's uniforms are uniform, of 52 bits, and functions of their key alone", () => {
  const source = new PhiloxSource(11);
  const bins = new Array<number>(20).fill(0);
  const n = 20_000;
  let sum = 0, product = 0;
  for (let i = 0; i < n; i++) {
    const u = source.uniform(Purpose.accept, i), next = source.uniform(Purpose.accept, i + 1);
    assert.ok(u > 0 && u < 1);
    bins[Math.floor(u * 20)]++;
    sum += u;
    product += (u - 0.5) * (next - 0.5);
  }
  assert.ok(chiSquare(bins, bins.map(() => n / 20)) < 43.8, `${bins}`); // 19 degrees of freedom, 0.1 %
  assert.ok(Math.abs(sum / n - 0.5) < 4 * Math.sqrt(1 / 12 / n));
  assert.ok(Math.abs(product / n) < 4 / 12 / Math.sqrt(n), "neighbours are correlated");

  const keys: [Purpose, number, number][] = [];
  for (const purpose of Object.values(Purpose)) {
    for (const position of [0, 1, 1000]) {
      for (const draw of [0, 1, 2, 3, 4, 1000]) keys.push([purpose, position, draw]);
    }
  }
  const uniforms = keys.map((key) => source.uniform(...key));
  assert.equal(new Set(uniforms).size, keys.length);
  assert.equal(new Set(uniforms.map((u) => u * 2 ** 32 % 1)).size, keys.length, "no more than 32 bits");
  assert.deepEqual(keys.map((key) => new PhiloxSource(11n).uniform(...key)), uniforms);
  assert.ok(keys.every((key, i) => new PhiloxSource(12).uniform(...key) !== uniforms[i]));
});

Deno.test("a uniform is the first 52 bits of half a block, in the middle of its interval", () => {
  const source = new PhiloxSource((7n << 32n) + 3n), block = new Uint32Array(4);
  for (let draw = 0; draw < 200; draw++) {
    philox(block, draw >> 1, 9, Purpose.draft, 0, 3, 7);
    const [high, low] = block.subarray(draw % 2 * 2);
    const bits = BigInt(high) << 20n | BigInt(low) >> 12n;
    assert.equal(source.uniform(Purpose.draft, 9, draw), (Number(bits) + 0.5) * 2 ** -52);
  }
});

Deno.test("seeds are integers of 64 bits", () => {
  const first = (seed: number | bigint | string) => new PhiloxSource(seed).uniform(Purpose.token, 0);
  assert.notEqual(first(1), first(1n << 32n));
  assert.notEqual(first(0), first(1n << 63n));
  assert.equal(first(-1), first((1n << 64n) - 1n));
  assert.equal(first(1n << 64n), first(0));
  assert.equal(first("18446744073709551615"), first(-1));
  assert.equal(first("-1"), first(-1));
  for (const bad of [0.5, 2 ** 53, "", "1.5", "12x", "x12", " 12", "0x1f"]) {
    assert.throws(() => new PhiloxSource(bad), { name: "RangeError", message: /the seed is .*, expected/ });
  }
});

Deno.test("bernoulli is certain at 0 and 1, and right in between", () => {
  const source = new PhiloxSource(5);
  let hits = 0;
  const n = 20_000;
  for (let i = 0; i < n; i++) {
    assert.equal(source.bernoulli(0, Purpose.accept, i), false);
    assert.equal(source.bernoulli(1, Purpose.accept, i), true);
    if (source.bernoulli(0.3, Purpose.accept, i)) hits++;
  }
  assert.ok(Math.abs(hits - 0.3 * n) < 4 * Math.sqrt(0.21 * n), `${hits} of ${n}`);
});

Deno.test("invert walks the cumulative law", () => {
  const weights = Float64Array.of(0, 2, 0, 6, 0);
  assert.deepEqual([0, 0.2499, 0.25, 0.9999].map((u) => invert(weights, u)), [1, 1, 3, 3]);
  // rounding of the sum never falls off the end, nor onto a weight of 0
  const thirds = new Float32Array(1000).fill(1 / 3);
  thirds[999] = 0;
  assert.equal(invert(thirds, 1 - 2 ** -53), 998);
  for (const bad of [[0, 0], [1, NaN], [2, -1], [1, Infinity], []]) {
    assert.throws(() => invert(Float64Array.from(bad), 0.5), RangeError);
  }
  for (let at = 0; at < 7; at++) {
    const bad = new Float64Array(7).fill(1).fill(-1, at, at + 1); // their sum is positive
    assert.throws(() => invert(bad, 0.5), { name: "RangeError", message: /an entry is negative/ });
  }
});

Deno.test("race picks the least exponential over weight, by the noise of its key", () => {
  const source = new PhiloxSource(9);
  const block = new Uint32Array(4);
  for (let i = 0; i < 500; i++) {
    const size = 1 + i % 23;
    const weights = Float32Array.from(
      { length: size },
      (_, v) => v % 5 === 3 ? 0 : source.uniform(Purpose.draft, i, v) ** 3,
    );
    const key = { seed: (7n << 40n) + BigInt(i), purpose: i % 5, position: 3 * i };
    const times = Array.from(weights, (weight, v) => {
      philox(block, v >>> 2, key.position, key.purpose, 0, i, 7 << 8);
      return toExponential(toUniform(block[v % 4])) / weight;
    });
    assert.equal(race(weights, key), times.indexOf(Math.min(...times)));
  }
});

Deno.test("race draws in proportion to the weights", () => {
  const weights = Float32Array.of(0.5, 0, 1.5, 0.2, 0.8, 3);
  const counts = new Array<number>(6).fill(0);
  const n = 30_000;
  const laws = new HostDistributions([weights]);
  const source = new PhiloxSource(3);
  for (let position = 0; position < n; position++) counts[source.race(laws, 0, position)]++;
  assert.equal(counts[1], 0);
  const drawn = counts.filter((_, v) => v !== 1);
  const expected = Array.from(weights).filter((w) => w > 0).map((w) => w / 6 * n);
  assert.ok(chiSquare(drawn, expected) < 18.5, `${counts}`); // 4 degrees of freedom, 0.1 %
});

Deno.test("race breaks a tie by the lower token, and refuses a law without weight", () => {
  const key = { seed: 1n, purpose: Purpose.token, position: 0 };
  assert.equal(race(Float32Array.of(0, Infinity, Infinity), key), 1); // both finish at time 0
  const block = new Uint32Array(4);
  philox(block, 0, key.position, key.purpose, 0, 1, 0);
  assert.equal(race(Float64Array.from(block, (k) => toExponential(toUniform(k))), key), 0); // all at time 1
  assert.throws(() => race(new Float32Array(3), key), RangeError);
  assert.throws(() => race(new Float32Array(3).fill(NaN), key), RangeError);
});
