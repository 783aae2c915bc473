/**
 * What the command line is made of, in this process: options, output and input, tables, the machine, and methods that
 * take turns. The program as a whole is `cli_test.ts`'s matter.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type TensorData, writeSafetensors } from "../fixtures/write_safetensors.ts";
import { parseCommandLine, UsageError, type Values } from "../src/cli/args.ts";
import { engineOptions, generateOptions, readText } from "../src/cli/command.ts";
import { report } from "../src/cli/compare.ts";
import { describe, show } from "../src/cli/generate.ts";
import { inspect } from "../src/cli/inspect.ts";
import { describeMachine } from "../src/cli/machine.ts";
import { measure } from "../src/cli/measure.ts";
import { Output, printable, readInput, table, type Terminal } from "../src/cli/terminal.ts";
import type { Round } from "../src/decode/loop.ts";
import { StatisticsCollector } from "../src/decode/metrics.ts";
import type { Engine, GenerateOptions } from "../src/engine.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { fixture, tensorsOf, visible, withFolder } from "./helpers.ts";

/** A sink in memory. */
function memory(
  isTerminal: boolean,
): { writeSync(bytes: Uint8Array): number; isTerminal(): boolean; text: string } {
  return {
    text: "",
    writeSync(bytes) {
      // pipes may take less than they are given
      const taken = bytes.subarray(0, 5);
      this.text += String.fromCharCode(...taken);
      return taken.length;
    },
    isTerminal: () => isTerminal,
  };
}

/** What was written to a sink, which holds one character per byte. */
function utf8(bytes: string): string {
  return new TextDecoder().decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)));
}

/** Standard streams in memory. */
function terminal(input: string = ""): Terminal {
  return {
    out: new Output(memory(false)),
    err: new Output(memory(false)),
    input: () => Promise.resolve(input),
  };
}

Deno.test("options become values, wherever they stand", () => {
  const { command, words, values } = parseCommandLine([
    ...[
      "--json",
      "generate",
      "--gamma",
      "3",
      "a prompt",
      "--top-p=0.5",
      "--stop",
      "x",
      "--stop=--",
      "--seed",
    ],
    ...[
      "18446744073709551615",
      "--drafter",
      "sedd,gpt2",
      "--drafter",
      "ngram",
      "--sigma",
      "schedule",
      "--",
      "--json",
    ],
  ]);
  assert.equal(command, "generate");
  assert.deepEqual(words, ["a prompt", "--json"]);
  assert.deepEqual(values, {
    json: true,
    gamma: 3,
    "top-p": 0.5,
    stop: ["x", "--"],
    seed: 2n ** 64n - 1n,
    drafter: ["sedd", "gpt2", "ngram"],
    sigma: "schedule",
  });
  assert.deepEqual(parseCommandLine(["score", "--tokens", "1, 2,3"]).values, { tokens: [1, 2, 3] });
  assert.deepEqual(parseCommandLine(["score", "--gamma", "auto"]).values, { gamma: "auto" });
  assert.deepEqual(parseCommandLine(["-h"]), { command: undefined, words: [], values: { help: true } });
});

Deno.test("options that cannot be understood say what they are and what was expected", () => {
  const faults: readonly (readonly [string, RegExp])[] = [
    ["--bogus", /^unknown option "--bogus"/],
    ["-x", /^unknown option "-x"/],
    ["--constructor", /^unknown option/],
    ["--gamma", /^--gamma has no value, expected an integer of at least 1, or auto$/],
    ["--gamma --json", /^--gamma has no value/],
    ["--gamma 0", /^--gamma is "0", expected an integer of at least 1, or auto$/],
    ["--gamma -1", /^--gamma is "-1"/],
    ["--gamma 2.5", /^--gamma is "2.5"/],
    ["--gamma=", /^--gamma is ""/],
    ["--max-tokens ten", /^--max-tokens is "ten"/],
    ["--temperature -0.5", /^--temperature is "-0.5", expected a number of at least 0$/],
    ["--max-tokens 0", /^--max-tokens is "0", expected an integer of at least 1$/],
    ["--temperature=", /^--temperature is ""/],
    ["--temperature Infinity", /^--temperature is "Infinity"/],
    ["--top-p 0", /^--top-p is "0", expected a number in \(0, 1\]$/],
    ["--top-p 1.1", /^--top-p is "1.1"/],
    ["--top-k 1.5", /^--top-k is "1.5"/],
    ["--seed -1", /^--seed is "-1", expected an integer in \[0, 2\^64\)$/],
    ["--seed 18446744073709551616", /^--seed is/],
    ["--sigma Infinity", /^--sigma is "Infinity"/],
    ["--sigma 0", /^--sigma is "0", expected a positive number, or schedule$/],
    ["--rule greedy", /^--rule is "greedy", expected one of block, ordered, /],
    ["--order up", /^--order is "up"/],
    ["--dtype f64", /^--dtype is "f64", expected one of f32, f16, bf16, int8$/],
    ["--device gpu", /^--device is "gpu"/],
    ["--draft-device cuda:x", /^--draft-device is "cuda:x", expected one of auto, .*, cuda, cuda:N$/],
    ["--tokens 1,,2", /^--tokens is "1,,2", expected token ids/],
    ["--tokens 1.5", /^--tokens is "1.5"/],
    ["--drafter sedd,", /^--drafter is "sedd,"/],
    ["--stop=", /^--stop is ""/],
    ["--json=yes", /^--json is "yes", expected no value$/],
  ];
  for (const [line, message] of faults) {
    const parse = () => parseCommandLine(["generate", ...line.split(" ")]);
    assert.throws(parse, (error) => error instanceof UsageError && message.test(error.message), line);
  }
});

Deno.test("options at the ends of their ranges are valid", () => {
  const valuesOf = (line: string) => parseCommandLine(["generate", ...line.split(" ")]).values;
  assert.deepEqual(valuesOf("--temperature 0 --top-k 0 --top-p 1 --max-tokens 1 --gamma 1"), {
    ...{ temperature: 0, "top-k": 0, "top-p": 1 },
    ...{ "max-tokens": 1, gamma: 1 },
  });
  assert.deepEqual(valuesOf("--seed 0"), { seed: 0n });
  assert.deepEqual(valuesOf("--seed 0xfF"), { seed: 255n });
  assert.deepEqual(valuesOf("-V"), { version: true });
});

Deno.test("each option reaches what it is for", () => {
  const { values } = parseCommandLine([
    ...["generate", "--target", "a", "--drafter", "b", "--device", "wasm", "--draft-device", "reference"],
    ...["--dtype", "bf16", "--draft-dtype", "f32", "--threads", "3", "--rule", "block", "--gamma", "5"],
    ...["--steps", "2", "--order", "random", "--draft-context", "6", "--context-cache", "draft"],
    ...["--sigma", "1.5", "--hot-start", "--temperature", "0.7", "--top-k", "8", "--top-p", "0.9"],
    ...["--seed", "4", "--max-tokens", "10", "--stop", "end"],
  ]);
  assert.deepEqual(generateOptions(values), {
    ...{ rule: "block", gamma: 5, steps: 2, order: "random", draftContext: 6, contextCache: "draft" },
    ...{ sigma: 1.5, hotStart: true, temperature: 0.7, topK: 8, topP: 0.9, seed: 4n, maxTokens: 10 },
    stop: ["end"],
  });
  const { hub: _, ...options } = engineOptions(values, terminal());
  assert.deepEqual(options, {
    ...{ target: "a", drafter: ["b"], device: "wasm", draftDevice: "reference" },
    ...{ dtype: "bf16", draftDtype: "f32", threads: 3 },
  });
  assert.equal(engineOptions({ drafter: ["none"] }, terminal()).drafter, null);
});

Deno.test("an option of devices or drafters is refused only where it would have no effect", () => {
  const refused: readonly Values[] = [
    { threads: 2, device: "reference" },
    { threads: 2, device: "cuda:1", "draft-device": "reference" },
    { drafter: ["ngram"], "draft-dtype": "f32" },
    { target: "a", "draft-device": "wasm" },
  ];
  for (const values of refused) assert.throws(() => engineOptions(values, terminal()), UsageError);
  const accepted: readonly Values[] = [
    { threads: 2 },
    { threads: 2, device: "wasm" },
    { threads: 2, device: "reference", "draft-device": "wasm" },
    { drafter: ["ngram", "sedd"], "draft-dtype": "f32" },
    { "draft-device": "wasm" }, // of the embedded drafter
  ];
  for (const values of accepted) assert.doesNotThrow(() => engineOptions(values, terminal()));
});

Deno.test("one final newline of standard input is no part of the text", async () => {
  const read = (input: string) => readText([], "PROMPT", terminal(input));
  assert.equal(await read("a \n"), "a ");
  assert.equal(await read("a\r\n"), "a");
  assert.equal(await read("a\n\n"), "a\n");
  assert.equal(await read("a"), "a");
  await assert.rejects(read("\n"), { name: "UsageError", message: "the PROMPT is empty" });
});

Deno.test("output is written whole, coloured only for people, and never left on an open line", () => {
  const pipe = memory(false), plain = new Output(pipe);
  plain.write(plain.styled("accepted", "twelve bytes"));
  plain.progress("nobody looks");
  plain.progress("");
  plain.endLine();
  plain.endLine();
  assert.equal(pipe.text, "twelve bytes\n");

  const screen = memory(true), coloured = new Output(screen, true);
  coloured.write(coloured.styled("corrected", "the"));
  assert.match(visible(screen.text), /^␛\[[\d;]+mthe␛\[0m$/);
  coloured.progress("run 1");
  coloured.progress("");
  coloured.endLine();
  assert.ok(screen.text.endsWith("\r\x1b[Krun 1\r\x1b[K"));

  const narrow = memory(true), progress = new Output(narrow, true, () => 10);
  // neither is what is shown shown again, nor may it wrap
  for (const text of ["run 1", "run 1", "loading x: 9 %", "a loading x: 9 %", "", ""]) {
    progress.progress(text);
  }
  assert.equal(
    visible(utf8(narrow.text)),
    "\r␛[Krun 1\r␛[K…g x: 9 %\r␛[K",
  );
});

Deno.test("output to a person is coloured unless NO_COLOR is set, which --color overrules", async () => {
  const module = new URL("../src/cli/terminal.ts", import.meta.url);
  const script = `
    import { Output } from "${module}";
    const sink = (isTerminal) => ({ writeSync: (bytes) => bytes.length, isTerminal: () => isTerminal });
    const outputs = [new Output(sink(true)), new Output(sink(false)), new Output(sink(true), true)];
    console.log(JSON.stringify(outputs.map(({ color }) => color)));
  `;
  const colors = async (noColor: string) => {
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", "--quiet", script],
      env: { NO_COLOR: noColor },
    }).output();
    assert.equal(new TextDecoder().decode(stderr), "");
    return JSON.parse(new TextDecoder().decode(stdout));
  };
  assert.deepEqual(await colors(""), [true, false, true]); // empty is as good as not set
  assert.deepEqual(await colors("1"), [false, false, true]);
});

Deno.test("output that cannot be written says so; a pipe that is closed is another matter", () => {
  const failing = (error: Error) =>
    new Output({
      isTerminal: () => false,
      writeSync() {
        throw error;
      },
    });
  const full = failing(new Error("No space left on device (os error 28)"));
  assert.throws(() => full.line("x"), {
    message: "Cannot write the output: No space left on device (os error 28)",
  });
  full.endLine(); // what was not written is not ended
  const closed = new Deno.errors.BrokenPipe("broken pipe");
  assert.throws(() => failing(closed).line("x"), closed);
});

Deno.test("output that is not to wait, and is full, is tried again until all is written", () => {
  const sink = memory(false), write = sink.writeSync.bind(sink);
  let tries = 0;
  sink.writeSync = (bytes) => {
    if (tries++ % 3 !== 2) throw new Deno.errors.WouldBlock("Resource temporarily unavailable (os error 11)");
    return write(bytes);
  };
  new Output(sink).line("more than five letters");
  assert.equal(sink.text, "more than five letters\n");
});

Deno.test("what a terminal would take for a command is shown instead", () => {
  assert.equal(printable("a\x1b[2J\x07b\r\0\x7f\x9b1m\tc\n“é😀"), "a␛[2J␇b␍␀\ufffd\ufffd1m\tc\n“é😀");
});

Deno.test("standard input is text, whole and not without end", async () => {
  const read = (...chunks: Uint8Array[]) => readInput(ReadableStream.from(chunks));
  const bytes = new TextEncoder().encode("é😀\n");
  assert.equal(await read(bytes.subarray(0, 1), bytes.subarray(1, 4), bytes.subarray(4)), "é😀\n");
  assert.equal(await read(), "");
  await assert.rejects(read(Uint8Array.of(0x61, 0xff)), {
    name: "TypeError",
    message: "it is not UTF-8 text",
  });
  await assert.rejects(read(bytes.subarray(0, 3)), /it is not UTF-8 text/);
  const endless = (async function* () {
    for (;;) yield new Uint8Array(1 << 20).fill(0x61);
  })();
  await assert.rejects(readInput(endless), {
    message: "it is too long, expected at most 16777216 bytes",
  });
});

Deno.test("tables align", () => {
  assert.deepEqual(table([["a", "b", "c"], ["long", "1", "22"]], 1), ["a     b   c", "long  1  22"]);
  assert.deepEqual(table([["a", "bc"], ["long", "d"]], 2), ["a     bc", "long  d"]);
});

Deno.test("inspect counts what the model is made of, and tells a head of its own", async () => {
  using checkpoint = await openCheckpoint(fixture("parity/gpt2-bare"));
  const tensors = await tensorsOf(checkpoint);
  const inspected = async (head: TensorData, fields: object = {}): Promise<string> => {
    const files = {
      "config.json": JSON.stringify({ ...checkpoint.config, ...fields }),
      "model.safetensors": writeSafetensors([...tensors, head]),
    };
    const sink = memory(false);
    await withFolder(files, (folder) => {
      return inspect.run({ command: "inspect", words: [folder], values: {} }, {
        ...terminal(),
        out: new Output(sink),
      });
    });
    return sink.text;
  };
  // its masks are no parameters
  const own = tensors.filter(({ name }) => !/\.attn\.(masked_)?bias$/.test(name));
  assert.ok(own.length < tensors.length);
  const parameters = own.reduce((sum, { data }) => sum + (data as Float32Array).length, 0);
  const embedding = tensors.find(({ name }) => name === "wte.weight")!;
  const head = { ...embedding, name: "lm_head.weight" };
  const tied = await inspected(head);
  assert.match(tied, /^head +the embedding$/m);
  assert.match(tied, new RegExp(`^parameters +${parameters}$`, "m"));
  const other = { ...head, data: (head.data as Float32Array).map((x) => -x) };
  const differing = await inspected(other);
  assert.match(
    differing,
    /^head +its own, as lm_head\.weight differs from the embedding: .* should be false$/m,
  );
  assert.match(differing, new RegExp(`^parameters +${parameters + other.data.length}$`, "m"));
  assert.match(await inspected(other, { tie_word_embeddings: false }), /^head +its own$/m);
});

Deno.test("the machine is described as far as permissions go, without asking", {
  permissions: { sys: ["osRelease"] },
}, () => {
  const machine = describeMachine("a toy");
  assert.equal(machine.cpu, null);
  assert.equal(machine.os, `${Deno.build.os} ${Deno.osRelease()}`);
  assert.equal(machine.device, "a toy");
  assert.ok(machine.cores >= 1);
});

/** An engine of constant texts: under `coupled`, drafter "wrong" differs from plain decoding in its last token. */
function toyEngine(asked: GenerateOptions[]): Engine {
  const speeds: Record<string, number> = { plain: 100, right: 250, wrong: 50 };
  const toy: Pick<Engine, "drafters" | "device" | "dtype" | "draftDevice" | "generate" | "unused"> = {
    drafters: ["right", "wrong"],
    unused: ({ drafter }) => drafter === "wrong" ? ["steps"] : [],
    device: "a toy",
    dtype: "bf16",
    draftDevice: "a toy",
    generate(_, options = {}) {
      asked.push(options);
      const { drafter } = options;
      const name = drafter ?? "plain";
      const drafting = drafter !== null;
      const collector = new StatisticsCollector({
        promptTokens: 1,
        ...(drafting ? { drafter: { name: "diffusion (toy)", leftToRight: true }, rule: "ordered" } : {}),
      });
      for (let round = 0; round < 2; round++) {
        collector.add({
          tokens: drafting ? [1, 2] : [1],
          from: drafting ? ["accepted", "corrected"] : ["target"],
          draft: drafting ? [1, 3] : [],
          accepted: drafting ? 1 : 0,
          draftPasses: 1,
          prefillMs: 0,
          draftMs: 1,
          verifyMs: 2,
          totalMs: 1000 * (drafting ? 2 : 1) / speeds[name],
        });
      }
      const differs = options.rule === "coupled" && name === "wrong";
      return Promise.resolve({ text: "", tokens: differs ? [1, 2] : [1, 1], stats: collector.statistics() });
    },
  };
  return toy as Engine;
}

Deno.test("compare takes turns with the same seeds, and tells a text that is not plain decoding's", async () => {
  const asked: GenerateOptions[] = [];
  const { rows, settings } = await measure(
    toyEngine(asked),
    {
      prompts: ["a", "b"],
      repetitions: 2,
      maxTokens: 4,
      options: { seed: 7n, steps: 2, gamma: 3, topK: undefined },
    },
    () => {},
  );
  assert.deepEqual(rows.map((row) => row.method), ["plain", "diffusion right", "diffusion wrong"]);
  assert.deepEqual(rows.map((row) => row.equalsPlainUnderCoupled), [null, true, false]);
  assert.deepEqual(rows.map((row) => row.runs), [4, 4, 4]);
  assert.deepEqual(rows.map((row) => Number(row.speedup.toFixed(9))), [1, 2.5, 0.5]);
  assert.deepEqual(rows.map((row) => row.meanAcceptanceLength), [1, 2, 2]);
  assert.deepEqual(rows.map((row) => row.acceptanceRatePerPosition), [[], [1, 0], [1, 0]]);
  assert.deepEqual(rows[1].msPerRound, { draft: 1, verify: 2, other: 5 });
  assert.deepEqual(rows.map((row) => row.gamma), [0, 3, 3]); // as asked for, if shorter drafts came
  assert.deepEqual([settings.seed, settings.dtype], ["7", "bf16"]);
  assert.deepEqual(settings.options, { steps: 2, gamma: 3 });
  // of one set of options, each drafter is given what it has a use for
  assert.ok(asked.every(({ drafter, steps }) => steps === (drafter === "wrong" ? undefined : 2)));

  // no text ends early, except by the context
  assert.ok(asked.every(({ stopTokens }) => stopTokens?.length === 0));

  const timed = asked.filter((options) => options.maxTokens === 4 && options.rule === undefined);
  assert.deepEqual(timed.map(({ drafter, seed }) => [drafter, seed]), [
    ...[[null, 7n], ["right", 7n], ["wrong", 7n], [null, 8n], ["right", 8n], ["wrong", 8n]],
    ...[[null, 9n], ["right", 9n], ["wrong", 9n], [null, 10n], ["right", 10n], ["wrong", 10n]],
  ]);
  // no text before them had a seed of theirs; under coupled a text is plain decoding's, whose seed it has
  assert.ok(asked.slice(0, 3).every(({ seed }) => seed === 11n));
  const coupled = asked.filter(({ rule }) => rule === "coupled");
  assert.deepEqual(coupled.map(({ seed }) => seed), [7n, 8n, 7n, 8n]);
});

Deno.test("compare tells the median, the quartiles and a text that differs in any way", async () => {
  const speeds: Record<string, readonly number[]> = {
    plain: [400, 100, 300, 200],
    late: [40, 10, 100, 20],
  };
  // under `coupled`: different only in the first text, cut short, and too long
  const texts: Record<string, (tokens: number[], seed: number) => number[]> = {
    first: (tokens, seed) => seed === 1 ? [...tokens.slice(1), 0] : tokens,
    short: (tokens) => tokens.slice(1),
    long: (tokens) => [...tokens, 0],
  };
  const toy = toyEngine([]);
  const engine: Pick<Engine, "drafters" | "device" | "dtype" | "draftDevice" | "generate" | "unused"> = {
    ...toy,
    unused: () => [],
    drafters: ["late", "first", "short", "long"],
    async generate(prompt, options = {}) {
      const { stats, text } = await toy.generate(prompt, { ...options, drafter: options.drafter && "right" });
      const name = options.drafter ?? "plain", seed = Number(options.seed), tokens = [seed, seed];
      const tokensPerSecond = speeds[name]?.[seed - 1] ?? 1;
      return {
        text,
        tokens: options.rule === "coupled" ? texts[name]?.(tokens, seed) ?? tokens : tokens,
        // half of the rounds of "late" have no draft, and "short" never drafts
        stats: {
          ...stats,
          tokensPerSecond,
          ...(name === "late" ? { plainRounds: 1 } : {}),
          ...(name === "short" ? { draftTokens: 0, acceptedTokens: 0 } : {}),
        },
      };
    },
  };
  const settings = { prompts: ["a", "b"], repetitions: 2, maxTokens: 2, options: {} };
  const { rows } = await measure(engine as Engine, settings, () => {});
  const [plain, late, , short] = rows;
  assert.deepEqual([plain.tokensPerSecond, plain.tokensPerSecondQuartiles], [250, [175, 325]]);
  assert.deepEqual([late.tokensPerSecond, late.tokensPerSecondQuartiles], [30, [17.5, 55]]);
  // turn by turn: 0.1, 0.1, ⅓, 0.1
  assert.equal(late.speedup, 0.1);
  assert.deepEqual(late.speedupQuartiles.map((ratio) => ratio.toFixed(4)), ["0.1000", "0.1583"]);
  assert.deepEqual([plain.plainShare, late.plainShare, short.plainShare], [1, 0.5, 0]);
  assert.equal(short.draftAcceptanceRate, 0);
  assert.equal(late.draftAcceptanceRate, 0.5);
  assert.deepEqual(rows.map((row) => row.equalsPlainUnderCoupled), [null, true, false, false, false]);
});

Deno.test("compare fails after the table if a text under coupled is not plain decoding's", async () => {
  const sink = memory(false);
  const reported = report(toyEngine([]), ["a"], 2, { "max-tokens": 4 }, {
    ...terminal(),
    out: new Output(sink),
  });
  await assert.rejects(reported, /^Error: Cannot vouch for diffusion wrong: /);
  const out = utf8(sink.text);
  assert.match(out, /^plain +100\.0 +1\.00× +1\.00 +1\.00 \+ 2\.00$/m);
  assert.match(
    out,
    /^diffusion right +2 +ordered +250\.0 +2\.50× \(2\.50–2\.50\) +2\.00 +1\.00 \.00 +1\.00 \+ 2\.00 +yes$/m,
  );
  assert.match(out, /^diffusion wrong +2 +ordered +50\.0 .* NO$/m);
  assert.match(
    out,
    /^Prompts: 1; runs on each: 2; seeds: one per run, from 1; tokens: at most 4 each; every /m,
  );
});

/** A stream of one token of each origin, with a control character in the last. */
function toyStream(): Engine {
  const origins = ["accepted", "corrected", "bonus", "target"] as const;
  const texts = ["a", "b", "c", "\x07"];
  const collector = new StatisticsCollector({ promptTokens: 1 });
  const toy = {
    drafters: ["toy"],
    async *stream() {
      const pieces = origins.map((origin, i) => ({ token: i, text: texts[i], origin }));
      yield { text: texts.join(""), pieces, stats: collector.statistics() };
      return { text: texts.join(""), tokens: [0, 1, 2, 3], stats: collector.statistics() };
    },
  };
  return toy as unknown as Engine;
}

Deno.test("each origin has its own colour, and only a terminal is kept from control characters", async () => {
  const shown = async (prompt: string | number[], isTerminal: boolean, color: boolean, draft: boolean) => {
    const sink = memory(isTerminal);
    await show(toyStream(), prompt, {}, { ...terminal(), out: new Output(sink, color) }, draft);
    return visible(utf8(sink.text));
  };
  const colours = "␛[38;5;28ma␛[0m␛[38;5;164mb␛[0m␛[1;38;5;32mc␛[0m";
  assert.equal(await shown("x", false, true, true), `${colours}\x07\n`);
  assert.equal(await shown("x", true, true, true), `␛[2mx␛[0m${colours}␇\n`);
  assert.equal(await shown("x", true, true, false), "abc␇\n"); // without the prompt and colours
  assert.equal(await shown([7, 8], true, false, true), "7,8,0,1,2,3\n");
  assert.equal(await shown([7, 8], false, false, false), "0,1,2,3\n");
});

Deno.test("statistics tell plain decoding, the end of the context, and a drafter that never drafted", () => {
  const round: Round = {
    ...{ tokens: [1], from: ["target" as const], draft: [], accepted: 0, draftPasses: 0, prefillMs: 0 },
    ...{ draftMs: 0, verifyMs: 5, totalMs: 10 },
  };
  const plain = new StatisticsCollector({ promptTokens: 1, seed: 7 });
  plain.add({ ...round, finishReason: "context" });
  assert.equal(
    describe(plain.statistics()),
    "1 tokens up to the end of the context, 100.0 tokens/s, plain decoding, seed 7",
  );
  const idle = new StatisticsCollector({
    ...{ promptTokens: 1, seed: 7, rule: "block" },
    drafter: { name: "n-gram", leftToRight: true },
  });
  idle.add(round);
  assert.equal(
    describe(idle.statistics()),
    "1 tokens, 100.0 tokens/s, τ 1.00 tokens per round, nothing drafted, n-gram, γ 0.0 on average, " +
      "0.0 passes of the drafter per draft, 1 of 1 rounds without a draft, rule block (exact), seed 7",
  );
});
