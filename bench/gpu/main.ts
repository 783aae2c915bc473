/**
 * What the CUDA backend is worth on the GPU of this machine: `deno task bench:gpu`. It prints the figures that the
 * backend is judged by, and writes `bench/reports/<gpu>.json` and `.md`, after each part, so that a run that is cut
 * short leaves what it found. Without a GPU it says so, prints what is predicted, and writes nothing.
 *
 * `--smoke` runs all of it in tiny shapes on the stand-in for the driver that the tests use, to see that it runs.
 *
 * @module
 */

import { CudaDriver } from "../../ffi/driver.ts";
import { table } from "../../src/cli/terminal.ts";
import { readOptions } from "../arguments.ts";
import { kernels } from "./kernels.ts";
import { prefills, products } from "./products.ts";
import { draftPass, plainSpeed, rounds, targetPasses, WatchedBackend } from "./models.ts";
import { figures, markdown, type Report, summary, type Table } from "./report.ts";
import { causal, gpt2, loadCausal, loadDiffusion, published, type Shapes, tiny } from "../shapes.ts";

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

const { smoke = false } = readOptions({ smoke: { type: "boolean" } });
const report: Report = {
  date: new Date().toISOString().slice(0, 10),
  gpu: null,
  environment: {},
  figures: figures(),
  tables: [],
  failures: [],
};

/** Runs one part; if it fails, the others are run all the same. */
async function part(name: string, run: () => void | Promise<void>): Promise<void> {
  const began = performance.now();
  try {
    await run();
  } catch (error) {
    const reason = error instanceof Error ? error.stack ?? error.message : String(error);
    report.failures.push(`${name}: ${reason.split("\n").slice(0, 4).join(" ")}`);
    console.error(reason);
  }
  console.error(`${name}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
  if (!smoke) await write();
}

/** Writes the report, under the name of the GPU. */
async function write(): Promise<void> {
  const folder = new URL("../reports/", import.meta.url);
  const name = report.gpu!.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(new URL(`${name}.json`, folder), `${JSON.stringify(report, null, 2)}\n`);
  await Deno.writeTextFile(new URL(`${name}.md`, folder), markdown(report));
}

async function run(backend: WatchedBackend, shapes: Shapes, bandwidth: number | undefined): Promise<void> {
  const { figures } = report, { xl: size, context, verifyRows } = shapes;
  let oneToken = NaN; // ms
  let plain = NaN; // tokens per second
  const xl = await loadCausal(backend, gpt2(size), "f16", shapes.prefill);
  await part("GPT-2 XL, passes", () => {
    const times = targetPasses(backend, xl, shapes);
    oneToken = times.get(1)!;
    figures.verify.value = times.get(verifyRows)! / oneToken;
    const read = bytesOf(size, context + verifyRows);
    if (bandwidth !== undefined) figures.plain.value = read / bandwidth / (oneToken / 1e3);
    report.tables.push(passTable("GPT-2 XL, f16", times, read));
  });
  await part("GPT-2 XL, prefill", () => void report.tables.push(prefills(backend, xl, shapes)));
  await part("GPT-2 XL, plain decoding", async () => {
    plain = await plainSpeed(backend, xl, shapes);
    const middle = shapes.prompt + (shapes.text >> 1);
    const limit = bandwidth === undefined ? NaN : bandwidth / bytesOf(size, middle);
    // whole texts are what counts, not passes alone
    if (bandwidth !== undefined) figures.plain.value = plain / limit;
    report.tables.push({
      title: `GPT-2 XL, plain decoding of ${shapes.text} tokens after ${shapes.prompt}`,
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
    report.tables.push({
      title: `SEDD-small, bf16, ${masks} masks`,
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
  await part("Hugging Face", async () => {
    const found = await huggingFace(shapes);
    if (found.problem !== undefined) {
      report.environment["Hugging Face"] = `not compared (${found.problem})`;
      return;
    }
    figures.huggingFace.value = plain / found.tokensPerSecond;
    report.tables.push({
      title:
        `Hugging Face generate of the same shape in f16: torch ${found.torch}, transformers ${found.transformers}`,
      columns: ["tok/s"],
      rows: [[found.tokensPerSecond.toFixed(1)]],
    });
  });
  xl[Symbol.dispose]();
  await part("products", async () => void report.tables.push(await products(backend.ordinal, shapes)));
  await part("kernels", async () => void report.tables.push(...await kernels(backend, shapes)));
  await part("GPT-Neo 2.7B, passes", async () => {
    using neo = await loadCausal(backend, shapes.neo, "f16");
    const times = targetPasses(backend, neo, shapes);
    report.tables.push(passTable("GPT-Neo 2.7B, f16", times, neo.bytes));
  });
}

/** Bytes that a token takes at least: 16-bit weights, and 16-bit keys and values of so many positions. */
function bytesOf({ layers, width, vocabSize }: Shapes["xl"], positions: number): number {
  const weights = layers * (12 * width * width + 13 * width) + vocabSize * width;
  return 2 * (weights + 2 * layers * width * positions);
}

function passTable(title: string, times: ReadonlyMap<number, number>, bytes: number): Table {
  const one = times.get(1)!;
  return {
    title: `${title}: passes over some rows that end at the same position, ${
      (bytes / 1e9).toFixed(2)
    } GB at least`,
    columns: ["rows", "ms", "× one row", "GB/s"],
    rows: [...times].map(([rows, ms]) => {
      return [rows, ms.toFixed(3), (ms / one).toFixed(2), (bytes / ms / 1e6).toFixed(0)];
    }),
  };
}

/** What `hugging_face.py` prints. */
interface HuggingFace {
  readonly tokensPerSecond: number;
  readonly torch: string;
  readonly transformers: string;
  /** Why there is nothing else. */
  readonly problem?: string;
}

/** Runs it. */
async function huggingFace(shapes: Shapes): Promise<HuggingFace> {
  const { prompt, text } = shapes;
  const asked = { ...shapes.xl, prompt, text, device: smoke ? "cpu" : "cuda" };
  const script = new URL("./hugging_face.py", import.meta.url).pathname;
  const python = new Deno.Command("python3", {
    args: [script, JSON.stringify(asked)],
    stderr: "inherit",
    signal: AbortSignal.timeout(150_000),
  });
  const { success, stdout } = await python.output();
  if (!success) throw new Error("Cannot compare with Hugging Face: python3 failed, see above");
  return JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").at(-1)!);
}

/** The driver's first device, or why there is none. */
function openDevice() {
  try {
    const driver = new CudaDriver();
    return { device: driver.device(0), cuda: driver.version / 1000 };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

if (smoke) await import("../../tests/cuda/standin.ts");
const opened = openDevice();
if (typeof opened === "string") {
  console.log(`Not measured: ${opened}`);
} else {
  const { device, cuda } = opened;
  const { name } = device;
  using backend = new WatchedBackend(device);
  Object.assign(report, {
    gpu: name,
    environment: {
      CUDA: cuda.toFixed(1),
      Deno: Deno.version.deno,
      host: `${navigator.hardwareConcurrency} cores`,
    },
  });
  const known = BANDWIDTHS.find(([part]) => name.includes(part))?.[1];
  await run(backend, smoke ? tiny : published, known);
  if (smoke) console.log(`${markdown(report)}\nOn the stand-in: the numbers mean nothing.`);
}
console.log(table(summary(report), 1).join("\n"));
for (const failure of report.failures) console.log(`Failed: ${failure}`);
Deno.exit(report.failures.length > 0 ? 1 : 0);
