/**
 * Makes `docs/show-draft.svg`, the picture of `generate --show-draft` in the README, from a real run of the embedded
 * pair: `deno task picture`. The same seed gives the same picture. No screenshot: the text in it can be selected.
 *
 * @module
 */

import type { Statistics } from "../src/decode/metrics.ts";
import { loadEngine } from "../src/engine.ts";
import { escape } from "./charts.ts";

const OUT = new URL("../docs/show-draft.svg", import.meta.url);
const PROMPT = "It was a dark and stormy night";
const SEED = 11;
const GAMMA = 3;

/** Characters per line. */
const COLUMNS = 88;
/** Pixels. The widest of the fonts below advances by 0.61 em. */
const FONT_SIZE = 15, LINE = 23, MARGIN = 24, ADVANCE = 0.61 * FONT_SIZE;

type Origin = "prompt" | "accepted" | "corrected" | "bonus" | "target";

/** A stretch of text of one origin. */
interface Segment {
  readonly origin: Origin;
  readonly text: string;
}

const COLORS: Readonly<Record<Origin, string>> = {
  prompt: "#9aa4b2",
  accepted: "#4cc26a",
  corrected: "#e58be8",
  bonus: "#5eb1ff",
  target: "#e8ecf1",
};

/** Lines of at most `COLUMNS` characters, broken after spaces where there are any, and at line ends. */
function wrap(segments: readonly Segment[]): Segment[][] {
  const lines: Segment[][] = [];
  let line: Segment[] = []; // one per character
  for (const { origin, text } of segments) {
    for (const character of text) {
      if (character !== "\n") line.push({ origin, text: character });
      const full = line.length > COLUMNS;
      if (!full && character !== "\n") continue;
      const cut = full ? line.findLastIndex((letter) => letter.text === " ") + 1 || COLUMNS : line.length;
      lines.push(merge(line.slice(0, cut)));
      line = line.slice(cut);
    }
  }
  return [...lines, merge(line)];
}

/** Neighbours of one origin become one. */
function merge(segments: readonly Segment[]): Segment[] {
  const merged: Segment[] = [];
  for (const { origin, text } of segments) {
    const last = merged.at(-1);
    if (last?.origin === origin) merged[merged.length - 1] = { origin, text: last.text + text };
    else merged.push({ origin, text });
  }
  return merged;
}

function draw(segments: readonly Segment[], stats: Statistics): string {
  const command = `$ deno task generate --show-draft --gamma ${GAMMA} --seed ${SEED} "${PROMPT}"`;
  const rates = stats.acceptanceRatePerPosition.map((rate) => rate.toFixed(2)).join(", ");
  const caption = `τ = ${stats.meanAcceptanceLength.toFixed(2)} tokens per pass of the target; ` +
    `accepted at positions 1 to ${GAMMA}: ${rates}`;
  const legend: Segment[] = [
    { origin: "prompt", text: "prompt   " },
    { origin: "accepted", text: "drafted and accepted   " },
    { origin: "corrected", text: "corrected by the target   " },
    { origin: "bonus", text: "bonus" },
  ];
  const lines: Segment[][] = [
    [{ origin: "target", text: command }],
    [],
    ...wrap(segments),
    [],
    legend,
    [{ origin: "prompt", text: caption }],
  ];
  const width = Math.ceil(COLUMNS * ADVANCE + 2 * MARGIN);
  const height = lines.length * LINE + 2 * MARGIN;
  const body = lines.map((line, i) =>
    `  <text x="${MARGIN}" y="${MARGIN + i * LINE + FONT_SIZE}">${
      line.map(({ origin, text }) => `<tspan class="${origin}">${escape(text)}</tspan>`).join("")
    }</text>`
  );
  const styles = Object.entries(COLORS).map(([origin, color]) => `.${origin} { fill: ${color} }`).join(" ");
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" xml:space="preserve">
  <title>${escape(command.slice(2))}</title>
  <desc>${escape(caption)}</desc>
  <style>
    text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: ${FONT_SIZE}px }
    ${styles}
    .bonus { font-weight: bold }
  </style>
  <rect width="${width}" height="${height}" rx="10" fill="#12161d"/>
${body.join("\n")}
</svg>
`;
}

if (import.meta.main) {
  using engine = await loadEngine();
  const segments: Segment[] = [{ origin: "prompt", text: PROMPT }];
  let statistics: Statistics | undefined;
  for await (
    const chunk of engine.stream(PROMPT, { seed: SEED, gamma: GAMMA })
  ) {
    for (const { text, origin } of chunk.pieces) segments.push({ origin, text });
    statistics = chunk.stats;
  }
  await Deno.mkdir(new URL(".", OUT), { recursive: true });
  await Deno.writeTextFile(OUT, draw(segments, statistics!));
}
