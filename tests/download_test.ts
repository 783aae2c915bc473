/**
 * Downloads: what becomes of signals, bad connections, bad servers, secrets, and what was spoilt.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { loadEngine } from "../mod.ts";
import { listModels, locateModel, pullModel, removeModel } from "../src/hub/mod.ts";
import type { DownloadProgress } from "../src/hub/options.ts";
import {
  type Answer,
  assertIntact,
  blobs,
  CONFIG,
  failure,
  FakeHub,
  MODEL,
  once,
  type Request,
  sha256,
  TENSORS,
  WEIGHTS,
  withHub,
} from "./fake_hub.ts";

Deno.test("an interrupted download ends with the signal's reason, and goes on where it broke", () =>
  withHub(MODEL, async (hub, options) => {
    hub.misbehave = (request, usual) =>
      request.path.endsWith(WEIGHTS) ? { ...usual, stop: 40_000, silent: true } : undefined;
    const stop = new AbortController(), reason = new Error("enough");
    const seen: DownloadProgress[] = [];
    const onDownload = (progress: DownloadProgress) => {
      seen.push(progress);
      if (progress.file === WEIGHTS && progress.loaded > 40_000) stop.abort(reason);
    };
    const pulled = pullModel("owner/name", { ...options, timeout: 60_000, signal: stop.signal, onDownload });
    await assert.rejects(pulled, (error) => error === reason);
    const partial = `${sha256(TENSORS)}.incomplete`;
    assert((await blobs(options.cacheDir)).includes(partial));
    assert.equal(
      (await Deno.stat(join(options.cacheDir, "models--owner--name/blobs", partial))).size,
      40_000,
    );
    assert.equal((await listModels(options))[0].complete, false);

    hub.misbehave = () => undefined;
    await assertIntact(
      await pullModel("owner/name", { ...options, onDownload: (progress) => seen.push(progress) }),
    );
    assert.equal(hub.requests.at(-1)!.headers.get("range"), "bytes=40000-");
    const { loaded, total, model, file } = seen.at(-1)!;
    assert.deepEqual([model, file, loaded], ["owner/name", WEIGHTS, total]);
    assert.equal(total, TENSORS.length + CONFIG.length + 2);
    assert((await blobs(options.cacheDir)).every((name) => !name.endsWith(".incomplete")));
    await assert.rejects(
      pullModel("owner/name", { ...options, signal: stop.signal }),
      (error) => error === reason,
    );
  }));

Deno.test("a signal is heard while what has arrived is checked", () =>
  withHub(MODEL, async (_, options) => {
    const folder = join(options.cacheDir, "models--owner--name", "blobs");
    await Deno.mkdir(folder, { recursive: true });
    await Deno.writeFile(join(folder, `${sha256(TENSORS)}.incomplete`), TENSORS); // nothing more has to come
    const stop = new AbortController(), reason = new Error("enough");
    const onDownload = ({ loaded, total }: DownloadProgress) => {
      if (loaded === total) stop.abort(reason);
    };
    await assert.rejects(
      pullModel("owner/name", { ...options, signal: stop.signal, onDownload }),
      (error) => error === reason,
    );
    assert((await blobs(options.cacheDir)).includes(`${sha256(TENSORS)}.incomplete`));
  }));

Deno.test("what an earlier attempt left is not trusted", () =>
  withHub(MODEL, async (hub, options) => {
    const folder = join(options.cacheDir, "models--owner--name", "blobs");
    for (
      const rubbish of [
        new Uint8Array(500),
        new Uint8Array(TENSORS.length),
        new Uint8Array(TENSORS.length + 1),
      ]
    ) {
      await Deno.mkdir(folder, { recursive: true });
      await Deno.writeFile(join(folder, `${sha256(TENSORS)}.incomplete`), rubbish);
      await assertIntact(await pullModel("owner/name", options));
      assert.equal(hub.requests.at(-1)!.headers.get("range"), null);
      await removeModel("owner/name", options);
    }
  }));

Deno.test("bad connections and busy servers are got over", async () => {
  const cases: Record<string, [(usual: Answer, request: Request) => Answer, requests: number]> = {
    "cut in the middle": [(usual) => ({ ...usual, stop: 30_000 }), 2],
    "cut before the body": [(usual) => ({ ...usual, stop: 0 }), 2],
    "silence in the middle": [(usual) => ({ ...usual, stop: 30_000, silent: true }), 2],
    "silence before the body": [(usual) => ({ ...usual, stop: 0, silent: true }), 2],
    "ended early without a length": [
      ({ body }) => ({ status: 200, headers: { "content-length": "" }, body: body!.subarray(0, 9) }),
      2,
    ],
    "429 with a time": [() => ({ status: 429, headers: { "retry-after": "0" } }), 2],
    "503 with a date": [() => ({ status: 503, headers: { "retry-after": new Date(0).toUTCString() } }), 2],
    ...Object.fromEntries(
      [408, 500, 502, 503, 504].map((status) => [status, [() => ({ status }), 2] as [() => Answer, number]]),
    ),
  };
  await Promise.all(
    Object.entries(cases).map(([name, [answer, requests]]) =>
      withHub(MODEL, async (hub, options) => {
        hub.misbehave = once(answer);
        const silence = name.startsWith("silence");
        await assertIntact(await pullModel("owner/name", silence ? { ...options, timeout: 300 } : options));
        // on a slow machine silence may be where none is meant
        assert(silence ? hub.count(WEIGHTS) >= requests : hub.count(WEIGHTS) === requests, name);
      })
    ),
  );
});

Deno.test("a connection may break as often as it likes, as long as something arrives each time", () =>
  withHub(MODEL, async (hub, options) => {
    hub.misbehave = (request, usual) =>
      request.path.endsWith(WEIGHTS) ? { ...usual, stop: 12_000 } : undefined;
    await assertIntact(await pullModel("owner/name", { ...options, timeout: 600 }));
    assert(hub.count(WEIGHTS) >= Math.ceil(TENSORS.length / 12_000));
  }));

Deno.test("who finds a download on its way waits for it", () =>
  withHub(MODEL, async (hub, options) => {
    hub.misbehave = once((usual) => ({ ...usual, stop: 40_000, silent: true })); // held, and then gone on with
    const pull = () => pullModel("owner/name", { ...options, timeout: 1000 });
    for (const folder of await Promise.all([pull(), pull()])) await assertIntact(folder);
    const ranges = hub.requests.filter(({ path }) => path.endsWith(WEIGHTS)).map(({ headers }) =>
      headers.get("range")
    );
    assert.deepEqual(ranges, [null, "bytes=40000-"]);
    assert.equal(hub.count("config.json"), 1);
  }));

Deno.test("a server that refuses ranges, or ignores them, is asked for the whole", async () => {
  const refuse: (usual: Answer) => Answer = () => ({
    status: 416,
    headers: { "content-range": "bytes */1" },
  });
  const ignore: (usual: Answer) => Answer = () => ({ status: 200, body: TENSORS });
  for (const ranged of [refuse, ignore]) {
    await withHub(MODEL, async (hub, options) => {
      const cut = once((usual) => ({ ...usual, stop: 30_000 }));
      hub.misbehave = (request, usual) => request.headers.has("range") ? ranged(usual) : cut(request, usual);
      await assertIntact(await pullModel("owner/name", options));
      assert.equal(hub.count(WEIGHTS), ranged === refuse ? 3 : 2);
    });
  }
});

Deno.test("what is not what the hub promised is refused, and never gets its final name", async () => {
  const spoilt = TENSORS.slice();
  spoilt[50_000] ^= 1;
  const longer = new Uint8Array(TENSORS.length + 1);
  longer.set(TENSORS);
  const length = TENSORS.length;
  const cases: [Answer, RegExp][] = [
    [
      { status: 200, body: spoilt },
      /what arrived of "model.safetensors" has the hash [0-9a-f]{64}, expected [0-9a-f]{64}; it was removed: fetch it again$/,
    ],
    [
      { status: 200, body: longer },
      new RegExp(`has ${length + 1} bytes on the server, expected ${length} bytes`),
    ],
    [
      { status: 200, body: TENSORS.subarray(1) },
      new RegExp(`has ${length - 1} bytes on the server, expected`),
    ],
    [{
      status: 200,
      headers: { "transfer-encoding": "chunked", "content-length": "" },
      body: chunked(longer),
    }, /goes on/],
    [
      { status: 206, headers: { "content-range": `bytes 7-${length}/${length}` }, body: TENSORS },
      /from byte 7 on, exp/,
    ],
    [{ status: 206, body: TENSORS }, /from byte undefined on, expected from 0$/],
  ];
  for (const [answer, message] of cases) {
    await withHub(MODEL, async (hub, options) => {
      hub.misbehave = (request) => request.path.endsWith(WEIGHTS) ? answer : undefined;
      await assert.rejects(pullModel("owner/name", options), failure(message));
      assert.equal(hub.count(WEIGHTS), 1);
      assert(!(await blobs(options.cacheDir)).includes(sha256(TENSORS)));
      await assert.rejects(
        Deno.stat(join(options.cacheDir, "models--owner--name/refs/main")),
        Deno.errors.NotFound,
      );
    });
  }
});

/** A body as one chunk and the end. */
function chunked(body: Uint8Array): Uint8Array {
  const head = new TextEncoder().encode(`${body.length.toString(16)}\r\n`);
  const end = new TextEncoder().encode("\r\n0\r\n\r\n");
  return Uint8Array.from([...head, ...body, ...end]);
}

Deno.test("a refusal is said at once, with what to do", async () => {
  const about = (path: RegExp, answer: Answer) => (request: Request) =>
    path.test(request.path) ? answer : undefined;
  const cases: [FakeHub["misbehave"], token: string | null, RegExp][] = [
    [
      about(/api/, { status: 401 }),
      null,
      /the hub answers 401: it does not exist or is not public; set HF_TOKEN/,
    ],
    [
      about(/api/, { status: 401 }),
      "hf_x",
      /the hub answers 401: it does not exist, or the token may not read it$/,
    ],
    [
      about(/safetens/, { status: 403 }),
      null,
      /answers 403: access is restricted; ask for it at http.*\/owner\/name, and/,
    ],
    [
      about(/api/, { status: 404, headers: { "x-error-code": "RepoNotFound" } }),
      null,
      /404: there is no such model at h/,
    ],
    [about(/config/, { status: 404 }), null, /404: there is no such model, or it has no "config.json"$/],
    [about(/api/, { status: 418 }), null, /the hub answers 418, expected 200$/],
    [
      about(/api/, { status: 429, headers: { "retry-after": "300" } }),
      null,
      /429: .*, and asks to wait 300 s$/,
    ],
    [about(/api/, { status: 200, body: new TextEncoder().encode("<html>") }), null, /is not valid JSON$/],
    [about(/api/, { status: 200, body: new TextEncoder().encode("{}") }), null, /no commit "sha" and files/],
    [
      about(/api/, { status: 302, headers: { location: "ftp://x/y" } }),
      null,
      /redirects to "ftp:\/\/x\/y", expected an h/,
    ],
    [about(/api/, { status: 302, headers: { location: "/api" } }), null, /redirects more than 8 times$/],
  ];
  for (const [misbehave, token, message] of cases) {
    await withHub(MODEL, async (hub, options) => {
      hub.misbehave = misbehave;
      await assert.rejects(pullModel("owner/name", { ...options, token }), failure(message));
      assert(
        new Set(hub.requests.map(({ path }) => path)).size === hub.requests.length ||
          /redirects/.test(message.source),
      );
    });
  }
  await withHub(MODEL, async (_, options) => {
    await assert.rejects(pullModel("owner/name@v9", options), failure(/or it has no "v9"$/));
    await assert.rejects(pullModel("./owner/name", options), /Cannot use ".\/owner\/name" as a model's name/);
    await assert.rejects(
      pullModel("owner/name", { ...options, endpoint: "hub" }),
      /its endpoint is "hub", expected/,
    );
  });
  await withHub(
    { "config.json": "{}" },
    (_, options) =>
      assert.rejects(pullModel("owner/name", options), failure(/it has no weights in model.safetensors, /)),
  );
  await withHub(
    { [WEIGHTS]: TENSORS },
    (_, options) =>
      assert.rejects(pullModel("owner/name", options), failure(/it has no file "config.json"$/)),
  );
});

Deno.test("a server that stays busy, silent or away is given up", async () => {
  await withHub(MODEL, async (hub, options) => {
    hub.misbehave = () => ({ status: 503 });
    await assert.rejects(
      pullModel("owner/name", options),
      failure(
        /503: it is busy or broken; gave up after 5 attempts: try again later, what has arrived is kept$/,
      ),
    );
    assert.equal(hub.requests.length, 5);
    hub.misbehave = (_, usual) => ({ ...usual, stop: 0, silent: true });
    await assert.rejects(
      pullModel("owner/name", { ...options, timeout: 50 }),
      failure(
        /says nothing for 0.05 s; gave up after 5 attempts: try again later, what has arrived is kept$/,
      ),
    );
  });
  await assert.rejects(
    pullModel("owner/name", {
      cacheDir: "/nowhere",
      endpoint: "http://127.0.0.1:9",
      token: null,
      offline: false,
      timeout: 50,
    }),
    failure(
      /the connection to 127.0.0.1:9 failed \(.*\); gave up after 5 attempts: try again later, what has arrived is kept$/,
    ),
  );
});

Deno.test("the token goes to the endpoint, and does not follow a redirect to another host", () =>
  withHub(MODEL, async (hub, options) => {
    await using storage = new FakeHub({});
    storage.misbehave = () => ({ status: 200, body: TENSORS });
    // another name, and another port of the same one
    for (const elsewhere of [storage.url.replace("127.0.0.1", "localhost"), storage.url]) {
      hub.misbehave = ({ path }) =>
        path.endsWith(WEIGHTS)
          ? { status: 302, headers: { location: `${elsewhere}/content?signature=1` } }
          : undefined;
      await assertIntact(await pullModel("owner/name", { ...options, token: "hf_secret" }));
      const requests = storage.requests.splice(0);
      assert.deepEqual(requests.map(({ headers }) => headers.get("authorization")), [null]);
      assert(hub.requests.every(({ headers }) => headers.get("authorization") === "Bearer hf_secret"));
      await removeModel("owner/name", options);
    }
  }));

Deno.test("a redirect does not lead from https to http, and no error tells an address that may be secret", async () => {
  const { fetch } = globalThis;
  using _ = { [Symbol.dispose]: () => void (globalThis.fetch = fetch) };
  await withHub(MODEL, async (hub, options) => {
    const asked: string[] = [];
    const secure = { ...options, endpoint: "https://hub.test", timeout: 50 };
    globalThis.fetch = (url) => {
      asked.push(String(url));
      return Promise.resolve(new Response(null, { status: 302, headers: { location: `${hub.url}/x` } }));
    };
    await assert.rejects(
      pullModel("owner/name", secure),
      failure(/redirects to "http:.*", expected an https/),
    );
    assert.deepEqual([asked.length, hub.requests.length], [1, 0]);
    globalThis.fetch = () =>
      Promise.reject(new TypeError("no way to https://cdn.test/x?signature=hidden (really)"));
    await assert.rejects(
      pullModel("owner/name", secure),
      failure(/the connection to hub.test failed \(no way to URL \(really\)\); gave up/),
    );
  });
});

Deno.test("a revision is one part of an address, whatever is in it", () =>
  withHub(MODEL, async (hub, options) => {
    await assert.rejects(pullModel("owner/name@refs/pr/1", options), failure(/or it has no "refs\/pr\/1"$/));
    assert.equal(hub.requests[0].raw, "/api/models/owner/name/revision/refs%2Fpr%2F1?blobs=true");
  }));

Deno.test("what has been spoilt in the cache is fetched again", async () => {
  await withHub(MODEL, async (hub, options) => {
    const folder = await pullModel("owner/name", options),
      root = join(options.cacheDir, "models--owner--name");
    const blob = join(root, "blobs", sha256(TENSORS)), link = join(folder, WEIGHTS);
    // a link to nothing, and content that is cut off and nobody's
    await Deno.remove(link);
    await Deno.symlink("../../blobs/gone", link);
    await Deno.truncate(blob, 9);
    assert.equal(await locateModel("owner/name", options), folder);
    await assertIntact(folder);
    assert.equal(await Deno.readLink(link), `../../blobs/${sha256(TENSORS)}`);
    await Deno.writeTextFile(join(root, "refs", "main"), "no commit");
    assert.equal(await locateModel("owner/name", options), folder);
    assert.equal(await Deno.readTextFile(join(root, "refs", "main")), hub.commit);
  });
  const index = `${WEIGHTS}.index.json`, weightMap = JSON.stringify({ weight_map: { x: "a.safetensors" } });
  await withHub(
    { "config.json": CONFIG, "a.safetensors": TENSORS, [index]: weightMap },
    async (_, options) => {
      const folder = await pullModel("owner/name", options);
      const complete = async () => (await listModels(options)).map(({ complete }) => complete);
      assert.deepEqual(await complete(), [true]);
      await Deno.remove(join(folder, "a.safetensors"));
      assert.deepEqual(await complete(), [false]);
      assert.equal(await locateModel("owner/name", options), folder);
      assert.deepEqual(await complete(), [true]);
      await Deno.remove(join(folder, index));
      await Deno.writeTextFile(join(folder, index), "{}");
      assert.deepEqual(await complete(), [false]);
    },
  );
});

Deno.test("a time that no timer can wait is refused", () =>
  withHub(MODEL, async (hub, options) => {
    for (const timeout of [0, -1, NaN, Infinity, 2 ** 31]) {
      await assert.rejects(pullModel("owner/name", { ...options, timeout }), {
        name: "RangeError",
        message: `Cannot use the hub: its timeout is ${timeout}, expected milliseconds within (0, 2^31)`,
      });
    }
    assert.equal(hub.requests.length, 0);
  }));

Deno.test("an engine's signal ends a download, and so does one of the hub's options", () =>
  withHub(MODEL, async (hub, options) => {
    hub.misbehave = (_, usual) => ({ ...usual, stop: 0, silent: true });
    for (const other of [undefined, new AbortController().signal]) {
      for (const which of ["engine", "hub"]) {
        const stop = new AbortController(), reason = new Error("enough");
        const [signal, hubSignal] = which === "hub" ? [other, stop.signal] : [stop.signal, other];
        const loading = loadEngine({
          target: "owner/name",
          signal,
          hub: { ...options, timeout: 60_000, signal: hubSignal },
        });
        setTimeout(() => stop.abort(reason), 20);
        await assert.rejects(loading, (error) => error === reason, which);
      }
    }
  }));

Deno.test("a token that can be none is refused without a request, and is not shown", () =>
  withHub(MODEL, async (hub, options) => {
    for (const token of ["hf_secret\nhf_secret", "hf secret", "hf_secrét"]) {
      await assert.rejects(pullModel("owner/name", { ...options, token }), (error: Error) => {
        assert.match(
          error.message,
          /^Cannot use the hub: the token in the option token has spaces, line ends or/,
        );
        assert.doesNotMatch(error.message, /secr/);
        return true;
      });
    }
    assert.equal(hub.requests.length, 0);
    await pullModel("owner/name", { ...options, token: " hf_x\n" });
    assert.equal(hub.requests[0].headers.get("authorization"), "Bearer hf_x");
  }));
