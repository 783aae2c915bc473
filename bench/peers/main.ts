/**
 * specdiff beside the engines that people would use instead, on the same weights, on this machine, taking turns in
 * one run: onnxruntime-node and onnxruntime-web (what transformers.js runs on), and llama.cpp if `llama-bench` is
 * in the path or named by `LLAMA_BENCH`, with its speculative decoding if `llama-server` is there likewise. Each runs in a
 * process of its own. An engine that does not work here is a line in the table. What each is given: `onnx.ts`, `gguf.ts`.
 *
 * `deno task bench:peers` prints the tables; `--write` also makes `bench/reports/peers-<processor>.json` and `.md`.
 * About five minutes and 4 GB of memory; nothing else should run meanwhile.
 *
 * @module
 */

import { openCheckpoint } from "../../src/hub/checkpoint.ts";
import { describeMachine } from "../../src/cli/machine.ts";
import { quantile } from "../../src/cli/measure.ts";
import { embeddedDrafter, embeddedDrafters, embeddedTarget } from "../../src/pair.ts";
import { readOptions } from "../arguments.ts";
import {
  drafterWeights,
  kernelSources,
  type PeerReport,
  type PeerRow,
  type PeerTable,
  toldClosely,
  where,
  writeReport,
} from "../report.ts";
import { markdownTable } from "../markdown.ts";
import { vocabularyIn, writeGguf } from "./gguf.ts";
import { lines } from "./lines.ts";
import { llamaBench, LlamaServer } from "./llama.ts";
import { ONNXRUNTIME } from "./onnx.ts";
import type { Answer, Order } from "./peer.ts";
import { gpt2Of, noiseGpt2 } from "./weights.ts";

/** Turns that each engine has. */
const ROUNDS = 5;
/** Turns before those, until compilers have seen what is hot. */
const WARM_UP = 3;
const THREADS = navigator.hardwareConcurrency;

const options = readOptions({ write: { type: "boolean" }, generation: { type: "string" } });

/** An engine that takes orders. */
interface Peer {
  readonly engine: string;
  obey(order: Order): Promise<Answer>;
  stop(): void;
}

async function start(engine: string, model: string, dtype: string): Promise<Peer> {
  const args = [
    "run",
    "-A",
    "--no-lock",
    new URL("peer.ts", import.meta.url).href,
    engine,
    model,
    dtype,
    String(THREADS),
  ];
  const child = new Deno.Command(Deno.execPath(), {
    args,
    env: { NO_COLOR: "1" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  })
    .spawn();
  const errors = new Response(child.stderr).text();
  const answers = lines(child.stdout), orders = child.stdin.getWriter();
  const next = async () => {
    const { value } = await answers.next();
    if (value !== undefined) return JSON.parse(value);
    const reason = (await errors).split("\n").find((line) => /rror/.test(line));
    throw new Error(reason ?? "it ended without a word");
  };
  const peer = {
    engine,
    async obey(order: Order) {
      await orders.write(new TextEncoder().encode(`${JSON.stringify(order)}\n`));
      return await next();
    },
    stop: () => child.kill(),
  };
  await next();
  return peer;
}

/** llama.cpp, on a file that exists until it is stopped. */
async function startLlama(model: string, dtype: "f32" | "int8"): Promise<Peer> {
  const program = Deno.env.get("LLAMA_BENCH") ?? "llama-bench";
  const file = await Deno.makeTempFile({ suffix: ".gguf" });
  const peer = {
    engine: "llama.cpp",
    obey: (order: Order) => llamaBench(program, file, THREADS, order),
    stop: () => Deno.removeSync(file),
  };
  try {
    await writeGguf(
      file,
      gpt2Of(model === "124M" ? noiseGpt2() : await openCheckpoint(embeddedTarget())),
      dtype,
    );
    const { version } = await peer.obey({ what: "pass", context: 0, rows: 1, times: 1 });
    if (version !== undefined) versions["llama.cpp"] = version;
    return peer;
  } catch (error) {
    peer.stop();
    throw error instanceof Deno.errors.NotFound ? new Error(`there is no program "${program}"`) : error;
  }
}

/** llama.cpp's own speculative decoding on the embedded pair, both models held as the peers hold them. */
async function startLlamaServer(drafter: string): Promise<Peer> {
  const program = Deno.env.get("LLAMA_SERVER") ?? "llama-server";
  const folder = await Deno.makeTempDir(), target = `${folder}/target.gguf`, draft = `${folder}/draft.gguf`;
  const remove = () => Deno.removeSync(folder, { recursive: true });
  try {
    const vocabulary = await vocabularyIn(new URL("../tokenizer.json", embeddedTarget()));
    await writeGguf(target, gpt2Of(await openCheckpoint(embeddedTarget())), "f32", vocabulary);
    await writeGguf(draft, gpt2Of(await openCheckpoint(embeddedDrafter(drafter)!)), "int8", vocabulary);
    const server = await LlamaServer.start(program, target, draft, THREADS);
    return {
      engine: `llama.cpp + ${drafter}`,
      obey: (order: Order) => {
        if (order.what === "decode") return server.generate(order.tokens);
        throw new Error("Cannot measure: only whole texts are speculated");
      },
      stop: () => {
        server[Symbol.dispose]();
        remove();
      },
    };
  } catch (error) {
    remove();
    throw error instanceof Deno.errors.NotFound ? new Error(`there is no program "${program}"`) : error;
  }
}

async function measure(model: "pair" | "124M", dtype: "f32" | "int8"): Promise<PeerTable> {
  const tokens = model === "pair" ? 192 : 16, context = 16;
  const orders: Record<string, Order> = {
    "one token": { what: "decode", context, tokens },
    "1-row pass": { what: "pass", context, rows: 1, times: tokens },
    "4-row pass": { what: "pass", context, rows: 4, times: tokens },
    "9-row pass": { what: "pass", context, rows: 9, times: tokens },
  };
  const failed: PeerRow[] = [], peers: Peer[] = [];
  const add = async (engine: string, open: () => Promise<Peer>) => {
    console.error(`${model} ${dtype}: loading ${engine}`);
    try {
      peers.push(await open());
    } catch (error) {
      const failure = (error as Error).message;
      failed.push({ engine, failure, ms: {}, quartiles: {}, firstMs: null, peakBytes: null });
    }
  };
  for (const engine of ["specdiff", "onnxruntime-node", "onnxruntime-web"]) {
    await add(engine, () => start(engine, model, dtype));
  }
  await add("llama.cpp", () => startLlama(model, dtype));
  if (model === "pair" && dtype === "f32") {
    for (const drafter of embeddedDrafters) {
      await add(`specdiff + ${drafter}`, () => start(`specdiff + ${drafter}`, model, dtype));
    }
    await add("llama.cpp + gpt2", () => startLlamaServer("gpt2"));
  }
  const answers = new Map(peers.map(({ engine }) => [engine, new Map<string, Answer[]>()]));
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    console.error(`${model} ${dtype}: turn ${round + 1} of ${ROUNDS}`);
    for (const [task, order] of Object.entries(orders)) {
      for (const peer of peers) {
        if (order.what === "pass" && peer.engine.includes("+")) continue;
        const answer = await peer.obey(order), of = answers.get(peer.engine)!;
        if (round >= 0) of.set(task, [...of.get(task) ?? [], answer]);
      }
    }
  }
  for (const peer of peers) peer.stop();
  const rows = peers.map(({ engine }): PeerRow => {
    const tasks = [...answers.get(engine)!], all = tasks.flatMap(([, of]) => of);
    const first = all.flatMap(({ firstMs }) => firstMs ?? []),
      peaks = all.flatMap(({ peakBytes }) => peakBytes ?? []);
    const each = <T>(of: (times: number[]) => T) =>
      Object.fromEntries(
        tasks.map(([task, answers]) => [task, of(answers.map(({ ms }) => ms).sort((a, b) => a - b))]),
      );
    return {
      engine,
      ms: each((times) => quantile(times, 0.5)),
      quartiles: each((times) => [quantile(times, 0.25), quantile(times, 0.75)] as const),
      firstMs: first.length > 0 ? quantile(first.sort((a, b) => a - b), 0.5) : null,
      peakBytes: peaks.length > 0 ? Math.max(...peaks) : null,
    };
  });
  const names = { pair: "the embedded target (11.5 M)", "124M": "GPT-2 124M's shape" };
  return { title: `${names[model]}, ${dtype === "int8" ? "int8 / q8" : dtype}`, rows: [...rows, ...failed] };
}

const HEAD = ["engine", "speed", "4-row pass", "9-row pass", "first token after 16", "peak memory"];

/** Ratios to specdiff's one-token pass: the time is its own business, the ratio everybody's. */
function markdown({ date, machine, versions = {}, tables }: PeerReport): string {
  const name = (row: PeerRow, own: boolean) => own ? `**${row.engine}**` : row.engine;
  return [
    `${where(date, machine)}, ${THREADS} threads each; ${
      Object.entries(versions).map((named) => named.join(" ")).join(", ")
    }.`,
    `Medians of ${ROUNDS} turns in one run, quartiles in brackets; \`deno task bench:peers\` repeats it.`,
    "",
    "Speed is that of plain decoding, token by token, against specdiff's (more is faster): the likeliest token is",
    "taken (llama.cpp chooses none). The rows with a drafter decode at temperature 1, sampling included, with exactly",
    "the target's law; llama.cpp's is its own speculative decoding, drafter as Q8_0, at most as many tokens as it drafts",
    "unless told otherwise. Passes are with logits of each row after 16 tokens, against the same engine's over one row: what",
    "verifying a draft costs it.",
    ...tables.flatMap(({ title, rows }) => {
      const base = rows[0].ms["one token"];
      return [
        "",
        `### ${title}`,
        "",
        ...markdownTable([
          HEAD,
          ...rows.map((row, i) => {
            if (row.failure !== undefined) {
              return [row.engine, `does not run here: ${row.failure}`, "", "", "", ""];
            }
            const own = row.ms["one token"], [low, high] = row.quartiles["one token"];
            const pass = (task: string) =>
              task in row.ms ? `${(row.ms[task] / row.ms["1-row pass"]).toFixed(2)} ×` : "";
            return [
              name(row, i === 0),
              `${(base / own).toFixed(2)} × (${(base / high).toFixed(2)}–${(base / low).toFixed(2)})`,
              pass("4-row pass"),
              pass("9-row pass"),
              row.firstMs === null ? "" : `${(row.firstMs / base).toFixed(1)} tokens' time`,
              row.peakBytes === null ? "" : `${Math.round(row.peakBytes / 1e6)} MB`,
            ];
          }),
        ]),
      ];
    }),
    "",
  ].join("\n");
}

/** Of the peers that ran. */
const versions: Record<string, string> = { onnxruntime: ONNXRUNTIME };
const tables: PeerTable[] = [];
for (const model of ["pair", "124M"] as const) {
  for (const dtype of ["f32", "int8"] as const) tables.push(await measure(model, dtype));
}
const machine = toldClosely(describeMachine(""), options.generation);
const date = new Date().toISOString().slice(0, 10);
const report: PeerReport = {
  date,
  sources: kernelSources,
  weights: drafterWeights(),
  machine,
  versions,
  tables,
};
const text = markdown(report);
console.log(text);
if (options.write) await writeReport("peers", machine, report, text);
