/**
 * `inspect`: what a checkpoint is, and what it needs. It loads the model as the engine does, every name and shape
 * checked, onto a device that holds nothing; so what it says is what the loaders ask for, and not another account
 * of the architectures.
 *
 * @module
 */

import type { Backend, Dtype } from "../backend/backend.ts";
import { type Checkpoint, openCheckpoint } from "../hub/checkpoint.ts";
import type { TensorInfo } from "../hub/safetensors.ts";
import { loadTokenizer } from "../hub/tokenizer.ts";
import { loadModel } from "../model/load.ts";
import type { ModelShape } from "../model/model.ts";
import { CheckpointError, type Weights } from "../model/weights.ts";
import { embeddedDrafter, embeddedTarget } from "../pair.ts";
import { UsageError } from "./args.ts";
import type { Command } from "./command.ts";
import { table } from "./terminal.ts";

/** What `inspect --json` prints. */
interface Inspection extends ModelShape {
  readonly folder: string;
  readonly architecture: string;
  /** What it can be: the target, or a drafter, or both. */
  readonly use: string;
  /** Elements of all tensors in the files. */
  readonly parameters: number;
  /** Bytes of them in the files. */
  readonly storedBytes: number;
  /** Whether there is a tokenizer in the folder or beside it. */
  readonly tokenizer: boolean;
  /** Bytes of weights on the device, by how they are held. */
  readonly weightBytes: Readonly<Record<Dtype, number>>;
  /** Bytes of keys and values of a text that fills the context. */
  readonly cacheBytes: number;
  readonly tensors: readonly Pick<TensorInfo, "name" | "dtype" | "shape">[];
}

/** The command. */
export const inspect: Command = {
  name: "inspect",
  words: "[FOLDER]",
  summary: "What a checkpoint is, and what it needs.",
  details: [
    "FOLDER may be the name of an embedded drafter (sedd-causal, sedd, gpt2); without it, the embedded target's.",
    "Checks its configuration and the name, shape and dtype of every tensor the model asks for.",
    "--json prints one object, with all tensors.",
  ],
  options: ["json"],
  examples: ["inspect", "inspect sedd-causal", "inspect ./gpt2 --json"],
  async run({ words, values }, { out }) {
    if (words.length > 1) throw new UsageError(`${words.length} words are given, expected one FOLDER`);
    const [folder = embeddedTarget()] = words;
    using checkpoint = await openCheckpoint(embeddedDrafter(String(folder))?.folder ?? folder);
    const inspection = await examine(checkpoint);
    if (values.json) out.line(JSON.stringify(inspection, null, 2));
    else for (const line of render(inspection)) out.line(line);
  },
};

/** Bytes of an entry of a matrix. */
const ENTRY_BYTES: Readonly<Record<Dtype, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

async function examine(checkpoint: Checkpoint): Promise<Inspection> {
  const asked: Asked = { matrices: [], vectors: 0 };
  // of a model asked for as int8, what comes as f32 is always held so
  const loaded = await loadModel(headersOf(checkpoint), nowhere(asked), { dtype: "int8" });
  const { shape } = loaded.model;
  const heldAs = (dtype: Dtype) =>
    asked.matrices.reduce(
      (bytes, matrix) => bytes + matrixBytes(matrix, matrix.dtype === "int8" ? dtype : matrix.dtype),
      4 * asked.vectors,
    );
  const tensors = checkpoint.tensors();
  const type = checkpoint.config.model_type;
  return {
    folder: checkpoint.origin,
    architecture: typeof type === "string" ? type : "sedd",
    use: loaded.kind === "causal"
      ? "a target, or an autoregressive drafter"
      : `a diffusion drafter, ${loaded.model.prefixAttention}${
        loaded.model.hasMarkovHead ? ", with a Markov head" : ""
      }`,
    ...shape,
    parameters: tensors.reduce((sum, tensor) => sum + tensor.shape.reduce((product, n) => product * n, 1), 0),
    storedBytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    tokenizer: await hasTokenizer(checkpoint.origin),
    weightBytes: { f32: heldAs("f32"), f16: heldAs("f16"), bf16: heldAs("bf16"), int8: heldAs("int8") },
    // keys and values, f32
    cacheBytes: 2 * 4 * shape.layers * shape.width * shape.contextLength,
    tensors: tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
  };
}

/** What a loader asked the device for. */
interface Asked {
  readonly matrices: MatrixShape[];
  /** Entries of all vectors. */
  vectors: number;
}

type MatrixShape = Parameters<Backend["matrix"]>[0];

/** With one f32 scale per output, if entries are int8. */
function matrixBytes({ outputs, inputs }: MatrixShape, dtype: Dtype): number {
  return outputs * inputs * ENTRY_BYTES[dtype] + (dtype === "int8" ? 4 * outputs : 0);
}

/** A checkpoint that checks every tensor it is asked for, and of matrices yields no values. */
function headersOf(checkpoint: Checkpoint): Weights {
  // the first chunk is where name, shape and dtype are checked; the transpose would read a matrix as a whole
  async function* rows(name: string, shape: readonly [number, number]): AsyncGenerator<Float32Array> {
    for await (const chunk of checkpoint.rows(name, shape)) return yield chunk.subarray(0, 0);
  }
  return {
    origin: checkpoint.origin,
    config: checkpoint.config,
    has: (name) => checkpoint.has(name),
    read: (name, shape) => checkpoint.read(name, shape),
    rows,
    transposed: rows,
  };
}

/** A device that holds nothing. Loading uploads and computes nothing, so it can do no more than take uploads. */
function nowhere(asked: Asked): Backend {
  const device: Pick<Backend, "matrix" | "vector"> = {
    async matrix(shape, chunks) {
      for await (const _ of chunks);
      asked.matrices.push(shape);
      return { ...shape, bytes: 0, [Symbol.dispose]() {} };
    },
    vector({ length }) {
      asked.vectors += length;
      return { length, [Symbol.dispose]() {} };
    },
  };
  return device as Backend;
}

async function hasTokenizer(folder: string): Promise<boolean> {
  try {
    await loadTokenizer(folder);
    return true;
  } catch (error) {
    if (error instanceof CheckpointError) return false;
    throw error;
  }
}

function render(found: Inspection): string[] {
  const dtypes = [...new Set(found.tensors.map(({ dtype }) => dtype))];
  const weights = Object.entries(found.weightBytes).map(([dtype, bytes]) =>
    `${megabytes(bytes)} as ${dtype}`
  );
  return table([
    ["folder", found.folder],
    ["architecture", `${found.architecture}: ${found.use}`],
    ["size", `${found.layers} layers, width ${found.width}, ${found.heads} heads`],
    [
      "vocabulary",
      `${found.vocabSize} tokens; ${found.tokenizer ? "a" : "no"} tokenizer in the folder or beside it`,
    ],
    ["context", `${found.contextLength} tokens`],
    ["parameters", `${found.parameters} in ${found.tensors.length} tensors`],
    ["stored", `${megabytes(found.storedBytes)} as ${dtypes.join(", ")}`],
    ["weights need", weights.join(", ")],
    ["a text needs", `${megabytes(found.cacheBytes)} of keys and values where it fills the context`],
  ], 2);
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
