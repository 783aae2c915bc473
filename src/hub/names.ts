/**
 * Names of models on a hub: `owner/name`, and `owner/name@revision` for a branch, a tag or a commit. Accepted names are
 * safe as a part of a path and of a URL.
 *
 * Deliberately absent: whether there is such a model.
 *
 * @module
 */

/** A model on a hub. */
export interface ModelName {
  /** `owner/name` */
  readonly repository: string;
  /** A branch, a tag or a commit; absent if the name has none. */
  readonly revision?: string;
}

/** The branch that is used if a name has no revision. */
export const DEFAULT_REVISION = "main";

/**
 * Takes a name apart.
 * @returns nothing if it is not a name, as a path mostly is not: `./owner/name`, `/models/gpt2`, `gpt2`
 */
export function parseModelName(text: string): ModelName | undefined {
  const [, repository, revision] = /^([\w.-]+\/[\w.-]+)(?:@(.*))?$/s.exec(text) ?? [];
  if (repository === undefined || !repository.split("/").every(isNamePart)) return undefined;
  if (revision === undefined) return { repository };
  return revision.split("/").every(isRevisionPart) ? { repository, revision } : undefined;
}

/** Whether a revision is a commit, which never becomes another one. */
export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

/** The hub's own rule; the cache writes `--` for the slash. */
function isNamePart(part: string): boolean {
  return part.length <= 96 && /^\w([\w.-]*\w)?$/.test(part) && !/--|\.\./.test(part);
}

/** Git's rule for the parts of a reference, and a little narrower. */
function isRevisionPart(part: string): boolean {
  return /^[\w+-][\w.+-]*$/.test(part) && !part.includes("..") && !part.endsWith(".lock");
}
