/**
 * Makes the package for Node: the tarball of `deno pack`, without the command line, which needs Deno, and with entry
 * points that say in one line where Node is too old for the language that these modules are written in. Deliberately
 * no build: what runs under Node are the same modules, with their types taken off.
 *
 * Usage: `deno task pack [FILE]`; then `npm install FILE`.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import config from "../deno.json" with { type: "json" };

/** The oldest Node that has `using`, `DisposableStack` and `Float16Array`. */
const MINIMUM = 24;

const root = fileURLToPath(new URL("..", import.meta.url));

/**
 * Packs.
 * @param file where the tarball goes
 * @throws {Error} if a program that it takes fails: `deno pack`, `tar`
 */
export async function pack(file: string): Promise<void> {
  const work = await Deno.makeTempDir();
  try {
    const plain = `${work}/plain.tgz`, folder = `${work}/package`;
    const options = ["--quiet", "--allow-dirty", "--no-source-maps", "--ignore=cli.ts", "--ignore=src/cli"];
    await run(Deno.execPath(), "pack", ...options, "--output", plain);
    await run("tar", "-xzf", plain, "-C", work);

    const manifest = JSON.parse(await Deno.readTextFile(`${folder}/package.json`));
    delete manifest.exports["./cli"];
    manifest.engines = { node: `>=${MINIMUM}` };
    for (const [name, module] of Object.entries(config.exports)) {
      const entry = manifest.exports[name];
      if (entry === undefined) continue;
      const stub = `./node/${name === "." ? "mod" : name.slice("./".length)}.js`;
      const names = Object.keys(await import(new URL(`../${module}`, import.meta.url).href));
      await Deno.mkdir(`${folder}/node`, { recursive: true });
      await Deno.writeTextFile(`${folder}/${stub}`, entryPoint(names, `.${entry.import}`));
      entry.import = entry.default = stub;
    }
    manifest.main = manifest.exports["."].import;
    await Deno.writeTextFile(`${folder}/package.json`, JSON.stringify(manifest, null, 2) + "\n");
    await run("tar", "-czf", file, "-C", work, "package");
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

/** A module that looks at Node's version before it has Node parse the module it stands for. */
function entryPoint(names: readonly string[], module: string): string {
  return `const found = globalThis.process?.versions.node;
if (Number.parseInt(found) < ${MINIMUM}) {
  throw new Error(\`Cannot load ${config.name}: this is Node \${found}, expected ${MINIMUM} or later\`);
}
export const { ${names.join(", ")} } = await import("${module}");
`;
}

async function run(program: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args, cwd: root }).output();
  if (!success) throw new Error(`Cannot pack: ${program} failed:\n${new TextDecoder().decode(stderr)}`);
}

if (import.meta.main) await pack(Deno.args[0] ?? `${root}specdiff-${config.version}.tgz`);
