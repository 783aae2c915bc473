/**
 * llama.cpp as a peer: its own benchmark program, on a GGUF of the same weights. It decodes without choosing
 * tokens, which costs it nothing.
 *
 * @module
 */

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
