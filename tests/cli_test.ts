/**
 * The command line as people and pipes meet it: options, exit codes, what goes to which stream, and how it ends.
 * What the texts and the measurements are worth is not its matter.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { parseCommandLine, UsageError } from "../src/cli/args.ts";
import { describeMachine } from "../src/cli/machine.ts";
import { measure } from "../src/cli/measure.ts";
import { Output, printable, readInput, table } from "../src/cli/terminal.ts";
import { StatisticsCollector } from "../src/decode/metrics.ts";
import type { Engine, GenerateOptions } from "../src/engine.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PROMPT = "It was a dark and stormy night";

/** The program as a child process, with no permission but to read the fixtures. */
function command(args: readonly string[], env: Record<string, string> = {}): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", "--allow-read=fixtures", "cli.ts", ...args],
    cwd: ROOT,
    env,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  });
}

interface Result {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function run(args: readonly string[], input = "", env: Record<string, string> = {}): Promise<Result> {
  const child = command(args, env).spawn();
  const writer = child.stdin.getWriter();
  // a program that does not read its input may be gone by now
  await writer.write(new TextEncoder().encode(input)).catch(() => {});
  await writer.close().catch(() => {});
  const { code, stdout, stderr } = await child.output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

/** Escape sequences in sight: `␛[0m`. */
function visible(text: string): string {
  return text.replaceAll("\x1b", "␛");
}

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
    ["--temperature Infinity", /^--temperature is "Infinity"/],
    ["--top-p 0", /^--top-p is "0", expected a number in \(0, 1\]$/],
    ["--top-p 1.1", /^--top-p is "1.1"/],
    ["--top-k 1.5", /^--top-k is "1.5"/],
    ["--seed -1", /^--seed is "-1", expected an integer in \[0, 2\^64\)$/],
    ["--seed 18446744073709551616", /^--seed is/],
    ["--sigma 0", /^--sigma is "0", expected a positive number, or schedule$/],
    ["--rule greedy", /^--rule is "greedy", expected one of ordered, ratio, /],
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
  const bytes = Uint8Array.from(narrow.text, (byte) => byte.charCodeAt(0));
  assert.equal(
    visible(new TextDecoder().decode(bytes)),
    "\r␛[Krun 1\r␛[K…g x: 9 %\r␛[K",
  );
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
    message: "it has more than 16777216 bytes, expected at most that",
  });
});

Deno.test("tables align", () => {
  assert.deepEqual(table([["a", "b", "c"], ["long", "1", "22"]], 1), ["a     b   c", "long  1  22"]);
  assert.deepEqual(table([["a", "bc"], ["long", "d"]], 2), ["a     bc", "long  d"]);
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
  const toy: Pick<Engine, "drafters" | "device" | "draftDevice" | "generate" | "unused"> = {
    drafters: ["right", "wrong"],
    unused: ({ drafter }) => drafter === "wrong" ? ["steps"] : [],
    device: "a toy",
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
    { prompts: ["a", "b"], repetitions: 2, maxTokens: 4, options: { seed: 7n, steps: 2 } },
    () => {},
  );
  assert.deepEqual(rows.map((row) => row.method), ["plain", "diffusion right", "diffusion wrong"]);
  assert.deepEqual(rows.map((row) => row.equalsPlainUnderCoupled), [null, true, false]);
  assert.deepEqual(rows.map((row) => row.runs), [4, 4, 4]);
  assert.deepEqual(rows.map((row) => Number(row.speedup.toFixed(9))), [1, 2.5, 0.5]);
  assert.deepEqual(rows.map((row) => row.meanAcceptanceLength), [1, 2, 2]);
  assert.deepEqual(rows.map((row) => row.acceptanceRatePerPosition), [[], [1, 0], [1, 0]]);
  assert.deepEqual(rows[1].msPerRound, { draft: 1, verify: 2, other: 5 });
  assert.equal(settings.seed, "7");
  // of one set of options, each drafter is given what it has a use for
  assert.ok(asked.every(({ drafter, steps }) => steps === (drafter === "wrong" ? undefined : 2)));

  const timed = asked.filter((options) => options.maxTokens === 4 && options.rule === undefined);
  assert.deepEqual(timed.map(({ drafter, seed }) => [drafter, seed]), [
    ...[[null, 7n], ["right", 7n], ["wrong", 7n], [null, 7n], ["right", 7n], ["wrong", 7n]],
    ...[[null, 8n], ["right", 8n], ["wrong", 8n], [null, 8n], ["right", 8n], ["wrong", 8n]],
  ]);
});

Deno.test("help and version go to standard output", async () => {
  const [program, generate, version, ...asked] = await Promise.all([
    run(["--help"]),
    run(["generate", "--help"]),
    run(["--version"]),
    run(["help"]),
    run(["help", "help"]),
    run(["help", "generate"]),
  ]);
  assert.deepEqual(asked, [program, program, generate]);
  assert.equal(program.code, 0);
  for (const name of ["generate", "compare", "score", "inspect", "models", "demo"]) {
    assert.ok(program.out.includes(`\n  ${name} `), name);
  }
  assert.equal(generate.code, 0);
  for (const word of ["--show-draft", "--allow-read", "Exit codes", "Examples"]) {
    assert.ok(generate.out.includes(word), word);
  }
  assert.match(version.out, /^specdiff \d+\.\d+\.\d+\n$/);
  assert.equal(program.err + generate.err + version.err, "");
});

Deno.test("what is not understood is one line and exit code 2", async () => {
  const lines: readonly (readonly string[])[] = [
    [],
    ["write"],
    ["generate", "--gamma", "x", PROMPT],
    ["generate", "two", "words"],
    ["generate", "--drafter", "sedd,gpt2", PROMPT],
    ["compare", "--drafter", "none,sedd"],
    ["score", "--gamma", "2", PROMPT],
    ["score", "--tokens", "1,2", PROMPT],
    ["inspect", "fixtures/pair/target", "fixtures/pair/drafter-sedd"],
    ["inspect", "sedd", "--target", "fixtures/parity/gpt2-bare"], // which is not needed
    ["models"],
    ["models", "fetch", "owner/name"],
    ["models", "pull"],
    ["models", "rm", "--json", "owner/name"],
    ["models", "list", "owner/name"],
    ["generate"], // the input is empty
    ["compare", PROMPT, ""],
    ["compare", "-", "-"],
    ["doctor", "cuda"],
    ["generate", "--json", "--show-draft", PROMPT],
    ["generate", "--color", PROMPT],
    ["help", "write"],
    ["help", "generate", "compare"],
    ["generate", "--drafter", "none", "--drafter-dtype", "f32", PROMPT],
    ["compare", "--drafter", "ngram", "--draft-device", "wasm"],
    ["generate", "--target", "fixtures/parity/gpt2-bare", "--drafter-dtype", "f32", "--tokens", "1"],
  ];
  for (const line of lines) {
    const { code, out, err } = await run(line);
    assert.deepEqual([code, out], [2, ""], line.join(" "));
    assert.match(err, /^error: [^\n]+\n$/, line.join(" "));
  }
});

Deno.test("an option that no drafter has a use for is one line and exit code 2", async () => {
  const lines: readonly (readonly [line: readonly string[], unused: string])[] = [
    [
      ["generate", "--drafter", "none", "--gamma", "2", "--rule", "block"],
      "plain decoding has no use for --rule, --gamma",
    ],
    [["generate", "--drafter", "ngram", "--hot-start"], "drafting with ngram has no use for --hot-start"],
    [
      ["generate", "--drafter", "gpt2", "--steps", "2", "--order", "random", "--draft-context", "4"],
      "drafting with gpt2 has no use for --steps, --order, --draft-context",
    ],
    [["generate", "--context-cache", "draft"], "drafting with sedd-target has no use for --context-cache"],
    [
      ["compare", "--drafter", "gpt2,ngram", "--sigma", "2"],
      "drafting with gpt2, ngram has no use for --sigma",
    ],
    [["demo", "--drafter", "none", "--steps", "2"], "plain decoding has no use for --steps"],
  ];
  for (const [line, unused] of lines) {
    assert.deepEqual(await run([...line, PROMPT]), { code: 2, out: "", err: `error: ${unused}\n` });
  }
  // nor is one refused that any of several drafters has a use for
  const few = ["--max-tokens", "4", "--repetitions", "1"];
  const { code } = await run([
    "compare",
    PROMPT,
    "--drafter",
    "sedd,ngram",
    "--context-cache",
    "draft",
    ...few,
  ]);
  assert.equal(code, 0);
});

Deno.test("what cannot be done is one line and exit code 1", async () => {
  const lines: readonly (readonly string[])[] = [
    ["generate", "--target", "fixtures/nowhere", PROMPT],
    ["inspect", "fixtures/nowhere"], // nor may a model of that name be looked for
    ["models", "list"], // not permitted
    ["inspect", "/"], // not permitted
    ["score", "--tokens", "1,99999"],
    ["generate", "--rule", "ratio", "--order", "random", "--steps", "2", PROMPT],
    ["generate", "--target", "fixtures/parity/gpt2-bare", PROMPT], // has no tokenizer
    ["inspect", "fixtures/\x1b]0;\n\u009d".repeat(500)],
  ];
  for (const line of lines) {
    const { code, out, err } = await run(line);
    assert.deepEqual([code, out], [1, ""], line.join(" "));
    // deno-lint-ignore no-control-regex
    assert.match(err, /^error: [^\0-\x1f\x7f-\x9f]{1,1001}\n$/, line.join(" "));
  }
  const latin1 = command(["generate", "-"]).spawn();
  const writer = latin1.stdin.getWriter();
  await writer.write(Uint8Array.of(0x63, 0xe9));
  await writer.close();
  const { code, stderr } = await latin1.output();
  assert.equal(code, 1);
  assert.equal(new TextDecoder().decode(stderr), "error: Cannot read standard input: it is not UTF-8 text\n");
});

Deno.test("token ids go in, and come out as they go in", async () => {
  const settings = ["--target", "fixtures/parity/gpt2-bare", "--max-tokens", "5", "--seed", "2", "--tokens"];
  const [ids, json] = await Promise.all([
    run(["generate", ...settings, "1,2,3"]),
    run(["generate", ...settings, "1,2,3", "--json"]),
  ]);
  assert.deepEqual([ids.code, ids.err], [0, ""]);
  assert.match(ids.out, /^\d+(,\d+){4}\n$/);
  const { text, tokens } = JSON.parse(json.out);
  assert.deepEqual([text, `${tokens}\n`], ["", ids.out]);
});

Deno.test(
  "a full disk behind either stream is no crash",
  { ignore: Deno.build.os !== "linux" },
  async () => {
    const shell = (line: string) =>
      new Deno.Command("sh", { args: ["-c", line, Deno.execPath()], cwd: ROOT }).output();
    const program = '"$0" run --quiet --no-prompt --allow-read=fixtures cli.ts';
    const [full, unheard] = await Promise.all([
      shell(`${program} inspect --json > /dev/full`),
      shell(`${program} inspect fixtures/nowhere 2> /dev/full`),
    ]);
    assert.equal(full.code, 1);
    assert.equal(
      new TextDecoder().decode(full.stderr),
      "error: Cannot write the output: No space left on device (os error 28)\n",
    );
    assert.equal(unheard.code, 1);
    assert.equal(new TextDecoder().decode(unheard.stdout), "");
  },
);

Deno.test("generate prints the text and nothing else, from either kind of prompt", async () => {
  const settings = ["--seed", "5", "--max-tokens", "12"];
  const [word, input, dash, json] = await Promise.all([
    run(["generate", PROMPT, ...settings]),
    run(["generate", ...settings], `${PROMPT}\n`),
    run(["generate", "-", ...settings, "--threads", "1"], PROMPT),
    run(["generate", PROMPT, ...settings, "--json"]),
  ]);
  assert.deepEqual([word.code, word.err], [0, ""]);
  assert.ok(word.out.trim().length > 0 && word.out.endsWith("\n"));
  assert.deepEqual(input, word);
  assert.deepEqual(dash, word);
  const { text, tokens, stats, ...rest } = JSON.parse(json.out);
  assert.deepEqual(rest, {});
  assert.equal(`${text}\n`, word.out);
  assert.equal(tokens.length, 12);
  assert.equal(stats.tokens, 12);
  assert.equal(stats.seed, "5");
  assert.equal(stats.exactness, "exact");
});

Deno.test("stop strings end the text and are not part of it", async () => {
  const settings = [PROMPT, "--seed", "5", "--max-tokens", "30"];
  const whole = (await run(["generate", ...settings])).out;
  const stop = whole.slice(20, 23);
  const { out, code } = await run(["generate", ...settings, "--stop", stop, "--stop", "\u0001never"]);
  assert.equal(code, 0);
  assert.equal(out, `${whole.slice(0, whole.indexOf(stop))}\n`);
});

Deno.test("--show-draft colours what --color or a terminal allows; statistics go to standard error", async () => {
  const settings = ["generate", PROMPT, "--seed", "5", "--max-tokens", "12", "--show-draft"];
  const [pipe, coloured, silenced] = await Promise.all([
    run(settings),
    run([...settings, "--color"]),
    run([...settings, "--color"], "", { NO_COLOR: "1" }),
  ]);
  assert.ok(!visible(pipe.out + pipe.err).includes("␛"));
  assert.match(pipe.err, /12 tokens, [\d.]+ tokens\/s, τ [\d.]+ .* seed 5\n$/);
  // an option outweighs the environment
  assert.equal(silenced.out, coloured.out);
  const bare = visible(coloured.out).replace(/␛\[[\d;]+m/g, "");
  assert.notEqual(bare, coloured.out);
  assert.equal(bare, pipe.out);
  // every colour ends with the piece it was for
  assert.match(visible(coloured.out), /^(␛\[[\d;]+m[^␛]+␛\[0m|[^␛]+)*$/);
});

Deno.test("score prints logarithms that the perplexity agrees with", async () => {
  const [ids, plain, bare] = await Promise.all([
    run(["score", "--tokens", "5,6,7,8", "--json"]),
    run(["score", "-"], `${PROMPT}\n`),
    run(["score", "--target", "fixtures/parity/gpt2-bare", "--tokens", "1,2,3"]), // has no tokenizer
  ]);
  assert.deepEqual([ids.code, ids.err, plain.code, bare.code], [0, "", 0, 0]);
  const { tokens, logprobs, perplexity, ...rest } = JSON.parse(ids.out);
  assert.deepEqual(rest, {});
  assert.deepEqual(tokens, [5, 6, 7, 8]);
  assert.equal(logprobs[0], null);
  assert.ok(logprobs.slice(1).every((x: number) => x < 0));
  const mean = (logprobs[1] + logprobs[2] + logprobs[3]) / 3;
  assert.ok(Math.abs(perplexity / Math.exp(-mean) - 1) < 1e-12);
  const [, rows, scored] = /^token +id +logprob\n([^]*)\nperplexity [\d.]+ over (\d+) tokens\n$/.exec(
    plain.out,
  )!;
  assert.equal(rows.split("\n").filter((row) => /-\d+\.\d{4}$/.test(row)).length, Number(scored));
  assert.match(bare.out, /over 2 tokens\n$/);
});

Deno.test("inspect tells what a checkpoint is and needs", async () => {
  const tiny = "fixtures/parity/sedd-target-tiny";
  const [target, drafter, fed, unfit] = await Promise.all([
    run(["inspect", "--json"]),
    run(["inspect", "sedd-causal"]),
    run(["inspect", tiny, "--target", "fixtures/parity/gpt2-bare"]),
    run(["inspect", tiny]),
  ]);
  const found = JSON.parse(target.out);
  assert.equal(found.architecture, "gpt2");
  assert.deepEqual([found.layers, found.width, found.vocabSize, found.contextLength], [6, 384, 2048, 256]);
  assert.equal(found.tokenizer, true);
  assert.equal(found.weightBytes.f32, 4 * found.parameters);
  assert.equal(found.cacheBytes, 2 * 4 * 6 * 384 * 256);
  assert.ok(found.weightBytes.int8 < found.weightBytes.f16);
  assert.match(drafter.out, /diffusion drafter, causal, with a Markov head/);
  assert.match(fed.out, /diffusion drafter, fed by its target's blocks 1, 0, with a Markov head/);
  assert.equal(unfit.code, 1);
  assert.match(
    unfit.err,
    /"specdiff\.target_width" of config\.json is 32, expected the target's width 384$/m,
  );
});

Deno.test("compare prints one object, with each method and what it was measured on", async () => {
  const { code, out, err } = await run([
    ...["compare", PROMPT, "--drafter", "sedd-causal", "--drafter", "gpt2,sedd", "--json"],
    ...["--max-tokens", "10", "--repetitions", "1", "--gamma", "2"],
  ]);
  assert.deepEqual([code, err], [0, ""]);
  const { machine, rows } = JSON.parse(out);
  assert.equal(machine.cpu, null); // not permitted, not asked for
  assert.equal(machine.deno, Deno.version.deno);
  assert.deepEqual(
    rows.map((row: { method: string }) => row.method),
    ["plain", "diffusion sedd-causal", "autoregressive", "diffusion sedd"],
  );
  for (const [i, row] of rows.entries()) {
    assert.ok(row.tokensPerSecond > 0);
    assert.equal(row.equalsPlainUnderCoupled, i === 0 ? null : true, row.method);
    assert.equal(row.gamma, i === 0 ? 0 : 2);
    assert.ok(i === 0 ? row.meanAcceptanceLength === 1 : row.meanAcceptanceLength >= 1);
  }
});

Deno.test("compare tells of a chosen gamma how long the drafts were on average", async () => {
  const { code, out } = await run([
    ...[
      "compare",
      PROMPT,
      "--drafter",
      "gpt2",
      "--max-tokens",
      "12",
      "--repetitions",
      "1",
      "--gamma",
      "auto",
    ],
  ]);
  assert.equal(code, 0);
  assert.match(out, /^autoregressive +auto \d\.\d +\d/m);
  assert.match(out, /^auto: γ was chosen for each round/m);
});

Deno.test("demo colours a text, then prints the table", async () => {
  const { code, out, err } = await run([
    "demo",
    PROMPT,
    "--max-tokens",
    "8",
    "--drafter",
    "sedd-causal",
    "--color",
  ]);
  assert.equal(code, 0, err);
  assert.match(visible(out), /␛\[[^]*\nmethod +γ[^]*\nplain [^]*\ndiffusion sedd-causal [^]* yes\n/);
});

/** A text that takes long enough to be interrupted. */
const SLOW = ["generate", PROMPT, "--show-draft", "--color", "--device", "reference", "--max-tokens", "200"];

Deno.test(
  "Ctrl-C ends the line and the process, with exit code 130",
  { ignore: Deno.build.os === "windows" },
  async () => {
    const child = command(SLOW).spawn();
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let out = (await reader.read()).value ?? "";
    child.kill("SIGINT");
    for (let next = await reader.read(); !next.done; next = await reader.read()) out += next.value;
    const err = await new Response(child.stderr).text();
    await child.stdin.close();
    assert.equal((await child.status).code, 130);
    assert.match(visible(out), /␛\[0m\n$/);
    assert.match(err, /^[^\n]*bonus[^\n]*\n$/); // the legend, and no word of the interrupt
  },
);

Deno.test(
  "Ctrl-C or termination at any moment ends the process without a word",
  { ignore: Deno.build.os === "windows" },
  async () => {
    // before the program runs, while it loads, drafts and verifies: wherever these moments fall on this machine
    await Promise.all([50, 200, 400, 700].map(async (delay) => {
      const words = ["generate", PROMPT, "--drafter", "sedd", "--steps", "2", "--device", "reference"];
      for (const [signal, expected] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
        const child = command([...words, "--max-tokens", "200", "--seed", "1"]).spawn();
        await new Promise((resolve) => setTimeout(resolve, delay));
        child.kill(signal);
        const { code, stderr } = await child.output();
        await child.stdin.close();
        assert.deepEqual(
          [code, new TextDecoder().decode(stderr)],
          [expected, ""],
          `${signal} after ${delay} ms`,
        );
      }
    }));
  },
);

Deno.test("a reader that has had enough ends it without a word", async () => {
  const child = command(SLOW.filter((word) => word !== "--show-draft" && word !== "--color")).spawn();
  const reader = child.stdout.getReader();
  await reader.read();
  await reader.cancel();
  const err = await new Response(child.stderr).text();
  await child.stdin.close();
  assert.deepEqual([(await child.status).code, err], [141, ""]);
});
