/**
 * Compares specdiff with alternative engines on the same weights and machine, interleaved in one run: onnxruntime-node
 * and onnxruntime-web (used by transformers.js), and llama.cpp if `llama-bench` is in the path or named by
 * `LLAMA_BENCH`. If there is `llama-server` (or `LLAMA_SERVER`), llama.cpp's speculative decoding is included. Each
 * engine runs in its own process. An engine that does not work here becomes a line in the table. `onnx.ts` and
 * `gguf.ts` write their inputs.
 *
 * `deno task bench:peers` prints the tables; `--write` also writes `bench/reports/peers-<processor>.json` and `.md`. It
 * takes about ten minutes and 5 GB of memory; nothing else should run meanwhile.
 *
 * @module
 */

import { openCheckpoint } from "../../src/hub/checkpoint.ts";
import { describeMachine } from "../../src/cli/machine.ts";
import { embeddedDrafter, embeddedDrafters, embeddedTarget } from "../../src/pair.ts";
import { readOptions } from "../../tools/arguments.ts";
import { megabytes } from "../peak.ts";
import {
  againstPeers,
  compared,
  drafterWeights,
  kernelSources,
  passCost,
  type PeerReport,
  type PeerRow,
  type PeerTable,
  timeOf,
  toldClosely,
  where,
  writeReport,
} from "../report.ts";
import { linesOf, textOf } from "../../tools/own_process.ts";
import { markdownTable } from "../markdown.ts";
import { into, over, spreadOf, told } from "../spread.ts";
import { vocabularyIn, writeGguf } from "./gguf.ts";
import { draftSamplings, llamaBench, LlamaServer } from "./llama.ts";
import { onnxOf, ONNXRUNTIME } from "./onnx.ts";
import type { Answer, Order } from "./peer.ts";
import { type Gpt2, gpt2Of, noiseGpt2, type PeerDtype } from "./weights.ts";

/** Turns that each engine has. */
const ROUNDS = 5;
/** Turns before those, until compilers have seen what is hot. */
const WARM_UP = 3;
const THREADS = navigator.hardwareConcurrency;
/** After so many seconds without an answer, an engine has failed. */
const PATIENCE = 300;

const options = readOptions({ write: { type: "boolean" }, generation: { type: "string" } });

/** An engine that takes orders. */
interface Peer {
  readonly engine: string;
  obey(order: Order): Promise<Answer>;
  stop(): void;
}

/** What all peers of a table are given. */
type Model = "pair" | "124M";

async function weightsOf(model: Model): Promise<Gpt2> {
  return gpt2Of(model === "124M" ? noiseGpt2() : await openCheckpoint(embeddedTarget()));
}

/** An engine that reads a file, which exists until the engine is stopped or does not start. */
async function withFile(suffix: string, open: (file: string) => Promise<Peer>): Promise<Peer> {
  const file = await Deno.makeTempFile({ suffix }), remove = () => Deno.removeSync(file);
  try {
    const peer = await open(file);
    return {
      engine: peer.engine,
      obey: (order) => peer.obey(order),
      stop: () => {
        peer.stop();
        remove();
      },
    };
  } catch (error) {
    remove();
    throw error;
  }
}

/** onnxruntime, on a file that is written here, so that the memory this takes is not counted as its own. */
function startOnnx(engine: string, model: Model, dtype: "f32" | "int8"): Promise<Peer> {
  return withFile(".onnx", async (file) => {
    await Deno.writeFile(file, await onnxOf(await weightsOf(model), dtype));
    return await start(engine, model, dtype, file);
  });
}

async function start(engine: string, model: Model, dtype: string, ...file: string[]): Promise<Peer> {
  const args = [
    "run",
    "-A",
    "--no-lock",
    new URL("peer.ts", import.meta.url).href,
    engine,
    model,
    dtype,
    String(THREADS),
    ...file,
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
  const answers = linesOf(textOf(child.stdout))[Symbol.asyncIterator](), orders = child.stdin.getWriter();
  const next = async () => {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      peer.stop();
    }, 1000 * PATIENCE);
    const { value } = await answers.next().finally(() => clearTimeout(timer));
    if (value !== undefined) return JSON.parse(value);
    if (late) throw new Error(`no answer after ${PATIENCE} s`);
    const reason = (await errors).split("\n").find((line) => /rror/.test(line));
    throw new Error(reason ?? "it ended without a word");
  };
  const peer = {
    engine,
    async obey(order: Order) {
      await orders.write(new TextEncoder().encode(`${JSON.stringify(order)}\n`));
      return await next();
    },
    stop: () => {
      try {
        child.kill();
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // it has ended by itself
      }
    },
  };
  await next();
  return peer;
}

/** Says plainly that a program is missing. */
function missing(program: string, error: unknown): unknown {
  return error instanceof Deno.errors.NotFound ? new Error(`there is no program "${program}"`) : error;
}

/** llama.cpp. */
function startLlama(model: Model, dtype: PeerDtype): Promise<Peer> {
  const program = Deno.env.get("LLAMA_BENCH") ?? "llama-bench";
  return withFile(".gguf", async (file) => {
    await writeGguf(file, await weightsOf(model), dtype);
    const peer = {
      engine: "llama.cpp",
      obey: (order: Order) => llamaBench(program, file, THREADS, order),
      stop: () => {},
    };
    try {
      const { version } = await peer.obey({ what: "pass", context: 0, rows: 1, times: 1 });
      if (version !== undefined) versions["llama.cpp"] = version;
    } catch (error) {
      throw missing(program, error);
    }
    return peer;
  });
}

/** llama.cpp's own speculative decoding on the embedded pair, both models held as the peers hold them. */
async function startLlamaServer(
  engine: string,
  drafter: string,
  sampling: typeof draftSamplings[number],
): Promise<Peer> {
  const program = Deno.env.get("LLAMA_SERVER") ?? "llama-server";
  const folder = await Deno.makeTempDir(), target = `${folder}/target.gguf`, draft = `${folder}/draft.gguf`;
  const remove = () => Deno.removeSync(folder, { recursive: true });
  try {
    const vocabulary = await vocabularyIn(new URL("../tokenizer.json", embeddedTarget()));
    await writeGguf(target, await weightsOf("pair"), "f32", vocabulary);
    await writeGguf(draft, gpt2Of(await openCheckpoint(embeddedDrafter(drafter)!)), "int8", vocabulary);
    const server = await LlamaServer.start(program, target, draft, sampling, THREADS);
    return {
      engine,
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
    throw missing(program, error);
  }
}

async function measure(model: Model, dtype: PeerDtype): Promise<PeerTable> {
  const tokens = model === "pair" ? 192 : 16, context = 16;
  const orders: Record<string, Order> = {
    "one token": { what: "decode", context, tokens },
    "1-row pass": { what: "pass", context, rows: 1, times: tokens },
    "4-row pass": { what: "pass", context, rows: 4, times: tokens },
    "9-row pass": { what: "pass", context, rows: 9, times: tokens },
  };
  const engines: [engine: string, open: (engine: string) => Promise<Peer>][] = [
    ["specdiff", (engine) => start(engine, model, dtype)],
    ["llama.cpp", () => startLlama(model, dtype)],
  ];
  if (dtype !== "f16") {
    for (const engine of ["onnxruntime-node", "onnxruntime-web"]) {
      engines.push([engine, () => startOnnx(engine, model, dtype)]);
    }
  }
  if (model === "pair" && dtype !== "int8") {
    for (const drafter of embeddedDrafters) {
      engines.push([`specdiff + ${drafter}`, (engine) => start(engine, model, dtype)]);
    }
  }
  if (model === "pair" && dtype === "f32") {
    for (const sampling of draftSamplings) {
      engines.push([
        `llama.cpp + gpt2, ${sampling}`,
        (engine) => startLlamaServer(engine, "gpt2", sampling),
      ]);
    }
  }
  /** Those that work, and why others do not: one that fails at any time is a line of the table. */
  const peers = new Map<string, Peer>(), failures = new Map<string, string>();
  const answers = new Map(engines.map(([engine]) => [engine, new Map<string, Answer[]>()]));
  const attempt = async (engine: string, what: () => Promise<void>) => {
    try {
      await what();
    } catch (error) {
      failures.set(engine, (error as Error).message);
      console.error(`${engine}: ${(error as Error).message}`);
      peers.get(engine)?.stop();
      peers.delete(engine);
    }
  };
  try {
    for (const [engine, open] of engines) {
      console.error(`${model} ${dtype}: loading ${engine}`);
      await attempt(engine, async () => {
        peers.set(engine, await open(engine));
      });
    }
    for (let round = -WARM_UP; round < ROUNDS; round++) {
      console.error(`${model} ${dtype}: turn ${round + 1} of ${ROUNDS}`);
      for (const [task, order] of Object.entries(orders)) {
        for (const [engine, peer] of [...peers]) {
          if (order.what === "pass" && engine.includes("+")) continue;
          await attempt(engine, async () => {
            const answer = await peer.obey(order), of = answers.get(engine)!;
            if (round >= 0) of.set(task, [...of.get(task) ?? [], answer]);
          });
        }
      }
    }
  } finally {
    for (const peer of peers.values()) peer.stop();
  }
  const rows = engines.map(([engine]): PeerRow => {
    const failure = failures.get(engine);
    if (failure !== undefined) {
      return { engine, failure, ms: {}, quartiles: {}, firstMs: null, peakBytes: null };
    }
    const tasks = [...answers.get(engine)!], all = tasks.flatMap(([, of]) => of);
    const first = all.flatMap(({ firstMs }) => firstMs ?? []);
    const peaks = all.flatMap(({ peakBytes }) => peakBytes ?? []);
    const spreads = tasks.map(([task, answers]) => [task, spreadOf(answers.map(({ ms }) => ms))] as const);
    return {
      engine,
      ms: Object.fromEntries(spreads.map(([task, { value }]) => [task, value])),
      quartiles: Object.fromEntries(spreads.map(([task, { quartiles }]) => [task, quartiles!])),
      firstMs: first.length > 0 ? spreadOf(first).value : null,
      firstQuartiles: first.length > 0 ? spreadOf(first).quartiles : undefined,
      peakBytes: peaks.length > 0 ? Math.max(...peaks) : null,
    };
  });
  const names = { pair: "the embedded target (11.5 M)", "124M": "GPT-2 124M's shape" };
  const texts = engines.flatMap(([engine]) => {
    if (engine.includes("+") || failures.has(engine)) return [];
    const tokens = answers.get(engine)!.get("one token")?.[0].tokens;
    return tokens === undefined ? [] : [[engine, String(tokens)] as const];
  });
  const same = texts.filter(([, text]) => text === texts[0][1]).map(([engine]) => engine);
  return { title: `${names[model]}, ${dtype === "int8" ? "int8 / q8" : dtype}`, same, rows };
}

const HEAD = ["engine", "speed", "4-row pass", "9-row pass", "first token", "peak memory"];

/** The report: ratios to specdiff's one-token pass, which depend less on the machine than times do. */
function markdown(report: PeerReport): string {
  const { date, machine, versions = {}, tables } = report;
  return [
    `${where(date, machine)}, ${THREADS} threads each; ${
      Object.entries(versions).map((named) => named.join(" ")).join(", ")
    }.`,
    `Medians of ${ROUNDS} turns in one run, relative to the median of the baseline, with quartiles in brackets. Reproduce`,
    "with `deno task bench:peers`.",
    "",
    "Speed is plain decoding token by token, relative to specdiff (larger is faster); the likeliest token is taken",
    "(llama.cpp takes none). Rows with a drafter decode at temperature 1, sampling included, with exactly the target's",
    "distribution. llama.cpp's are its own speculative decoding with the drafter in Q8_0, which drafts the likeliest",
    "tokens or samples them, and its default draft length, 3. Only llama.cpp has kernels for f16. Passes follow 16 tokens,",
    "and are relative to the same engine's pass over one row: the cost of verifying a draft. They compute logits of every",
    "row, except in llama.cpp, whose benchmark requests only those of the last row, so its passes over several rows do",
    "less work. The first token follows a prompt of 16 tokens; with a drafter, one of a dozen, and it includes the rest of",
    "its round. Its time is in tokens of specdiff's plain decoding. Memory is the peak of a separate process, including",
    "the runtime, and the model's file if that is read as a whole.",
    ...tables.flatMap(({ title, same = [], rows }) => {
      const base = timeOf(rows.find(({ engine }) => engine === "specdiff")!, "one token");
      return [
        "",
        `### ${title}`,
        "",
        ...same.length > 1 ? [`The same tokens were chosen by ${same.join(", ")}.`, ""] : [],
        ...markdownTable([
          HEAD,
          ...rows.map((row) => {
            const { engine, failure, firstMs, firstQuartiles } = row;
            if (failure !== undefined) return [engine, `does not run here: ${failure}`, "", "", "", ""];
            const time = timeOf(row, "one token")!;
            const passes = [4, 9].map((rows) => passCost(row, rows));
            const first = base && firstMs !== null
              ? over({ value: firstMs, quartiles: firstQuartiles }, base.value)
              : undefined;
            return [
              engine === "specdiff" ? `**${engine}**` : engine,
              base ? told(into(base.value, time)) : "",
              ...passes.map((cost) => cost ? told(cost) : ""),
              first ? told(first, "tokens", 1) : "",
              megabytes(row.peakBytes),
            ];
          }),
        ]),
      ];
    }),
    "",
    "### Aims",
    "",
    ...markdownTable([
      ["speed relative to the peer; cost of a pass", "measured", "aim"],
      ...againstPeers(report).filter(({ aim }) => aim !== undefined)
        .map((one) => [one.what, compared(one), one.aim!]),
    ]),
    "",
  ].join("\n");
}

/** Of the peers that ran. */
const versions: Record<string, string> = { onnxruntime: ONNXRUNTIME };
const tables: PeerTable[] = [];
for (
  const [model, dtype] of [
    ["pair", "f32"],
    ["pair", "f16"],
    ["pair", "int8"],
    ["124M", "f32"],
    ["124M", "int8"],
  ] as const
) tables.push(await measure(model, dtype));
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
