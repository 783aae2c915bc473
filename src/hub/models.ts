/**
 * Models by name: fetched once, then found in the cache. A revision is resolved to a commit once, so that the same
 * command gives the same text next month. {@linkcode pullModel} resolves it anew.
 *
 * Deliberately absent: HTTP (`client.ts`) and files (`cache.ts`).
 *
 * @module
 */

import { join } from "node:path";
import { checkKinds, HUB } from "../given.ts";
import { shown } from "../shown.ts";
import { ModelCache, namesIn, readShards, SMALL_FILES } from "./cache.ts";
import { findWeights, WEIGHT_FILES } from "./checkpoint.ts";
import { HubClient, HubError } from "./client.ts";
import { isFolderHere, isRefusal, kindOf, mayRead, withinFolder } from "./files.ts";
import { DEFAULT_REVISION, type ModelName, parseModelName } from "./names.ts";
import { cacheFolder, endpointOf, type HubOptions, isOffline, tokenOf } from "./options.ts";

/** Milliseconds of silence after which a connection counts as lost, unless told otherwise. */
const TIMEOUT = 30_000;

/** A model in the cache, at one commit. */
export interface CachedModel {
  /** `owner/name` */
  readonly model: string;
  /** The commit. */
  readonly commit: string;
  /** Branches and tags that were resolved to it. */
  readonly revisions: readonly string[];
  /** Bytes of its files. */
  readonly bytes: number;
  /** Whether configuration and weights are all there. */
  readonly complete: boolean;
}

/**
 * The folder of a model. A path is returned as it is; for a name (`owner/name[@revision]`) it is the folder in the cache,
 * fetched if need be. An existing folder takes precedence over a model on the hub of the same name.
 *
 * @throws {HubError} if it is a name and cannot be fetched
 * @throws {Deno.errors.NotCapable} if it is a name and a permission is missing
 */
export async function locateModel(place: string | URL, options: HubOptions = {}): Promise<string | URL> {
  checkKinds("use the hub", options, HUB);
  const name = typeof place === "string" ? parseModelName(place) : undefined;
  if (name === undefined || await isFolderHere(place as string)) return place;
  try {
    const root = cacheFolder(options);
    return await withinFolder(root, async () => {
      const cache = new ModelCache(root, name.repository);
      const revision = name.revision ?? DEFAULT_REVISION;
      const commit = await cache.commitOf(revision);
      if (commit === undefined || !await cache.isComplete(commit, false)) {
        return await fetchModel(name, commit ?? revision, options);
      }
      const snapshot = cache.snapshot(commit);
      if (isOffline(options) || await cache.isComplete(commit, true)) return snapshot;
      try {
        return await fetchModel(name, commit, options);
      } catch (error) {
        // another tool downloaded it: at most small files are missing, which the hub may not have either
        if (error instanceof HubError || isRefusal(error)) return snapshot;
        throw error;
      }
    });
  } catch (error) {
    const refused = isRefusal(error);
    if ((error instanceof HubError || refused) && !mayRead(place as string)) {
      error.message += `; if "${place}" is a folder of yours, run with --allow-read="${place}"`;
    } else if (refused) {
      error.message += ", or name a folder that exists";
    }
    throw error;
  }
}

/**
 * Fetches the missing files of a model, at the commit that its revision is on the hub now, and notes that commit for the
 * revision.
 *
 * @param name `owner/name[@revision]`
 * @returns its folder in the cache
 * @throws {TypeError} if it is no such name
 * @throws {HubError} if it cannot be fetched
 */
export async function pullModel(name: string, options: HubOptions = {}): Promise<string> {
  checkKinds("use the hub", options, HUB);
  const parsed = requireName(name);
  return await fetchModel(parsed, parsed.revision ?? DEFAULT_REVISION, options);
}

/**
 * All models in the cache, by name, each commit by itself; also those that other tools fetched and no engine loads.
 */
export async function listModels(options: HubOptions = {}): Promise<CachedModel[]> {
  checkKinds("use the hub", options, HUB);
  const root = cacheFolder(options);
  const models: CachedModel[] = [];
  for (const folder of await namesIn(root)) {
    const [, owner, name] = /^models--(.+?)--(.+)$/.exec(folder) ?? [];
    if (owner === undefined || parseModelName(`${owner}/${name}`) === undefined) continue;
    const cache = new ModelCache(root, `${owner}/${name}`);
    for (const commit of await cache.commits()) {
      models.push({
        model: `${owner}/${name}`,
        commit,
        revisions: await cache.revisionsOf(commit),
        bytes: await cache.size(commit),
        complete: await cache.isComplete(commit, false),
      });
    }
  }
  return models;
}

/**
 * Removes a model from the cache, or one revision of it; for all tools that share the cache.
 *
 * @param name `owner/name[@revision]`
 * @throws {TypeError} if it is no such name
 * @throws {HubError} if it is not in the cache
 */
export async function removeModel(name: string, options: HubOptions = {}): Promise<void> {
  checkKinds("use the hub", options, HUB);
  const { repository, revision } = requireName(name);
  const root = cacheFolder(options), cache = new ModelCache(root, repository);
  const commit = revision === undefined ? undefined : await cache.commitOf(revision);
  const known = revision === undefined || commit !== undefined;
  if (!known || await kindOf(commit === undefined ? cache.folder : cache.snapshot(commit)) !== "folder") {
    throw new HubError(`Cannot remove "${name}": it is not in the cache "${root}"`);
  }
  if (commit === undefined) await cache.remove();
  else await cache.removeCommit(commit);
}

/** Fetches the missing files of a model at `source`, a commit or a revision, and notes the commit for `name`. */
async function fetchModel(name: ModelName, source: string, options: HubOptions): Promise<string> {
  const { repository, revision = DEFAULT_REVISION } = name;
  const { signal, onDownload, timeout = TIMEOUT } = options;
  if (!(timeout > 0 && timeout < 2 ** 31)) {
    throw new RangeError(
      `Cannot use the hub: its timeout is ${shown(timeout)}, expected milliseconds within (0, 2^31)`,
    );
  }
  const root = cacheFolder(options), cache = new ModelCache(root, repository);
  if (isOffline(options)) {
    throw new HubError(
      `Cannot load "${repository}" at "${revision}": it is not all in the cache "${root}", and nothing may be ` +
        `fetched; unset HF_HUB_OFFLINE (the option offline) where there is a network`,
    );
  }
  const client = new HubClient(repository, {
    endpoint: endpointOf(options),
    token: await tokenOf(options),
    timeout,
    signal,
  });
  const remote = await client.revision(source);
  const { commit, files } = remote;
  // those that are here, even if the hub has others that would be preferred
  const weights = await findWeights(cache.snapshot(commit)) ?? WEIGHT_FILES.find((file) => files.has(file));
  if (!files.has(SMALL_FILES[0]) || weights === undefined) {
    throw client.fault(
      `it has no ${
        weights === undefined ? `weights in ${WEIGHT_FILES.join(", ")}` : `file "${SMALL_FILES[0]}"`
      }`,
    );
  }
  const needed = SMALL_FILES.filter((file) => files.has(file));
  for (const file of SMALL_FILES) if (!files.has(file)) await cache.markAbsent(commit, file);
  needed.push(weights);
  if (weights.endsWith(".index.json")) {
    await cache.fetch(client, commit, client.file(remote, weights), signal, () => {});
    needed.push(...await readShards(join(cache.snapshot(commit), weights)));
  }

  const all = needed.map((file) => client.file(remote, file));
  const total = all.reduce((sum, { size }) => sum + size, 0);
  let before = 0;
  for (const file of all) {
    await cache.fetch(client, commit, file, signal, (bytes) => {
      onDownload?.({ model: repository, file: file.name, loaded: before + bytes, total });
    });
    before += file.size;
  }
  // only once everything is here: until then the name keeps its commit
  await cache.pin(revision, commit);
  return cache.snapshot(commit);
}

function requireName(text: string): ModelName {
  const name = parseModelName(text);
  if (name === undefined) {
    throw new TypeError(
      `Cannot use ${JSON.stringify(text)} as a model's name, expected owner/name[@revision]`,
    );
  }
  return name;
}
