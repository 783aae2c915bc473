/**
 * Heat maps, curves and one quantity against another, as SVG.
 *
 * Drawn here, not by a library: Vega runs in Deno without permissions, but whatever stands in `deno.lock` is fetched
 * by every program of the repository, and Vega would have made the first run of the demo download 33 MB.
 *
 * @module
 */

/** Pixels. */
const PANEL = { width: 424, height: 290 }, PLOT = { left: 58, top: 44, right: 116, bottom: 46 };
const INNER = {
  width: PANEL.width - PLOT.left - PLOT.right,
  height: PANEL.height - PLOT.top - PLOT.bottom,
};
/** Told apart by those who do not see colours alike (Okabe and Ito). */
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

/** What both kinds of panel have. */
interface Labelled {
  readonly title: string;
  /** What stands below and left of it. */
  readonly xLabel: string;
  readonly yLabel: string;
}

/** A value for each pair of x and y. */
export interface HeatMap extends Labelled {
  readonly x: readonly number[];
  /** From the bottom. */
  readonly y: readonly number[];
  /** [y][x]; null: no such pair. */
  readonly values: readonly (readonly (number | null)[])[];
}

/** Lines over x, which is drawn to a logarithmic scale. */
export interface Curves extends Labelled {
  readonly series: readonly {
    readonly name: string;
    readonly points: readonly (readonly [x: number, y: number])[];
  }[];
  /** A value to compare with, drawn as a dashed line. */
  readonly reference?: number;
}

/** One quantity against another: points joined in the order they are given, each larger than the one before. */
export interface Paths extends Labelled {
  readonly paths: readonly {
    readonly name: string;
    /** `error` is drawn above and below y. */
    readonly points: readonly (readonly [x: number, y: number, error: number])[];
  }[];
  /** What the points of a path stand for, in their order. */
  readonly marks: readonly string[];
}

/** Panels side by side, as a file. */
export function svg(title: string, panels: readonly (HeatMap | Curves | Paths)[]): string {
  const width = panels.length * PANEL.width, height = PANEL.height + 26;
  const body = panels.map((panel, i) =>
    `<g transform="translate(${i * PANEL.width} 26)">\n${frame(panel)}${
      "values" in panel ? heatMap(panel) : "paths" in panel ? paths(panel) : curves(panel)
    }</g>\n`
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
<title>${escape(title)}</title>
<style>text { font: 12px system-ui, sans-serif; fill: #222 } .title { font-weight: bold }</style>
<rect width="${width}" height="${height}" fill="#fff"/>
${text(PLOT.left, 20, title, "start", "title")}${body.join("")}</svg>
`;
}

function frame({ title, xLabel, yLabel }: Labelled): string {
  const middle = PLOT.top + INNER.height / 2;
  return text(PLOT.left, 30, title, "start") +
    text(PLOT.left + INNER.width / 2, PANEL.height - 8, xLabel, "middle") +
    `<g transform="rotate(-90 16 ${middle})">${text(16, middle, yLabel, "middle")}</g>\n`;
}

function heatMap({ x, y, values }: HeatMap): string {
  const known = values.flat().filter((value) => value !== null);
  const least = Math.min(...known), span = Math.max(...known) - least || 1;
  const cell = { width: INNER.width / x.length, height: INNER.height / y.length };
  let out = "";
  for (const [row, line] of values.entries()) {
    const top = PLOT.top + (y.length - 1 - row) * cell.height;
    out += text(PLOT.left - 6, top + cell.height / 2 + 4, String(y[row]), "end");
    for (const [column, value] of line.entries()) {
      if (value === null) continue;
      const left = PLOT.left + column * cell.width, share = (value - least) / span;
      out += `<rect x="${fixed(left)}" y="${fixed(top)}" width="${fixed(cell.width)}" height="${
        fixed(cell.height)
      }" fill="${shade(share)}"/>\n`;
      out += text(left + cell.width / 2, top + cell.height / 2 + 4, value.toFixed(2), "middle");
    }
  }
  for (const [column, value] of x.entries()) {
    out += text(
      PLOT.left + (column + 0.5) * cell.width,
      PANEL.height - PLOT.bottom + 16,
      String(value),
      "middle",
    );
  }
  return out;
}

function curves({ series, reference }: Curves): string {
  const points = series.flatMap((line) => line.points);
  const xs = [...new Set(points.map(([x]) => x))].sort((a, b) => a - b);
  const [first, last] = [xs[0], xs[xs.length - 1]];
  const step = tick(Math.max(reference ?? 0, ...points.map(([, y]) => y)));
  const top = step * Math.ceil(Math.max(reference ?? 0, ...points.map(([, y]) => y)) / step);
  const atX = (x: number) =>
    PLOT.left + INNER.width * (first === last ? 0.5 : Math.log(x / first) / Math.log(last / first));
  const atY = (y: number) => PLOT.top + INNER.height * (1 - y / top);
  let out = "";
  for (let i = 0; i <= Math.round(top / step); i++) {
    const y = atY(i * step);
    out += rule(PLOT.left, y, PLOT.left + INNER.width, y, "#ddd");
    out += text(PLOT.left - 6, y + 4, String(Number((i * step).toPrecision(3))), "end");
  }
  for (const x of xs) out += text(atX(x), PANEL.height - PLOT.bottom + 16, String(x), "middle");
  if (reference !== undefined) {
    const y = atY(reference);
    out += rule(PLOT.left, y, PLOT.left + INNER.width, y, "#222", "4 3");
  }
  for (const [i, { name, points }] of series.entries()) {
    out += line(points.map(([x, y]) => [atX(x), atY(y)]), i);
    out += legend(i, name);
  }
  return out;
}

function paths({ paths, marks }: Paths): string {
  const points = paths.flatMap((path) => path.points);
  const x = linear(points.map(([x]) => x)),
    y = linear(points.flatMap(([, y, error]) => [y - error, y + error]));
  const atX = (value: number) => PLOT.left + INNER.width * x.share(value);
  const atY = (value: number) => PLOT.top + INNER.height * (1 - y.share(value));
  let out = "";
  for (const value of x.ticks) {
    out += rule(atX(value), PLOT.top, atX(value), PLOT.top + INNER.height, value === 0 ? "#222" : "#ddd");
    out += text(atX(value), PANEL.height - PLOT.bottom + 16, String(value), "middle");
  }
  for (const value of y.ticks) {
    out += rule(PLOT.left, atY(value), PLOT.left + INNER.width, atY(value), value === 0 ? "#222" : "#ddd");
    out += text(PLOT.left - 6, atY(value) + 4, String(value), "end");
  }
  for (const [i, { name, points }] of paths.entries()) {
    for (const [x, y, error] of points) {
      out += rule(atX(x), atY(y - error), atX(x), atY(y + error), COLORS[i % COLORS.length]);
    }
    out += line(points.map(([x, y]) => [atX(x), atY(y)]), i, radius) + legend(i, name);
  }
  for (const [i, mark] of marks.entries()) {
    const x = PLOT.left + INNER.width + 20, y = PLOT.top + 26 + 18 * (paths.length + i);
    out += `<circle cx="${fixed(x)}" cy="${fixed(y - 4)}" r="${radius(i)}" fill="#222"/>\n`;
    out += text(x + 13, y, mark, "start");
  }
  return out;
}

/** Of the points of a path, by their order. */
function radius(index: number): number {
  return 2 + index;
}

/** A scale that holds some values and 0, with round marks. */
function linear(values: readonly number[]): { ticks: readonly number[]; share: (value: number) => number } {
  const least = Math.min(0, ...values), most = Math.max(0, ...values), step = tick(most - least || 1);
  const first = Math.floor(least / step), last = Math.max(first + 1, Math.ceil(most / step));
  return {
    ticks: Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(3))),
    share: (value) => (value / step - first) / (last - first),
  };
}

/** A line of some colour, its points marked. */
function line(
  points: readonly (readonly [x: number, y: number])[],
  index: number,
  radius: (point: number) => number = () => 3,
): string {
  const color = COLORS[index % COLORS.length];
  const path = points.map(([x, y]) => `${fixed(x)},${fixed(y)}`).join(" ");
  return `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="2"/>\n` +
    points.map(([x, y], i) =>
      `<circle cx="${fixed(x)}" cy="${fixed(y)}" r="${radius(i)}" fill="${color}"/>\n`
    ).join("");
}

/** What a line of some colour is called, right of the plot. */
function legend(index: number, name: string): string {
  const y = PLOT.top + 8 + 18 * index, x = PLOT.left + INNER.width + 12;
  return rule(x, y - 4, x + 16, y - 4, COLORS[index % COLORS.length]) + text(x + 21, y, name, "start");
}

/** A round distance that divides 0 … most into about five. */
function tick(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most / 5));
  return power * [1, 2, 5, 10].find((times) => times * power >= most / 5)!;
}

/** From white to a blue on which black can be read. */
function shade(share: number): string {
  return `hsl(205 70% ${Math.round(97 - 42 * share)}%)`;
}

function rule(x1: number, y1: number, x2: number, y2: number, color: string, dashes = "none"): string {
  return `<line x1="${fixed(x1)}" y1="${fixed(y1)}" x2="${fixed(x2)}" y2="${
    fixed(y2)
  }" stroke="${color}" stroke-dasharray="${dashes}"/>\n`;
}

function text(x: number, y: number, content: string, anchor: "start" | "middle" | "end", name = ""): string {
  return `<text x="${fixed(x)}" y="${fixed(y)}" text-anchor="${anchor}"${name && ` class="${name}"`}>${
    escape(content)
  }</text>\n`;
}

function fixed(x: number): string {
  return String(Number(x.toFixed(1)));
}

/** Text as XML has it. */
export function escape(text: string): string {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}
