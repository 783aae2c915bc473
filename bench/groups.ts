/**
 * The report of `deno bench`: reads what `deno bench --json` prints from standard input, and writes
 * `bench/reports/groups.json` and `.md`, group by group. `deno task bench:groups:report` runs both; `--generation "Zen 4"`
 * tells processors of one name apart.
 *
 * Deliberately absent: medians, which Deno does not report (what is given is the mean, with the range from the fastest run
 * to the 75th percentile), and ratios, as `deno bench` does not let benchmarks take turns.
 *
 * @module
 */

import { readOptions } from "./arguments.ts";
import { markdownTable } from "./markdown.ts";
import { drafterWeights, kernelSources, refreshReadme } from "./report.ts";

/** What of `deno bench --json` is used. Times are nanoseconds. */
interface Output {
  /** Deno's version, its target, and the processor. */
  readonly runtime: string;
  readonly cpu: string;
  readonly benches: readonly {
    readonly group: string | null;
    readonly name: string;
    readonly results: readonly (
      | {
        readonly ok: { readonly n: number; readonly min: number; readonly avg: number; readonly p75: number };
      }
      | { readonly failed: unknown }
    )[];
  }[];
}

/** The report as Markdown; a benchmark that failed is a line that says so. */
export function markdown({ runtime, cpu, benches }: Output, date: string): string {
  const groups = Map.groupBy(benches, ({ group }) => group ?? "other");
  return [
    "# `deno bench`, group by group",
    "",
    `${date}, ${cpu}, ${runtime}. Made by \`deno task bench:groups:report\`; means of runs, and from the fastest to the`,
    "75th percentile. Runs of a group do not take turns, so that their times cannot be compared closely: for ratios there",
    "are `bench` and `bench:paper`.",
    "",
    ...[...groups].flatMap(([group, benches]) => {
      return [
        `## ${group}`,
        "",
        ...markdownTable([
          ["", "mean", "fastest – 75 %"],
          ...benches.map(({ name, results: [result] }) => {
            if (!("ok" in result)) return [name, "failed", ""];
            const { avg, min, p75 } = result.ok;
            return [name, duration(avg), `${duration(min)} – ${duration(p75)}`];
          }),
        ]),
        "",
      ];
    }),
  ].join("\n");
}

function duration(ns: number): string {
  const [unit, name] = ns >= 1e6 ? [1e6, "ms"] : ns >= 1e3 ? [1e3, "µs"] : [1, "ns"];
  return `${(ns / unit).toPrecision(3)} ${name}`;
}

if (import.meta.main) {
  const { generation } = readOptions({ generation: { type: "string" } });
  const output: Output = JSON.parse(await new Response(Deno.stdin.readable).text());
  const date = new Date().toISOString().slice(0, 10), folder = new URL("./reports/", import.meta.url);
  const flags = Deno.env.get("DENO_V8_FLAGS");
  const cpu = [output.cpu, ...generation ? [generation] : [], ...flags ? [`V8 with ${flags}`] : []].join(" ");
  const report = { date, sources: kernelSources, weights: drafterWeights(), ...output, cpu };
  // without where the files lie on whose machine
  const text = JSON.stringify(report, (key, value) => key === "origin" ? undefined : value, 2);
  await Deno.writeTextFile(new URL("groups.json", folder), `${text}\n`);
  await Deno.writeTextFile(new URL("groups.md", folder), markdown(report, date));
  await refreshReadme();
}
