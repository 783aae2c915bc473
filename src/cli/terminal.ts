/**
 * Standard input, output and error as a person or a pipe sees them: whole writes, colour only where it is
 * wanted, and a last line that is never left half-written. No cursor is moved but for the progress line.
 *
 * @module
 */

/** What {@linkcode Output} writes to: `Deno.stdout`, `Deno.stderr`, or a test's memory. */
export interface Sink {
  /** Writes some of the bytes and returns how many. */
  writeSync(bytes: Uint8Array): number;
  /** Whether a person is looking. */
  isTerminal(): boolean;
}

/** How a piece of text is set. */
export type Style = "accepted" | "corrected" | "bonus" | "dim";

/**
 * Codes of the styles. The colours are green 28, magenta 164 and blue 32 of the 256-colour palette: each has a
 * contrast of about 4 or more against black and against white. To an eye that does not tell green from red, green is
 * yellowish and the other two are blue, of which bold sets bonus apart.
 */
const CODES: Readonly<Record<Style, string>> = {
  accepted: "38;5;28",
  corrected: "38;5;164",
  bonus: "1;38;5;32",
  dim: "2",
};

/** A stream of text that knows whether it may be coloured and whether its last line is open. */
export class Output {
  /** Whether a person is looking. */
  readonly isTerminal: boolean;
  /** Whether {@linkcode Output.styled} has any effect. */
  readonly color: boolean;
  readonly #sink: Sink;
  readonly #encoder: TextEncoder = new TextEncoder();
  #open = false;

  /** @param color whether to colour; absent: if a person is looking and `NO_COLOR` is not set */
  constructor(sink: Sink, color?: boolean) {
    this.#sink = sink;
    this.isTerminal = sink.isTerminal();
    this.color = color ?? (this.isTerminal && !Deno.noColor);
  }

  /** Writes a text as it is. */
  write(text: string): void {
    if (text === "") return;
    let bytes = this.#encoder.encode(text);
    while (bytes.length > 0) bytes = bytes.subarray(this.#sink.writeSync(bytes));
    this.#open = !text.endsWith("\n");
  }

  /** Writes a text and ends the line. */
  line(text: string = ""): void {
    this.write(text + "\n");
  }

  /** Ends the line if one is open. */
  endLine(): void {
    if (this.#open) this.line();
  }

  /** A text in a style, which ends with it: whatever is written is a whole, and no interrupt leaves a colour on. */
  styled(style: Style, text: string): string {
    return this.color && text !== "" ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text;
  }

  /** Shows a line that the next one replaces, and an empty one removes; only to a person. */
  progress(text: string): void {
    if (this.isTerminal) this.write(`\r\x1b[K${text}`);
    if (text === "") this.#open = false;
  }
}

/** The three standard streams. */
export interface Terminal {
  /** Results, and nothing else. */
  readonly out: Output;
  /** What is said about them. */
  readonly err: Output;
  /** All of standard input. */
  input(): Promise<string>;
}

/**
 * The process's own streams.
 * @param color colour both, whatever they are; absent: as {@linkcode Output} decides
 */
export function systemTerminal(color?: boolean): Terminal {
  const err = new Output(Deno.stderr, color);
  return {
    out: new Output(Deno.stdout, color),
    err,
    input() {
      if (Deno.stdin.isTerminal()) err.line("Reading a text from standard input; end it with Ctrl-D");
      return new Response(Deno.stdin.readable).text();
    },
  };
}

/**
 * Columns set side by side, two spaces between.
 *
 * @param rows each with as many cells
 * @param left how many columns, from the left, are set to the left; the others to the right
 * @returns lines without spaces at their ends
 */
export function table(rows: readonly (readonly string[])[], left: number): string[] {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) =>
    row.map((cell, column) => column < left ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))
      .join("  ").trimEnd()
  );
}

/** Bytes as a person reads them: `548.1 MB`. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
