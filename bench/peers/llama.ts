/**
 * llama.cpp as a peer, on GGUFs of the same weights: its own benchmark program, which decodes without choosing tokens,
 * and its server, which has speculative decoding.
 *
 * @module
 */

import { PROMPTS } from "../../src/cli/compare.ts";
import { peakBytes } from "../peak.ts";
import type { Answer, Order } from "./peer.ts";

/** Milliseconds from one look at the memory of a program to the next. */
const LOOK = 20;

/** What a program prints, and its peak memory as it was when last looked at. */
async function outputOf(
  program: string,
  args: readonly string[],
): Promise<{ success: boolean; out: string; errors: string; peak: number | null }> {
  const child = new Deno.Command(program, { args: [...args], stdout: "piped", stderr: "piped" }).spawn();
  let peak: number | null = null;
  const timer = setInterval(() => peak = peakBytes(child.pid) ?? peak, LOOK);
  try {
    const { success, stdout, stderr } = await child.output();
    return {
      success,
      out: new TextDecoder().decode(stdout),
      errors: new TextDecoder().decode(stderr),
      peak,
    };
  } finally {
    clearInterval(timer);
  }
}

/** One run of its benchmark. */
interface Bench {
  /** Nanoseconds of each repetition, ascending. */
  readonly samples: readonly number[];
  readonly peak: number | null;
  readonly version: string;
}

/** The program reads so many tokens after `context`, or generates them. */
async function bench(program: string, options: Readonly<Record<string, string | number>>): Promise<Bench> {
  const args = Object.entries(options).flatMap(([name, value]) => [name, String(value)]);
  const { success, out, errors, peak } = await outputOf(program, [...args, "-o", "json"]);
  if (!success) throw new Error(errors.trim().split("\n").at(-1));
  const [{ samples_ns: samples, build_number, build_commit }] = JSON.parse(out);
  samples.sort((a: number, b: number) => a - b);
  return { samples, peak, version: `build ${build_number} (${build_commit})` };
}

/**
 * Runs one order; the program loads the model anew each time, which is not counted. It asks for the logits of a pass's last
 * row alone.
 */
export async function llamaBench(
  program: string,
  model: string,
  threads: number,
  order: Order,
): Promise<Answer> {
  const common = { "-m": model, "-t": threads };
  if (order.what === "pass") {
    const options = { "-d": order.context, "-p": order.rows, "-n": 0, "-r": order.times };
    const { samples, peak, version } = await bench(program, { ...common, ...options });
    return { ms: samples[samples.length >> 1] / 1e6, peakBytes: peak, version };
  }
  const first = await bench(program, { ...common, "-d": 0, "-p": order.context, "-n": 0, "-r": 1 });
  const rest = await bench(program, { ...common, "-d": order.context, "-p": 0, "-n": order.tokens, "-r": 1 });
  return {
    ms: rest.samples[0] / 1e6 / order.tokens,
    firstMs: first.samples[0] / 1e6,
    peakBytes: rest.peak,
    version: rest.version,
  };
}

/** How its drafter chooses tokens: the likeliest, as it does unless told otherwise, or at random. */
export const draftSamplings = ["greedy", "probabilistic"] as const;

/**
 * Its speculative decoding at temperature 1 with a smaller model, which drafts as many tokens as it does unless told
 * otherwise: 3, which suits specdiff best here too. Both models have a vocabulary.
 */
export class LlamaServer implements Disposable {
  readonly #server: Deno.ChildProcess;
  readonly #url: string;
  #seed = 0;

  private constructor(server: Deno.ChildProcess, url: string) {
    this.#server = server;
    this.#url = url;
  }

  /** Starts it, and waits until it answers. */
  static async start(
    program: string,
    target: string,
    drafter: string,
    sampling: typeof draftSamplings[number],
    threads: number,
  ): Promise<LlamaServer> {
    const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = probe.addr;
    probe.close();
    const options = {
      "--model": target,
      "--model-draft": drafter,
      "--spec-type": "draft-simple",
      "--spec-draft-sampling": sampling,
      "--threads": threads,
      "--threads-draft": threads,
      "--parallel": 1,
      "--port": port,
    };
    const args = Object.entries(options).flatMap(([name, value]) => [name, String(value)]);
    const server = new Deno.Command(program, { args, stdout: "null", stderr: "null" }).spawn();
    let ended = false;
    server.status.then(() => ended = true);
    const url = `http://127.0.0.1:${port}`;
    for (let waited = 0; waited < 600 && !ended; waited++) {
      const ready = await fetch(`${url}/health`).then(async ({ ok, body }) => {
        await body?.cancel();
        return ok;
      }, () => false);
      if (ready) return new LlamaServer(server, url);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    if (!ended) server.kill();
    throw new Error("its server does not answer");
  }

  /** Generates a text, another each time. */
  async generate(count: number): Promise<Answer> {
    const request = {
      prompt: PROMPTS[this.#seed % PROMPTS.length],
      seed: ++this.#seed,
      n_predict: count,
      temperature: 1,
      samplers: ["temperature"],
      ignore_eos: true,
      cache_prompt: false,
    };
    const response = await fetch(`${this.#url}/completion`, {
      method: "POST",
      body: JSON.stringify(request),
    });
    if (!response.ok) throw new Error(`its server answers ${response.status}: ${await response.text()}`);
    const { timings } = await response.json();
    return {
      ms: timings.predicted_per_token_ms,
      firstMs: timings.prompt_ms,
      peakBytes: peakBytes(this.#server.pid),
    };
  }

  /** Ends it. */
  [Symbol.dispose](): void {
    this.#server.kill();
  }
}
