/**
 * Programs in a process of their own: what ends that, such as a device that is lost or a kernel that never ends, leaves
 * this one as it was.
 *
 * @module
 */

import { createInterface } from "node:readline";
import { Readable } from "node:stream";

/**
 * Runs a program, and kills it after so many seconds.
 * @param line is given each line that it prints, as it comes
 * @returns how it ended, unless that was well
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
      child.kill("SIGKILL"); // who waits for a kernel hears nothing else
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
    for await (const text of createInterface({ input: Readable.fromWeb(child.stdout) })) line(text);
    const { success, code, signal } = await child.status;
    if (late) return `it was not done after ${seconds} s`;
    return success ? undefined : `it ended with ${signal ?? code}`;
  } finally {
    clearTimeout(timer);
    end();
  }
}

/** What a line of a process says in JSON; nothing if it is no object, such as what a library prints at times. */
export function told<T extends object>(line: string): T | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** The same with a script of ours, which is given all permissions, and fetches nothing. */
export function ownDeno(
  ...[script, args, ...rest]: Parameters<typeof ownProcess>
): Promise<string | undefined> {
  const path = script instanceof URL ? script.pathname : script;
  return ownProcess(Deno.execPath(), ["run", "--cached-only", "-A", path, ...args], ...rest);
}
