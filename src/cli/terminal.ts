/**
 * Standard input, output and error, for terminals and pipes: complete writes, colour only if wanted, and no unfinished
 * last line. The cursor moves only for the progress line.
 *
 * @module
 */

/** The destination of an {@linkcode Output}: `Deno.stdout`, `Deno.stderr`, or memory in a test. */
export interface Sink {
  /** Writes some of the bytes and returns their number. */
  writeSync(bytes: Uint8Array): number;
  /** Whether it is a terminal. */
  isTerminal(): boolean;
}

/** The maximum size of standard input: more than any context holds, and a limit for endless input. */
const MAX_INPUT = 16 << 20;

/** The style of a piece of text. */
export type Style = "accepted" | "corrected" | "bonus" | "dim";

/**
 * Codes of the styles. The colours are green 28, magenta 164 and blue 32 of the 256-colour palette. Each has a contrast
 * of about 4 or more against both black and white. With red-green colour blindness, green looks yellowish and the other
 * two blue; bold then distinguishes bonus.
 */
const CODES: Readonly<Record<Style, string>> = {
  accepted: "38;5;28",
  corrected: "38;5;164",
  bonus: "1;38;5;32",
  dim: "2",
};

/** A stream of text that tracks whether colours are allowed and whether its last line is open. */
export class Output {
  /** Whether it is a terminal. */
  readonly isTerminal: boolean;
  /** Whether {@linkcode Output.styled} has any effect. */
  readonly color: boolean;
  readonly #sink: Sink;
  readonly #encoder: TextEncoder = new TextEncoder();
  readonly #columns: () => number;
  #open = false;
  /** The current text of {@linkcode Output.progress}. */
  #progress = "";

  /**
   * @param color whether to use colours; absent: in a terminal, unless `NO_COLOR` is set
   * @param columns the width of the terminal
   */
  constructor(sink: Sink, color?: boolean, columns: () => number = consoleColumns) {
    this.#sink = sink;
    this.#columns = columns;
    this.isTerminal = sink.isTerminal();
    this.color = color ?? (this.isTerminal && !Deno.noColor);
  }

  /**
   * Writes a text unchanged.
   * @throws {Deno.errors.BrokenPipe} if the reader has closed it
   * @throws {Error} if it cannot be written, for example to a full disk
   */
  write(text: string): void {
    if (text === "") return;
    let bytes = this.#encoder.encode(text);
    try {
      while (bytes.length > 0) bytes = bytes.subarray(this.#writeSome(bytes));
    } catch (error) {
      this.#open = false; // a line that cannot be written cannot be ended
      if (error instanceof Deno.errors.BrokenPipe) throw error;
      throw new Error(`Cannot write the output: ${(error as Error).message}`, { cause: error });
    }
    this.#open = !text.endsWith("\n");
  }

  /** Writes some of the bytes and returns their number: 0 while the stream is non-blocking and full. */
  #writeSome(bytes: Uint8Array): number {
    try {
      return this.#sink.writeSync(bytes);
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // a millisecond
      return 0;
    }
  }

  /** Writes a text and ends the line. */
  line(text: string = ""): void {
    this.write(text + "\n");
  }

  /** Ends the line if one is open. */
  endLine(): void {
    if (this.#open) this.line();
  }

  /** A text in a style that ends with it, so that no interrupt leaves a colour on. */
  styled(style: Style, text: string): string {
    return this.color && text !== "" ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text;
  }

  /**
   * Shows a line, only in a terminal. The next call replaces it, and an empty text removes it. If it is wider than the
   * terminal, only its end is shown, because a wrapped line cannot be replaced.
   */
  progress(text: string): void {
    if (!this.isTerminal) return;
    const most = this.#columns() - 1;
    const shown = text.length > most ? `…${text.slice(text.length - most + 1)}` : text;
    if (shown !== this.#progress) this.write(`\r\x1b[K${shown}`);
    this.#progress = shown;
    if (text === "") this.#open = false;
  }
}

/** Columns of the terminal, or 80 if unknown. */
function consoleColumns(): number {
  try {
    return Deno.consoleSize().columns || 80;
  } catch {
    return 80; // none of the streams is a terminal
  }
}

/** The three standard streams. */
export interface Terminal {
  /** Results, and nothing else. */
  readonly out: Output;
  /** Messages about them. */
  readonly err: Output;
  /**
   * All of standard input.
   * @throws {Error} if it cannot be read, has more than 16 MiB, or is not UTF-8
   */
  input(): Promise<string>;
}

/**
 * The process's own streams.
 * @param color whether to use colours; absent: as {@linkcode Output} decides
 */
export function systemTerminal(color?: boolean): Terminal {
  const err = new Output(Deno.stderr, color);
  return {
    out: new Output(Deno.stdout, color),
    err,
    async input() {
      if (Deno.stdin.isTerminal()) err.line("Reading a text from standard input; end it with Ctrl-D");
      try {
        return await readInput(Deno.stdin.readable);
      } catch (error) {
        throw new Error(`Cannot read standard input: ${(error as Error).message}`, { cause: error });
      }
    },
  };
}

/**
 * All of an input as text.
 * @throws {RangeError} if it has more than 16 MiB
 * @throws {TypeError} if it is not UTF-8
 */
export async function readInput(input: AsyncIterable<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "", size = 0;
  const decode = (bytes?: Uint8Array) => {
    try {
      return decoder.decode(bytes, { stream: bytes !== undefined });
    } catch {
      throw new TypeError("it is not UTF-8 text");
    }
  };
  for await (const bytes of input) {
    size += bytes.length;
    if (size > MAX_INPUT) throw new RangeError(`it is too long, expected at most ${MAX_INPUT} bytes`);
    text += decode(bytes);
  }
  return text + decode();
}

/** A text with control characters made visible, except tabs and newlines, so that a terminal obeys none of them. */
export function printable(text: string): string {
  return text.replace(
    // deno-lint-ignore no-control-regex
    /[\0-\x08\x0b-\x1f\x7f-\x9f]/g,
    (control) => control < "\x20" ? String.fromCharCode(0x2400 + control.charCodeAt(0)) : "\ufffd",
  );
}

/**
 * Aligns the cells of rows in columns, two spaces apart.
 *
 * @param rows all with the same number of cells
 * @param left the number of left-aligned columns; the others are right-aligned
 * @returns lines without trailing spaces
 */
export function table(rows: readonly (readonly string[])[], left: number): string[] {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) =>
    row.map((cell, column) => column < left ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))
      .join("  ").trimEnd()
  );
}

/** Bytes for people: `548.1 MB`. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
