/** What the report makes of the output of `deno bench --json`. What its figures are worth is not the tests' matter. */

import assert from "node:assert/strict";
import { markdown } from "../bench/groups.ts";

Deno.test("each benchmark stands in its group with its times, and one that failed says so", () => {
  const bench = (group: string | null, name: string, avg: number) => ({
    ...{ group, name },
    results: [{ ok: { n: 9, min: avg / 2, avg, p75: 2 * avg } }],
  });
  const text = markdown({
    runtime: "Deno/0.0.0 x",
    cpu: "a processor",
    benches: [
      bench("rows", "one", 2e6),
      bench("law", "alone", 500),
      bench("rows", "four", 3e6),
      { group: "rows", name: "broken", results: [{ failed: {} }] },
      bench(null, "stray", 4e3),
    ],
  }, "2026-01-02");
  assert.match(text, /^2026-01-02, a processor, Deno\/0\.0\.0 x\./m);
  assert.deepEqual([...text.matchAll(/^## (.*)$/gm)].map(([, group]) => group), ["rows", "law", "other"]);
  for (
    const row of [
      "| one | 2.00 ms | 1.00 ms – 4.00 ms |",
      "| four | 3.00 ms | 1.50 ms – 6.00 ms |",
      "| broken | failed |  |",
      "| alone | 500 ns | 250 ns – 1.00 µs |",
      "| stray | 4.00 µs | 2.00 µs – 8.00 µs |",
    ]
  ) assert.ok(text.includes(`\n${row}\n`), row);
});
