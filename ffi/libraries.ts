/**
 * Where NVIDIA's libraries are: the places tried, in order, and what to say if none serves. A library is found by
 * loading it, which needs `--allow-ffi` and nothing else; the environment and folders are looked at only as far
 * as permissions allow, and nothing here ever prompts. Deliberately without a way to unload: a call into a library
 * that was closed ends the process.
 *
 * @module
 */

/** A library: its names as the loader knows them, best first, and the environment variable that overrides them. */
export interface LibraryName {
  /** What people call it. */
  readonly name: string;
  /** Holds the path of the one to use; no other is tried then. */
  readonly variable: string;
  /** File names, best first. */
  readonly files: readonly string[];
  /** What brings it to a machine. */
  readonly remedy: string;
}

/** The driver. It comes with the GPU's kernel module, not with the CUDA toolkit. */
export const LIBCUDA: LibraryName = {
  name: "libcuda",
  variable: "SPECDIFF_LIBCUDA",
  files: Deno.build.os === "windows" ? ["nvcuda.dll"] : ["libcuda.so.1", "libcuda.so"],
  remedy: "install NVIDIA's driver (nvidia-smi must work)",
};

/** Matrix products for many rows; the engine runs without it. */
export const LIBCUBLAS: LibraryName = {
  name: "libcublas",
  variable: "SPECDIFF_LIBCUBLAS",
  files: ["libcublas.so.13", "libcublas.so.12", "libcublas.so"],
  remedy: "install the CUDA toolkit, or pip's nvidia-cublas",
};

/** A library that cannot be loaded; the message lists what was tried and how to change that. */
export class LibraryNotFoundError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "LibraryNotFoundError";
}

/** Whether libraries may be loaded. Never prompts. */
export function mayLoadLibraries(): boolean {
  const { state, partial } = Deno.permissions.querySync({ name: "ffi" });
  return state === "granted" && partial !== true;
}

const loaded = new Map<string, { readonly path: string; readonly symbols: unknown }>();

/**
 * Loads a library, once: the second time it is the same.
 * @returns its functions, and under which path it was found
 * @throws {LibraryNotFoundError}
 */
export function loadLibrary<const S extends Deno.ForeignLibraryInterface>(
  library: LibraryName,
  symbols: S,
): { readonly path: string; readonly symbols: Deno.StaticForeignLibraryInterface<S> } {
  if (!mayLoadLibraries()) {
    throw new LibraryNotFoundError(
      `Cannot load ${library.name}: libraries may not be loaded, run with --allow-ffi (without a path)`,
    );
  }
  const tried: string[] = [];
  for (const path of candidates(library)) {
    try {
      let found = loaded.get(path);
      if (found === undefined) {
        found = { path, symbols: Deno.dlopen(path, symbols).symbols };
        loaded.set(path, found);
      }
      return found as ReturnType<typeof loadLibrary<S>>;
    } catch (error) {
      // no such file, a linker script, another machine's library, or one too old to have all the functions
      tried.push(`${path} (${reason(error)})`);
    }
  }
  throw new LibraryNotFoundError(
    `Cannot load ${library.name}: ${library.remedy}, or set ${library.variable} to its path ` +
      `and allow that with --allow-env; tried ${tried.join(", ")}`,
  );
}

/** The loader's own words, without the path it repeats. */
function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const missing = /Failed to register symbol (\w+)/.exec(message);
  if (missing !== null) return `has no ${missing[1]}: the driver is older than CUDA 12`;
  return message.slice(message.lastIndexOf(": ") + 1).trim();
}

/** Paths to try, in order: the override alone, or the loader's own search and then the usual folders. */
function candidates({ variable, files }: LibraryName): string[] {
  const override = environment(variable);
  if (override !== undefined) return [override];
  return [...files, ...folders().flatMap((folder) => files.map((file) => `${folder}/${file}`))];
}

/** Folders where CUDA's libraries are, beside those the loader searches itself. */
function folders(): string[] {
  const toolkits = [environment("CUDA_PATH"), environment("CUDA_HOME")].filter((path) => path !== undefined);
  const python = [environment("VIRTUAL_ENV"), environment("CONDA_PREFIX"), "/usr", "/usr/local"]
    .filter((path) => path !== undefined)
    .flatMap((prefix) => matching(`${prefix}/lib`, /^python3/).map((path) => `${path}/site-packages/nvidia`))
    .concat(matching("/usr/local/lib", /^python3/).map((path) => `${path}/dist-packages/nvidia`));
  return [
    ...toolkits.flatMap((path) => [`${path}/lib64`, `${path}/lib`]),
    "/usr/local/cuda/lib64",
    ...matching("/usr/local", /^cuda-/).map((path) => `${path}/lib64`),
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/wsl/lib", // Windows' own driver, inside WSL
    // pip's wheels: nvidia/cublas/lib for CUDA 12, nvidia/cu13/lib for CUDA 13
    ...[...new Set(python)].flatMap((path) => matching(path, /./).map((part) => `${part}/lib`)),
  ];
}

/** An environment variable, if it is set and may be read. */
function environment(name: string): string | undefined {
  if (Deno.permissions.querySync({ name: "env", variable: name }).state !== "granted") return undefined;
  return Deno.env.get(name) || undefined;
}

/** The folders in `folder` whose names match, the highest name first; none where it may not be read. */
function matching(folder: string, pattern: RegExp): string[] {
  if (Deno.permissions.querySync({ name: "read", path: folder }).state !== "granted") return [];
  try {
    const names = [...Deno.readDirSync(folder)].map(({ name }) => name).filter((name) => pattern.test(name));
    return names.sort().reverse().map((name) => `${folder}/${name}`);
  } catch {
    return []; // there is no such folder
  }
}
