/**
 * A checkpoint in a folder, as published on the Hugging Face Hub: `config.json` beside `model.safetensors`, or
 * shards with an index, or `model.safetensors.gz`, or an old `pytorch_model.bin`. Names, shapes and dtypes are
 * checked against what the caller expects, and every failure is one {@linkcode CheckpointError} that says what was
 * found.
 *
 * It deliberately downloads nothing, runs nothing (a pickle is read, not executed), and knows no architecture: which
 * names a model wants is the model's business.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { CheckpointError, tensorError, type Weights } from "../model/weights.ts";
import { brief } from "../shown.ts";
import { type ByteSource, fileSource, kindOf, toPath } from "./files.ts";
import { gzipHead, GzipSource } from "./gzip.ts";
import { isRecord, readJson } from "./json.ts";
import { dataStart, Safetensors, spansOf } from "./safetensors.ts";
import { CHUNK_BYTES, fault, type TensorFile, type TensorInfo } from "./tensor_file.ts";
import { openTorchFile } from "./torch.ts";

/** Where weights may be, the first that exists is taken: a file, or shards that an index names. */
export const WEIGHT_FILES: readonly string[] = [
  "model.safetensors",
  "model.safetensors.index.json",
  "model.safetensors.gz",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
];

/** Bytes of f32 in one chunk of a transpose: many, as each chunk costs a pass over the matrix. */
export const TRANSPOSED_BYTES: number = 16 << 20;

/** Dtypes that a matrix may be stored in, beside I8 with a scale. */
const MATRIX_DTYPES = ["F32", "F16", "BF16", "F64"];

/** Values of I8 tensors with a scale are multiplied by it on reading; see {@linkcode Checkpoint}. */
const SCALE_SUFFIX = ".scale";

/** A tensor and the file that holds it. */
interface Entry {
  readonly file: TensorFile;
  readonly tensor: TensorInfo;
}

/**
 * An open checkpoint: {@linkcode Weights} over files.
 *
 * Memory: {@linkcode Checkpoint.rows} holds 2 MiB (one of raw bytes, one of f32) and
 * {@linkcode Checkpoint.transposed} 16 MiB more, whatever the size of the file. Of `model.safetensors.gz` up to 4 MiB
 * of small tensors are kept, and the one that is being read, unless it is large and read in order.
 *
 * int8 storage: an I8 tensor `X` of shape [rows, columns] beside an F32 tensor `X.scale` of shape [rows, 1] or
 * [1, columns] stands for the matrix X[r][c]·scale[r or c], and is read as that.
 *
 * f16 in planes: a U8 tensor `X.planes` of shape [2, …] holds all low, then all high bytes of the F16 tensor `X` of
 * shape […], and is read as that. The high ones are much alike: a compressed file is smaller by a fifteenth.
 */
export class Checkpoint implements Weights, Disposable {
  /** The folder. */
  readonly origin: string;
  /** `config.json`, parsed, with the `eos_token_id` of `generation_config.json` if there is one. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly #files: readonly TensorFile[];
  readonly #entries: ReadonlyMap<string, Entry>;
  readonly #buffers: Buffers = new Buffers();
  /** Hashes of matrices that were compared, by name. */
  readonly #hashes: Map<string, string> = new Map();

  /**
   * Most people want {@linkcode openCheckpoint}.
   *
   * @param files validated, owned by the checkpoint from here on
   * @throws {CheckpointError} if two files hold a tensor of the same name
   */
  constructor(origin: string, config: Readonly<Record<string, unknown>>, files: readonly TensorFile[]) {
    this.origin = origin;
    this.config = config;
    this.#files = files;
    const entries = new Map<string, Entry>();
    for (const file of files) {
      for (const [name, tensor] of file.tensors) {
        const other = entries.get(name);
        if (other !== undefined) {
          throw new CheckpointError(
            `Cannot load checkpoint "${origin}": tensor ${
              brief(name)
            } is in "${other.file.path}" and in "${file.path}"`,
          );
        }
        entries.set(name, { file, tensor });
      }
    }
    this.#entries = entries;
  }

  /** The tensors of all files, in their order. */
  tensors(): TensorInfo[] {
    return [...this.#entries.values()].map(({ tensor }) => tensor);
  }

  /** As {@linkcode Weights} says. */
  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** As {@linkcode Weights} says. A tensor that is not there would be in the only file, or in any of the folder's. */
  fileOf(name: string): string {
    const only = this.#files.length === 1 ? this.#files[0].path : this.origin;
    return this.#entries.get(name)?.file.path ?? only;
  }

  /** As {@linkcode Weights} says. */
  async read(name: string, shape: readonly number[]): Promise<Float32Array> {
    const entry = this.#entry(name, shape);
    const out = new Float32Array(shape.reduce((product, n) => product * n, 1));
    await this.#fill(entry, await this.#scale(entry), 0, out);
    return out;
  }

  /** As {@linkcode Weights} says. A chunk is valid until the next is asked for: copy what has to outlive it. */
  rows(name: string, shape: readonly [number, number]): AsyncGenerator<Float32Array> {
    return this.#rows(this.#matrix(name, shape), shape);
  }

  async *#rows(entry: Entry, [rows, columns]: readonly [number, number]): AsyncGenerator<Float32Array> {
    const scale = await this.#scale(entry);
    const step = Math.max(1, Math.floor(CHUNK_BYTES / 4 / columns));
    const chunk = this.#buffers.take(Math.max(step * columns, CHUNK_BYTES / 4));
    try {
      for (let row = 0; row < rows; row += step) {
        const out = chunk.subarray(0, Math.min(step, rows - row) * columns); // [n, columns]
        await this.#fill(entry, scale, row * columns, out);
        yield out;
      }
    } finally {
      this.#buffers.give(chunk);
    }
  }

  /** As {@linkcode Weights} says. A chunk is valid until the next is asked for: copy what has to outlive it. */
  transposed(name: string, shape: readonly [number, number]): AsyncGenerator<Float32Array> {
    return this.#transposed(this.#matrix(name, shape), shape);
  }

  async *#transposed(entry: Entry, shape: readonly [number, number]): AsyncGenerator<Float32Array> {
    const [rows, columns] = shape;
    const step = Math.max(1, Math.floor(TRANSPOSED_BYTES / 4 / rows));
    const chunk = this.#buffers.take(Math.max(Math.min(step, columns) * rows, TRANSPOSED_BYTES / 4));
    try {
      for (let first = 0; first < columns; first += step) {
        const out = chunk.subarray(0, Math.min(step, columns - first) * rows); // [n, rows]
        let row = 0;
        for await (const part of this.#rows(entry, shape)) {
          transposeBand(out, rows, row, part, columns, first);
          row += part.length / columns;
        }
        yield out;
      }
    } finally {
      this.#buffers.give(chunk);
    }
  }

  /**
   * As {@linkcode Weights} says. Each is read in order, which a compressed file needs, and once.
   * @param between called, and waited for, between chunks
   */
  async equal(
    one: string,
    other: string,
    shape: readonly [number, number],
    between?: () => Promise<void>,
  ): Promise<boolean> {
    return await this.#hash(one, shape, between) === await this.#hash(other, shape, between);
  }

  async #hash(
    name: string,
    shape: readonly [number, number],
    between: (() => Promise<void>) | undefined,
  ): Promise<string> {
    const rows = this.rows(name, shape); // checks the shape
    let digest = this.#hashes.get(name);
    if (digest === undefined) {
      const hash = createHash("sha256");
      for await (const { buffer, byteOffset, byteLength } of rows) {
        hash.update(new Uint8Array(buffer, byteOffset, byteLength));
        await between?.();
      }
      digest = hash.digest("hex");
      this.#hashes.set(name, digest);
    }
    return digest;
  }

  /** Closes the files. */
  [Symbol.dispose](): void {
    for (const file of this.#files) file[Symbol.dispose]();
  }

  #entry(name: string, shape: readonly number[]): Entry {
    const entry = this.#entries.get(name);
    if (entry === undefined) {
      throw tensorError(this, name, `is missing, expected shape [${shape.join(", ")}]`);
    }
    const found = entry.tensor.shape;
    if (found.length !== shape.length || found.some((n, axis) => n !== shape[axis])) {
      throw tensorError(this, name, `has shape [${found.join(", ")}], expected [${shape.join(", ")}]`);
    }
    return entry;
  }

  /** The entry of a weight matrix, whose dtype must be one for weights. */
  #matrix(name: string, shape: readonly number[]): Entry {
    const entry = this.#entry(name, shape), { dtype } = entry.tensor;
    if (MATRIX_DTYPES.includes(dtype) || dtype === "I8" && this.has(name + SCALE_SUFFIX)) return entry;
    throw tensorError(
      this,
      name,
      `has dtype ${dtype}, expected one of ${
        MATRIX_DTYPES.join(", ")
      }, or I8 beside a tensor "${name}${SCALE_SUFFIX}"`,
    );
  }

  /** The scales of an int8-stored matrix, with the axis they run along; undefined for any other tensor. */
  async #scale({ tensor, file }: Entry): Promise<{ perRow: boolean; values: Float32Array } | undefined> {
    const entry = this.#entries.get(tensor.name + SCALE_SUFFIX);
    if (tensor.dtype !== "I8" || entry === undefined) return undefined;
    const [rows, columns] = tensor.shape;
    const found = entry.tensor.shape;
    const perRow = found.length === 2 && found[0] === rows && found[1] === 1;
    const perColumn = found.length === 2 && found[0] === 1 && found[1] === columns;
    if (tensor.shape.length !== 2 || !(perRow || perColumn)) {
      throw new CheckpointError(
        `Cannot load checkpoint "${file.path}": tensor "${entry.tensor.name}" has shape [${
          found.join(", ")
        }], expected [${rows}, 1] or [1, ${columns}]`,
      );
    }
    const values = new Float32Array(perRow ? rows : columns);
    await entry.file.read(entry.tensor, 0, values);
    return { perRow, values };
  }

  /** Reads elements from `first` on, which starts a row, and undoes the quantisation. */
  async #fill(
    { file, tensor }: Entry,
    scale: { perRow: boolean; values: Float32Array } | undefined,
    first: number,
    out: Float32Array,
  ): Promise<void> {
    await file.read(tensor, first, out);
    if (scale === undefined) return;
    const columns = tensor.shape[1];
    for (let start = 0, row = first / columns; start < out.length; start += columns, row++) {
      for (let c = 0; c < columns; c++) out[start + c] *= scale.values[scale.perRow ? row : c];
    }
  }
}

/** A hash of all values. */
/** Chunk buffers that are reused: large garbage is collected late, and inflates peak memory. */
class Buffers {
  readonly #free: Float32Array[] = [];

  /** A buffer of at least that length, for the caller alone. */
  take(length: number): Float32Array {
    const fits = this.#free.findIndex((buffer) => buffer.length >= length);
    return fits < 0 ? new Float32Array(length) : this.#free.splice(fits, 1)[0];
  }

  /** Gives a buffer back. */
  give(buffer: Float32Array): void {
    this.#free.push(buffer);
  }
}

/** Writes columns first … first + n of `part` [m, columns] as entries row … row + m of the rows of `out` [n, rows]. */
function transposeBand(
  out: Float32Array,
  rows: number,
  row: number,
  part: Float32Array,
  columns: number,
  first: number,
): void {
  const count = part.length / columns, n = out.length / rows;
  // 16 rows at a time fill a cache line of the output
  for (let top = 0; top < count; top += 16) {
    const bottom = Math.min(top + 16, count);
    for (let c = 0; c < n; c++) {
      for (let r = top; r < bottom; r++) out[c * rows + row + r] = part[r * columns + first + c];
    }
  }
}

/**
 * Opens the checkpoint in a folder: reads `config.json`, the `eos_token_id` of `generation_config.json`, and the headers
 * of its weight files, but no tensor. Takes `model.safetensors`, else `model.safetensors.index.json`, else
 * `model.safetensors.gz`, else `pytorch_model.bin`, else `pytorch_model.bin.index.json`.
 *
 * @param folder a path or a `file:` URL
 * @throws {CheckpointError} if it is not a folder, has no valid `config.json`, no weights, or broken ones
 * @throws {Deno.errors.NotCapable} if the permission to read it is missing
 */
export async function openCheckpoint(folder: string | URL): Promise<Checkpoint> {
  const origin = toPath(folder);
  const kind = await kindOf(origin);
  if (kind !== "folder") {
    const found = kind === undefined ? "there is no such folder" : "it is not a folder";
    throw fault(origin, `${found}, expected one, or the name of a model on a hub as owner/name`);
  }
  const configPath = join(origin, "config.json");
  if (await kindOf(configPath) !== "file") throw fault(origin, 'it has no file "config.json"');
  const config = { ...await readJson(configPath), ...await endOfText(origin) };
  const weights = await findWeights(origin);
  if (weights === undefined) {
    throw fault(origin, `it has none of the files ${WEIGHT_FILES.map((name) => `"${name}"`).join(", ")}`);
  }

  const files: TensorFile[] = [];
  try {
    if (weights.endsWith(".index.json")) await openShards(origin, weights, files);
    else files.push(await openTensors(join(origin, weights)));
    return new Checkpoint(origin, config, files);
  } catch (error) {
    for (const file of files) file[Symbol.dispose]();
    throw error;
  }
}

/** The tokens that end a text according to `generation_config.json`, which takes precedence over `config.json`. */
async function endOfText(folder: string): Promise<{ readonly eos_token_id?: unknown }> {
  const path = join(folder, "generation_config.json");
  if (await kindOf(path) !== "file") return {};
  const { eos_token_id } = await readJson(path);
  if (eos_token_id === undefined || eos_token_id === null) return {};
  if ([eos_token_id].flat().every(Number.isInteger)) return { eos_token_id };
  throw fault(path, `"eos_token_id" is ${brief(eos_token_id)}, expected a token's id, or a list of them`);
}

/** Which of {@linkcode WEIGHT_FILES} a folder's weights are in. */
export async function findWeights(folder: string): Promise<string | undefined> {
  for (const name of WEIGHT_FILES) if (await kindOf(join(folder, name)) === "file") return name;
  return undefined;
}

/**
 * Which shard each tensor is in, as an index says.
 * @returns names of files beside the index, by the tensors' names
 * @throws {CheckpointError} if it is no valid index
 */
export async function readIndex(path: string): Promise<Map<string, string>> {
  const { weight_map: map } = await readJson(path);
  if (!isRecord(map)) throw fault(path, 'it has no "weight_map" object');
  return new Map(
    Object.entries(map).map(([name, shard]) => {
      // a name alone cannot lead out of the folder
      if (typeof shard !== "string" || !/^[^/\\:\0]+\.(safetensors|bin)$/.test(shard)) {
        throw fault(
          path,
          `tensor ${brief(name)} is in ${brief(shard)}, expected the name of a safetensors or bin file`,
        );
      }
      return [name, shard];
    }),
  );
}

/** Opens the shards that an index names, into `files`, and checks that each holds what the index says. */
async function openShards(origin: string, index: string, files: TensorFile[]): Promise<void> {
  const path = join(origin, index);
  const shards = new Map<string, TensorFile>();
  for (const [name, shard] of await readIndex(path)) {
    let file = shards.get(shard);
    if (file === undefined) {
      const shardPath = join(origin, shard);
      if (await kindOf(shardPath) !== "file") throw fault(path, `shard ${brief(shard)} is missing`);
      file = await openTensors(shardPath);
      shards.set(shard, file);
      files.push(file);
    }
    if (!file.tensors.has(name)) throw fault(path, `tensor ${brief(name)} is missing from shard "${shard}"`);
  }
}

/** Opens a file of tensors, of the format that its name says. */
async function openTensors(path: string): Promise<TensorFile> {
  if (path.endsWith(".bin")) return await openTorchFile(await fileSource(path), path);
  const source = path.endsWith(".gz") ? await compressedSource(path) : await fileSource(path);
  return await Safetensors.open(source, path);
}

/** A compressed file, of which no more is inflated than its own header says there is, and a byte. */
async function compressedSource(path: string): Promise<ByteSource> {
  const header = await gzipHead(path, dataStart(await gzipHead(path, 8), path));
  return await GzipSource.open(path, spansOf(header, path));
}
