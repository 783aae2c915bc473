/**
 * Where weights and words come from: checkpoints in the Hugging Face layout, tokenizers, and models by name.
 *
 * ```ts
 * import { loadTokenizer, openCheckpoint } from "@specdiff/specdiff/hub";
 *
 * const folder = "fixtures/pair/target"; // or another in the Hugging Face layout
 * using checkpoint = await openCheckpoint(folder);
 * for (const { name, dtype, shape } of checkpoint.tensors()) console.log(name, dtype, shape);
 * const tokenizer = await loadTokenizer(folder);
 * console.log(tokenizer.encode("It was a dark and stormy night"));
 * ```
 *
 * @module
 */

export { Checkpoint, openCheckpoint } from "./checkpoint.ts";
export { HubError } from "./client.ts";
export { type ByteSource, fileSource, memorySource } from "./files.ts";
export { type CachedModel, listModels, locateModel, pullModel, removeModel } from "./models.ts";
export type { DownloadProgress, HubOptions } from "./options.ts";
export { Safetensors } from "./safetensors.ts";
export { TensorFile, type TensorInfo } from "./tensor_file.ts";
export { decodeTokens, encodeText, loadTokenizer, TextStream, type Tokenizer } from "./tokenizer.ts";
export { CheckpointError, type Weights } from "../model/weights.ts";
