/**
 * Run-time type checks of options, for callers without a type checker. Deliberately absent: ranges, which are checked
 * where an option is used.
 *
 * @module
 */

import { dtypes } from "./backend/backend.ts";
import { shown } from "./shown.ts";

/** A kind of value: its name in messages, and a test. */
export interface Kind {
  /** Completes `expected …`. */
  readonly expected: string;
  /** Whether a value is one. */
  is(value: unknown): boolean;
}

/**
 * Throws unless the options are an object, and each given one is known and of the right kind.
 * @param doing completes `Cannot …`
 * @param kinds of all options
 * @throws {TypeError} naming the first wrong option, what was found and what was expected
 */
export function checkKinds<Options extends object>(
  doing: string,
  options: Options,
  kinds: { readonly [name in keyof Required<Options>]: Kind },
): void {
  if (!isObject(options)) {
    throw new TypeError(`Cannot ${doing}: the options are ${shown(options)}, expected an object`);
  }
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    // otherwise a misspelt option would be ignored silently
    if (!Object.hasOwn(kinds, name)) {
      throw new TypeError(
        `Cannot ${doing}: there is no option ${shown(name)}, expected one of ${
          Object.keys(kinds).join(", ")
        }`,
      );
    }
    const { expected, is } = kinds[name as keyof Options];
    if (!is(value)) throw new TypeError(`Cannot ${doing}: ${name} is ${shown(value)}, expected ${expected}`);
  }
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/** Whether a value is iterable, and not text. */
function isList(value: unknown): boolean {
  return isObject(value) && Symbol.iterator in value;
}

/** Whether a value is an object with these methods, or a function, as tokenizers of transformers.js are. */
export function hasMethods(value: unknown, ...names: string[]): boolean {
  return (isObject(value) || typeof value === "function") &&
    names.every((name) => typeof (value as Record<string, unknown>)[name] === "function");
}

const isText = (value: unknown) => typeof value === "string";
const isPlace = (value: unknown) => isText(value) || value instanceof URL;

/** Checked where it is used. */
const ANY: Kind = { expected: "", is: () => true };
const SOMETHING: Kind = { expected: "a value, or undefined for the default", is: (value) => value !== null };
const NUMBER: Kind = { expected: "a number", is: (value) => typeof value === "number" };
const GAMMA: Kind = {
  expected: 'a number or "auto"',
  is: (value) => typeof value === "number" || value === "auto",
};
const NUMBERS: Kind = { expected: "a list of numbers", is: isList };
const OBJECT: Kind = { expected: "an object", is: isObject };
const FUNCTION: Kind = { expected: "a function", is: (value) => typeof value === "function" };
const PLACE: Kind = { expected: "a folder or a name, as a string or a URL", is: isPlace };
const BOOLEAN: Kind = { expected: "true or false", is: (value) => typeof value === "boolean" };
const TEXT: Kind = { expected: "a string", is: isText };
const DTYPE: Kind = {
  expected: `one of ${dtypes.join(", ")}`,
  is: (value) => (dtypes as readonly unknown[]).includes(value),
};
const DEVICE: Kind = { expected: "the name of a device", is: isText };

/** An abort signal. */
export const SIGNAL: Kind = { expected: "an AbortSignal", is: (value) => value instanceof AbortSignal };

/** Options of loading an engine. */
export const LOADING = {
  target: PLACE,
  drafter: {
    expected: `${PLACE.expected}, a list of them, or null`,
    is: (value) => value === null || isPlace(value) || Array.isArray(value) && value.every(isPlace),
  },
  tokenizer: {
    expected: "an object with the methods encode and decode",
    is: (value) => hasMethods(value, "encode", "decode"),
  },
  device: DEVICE,
  draftDevice: DEVICE,
  dtype: DTYPE,
  draftDtype: DTYPE,
  threads: NUMBER,
  hub: OBJECT,
  onProgress: FUNCTION,
  signal: SIGNAL,
} satisfies Record<string, Kind>;

/** Options of a hub. */
export const HUB = {
  cacheDir: TEXT,
  endpoint: TEXT,
  token: { expected: "a string or null", is: (value) => value === null || isText(value) },
  offline: BOOLEAN,
  timeout: NUMBER,
  onDownload: FUNCTION,
  signal: SIGNAL,
} satisfies Record<string, Kind>;

/** Options of generating a text. */
export const GENERATING = {
  drafter: ANY,
  rule: SOMETHING,
  gamma: GAMMA,
  seed: ANY,
  order: SOMETHING,
  contextCache: SOMETHING,
  sigma: SOMETHING,
  hotStart: BOOLEAN,
  stop: { expected: "a string or a list of strings", is: (value) => isText(value) || isList(value) },
  stopTokens: NUMBERS,
  costs: NUMBERS,
  temperature: NUMBER,
  topK: NUMBER,
  topP: NUMBER,
  maxTokens: NUMBER,
  steps: NUMBER,
  draftContext: NUMBER,
  signal: SIGNAL,
} satisfies Record<string, Kind>;
