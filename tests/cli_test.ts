/**
 * The command line as people and pipes meet it, a process of its own: exit codes, what goes to which stream, and how it
 * ends. What it is made of is in `cli_parts_test.ts`; what the texts and the measurements are worth is not its matter.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { visible } from "./helpers.ts";

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
  const options = generate.out.slice(generate.out.indexOf("\nOptions:"), generate.out.indexOf("\nExamples:"));
  for (const line of options.split("\n")) assert.ok(line.length <= 110 && !line.endsWith(" "), line);
  assert.match(options, /^ {2}--drafter NAME +a folder, .*\n {25}takes several/m);
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
    ["models", "pull", "owner/name", "gpt2"],
    ["models", "rm", "owner/name", "./owner/name"],
    ["generate"], // the input is empty
    ["compare", PROMPT, ""],
    ["compare", "-", "-"],
    ["doctor", "cuda"],
    ["generate", "--json", "--show-draft", PROMPT],
    ["generate", "--color", PROMPT],
    ["help", "write"],
    ["help", "generate", "compare"],
    ["generate", "--drafter", "none", "--draft-dtype", "f32", PROMPT],
    ["compare", "--drafter", "ngram", "--draft-device", "wasm"],
    ["generate", "--target", "fixtures/parity/gpt2-bare", "--draft-dtype", "f32", "--tokens", "1"],
    ["generate", "--device", "reference", "--threads", "2", PROMPT],
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
      "plain decoding, without a --drafter, does not use --rule, --gamma",
    ],
    [["generate", "--drafter", "ngram", "--hot-start"], "drafting with ngram does not use --hot-start"],
    [
      ["generate", "--drafter", "gpt2", "--steps", "2", "--order", "random", "--draft-context", "4"],
      "drafting with gpt2 does not use --steps, --order, --draft-context",
    ],
    [["generate", "--context-cache", "draft"], "drafting with sedd-target does not use --context-cache"],
    [
      ["compare", "--drafter", "gpt2,ngram", "--sigma", "2"],
      "drafting with gpt2, ngram does not use --sigma",
    ],
    [
      ["demo", "--drafter", "none", "--steps", "2"],
      "plain decoding, without a --drafter, does not use --steps",
    ],
  ];
  const once = "has no effect with 1 step: add --steps 2 or more";
  const short: typeof lines = [
    [["generate", "--order", "random"], `--order ${once}`],
    [["generate", "--order", "confidence", "--gamma", "auto"], `--order ${once}`],
    [["generate", "--drafter", "sedd", "--context-cache", "draft"], `--context-cache draft ${once}`],
    [["generate", "--sigma", "schedule", "--steps", "1"], `--sigma schedule ${once}`],
    [
      ["generate", "--steps", "4", "--gamma", "1"],
      "--steps has no effect on drafts of 1 token: add --gamma 2 or more",
    ],
    // one is this drafter's own
    [
      ["generate", "--drafter", "sedd", "--hot-start"],
      "--hot-start has no effect on drafts of 1 token: add --gamma 3 or more",
    ],
    [
      ["compare", "--drafter", "sedd,gpt2", "--steps", "2"],
      "--steps has no effect on drafts of 1 token: add --gamma 2 or more",
    ],
  ];
  for (const [line, unused] of [...lines, ...short]) {
    assert.deepEqual(await run([...line, PROMPT]), { code: 2, out: "", err: `error: ${unused}\n` });
  }
  // nor is one refused that any of several drafters has a use for
  const few = ["--max-tokens", "4", "--repetitions", "1"];
  for (
    const line of [
      ["compare", "--drafter", "sedd,ngram", "--context-cache", "draft", "--steps", "2", "--gamma", "2"],
      ["compare", "--drafter", "sedd,sedd-causal", "--steps", "2"],
    ]
  ) {
    const { code, err } = await run([...line, PROMPT, ...few]);
    assert.deepEqual([code, err], [0, ""]);
  }
  const auto = ["--gamma", "auto", "--hot-start", "--steps", "2", "--order", "left-to-right"];
  assert.equal((await run(["generate", PROMPT, "--max-tokens", "4", ...auto])).code, 0);
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
  assert.equal(stats.dtype, "f16");
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
  const [ids, plain, bare, one, oneAsJson] = await Promise.all([
    run(["score", "--tokens", "5,6,7,8", "--json"]),
    run(["score", "-"], `${PROMPT}\n`),
    run(["score", "--target", "fixtures/parity/gpt2-bare", "--tokens", "1,2,3"]), // has no tokenizer
    run(["score", "--tokens", "5"]),
    run(["score", "--tokens", "5", "--json"]),
  ]);
  assert.match(one.out, /\nno perplexity: there is only one token\n$/);
  assert.equal(JSON.parse(oneAsJson.out).perplexity, null);
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
  assert.match(drafter.out, /^tokenizer +in the folder or beside it$/m);
  assert.match(fed.out, /^tokenizer +Cannot load tokenizer ".*": there is no /m);
  assert.match(fed.out, /diffusion drafter, fed by its target's blocks 1, 0, with a Markov head/);
  assert.equal(unfit.code, 1);
  assert.match(
    unfit.err,
    /"specdiff\.target_width" of config\.json is 32, expected the width 384 of the target that it is loaded with; it was checked against the embedded target, --target names another$/m,
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
  assert.match(out, /^autoregressive +auto \d\.\d +block +\d/m);
  assert.match(out, /^auto: γ was chosen for each round/m);
});

Deno.test("compare tells each row's rule, and of a lossy one nothing but that", async () => {
  const { code, out } = await run([
    ...["compare", PROMPT, "--drafter", "sedd-causal,ngram", "--rule", "paper", "--order", "random"],
    ...["--gamma", "2", "--steps", "2", "--max-tokens", "8", "--repetitions", "1"],
  ]);
  assert.equal(code, 0);
  assert.match(out, /^method +γ +rule .* coupled = plain$/m);
  assert.match(out, /^plain +\d/m);
  assert.match(out, /^diffusion sedd-causal \(lossy\) +2 +paper .* –$/m);
  assert.match(out, /^n-gram +2 +paper .* yes$/m);
  assert.match(out, /, target held as f16\n$/);
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
      const words = ["generate", PROMPT, "--drafter", "sedd", "--gamma", "2", "--device", "reference"];
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
