/**
 * What `bench:paper` makes of data sets, measurements and the paper's numbers. What its figures are worth is not
 * the tests' matter.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { svg } from "../bench/charts.ts";
import { measureMethods } from "../bench/paper/measure.ts";
import { bounds, expectedPrefix, paperCells, type TaskName, tasks } from "../bench/paper/paper.ts";
import { readTexts, textsFor } from "../bench/paper/prompts.ts";
import { chartsOf, markdown, type Report } from "../bench/paper/report.ts";
import { type Effort, embedded, runTarget, tryTarget } from "../bench/paper/run.ts";
import { paperShapes, runSynthetic } from "../bench/paper/synthetic.ts";
import { gpt2, tiny } from "../tools/shapes.ts";
import { loadEngine } from "../mod.ts";
import { toPath } from "../src/hub/files.ts";
import { fixture } from "./helpers.ts";

function task(name: TaskName) {
  return tasks.find((task) => task.name === name)!;
}

Deno.test("prompts are read from every form that the data sets come in", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const write = async (name: string, text: string) => {
      await Deno.writeTextFile(join(folder, name), text);
      return join(folder, name);
    };
    const jsonl = await write(
      "webtext.jsonl",
      '{"id":0,"text":"one\\ntwo"}\r\n\n{"text":"three"}\n{"text":"four"}',
    );
    assert.deepEqual(await readTexts(jsonl, task("openwebtext"), 9), ["one\ntwo", "three", "four"]);
    assert.deepEqual(await readTexts(jsonl, task("openwebtext"), 2), ["one\ntwo", "three"]);
    const lm1b = await write("news.en-00001-of-00100", "A sentence .\n\nÄ second ★ .\n");
    assert.deepEqual(await readTexts(lm1b, task("lm1b"), 9), ["A sentence .", "Ä second ★ ."]);
    assert.deepEqual(await readTexts(await write("a.txt", "one\ntwo"), task("openwebtext"), 9), ["one\ntwo"]);
    await Deno.mkdir(join(folder, "stories"));
    await write("stories/b.story", "Second.\n\n@highlight\n\nno");
    await write("stories/a.story", "First.\n\n@highlight\n\nno");
    const stories = await readTexts(join(folder, "stories"), task("cnn-dm"), 9);
    assert.deepEqual(stories, ["First.\n\n", "Second.\n\n"]);
    // a checkout of a data set: folders within folders, and files that are no texts
    await Deno.mkdir(join(folder, "set/3.0.0"), { recursive: true });
    await write("set/README.md", "not a text");
    await write("set/.gitattributes", "not one either");
    await write("set/a.json", '[{"text":"of an array"}, {"text":"and more"}]');
    const packed = new Blob(['{"text":"packed"}\n']).stream().pipeThrough(new CompressionStream("gzip"));
    await Deno.writeFile(join(folder, "set/3.0.0/b.jsonl.gz"), packed);
    assert.deepEqual(await readTexts(join(folder, "set"), task("openwebtext"), 9), [
      "packed",
      "of an array",
      "and more",
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a Parquet file gives the first texts of its column", async () => {
  const path = toPath(fixture("parquet/snappy.parquet"));
  assert.deepEqual(await readTexts(path, task("openwebtext"), 2), ["the first text", "ein zweiter ★"]);
  await assert.rejects(readTexts(path, task("cnn-dm"), 2), /article/);
});

Deno.test("a data set on the hub is read by name, as far as it is needed", async () => {
  const parquet = await Deno.readFile(fixture("parquet/snappy.parquet"));
  const asked: string[] = [];
  const serve = (request: Request): Response => {
    const { pathname, origin } = new URL(request.url), range = request.headers.get("range");
    asked.push(`${request.method} ${pathname}${range === null ? "" : " in part"}`);
    const list = (configs: Record<string, string[]>) =>
      Response.json(Object.fromEntries(
        Object.entries(configs).map(([config, splits]) => [
          config,
          Object.fromEntries(splits.map((split) => [split, [`${origin}/${config}/${split}/0.parquet`]])),
        ]),
      ));
    switch (pathname) {
      case "/api/datasets/owner/news/parquet":
        return list({ "1.0.0": ["train"], "3.0.0": ["train", "validation", "test"], "2.0.0": ["test"] });
      case "/api/datasets/owner/web/parquet":
        return list({ default: ["train"], other: ["test"] });
      case "/api/datasets/owner/bare/parquet":
        return Response.json({});
    }
    if (!pathname.endsWith("/0.parquet")) return new Response(null, { status: 404 });
    if (!pathname.startsWith("/cdn")) return Response.redirect(`${origin}/cdn${pathname}`, 302);
    if (request.method === "HEAD") {
      return new Response(null, { headers: { "content-length": `${parquet.length}` } });
    }
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(range ?? "") ?? [];
    return new Response(parquet.subarray(Number(from), to === "" ? undefined : Number(to) + 1), {
      status: 206,
    });
  };
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, serve);
  const hub = { endpoint: `http://127.0.0.1:${server.addr.port}`, offline: false };
  const read = (name: string) => readTexts(name, task("openwebtext"), 2, hub);
  for (
    const [name, place] of [
      ["owner/news", "3.0.0/test"],
      ["owner/news:2.0.0", "2.0.0/test"],
      ["owner/news:3.0.0:train", "3.0.0/train"],
      ["owner/web", "default/train"],
    ]
  ) {
    asked.length = 0;
    assert.deepEqual(await read(name), ["the first text", "ein zweiter ★"]);
    assert.ok(asked.includes(`GET /cdn/${place}/0.parquet in part`), `${name}: ${asked}`);
  }
  await assert.rejects(read("owner/news:4.0.0"), {
    message:
      'Cannot read prompts of "owner/news": it has no configuration "4.0.0", expected one of 1.0.0, 3.0.0, 2.0.0',
  });
  await assert.rejects(read("owner/web:other:train"), {
    message: 'Cannot read prompts of "owner/web": it has no split "train", expected one of test',
  });
  await assert.rejects(read("owner/bare"), /has no Parquet copy of it/);
  await assert.rejects(read("owner/none"), {
    message:
      'Cannot read prompts of "owner/none": there is neither a file or folder nor a public data set of this name ' +
      "(the hub answers 404)",
  });
  await assert.rejects(readTexts("owner/news", task("cnn-dm"), 1, hub), /article/);
  await assert.rejects(readTexts("owner/news", task("lm1b"), 1, { ...hub, offline: true }), /HF_HUB_OFFLINE/);
  await assert.rejects(
    readTexts("owner/news", task("lm1b"), 1, { ...hub, endpoint: "http://127.0.0.1:1" }),
    /^Error: Cannot read prompts of "owner\/news": the hub cannot be reached/,
  );
});

Deno.test("prompts that are not there, or have no text, are refused with their place", async () => {
  await assert.rejects(readTexts("/no/such", task("lm1b"), 1), {
    message: 'Cannot read prompts: there is no file or folder "/no/such"',
  });
  await assert.rejects(readTexts("data/prompts.jsonl", task("lm1b"), 1), {
    message: 'Cannot read prompts: there is no file or folder "data/prompts.jsonl"',
  });
  await assert.rejects(readTexts("set.tgz", task("cnn-dm"), 1), {
    message: 'Cannot read prompts: "set.tgz" is an archive, expected a file or folder; unpack it first',
  });
  const path = await Deno.makeTempFile({ suffix: ".jsonl" });
  try {
    await assert.rejects(readTexts(path, task("lm1b"), 1), {
      message: `Cannot read prompts: "${path}" has no text`,
    });
    for (const line of ['{"article": "x"}', "{", "null", '{"text": 1}']) {
      await Deno.writeTextFile(path, `{"text":"good"}\n${line}`);
      await assert.rejects(readTexts(path, task("lm1b"), 2), {
        message: `Cannot read prompts: "${path}" line 2 has no text in "text"`,
      });
    }
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("there are prompts of our own for every task", async () => {
  for (const task of tasks) {
    const { texts } = await textsFor(task, undefined, 100);
    assert.ok(texts.length >= 3 && texts.every((text) => text.length > 60), task.name);
  }
});

Deno.test("the expected prefix is what enumeration of all outcomes gives", () => {
  const alpha = 0.7, gamma = 5;
  let mean = 0;
  for (let outcome = 0; outcome < 2 ** gamma; outcome++) {
    let probability = 1, accepted = 0;
    for (let j = 0; j < gamma; j++) {
      const passes = (outcome >> j & 1) === 1;
      probability *= passes ? alpha : 1 - alpha;
      if (passes && accepted === j) accepted++;
    }
    mean += probability * accepted;
  }
  assert.ok(Math.abs(expectedPrefix(alpha, gamma) - mean) < 1e-12);
  assert.equal(expectedPrefix(1, 7), 7);
});

Deno.test("one of the paper's speed-ups exceeds what its α and γ allow", () => {
  const beyond = paperCells.filter(({ alpha, gamma, speedup }) => speedup > bounds(alpha, gamma).most);
  assert.deepEqual(beyond.map(({ task, target, gamma }) => [task, target, gamma]), [[
    "cnn-dm",
    "GPT-Neo 2.7B",
    5,
  ]]);
});

/** Everything of the synthetic run but its size. */
const smallShapes = {
  ...paperShapes,
  targets: [["GPT-2 XL", gpt2(tiny.xl)], ["GPT-Neo 2.7B", tiny.neo]] as const,
  ...{ classical: gpt2(tiny.xl), diffusion: tiny.sedd },
  ...{ smallGamma: 2, promptTokens: 4, draftContext: 4, turns: 2, rounds: 1 },
};

Deno.test("shapes of the paper go through the loops that ship, with α put in and time taken", async () => {
  const { targets } = await runSynthetic(smallShapes, () => {});
  assert.deepEqual(targets.map(({ title }) => title), ["GPT-2 XL", "GPT-Neo 2.7B"]);
  for (const { cells, plain, bytes } of targets) {
    // each cell of the paper, and with the small γ; those of one drafter and γ are one measurement
    assert.deepEqual(cells.map(({ gamma }) => gamma), [5, 2, 40, 2, 5, 2, 45, 2, 5, 2, 30, 2]);
    const measured = Map.groupBy(cells, ({ cell, gamma }) => `${cell.method} ${gamma}`);
    assert.ok(bytes > 0 && plain.rounds === 4 * measured.size);
    for (const same of measured.values()) assert.equal(new Set(same.map(({ ms }) => ms)).size, 1);
    for (const { cell, gamma, ms, msQuartiles, tau, speedup, speedupRange, rounds } of cells) {
      assert.equal(rounds, 2);
      assert.equal(tau, 1 + expectedPrefix(cell.alpha, gamma));
      assert.ok(msQuartiles[0] <= ms && ms <= msQuartiles[1]);
      assert.ok(0 < speedupRange[0] && speedupRange[0] <= speedup && speedup <= speedupRange[1]);
    }
  }
});

Deno.test("acceptance is counted under both definitions of α", async () => {
  using engine = await loadEngine({ drafter: "gpt2" });
  const methods = [
    { title: "plain", options: { drafter: null } },
    { title: "itself", options: { drafter: "gpt2", gamma: 4 } },
  ];
  const prompts = [[5, 6, 7], [8, 9, 10]];
  const [plain, drafted] = await measureMethods(
    engine,
    methods,
    { prompts, maxTokens: 40, repetitions: 1 },
    () => {},
  );
  assert.equal(plain.speedup, 1);
  assert.deepEqual([plain.alphaDrafted, plain.alphaTested, plain.meanAcceptanceLength], [0, 0, 1]);
  // every token was tested that was drafted, but for those behind a rejection
  assert.ok(drafted.alphaTested > drafted.alphaDrafted && drafted.alphaTested < 1);
  assert.ok(drafted.acceptedPerDraft > 0 && drafted.acceptedPerDraft < 4);
  assert.equal(drafted.runs, 2);
  // under a model of 2048 tokens, texts of its own are likelier than chance and less than certain
  for (const { nats, natsError } of [plain, drafted]) {
    assert.ok(nats > 0 && nats < Math.log(2048) && natsError !== null);
  }
});

Deno.test("the report says of every cell what ran or why nothing did, and draws what it refers to", async () => {
  const effort: Effort = {
    ...{ repetitions: 1, maxTokens: 6, gridTokens: 6, gammas: [1, 2], steps: [1, 2] },
  };
  const models = { ...embedded, diffusion: ["sedd"] };
  const texts = await Promise.all(tasks.map((task) => textsFor(task, undefined, 1)));
  const told: string[] = [];
  const run = await runTarget(models, texts, effort, (text) => told.push(text));
  const synthetic = await runSynthetic({ ...smallShapes, turns: 1 }, () => {});
  const report: Report = { date: "2026-01-02", quick: false, targets: [run], synthetic };
  const text = markdown(report);
  assert.equal(text.match(/not run: no weights of this shape/g)?.length, paperCells.length);
  assert.match(text, /the paper's test +\| 40 +\| 4 +\| `paper`, \*\*lossy\*\*/);
  assert.match(text, /\*\*Synthetic acceptance: not a measurement of these models\.\*\*/);
  assert.match(text, /### Shape of GPT-Neo 2\.7B, synthetic acceptance/);
  assert.equal(text.match(/^\| [^|]+ \| SEDD small \| 0\.\d\d \| 2 /gm)?.length, 6);
  const titles = run.grids[0].cells.map(({ title }) => title);
  assert.deepEqual(titles, ["γ = 1, T = 1", "γ = 2, T = 1", "γ = 2, T = 2"]);
  const charts = chartsOf(report);
  assert.deepEqual(
    [...text.matchAll(/\]\((.*\.svg)\)/g)].map(([, file]) => file).sort(),
    charts.map(({ file }) => file).sort(),
  );
  assert.ok(told.some((line) => line.startsWith("embedded, LM1B: ")));

  // a target that fails is told, in its cells as far as its shape is known
  const failed = await tryTarget({ target: "/no/such", diffusion: [] }, texts, effort, () => {});
  assert.ok("failure" in failed && failed.title === null);
  assert.match(markdown({ ...report, failed: [failed] }), /Not run: `\/no\/such`: /);
  const known = { ...failed, title: "GPT-2 XL" as const, failure: "Cannot a | b" };
  assert.equal(
    markdown({ ...report, failed: [known] }).match(/not run: `\/no\/such`: Cannot a \\\| b/g)?.length,
    6,
  );

  // the same run as if its target had been the paper's, without a diffusion drafter
  const named = { ...run, title: "GPT-2 XL" as const, models: { classical: "gpt2", diffusion: [] } };
  const cells = markdown({ ...report, targets: [named] });
  assert.equal(cells.match(/not run: no --drafter was named/g)?.length, 3);
  assert.equal(
    cells.match(/`embedded`, 6 × 384, 23 MB as f16; `gpt2`, autoregressive, `ordered`/g)?.length,
    3,
  );
});

Deno.test("a picture escapes its texts and leaves out what there is not", () => {
  const picture = svg("a < b & c", [{
    ...{ title: "map", xLabel: "γ", yLabel: "T", x: [1, 2], y: [1, 2] },
    values: [[1, 1.5], [null, 2]],
  }]);
  assert.match(picture, /<title>a &lt; b &amp; c<\/title>/);
  assert.equal(picture.match(/fill="hsl/g)?.length, 3);
  assert.doesNotMatch(picture, /NaN|Infinity|undefined|null/);
});

Deno.test("a picture of one quantity against another joins its points and holds 0, on either side of it", () => {
  const picture = svg("trade", [{
    ...{ title: "T = 1", xLabel: "won", yLabel: "lost" },
    paths: [{ name: "a", points: [[10, -3, 1], [70, 4, 1]] }, { name: "b", points: [[50, 0, 2]] }],
    marks: ["8", "all"],
  }]);
  assert.equal(picture.match(/<polyline/g)?.length, 2);
  // those of the paths, and what their sizes mean
  assert.deepEqual([...picture.matchAll(/<circle [^>]*r="(\d)"/g)].map(([, r]) => r), [
    "2",
    "3",
    "2",
    "2",
    "3",
  ]);
  for (const label of ["all", "-4", "0", "80"]) assert.ok(picture.includes(`>${label}</text>`), label);
  assert.doesNotMatch(picture, /NaN|Infinity|undefined|null/);
});
