/**
 * What only a GPU can show: that the kernels as they were compiled for it compute what they should, and give the same
 * bits whatever the number of rows. `deno task test:gpu`; without a GPU it says so, and succeeds unless there has to be
 * one (`--require-gpu`). Each check has a process of its own: one that loses the device, or waits for ever, fails alone,
 * and says what it was at; what has steps goes on with the next one in another process. The first checks that fail are
 * made once more with plain launches, which tells whether the fault is in dependent ones.
 *
 * `--only` and `--skip` choose checks by a part of their names; with `--plain-launches` no kernel begins before the one
 * ahead of it has ended, as where `SPECDIFF_PLAIN_LAUNCHES` is set. `--smoke` does a little of it on the stand-in for
 * the driver (`tests/cuda`), to see that it runs.
 *
 * @module
 */

import assert from "node:assert/strict";
import { CudaDriver } from "../../ffi/driver.ts";
import { describeFirstGpu } from "../../src/backend/cuda/describe.ts";
import { loadEngine } from "../../mod.ts";
import { readOptions, refuse } from "../../tools/arguments.ts";
import { ownDeno, told } from "../../tools/own_process.ts";
import { gpt2, madeUpText, noiseWeights, published, tiny } from "../../tools/shapes.ts";
import type { Dtype } from "../../src/backend/backend.ts";
import { createCudaBackend, type CudaBackend, PLAIN_LAUNCHES } from "../../src/backend/cuda/backend.ts";
import { casesOf, checkOperation, isRight } from "../../src/cli/self_test.ts";
import { table } from "../../src/cli/terminal.ts";
import { isExact, rules } from "../../src/decode/acceptance.ts";
import { loadModel } from "../../src/model/load.ts";
import type { CausalModel } from "../../src/model/model.ts";
import { embeddedDrafters } from "../../src/pair.ts";
import { assertClose, assertSame } from "../helpers.ts";
import { folders, HALF_TOLERANCE, loadGpt, pairChecks, testParity, TOLERANCE } from "../parity.ts";
import { Choices } from "../stress/choices.ts";
import { soak } from "../stress/soak.ts";
import { compareVerdicts } from "../verdicts.ts";
import { makeRounds, MOST_ROUNDS, SMALL_PAIR } from "./sanitized.ts";

/** PyTorch in bf16 is 0.0136 off here, of which its rounded weights alone make 0.0087; 0.0101 is seen on the stand-in. */
const COARSE = { name: "gpt-neo-tiny", dtype: "bf16", tolerance: 1.5e-2 };

/** Why something was left out. */
class Skipped extends Error {}

const options = readOptions({
  smoke: { type: "boolean" },
  "require-gpu": { type: "boolean" },
  only: { type: "string" },
  skip: { type: "string" },
  "plain-launches": { type: "boolean" },
  check: { type: "string" }, // by its number, in this process: what the others start
  from: { type: "string" }, // its step to begin with
});
const { smoke = false } = options;
if (options["plain-launches"]) Deno.env.set(PLAIN_LAUNCHES, "1"); // which those that are started are told
const halves: readonly Dtype[] = smoke ? ["f16"] : ["f16", "bf16"];

/** Seconds that a process of a check may take, unless the check says otherwise. */
const LIMIT = 45;

/** Seconds after which what is done over and over stops: engines that come and go, and rounds. */
const CYCLES_LIMIT = 30, ROUNDS_LIMIT = 45;

/** Seconds from which on a check with steps is not gone on with in another process. */
const ENOUGH = 60;

/** As many of the checks that failed are made once more with plain launches; `ffi/bare.sh` looks for what came of it. */
const TRIED_PLAINLY = 2;

/** What the names of checks begin with that take long, and are not concerned with when kernels begin. */
const SANITIZER = "compute-sanitizer";

/** What is checked: what it is called, and how, from a step on if it has steps; it tells what it saw. */
type Check = readonly [name: string, run: (from: number) => Promise<string>, limit?: number];

/** The checks, the most telling first. */
const checks: readonly Check[] = [
  ["every operation is that of the oracle", async (from) => {
    using backend = createCudaBackend();
    const operations = casesOf(backend);
    for (const [step, one] of operations.entries()) {
      if (step < from) continue;
      tell({ doing: one[0], step });
      const check = await checkOperation(backend, one), { operation, error, allowed, problem } = check;
      if (problem !== undefined) throw new Error(problem); // goes on in another process, as the device may be lost
      if (!isRight(check)) tell({ wrong: `${operation} is off by ${error}, allowed ${allowed}` });
    }
    return `${operations.length} operations`;
  }, 25],
  ...(smoke ? [] : ["f32", ...halves] as const).map((dtype): Check => [
    `the pair's target: the same bits whatever is appended and taken back, in ${dtype}`,
    async () => {
      using backend = createCudaBackend();
      using model = await loadGpt(backend, "pair/target", { dtype });
      return `${sameRows(model, [100], 48)}; ${walk(model, 200)}`;
    },
  ]),
  ...(["f32", ...halves] as const).map((dtype): Check => [
    `greedy and coupled texts are those of plain decoding in ${dtype}`,
    () => identity(dtype),
  ]),
  ["verdicts of drafts in any order are those of the host, for every rule", () => {
    using backend = createCudaBackend();
    return Promise.resolve(
      smoke ? compareVerdicts(backend, 1000) : compareVerdicts(backend, 3000, { every: 600, columns: 50257 }),
    );
  }],
  ...halves.map((dtype): Check => [
    `cuBLAS gives what our own kernels give, as graphs too, in ${dtype}`,
    async (from) => {
      using backend = createCudaBackend({ cublasRows: 1 });
      const { cublas } = backend;
      if ("problem" in cublas) throw new Skipped(cublas.problem);
      const shapes = smoke
        ? [[20, 40, 75]]
        : [[1, 768, 768], [300, 1000, 23], [1064, 3072, 768], [300, 50258, 128]];
      for (const [step, [rows, outputs, inputs]] of shapes.entries()) {
        if (step < from) continue;
        tell({ doing: `${rows} rows, [${outputs}, ${inputs}]`, step });
        await compareCublas(backend, dtype, rows, outputs, inputs);
      }
      return `${shapes.length} shapes, cuBLAS ${cublas.version}`;
    },
  ]),
  ...(["f32", ...halves] as const).map((dtype): Check => [
    `parity with the originals in ${dtype}, in passes of all sizes, after rollbacks`,
    async (from) => {
      const names = smoke ? ["gpt2-bare", "sedd-f16"] : folders;
      for (const [step, name] of names.entries()) {
        if (step < from) continue;
        tell({ doing: name, step });
        using backend = createCudaBackend();
        const usual = dtype === "f32" ? TOLERANCE : HALF_TOLERANCE;
        const coarse = name === COARSE.name && dtype === COARSE.dtype;
        await testParity(backend, name, { dtype, tolerance: coarse ? COARSE.tolerance : usual });
      }
      return `${names.length} checkpoints`;
    },
  ]),
  ...(smoke ? [] : pairChecks).map(([name, check]): Check => [`parity: ${name}`, async () => {
    using backend = createCudaBackend();
    await check(backend);
    return "f32";
  }]),
  ...halves.map((dtype): Check => [
    `rows of GPT-2 XL's shape have the same bits in passes of 1 … 64 rows and of hundreds in ${dtype}`,
    async () => {
      using backend = createCudaBackend();
      const size = smoke ? tiny.xl : { ...published.xl, layers: 3 };
      const loaded = await loadModel(noiseWeights(gpt2(size)), backend, { dtype, chunkRows: 1024 });
      assert(loaded.kind === "causal");
      using model = loaded.model;
      const few = sameRows(model, smoke ? [40] : [1, 200, 960], smoke ? 8 : 64);
      return `${few}; ${sameInPieces(model, smoke ? [20] : [64, 65, 100, 129, 300, 552, 1024])}`;
    },
    60,
  ]),
  ["texts of every rule have the target's law", async () => {
    if (smoke) throw new Skipped("the stand-in is too slow");
    const { rounds, tokens, chi, biased } = await soak(1, (rounds) => rounds >= 200, "cuda");
    assert.deepEqual(biased, [], `χ²: ${JSON.stringify([...chi])}`);
    return `${tokens} tokens of ${rounds} texts, χ² of 9 degrees ${
      (chi.get("all that is exact") ?? NaN).toFixed(1)
    }`;
  }, 60],
  ["loading, generating and disposing leaks nothing", async () => {
    const [most, first] = smoke ? [2, 1] : [1000, 30], end = performance.now() + 1e3 * CYCLES_LIMIT;
    using device = new CudaDriver().device(0);
    let settled = 0, cycles = 0; // free memory after the first cycles, which fill lists and tables
    while (cycles < 2 * first || cycles < most && performance.now() < end) {
      using engine = await loadEngine({ ...SMALL_PAIR, device: "cuda", dtype: "f32" });
      await engine.generate([3, 1, 4], { maxTokens: 4, seed: 1 });
      engine[Symbol.dispose]();
      if (++cycles === first) settled = device.memory().free;
    }
    const lost = settled - device.memory().free;
    assert.ok(lost <= 4 << 20, `${lost} bytes of the device's memory were lost in ${cycles} cycles`);
    return `${cycles} of ${most} cycles`;
  }, CYCLES_LIMIT + 15],
  [`${MOST_ROUNDS} rounds without ${SANITIZER}`, async () => {
    if (smoke) throw new Skipped("the stand-in is too slow");
    const made = await makeRounds(MOST_ROUNDS, performance.now() + 1e3 * ROUNDS_LIMIT);
    return `${made} of ${MOST_ROUNDS} rounds`;
  }, ROUNDS_LIMIT + 15],
  sanitizing(`${SANITIZER} finds no bad access`, "memcheck", MOST_ROUNDS, 40),
  sanitizing(`${SANITIZER} finds no race in shared memory`, "racecheck", 100, 25),
  sanitizing(`${SANITIZER} finds no bad barrier`, "synccheck", 200, 15),
];

/** Products that add in any order beside those that do not: with all that may follow one, thrice as one pass. */
async function compareCublas(
  backend: CudaBackend,
  dtype: Dtype,
  rows: number,
  outputs: number,
  inputs: number,
): Promise<void> {
  using x = backend.activation(rows, inputs), base = backend.activation(rows, outputs);
  x.write(numbers(rows * inputs));
  base.write(numbers(rows * outputs));
  using y = backend.activation(rows, outputs), sum = backend.activation(rows, outputs);
  using gain = backend.vector(numbers(inputs)), bias = backend.vector(numbers(outputs));
  const norm = { gain, shift: gain, epsilon: 1e-5 };
  const results: Float32Array[][] = [];
  for (const anyOrder of [false, true]) {
    using matrix = await backend.matrix({ outputs, inputs, dtype, anyOrder }, [numbers(outputs * inputs)]);
    using cache = backend.cache({ layers: 1, width: 16, capacity: rows });
    const pass = () => {
      backend.repeat({ cache, rows, key: "all" }, () => {
        backend.copy(sum, base);
        backend.project(y, x, { norm, matrix, bias, activation: "gelu" });
        backend.projectResidual(sum, x, { matrix, bias, gate: bias });
        backend.projectResidual(sum, x, { matrix });
      });
      return [y.read().slice(), sum.read().slice()];
    };
    const first = pass();
    for (let again = 0; again < 2; again++) {
      pass().forEach((values, i) => assertSame(values, first[i], "the same pass, repeated"));
    }
    backend.project(y, x, { matrix });
    results.push([...first, y.read().slice()]);
  }
  results[1].forEach((values, i) => {
    assertClose(values, results[0][i], 1e-4, `${rows} rows, [${outputs}, ${inputs}], ${i}`);
  });
}

/** Numbers in (−1, 1), the same each time. */
function numbers(count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin((i + 1) * 0.37) * Math.cos(i * 0.71));
}

/** Rows of logits as they were read, all of them numbers: NaN would be the same as any other. */
function finite(logits: Float32Array): Float32Array {
  const at = logits.findIndex((x) => !Number.isFinite(x));
  assert.ok(at < 0, `entry ${at} is ${logits[at]}, expected a number`);
  return logits.slice();
}

/**
 * The last rows of passes of 1 … `most` rows, each after a position of `starts` and ending where the longest ends: each
 * as it is, as a graph that has just been recorded, and as one that is used again.
 */
function sameRows(model: CausalModel, starts: readonly number[], most: number): string {
  const { vocabSize } = model.shape;
  for (const start of starts) {
    const tokens = madeUpText(start + most, vocabSize);
    using cache = model.newCache();
    model.forward(tokens.slice(0, start), cache);
    const whole = finite(model.forward(tokens.slice(start), cache, { headRows: most }).read()); // [most, V]
    for (let rows = 1; rows <= most; rows++) {
      for (const time of ["first", "second", "third"]) {
        cache.truncate(start + most - rows);
        const some = model.forward(tokens.slice(-rows), cache, { headRows: rows }).read();
        const same = whole.subarray(whole.length - some.length);
        assertSame(some, same, `${rows} rows up to position ${start + most}, the ${time} time`);
      }
    }
  }
  return `${3 * starts.length * most} passes`;
}

/** Passes of many rows, and the same rows in pieces of 48. */
function sameInPieces(model: CausalModel, counts: readonly number[]): string {
  const { vocabSize } = model.shape;
  for (const count of counts) {
    const tokens = madeUpText(count, vocabSize);
    using cache = model.newCache();
    const whole = finite(model.forward(tokens, cache, { headRows: count }).read()); // [count, V]
    cache.truncate(0);
    for (let start = 0; start < count; start += 48) {
      const piece = tokens.slice(start, start + 48);
      const some = model.forward(piece, cache, { headRows: piece.length }).read();
      const same = whole.subarray(start * vocabSize, start * vocabSize + some.length);
      assertSame(some, same, `rows from ${start} of ${count}`);
    }
  }
  return `passes of ${counts.join(", ")} rows`;
}

/** Appends and takes back at random; what is computed is what one pass computes. */
function walk(model: CausalModel, steps: number): string {
  const choices = new Choices(1), { vocabSize, contextLength } = model.shape;
  const tokens = madeUpText(contextLength, vocabSize);
  using cache = model.newCache(), other = model.newCache();
  const whole = finite(model.forward(tokens, other, { headRows: contextLength }).read());
  for (let step = 0; step < steps; step++) {
    if (cache.length > 0 && choices.chance(0.4)) {
      cache.truncate(choices.below(cache.length + 1));
      // a draft that is taken back, over the same positions
      const wrong = Math.min(1 + choices.below(64), contextLength - cache.length), { length } = cache;
      if (wrong > 0) model.forward(new Int32Array(wrong).fill(7), cache);
      cache.truncate(length);
    }
    const rows = Math.min(1 + choices.below(64), contextLength - cache.length), from = cache.length;
    if (rows === 0) continue;
    const logits = model.forward(tokens.slice(from, from + rows), cache, { headRows: rows }).read();
    assertSame(logits, whole.subarray(from * vocabSize, (from + rows) * vocabSize), `step ${step}`);
  }
  return `${steps} steps at random`;
}

/** Greedy texts under every exact rule, and those of the rules that share noise at two temperatures. */
async function identity(dtype: Dtype): Promise<string> {
  const pair = smoke ? SMALL_PAIR : { drafter: [...embeddedDrafters, "ngram"] };
  using engine = await loadEngine({ ...pair, device: "cuda", dtype, draftDtype: dtype });
  const prompts = smoke ? [[3, 1, 4, 1, 5]] : [[5, 600, 31], [1, 2, 3, 4, 5, 6, 7, 8]];
  const exact = rules.filter((rule) => rule !== "paper" && isExact(rule, true));
  const runs = [
    ...exact.map((rule) => ({ rule, temperature: 0 })),
    ...(["match", "coupled"] as const).flatMap((rule) =>
      [0.8, 1].map((temperature) => ({ rule, temperature }))
    ),
  ];
  let compared = 0;
  for (const [seed, prompt] of prompts.entries()) {
    for (const temperature of [0, 0.8, 1]) {
      const options = { temperature, seed, maxTokens: smoke ? 4 : 220, stopTokens: [] };
      const plain = await engine.generate(prompt, { ...options, drafter: null });
      for (const { rule } of runs.filter((run) => run.temperature === temperature)) {
        for (const [i, drafter] of engine.drafters.entries()) {
          const gamma = [1, 3, 5, 15, 40][(i + seed) % 5];
          const doing = `${drafter}, ${rule}, temperature ${temperature}, γ ${gamma}`;
          tell({ doing });
          const { tokens } = await engine.generate(prompt, { ...options, drafter, rule, gamma });
          assert.deepEqual(tokens, plain.tokens, doing);
          compared += tokens.length;
        }
      }
    }
  }
  return `${compared} tokens, ${engine.drafters.length} drafters`;
}

/** `sanitized.ts` under one of compute-sanitizer's tools, for so many rounds or seconds. */
function sanitizing(name: string, tool: string, rounds: number, seconds: number): Check {
  const grace = 30; // to begin, and to end a text that is under way
  return [name, () => sanitize(tool, rounds, seconds, seconds + grace), seconds + grace + 15];
}

async function sanitize(tool: string, rounds: number, seconds: number, limit: number): Promise<string> {
  if (smoke) throw new Skipped("there is no GPU under the stand-in");
  const script = new URL("./sanitized.ts", import.meta.url).pathname;
  const program = [Deno.execPath(), "run", "--cached-only", "-A", script];
  // it stops for no signal that it could pass on to what it watches
  const command = [
    "-k",
    "5",
    `${limit}`,
    findSanitizer(),
    "--tool",
    tool,
    "--error-exitcode",
    "9",
    ...program,
  ];
  const { code, stdout, stderr } = await new Deno.Command("timeout", {
    args: [...command, "--rounds", `${rounds}`, "--seconds", `${seconds}`],
  }).output();
  const words = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  if (/Device not supported/i.test(words) && !/ERROR SUMMARY: [1-9]/.test(words)) {
    throw new Skipped("compute-sanitizer does not support this machine");
  }
  assert.equal(code, 0, `compute-sanitizer ended with ${code}, expected 0: ${words.slice(0, 4000)}`);
  const made = /^\d+$/m.exec(words)?.[0];
  assert.ok(made !== undefined, `it told no number of rounds: ${words.slice(0, 4000)}`);
  return `${made} of ${rounds} rounds`;
}

/** Where compute-sanitizer is: where programs are, or in a toolkit. */
function findSanitizer(): string {
  const toolkits = [...readFolder("/usr/local")].filter((name) => /^cuda(-|$)/.test(name)).sort();
  const folders = [
    ...(Deno.env.get("PATH") ?? "").split(":"),
    ...toolkits.map((name) => `/usr/local/${name}/bin`),
  ];
  const folder = folders.find((folder) => readFolder(folder).includes("compute-sanitizer"));
  if (folder === undefined) throw new Skipped("there is no compute-sanitizer");
  return `${folder}/compute-sanitizer`;
}

/** Names of what a folder holds; of one that is not there, nothing. */
function readFolder(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch {
    return [];
  }
}

/** What became of a check. */
interface Outcome {
  readonly verdict: "ok" | "skipped" | "FAILED";
  /** What it saw, or why not. */
  readonly seen: string;
}

/**
 * What the process of a check tells: what it is at, and at which step if it can be gone on with after that; what is
 * wrong, though it goes on itself; what became of it.
 */
type Message = { readonly doing: string; readonly step?: number } | { readonly wrong: string } | Outcome;

/** Tells whoever has started this process. */
function tell(message: Message): void {
  console.log(JSON.stringify(message));
}

/** Does a check in this process. */
async function outcomeOf([, run]: Check, from: number): Promise<Outcome> {
  try {
    return { verdict: "ok", seen: await run(from) };
  } catch (error) {
    if (error instanceof Skipped) return { verdict: "skipped", seen: error.message };
    console.error(error);
    const reason = error instanceof Error ? error.message : String(error);
    return { verdict: "FAILED", seen: reason.split("\n")[0].slice(0, 200) };
  }
}

/** Has a check done in a process of its own, or in several, each from the step after that which ended the one before. */
async function startCheck(number: number, plain: boolean): Promise<Outcome> {
  const flags = [...(smoke ? ["--smoke"] : []), ...(plain ? ["--plain-launches"] : [])];
  const [, , limit = LIMIT] = checks[number], began = performance.now(), wrong: string[] = [];
  for (let from = 0;;) {
    let outcome: Outcome | undefined, at: { readonly doing: string; readonly step?: number } | undefined;
    const args = ["--check", `${number}`, "--from", `${from}`, ...flags];
    const why = await ownDeno(new URL(import.meta.url), args, limit, (line) => {
      const message = told<Message>(line);
      if (message === undefined) return;
      if ("doing" in message) at = message;
      else if ("wrong" in message) wrong.push(message.wrong);
      else outcome = message;
    });
    if (outcome !== undefined && outcome.verdict !== "FAILED") {
      return wrong.length === 0 ? outcome : { verdict: "FAILED", seen: wrong.join("; ") };
    }
    const where = at === undefined ? "" : `, at "${at.doing}"`;
    wrong.push(outcome?.seen ?? `${why ?? "it said nothing"}${where}`);
    if (at?.step === undefined || performance.now() - began > 1e3 * ENOUGH) {
      return { verdict: "FAILED", seen: wrong.join("; ") };
    }
    from = at.step + 1;
  }
}

if (smoke) await import("../cuda/standin.ts");
if (options.check !== undefined) {
  tell(await outcomeOf(checks[Number(options.check)], Number(options.from)));
  Deno.exit(0);
}
const gpu = describeFirstGpu();
if ("problem" in gpu) {
  console.log(`Skipped: ${gpu.problem}`);
  Deno.exit(options["require-gpu"] ? 1 : 0);
}
const { only = "", skip } = options;
const rows: string[][] = [];
async function attempt(number: number, name: string, plain: boolean): Promise<Outcome["verdict"]> {
  const began = performance.now(), { verdict, seen } = await startCheck(number, plain);
  rows.push([verdict, name, `${((performance.now() - began) / 1e3).toFixed(1)} s`, seen]);
  console.error(rows.at(-1)!.join("  "));
  return verdict;
}
let triedPlainly = Deno.env.get(PLAIN_LAUNCHES) ? TRIED_PLAINLY : 0;
for (const [number, [name]] of checks.entries()) {
  if (!name.includes(only) || (skip !== undefined && name.includes(skip))) continue;
  if (await attempt(number, name, false) !== "FAILED" || name.startsWith(SANITIZER)) continue;
  if (triedPlainly++ < TRIED_PLAINLY) await attempt(number, `${name}, with plain launches`, true);
}
if (rows.length === 0) refuse("no check has such a name");
console.log(`${gpu.name}, CUDA ${gpu.cuda}, Deno ${Deno.version.deno}`);
console.log(table(rows, 4).join("\n"));
Deno.exit(rows.some(([verdict]) => verdict === "FAILED") ? 1 : 0);
