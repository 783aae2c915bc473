/**
 * `inspect`: what a checkpoint is, and what it needs. It loads the model as the engine does, checking every name and
 * shape, onto a device that stores nothing. Its output thus reflects what the loaders request, without a second
 * description of the architectures.
 *
 * @module
 */

import { type Dtype, dtypes } from "../backend/backend.ts";
import { createReferenceBackend } from "../backend/reference.ts";
import { type Checkpoint, openCheckpoint } from "../hub/checkpoint.ts";
import { locateModel } from "../hub/models.ts";
import type { TensorInfo } from "../hub/tensor_file.ts";
import { loadTokenizer } from "../hub/tokenizer.ts";
import { type LoadedModel, loadModel } from "../model/load.ts";
import type { CausalModel, DiffusionModel, ModelShape } from "../model/model.ts";
import { Plan, withoutMatrices } from "../model/plan.ts";
import { needsTarget } from "../model/sedd_loading.ts";
import { embeddedDrafter, embeddedDrafters, embeddedTarget, openEmbedded } from "../pair.ts";
import { UsageError } from "./args.ts";
import type { Command } from "./command.ts";
import { showDownloads } from "./downloads.ts";
import { megabytes, printable, table } from "./terminal.ts";

/** Sizes are those of no device in particular: the oracle's matrices have no padding. */
const UNPADDED = createReferenceBackend();

/** What `inspect --json` prints. */
interface Inspection extends ModelShape {
  readonly folder: string;
  readonly architecture: string;
  /** Whether it can be a target, a drafter, or both. */
  readonly use: string;
  /** How the head of an autoregressive model relates to its embedding; null for others. */
  readonly head: string | null;
  /** Number of elements of the tensors that the model reads: without masks, and a shared matrix once. */
  readonly parameters: number;
  /** Bytes of all tensors in the files. */
  readonly storedBytes: number;
  /** Whether there is a tokenizer in the folder or beside it. */
  readonly tokenizer: boolean;
  /** Why there is no usable one; null if there is. */
  readonly tokenizerProblem: string | null;
  /** Bytes of weights on the device, by dtype. */
  readonly weightBytes: Readonly<Record<Dtype, number>>;
  /** Bytes of the keys and values of a text that fills the context. */
  readonly cacheBytes: number;
  readonly tensors: readonly Pick<TensorInfo, "name" | "dtype" | "shape">[];
}

/** The command. */
export const inspect: Command = {
  name: "inspect",
  words: "[FOLDER]",
  summary: "What a checkpoint is, and what it needs.",
  details: [
    `FOLDER may be the name of an embedded drafter (${embeddedDrafters.join(", ")}) or of a model on a hub`,
    "(owner/name). The default is the embedded target.",
    "Checks its configuration, and the name, shape and dtype of every tensor that the model reads. A drafter that",
    "shares parts of a target is checked against --target.",
    "--json prints one object, with all tensors.",
  ],
  options: ["target", "json"],
  examples: ["inspect", "inspect sedd-causal", "inspect ./gpt2 --json"],
  async run({ words, values }, { out, err }) {
    if (words.length > 1) throw new UsageError(`${words.length} words are given, expected one FOLDER`);
    const locate = (name: string) => locateModel(name, { onDownload: showDownloads(err) });
    const [word] = words;
    if (word === "") throw new UsageError("the FOLDER is empty");
    const embedded = word === undefined ? embeddedTarget() : embeddedDrafter(word);
    using checkpoint = embedded !== undefined
      ? await openEmbedded(embedded)
      : await openCheckpoint(await locate(word));
    const partial = needsTarget(checkpoint);
    if (values.target !== undefined && !partial) {
      throw new UsageError("--target is given, but the checkpoint shares no parts of a target");
    }
    const target = !partial
      ? undefined
      : values.target === undefined
      ? embeddedTarget()
      : await locate(values.target);
    const inspection = await examine(checkpoint, target).catch((error: Error) => {
      if (partial && values.target === undefined) {
        error.message += "; it was checked against the embedded target, --target names another";
      }
      throw error;
    });
    if (values.json) out.line(JSON.stringify(inspection, null, 2));
    else for (const line of render(inspection)) out.line(line);
  },
};

async function examine(checkpoint: Checkpoint, target: string | URL | undefined): Promise<Inspection> {
  const weightBytes: Partial<Record<Dtype, number>> = {};
  let loaded!: LoadedModel;
  const names = new Set<string>();
  for (const dtype of dtypes) {
    const plan = new Plan(UNPADDED), its = target === undefined ? undefined : await loadTarget(target, dtype);
    loaded = await loadUnread(checkpoint, plan, dtype, its, names);
    weightBytes[dtype] = plan.bytes;
  }
  const { shape } = loaded.model;
  const tensors = checkpoint.tensors();
  // a model needs no tokenizer, so its problems do not prevent the rest
  const problem = await loadTokenizer(checkpoint.origin).then(() => null, (error: Error) => error.message);
  return {
    folder: checkpoint.origin,
    architecture: loaded.kind === "diffusion" ? "sedd" : String(checkpoint.config.model_type),
    use: loaded.kind === "causal" ? "a target, or an autoregressive drafter" : describeDrafter(loaded.model),
    ...shape,
    head: loaded.kind === "causal" ? describeHead(loaded.model, checkpoint) : null,
    parameters: tensors.filter(({ name }) => names.has(name)).reduce(
      (sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1),
      0,
    ),
    storedBytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    tokenizer: problem === null,
    tokenizerProblem: problem,
    weightBytes: weightBytes as Record<Dtype, number>,
    // keys and values, f32
    cacheBytes: 2 * 4 * shape.layers * shape.width * shape.contextLength,
    tensors: tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
  };
}

/** Loads a checkpoint onto a device that only records what is requested, and collects the names of its tensors. */
function loadUnread(
  checkpoint: Checkpoint,
  plan: Plan,
  dtype: Dtype,
  target?: CausalModel,
  names: Set<string> = new Set(),
): Promise<LoadedModel> {
  const noted =
    <Shape, Values>(read: (name: string, shape: Shape) => Values) => (name: string, shape: Shape) => {
      names.add(name);
      return read(name, shape);
    };
  const headers = withoutMatrices(checkpoint, noted((name, shape) => checkpoint.read(name, shape)));
  const { rows, transposed } = headers;
  const watched = { ...headers, rows: noted(rows), transposed: noted(transposed) };
  return loadModel(watched, plan.device, { dtype, target });
}

/** The target that a drafter shares parts of, in the same precision. Its own needs do not count. */
async function loadTarget(folder: string | URL, dtype: Dtype): Promise<CausalModel> {
  using checkpoint = await openCheckpoint(folder);
  const loaded = await loadUnread(checkpoint, new Plan(UNPADDED), dtype);
  if (loaded.kind === "causal") return loaded.model;
  throw new UsageError(`--target ${folder} is a diffusion model, expected an autoregressive one`);
}

function describeHead({ head, embedding }: CausalModel, { config }: Checkpoint): string {
  if (head === embedding) return "the embedding";
  if (config.tie_word_embeddings === false) return "its own";
  return "its own, as lm_head.weight differs from the embedding: tie_word_embeddings in config.json should be false";
}

function describeDrafter({ prefixAttention, hiddenLayers, hasMarkovHead }: DiffusionModel): string {
  const prefix = prefixAttention === "target"
    ? `fed by its target's blocks ${hiddenLayers.join(", ")}`
    : prefixAttention;
  return `a diffusion drafter, ${prefix}${hasMarkovHead ? ", with a Markov head" : ""}`;
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
    ["vocabulary", `${found.vocabSize} tokens`],
    [
      "tokenizer",
      found.tokenizerProblem === null ? "in the folder or beside it" : printable(found.tokenizerProblem),
    ],
    ["context", `${found.contextLength} tokens`],
    ...(found.head === null ? [] : [["head", found.head]]),
    ["parameters", `${found.parameters}`],
    ["stored", `${megabytes(found.storedBytes)} in ${found.tensors.length} tensors as ${dtypes.join(", ")}`],
    ["weights need", weights.join(", ")],
    ["a text needs", `${megabytes(found.cacheBytes)} of keys and values if it fills the context`],
  ], 2);
}
