/**
 * One engine in a process of its own, so that its memory is its own and none spins beside another. It loads a
 * GPT-2, then does what standard input says, one JSON line at a time ({@linkcode Order}), and answers each with
 * one ({@linkcode Answer}).
 *
 * `deno run -A bench/peers/peer.ts ENGINE MODEL DTYPE THREADS [FILE]`; FILE is the model as onnxruntime reads it, which
 * another process has written, as what that takes is not the engine's memory.
 *
 * @module
 */

import { loadEngine } from "../../mod.ts";
import { createWasmBackend } from "../../src/backend/wasm/backend.ts";
import type { Dtype } from "../../src/backend/backend.ts";
import { PROMPTS } from "../../src/cli/compare.ts";
import { quantile } from "../../src/cli/measure.ts";
import { openCheckpoint } from "../../src/hub/checkpoint.ts";
import type { Weights } from "../../src/model/weights.ts";
import { embeddedTarget } from "../../src/pair.ts";
import { linesOf, textOf } from "../../tools/own_process.ts";
import { loadAsCausal, madeUpText } from "../../tools/shapes.ts";
import { peakBytes } from "../peak.ts";
import { ONNXRUNTIME } from "./onnx.ts";
import { type Gpt2Sizes, noiseGpt2, sizesIn } from "./weights.ts";

/** What to do next. */
export type Order =
  /** Reads `context` tokens, then generates `tokens`, each the likeliest. */
  | { readonly what: "decode"; readonly context: number; readonly tokens: number }
  /** After `context` tokens, passes over `rows` tokens with logits of each row, `times` times. */
  | { readonly what: "pass"; readonly context: number; readonly rows: number; readonly times: number };

/** What came of it. */
export interface Answer {
  /** Milliseconds per token, the mean of a text; or per pass, the median of all. */
  readonly ms: number;
  /** Milliseconds from the first token of the prompt to the first token generated. */
  readonly firstMs?: number;
  /** Peak resident size so far, in bytes, if the system tells. */
  readonly peakBytes: number | null;
  /** The tokens generated. */
  readonly tokens?: readonly number[];
  /** Of the engine, where only it knows. */
  readonly version?: string;
}

/** A model that appends tokens to its text. */
interface Runner {
  /** Generates in a way of its own, at temperature 1; absent: token by token, each the likeliest. */
  generate?(count: number): Promise<Omit<Answer, "peakBytes">>;
  /** Logits of the last `head` rows, [head, V]. */
  append(tokens: readonly number[], head: number): Promise<Float32Array> | Float32Array;
  /** Goes back to the first `length` tokens. */
  truncate(length: number): void;
}

/** The little of onnxruntime that is used; imported at run time, as nothing else here needs it. */
interface Onnx {
  readonly env: { readonly wasm: { numThreads?: number } };
  readonly Tensor: new (type: string, data: ArrayBufferView, shape: readonly number[]) => OnnxTensor;
  readonly InferenceSession: {
    create(model: Uint8Array | string, options: unknown): Promise<
      { run(feeds: Record<string, OnnxTensor>): Promise<Record<string, OnnxTensor>> }
    >;
  };
}
interface OnnxTensor {
  readonly data: Float32Array;
}

async function onnxRunner(
  ort: Onnx,
  provider: string,
  model: Gpt2Sizes,
  file: string,
  threads: number,
): Promise<Runner> {
  if (provider === "wasm") ort.env.wasm.numThreads = threads;
  // onnxruntime-web knows no files outside a browser
  const session = await ort.InferenceSession.create(provider === "wasm" ? await Deno.readFile(file) : file, {
    executionProviders: [provider],
    ...{ intraOpNumThreads: threads, interOpNumThreads: 1, graphOptimizationLevel: "all" },
  });
  const names = Array.from({ length: model.layers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  const shape = [1, model.heads, 0, model.width / model.heads];
  const none = names.map((name) => [`past.${name}`, new ort.Tensor("float32", new Float32Array(), shape)]);
  /** The cache after each length that is gone back to: the last pass's, and what it began with. */
  const states = new Map<number, Record<string, OnnxTensor>>();
  let length = 0;
  return {
    async append(tokens, head) {
      const whole = (values: readonly number[]) =>
        new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
      const out = await session.run({
        ...length === 0 ? Object.fromEntries(none) : states.get(length)!,
        input_ids: whole(tokens),
        position_ids: whole(tokens.map((_, i) => length + i)),
      });
      for (const other of states.keys()) if (other !== length) states.delete(other);
      length += tokens.length;
      states.set(length, Object.fromEntries(names.map((name) => [`past.${name}`, out[`present.${name}`]])));
      return out.logits.data.subarray((tokens.length - head) * model.vocabSize);
    },
    truncate(to) {
      length = to;
    },
  };
}

async function ownRunner(weights: Weights, dtype: Dtype, threads: number): Promise<Runner> {
  const model = await loadAsCausal(weights, await createWasmBackend({ threads }), { dtype });
  const cache = model.newCache();
  return {
    append: (tokens, headRows) => model.forward(tokens, cache, { headRows }).read(),
    truncate: (length) => cache.truncate(length),
  };
}

/** The whole engine: a drafter and the target's law at temperature 1, a new text each time. */
async function speculating(drafter: string, dtype: Dtype, threads: number): Promise<Runner> {
  const engine = await loadEngine({ drafter, threads, dtype });
  let seed = 0;
  return {
    async generate(count) {
      const prompt = PROMPTS[seed % PROMPTS.length];
      const { tokens, stats } = await engine.generate(prompt, {
        seed: ++seed,
        maxTokens: count,
        stopTokens: [],
      });
      return { ms: 1000 / stats.tokensPerSecond, firstMs: stats.timeToFirstTokenMs, tokens };
    },
    append() {
      throw new Error("Cannot measure: only whole texts are speculated");
    },
    truncate() {},
  };
}

function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let v = 1; v < logits.length; v++) if (logits[v] > logits[best]) best = v;
  return best;
}

async function obey(order: Order, runner: Runner, vocabSize: number): Promise<Omit<Answer, "peakBytes">> {
  const text = (count: number) => [...madeUpText(count, Math.min(vocabSize, 2048))];
  const times: number[] = [];
  const timed = async <T>(work: () => T | Promise<T>): Promise<T> => {
    const start = performance.now(), result = await work();
    times.push(performance.now() - start);
    return result;
  };
  runner.truncate(0);
  if (order.what === "pass") {
    await runner.append(text(order.context), 1);
    for (let i = 0; i < order.times; i++) {
      await timed(() => runner.append(text(order.rows), order.rows));
      runner.truncate(order.context);
    }
    return { ms: quantile(times.sort((a, b) => a - b), 0.5) };
  }
  if (runner.generate !== undefined) return runner.generate(order.tokens);
  const tokens: number[] = [];
  let logits = await timed(() => runner.append(text(order.context), 1));
  const firstMs = times.pop()!;
  for (let i = 0; i < order.tokens; i++) {
    logits = await timed(() => {
      tokens.push(likeliest(logits));
      return runner.append(tokens.slice(-1), 1);
    });
  }
  return { ms: times.reduce((sum, ms) => sum + ms, 0) / times.length, firstMs, tokens };
}

async function open(engine: string, model: string, dtype: Dtype, threads: number): Promise<Runner> {
  const drafter = /^specdiff \+ (.*)$/.exec(engine)?.[1];
  if (drafter !== undefined) return speculating(drafter, dtype, threads);
  const weights = model === "124M" ? noiseGpt2() : await openCheckpoint(embeddedTarget());
  return ownRunner(weights, dtype, threads);
}

async function openOnnx(
  engine: string,
  config: Weights["config"],
  file: string,
  threads: number,
): Promise<Runner> {
  const ort: Onnx = await import(`npm:${engine}@${ONNXRUNTIME}`);
  return await onnxRunner(ort, engine === "onnxruntime-web" ? "wasm" : "cpu", sizesIn(config), file, threads);
}

if (import.meta.main) {
  const [engine, model, dtype, threads, file] = Deno.args;
  const config = model === "124M"
    ? noiseGpt2().config
    : JSON.parse(await Deno.readTextFile(new URL("config.json", embeddedTarget())));
  const runner = file === undefined
    ? await open(engine, model, dtype as Dtype, Number(threads))
    : await openOnnx(engine, config, file, Number(threads));
  const say = (line: unknown) => console.log(JSON.stringify(line));
  say({ ready: true });
  for await (const line of linesOf(textOf(Deno.stdin.readable))) {
    const answer = await obey(JSON.parse(line), runner, Number(config.vocab_size));
    say({ ...answer, peakBytes: peakBytes() });
  }
  Deno.exit(0); // whatever threads an engine left behind
}
