/**
 * The models against the outputs of their original implementations, on every backend: every checkpoint in
 * `fixtures/parity` and the embedded pair.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Backend, Dtype } from "../src/backend/backend.ts";
import { createCudaBackend } from "../src/backend/cuda/backend.ts";
import { standIn, whyNoStandIn } from "./cuda/standin.ts";
import { presentBackends } from "./helpers.ts";
import { folders, HALF_TOLERANCE, pairChecks, testParity, TOLERANCE } from "./parity.ts";

Deno.test("the parity fixtures hold all architectures", () => {
  for (const name of ["gpt2-tiny", "gpt-neo-tiny", "sedd-tiny", "sedd-target-tiny"]) {
    assert(folders.includes(name), name);
  }
});

/** A backend, and the tiny models that are tested on it. */
interface TinyCase {
  readonly backendName: string;
  readonly open: () => Promise<Backend>;
  readonly dtype: Dtype;
  readonly tolerance: number;
  readonly names: readonly string[];
  readonly ignore: boolean;
}

const tinyCases: TinyCase[] = presentBackends().map(([backendName, open]) => {
  return { backendName, open, dtype: "f32", tolerance: TOLERANCE, names: folders, ignore: false };
});
// it computes thread by thread, and is asked for a few of the tiny models only
const onStandIn = {
  "gpt2-bare": "f32",
  "sedd-f16": "f32",
  "gpt-neo-f16": "f16",
  "gpt2-bf16": "bf16",
} as const;
for (const [only, dtype] of Object.entries(onStandIn)) {
  tinyCases.push({
    backendName: `cuda in ${dtype}, stand-in${whyNoStandIn}`,
    open: () => Promise.resolve(createCudaBackend()),
    dtype,
    tolerance: dtype === "f32" ? TOLERANCE : HALF_TOLERANCE,
    names: [only],
    ignore: standIn === undefined,
  });
}

for (const { backendName, open, dtype, tolerance, names, ignore } of tinyCases) {
  for (const name of names) {
    const fn = async () => {
      using backend = await open();
      await testParity(backend, name, { dtype, tolerance });
    };
    Deno.test({ name: `parity on ${backendName}: ${name}`, ignore, fn });
  }
}

for (const [backendName, open] of presentBackends()) {
  for (const [name, check] of pairChecks) {
    Deno.test(`parity on ${backendName}: ${name}`, async () => {
      using backend = await open();
      await check(backend);
    });
  }
}
