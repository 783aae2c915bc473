/**
 * The first texts of a data set on the Hugging Face Hub, by name. The hub keeps a Parquet copy of its public data sets
 * (https://huggingface.co/docs/dataset-viewer/parquet). Of that no more is fetched than the first rows of one column
 * need, a few megabytes of as many as there may be gigabytes.
 *
 * Deliberately absent: a cache, as so little is fetched, and data sets that are not public.
 *
 * @module
 */

import { type AsyncBuffer, asyncBufferFromUrl } from "hyparquet";
import { isRecord } from "../../src/hub/json.ts";
import { endpointOf, type HubOptions, isOffline } from "../../src/hub/options.ts";

/** Milliseconds that an answer may take. */
const TIMEOUT = 30_000;

/** Splits in the order of preference: a test split holds what models have not been trained on. */
const SPLITS = ["test", "validation", "train"];

/** `owner/name[:CONFIG[:SPLIT]]` */
export interface DatasetName {
  readonly repository: string;
  readonly config: string | undefined;
  readonly split: string | undefined;
}

/** What a text names, if it reads like the name of a data set. */
export function parseDatasetName(text: string): DatasetName | undefined {
  const [, repository, config, split] =
    /^([\w-][\w.-]*\/[\w-][\w.-]*)(?::([\w.-]+)(?::([\w.-]+))?)?$/.exec(text) ?? [];
  return repository === undefined ? undefined : { repository, config, split };
}

/** A Parquet file of a data set. */
export interface DatasetFile {
  /** `owner/name:CONFIG:SPLIT`, with what was chosen where the name does not say. */
  readonly name: string;
  /** Its bytes, fetched as they are asked for. */
  readonly file: AsyncBuffer;
}

/**
 * The Parquet files of a data set, in order.
 *
 * Where the name does not say, the configuration is the only one, `default`, or the last by name, which is the newest
 * where they are versions (CNN/DM's are); the split is `test`, `validation`, `train` or the first.
 *
 * @throws {Error} if there is no such data set, it has no such configuration or split, or the hub cannot be reached
 */
export async function* datasetFiles(
  { repository, config, split }: DatasetName,
  options: HubOptions,
): AsyncGenerator<DatasetFile> {
  if (isOffline(options)) {
    throw fault(repository, "it is on the hub, and nothing may be fetched; unset HF_HUB_OFFLINE");
  }
  const url = `${endpointOf(options)}/api/datasets/${repository}/parquet`;
  const get = request(repository);
  const response = await get(url);
  if (!response.ok) {
    throw fault(
      repository,
      response.status === 401 || response.status === 404
        ? `there is neither a file or folder nor a public data set of this name (the hub answers ${response.status})`
        : `the hub answers ${response.status}, expected 200`,
    );
  }
  const configs = await response.json().catch(() => ({})); // no list: there is nothing to choose from
  const chosenConfig = choose(repository, "configuration", configs, config, ["default"]);
  const splits = configs[chosenConfig];
  const chosenSplit = choose(repository, "split", splits, split, SPLITS);
  const files: unknown = splits[chosenSplit];
  if (!Array.isArray(files) || !files.every((file) => typeof file === "string")) {
    throw fault(repository, "the hub's list of its files is not as expected");
  }
  const name = `${repository}:${chosenConfig}:${chosenSplit}`;
  for (const url of files) yield { name, file: await asyncBufferFromUrl({ url, fetch: get }) };
}

/** The key asked for, else the first that is preferred, else the last of configurations and the first of splits. */
function choose(
  repository: string,
  what: "configuration" | "split",
  found: unknown,
  wanted: string | undefined,
  preferred: readonly string[],
): string {
  const keys = isRecord(found) ? Object.keys(found) : [];
  if (keys.length === 0) throw fault(repository, `the hub has no Parquet copy of it (no ${what})`);
  if (wanted !== undefined) {
    if (keys.includes(wanted)) return wanted;
    throw fault(repository, `it has no ${what} "${wanted}", expected one of ${keys.join(", ")}`);
  }
  const known = preferred.find((key) => keys.includes(key));
  return known ?? (what === "configuration" ? keys.sort().at(-1)! : keys[0]);
}

/** `fetch` that gives up in time and says what failed. The body is read here, so that its errors are told alike. */
function request(repository: string): typeof fetch {
  return async (input, init) => {
    try {
      const response = await fetch(input, { ...init, signal: AbortSignal.timeout(TIMEOUT) });
      const body = init?.method === "HEAD" ? null : await response.arrayBuffer();
      return new Response(body, response);
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) {
        throw fault(
          repository,
          'permission to fetch it is missing; run with --allow-net="huggingface.co,*.huggingface.co,*.hf.co"',
        );
      }
      throw fault(
        repository,
        `the hub cannot be reached (${error instanceof Error ? error.message : error})`,
      );
    }
  };
}

function fault(repository: string, what: string): Error {
  return new Error(`Cannot read prompts of "${repository}": ${what}`);
}
