/**
 * Writes a GPT-2 as an ONNX model with a key-value cache, for onnxruntime: the operators that its own optimiser
 * would arrive at for such a model (fused attention, fast GELU, dynamic int8 quantisation), so that the peer is
 * given its best form. Protocol buffers by hand: a dozen fields of a stable format.
 *
 * Inputs: `input_ids` int64 [1, S], `position_ids` int64 [1, S], `past.{i}.key` and `.value` f32 [1, H, P, D].
 * Outputs: `logits` f32 [1, S, V], `present.{i}.key` and `.value`.
 *
 * @module
 */

import type { Gpt2, Tensor } from "./weights.ts";

/** The version of onnxruntime-node and onnxruntime-web. */
export const ONNXRUNTIME = "1.30.0";

const FLOAT = 1, INT8 = 3, INT64 = 7; // TensorProto.DataType

/** A message under construction: the wire format of protocol buffers. */
class Message {
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  #push(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    this.#length += bytes.length;
    return this;
  }

  #varint(value: number): this {
    const bytes: number[] = [];
    do {
      const low = value % 128;
      value = Math.floor(value / 128);
      bytes.push(value > 0 ? low | 128 : low);
    } while (value > 0);
    return this.#push(Uint8Array.from(bytes));
  }

  /** A whole number ≥ 0. */
  int(field: number, value: number): this {
    return this.#varint(field * 8).#varint(value);
  }

  /** An f32. */
  float(field: number, value: number): this {
    return this.#varint(field * 8 + 5).#push(new Uint8Array(Float32Array.of(value).buffer));
  }

  /** Bytes as they are. */
  bytes(field: number, value: Uint8Array): this {
    return this.#varint(field * 8 + 2).#varint(value.length).#push(value);
  }

  /** A string. */
  text(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value));
  }

  /** A message within. */
  message(field: number, value: Message): this {
    this.#varint(field * 8 + 2).#varint(value.#length);
    for (const part of value.#parts) this.#push(part);
    return this;
  }

  /** All of it. */
  finish(): Uint8Array {
    const all = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

function initializer(name: string, type: number, shape: readonly number[], values: ArrayBufferView): Message {
  const tensor = new Message();
  for (const n of shape) tensor.int(1, n);
  return tensor.int(2, type).text(8, name)
    .bytes(9, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
}

/** A node; attributes are whole numbers, or floats if they say so. */
function node(
  operator: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: Readonly<Record<string, number | { readonly float: number }>> = {},
  domain = "",
): Message {
  const message = new Message();
  for (const input of inputs) message.text(1, input);
  for (const output of outputs) message.text(2, output);
  message.text(3, outputs[0]).text(4, operator).text(7, domain);
  for (const [name, value] of Object.entries(attributes)) {
    const attribute = new Message().text(1, name);
    if (typeof value === "number") attribute.int(3, value).int(20, 2);
    else attribute.float(2, value.float).int(20, 1);
    message.message(5, attribute);
  }
  return message;
}

/** A graph input or output; named axes may have any length. */
function port(name: string, type: number, shape: readonly (number | string)[]): Message {
  const dimensions = new Message();
  for (const n of shape) {
    dimensions.message(1, typeof n === "number" ? new Message().int(1, n) : new Message().text(2, n));
  }
  const tensor = new Message().int(1, type).message(2, dimensions);
  return new Message().text(1, name).message(2, new Message().message(1, tensor));
}

/** A matrix [outputs, inputs] as int8 [inputs, outputs] with one scale per output. */
function quantise(
  { shape: [outputs, inputs], values }: Tensor,
): { weights: Int8Array; scales: Float32Array } {
  const weights = new Int8Array(values.length), scales = new Float32Array(outputs);
  for (let o = 0; o < outputs; o++) {
    const row = values.subarray(o * inputs, (o + 1) * inputs);
    const most = row.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    scales[o] = most / 127 || 1;
    for (let i = 0; i < inputs; i++) weights[i * outputs + o] = Math.round(row[i] / scales[o]);
  }
  return { weights, scales };
}

function transpose({ shape: [rows, columns], values }: Tensor): Float32Array {
  const out = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) out[c * rows + r] = values[r * columns + c];
  }
  return out;
}

/** The model as the bytes of an `.onnx` file. */
export async function onnxOf(model: Gpt2, dtype: "f32" | "int8"): Promise<Uint8Array> {
  const { layers, heads, width, vocabSize, epsilon } = model, size = width / heads;
  const graph = new Message();
  const constant = (name: string, type: number, shape: readonly number[], values: ArrayBufferView) =>
    graph.message(5, initializer(name, type, shape, values));
  const vector = async (name: string) => {
    const { shape, values } = await model.tensor(name);
    constant(name, FLOAT, shape, values);
    return name;
  };
  const add = (...args: Parameters<typeof node>) => {
    graph.message(1, node(...args));
    return args[2][0];
  };

  /** x·Wᵀ (+ bias) */
  const project = async (out: string, x: string, name: string, bias?: string) => {
    const matrix = await model.tensor(`${name}.weight`), [outputs, inputs] = matrix.shape;
    if (dtype === "int8") {
      const { weights, scales } = quantise(matrix);
      constant(`${out}.q`, INT8, [inputs, outputs], weights);
      constant(`${out}.scale`, FLOAT, [outputs], scales);
      const operands = [x, `${out}.q`, `${out}.scale`, "", ...bias === undefined ? [] : [await vector(bias)]];
      return add("DynamicQuantizeMatMul", operands, [out], {}, "com.microsoft");
    }
    constant(`${out}.w`, FLOAT, [inputs, outputs], transpose(matrix));
    if (bias === undefined) return add("MatMul", [x, `${out}.w`], [out]);
    return add("Add", [add("MatMul", [x, `${out}.w`], [`${out}.product`]), await vector(bias)], [out]);
  };
  const norm = async (out: string, x: string, name: string) => {
    const [gain, shift] = [await vector(`${name}.weight`), await vector(`${name}.bias`)];
    return add("LayerNormalization", [x, gain, shift], [out], { axis: 2, epsilon: { float: epsilon } });
  };

  let x = add(
    "Add",
    [
      add("Gather", [await vector("wte.weight"), "input_ids"], ["token"]),
      add("Gather", [await vector("wpe.weight"), "position_ids"], ["position"]),
    ],
    ["x"],
  );
  constant("thirds", INT64, [3], BigInt64Array.of(BigInt(width), BigInt(width), BigInt(width)));
  for (let i = 0; i < layers; i++) {
    const name = `h.${i}`, past = `past.${i}`, present = `present.${i}`;
    const normed = await norm(`${name}.normed`, x, `${name}.ln_1`);
    const qkv = await project(`${name}.qkv`, normed, `${name}.attn.c_attn`, `${name}.attn.c_attn.bias`);
    add("Split", [qkv, "thirds"], [`${name}.q`, `${name}.k`, `${name}.v`], { axis: 2 });
    const attended = add(
      "MultiHeadAttention",
      [`${name}.q`, `${name}.k`, `${name}.v`, "", "", "", `${past}.key`, `${past}.value`],
      [`${name}.attended`, `${present}.key`, `${present}.value`],
      { num_heads: heads, unidirectional: 1 },
      "com.microsoft",
    );
    const mixed = await project(`${name}.out`, attended, `${name}.attn.c_proj`, `${name}.attn.c_proj.bias`);
    x = add("Add", [x, mixed], [`${name}.middle`]);
    const again = await norm(`${name}.again`, x, `${name}.ln_2`);
    const up = await project(`${name}.up`, again, `${name}.mlp.c_fc`, `${name}.mlp.c_fc.bias`);
    const inner = add("FastGelu", [up], [`${name}.gelu`], {}, "com.microsoft");
    const down = await project(`${name}.down`, inner, `${name}.mlp.c_proj`, `${name}.mlp.c_proj.bias`);
    x = add("Add", [x, down], [`${name}.end`]);
  }
  await project("logits", await norm("final", x, "ln_f"), "wte");

  graph.text(2, "gpt2");
  graph.message(11, port("input_ids", INT64, [1, "rows"])).message(
    11,
    port("position_ids", INT64, [1, "rows"]),
  );
  graph.message(12, port("logits", FLOAT, [1, "rows", vocabSize]));
  for (let i = 0; i < layers; i++) {
    for (const part of ["key", "value"]) {
      graph.message(11, port(`past.${i}.${part}`, FLOAT, [1, heads, "past", size]));
      graph.message(12, port(`present.${i}.${part}`, FLOAT, [1, heads, "length", size]));
    }
  }
  const operators = (domain: string, version: number) => new Message().text(1, domain).int(2, version);
  return new Message().int(1, 9)
    .message(8, operators("", 17)).message(8, operators("com.microsoft", 1))
    .message(7, graph).finish();
}
