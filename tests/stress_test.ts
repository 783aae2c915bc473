/**
 * A little of what `deno task fuzz`, `soak` and `cycles` do for long.
 *
 * @module
 */

import assert from "node:assert/strict";
import { countBytes } from "./stress/allocations.ts";
import { cycles } from "./stress/cycles.ts";
import { type Format, formats } from "./stress/formats.ts";
import { fuzz } from "./stress/fuzz.ts";
import { soak } from "./stress/soak.ts";
import { parseStrictly } from "./stress/strict_json.ts";
import { watch, watchFuzz } from "./stress/watch.ts";

Deno.test("spoiled files are refused in a word, or are what a strict reading says they are", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const { name } of await formats(folder)) {
      const { outcomes } = await watchFuzz({ format: name, count: 120, seed: 1 });
      assert.ok(outcomes.size >= 6, `${name}: only ${[...outcomes.keys()]}`);
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
  for (const asks of [() => new Float32Array(2 << 20), () => Array.from({ length: 1 << 20 }, () => 0)]) {
    const greedy: Format = { ...broken, attempt: () => Promise.resolve(String(asks().length)) };
    await assert.rejects(
      fuzz(greedy, 1, 7),
      { message: "toy, seed 7, input 0 asked for 8388608 bytes of memory" },
    );
  }
});

Deno.test("an input that hangs is told from one that takes its time", async () => {
  const at = (code: string) => `data:application/javascript,${encodeURIComponent(code)}`;
  const hangs = at("onmessage = () => { postMessage(3); for (;;); }");
  await assert.rejects(watch(hangs, {}, 500), { message: "hangs at 3" });
  const works = at(
    "onmessage = ({ data }) => { postMessage(1); postMessage(2); postMessage(`${data} done`); }",
  );
  assert.equal(await watch(works, "all"), "all done");
  await assert.rejects(
    watchFuzz({ format: "none such", count: 1, seed: 3 }),
    /^Error: none such, seed 3: there is no format "none such"$/,
  );
});

Deno.test("what is asked for is counted once, and as it is", async () => {
  const before = Float32Array;
  const kept = new Uint8Array(64);
  const bytes = await countBytes(() => {
    const buffer = new ArrayBuffer(100);
    assert.ok(new Uint8Array(buffer) instanceof Uint8Array && kept instanceof Uint8Array);
    assert.equal(Float64Array.of(1, 2).length + kept.subarray(4).length + new Array(3).length, 65);
    return Promise.resolve();
  });
  assert.equal(bytes, 100 + 16 + 24);
  assert.equal(Float32Array, before);
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
  const { rounds, refused, tokens, biased } = await soak(2, (rounds) => rounds === 24);
  assert.equal(rounds, 24);
  assert.ok(refused > 0 && refused < 12 && tokens > 50, `${refused} refused, ${tokens} tokens`);
  assert.deepEqual(biased, []);
});
