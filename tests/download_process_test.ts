/**
 * Models by name as a user meets them: the program as a process, beside another one, without a permission, on a full
 * disk, interrupted; the engine, and what a person is shown.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { showDownloads } from "../src/cli/downloads.ts";
import { Output } from "../src/cli/terminal.ts";
import { listModels, pullModel } from "../src/hub/mod.ts";
import { assertIntact, blobs, MODEL, sha256, TENSORS, WEIGHTS, withHub } from "./fake_hub.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** The program as a child process, with these permissions and variables alone. */
async function run(permissions: string[], env: Record<string, string>, ...args: string[]): Promise<string[]> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", "--cached-only", ...permissions, "cli.ts", ...args],
    ...{ cwd: ROOT, env: { ...env, NO_COLOR: "1" }, stdin: "null" },
  }).output();
  return [String(code), new TextDecoder().decode(stdout), new TextDecoder().decode(stderr)];
}

Deno.test("two processes that fetch the same model share one download, with no permission but the narrowest", () =>
  withHub(MODEL, async (hub, { cacheDir }) => {
    hub.misbehave = (request, usual) => {
      assert.equal(request.headers.get("authorization"), "Bearer hf_x");
      return usual;
    };
    const permissions = [
      ...[`--allow-read=${cacheDir}`, `--allow-write=${cacheDir}`],
      ...["--allow-env=HF_*", `--allow-net=${hub.url.slice("http://".length)}`],
    ];
    const env = { HF_HUB_CACHE: cacheDir, HF_ENDPOINT: hub.url, HF_TOKEN: "hf_x" };
    const pull = () => run(permissions, env, "models", "pull", "owner/name");
    const folder = join(cacheDir, "models--owner--name", "snapshots", hub.commit);
    assert.deepEqual(await Promise.all([pull(), pull()]), [["0", `${folder}\n`, ""], [
      "0",
      `${folder}\n`,
      "",
    ]]);
    assert.equal(hub.count(WEIGHTS), 1);
    await assertIntact(folder);
    // symbolic links would take the permission to write everywhere
    assert((await Deno.lstat(join(folder, WEIGHTS))).isFile);

    const offline = { HF_HUB_CACHE: cacheDir, HF_HUB_OFFLINE: "1" };
    const [code, list] = await run(
      [`--allow-read=${cacheDir}`, "--allow-env=HF_*"],
      offline,
      "models",
      "list",
    );
    assert.equal(code, "0");
    assert.match(list, /^model +revision +commit +size\nowner\/name +main +aaaaaaaaaaaa +0\.1 MB\n$/);
    const [, json] = await run(
      [`--allow-read=${cacheDir}`, "--allow-env=HF_*"],
      offline,
      "models",
      "list",
      "--json",
    );
    assert.deepEqual(JSON.parse(json).models.map(({ model }: { model: string }) => model), ["owner/name"]);
    const write = ["--allow-env=HF_*", `--allow-read=${cacheDir}`, `--allow-write=${cacheDir}`];
    assert.deepEqual(await run(write, env, "models", "rm", "owner/name"), ["0", "removed owner/name\n", ""]);
  }));

Deno.test("a permission that is missing is named in one line", () =>
  withHub(MODEL, async (hub, { cacheDir }) => {
    const env = { HF_HUB_CACHE: cacheDir, HF_ENDPOINT: hub.url };
    const read = `--allow-read=${cacheDir}`, variables = "--allow-env=HF_*,XDG_CACHE_HOME,HOME";
    const net = `--allow-net=${hub.url.slice("http://".length)}`;
    const cases: [permissions: string[], RegExp][] = [
      [
        [],
        /Cannot look for models: permission to read the environment variable HF_HUB_CACHE is missing; run/,
      ],
      // of the cache, not of one file of it after the other
      [[variables], new RegExp(`run with --allow-read="${RegExp.escape(cacheDir)}";`)],
      [[variables, read], /Cannot connect to 127.0.0.1:\d+: permission is missing; run with --allow-net=/],
      [
        [variables, read, net],
        /Cannot write ".*": permission to write it is missing; run with --allow-write=/,
      ],
    ];
    const found = await Promise.all(
      cases.map(([given]) => run(given, env, "score", "--target", "owner/name", "x")),
    );
    for (const [i, [code, out, err]] of found.entries()) {
      assert.deepEqual([code, out], ["1", ""]);
      assert.match(err, cases[i][1]);
      // which is not looked for where nobody may look
      assert.match(
        err,
        /^error: [^\n]+; if "owner\/name" is a folder of yours, run with --allow-read="owner\/name"\n$/,
      );
    }
    assert.deepEqual(await blobs(cacheDir).catch(() => []), []);
  }));

Deno.test("what is here whole is pulled again without a permission to write, as from a read-only disk", () =>
  withHub(MODEL, async (hub, options) => {
    delete hub.files["tokenizer.json"]; // what a commit does not have is noted too
    const folder = await pullModel("owner/name", options);
    const { cacheDir } = options, env = { HF_HUB_CACHE: cacheDir, HF_ENDPOINT: hub.url };
    const net = `--allow-net=${hub.url.slice("http://".length)}`;
    const permissions = [`--allow-read=${cacheDir}`, "--allow-env=HF_*,HOME,XDG_CACHE_HOME", net];
    assert.deepEqual(await run(permissions, env, "models", "pull", "owner/name"), ["0", `${folder}\n`, ""]);
  }));

Deno.test({
  name: "a full disk is told with what to do, and leaves no file under a final name",
  ignore: Deno.build.os !== "linux", // which has a file that is as a full disk
  fn: () =>
    withHub(MODEL, async (hub, options) => {
      const { cacheDir } = options, env = { HF_HUB_CACHE: cacheDir, HF_ENDPOINT: hub.url };
      const blob = join(cacheDir, "models--owner--name", "blobs", sha256(TENSORS));
      await Deno.mkdir(join(blob, ".."), { recursive: true });
      await Deno.symlink("/dev/full", `${blob}.incomplete`);
      // a device may be opened by those who may do everything
      assert.deepEqual(await run(["--allow-all"], env, "models", "pull", "owner/name"), [
        "1",
        "",
        `error: Cannot write "${blob}.incomplete": No space left on device (os error 28); see to it, or set ` +
        "HF_HUB_CACHE to another folder: what has arrived is kept\n",
      ]);
      assert.deepEqual((await listModels(options)).map(({ complete }) => complete), [false]);
      await assert.rejects(Deno.stat(blob), Deno.errors.NotFound);
      await Deno.remove(`${blob}.incomplete`);
      await assertIntact(await pullModel("owner/name", options));
    }),
});

Deno.test({
  name: "Ctrl-C and termination end a download without a word, and the next one goes on from there",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withHub(MODEL, async (hub, options) => {
      const { cacheDir } = options;
      const weights = `${sha256(TENSORS)}.incomplete`;
      for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
        const asked = Promise.withResolvers<void>(), before = hub.count(WEIGHTS);
        hub.misbehave = (request, usual) => {
          if (!request.path.endsWith(WEIGHTS)) return undefined;
          asked.resolve();
          return { ...usual, stop: 20_000, silent: true };
        };
        const child = new Deno.Command(Deno.execPath(), {
          args: ["run", "--quiet", "--no-prompt", "--allow-all", "cli.ts", "models", "pull", "owner/name"],
          ...{ cwd: ROOT, env: { HF_HUB_CACHE: cacheDir, HF_ENDPOINT: hub.url } },
          ...{ stdin: "null", stdout: "piped", stderr: "piped" },
        }).spawn();
        await asked.promise;
        while (!(await blobs(cacheDir)).includes(weights)) await new Promise((done) => setTimeout(done, 20));
        child.kill(signal);
        const { code: found, stdout, stderr } = await child.output();
        assert.deepEqual([found, stdout.length, stderr.length], [code, 0, 0], signal);
        assert.equal(hub.count(WEIGHTS), before + 1);
        assert(
          (await blobs(cacheDir)).includes(weights) && !(await blobs(cacheDir)).includes(sha256(TENSORS)),
        );
      }
      hub.misbehave = () => undefined;
      await assertIntact(await pullModel("owner/name", options));
    }),
});

Deno.test("an engine takes target and drafter by name, and the environment says from where", async () => {
  const file = (name: string) => Deno.readFile(join(ROOT, "fixtures/parity/gpt2-tiny", name));
  await withHub(
    { "config.json": await file("config.json"), [WEIGHTS]: await file(WEIGHTS) },
    async (hub, { cacheDir }) => {
      const [code, out, err] = await run(
        ["--allow-read", "--allow-write", "--allow-env", "--allow-net"],
        {
          HF_HOME: cacheDir,
          HF_ENDPOINT: `${hub.url}/`,
          HF_TOKEN: "",
          HF_TOKEN_PATH: join(cacheDir, "token"),
        },
        ...["score", "--target", "owner/name", "--tokens", "1,2,3", "--json"],
      );
      assert.deepEqual([code, err], ["0", ""]);
      assert.deepEqual(JSON.parse(out).tokens, [1, 2, 3]);
      assert((await Deno.stat(join(cacheDir, "hub", "models--owner--name", "refs", "main"))).isFile);
    },
  );
});

Deno.test("a download is a line to a person and nothing to a pipe", () => {
  const written = (isTerminal: boolean) => {
    let text = "", time = 0;
    const sink = {
      writeSync(bytes: Uint8Array): number {
        text += new TextDecoder().decode(bytes);
        return bytes.length;
      },
      isTerminal: () => isTerminal,
    };
    const show = showDownloads(new Output(sink), () => time);
    const total = 500e6;
    for (
      const [at, loaded] of [[0, 0], [50, 1e6], [1000, 10e6], [2000, 20e6], [9000, 440e6], [9500, total]]
    ) {
      time = at;
      show({ model: "o/n", file: "w", loaded, total });
    }
    return text.split("\r\x1b[K").slice(1);
  };
  assert.deepEqual(written(true), [
    "o/n: w, 0.0 MB of 500.0 MB",
    "o/n: w, 10.0 MB of 500.0 MB, 10.0 MB/s, 49 s left",
    "o/n: w, 20.0 MB of 500.0 MB, 10.0 MB/s, 48 s left",
    "o/n: w, 440.0 MB of 500.0 MB, 60.0 MB/s, 1 s left",
    "",
  ]);
  assert.deepEqual(written(false), []);
});
