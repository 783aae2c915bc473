/** What the report makes of the output of `deno bench --json`. What its figures are worth is not the tests' matter. */

import assert from "node:assert/strict";
import { markdown } from "../bench/groups.ts";

Deno.test("each benchmark stands in its group relative to its baseline, and one that failed says so", () => {
  const bench = (group: string | null, name: string, avg: number, baseline = false) => ({
    ...{ group, name, baseline },
    results: [{ ok: { n: 9, min: avg / 2, avg, p75: 2 * avg } }],
  });
  const text = markdown({
    date: "2026-01-02",
    machine: { cpu: "a processor", cores: 3, os: "linux", arch: "x", deno: "0.0.0", device: "", v8Flags: "" },
    benches: [
      bench("rows", "four", 3e6),
      bench("law", "alone", 500),
      bench("rows", "one", 2e6, true),
      { group: "rows", name: "broken", baseline: false, results: [{ failed: {} }] },
      bench(null, "stray", 4e3),
      { group: "gone", name: "broken too", baseline: true, results: [{ failed: {} }] },
      bench("gone", "left", 4e3),
    ],
  });
  assert.match(
    text,
    /^2026-01-02, a processor, 3 cores, linux x, Deno 0\.0\.0, no flags of V8, so Wasm bounds checks are on\./m,
  );
  assert.deepEqual([...text.matchAll(/^## (.*)$/gm)].map(([, group]) => group), [
    "rows",
    "law",
    "other",
    "gone",
  ]);
  for (
    const row of [
      "| **one** | 1.00 × | 0.500 × – 2.00 × |",
      "| four | 1.50 × | 0.750 × – 3.00 × |",
      "| broken | failed |  |",
      "| alone | 1.00 × | 0.500 × – 2.00 × |",
      "| stray | 1.00 × | 0.500 × – 2.00 × |",
      "| **broken too** | failed |  |",
      "| left | no baseline | no baseline – no baseline |",
    ]
  ) assert.ok(text.includes(`\n${row}\n`), row);
});
