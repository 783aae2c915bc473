/**
 * Writes a GPT-2 as GGUF, for llama.cpp: version 3 of the format, with a vocabulary where one is given, as speed needs
 * none, but llama.cpp's speculative decoding does.
 *
 * @module
 */

import type { Gpt2, PeerDtype, Tensor } from "./weights.ts";

const F32 = 0, F16 = 1, Q8_0 = 8; // ggml types
const U32 = 4, I32 = 5, FLOAT = 6, STRING = 8, ARRAY = 9; // types of metadata
const ALIGNMENT = 32;

/** Names here, and those of the checkpoint. */
function names(layers: number): [gguf: string, name: string][] {
  const both = (gguf: string, name: string): [string, string][] => [
    [`${gguf}.weight`, `${name}.weight`],
    [`${gguf}.bias`, `${name}.bias`],
  ];
  return [
    ["token_embd.weight", "wte.weight"],
    ["position_embd.weight", "wpe.weight"],
    ...Array.from({ length: layers }, (_, i) => [
      ...both(`blk.${i}.attn_norm`, `h.${i}.ln_1`),
      ...both(`blk.${i}.attn_qkv`, `h.${i}.attn.c_attn`),
      ...both(`blk.${i}.attn_output`, `h.${i}.attn.c_proj`),
      ...both(`blk.${i}.ffn_norm`, `h.${i}.ln_2`),
      ...both(`blk.${i}.ffn_up`, `h.${i}.mlp.c_fc`),
      ...both(`blk.${i}.ffn_down`, `h.${i}.mlp.c_proj`),
    ]).flat(),
    ...both("output_norm", "ln_f"),
  ];
}

/** Blocks of 32 values: their scale as f16, then 32 int8. */
function q8({ values }: Tensor): Uint8Array {
  const out = new Uint8Array(values.length / 32 * 34), view = new DataView(out.buffer);
  for (let block = 0; block < values.length / 32; block++) {
    const row = values.subarray(block * 32, block * 32 + 32), at = block * 34;
    const scale = row.reduce((most, v) => Math.max(most, Math.abs(v)), 0) / 127;
    view.setFloat16(at, scale, true);
    for (let i = 0; i < 32; i++) view.setInt8(at + 2 + i, scale > 0 ? Math.round(row[i] / scale) : 0);
  }
  return out;
}

/** Values as f16. */
function f16({ values }: Tensor): Uint8Array {
  const out = new Uint8Array(2 * values.length), view = new DataView(out.buffer);
  values.forEach((value, i) => view.setFloat16(2 * i, value, true));
  return out;
}

/** Little-endian bytes, piece by piece. */
class Writer {
  readonly parts: Uint8Array<ArrayBuffer>[] = [];
  length = 0;

  /** Bytes as they are. */
  bytes(bytes: Uint8Array): this {
    this.parts.push(Uint8Array.from(bytes));
    this.length += bytes.length;
    return this;
  }
  /** A u32. */
  u32(value: number): this {
    return this.bytes(new Uint8Array(Uint32Array.of(value).buffer));
  }
  /** A u64. */
  u64(value: number): this {
    return this.bytes(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }
  /** A string after its length. */
  text(value: string): this {
    const bytes = new TextEncoder().encode(value);
    return this.u64(bytes.length).bytes(bytes);
  }
  /** Zeros up to the alignment. */
  pad(): this {
    return this.bytes(new Uint8Array(-this.length & (ALIGNMENT - 1)));
  }
}

/** A byte-level BPE vocabulary: tokens by id, pairs as `a b`, and the ids of those that are not text. */
export interface Vocabulary {
  readonly tokens: readonly string[];
  readonly merges: readonly string[];
  readonly special: readonly number[];
}

/** That of a `tokenizer.json`. */
export async function vocabularyIn(file: URL): Promise<Vocabulary> {
  const { model, added_tokens: added } = JSON.parse(await Deno.readTextFile(file));
  const tokens: string[] = [];
  for (const [token, id] of Object.entries<number>(model.vocab)) tokens[id] = token;
  for (const { id, content } of added) tokens[id] = content;
  const merges = model.merges.map((merge: string | string[]) =>
    typeof merge === "string" ? merge : merge.join(" ")
  );
  return { tokens, merges, special: added.map(({ id }: { id: number }) => id) };
}

/** Writes the model to a file; matrices as F16, or as Q8_0 if `dtype` is `int8`. */
export async function writeGguf(
  path: string,
  model: Gpt2,
  dtype: PeerDtype,
  vocabulary?: Vocabulary,
): Promise<void> {
  const numbers = {
    "gpt2.context_length": model.positions,
    "gpt2.embedding_length": model.width,
    "gpt2.block_count": model.layers,
    "gpt2.feed_forward_length": 4 * model.width,
    "gpt2.attention.head_count": model.heads,
    "gpt2.vocab_size": model.vocabSize,
  };
  const texts = {
    "general.architecture": "gpt2",
    ...vocabulary === undefined
      ? { "tokenizer.ggml.model": "no_vocab" }
      : { "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2" },
  };
  const list = names(model.layers), header = new Writer(), data = new Writer();
  header.bytes(new TextEncoder().encode("GGUF")).u32(3).u64(list.length);
  header.u64(Object.keys(numbers).length + Object.keys(texts).length + 1 + (vocabulary ? 3 : 0));
  for (const [key, value] of Object.entries(texts)) header.text(key).u32(STRING).text(value);
  for (const [key, value] of Object.entries(numbers)) header.text(key).u32(U32).u32(value);
  header.text("gpt2.attention.layer_norm_epsilon").u32(FLOAT)
    .bytes(new Uint8Array(Float32Array.of(model.epsilon).buffer));
  if (vocabulary !== undefined) {
    const { tokens, merges, special } = vocabulary, NORMAL = 1, CONTROL = 3;
    for (const [name, entries] of [["tokens", tokens], ["merges", merges]] as const) {
      header.text(`tokenizer.ggml.${name}`).u32(ARRAY).u32(STRING).u64(entries.length);
      for (const entry of entries) header.text(entry);
    }
    header.text("tokenizer.ggml.token_type").u32(ARRAY).u32(I32).u64(tokens.length);
    for (const id of tokens.keys()) header.u32(special.includes(id) ? CONTROL : NORMAL);
  }
  for (const [gguf, name] of list) {
    const tensor = await model.tensor(name), { shape, values } = tensor;
    const format = shape.length < 2 || name === "wpe.weight" ? "f32" : dtype;
    header.text(gguf).u32(shape.length);
    for (const n of shape.toReversed()) header.u64(n); // the fastest axis first
    header.u32({ f32: F32, f16: F16, int8: Q8_0 }[format]).u64(data.length);
    const bytes = format === "f32"
      ? new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      : format === "f16"
      ? f16(tensor)
      : q8(tensor);
    data.bytes(bytes).pad();
  }
  header.pad();
  using file = await Deno.create(path);
  for (const part of [...header.parts, ...data.parts]) {
    for (let written = 0; written < part.length;) written += await file.write(part.subarray(written));
  }
}
