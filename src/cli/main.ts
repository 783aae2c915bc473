/**
 * The program: finds the command, runs it, and turns errors into an exit code and one line.
 *
 * Deliberately absent: the commands.
 *
 * @module
 */

import config from "../../deno.json" with { type: "json" };
import { type CommandLine, parseCommandLine, UsageError } from "./args.ts";
import { type Command, commandHelp, programHelp } from "./command.ts";
import { compare, demo } from "./compare.ts";
import { doctor } from "./doctor.ts";
import { generate } from "./generate.ts";
import { inspect } from "./inspect.ts";
import { models } from "./models.ts";
import { score } from "./score.ts";
import { printable, systemTerminal, type Terminal } from "./terminal.ts";

const COMMANDS: readonly Command[] = [generate, compare, score, inspect, models, doctor, demo];

/** The maximum length of a message, which may quote a file. */
const MESSAGE_LENGTH = 1000;

/** Exit codes as usual in shells; explained in `command.ts`. */
const Exit = { done: 0, failed: 1, usage: 2, interrupted: 130, terminated: 143, closedPipe: 141 } as const;

/**
 * Runs the command line and returns its exit code.
 * @param args the arguments after the program's name
 */
export async function main(args: readonly string[]): Promise<number> {
  let terminal = systemTerminal();
  try {
    const line = helpWanted(parseCommandLine(args));
    if (line.values.color) terminal = systemTerminal(true);
    endOnSignals(terminal);
    const command = COMMANDS.find(({ name }) => name === line.command);
    if (line.values.version) {
      terminal.out.line(`specdiff ${config.version}`);
    } else if (line.values.help && (command !== undefined || line.command === undefined)) {
      terminal.out.line(command === undefined ? programHelp(COMMANDS) : commandHelp(command));
    } else {
      if (line.command === undefined) throw new UsageError("there is no command; specdiff --help lists them");
      if (command === undefined) {
        throw new UsageError(`unknown command "${line.command}", expected one of ${names(COMMANDS)}`);
      }
      const foreign = Object.keys(line.values).find((name) =>
        !command.options.some((option) => option === name)
      );
      if (foreign !== undefined) {
        throw new UsageError(
          `${command.name} takes no --${foreign}; specdiff ${command.name} --help lists its options`,
        );
      }
      await command.run(line, terminal);
    }
    return Exit.done;
  } catch (error) {
    return fail(error, terminal);
  }
}

/** Turns `help` and `help generate` into `--help` and `generate --help`. */
function helpWanted(line: CommandLine): CommandLine {
  if (line.command !== "help") return line;
  const [command, ...words] = line.words;
  if (words.length > 0) throw new UsageError("help takes one COMMAND, as in specdiff help generate");
  return { command: command === "help" ? undefined : command, words, values: { ...line.values, help: true } };
}

function names(commands: readonly Command[]): string {
  return commands.map(({ name }) => name).join(", ");
}

/** Reports an error in one line, and returns its exit code. */
function fail(error: unknown, { err }: Terminal): number {
  // the reader of the output has closed it: not an error
  if (error instanceof Deno.errors.BrokenPipe) return Exit.closedPipe;
  const message = error instanceof Error ? error.message : String(error);
  const line = printable(message.replace(/\s*[\r\n]\s*/g, " "));
  try {
    err.endLine();
    err.line(`error: ${line.length > MESSAGE_LENGTH ? `${line.slice(0, MESSAGE_LENGTH)}…` : line}`);
  } catch {
    // standard error is closed; the exit code remains
  }
  return error instanceof UsageError ? Exit.usage : Exit.failed;
}

/** On Ctrl-C and SIGTERM, ends open lines and the process at once. */
function endOnSignals({ out, err }: Terminal): void {
  const end = (code: number) => () => {
    try {
      out.endLine();
      err.endLine();
    } finally {
      Deno.exit(code);
    }
  };
  Deno.addSignalListener("SIGINT", end(Exit.interrupted));
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", end(Exit.terminated));
}
