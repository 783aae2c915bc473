/**
 * A little of what `deno task fuzz`, `soak` and `cycles` do for long.
 *
 * @module
 */

import assert from "node:assert/strict";
import { cycles } from "./stress/cycles.ts";
import { type Format, formats } from "./stress/formats.ts";
import { fuzz } from "./stress/fuzz.ts";
import { soak } from "./stress/soak.ts";
import { parseStrictly } from "./stress/strict_json.ts";

Deno.test("spoiled files are refused in a word, or are what a strict reading says they are", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const format of await formats(folder)) {
      const { outcomes } = await fuzz(format, 120, 1);
      assert.ok(outcomes.size >= 6, `${format.name}: only ${[...outcomes.keys()]}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the fuzzer finds what is wrong, tells the input, and repeats itself", async () => {
  const met: string[] = [];
  const broken: Format = {
    name: "toy",
    seeds: [new Uint8Array([1, 2, 3])],
    mutate: (input, choices) => Uint8Array.of(...input, choices.below(4)),
    attempt(input) {
      met.push(String(input));
      if (input.length > 5) throw new Error("too long");
      return Promise.resolve(String(input.length));
    },
  };
  await assert.rejects(
    fuzz(broken, 100, 7),
    /^Error: toy, seed 7, input \d+: Error: too long; in base64: AQID/,
  );
  const before = met.splice(0);
  await assert.rejects(fuzz(broken, 100, 7));
  assert.deepEqual(met, before);
  const taken: Uint8Array[] = [];
  const greedy: Format = {
    ...broken,
    attempt: () => Promise.resolve(String(taken.push(new Uint8Array(100 << 20).fill(1)))),
  };
  await assert.rejects(fuzz(greedy, 1, 7), /^Error: toy, seed 7, input 0 took \d+ bytes of memory$/);
});

Deno.test("the strict reading takes JSON and nothing else", () => {
  const text = ' {"a": [1, -2.5e3, "\\u0041\\n", true, null, {}, []], "": {"__proto__": 0}} ';
  assert.deepEqual(
    parseStrictly(text),
    new Map<string, unknown>([["a", [1, -2500, "A\n", true, null, new Map(), []]], [
      "",
      new Map([["__proto__", 0]]),
    ]]),
  );
  for (const wrong of ["", "{", "[1,]", "{a: 1}", "01", '"\n"', "1 2", '{"a": 1, "a": 1}', "[".repeat(600)]) {
    assert.throws(() => parseStrictly(wrong), SyntaxError, wrong.slice(0, 9));
  }
});

Deno.test("engines that come and go leave no worker behind", async () => {
  for (const { workers } of await cycles(8)) assert.equal(workers, 0);
});

Deno.test("random options neither fail nor bend the law of the text", async () => {
  const { rounds, refused, tokens, biased } = await soak(1, (rounds) => rounds === 24);
  assert.equal(rounds, 24);
  assert.ok(refused > 0 && refused < 12 && tokens > 50, `${refused} refused, ${tokens} tokens`);
  assert.deepEqual(biased, []);
});
