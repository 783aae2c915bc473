/**
 * llama.cpp as a peer, on GGUFs of the same weights: its own benchmark program, which decodes without choosing tokens,
 * and its server, which has speculative decoding.
 *
 * @module
 */

import { PROMPTS } from "../../src/cli/compare.ts";
import type { Answer, Order } from "./peer.ts";

/** Runs one order; the program loads the model anew each time, which is not counted. */
export async function llamaBench(
  program: string,
  model: string,
  threads: number,
  order: Order,
): Promise<Answer> {
  const [prompt, generate] = order.what === "decode" ? [0, order.tokens] : [order.rows, 0];
  const times = order.what === "decode" ? 1 : order.times;
  const numbers = { "-t": threads, "-d": order.context, "-p": prompt, "-n": generate, "-r": times };
  const args = [
    "-m",
    model,
    "-o",
    "json",
    ...Object.entries(numbers).flatMap(([name, n]) => [name, String(n)]),
  ];
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr).trim().split("\n").at(-1));
  const [{ samples_ns: samples, build_number, build_commit }] = JSON.parse(new TextDecoder().decode(stdout));
  samples.sort((a: number, b: number) => a - b);
  const ms = samples[samples.length >> 1] / 1e6 / Math.max(1, generate);
  return { ms, peakBytes: null, version: `build ${build_number} (${build_commit})` };
}

/**
 * Its speculative decoding at temperature 1 with a smaller model, which drafts the likeliest tokens, as many as it does
 * unless told otherwise. Both models have a vocabulary.
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
    threads: number,
  ): Promise<LlamaServer> {
    const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = probe.addr;
    probe.close();
    const options = {
      "--model": target,
      "--model-draft": drafter,
      "--spec-type": "draft-simple",
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
    const { timings } = await response.json();
    return { ms: timings.predicted_per_token_ms, peakBytes: null };
  }

  /** Ends it. */
  [Symbol.dispose](): void {
    this.#server.kill();
  }
}
