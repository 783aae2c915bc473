/**
 * Tables of the reports, as `deno fmt` will align them.
 *
 * @module
 */

/** A Markdown table, its heading first. */
export function markdownTable([head, ...rows]: readonly (readonly (string | number)[])[]): string[] {
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`);
}
