/**
 * Compares the table of `libcuda.ts` with CUDA's own header: that every function is exported under that name, and
 * for every parameter that its type fits and that the declaration beside it is the header's. Needs the header
 * alone, no driver and no GPU.
 *
 * Usage: `deno run --allow-read ffi/check_headers.ts [FOLDER]`, FOLDER the one that holds `cuda.h`, by default
 * /usr/local/cuda/include.
 *
 * @module
 */

import { cudaSymbols } from "./libcuda.ts";

/** A function as the header declares it. */
interface Declaration {
  readonly result: string;
  readonly parameters: readonly string[];
}

/** Types that are integers; what else is no pointer is a handle, which is one in C. */
const INTEGERS: Readonly<Record<string, readonly string[]>> = {
  "int": ["i32"],
  "CUdevice": ["i32"],
  "unsigned int": ["u32"],
  "unsigned long long": ["u64"],
  "size_t": ["usize"],
  "CUdeviceptr": ["u64"],
};

/** What a parameter may be declared as for `Deno.dlopen`. */
function fitting(type: string, header: string): readonly string[] {
  if (type.includes("*")) return ["buffer", "u64"];
  if (INTEGERS[type] !== undefined) return INTEGERS[type];
  if (new RegExp(`typedef struct \\w+ \\*${type};`).test(header)) return ["u64"];
  if (new RegExp(`}\\s*${type};`).test(header) || new RegExp(`typedef enum \\w+ ${type};`).test(header)) {
    return ["i32"]; // an enumeration
  }
  return [];
}

/** Text without what a C compiler does not see. */
function withoutComments(source: string): string {
  return source.replace(/\/\*[\s\S]*?\*\//g, " ").replace(/\/\/.*/g, "");
}

/** What the header says about an exported name. */
function declaration(name: string, header: string): Declaration | undefined {
  const plain = name.replace(/_v\d+$/, "");
  // `#define cuMemAlloc cuMemAlloc_v2`: the declaration of the plain name is that of the other
  const renamed = new RegExp(`#\\s*define ${plain}\\s+(?:__CUDA_API_PT\\w+\\()?(\\w+)`).exec(header)?.[1];
  const exported = new RegExp(`#\\s*define (\\w+)\\s+(?:__CUDA_API_PT\\w+\\()?${name}\\b`).exec(header)?.[1];
  const declared = renamed !== undefined && renamed !== name && name === plain ? name : exported ?? name;
  const found = new RegExp(`(\\w+) CUDAAPI ${declared}\\(([^)]*)\\);`).exec(header);
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

const folder = Deno.args[0] ?? "/usr/local/cuda/include";
const header = withoutComments(Deno.readTextFileSync(`${folder}/cuda.h`));
const table = Deno.readTextFileSync(new URL("libcuda.ts", import.meta.url));
const version = Number(/#define CUDA_VERSION (\d+)/.exec(header)?.[1]);
const faults: string[] = [];
let checked = 0;
for (const [name, { parameters, result }] of Object.entries(cudaSymbols)) {
  const declared = declaration(name, header);
  if (declared === undefined) {
    faults.push(`${name}: the header does not declare it`);
    continue;
  }
  if (declared.result !== "CUresult" || result !== "i32") faults.push(`${name}: returns ${declared.result}`);
  if (declared.parameters.length !== parameters.length) {
    faults.push(`${name}: ${parameters.length} parameters, the header has ${declared.parameters.length}`);
    continue;
  }
  const notes = beside(name, table);
  declared.parameters.forEach((text, i) => {
    const type = text.replace(/\w+$/, "").trim();
    if (!fitting(type, header).includes(parameters[i])) {
      faults.push(`${name}: parameter ${i} is "${parameters[i]}", the header has ${text}`);
    }
    if (notes[i] !== text) {
      faults.push(`${name}: the comment of parameter ${i} is "${notes[i]}", the header has ${text}`);
    }
    checked++;
  });
}
for (const fault of faults) console.error(fault);
console.log(
  `${Object.keys(cudaSymbols).length} functions, ${checked} parameters, ` +
    `CUDA ${Math.floor(version / 1000)}.${version % 1000 / 10}: ${faults.length} faults`,
);
if (faults.length > 0) Deno.exit(1);
