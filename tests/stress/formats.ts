/**
 * The formats that are fuzzed. Each says what it starts from, how it is spoiled, and how a spoiled input is tried:
 * that gives a short word for what happened, so that the fuzzer knows what is new, and throws if what happened
 * must not: an error of another kind, or something loaded that the input does not say.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { writeRaw, writeSafetensors } from "../../fixtures/write_safetensors.ts";
import { createReferenceBackend } from "../../src/backend/reference.ts";
import { readInput } from "../../src/cli/terminal.ts";
import { type Checkpoint, openCheckpoint } from "../../src/hub/checkpoint.ts";
import { memorySource, toPath } from "../../src/hub/files.ts";
import { readJson } from "../../src/hub/json.ts";
import { Safetensors } from "../../src/hub/safetensors.ts";
import {
  decodeTokens,
  encodeText,
  loadTokenizer,
  TextStream,
  type Tokenizer,
} from "../../src/hub/tokenizer.ts";
import { loadModel } from "../../src/model/load.ts";
import { Plan } from "../../src/model/plan.ts";
import { CheckpointError } from "../../src/model/weights.ts";
import { fixture } from "../helpers.ts";
import type { Choices } from "./choices.ts";
import { mutateBytes, mutateJson } from "./mutations.ts";
import { type Json, parseStrictly } from "./strict_json.ts";

/** A format. */
export interface Format {
  /** Its name. */
  readonly name: string;
  /** Sound inputs. */
  readonly seeds: readonly Uint8Array[];
  /** A spoiled copy. */
  mutate(input: Uint8Array, choices: Choices): Uint8Array;
  /** Puts an input where it is tried: what the disk takes for it is not the input's doing. */
  place?(input: Uint8Array): Promise<void>;
  /** Tries an input. */
  attempt(input: Uint8Array): Promise<string>;
}

/** The longest message that a person may be shown. */
const MESSAGE_LENGTH = 2000;

/** All formats, which use `folder` for files. */
export async function formats(folder: string): Promise<Format[]> {
  return [
    safetensors,
    compressed(folder),
    await index(folder),
    await config(folder),
    await tokenizerFile(folder),
    prompts(await loadTokenizer(fixture("pair/"))),
  ];
}

/** Runs what may fail with a {@linkcode CheckpointError} and nothing else; the word is the message without its data. */
async function attempted(body: () => Promise<string>): Promise<string> {
  try {
    return await body();
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    assert.match(error.message, /^Cannot /);
    assert.ok(error.message.length < MESSAGE_LENGTH, `a message of ${error.message.length} characters`);
    return error.message.replace(/"(?:[^"\\]|\\.)*"/g, "…").replace(/\[[^\]]*\]/g, "…").replace(
      /-?\d[\d.e+-]*/g,
      "n",
    )
      .slice(0, 150);
  }
}

const text = new TextEncoder(), decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Spoils JSON knowingly, if it still is JSON, or else blindly. */
function mutateText(input: Uint8Array, choices: Choices): Uint8Array {
  if (choices.chance(0.7)) {
    try {
      return text.encode(mutateJson(JSON.parse(decoder.decode(input)), choices));
    } catch {
      // it was spoiled blindly before
    }
  }
  return mutateBytes(input, choices);
}

const SOUND = writeSafetensors([
  { name: "a", dtype: "F32", shape: [2, 3], data: new Float32Array([1, 2, 3, 4, 5, 6]) },
  { name: "b", dtype: "I8", shape: [3, 1], data: new Int8Array(3) },
  { name: "none", dtype: "BF16", shape: [0, 7], data: new Uint16Array(0) },
  { name: "scalar", dtype: "F16", shape: [], data: new Float16Array([1]) },
]);

const safetensors: Format = {
  name: "safetensors",
  seeds: [SOUND],
  mutate(input, choices) {
    if (choices.chance(0.25)) return mutateBytes(input, choices);
    const length = Math.min(headerLength(input), input.length - 8);
    const header = input.subarray(8, 8 + length), data = input.subarray(8 + length);
    const spoiled = writeRaw(decoder.decode(mutateText(header, choices).filter((byte) => byte < 0x80)), [
      data,
    ]);
    if (choices.chance(0.1)) {
      const lengths = [
        0n,
        1n,
        2n ** 60n,
        2n ** 64n - 1n,
        100_000_000n,
        2n ** 32n,
        BigInt(spoiled.length - 8),
      ];
      new DataView(spoiled.buffer).setBigUint64(0, choices.one(lengths), true);
    }
    return spoiled;
  },
  attempt: (input) =>
    attempted(async () => {
      using file = await Safetensors.open(memorySource(input), "fuzzed.safetensors");
      return compareToHeader(file, input);
    }),
};

function headerLength(input: Uint8Array): number {
  if (input.length < 8) return 0;
  return Number(new DataView(input.buffer, input.byteOffset).getBigUint64(0, true));
}

/** What was read must be what the header says, read by the letter. */
function compareToHeader(file: Safetensors, input: Uint8Array): string {
  const start = 8 + headerLength(input);
  const header = parseStrictly(decoder.decode(input.subarray(8, start)));
  assert.ok(header instanceof Map);
  header.delete("__metadata__");
  assert.deepEqual([...file.tensors.keys()], [...header.keys()]);
  const bits: Record<string, bigint> = { F16: 16n, BF16: 16n, F32: 32n, F64: 64n, I8: 8n, U8: 8n, BOOL: 8n };
  let covered = 0;
  for (const [name, entry] of header as ReadonlyMap<string, ReadonlyMap<string, Json>>) {
    const found = file.tensors.get(name)!, shape = entry.get("shape") as number[];
    const [begin, end] = entry.get("data_offsets") as number[];
    assert.equal(found.dtype, entry.get("dtype"));
    assert.deepEqual(found.shape, shape);
    assert.deepEqual([found.start, found.bytes], [start + begin, end - begin]);
    const size = shape.reduce(
      (product, n) => product * BigInt(n),
      bits[found.dtype] ?? assert.fail(found.dtype),
    );
    assert.equal(size, 8n * BigInt(end - begin));
    assert.ok(begin >= 0 && start + end <= input.length);
    covered += end - begin;
  }
  assert.equal(start + covered, input.length); // all in range and as many bytes as there are…
  const ranges = [...file.tensors.values()].filter(({ bytes }) => bytes > 0).sort((a, b) =>
    a.start - b.start
  );
  ranges.forEach((range, i) =>
    assert.ok(i === 0 || ranges[i - 1].start + ranges[i - 1].bytes <= range.start)
  ); // …so no gap
  return `loaded ${file.tensors.size}`;
}

function compressed(folder: string): Format {
  const bomb = gzipSync(Uint8Array.from([...SOUND, ...new Uint8Array(4 << 20)]));
  return {
    name: "safetensors.gz",
    seeds: [gzipSync(SOUND), bomb],
    mutate(input, choices) {
      return choices.chance(0.5)
        ? mutateBytes(input, choices)
        : gzipSync(safetensors.mutate(SOUND, choices), { level: 1 });
    },
    async place(input) {
      await Deno.writeTextFile(join(folder, "config.json"), "{}");
      await Deno.writeFile(join(folder, "model.safetensors.gz"), input);
    },
    attempt: () =>
      attempted(async () => {
        using checkpoint = await openCheckpoint(folder);
        return `loaded ${checkpoint.tensors().length}`;
      }),
  };
}

async function index(folder: string): Promise<Format> {
  const here = join(folder, "sharded");
  await Deno.mkdir(here);
  await Deno.writeTextFile(join(here, "config.json"), "{}");
  const shards: Record<string, string[]> = { "a.safetensors": ["x", "y"], "b.safetensors": ["z"] };
  for (const [name, tensors] of Object.entries(shards)) {
    const all = tensors.map((name) => ({ name, dtype: "I8", shape: [1], data: new Int8Array(1) }));
    await Deno.writeFile(join(here, name), writeSafetensors(all));
  }
  await Deno.writeFile(join(folder, "a.safetensors"), SOUND); // where no index may lead
  const map = { x: "a.safetensors", y: "a.safetensors", z: "b.safetensors" };
  return {
    name: "sharded index",
    seeds: [text.encode(JSON.stringify({ metadata: { total_size: 3 }, weight_map: map }))],
    mutate: mutateText,
    place: (input) => Deno.writeFile(join(here, "model.safetensors.index.json"), input),
    attempt: (input) =>
      attempted(async () => {
        using checkpoint = await openCheckpoint(here);
        const whole = parseStrictly(new TextDecoder().decode(input)) as ReadonlyMap<string, Json>;
        const named = whole.get("weight_map") as ReadonlyMap<string, string>;
        for (const [tensor, shard] of named) assert.ok(shards[shard].includes(tensor));
        const held = checkpoint.tensors().map(({ name }) => name).sort();
        assert.deepEqual(held, [...new Set(named.values())].flatMap((shard) => shards[shard]).sort());
        return `loaded ${held.length}`;
      }),
  };
}

/** Where each architecture says its sizes. */
const SIZES: Readonly<Record<string, readonly string[]>> = {
  gpt2: ["vocab_size", "n_positions", "n_layer", "n_embd", "n_head"],
  gpt_neo: ["vocab_size", "max_position_embeddings", "num_layers", "hidden_size", "num_heads"],
  sedd: ["tokens", "model.length", "model.n_blocks", "model.hidden_size", "model.n_heads"],
};

async function config(folder: string): Promise<Format> {
  const path = join(folder, "fuzzed.json");
  const names = ["gpt2-tiny", "gpt-neo-tiny", "sedd-tiny"];
  const checkpoints = new Map<string, Checkpoint>();
  const seeds: Uint8Array[] = [];
  for (const name of names) {
    checkpoints.set(name, await openCheckpoint(fixture(`parity/${name}/`)));
    seeds.push(text.encode(JSON.stringify({ ...checkpoints.get(name)!.config, fuzzed: name })));
  }
  return {
    name: "config.json",
    seeds,
    mutate: mutateText,
    place: (input) => Deno.writeFile(path, input),
    attempt: (input) =>
      attempted(async () => {
        const found = await readJson(path);
        const weights = checkpoints.get(String(found.fuzzed)) ?? checkpoints.get(names[0])!;
        const loaded = await loadModel(
          {
            origin: "fuzzed",
            config: found,
            has: (name) => weights.has(name),
            read: (name, shape) => weights.read(name, shape),
            rows: (name, shape) => weights.rows(name, shape),
            transposed: (name, shape) => weights.transposed(name, shape),
          },
          new Plan(createReferenceBackend()).device,
        );
        const { vocabSize, contextLength, layers, width, heads } = loaded.model.shape;
        const strict = parseStrictly(new TextDecoder().decode(input));
        const type = loaded.kind === "diffusion" ? "sedd" : String(found.model_type);
        const says = SIZES[type].map((place) =>
          place.split(".").reduce((at: Json | undefined, key) => (at as Map<string, Json>).get(key), strict)
        );
        assert.deepEqual([vocabSize, contextLength, layers, width, heads], says);
        return `loaded ${type}`;
      }),
  };
}

async function tokenizerFile(folder: string): Promise<Format> {
  const whole = await readJson(join(toPath(fixture("pair/")), "tokenizer.json"));
  const model = whole.model as { vocab: Record<string, number>; merges: [string, string][] };
  // a small one, so that a change is likely to meet something that matters
  const vocab = Object.fromEntries(Object.entries(model.vocab).filter(([, id]) => id < 300));
  const merges = model.merges.filter((pair) => pair.every((part) => part in vocab) && pair.join("") in vocab);
  const small = { ...whole, model: { ...model, vocab, merges } };
  const path = join(folder, "tokenizer.json");
  return {
    name: "tokenizer.json",
    seeds: [text.encode(JSON.stringify(small))],
    mutate: mutateText,
    place: (input) => Deno.writeFile(path, input),
    attempt: (input) =>
      attempted(async () => {
        const tokenizer = await loadTokenizer(path);
        const strict = parseStrictly(new TextDecoder().decode(input)) as ReadonlyMap<string, Json>;
        const ids = new Set([
          ...Object.values(
            Object.fromEntries((strict.get("model") as Map<string, Map<string, Json>>).get("vocab")!),
          ),
          ...(strict.get("added_tokens") as Map<string, Json>[]).map((token) => token.get("id")),
        ]);
        for (const sample of ["The captain, on deck:\n\t“naïve” 😀 <|endoftext|>", "  a ", "\ud800"]) {
          const found = encodeText(tokenizer, sample);
          for (const id of found) assert.ok(ids.has(id), `id ${id} is not in the file`);
          assert.equal(typeof decodeTokens(tokenizer, [...found, 299, 1e6]), "string");
        }
        return "loaded";
      }),
  };
}

function prompts(tokenizer: Tokenizer): Format {
  return {
    name: "prompts",
    seeds: [
      "It was a dark and\nstormy night; “the captain”",
      "😀€ é ﷽ <|endoftext|>",
      " ".repeat(50),
      "ab".repeat(99),
    ]
      .map((prompt) => text.encode(prompt)),
    mutate: mutateBytes,
    async attempt(input) {
      let prompt: string;
      const half = input.length >> 1;
      try {
        prompt = await readInput([input.subarray(0, half), input.subarray(half)].values() as never);
      } catch (error) {
        assert.equal((error as Error).message, "it is not UTF-8 text");
        return "not UTF-8";
      }
      const ids = encodeText(tokenizer, prompt);
      assert.ok(ids.every((id) => Number.isInteger(id) && id >= 0 && id < 2048));
      assert.equal(decodeTokens(tokenizer, ids), prompt);
      const stream = new TextStream(tokenizer);
      assert.equal(ids.map((id) => stream.push(id)).join("") + stream.flush(), prompt);
      return `text of ${Math.floor(Math.log2(ids.length + 1))} bits`;
    },
  };
}
