/**
 * The report of `deno bench`: reads the output of `deno bench --json` from standard input, and writes
 * `bench/reports/groups.json` and `.md`, group by group. `deno task bench:groups:report` runs both. `--generation "Zen
 * 4"` distinguishes processors with the same name.
 *
 * Deliberately absent: medians, which Deno does not report (the report has means, and ranges from the fastest run to
 * the 75th percentile), and times: they hold for one hour of one machine.
 *
 * @module
 */

import { describeMachine, type Machine } from "../src/cli/machine.ts";
import { readOptions } from "../tools/arguments.ts";
import { markdownTable } from "./markdown.ts";
import { drafterWeights, kernelSources, type Measured, refreshReadme, toldClosely, where } from "./report.ts";

/** The part of `deno bench --json` that is used. Times are in nanoseconds. */
interface Output {
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

/** The contents of `bench/reports/groups.json`. */
export interface Report extends Output, Measured {
  /** Day of the run. */
  readonly date: string;
  readonly machine: Machine;
}

/** The report as Markdown, with a line for each failed benchmark. */
export function markdown({ date, machine, benches }: Report): string {
  const groups = Map.groupBy(benches, ({ group }) => group ?? "other");
  return [
    "# `deno bench`, group by group",
    "",
    `${
      where(date, machine)
    }. Made by \`deno task bench:groups:report\`: the mean of the runs, and the range from`,
    "the fastest to the 75th percentile, as multiples of the mean of the group's baseline. The benchmarks of a group do",
    "not take turns, so these ratios are rough; those of `bench` and `bench:paper` are closer.",
    "",
    ...[...groups].flatMap(([group, benches]) => {
      const base = (benches.find(({ baseline }) => baseline) ?? benches[0]).results[0];
      const times = (ns: number) => "ok" in base ? `${(ns / base.ok.avg).toPrecision(3)} ×` : "no baseline";
      return [
        `## ${group}`,
        "",
        ...markdownTable([
          ["", "mean", "fastest – 75 %"],
          ...benches.map(({ name, baseline, results: [result] }) => {
            const title = baseline ? `**${name}**` : name;
            if (!("ok" in result)) return [title, "failed", ""];
            const { avg, min, p75 } = result.ok;
            return [title, times(avg), `${times(min)} – ${times(p75)}`];
          }),
        ]),
        "",
      ];
    }),
  ].join("\n");
}

if (import.meta.main) {
  const { generation } = readOptions({ generation: { type: "string" } });
  const output: Output = JSON.parse(await new Response(Deno.stdin.readable).text());
  const report: Report = {
    date: new Date().toISOString().slice(0, 10),
    machine: toldClosely(describeMachine(""), generation),
    sources: kernelSources,
    weights: drafterWeights(),
    ...output,
  };
  const folder = new URL("./reports/", import.meta.url);
  // without paths of this machine
  const text = JSON.stringify(report, (key, value) => key === "origin" ? undefined : value, 2);
  await Deno.writeTextFile(new URL("groups.json", folder), `${text}\n`);
  await Deno.writeTextFile(new URL("groups.md", folder), markdown(report));
  await refreshReadme();
}
