/**
 * Reads `config.json` with one kind of error. Every field is checked where it is read. `null` counts as missing, as
 * Hugging Face writes it. Deliberately knows no architecture.
 *
 * @module
 */

import { CheckpointError, type Weights } from "./weights.ts";
import { brief } from "../shown.ts";

type Json = Readonly<Record<string, unknown>>;

/** The fields of one JSON object of a configuration. */
export class Config {
  readonly #origin: string;
  readonly #fields: Json;
  /** Prefix of a field's name in messages: `model.` for a nested object. */
  readonly #path: string;

  /**
   * @param origin where the checkpoint is, for messages
   * @param fields the object
   */
  constructor(origin: string, fields: Json, path: string = "") {
    this.#origin = origin;
    this.#fields = fields;
    this.#path = path;
  }

  /** The configuration of a checkpoint. */
  static of(weights: Weights): Config {
    return new Config(weights.origin, weights.config);
  }

  /** Whether a field is there and not null. */
  has(name: string): boolean {
    return this.#fields[name] !== undefined && this.#fields[name] !== null;
  }

  /**
   * A positive integer.
   * @throws {CheckpointError} if it is something else, or missing without a fallback
   */
  size(name: string, fallback?: number): number {
    const positive = (value: unknown): value is number =>
      Number.isSafeInteger(value) && (value as number) > 0;
    return this.#get(name, fallback, positive, "a positive integer");
  }

  /**
   * A finite positive number. Errors as {@linkcode size}.
   */
  positive(name: string, fallback?: number): number {
    const positive = (value: unknown): value is number => Number.isFinite(value) && (value as number) > 0;
    return this.#get(name, fallback, positive, "a positive number");
  }

  /** True or false. Errors as {@linkcode size}. */
  flag(name: string, fallback?: boolean): boolean {
    return this.#get(name, fallback, (value) => typeof value === "boolean", "true or false");
  }

  /** One of a few words. Errors as {@linkcode size}. */
  choice<T extends string>(name: string, choices: readonly T[], fallback?: T): T {
    const known = (value: unknown): value is T => choices.some((choice) => choice === value);
    return this.#get(name, fallback, known, choices.map((choice) => `"${choice}"`).join(" or "));
  }

  /** A list. Errors as {@linkcode size}. */
  list(name: string): readonly unknown[] {
    return this.#get(name, undefined, (value) => Array.isArray(value), "a list");
  }

  /** A nested object. Errors as {@linkcode size}. */
  object(name: string, fallback?: Json): Config {
    const record = (value: unknown): value is Json =>
      typeof value === "object" && value !== null && !Array.isArray(value);
    const fields = this.#get(name, fallback, record, "an object");
    return new Config(this.#origin, fields, `${this.#path}${name}.`);
  }

  /** The error for a field that has the wrong value. */
  fault(name: string, expected: string): CheckpointError {
    const found = this.has(name) ? `is ${brief(this.#fields[name])}` : "is missing";
    return new CheckpointError(
      `Cannot load checkpoint "${this.#origin}": field "${this.#path}${name}" of config.json ${found}, expected ${expected}`,
    );
  }

  #get<T>(name: string, fallback: T | undefined, is: (value: unknown) => value is T, expected: string): T {
    if (!this.has(name) && fallback !== undefined) return fallback;
    const value = this.#fields[name];
    if (!is(value)) throw this.fault(name, expected);
    return value;
  }
}

/**
 * The size of a head.
 * @param name of the field that gives the number of heads
 * @throws {CheckpointError} if the heads do not divide the width
 */
export function headSize(config: Config, name: string, heads: number, width: number): number {
  if (width % heads !== 0) throw config.fault(name, `a divisor of the width ${width}`);
  return width / heads;
}
