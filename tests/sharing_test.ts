/** When threads share work and when one does it alone, on a simulated machine. */

import assert from "node:assert/strict";
import { Sharing } from "../src/backend/wasm/sharing.ts";

/** A machine where a job takes so long alone, so long shared, and is late when shared in that share of all cases. */
interface Machine {
  readonly alone: number;
  readonly shared: number;
  readonly late: number;
}

const QUIET: Machine = { alone: 1, shared: 0.55, late: 0.01 };
const BUSY: Machine = { alone: 1, shared: 2, late: 0.2 };

/** Runs jobs and returns the share of them that were shared. */
function simulate() {
  let time = 0;
  const sharing = new Sharing(() => time);
  return (machine: Machine, jobs: number): number => {
    let count = 0, lateness = 0;
    for (let job = 0; job < jobs; job++) {
      const shared = sharing.begin();
      time += shared ? machine.shared : machine.alone;
      if (shared) lateness += machine.late;
      const late = shared && lateness >= 1;
      if (late) lateness--;
      sharing.end(7, late);
      time += 100; // what the program does between jobs is no matter
      count += Number(shared);
    }
    return count / jobs;
  };
}

Deno.test("on a quiet machine every job is shared", () => {
  assert.equal(simulate()(QUIET, 100_000), 1);
});

Deno.test("on a busy machine most jobs are done alone, and shared again when it is quiet", () => {
  const run = simulate();
  run(BUSY, 5000);
  assert.ok(run(BUSY, 100_000) < 0.05);
  run(QUIET, 20_000);
  assert.ok(run(QUIET, 100_000) > 0.99);
  run(BUSY, 5000);
  assert.ok(run(BUSY, 100_000) < 0.05);
});

Deno.test("where sharing pays in spite of delays, it goes on but for trials", () => {
  assert.ok(simulate()({ alone: 1, shared: 0.8, late: 0.2 }, 100_000) > 0.98);
});
