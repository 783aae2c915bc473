/**
 * What a bidirectional drafter caches of the text between passes: the option, its named values and its checks.
 *
 * Deliberately absent: the cache itself, which `diffusion_drafter.ts` keeps by these settings.
 *
 * @module
 */

import { shown } from "../shown.ts";

/**
 * What a bidirectional model caches of a text between passes. All of its rows see one another, so cached keys and
 * values differ slightly from freshly computed ones; q is the distribution that follows from them.
 *
 * - `none`: nothing. Each pass computes all of the text it sees.
 * - `draft`: the later steps of a draft reuse the text's keys and values from its first step, and compute only the γ
 *   drafted positions (the prefix cache of Fast-dLLM, Wu et al. 2025, arXiv 2505.22618).
 * - an object: keys and values of the text are reused from earlier drafts, except those of the last `recent` tokens,
 *   which are recomputed with the draft. Every `refresh`-th draft recomputes everything (delayed caching: dKV-Cache, Ma
 *   et al. 2025, arXiv 2505.15781). Between refreshes the context grows past `draftContext`, up to the trained length.
 *   If the context already fills that length, nothing is reused.
 * - `delayed`: `{ recent: 4, refresh: 16 }`.
 */
export type ContextCache = "none" | "draft" | "delayed" | {
  /** R, an integer of at least 0. */
  readonly recent: number;
  /** N, an integer of at least 1. */
  readonly refresh: number;
};

/** A {@linkcode ContextCache} without names; nothing is reused if `recent` is infinite. */
export type CacheSettings = Exclude<ContextCache, string>;

/** The named kinds of {@linkcode ContextCache}. */
export const contextCaches: readonly Extract<ContextCache, string>[] = ["none", "draft", "delayed"];

const NAMED: Readonly<Record<Extract<ContextCache, string>, CacheSettings>> = {
  none: { recent: Infinity, refresh: 1 },
  draft: { recent: 0, refresh: 1 },
  delayed: { recent: 4, refresh: 16 },
};

/**
 * The settings of a context cache.
 * @throws {RangeError} if its name is unknown, or a number is out of range
 */
export function cacheSettings(cache: ContextCache): CacheSettings {
  const settings = typeof cache === "string" ? NAMED[cache] : { ...cache };
  const valid = settings === NAMED.none ||
    Number.isInteger(settings?.recent) && settings.recent >= 0 &&
      Number.isInteger(settings.refresh) && settings.refresh >= 1;
  if (valid) return settings;
  throw new RangeError(
    `Cannot make a diffusion drafter: contextCache is ${shown(cache)}, expected one of ${
      contextCaches.join(", ")
    }, or {recent, refresh} of integers from 0 and 1 on`,
  );
}

/** A context cache as part of a drafter's name. */
export function describeCache(cache: ContextCache): string {
  if (cache === "none") return "";
  if (typeof cache === "string") return `, context cache: ${cache}`;
  return `, context cache: recent ${cache.recent}, refresh ${cache.refresh}`;
}
