/**
 * What the test of a draft of 8 tokens costs under each rule, for `deno bench`, on laws that the host holds. The
 * drafter's laws are near the target's, so that some of the tokens pass.
 *
 * @module
 */

import { DEFAULT_RULE, rules, verify } from "../src/decode/acceptance.ts";
import { HostDistributions } from "../src/decode/distributions.ts";
import { invert, PhiloxSource, Purpose } from "../src/decode/random.ts";

const gamma = 8;

/** A law that falls off as those of texts do, ranks shifted and every weight off by up to `spread`. */
function law(vocabSize: number, shift: number, spread: number, random: PhiloxSource): Float32Array {
  const weights = Float32Array.from({ length: vocabSize }, (_, v) => {
    const rank = (v + shift) % vocabSize;
    return (1 + spread * random.uniform(Purpose.reveal, v, shift)) / (rank + 2.7) ** 1.1;
  });
  const mass = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / mass);
}

for (const vocabSize of [2048, 50257]) {
  const random = new PhiloxSource(1);
  const p = Array.from({ length: gamma + 1 }, (_, j) => law(vocabSize, 31 * j, 0, random));
  const q = Array.from({ length: gamma }, (_, j) => law(vocabSize, 31 * j, 1, random));
  const draft = {
    tokens: Int32Array.from(q, (law, j) => invert(law, random.uniform(Purpose.draft, j))),
    q: new HostDistributions(q),
    steps: new Int32Array(gamma),
    passes: 1,
  };
  const laws = new HostDistributions(p);
  for (const rule of rules) {
    let position = 0; // of another round each time, so that other tokens are accepted
    Deno.bench(
      `${rule}, ${vocabSize} tokens`,
      { group: `test of ${gamma} tokens of ${vocabSize}`, baseline: rule === DEFAULT_RULE },
      () => {
        verify(rule, draft, laws, random, position++);
      },
    );
  }
}
