/**
 * What callers give, where no compiler has looked at it: that each option is of the kind it must be. Deliberately absent:
 * ranges and names, which those who use an option check themselves.
 *
 * @module
 */

import { dtypes } from "./backend/backend.ts";
import { shown } from "./shown.ts";

/** A kind of value: what messages call it, and what is one. */
export interface Kind {
  /** Completes `expected …`. */
  readonly expected: string;
  /** Whether a value is one. */
  is(value: unknown): boolean;
}

/**
 * Throws unless the options are an object, and each that is given is known and of its kind.
 * @param doing completes `Cannot …`
 * @param kinds of all options
 * @throws {TypeError} naming the first that is not, what was found and what was expected
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
    // a name that was mistyped, or is another library's, would be passed over without a word
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

/** Whether a value can be spread into a list; text could, and is none. */
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

/** What is looked at where it is used. */
const ANY: Kind = { expected: "", is: () => true };
const SOMETHING: Kind = { expected: "a value, or undefined for the default", is: (value) => value !== null };
const NUMBER: Kind = { expected: "a number", is: (value) => typeof value === "number" };
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

/** Ends what it is given to. */
export const SIGNAL: Kind = { expected: "an AbortSignal", is: (value) => value instanceof AbortSignal };

/** What may be given to load an engine. */
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
  drafterDtype: DTYPE,
  threads: NUMBER,
  hub: OBJECT,
  onProgress: FUNCTION,
  signal: SIGNAL,
} satisfies Record<string, Kind>;

/** What may be given to use a hub. */
export const HUB = {
  cacheDir: TEXT,
  endpoint: TEXT,
  token: { expected: "a string or null", is: (value) => value === null || isText(value) },
  offline: BOOLEAN,
  timeout: NUMBER,
  onDownload: FUNCTION,
  signal: SIGNAL,
} satisfies Record<string, Kind>;

/** What may be given to generate a text. */
export const GENERATING = {
  drafter: ANY,
  rule: SOMETHING,
  gamma: SOMETHING,
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
