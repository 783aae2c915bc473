/**
 * Finds NVIDIA's libraries, by trying to load each candidate in order. That needs `--allow-ffi` and nothing else. The
 * environment and folders are looked at only as far as permissions allow, and nothing here ever prompts. Deliberately
 * without a way to unload: a call into a library that was closed ends the process.
 *
 * @module
 */

/** A library: its names as the loader knows them, best first, and the environment variable that overrides them. */
export interface LibraryName {
  /** Its name in messages. */
  readonly name: string;
  /** Holds the path of the one to use; no other is tried then. */
  readonly variable: string;
  /** File names, best first. */
  readonly files: readonly string[];
  /** How to install it. */
  readonly remedy: string;
}

/** The driver. It comes with the GPU's kernel module, not with the CUDA toolkit. */
export const LIBCUDA: LibraryName = {
  name: "libcuda",
  variable: "SPECDIFF_LIBCUDA",
  files: ["libcuda.so.1", "libcuda.so", "nvcuda.dll"],
  remedy: "install NVIDIA's driver (nvidia-smi must work)",
};

/**
 * cuBLAS, for a driver that serves CUDA `version` (13000 for 13.0). A driver can use the cuBLAS of its own major version
 * and of the one before. It comes with the CUDA toolkit and with PyTorch.
 */
export function libcublas(version: number): LibraryName {
  const majors = version < 13000 ? [12] : [13, 12];
  return {
    name: "cuBLAS",
    variable: "SPECDIFF_LIBCUBLAS",
    files: majors.flatMap((major) => [`libcublas.so.${major}`, `cublas64_${major}.dll`]),
    remedy: `install that of CUDA ${majors[0]} (pip install nvidia-cublas${version < 13000 ? "-cu12" : ""})`,
  };
}

/** A library that cannot be loaded; the message lists the places that were tried, and the remedy. */
export class LibraryNotFoundError extends Error {
  /** Its name, for callers that catch by name. */
  override readonly name: string = "LibraryNotFoundError";
}

/** Whether libraries may be loaded: that this is Deno, with the permission for it. Never prompts. */
export function mayLoadLibraries(): boolean {
  if (typeof Deno === "undefined") return false;
  const { state, partial } = Deno.permissions.querySync({ name: "ffi" });
  return state === "granted" && partial !== true;
}

/** Libraries that were loaded, by name. */
const loaded = new Map<string, { readonly path: string; readonly symbols: unknown }>();

/**
 * Loads a library, once: from then on it is the same, whatever the environment says.
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
  const before = loaded.get(library.name);
  if (before !== undefined) return before as ReturnType<typeof loadLibrary<S>>;
  const absent = new Set<string>(), refused: string[] = [];
  for (const path of candidates(library)) {
    try {
      const found = { path, symbols: Deno.dlopen(path, symbols).symbols };
      loaded.set(library.name, found);
      return found;
    } catch (error) {
      const why = reason(error);
      if (!/No such file/.test(why) || path === environment(library.variable)) {
        refused.push(`${path} (${why})`);
      } else absent.add(path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "the loader's own path");
    }
  }
  const looked = absent.size > 0 ? [`not in ${[...absent].join(", ")}`] : [];
  throw new LibraryNotFoundError(
    `Cannot load ${library.name}: ${[...looked, ...refused].join("; ")}. ` +
      `Either ${library.remedy}, or set ${library.variable} to its path and allow reading that (--allow-env)`,
  );
}

/** Why a file was not loaded, in the loader's words without the path. */
function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const missing = /Failed to register symbol (\w+)/.exec(message);
  if (missing !== null) return `it has no ${missing[1]}, so it is too old`;
  return message.slice(message.lastIndexOf(": ") + 1).trim();
}

/** Paths to try, in order: the override alone, or the loader's own search and then the usual folders. */
function* candidates({ variable, files }: LibraryName): Generator<string> {
  const override = environment(variable);
  if (override !== undefined) return yield override;
  yield* files;
  for (const folder of folders()) yield* files.map((file) => `${folder}/${file}`);
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
    ...["/usr/local/cuda", ...matching("/usr/local", /^cuda-/)].flatMap((
      path,
    ) => [`${path}/lib64`, `${path}/lib`]),
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local/nvidia/lib64", // the driver, mounted into a container
    "/usr/lib/wsl/lib", // Windows' own driver, inside WSL
    // pip's wheels: nvidia/cublas/lib for CUDA 12, nvidia/cu13/lib for CUDA 13
    ...[...new Set(python)].flatMap((path) => matching(path, /./).map((part) => `${part}/lib`)),
  ];
}

/** An environment variable, if it is set and may be read. */
export function environment(name: string): string | undefined {
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
