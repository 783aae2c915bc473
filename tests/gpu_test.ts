/**
 * What `test:gpu` and `bench:gpu` are made of, as far as it needs no GPU: that they say so, that synthetic acceptance
 * is what it claims to be, and that a report tells measured from predicted. The rest runs on the stand-in with
 * `--smoke`.
 *
 * @module
 */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { emptyReport, markdown, merge, summary } from "../bench/gpu/report.ts";
import { standIn, whyNoStandIn } from "./cuda/standin.ts";
import { ownProcess, told } from "../tools/own_process.ts";
import { noiseWeights, published } from "../tools/shapes.ts";
import {
  acceptanceFor,
  type DeviceTarget,
  SyntheticAcceptance,
  SyntheticVerdicts,
} from "../bench/synthetic.ts";
import type { DeviceRound } from "../src/backend/backend.ts";
import type { Distributions } from "../src/decode/distributions.ts";
import type { Drafter, Target } from "../src/decode/drafter.ts";
import type { Round } from "../src/decode/loop.ts";
import { speculate } from "../src/decode/speculative.ts";

for (
  const [script, words] of [["tests/gpu/main.ts", /^Skipped: /], [
    "bench/gpu/main.ts",
    /^Not measured: /,
  ]] as const
) {
  Deno.test(`${script} without a GPU says why, and succeeds unless there has to be one`, async () => {
    for (const [expected, ...options] of [[0], [1, "--require-gpu"]] as const) {
      const path = new URL(`../${script}`, import.meta.url).pathname;
      const deno = new Deno.Command(Deno.execPath(), {
        args: ["run", "--allow-read", "--allow-env", "--allow-ffi", path, ...options],
        env: { SPECDIFF_LIBCUDA: "/there/is/none", NO_COLOR: "1" },
      });
      const { code, stdout, stderr } = await deno.output();
      assert.equal(code, expected, new TextDecoder().decode(stderr));
      const said = new TextDecoder().decode(stdout);
      assert.match(said, words);
      assert.match(said, /Cannot load libcuda: \/there\/is\/none/);
    }
  });
}

Deno.test(`test:gpu: compute-sanitizer passes only if it tells how many rounds were made${whyNoStandIn}`, {
  ignore: standIn === undefined,
}, async () => {
  const folder = await Deno.makeTempDir();
  using _ = { [Symbol.dispose]: () => Deno.removeSync(folder, { recursive: true }) };
  for (
    const [script, code, row] of [
      ["echo 321", 0, /^ok +compute-sanitizer finds no race .* 321 of 100 rounds$/m],
      [
        "echo all is well",
        1,
        /^FAILED +compute-sanitizer finds no race .* it told no number of rounds: all is well$/m,
      ],
      ["echo 321; exit 9", 1, /^FAILED +compute-sanitizer finds no race .* ended with 9, expected 0: 321$/m],
    ] as const
  ) {
    await Deno.writeTextFile(`${folder}/compute-sanitizer`, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const { code: found, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", new URL("gpu/main.ts", import.meta.url).pathname, "--only", "no race"],
      env: { SPECDIFF_LIBCUDA: standIn!.path, PATH: `${folder}:${Deno.env.get("PATH")}`, NO_COLOR: "1" },
    }).output();
    assert.equal(found, code, new TextDecoder().decode(stderr));
    assert.match(new TextDecoder().decode(stdout), row);
  }
});

Deno.test("what a process of its own says is heard, however it ends", async () => {
  const run = async (script: string, seconds = 60) => {
    const lines: string[] = [];
    const why = await ownProcess("sh", ["-c", script], seconds, (line) => lines.push(line));
    return [why, ...lines];
  };
  assert.deepEqual(await run("echo a; echo b"), [undefined, "a", "b"]);
  assert.deepEqual(await run("echo a; exit 3"), ["it ended with 3", "a"]);
  assert.deepEqual(await run("echo a; kill -ABRT $$"), ["it ended with SIGABRT", "a"]);
  // as one that waits for a kernel that never ends
  const deaf = "trap '' TERM INT; echo a; exec 1>&2; while :; do sleep 1; done";
  assert.deepEqual(await run(deaf, 0.5), ["it was not done after 0.5 s", "a"]);
  await assert.rejects(ownProcess("/there/is/none", [], 60, () => {}), Deno.errors.NotFound);
  // nor does it outlive who cannot hear it any more
  const began = performance.now();
  const failing = ownProcess("sh", ["-c", deaf], 60, () => {
    throw new Error("a failure");
  });
  await assert.rejects(failing, /a failure/);
  assert.ok(performance.now() - began < 30e3);
  // what a library prints between is not taken for it
  const words = ["{}", "a warning", "{a warning}", '{"a": 1}'];
  assert.deepEqual(words.map((line) => told(line)), [{}, undefined, undefined, { a: 1 }]);
});

Deno.test("reports of several processes make one, which has what each found", () => {
  const one = emptyReport(), two = emptyReport();
  one.figures.verify.value = 1.5;
  one.figures.plain.value = 0.5;
  two.figures.plain.value = 0.6;
  one.environment.cuBLAS = "13";
  one.failures.push("first");
  two.gpu = "X";
  two.plainSpeed = 7;
  two.tables.push({ title: "t", columns: [], rows: [] });
  two.failures.push("second");
  const { figures, gpu, plainSpeed, environment, tables, failures } = merge([one, two]);
  assert.deepEqual([figures.verify, figures.draft, figures.plain].map(({ value }) => value), [
    1.5,
    null,
    0.6,
  ]);
  assert.deepEqual([gpu, plainSpeed, environment, tables.length], ["X", 7, { cuBLAS: "13" }, 1]);
  assert.deepEqual(failures, ["first", "second"]);
});

const repository = new URL("../", import.meta.url);

Deno.test({
  name: "what is taken to a bare machine holds every module that a GPU's tests and benchmark load",
  ignore: !existsSync(new URL(".git", repository)),
  async fn() {
    const output = async (program: string, ...args: string[]) => {
      const { success, stdout, stderr } = await new Deno.Command(program, { args, cwd: repository }).output();
      assert.ok(success, new TextDecoder().decode(stderr));
      return new TextDecoder().decode(stdout);
    };
    const packed = new Set((await output("bash", "ffi/bare.sh", "files")).trim().split("\n"));
    for (const script of ["tests/gpu/main.ts", "tests/gpu/sanitized.ts", "bench/gpu/main.ts", "cli.ts"]) {
      const { modules } = JSON.parse(await output(Deno.execPath(), "info", "--json", script));
      for (const { specifier } of modules as { specifier: string }[]) {
        if (!specifier.startsWith("file:")) continue;
        assert.ok(packed.has(specifier.slice(repository.href.length)), specifier);
      }
    }
    for (const file of ["deno.json", "deno.lock", "bench/gpu/hugging_face.py"]) assert.ok(packed.has(file));
  },
});

Deno.test("a figure that no run measured is not given as measured, whatever was predicted", () => {
  const report = emptyReport();
  report.figures.verify.value = 1.234;
  const measured = summary(report).slice(1).map(([, cell]) => cell);
  assert.deepEqual(
    measured,
    Object.keys(report.figures).map((name) => name === "verify" ? "1.23 ×" : "not measured"),
  );
  assert.match(markdown(report), /\| not measured \| ≥ 60 % \|/);
});

/** Uniform laws over four tokens. */
const uniform: Distributions = {
  row: () => new Float64Array(4).fill(0.25),
  race: (row) => row % 4,
};

/** Drafts nothing but threes. */
const threes: Drafter = {
  name: "threes",
  vocabSize: 4,
  leftToRight: true,
  draft: ({ gamma }) => ({
    tokens: new Int32Array(gamma).fill(3),
    q: uniform,
    steps: new Int32Array(gamma),
    passes: 1,
  }),
  reset() {},
  [Symbol.dispose]() {},
};

/** Whether rounds yield τ tokens on average; of some 5,000 the mean is within 0.06 of what is to be expected. */
async function yields(tau: number, rounds: AsyncIterable<Round>): Promise<void> {
  let tokens = 0, count = 0;
  for await (const round of rounds) {
    tokens += round.tokens.length;
    count++;
  }
  assert.ok(Math.abs(tokens / count - tau) < 0.25, `τ is ${tokens / count}`);
}

for (const rule of ["ordered", "coupled"] as const) {
  Deno.test(`synthetic acceptance under ${rule} yields the τ asked for, whatever the models say`, async () => {
    const gamma = 15, tau = 6, alpha = acceptanceFor(tau, gamma);
    const target: Target = { vocabSize: 4, contextLength: 30_000, score: () => uniform, truncate() {} };
    using synthetic = new SyntheticAcceptance(threes, alpha, 1);
    await yields(tau, speculate(target, synthetic, [0], { gamma, rule, random: synthetic }));

    const deciding: DeviceTarget = {
      ...target,
      beginOnDevice: () => ({} as DeviceRound),
      verifyOnDevice: (_, { tokens }) => {
        assert(tokens instanceof Int32Array);
        return Promise.resolve({ accepted: 0, token: 1, bonus: false, draft: tokens, draftMs: 0 });
      },
    };
    const points: Drafter = {
      ...threes,
      draft: async (request) => ({ ...await threes.draft(request), q: undefined }),
    };
    await yields(
      tau,
      speculate(new SyntheticVerdicts(deciding, alpha, 1), points, [0], { gamma, rule, seed: 1 }),
    );
  });
}

Deno.test("a checkpoint of noise is the same each time, finite, and differs from matrix to matrix", async () => {
  const read = async () => {
    const weights = noiseWeights(published.sedd), pieces: Float32Array[] = [];
    for (const name of ["a.weight", "b.weight"]) {
      const rows: number[] = [];
      for await (const piece of weights.rows(name, [3000, 768])) rows.push(...piece.subarray(0, 768));
      pieces.push(Float32Array.from(rows));
    }
    return pieces;
  };
  const [[a, b], [c, d]] = [await read(), await read()];
  assert.deepEqual([a, b], [c, d]);
  assert.notDeepEqual(a, b);
  assert.ok(a.every((x) => Math.abs(x) <= 0.035) && new Set(a).size > 700, "small, and hardly two are equal");
  assert.deepEqual(await noiseWeights({}).read("blocks.0.norm1.weight", [2]), Float32Array.of(1, 1));
});
