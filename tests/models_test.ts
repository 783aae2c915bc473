/**
 * Models by name: names, where they are kept, what is fetched of them and shared with other tools, lists and removal.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { listModels, locateModel, openCheckpoint, pullModel, removeModel } from "../src/hub/mod.ts";
import { parseModelName } from "../src/hub/names.ts";
import { cacheFolder, isOffline, tokenOf } from "../src/hub/options.ts";
import {
  blobs,
  CONFIG,
  failure,
  type FakeHub,
  gitHash,
  MODEL,
  sha256,
  TENSORS,
  WEIGHTS,
  withHub,
} from "./fake_hub.ts";

Deno.test("a name is owner/name, with a revision or without, and no path", () => {
  assert.deepEqual(parseModelName("openai-community/gpt2"), { repository: "openai-community/gpt2" });
  assert.deepEqual(parseModelName("o/n.1_x@refs/pr/1"), { repository: "o/n.1_x", revision: "refs/pr/1" });
  for (
    const text of [
      ...[
        "gpt2",
        "./o/n",
        "/o/n",
        "../n",
        "o/..",
        "o/n/m",
        "o/",
        "/n",
        "~/n",
        "o\\n",
        "",
        "o--p/n",
        "o/n-",
        `o/${"n".repeat(97)}`,
        ".o/n",
      ],
      ...[
        "o/n@",
        "o/n@../../x",
        "o/n@a//b",
        "o/n@a/../b",
        "o/n@.git",
        "o/n@a b",
        "o/n@a\0",
        "o/n@x.lock",
        "o/n\n",
      ],
    ]
  ) assert.equal(parseModelName(text), undefined, JSON.stringify(text));
});

Deno.test("a model is fetched once, no more of it than is needed, into the layout that other tools read", () =>
  withHub(MODEL, async (hub, options) => {
    const folder = await locateModel("owner/name", options);
    const root = join(options.cacheDir, "models--owner--name");
    assert.equal(folder, join(root, "snapshots", hub.commit));
    assert.equal(await Deno.readTextFile(join(root, "refs", "main")), hub.commit);
    const config = gitHash(new TextEncoder().encode(CONFIG));
    assert.deepEqual(
      await blobs(options.cacheDir),
      [config, gitHash(hub.files["tokenizer.json"]), sha256(TENSORS)].sort(),
    );
    assert.equal(await Deno.readLink(join(folder, "config.json")), `../../blobs/${config}`);
    assert.equal(await Deno.readLink(join(folder, WEIGHTS)), `../../blobs/${sha256(TENSORS)}`);
    assert.equal((await Deno.stat(join(root, ".no_exist", hub.commit, "tokenizer_config.json"))).size, 0);
    using checkpoint = await openCheckpoint(folder);
    assert.equal((await checkpoint.read("x", [25_000]))[24_999], 24_999);
    assert.equal(hub.requests.length, 4);

    // from then on nobody asks: neither by the branch, though it has moved, nor by the commit
    const first = hub.commit;
    hub.commit = "b".repeat(40);
    assert.equal(await locateModel("owner/name", options), folder);
    assert.equal(await locateModel(`owner/name@${first}`, options), folder);
    assert.equal(hub.requests.length, 4);

    // until somebody pulls, who fetches what is new
    hub.files["config.json"] = new TextEncoder().encode('{"model_type": "gpt_neo"}');
    assert.equal(await pullModel("owner/name", options), join(root, "snapshots", hub.commit));
    assert.equal(await locateModel("owner/name", options), join(root, "snapshots", hub.commit));
    assert.equal(await locateModel(`owner/name@${first}`, options), folder);
    assert.equal(await Deno.readTextFile(join(folder, "config.json")), CONFIG);
    assert.deepEqual(hub.requests.slice(4).map(({ path }) => path.split("/").at(-1)), [
      "main?blobs=true",
      "config.json",
    ]);
  }));

Deno.test("a commit that is pulled does not become what the branch stands for", () =>
  withHub(MODEL, async (hub, options) => {
    await pullModel(`owner/name@${hub.commit}`, options);
    assert.deepEqual((await listModels(options)).map(({ revisions }) => revisions), [[]]);
  }));

Deno.test("the environment says where models are and who asks, unless options do", async () => {
  const names = ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"];
  const before = names.map((name) => Deno.env.get(name));
  const set = (values: Record<string, string>) => {
    for (const name of names) {
      if (values[name] === undefined) Deno.env.delete(name);
      else Deno.env.set(name, values[name]);
    }
  };
  const folder = await Deno.makeTempDir(), path = join(folder, "secret");
  try {
    await Deno.writeTextFile(path, "hf_other\n");
    await Deno.writeTextFile(join(folder, "token"), "hf_home\n");
    set({ XDG_CACHE_HOME: "/x" });
    assert.equal(cacheFolder({}), join("/x", "huggingface", "hub"));
    set({ XDG_CACHE_HOME: "/x", HF_HOME: folder, HF_HUB_CACHE: "", HF_TOKEN: "" }); // empty is not set
    assert.equal(cacheFolder({}), join(folder, "hub"));
    assert.equal(await tokenOf({}), "hf_home");
    set({ HF_HOME: folder, HF_HUB_CACHE: "/c", HF_TOKEN_PATH: path });
    assert.equal(cacheFolder({}), "/c");
    assert.equal(cacheFolder({ cacheDir: "/d" }), "/d");
    assert.equal(await tokenOf({}), "hf_other");
    set({ HF_TOKEN_PATH: path, HF_TOKEN: "hf_x" });
    assert.equal(await tokenOf({}), "hf_x");
    assert.deepEqual([await tokenOf({ token: "hf_y" }), await tokenOf({ token: null })], ["hf_y", undefined]);
    for (
      const [text, offline] of [["1", true], ["True", true], ["ON", true], ["0", false], ["", false]] as const
    ) {
      set({ HF_HUB_OFFLINE: text });
      assert.equal(isOffline({}), offline, text);
      assert.equal(isOffline({ offline: !offline }), !offline);
    }
  } finally {
    set(Object.fromEntries(names.flatMap((name, i) => before[i] === undefined ? [] : [[name, before[i]]])));
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a folder that is here is meant before a model of that name", () =>
  withHub(MODEL, async (hub, options) => {
    assert.equal(await locateModel("fixtures/pair", options), "fixtures/pair");
    assert.equal(await locateModel("./owner/name", options), "./owner/name");
    assert.equal(hub.requests.length, 0);
  }));

/** A snapshot of which another tool has fetched the configuration alone. */
async function begunByAnotherTool(
  { commit }: FakeHub,
  { cacheDir }: { readonly cacheDir: string },
): Promise<string> {
  const root = join(cacheDir, "models--owner--name"), folder = join(root, "snapshots", commit);
  for (const name of [join(root, "refs"), folder]) await Deno.mkdir(name, { recursive: true });
  await Deno.writeTextFile(join(root, "refs", "main"), commit);
  await Deno.writeTextFile(join(folder, "config.json"), CONFIG);
  return folder;
}

Deno.test("what other tools fetched is used offline as it is, and completed online", () =>
  withHub(MODEL, async (hub, options) => {
    const folder = await begunByAnotherTool(hub, options);
    const offline = { ...options, offline: true };
    await assert.rejects(
      locateModel("owner/name", offline),
      failure(/is not all in the cache .* HF_HUB_OFFLINE/),
    );
    await Deno.writeFile(join(folder, WEIGHTS), TENSORS);
    assert.equal(await locateModel("owner/name", offline), folder);
    assert.equal((await listModels(offline))[0].complete, true);
    await assert.rejects(
      locateModel("owner/name@v2", offline),
      failure(/"owner\/name" at "v2": it is not all in/),
    );
    assert.equal(hub.requests.length, 0);
    // there may be a tokenizer; if nobody can tell, it is used as it is, and with the weights that it has
    hub.misbehave = () => ({ status: 404 });
    assert.equal(await locateModel("owner/name", options), folder);
    hub.misbehave = () => undefined;
    hub.requests.length = 0;
    await locateModel("owner/name", options);
    assert.deepEqual(hub.requests.map(({ path }) => path.split("/").at(-1)), [
      `${hub.commit}?blobs=true`,
      "tokenizer.json",
    ]);
  }));

Deno.test("a model is completed with the weights that it has, not with others", () =>
  withHub(MODEL, async (hub, options) => {
    const folder = await begunByAnotherTool(hub, options);
    await Deno.writeTextFile(join(folder, "pytorch_model.bin"), "not needed");
    assert.equal(await locateModel("owner/name", options), folder);
    assert.equal(hub.count(WEIGHTS), 0);
    assert.equal(hub.count("tokenizer.json"), 1);
  }));

Deno.test("shards come with their index, whose names cannot lead anywhere else", async () => {
  const index = (shard: string) => JSON.stringify({ weight_map: { x: shard } });
  const files = { "config.json": CONFIG, "a.safetensors": TENSORS, "b.safetensors": "not in the index" };
  await withHub({ ...files, [`${WEIGHTS}.index.json`]: index("a.safetensors") }, async (hub, options) => {
    using checkpoint = await openCheckpoint(await locateModel("owner/name", options));
    assert.deepEqual(checkpoint.tensors().map(({ name }) => name), ["x"]);
    assert.deepEqual([hub.count("a.safetensors"), hub.count("b.safetensors")], [1, 0]);
  });
  for (const shard of ["../../../x.safetensors", "/x.safetensors"]) {
    await withHub(
      { ...files, [`${WEIGHTS}.index.json`]: index(shard), [shard]: TENSORS },
      async (_, options) => {
        await assert.rejects(
          pullModel("owner/name", options),
          /expected the name of a safetensors or bin file$/,
        );
      },
    );
  }
  await withHub(
    { ...files, [`${WEIGHTS}.index.json`]: index("c.safetensors") },
    (_, options) =>
      assert.rejects(
        pullModel("owner/name", options),
        failure(/the hub does not say the size and the hash of "c.safetensors"/),
      ),
  );
});

Deno.test("models are listed and removed, one revision or all, and other revisions keep their content", () =>
  withHub(MODEL, async (hub, options) => {
    await pullModel("owner/name", options);
    const first = hub.commit;
    hub.commit = "b".repeat(40);
    hub.files["config.json"] = new TextEncoder().encode("{}");
    const folder = await pullModel("owner/name", options);
    const bytes = TENSORS.length + 2;
    assert.deepEqual(await listModels(options), [
      { model: "owner/name", commit: first, revisions: [], bytes: bytes + CONFIG.length, complete: true },
      { model: "owner/name", commit: hub.commit, revisions: ["main"], bytes: bytes + 2, complete: true },
    ]);
    await Deno.mkdir(join(folder, "onnx"));
    for (const none of ["v1", `${hub.commit}/onnx`]) {
      await assert.rejects(
        removeModel(`owner/name@${none}`, options),
        failure(new RegExp(`Cannot remove "owner/name@${none}": it is not in`)),
      );
    }
    assert.equal((await listModels(options)).length, 2);
    await removeModel(`owner/name@${first}`, options);
    assert.deepEqual((await listModels(options)).map(({ commit }) => commit), [hub.commit]);
    assert.deepEqual(await Deno.readFile(join(folder, WEIGHTS)), TENSORS);
    assert(!(await blobs(options.cacheDir)).includes(gitHash(new TextEncoder().encode(CONFIG))));
    const root = join(options.cacheDir, "models--owner--name");
    const there = (...path: string[]) => Deno.stat(join(...path)).then(() => true, () => false);
    assert.deepEqual([await there(root, ".no_exist", first), await there(root, "refs/main")], [false, true]);
    await removeModel("owner/name@main", options);
    assert.deepEqual(await blobs(options.cacheDir), []);
    assert.equal(await there(root, "refs/main"), false);
    await removeModel("owner/name", options);
    assert.deepEqual(await listModels(options), []);
    assert.equal(await there(options.cacheDir, ".locks/models--owner--name"), false);
    await assert.rejects(removeModel("owner/name", options), failure(/it is not in the cache/));
  }));
