/**
 * A target and a drafter that count: what they are to be asked for and when is plain, and so is the text.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Distributions, HostDistributions } from "../src/decode/distributions.ts";
import type { Drafter, DraftRequest, Target } from "../src/decode/drafter.ts";
import type { Round } from "../src/decode/loop.ts";

export const V = 10;

/** Continues a text by counting: token n is followed by n + 1 mod 10, for certain. Notes how it is used. */
export class Counter implements Target {
  readonly vocabSize = V;
  readonly contextLength: number;
  readonly scored: number[] = [];
  readonly truncated: number[] = [];
  fail = false;

  constructor(contextLength = 64) {
    this.contextLength = contextLength;
  }

  score(tokens: Int32Array, rows: number): Distributions {
    if (this.fail) throw new Error("out of memory");
    assert.ok(tokens.length <= this.contextLength && rows >= 1 && rows <= tokens.length);
    this.scored.push(tokens.length);
    return new HostDistributions(
      Array.from(tokens.slice(-rows), (token) => {
        const law = new Float64Array(V);
        law[(token + 1) % V] = 1;
        return law;
      }),
    );
  }

  truncate(length: number): void {
    this.truncated.push(length);
  }
}

/** Drafts by counting, but for every `wrong`-th position. Notes what it was asked. */
export class CountingDrafter implements Drafter {
  readonly name = "counting";
  readonly vocabSize = V;
  readonly leftToRight = true;
  readonly asked: DraftRequest[] = [];
  readonly #wrong: number;

  constructor(wrong = Infinity) {
    this.#wrong = wrong;
  }

  draft(request: DraftRequest) {
    this.asked.push(request);
    const { tokens, gamma } = request;
    const drafted = Int32Array.from({ length: gamma }, (_, j) => {
      const position = tokens.length + j;
      return (tokens[tokens.length - 1] + j + 1 + (position % this.#wrong === 0 ? 5 : 0)) % V;
    });
    return { tokens: drafted, steps: new Int32Array(gamma), passes: 1 };
  }

  reset(): void {}

  [Symbol.dispose](): void {}
}

export async function all(rounds: AsyncIterable<Round>): Promise<Round[]> {
  const found: Round[] = [];
  for await (const round of rounds) found.push(round);
  return found;
}

export function tokensOf(rounds: readonly Round[]): number[] {
  return rounds.flatMap(({ tokens }) => tokens);
}
