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

/** The most bytes of standard input: no context holds as much, and what never ends should end some time. */
const MAX_INPUT = 16 << 20;

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
  readonly #columns: () => number;
  #open = false;
  /** What {@linkcode Output.progress} shows. */
  #progress = "";

  /**
   * @param color whether to colour; absent: if a person is looking and `NO_COLOR` is not set
   * @param columns how wide the terminal is
   */
  constructor(sink: Sink, color?: boolean, columns: () => number = consoleColumns) {
    this.#sink = sink;
    this.#columns = columns;
    this.isTerminal = sink.isTerminal();
    this.color = color ?? (this.isTerminal && !Deno.noColor);
  }

  /**
   * Writes a text as it is.
   * @throws {Deno.errors.BrokenPipe} if whoever read it is gone
   * @throws {Error} if it cannot be written, as to a full disk
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

  /** Writes some of the bytes and returns how many: none while whoever shares the stream has it not wait, and it is full. */
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

  /** A text in a style, which ends with it: whatever is written is a whole, and no interrupt leaves a colour on. */
  styled(style: Style, text: string): string {
    return this.color && text !== "" ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text;
  }

  /**
   * Shows a line that the next one replaces, and an empty one removes; only to a person. Of one that is wider than the
   * terminal the end is shown: a line that wraps cannot be replaced.
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

/** Columns of the terminal; those of old where it does not tell. */
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
  /** What is said about them. */
  readonly err: Output;
  /**
   * All of standard input.
   * @throws {Error} if it cannot be read, has more than 16 MiB, or is not UTF-8
   */
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
    if (size > MAX_INPUT) throw new RangeError(`it has more than ${MAX_INPUT} bytes, expected at most that`);
    text += decode(bytes);
  }
  return text + decode();
}

/** A text without what a terminal takes for a command: control characters in sight, but for tabs and newlines. */
export function printable(text: string): string {
  return text.replace(
    // deno-lint-ignore no-control-regex
    /[\0-\x08\x0b-\x1f\x7f-\x9f]/g,
    (control) => control < "\x20" ? String.fromCharCode(0x2400 + control.charCodeAt(0)) : "\ufffd",
  );
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
