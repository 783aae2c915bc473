/**
 * Where a model's weights come from, as a model sees it: named tensors that arrive as f32, in pieces, so that
 * loading never holds a whole checkpoint. `src/hub` implements it over files; a test may over a map.
 *
 * @module
 */

/** Named tensors of one checkpoint. */
export interface Weights {
  /** Where they come from, for messages: a folder or a file. */
  readonly origin: string;
  /** `config.json`, parsed, with the `eos_token_id` of `generation_config.json` if there is one. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Whether there is a tensor of that name. */
  has(name: string): boolean;
  /** The file that holds a tensor, or would if it were there, for messages. @default {@linkcode origin} */
  fileOf?(name: string): string;
  /**
   * A whole tensor as f32, for vectors and small tables.
   * @param shape what it must be
   * @throws {CheckpointError} if it is missing, has another shape, or a dtype that is not understood
   */
  read(name: string, shape: readonly number[]): Promise<Float32Array>;
  /**
   * A matrix as f32 rows, some at a time: chunks [n, columns] in order.
   * @param shape [rows, columns] that the tensor must have
   * @throws {CheckpointError} as {@linkcode Weights.read}, and at once: nothing is read before the first chunk
   */
  rows(name: string, shape: readonly [number, number]): AsyncIterable<Float32Array>;
  /**
   * The transpose of a matrix as f32 rows, some at a time: chunks [n, rows] in order, for Conv1D weights
   * stored [inputs, outputs].
   * @param shape [rows, columns] that the tensor must have *as stored*
   * @throws {CheckpointError} as {@linkcode Weights.rows}
   */
  transposed(name: string, shape: readonly [number, number]): AsyncIterable<Float32Array>;
  /**
   * Whether two matrices hold the same values, for those that were stored twice. @default they do not
   * @param shape [rows, columns] that both tensors must have
   * @throws {CheckpointError} as {@linkcode Weights.read}
   */
  equal?(one: string, other: string, shape: readonly [number, number]): Promise<boolean>;
}

/** A checkpoint that cannot be loaded; the message names file, tensor, what was found and what was expected. */
export class CheckpointError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "CheckpointError";
}

/** What is wrong with a tensor, as an error that names its file. */
export function tensorError(weights: Weights, name: string, what: string): CheckpointError {
  const file = weights.fileOf?.(name) ?? weights.origin;
  return new CheckpointError(`Cannot load checkpoint "${file}": tensor "${name}" ${what}`);
}

/**
 * Throws if there is a block after the last, as leaving it out would silently make another model.
 * @param name of a tensor of that block
 * @param layers how many the configuration says there are
 */
export function checkLast(weights: Weights, name: string, layers: number): void {
  if (!weights.has(name)) return;
  throw tensorError(
    weights,
    name,
    `is there, expected no more than the ${layers} layers of config.json`,
  );
}
