/**
 * Runs programs in separate processes, so that a lost device or a kernel that never ends does not affect this one, and
 * reads what they print, line by line.
 *
 * @module
 */

/** The lines of a text, as its pieces arrive. Whoever leaves them early closes what the pieces come from. */
export async function* linesOf(pieces: AsyncIterable<string>): AsyncGenerator<string, void, void> {
  let rest = "";
  for await (const piece of pieces) {
    const lines = (rest + piece).split(/\r?\n/);
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest !== "") yield rest;
}

/** A stream of bytes as text, in pieces. */
export function textOf(stream: ReadableStream<Uint8Array<ArrayBuffer>>): ReadableStream<string> {
  return stream.pipeThrough(new TextDecoderStream());
}

/**
 * Runs a program, and kills it after some seconds.
 * @param line called with each line that it prints
 * @returns how it failed, or undefined if it succeeded
 * @throws {Deno.errors.NotFound} if there is no such program
 */
export async function ownProcess(
  program: string | URL,
  args: readonly string[],
  seconds: number,
  line: (text: string) => void,
): Promise<string | undefined> {
  const child = new Deno.Command(program, { args: [...args], stdout: "piped", stderr: "inherit" }).spawn();
  const end = () => {
    try {
      child.kill("SIGKILL"); // a process that waits for a kernel ignores other signals
    } catch {
      // it has ended
    }
  };
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    end();
  }, 1e3 * seconds);
  try {
    for await (const text of linesOf(textOf(child.stdout))) line(text);
    const { success, code, signal } = await child.status;
    if (late) return `it was not done after ${seconds} s`;
    return success ? undefined : `it ended with ${signal ?? code}`;
  } finally {
    clearTimeout(timer);
    end();
    await child.status;
  }
}

/** The JSON object in a line of a process; undefined for any other line, such as a library may print. */
export function told<T extends object>(line: string): T | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** Runs a Deno script in the same way, with all permissions and without downloads. */
export function ownDeno(
  ...[script, args, ...rest]: Parameters<typeof ownProcess>
): Promise<string | undefined> {
  const path = script instanceof URL ? script.pathname : script;
  return ownProcess(Deno.execPath(), ["run", "--cached-only", "-A", path, ...args], ...rest);
}
