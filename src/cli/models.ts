/**
 * `models`: lists, downloads and removes models in the cache.
 *
 * @module
 */

import { listModels, pullModel, removeModel } from "../hub/models.ts";
import { parseModelName } from "../hub/names.ts";
import { UsageError } from "./args.ts";
import type { Command } from "./command.ts";
import { showDownloads } from "./downloads.ts";
import { megabytes, table, type Terminal } from "./terminal.ts";

/** The command. */
export const models: Command = {
  name: "models",
  words: "list|pull|rm [NAME…]",
  summary: "List, download and remove models by name, in the cache shared with Hugging Face's tools.",
  details: [
    "NAME is owner/name, or owner/name@revision for a branch, a tag or a commit (default: main).",
    "pull downloads the configuration, tokenizer and weights, and prints the folder. It resumes an interrupted",
    "download, and updates a branch; other commands use a branch as it was when it was downloaded.",
    "rm removes a model, or one revision of it, for all tools that share the cache.",
    "Uses the variables of Hugging Face's tools: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.",
    "list --json prints {models: [{model, commit, revisions, bytes, complete}, …]}.",
  ],
  options: ["json"],
  examples: ["models list", "models pull openai-community/gpt2", "models rm openai-community/gpt2@main"],
  async run({ words: [action, ...names], values }, terminal) {
    if (values.json && action !== "list") throw new UsageError("--json is for models list");
    switch (action) {
      case "list":
        if (names.length > 0) throw new UsageError(`models list takes no names, found ${names.length}`);
        return await list(values.json ?? false, terminal);
      case "pull":
        return await each(names, terminal, async (name) => {
          return await pullModel(name, { onDownload: showDownloads(terminal.err) });
        });
      case "rm":
        return await each(names, terminal, async (name) => {
          await removeModel(name);
          return `removed ${name}`;
        });
      default:
        throw new UsageError(
          `models ${action === undefined ? "has no action" : `has the action "${action}"`}, ` +
            "expected list, pull or rm",
        );
    }
  },
};

async function list(json: boolean, { out, err }: Terminal): Promise<void> {
  const found = await listModels();
  if (json) return out.line(JSON.stringify({ models: found }, null, 2));
  if (found.length === 0) return err.line("There are no models in the cache");
  const rows = found.map(({ model, commit, revisions, bytes, complete }) => [
    model,
    revisions.join(", "),
    commit.slice(0, 12),
    complete ? "" : "incomplete",
    megabytes(bytes),
  ]);
  for (const line of table([["model", "revision", "commit", "", "size"], ...rows], 4)) out.line(line);
}

/** Runs an action for each name and prints its result. */
async function each(
  names: readonly string[],
  { out }: Terminal,
  act: (name: string) => Promise<string>,
): Promise<void> {
  if (names.length === 0) throw new UsageError("no name is given, expected owner/name[@revision]");
  const wrong = names.find((name) => parseModelName(name) === undefined);
  if (wrong !== undefined) {
    throw new UsageError(`"${wrong}" is not a model's name, expected owner/name[@revision]`);
  }
  for (const name of names) out.line(await act(name));
}
