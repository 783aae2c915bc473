/**
 * The report of `deno bench`: reads what `deno bench --json` prints from standard input, and writes
 * `bench/reports/groups.json` and `.md`, each benchmark beside the baseline of its group. `deno task
 * bench:groups:report` runs both.
 *
 * Deliberately absent: medians, which Deno does not report; what is given is the mean, with the range from the fastest
 * run to the 75th percentile.
 *
 * @module
 */

import { markdownTable } from "./markdown.ts";

/** What of `deno bench --json` is used. Times are nanoseconds. */
interface Output {
  /** Deno's version, its target, and the processor. */
  readonly runtime: string;
  readonly cpu: string;
  readonly benches: readonly {
    readonly group: string | null;
    readonly name: string;
    readonly baseline: boolean;
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
    "75th percentile. Runs of a group do not take turns: for figures to quote there are `bench` and `bench:paper`.",
    "",
    ...[...groups].flatMap(([group, benches]) => {
      const times = benches.map(({ results: [result] }) => "ok" in result ? result.ok : undefined);
      const base = times[benches.findIndex(({ baseline }) => baseline)];
      return [
        `## ${group}`,
        "",
        ...markdownTable([
          ["", "mean", "fastest – 75 %", "time over the baseline's"],
          ...benches.map(({ name, baseline }, i) => {
            const time = times[i];
            if (time === undefined) return [name, "failed", "", ""];
            const ratio = baseline
              ? "baseline"
              : base === undefined
              ? ""
              : `${(time.avg / base.avg).toFixed(2)} ×`;
            return [name, duration(time.avg), `${duration(time.min)} – ${duration(time.p75)}`, ratio];
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
  const output: Output = JSON.parse(await new Response(Deno.stdin.readable).text());
  const date = new Date().toISOString().slice(0, 10), folder = new URL("./reports/", import.meta.url);
  // without where the files lie on whose machine
  const told = JSON.stringify({ date, ...output }, (key, value) => key === "origin" ? undefined : value, 2);
  await Deno.writeTextFile(new URL("groups.json", folder), `${told}\n`);
  await Deno.writeTextFile(new URL("groups.md", folder), markdown(output, date));
}
