/**
 * The benchmark of the CUDA backend on this machine's GPU: `deno task bench:gpu`. It prints the figures with their
 * aims, and writes `bench/reports/<gpu>.json` and `.md` after each part, so that an interrupted run keeps its results.
 * Without a GPU it says so, prints the predictions, writes nothing, and succeeds unless a GPU is required
 * (`--require-gpu`).
 *
 * `--folder` says where else to write; with `--plain-launches` no kernel begins before the one ahead of it has ended, as
 * where `SPECDIFF_PLAIN_LAUNCHES` is set.
 * `--smoke` runs all of it in tiny shapes on the stand-in for the driver that the tests use, to see that it runs.
 *
 * Parts that use the same model share a process. A lost device, or a kernel that never ends, affects only that process.
 *
 * @module
 */

import { pathToFileURL } from "node:url";
import { PLAIN_LAUNCHES } from "../../src/backend/cuda/backend.ts";
import { describeFirstGpu } from "../../src/backend/cuda/describe.ts";
import { CUBLAS_ROWS } from "../../src/backend/cuda/products.ts";
import { table } from "../../src/cli/terminal.ts";
import { readOptions } from "../../tools/arguments.ts";
import { ownDeno, ownProcess, told } from "../../tools/own_process.ts";
import { kernels } from "./kernels.ts";
import { prefills, products } from "./products.ts";
import { draftPass, plainSpeed, rounds, targetPasses } from "./models.ts";
import { emptyReport, markdown, merge, type Report, summary, type Table } from "./report.ts";
import { causal, gpt2, loadCausal, loadDiffusion, published, type Shapes, tiny } from "../../tools/shapes.ts";
import { WatchedBackend } from "./watched.ts";

/** Bytes per second of the memory, by what the name of a GPU holds, as its maker states it. */
const BANDWIDTHS: readonly (readonly [name: string, bandwidth: number])[] = [
  ["H200", 4.8e12],
  ["H100 NVL", 3.9e12],
  ["H100 PCIe", 2.0e12],
  ["H100", 3.35e12],
  ["A100-SXM4-80GB", 2.039e12],
  ["A100 80GB PCIe", 1.935e12],
  ["A100", 1.555e12],
];

const options = readOptions({
  smoke: { type: "boolean" },
  "require-gpu": { type: "boolean" },
  "plain-launches": { type: "boolean" },
  folder: { type: "string" },
  group: { type: "string" }, // of parts, in this process: what the others start
});
const { smoke = false } = options;
if (options["plain-launches"]) Deno.env.set(PLAIN_LAUNCHES, "1"); // which those that are started are told
const shapes: Shapes = smoke ? tiny : published;
/** Results of this process, and of those it started. */
const report = emptyReport(), found = new Map<string, Report>();

/** The group that measures what Hugging Face is compared with. */
const MODELS = "GPT-2 XL and SEDD-small";

/** Parts that share a process: seconds that they may take together, and how they are done. */
const groups: ReadonlyMap<string, readonly [limit: number, run: (backend: WatchedBackend) => Promise<void>]> =
  new Map([
    [MODELS, [120, models]],
    ["kernels", [60, async (backend) => {
      await part("kernels", async () => void report.tables.push(...await kernels(backend, shapes)));
    }]],
    ["products", [60, async (backend) => {
      await part("products", async () => {
        const { cublas } = backend;
        report.environment.cuBLAS = "problem" in cublas ? "none" : cublas.version;
        if ("problem" in cublas) console.error(cublas.problem);
        report.tables.push(await products(backend.ordinal, shapes));
      });
    }]],
    ["GPT-Neo 2.7B", [60, async (backend) => {
      await part("GPT-Neo 2.7B, passes", async () => {
        using neo = await loadCausal(backend, shapes.neo, "f16");
        const times = targetPasses(backend, neo, shapes);
        report.tables.push(passTable("GPT-Neo 2.7B, f16", times, neo.bytes));
      });
    }]],
  ]);

/** Runs one part and reports all results so far. A failure does not stop the other parts. */
async function part<T>(name: string, run: () => T | Promise<T>): Promise<T | undefined> {
  const began = performance.now();
  try {
    return await run();
  } catch (error) {
    const reason = error instanceof Error ? error.stack ?? error.message : String(error);
    report.failures.push(`${name}: ${reason.split("\n").slice(0, 4).join(" ")}`);
    console.error(reason);
    return undefined;
  } finally {
    console.error(`${name}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
    tell();
  }
}

/** Passes the results to the parent process, or writes the report. */
function tell(): void {
  if (options.group !== undefined) console.log(JSON.stringify(report));
  else if (!smoke || options.folder !== undefined) write();
}

/** The results so far, of this process and the others. */
function whole(): Report {
  return merge([...found.values(), report]);
}

/** Writes the report, under the name of the GPU. */
function write(): void {
  const { folder } = options, all = whole();
  const to = folder === undefined ? new URL("../reports/", import.meta.url) : pathToFileURL(`${folder}/`);
  const name = all.gpu!.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  Deno.mkdirSync(to, { recursive: true });
  Deno.writeTextFileSync(new URL(`${name}.json`, to), `${JSON.stringify(all, null, 2)}\n`);
  Deno.writeTextFileSync(new URL(`${name}.md`, to), markdown(all));
}

async function models(backend: WatchedBackend): Promise<void> {
  const { figures } = report, { xl: size, context, verifyRows } = shapes;
  const bandwidth = BANDWIDTHS.find(([name]) => backend.description.includes(name))?.[1];
  let oneToken = NaN; // ms
  let plain = NaN; // tokens per second
  using xl = await part("GPT-2 XL", () => loadCausal(backend, gpt2(size), "f16", shapes.prefill));
  if (xl === undefined) return;
  await part("GPT-2 XL, passes", () => {
    const times = targetPasses(backend, xl, shapes);
    oneToken = times.get(1)!;
    report.environment["dependent launches"] = backend.graphs.dependent ? "recorded" : "none";
    figures.verify.value = times.get(verifyRows)! / oneToken;
    report.tables.push(passTable("GPT-2 XL, f16", times, bytesOf(size, context + verifyRows)));
  });
  await part("GPT-2 XL, prefill", () => void report.tables.push(prefills(backend, xl, shapes)));
  await part("GPT-2 XL, plain decoding", async () => {
    report.plainSpeed = plain = await plainSpeed(backend, xl, shapes);
    const middle = shapes.prompt + (shapes.text >> 1);
    const limit = bandwidth === undefined ? NaN : bandwidth / bytesOf(size, middle);
    if (bandwidth !== undefined) figures.plain.value = plain / limit;
    report.tables.push({
      title:
        `GPT-2 XL, plain decoding of ${shapes.text} tokens after ${shapes.prompt}: whole texts, with law and ` +
        `draw of each token launched after its pass, and waited for`,
      columns: ["tok/s", "limit of the bandwidth, tok/s"],
      rows: [[plain.toFixed(0), limit.toFixed(0)]],
    });
  });
  await part("SEDD-small", async () => {
    using model = await loadDiffusion(backend, causal(shapes.sedd), "bf16");
    using whole = await loadDiffusion(backend, shapes.sedd, "bf16");
    const masks = verifyRows - 1;
    const live = draftPass(backend, model, { cached: context - 1, fresh: 1, masks });
    const full = draftPass(backend, whole, { cached: 0, fresh: shapes.draftContext, masks });
    figures.draft.value = live / oneToken;
    figures.fullDraft.value = full;
    const { cublas } = backend;
    report.environment.cuBLAS = "problem" in cublas ? "none" : cublas.version;
    report.tables.push({
      title: `SEDD-small, bf16, ${masks} masks; products of ${CUBLAS_ROWS} rows or more by ${
        "problem" in cublas ? "our own kernels" : `cuBLAS ${cublas.version}`
      }`,
      columns: ["rows", "ms"],
      rows: [
        [`1 of text and the masks after ${context - 1} in the cache`, live.toFixed(3)],
        ...[64, 256].filter((fresh) => fresh < shapes.draftContext).map((fresh) => [
          `${fresh} of text and the masks, no cache`,
          draftPass(backend, whole, { cached: 0, fresh, masks }).toFixed(3),
        ]),
        [`${shapes.draftContext} of text and the masks, no cache`, full.toFixed(3)],
      ],
    });
    await rounds(backend, xl, model, shapes, plain, report);
  });
}

/** Bytes that a token reads at least: 16-bit weights, and 16-bit keys and values of `positions` positions. */
function bytesOf({ layers, width, vocabSize }: Shapes["xl"], positions: number): number {
  const weights = layers * (12 * width * width + 13 * width) + vocabSize * width;
  return 2 * (weights + 2 * layers * width * positions);
}

function passTable(title: string, times: ReadonlyMap<number, number>, bytes: number): Table {
  const one = times.get(1)!;
  return {
    title: `${title}: passes by number of rows, up to the same position, reading at least ${
      (bytes / 1e9).toFixed(2)
    } GB`,
    columns: ["rows", "ms", "× one row", "GB/s"],
    rows: [...times].map(([rows, ms]) => {
      return [rows, ms.toFixed(3), (ms / one).toFixed(2), (bytes / ms / 1e6).toFixed(0)];
    }),
  };
}

/** What `hugging_face.py` prints after each text. */
interface HuggingFace {
  readonly tokensPerSecond: number;
  /** How many texts that is of. */
  readonly texts: number;
  readonly torch: string;
  readonly transformers: string;
  /** Why there are no figures. */
  readonly problem?: string;
}

/** Compares with Hugging Face, in a separate process. */
async function huggingFace(plain: number): Promise<void> {
  const { prompt, text } = shapes;
  const asked = { ...shapes.xl, prompt, text, device: smoke ? "cpu" : "cuda" };
  const script = new URL("./hugging_face.py", import.meta.url).pathname;
  let found: HuggingFace | undefined;
  const why = await ownProcess(
    "python3",
    [script, JSON.stringify(asked)],
    80,
    (line) => found = told<HuggingFace>(line) ?? found,
  );
  if (found === undefined) {
    throw new Error(`Cannot compare with Hugging Face: ${why ?? "python3 said nothing"}`);
  }
  if (found.problem !== undefined) {
    report.environment["Hugging Face"] = `not compared (${found.problem})`;
    return;
  }
  report.figures.huggingFace.value = plain / found.tokensPerSecond;
  report.tables.push({
    title:
      `Hugging Face generate of the same shape in f16: torch ${found.torch}, transformers ${found.transformers}, ` +
      `the best of ${found.texts} texts`,
    columns: ["tok/s"],
    rows: [[found.tokensPerSecond.toFixed(1)]],
  });
}

/** Has all groups measured, each in its process, and Hugging Face as soon as there is what it is compared with. */
async function measure(): Promise<void> {
  for (const [name, [limit]] of groups) {
    const args = ["--group", name, ...(smoke ? ["--smoke"] : [])];
    const why = await ownDeno(new URL(import.meta.url), args, limit, (line) => {
      const report = told<Report>(line);
      if (report === undefined) return;
      found.set(name, report);
      tell();
    });
    if (why !== undefined) report.failures.push(`${name}: ${why}`);
    const { plainSpeed } = whole();
    if (name === MODELS && plainSpeed !== null) await part("Hugging Face", () => huggingFace(plainSpeed));
  }
  tell();
}

if (smoke) await import("../../tests/cuda/standin.ts");
if (options.group !== undefined) {
  using backend = new WatchedBackend(0, shapes);
  await groups.get(options.group)![1](backend);
  Deno.exit(0);
}
const gpu = describeFirstGpu();
if ("problem" in gpu) {
  console.log(`Not measured: ${gpu.problem}`);
} else {
  report.gpu = gpu.name;
  Object.assign(report.environment, {
    CUDA: gpu.cuda,
    Deno: Deno.version.deno,
    host: `${navigator.hardwareConcurrency} cores`,
    ...(Deno.env.get(PLAIN_LAUNCHES) ? { "plain launches": "asked for" } : {}),
  });
  await measure();
  if (smoke) console.log(`${markdown(whole())}\nOn the stand-in: the numbers are meaningless.`);
}
const { failures, environment } = whole();
console.log(Object.entries(environment).map((entry) => entry.join(": ")).join("\n"));
console.log(table(summary(whole()), 1).join("\n"));
for (const failure of failures) console.log(`Failed: ${failure}`);
Deno.exit(failures.length > 0 || "problem" in gpu && options["require-gpu"] ? 1 : 0);
