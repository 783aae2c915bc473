/**
 * The package as those get it who install it: what would be published, from a registry, with the permissions that
 * the README names; and the tarball for Node. The registry is one of this machine's own. Node's part needs a Node
 * of 24 or later, the one on the path or else one that npx fetches; without, it is left out, and that is said.
 *
 * @module
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import config from "../deno.json" with { type: "json" };
import { pack } from "../node/pack.ts";
import { loadEngine } from "../src/engine.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PAIR = join(ROOT, "fixtures/pair");
const MODELS = { target: join(PAIR, "target"), drafter: join(PAIR, "drafter-sedd-target") };
const GENERATE = { seed: 7, maxTokens: 12, gamma: 3, rule: "coupled" } as const;
const PROMPT = "The captain came on deck";

/** What is run where the package was installed: says the text, then what loading without models comes to. */
function program(from: string): string {
  const attempts = [{}, { target: "owner/name" }, { target: MODELS.target, device: "cuda" }];
  return `import { loadEngine } from "${from}";
const engine = await loadEngine({ ...${JSON.stringify(MODELS)}, threads: 2 });
console.log((await engine.generate("${PROMPT}", ${JSON.stringify(GENERATE)})).text);
engine[Symbol.dispose]();
for (const attempt of [${attempts.map((options) => `() => loadEngine(${JSON.stringify(options)})`)}]) {
  await attempt().catch((error) => console.log(error.message));
}
`;
}

/** The text that every one of them must come to. */
async function expectedText(): Promise<string> {
  using engine = await loadEngine(MODELS);
  return (await engine.generate(PROMPT, GENERATE)).text;
}

async function run(
  [program, ...args]: readonly string[],
  options: Deno.CommandOptions = {},
): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args, stdin: "null", ...options })
    .output();
  const text = new TextDecoder();
  return { code, out: text.decode(stdout), err: text.decode(stderr) };
}

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Paths, from the root, of what `deno publish` would upload. */
async function publishedFiles(): Promise<string[]> {
  const { code, out, err } = await run(
    [Deno.execPath(), "publish", "--dry-run", "--allow-dirty", "--no-check"],
    { cwd: ROOT, env: { NO_COLOR: "1" } },
  );
  assert.equal(code, 0, err);
  const root = new URL("..", import.meta.url).href;
  const paths = [...(out + err).matchAll(/^ +(file:.+) \([\d.]+[KM]?B\)$/gm)].map(([, url]) => url);
  return paths.map((url) => decodeURI(url.slice(root.length)));
}

/** A file as it is published: what the import map says is written into the imports. */
async function publishedText(path: string): Promise<string> {
  let text = await Deno.readTextFile(join(ROOT, path));
  for (const [name, place] of Object.entries(config.imports)) {
    text = text.replaceAll(`from "${name}"`, `from "${place}"`);
  }
  return text;
}

/** A registry that has this package and nothing else, at the address that it is given as JSR_URL. */
async function withRegistry(body: (url: string) => Promise<void>): Promise<void> {
  const files = new Map<string, string>();
  for (const path of await publishedFiles()) files.set(`/${path}`, await publishedText(path));
  const manifest = Object.fromEntries(
    [...files].map(([path, text]) => [path, {
      size: new TextEncoder().encode(text).length,
      checksum: `sha256-${createHash("sha256").update(text).digest("hex")}`,
    }]),
  );
  const { name, version, exports } = config, [scope, short] = name.slice(1).split("/");
  const answers = new Map([
    [
      `/${name}/meta.json`,
      JSON.stringify({ scope, name: short, latest: version, versions: { [version]: {} } }),
    ],
    [`/${name}/${version}_meta.json`, JSON.stringify({ exports, manifest })],
    ...[...files].map(([path, text]) => [`/${name}/${version}${path}`, text] as const),
  ]);
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
    const answer = answers.get(new URL(request.url).pathname);
    return answer === undefined ? new Response(null, { status: 404 }) : new Response(answer);
  });
  try {
    await body(`http://127.0.0.1:${server.addr.port}/`);
  } finally {
    await server.shutdown();
  }
}

Deno.test("what is published is what is needed, within a registry's limits", async () => {
  const files = await publishedFiles();
  for (const path of ["mod.ts", "cli.ts", "deno.json", "README.md", "LICENSE", "src/engine.ts"]) {
    assert(files.includes(path), `${path} is not among ${files}`);
  }
  // jsr.io/docs/troubleshooting and its sources: 20 MB in all, paths shorter than 155
  const sizes = await Promise.all(files.map(async (path) => (await Deno.stat(join(ROOT, path))).size));
  assert(sizes.reduce((sum, size) => sum + size, 0) < 5e6);
  assert.deepEqual(
    files.filter((path) => path.length > 150 || /^(tests|bench|fixtures|wasm)\/|\.wasm$/.test(path)),
    [],
  );
});

Deno.test("installed from a registry, library, command line and workers need to read the weights, and no more", () =>
  inFolder(async (folder) => {
    await withRegistry(async (url) => {
      // nothing of this machine's cache but the tokenizer library, which is another registry's
      const cache = JSON.parse((await run([Deno.execPath(), "info", "--json"])).out);
      await Deno.mkdir(join(folder, "cache"));
      await Deno.symlink(cache.npmCache, join(folder, "cache", "npm"));
      await Deno.writeTextFile(join(folder, "main.ts"), program(`jsr:${config.name}@${config.version}`));
      const env = { JSR_URL: url, DENO_DIR: join(folder, "cache"), NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" };
      const deno = (...args: string[]) =>
        run([Deno.execPath(), "run", "--quiet", "--no-prompt", `--allow-read=${PAIR}`, ...args], {
          cwd: folder,
          env,
        });

      const { code, out, err } = await deno("--check", "main.ts");
      assert.deepEqual([code, err], [0, ""]);
      const text = await expectedText();
      assert(out.startsWith(`${text}\n`), out);
      const [embedded, byName, cuda] = out.slice(text.length + 1).trimEnd().split("\n");
      assert.match(embedded, /^Cannot load the embedded pair: .* clone the repository and name the folder/);
      assert.match(byName, /^Cannot look for models: permission to read .* run with --allow-env=/);
      assert.match(cuda, /^Cannot open the device "cuda": .* run with --allow-ffi/);

      const cli = `jsr:${config.name}@${config.version}/cli`;
      const flags = Object.entries({ ...MODELS, seed: 7, "max-tokens": 12, gamma: 3, rule: "coupled" })
        .flatMap(([name, value]) => [`--${name}`, String(value)]);
      assert.deepEqual(await deno(cli, "generate", ...flags, PROMPT), { code: 0, out: `${text}\n`, err: "" });
      const inspected = await deno(cli, "inspect", MODELS.target);
      assert.deepEqual([inspected.code, inspected.err], [0, ""]);
      assert.match(inspected.out, /^folder +.*\narchitecture +gpt2/);
      assert.equal((await deno(cli, "--version")).out, `specdiff ${config.version}\n`);
    });
  }));

/** A Node: where it is, and the first number of its version. */
interface Node {
  readonly path: string;
  readonly version: number;
}

/** What Node a command starts, if any. */
async function nodeOf(...command: readonly string[]): Promise<Node | undefined> {
  const says = [...command, "--print", "[process.execPath, process.version].join()"];
  const said = await run(says).then(({ out }) => out, () => "");
  const [, path, version] = /^(.+),v(\d+)/.exec(said) ?? [];
  return path === undefined ? undefined : { path, version: Number(version) };
}

const MINIMUM = 24;
const own = await nodeOf("node");
// npx keeps what it fetches
const node = own !== undefined && own.version >= MINIMUM
  ? own
  : await nodeOf("npx", "--yes", "--package", `node@${MINIMUM}`, "node");
if (node === undefined) {
  console.log(`No Node ${MINIMUM} here, nor one that npx can fetch: the test of Node's package is left out`);
}

Deno.test({
  name: "installed from the tarball, the library runs under Node, and says what it lacks there",
  ignore: node === undefined,
  fn: () =>
    inFolder(async (folder) => {
      await pack(join(folder, "specdiff.tgz"));
      await Deno.writeTextFile(join(folder, "package.json"), "{}");
      const npm = ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "./specdiff.tgz"];
      const installed = await run(npm, { cwd: folder });
      assert.equal(installed.code, 0, installed.err);
      await Deno.writeTextFile(join(folder, "main.mjs"), program(config.name));

      const { code, out, err } = await run([node!.path, "main.mjs"], { cwd: folder });
      assert.deepEqual([code, err], [0, ""]);
      const text = await expectedText();
      assert(out.startsWith(`${text}\n`), out);
      const [embedded, byName, cuda] = out.slice(text.length + 1).trimEnd().split("\n");
      assert.match(embedded, /^Cannot load the embedded pair: .* clone the repository and name the folder/);
      assert.match(byName, /^Cannot look for a model by name: .* needs Deno; name a folder/);
      assert.match(cuda, /^Cannot open the device "cuda": it needs Deno/);

      // the layers below are entry points there too; a Node that is too old is told so by each of them
      const layers = `await import("${config.name}/decode"); await import("${config.name}/backend")`;
      const { path, version } = own ?? node!;
      const outcome = await run([path, "--input-type=module", "--eval", layers], { cwd: folder });
      if (version >= MINIMUM) assert.deepEqual(outcome, { code: 0, out: "", err: "" });
      else {assert.match(
          outcome.err,
          /Cannot load @specdiff\/specdiff: this is Node \d.*, expected 24 or later/,
        );}
    }),
});
