/**
 * Compares the tables of `libcuda.ts` and `libcublas.ts` with CUDA's own headers: that every function is exported under
 * that name, if it is not optional, and for every parameter that its type fits and that the declaration beside it is the
 * header's. Needs the headers alone, no library and no GPU.
 *
 * Usage: `deno run --allow-read ffi/check_headers.ts [FOLDER]`, FOLDER the one that holds `cuda.h`, `cublas_api.h` or
 * both, by default /usr/local/cuda/include.
 *
 * @module
 */

import { cublasSymbols } from "./libcublas.ts";
import { cudaSymbols } from "./libcuda.ts";

/** A table, and the header it is compared with. */
interface Subject {
  /** File name of the table. */
  readonly table: string;
  readonly symbols: Readonly<Record<string, Deno.ForeignFunction>>;
  /** File name of the header. */
  readonly header: string;
  /** What the header puts before the name of a function. */
  readonly convention: string;
  /** What the header is of. */
  readonly version: (header: string) => string;
}

const SUBJECTS: readonly Subject[] = [{
  table: "libcuda.ts",
  symbols: cudaSymbols,
  header: "cuda.h",
  convention: "CUDAAPI",
  version: (header) => {
    const version = Number(/#define CUDA_VERSION (\d+)/.exec(header)?.[1]);
    return `CUDA ${Math.floor(version / 1000)}.${version % 1000 / 10}`;
  },
}, {
  table: "libcublas.ts",
  symbols: cublasSymbols,
  header: "cublas_api.h",
  convention: "CUBLASWINAPI",
  version: (header) => {
    const part = (name: string) => new RegExp(`#define CUBLAS_VER_${name} (\\d+)`).exec(header)?.[1];
    return `cuBLAS ${part("MAJOR")}.${part("MINOR")}.${part("PATCH")}`;
  },
}];

/** A function as the header declares it. */
interface Declaration {
  readonly result: string;
  readonly parameters: readonly string[];
}

/** Types of numbers, and of what other headers define; what else is no pointer is a handle, which is one in C. */
const KNOWN: Readonly<Record<string, readonly string[]>> = {
  "int": ["i32"],
  "CUdevice": ["i32"],
  "unsigned int": ["u32"],
  "unsigned long long": ["u64"],
  "size_t": ["usize"],
  "CUdeviceptr": ["u64"],
  "cudaStream_t": ["u64"],
  "cudaDataType": ["i32"],
  "cudaDataType_t": ["i32"],
};

/** What a parameter may be declared as for `Deno.dlopen`. */
function fitting(type: string, header: string): readonly string[] {
  if (type.includes("*")) return ["buffer", "u64"];
  if (KNOWN[type] !== undefined) return KNOWN[type];
  if (new RegExp(`typedef struct \\w+ ?\\* ?${type};`).test(header)) return ["u64"];
  if (new RegExp(`}\\s*${type};`).test(header) || new RegExp(`typedef enum \\w+ ${type};`).test(header)) {
    return ["i32"]; // an enumeration
  }
  return [];
}

/** What a result of some type is declared as: a status, or a text. */
function resultOf(type: string): string | undefined {
  if (type === "CUresult" || type === "cublasStatus_t") return "i32";
  return type === "const char*" ? "pointer" : undefined;
}

/** Text without what a C compiler does not see. */
function withoutComments(source: string): string {
  return source.replace(/\/\*[\s\S]*?\*\//g, " ").replace(/\/\/.*/g, "");
}

/** What the header says about an exported name. */
function declaration(name: string, header: string, convention: string): Declaration | undefined {
  const plain = name.replace(/_v\d+$/, "");
  // `#define cuMemAlloc cuMemAlloc_v2`: the declaration of the plain name is that of the other
  const renamed = new RegExp(`#\\s*define ${plain}\\s+(?:__CUDA_API_PT\\w+\\()?(\\w+)`).exec(header)?.[1];
  const exported = new RegExp(`#\\s*define (\\w+)\\s+(?:__CUDA_API_PT\\w+\\()?${name}\\b`).exec(header)?.[1];
  const declared = renamed !== undefined && renamed !== name && name === plain ? name : exported ?? name;
  const found = new RegExp(`((?:const )?\\w+\\*?)\\s+${convention}\\s+${declared}\\(([^)]*)\\);`).exec(
    header,
  );
  if (found === null) return undefined;
  const parameters = found[2].split(",").map((text) => text.replace(/\s+/g, " ").trim());
  return { result: found[1], parameters: parameters.filter((text) => text !== "void" && text !== "") };
}

/** The declarations that stand beside the parameters of a function in the table. */
function beside(name: string, table: string): string[] {
  const begin = table.indexOf(`  ${name}: {`);
  const entry = table.slice(begin, table.indexOf("result:", begin));
  return [...entry.matchAll(/\/\* (.*?) \*\//g)].map(([, text]) => text);
}

/** Compares one table with its header; the number of faults. */
function compare({ table: name, symbols, convention, version }: Subject, source: string): number {
  const header = withoutComments(source);
  const table = Deno.readTextFileSync(new URL(name, import.meta.url));
  const faults: string[] = [];
  let functions = 0, checked = 0;
  for (const [name, { parameters, result, optional }] of Object.entries(symbols)) {
    const declared = declaration(name, header, convention);
    if (declared === undefined) {
      if (!optional) faults.push(`${name}: the header does not declare it`);
      continue;
    }
    functions++;
    if (resultOf(declared.result) !== result) faults.push(`${name}: returns ${declared.result}`);
    if (declared.parameters.length !== parameters.length) {
      faults.push(
        `${name}: ${parameters.length} parameters, the header has ${declared.parameters.length}`,
      );
      continue;
    }
    const notes = beside(name, table);
    declared.parameters.forEach((text, i) => {
      const type = text.replace(/\w+$/, "").trim(), found = String(parameters[i]);
      if (!fitting(type, header).includes(found)) {
        faults.push(`${name}: parameter ${i} is "${found}", the header has ${text}`);
      }
      if (notes[i] !== text) {
        faults.push(`${name}: the comment of parameter ${i} is "${notes[i]}", the header has ${text}`);
      }
      checked++;
    });
  }
  for (const fault of faults) console.error(fault);
  console.log(`${version(header)}: ${functions} functions, ${checked} parameters, ${faults.length} faults`);
  return faults.length;
}

const folder = Deno.args[0] ?? "/usr/local/cuda/include";
let found = 0, faults = 0;
for (const subject of SUBJECTS) {
  let source: string;
  try {
    source = Deno.readTextFileSync(`${folder}/${subject.header}`);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    continue; // cuBLAS comes apart from the rest
  }
  found++;
  faults += compare(subject, source);
}
if (found === 0) console.error(`Cannot compare: neither cuda.h nor cublas_api.h is in ${folder}`);
if (found === 0 || faults > 0) Deno.exit(1);
