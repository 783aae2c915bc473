/**
 * Where models are kept and fetched from: options, and for those not given the environment variables that the tools
 * around Hugging Face share (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables).
 * A variable is read only when it is needed, so that loading a folder, or giving all options, takes no permission to
 * read any.
 *
 * @module
 */

import { join } from "node:path";
import { kindOf, mayRead, readText } from "./files.ts";

/** How far a download is. */
export interface DownloadProgress {
  /** `owner/name` */
  readonly model: string;
  /** The file that is being fetched now. */
  readonly file: string;
  /** Bytes that have arrived, of all the files needed. */
  readonly loaded: number;
  /** Bytes of all the files needed. */
  readonly total: number;
}

/** Where models are kept and fetched from, and how downloads are watched. */
export interface HubOptions {
  /**
   * The folder of the cache.
   * @default `HF_HUB_CACHE`, else `HF_HOME`/hub, else `XDG_CACHE_HOME`/huggingface/hub, else ~/.cache/huggingface/hub
   */
  readonly cacheDir?: string | undefined;
  /** The hub, or a mirror of it. @default `HF_ENDPOINT`, else `https://huggingface.co` */
  readonly endpoint?: string | undefined;
  /**
   * For models that are not public; sent to the endpoint and to no other host. `null`: none.
   * @default `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `HF_HOME`/token, if it may be read
   */
  readonly token?: string | null | undefined;
  /** Whether to use what is in the cache and nothing else. @default whether `HF_HUB_OFFLINE` is 1, true, yes or on */
  readonly offline?: boolean | undefined;
  /**
   * Milliseconds after which a connection that says nothing counts as lost, and is made again. The pauses between
   * failed attempts grow from a sixtieth of it.
   * @default {30_000}
   */
  readonly timeout?: number | undefined;
  /** Called for each piece that arrives. */
  readonly onDownload?: ((progress: DownloadProgress) => void) | undefined;
  /** Ends the download with its reason; the next download goes on from what has arrived. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * The folder of the cache.
 * @throws {TypeError} where there is none: its locks and its permissions are Deno's
 */
export function cacheFolder({ cacheDir }: HubOptions): string {
  if (typeof Deno === "undefined") {
    throw new TypeError(
      "Cannot look for a model by name: the cache of models needs Deno; name a folder with its files",
    );
  }
  return cacheDir ?? variable("HF_HUB_CACHE") ?? join(home(), "hub");
}

/** The endpoint, without a slash at its end. */
export function endpointOf({ endpoint }: HubOptions): string {
  const text = (endpoint ?? variable("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:$/.test(URL.parse(text)?.protocol ?? "")) {
    throw new TypeError(
      `Cannot use the hub: its endpoint is ${JSON.stringify(text)}, expected an http or https URL`,
    );
  }
  return text;
}

/** Whether nothing may be fetched. */
export function isOffline({ offline }: HubOptions): boolean {
  return offline ?? /^(1|true|yes|on)$/i.test(variable("HF_HUB_OFFLINE") ?? "");
}

/**
 * The token, if there is one.
 * @throws {TypeError} if it cannot be one, as two lines; the message says where it is from, but does not show it
 */
export async function tokenOf({ token }: HubOptions): Promise<string | undefined> {
  if (token === null) return undefined;
  if (token !== undefined) return checkToken(token, "the option token");
  const given = variable("HF_TOKEN");
  if (given !== undefined) return checkToken(given, "HF_TOKEN");
  const path = variable("HF_TOKEN_PATH") ?? join(home(), "token");
  return checkToken(await tokenIn(path), `"${path}"`);
}

/** The text of a token's file; empty if it may not be read: most models are public, and the hub reports one that is not. */
async function tokenIn(path: string): Promise<string> {
  try {
    return mayRead(path) && await kindOf(path) === "file" ? await readText(path) : "";
  } catch {
    return "";
  }
}

function checkToken(text: string, where: string): string | undefined {
  const token = text.trim();
  if (token === "") return undefined;
  if (/^[\x21-\x7e]+$/.test(token)) return token;
  throw new TypeError(
    `Cannot use the hub: the token in ${where} has spaces, line ends or letters no token has`,
  );
}

/** The folder of the tools around Hugging Face. */
function home(): string {
  const given = variable("HF_HOME");
  if (given !== undefined) return given;
  const caches = variable("XDG_CACHE_HOME");
  if (caches !== undefined) return join(caches, "huggingface");
  const user = variable(userFolder());
  if (user === undefined) {
    throw new Error(
      `Cannot find the cache of models: ${userFolder()} is not set; set HF_HUB_CACHE to its folder`,
    );
  }
  return join(user, ".cache", "huggingface");
}

/** The variable that holds the path of a user's folder. */
function userFolder(): string {
  return Deno.build.os === "windows" ? "USERPROFILE" : "HOME";
}

/** An environment variable; empty counts as not set. */
function variable(name: string): string | undefined {
  try {
    return Deno.env.get(name) || undefined;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    throw new Deno.errors.NotCapable(
      `Cannot look for models: permission to read the environment variable ${name} is missing; run with ` +
        `--allow-env="HF_*,XDG_CACHE_HOME,${userFolder()}"`,
      { cause: error },
    );
  }
}
