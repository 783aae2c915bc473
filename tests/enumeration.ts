/**
 * The exact law of whatever a program that decides at random puts out: it is run once for every path its
 * decisions can take, and the probabilities of the paths are added up. No sampling, hence no tolerance but
 * that of float64.
 *
 * @module
 */

import type { Distributions, Law } from "../src/decode/distributions.ts";
import { Purpose, type RandomSource } from "../src/decode/random.ts";

/** Paths less probable than this are not walked: slivers of noise that rounding leaves between equal laws. */
const NEGLIGIBLE = 1e-16;

/**
 * The law of `sample`'s result, by result.
 *
 * @param sample must decide by nothing but the source it is given
 */
export async function enumerate(
  sample: (random: RandomSource) => Promise<string>,
): Promise<Map<string, number>> {
  const law = new Map<string, number>();
  const prefix: Decision[] = [];
  do {
    const path = new Path(prefix);
    const result = await sample(path);
    law.set(result, (law.get(result) ?? 0) + path.probability);
    while (prefix.length > 0 && prefix[prefix.length - 1].left.length === 0) prefix.pop();
    prefix[prefix.length - 1]?.advance();
  } while (prefix.length > 0);
  return law;
}

/** ½ Σ |a − b| over all results. */
export function totalVariation(a: Map<string, number>, b: Map<string, number>): number {
  let sum = 0;
  for (const key of new Set([...a.keys(), ...b.keys()])) {
    sum += Math.abs((a.get(key) ?? 0) - (b.get(key) ?? 0));
  }
  return sum / 2;
}

/** The mean of a number that the results spell. */
export function mean(law: Map<string, number>): number {
  let sum = 0;
  for (const [value, probability] of law) sum += Number(value) * probability;
  return sum;
}

/** One decision of a path: the outcome taken, and those still to be taken. */
class Decision {
  taken: Outcome;
  readonly left: Outcome[];

  constructor(outcomes: Outcome[]) {
    this.taken = outcomes[0];
    this.left = outcomes.slice(1);
  }

  advance(): void {
    this.taken = this.left.shift()!;
  }
}

interface Outcome {
  readonly value: number;
  readonly probability: number;
  /** For a race: the noise that leads to it. */
  readonly region?: Region;
}

/** One path: repeats the decisions of `prefix`, then takes the first outcome each time and adds to it. */
class Path implements RandomSource {
  probability = 1;
  readonly #prefix: Decision[];
  readonly #keys = new Set<string>();
  readonly #noise = new Map<number, Region>();
  #next = 0;

  constructor(prefix: Decision[]) {
    this.#prefix = prefix;
  }

  bernoulli(probability: number, purpose: Purpose, position: number, draw = 0): boolean {
    this.#fresh(purpose, position, draw);
    return this.#decide(() => {
      const yes = Math.min(1, Math.max(0, probability));
      if (Number.isNaN(yes)) throw new RangeError("a probability is not a number");
      return [{ value: 1, probability: yes }, { value: 0, probability: 1 - yes }];
    }).value === 1;
  }

  choose(weights: Law, purpose: Purpose, position: number, draw = 0): number {
    this.#fresh(purpose, position, draw);
    return this.#decide(() => {
      const total = Array.from(weights).reduce((sum, w) => sum + w, 0);
      if (!(total > 0)) throw new RangeError(`weights sum to ${total}`);
      return Array.from(weights, (w, value) => ({ value, probability: w / total }));
    }).value;
  }

  race(laws: Distributions, row: number, position: number): number {
    const law = laws.row(row);
    // the first race at a position draws from its law; what noise that leaves for a second one is known for
    // three tokens only
    if (law.length !== 3) return this.choose(law, Purpose.token, position);
    const noise = this.#noise.get(position) ?? SIMPLEX;
    const outcome = this.#decide(() =>
      Array.from(law, (_, value) => {
        const region = winners(noise, law, value);
        return { value, region, probability: area(region) / area(noise) };
      })
    );
    this.#noise.set(position, outcome.region!);
    return outcome.value;
  }

  #decide(outcomes: () => Outcome[]): Outcome {
    const decision = this.#prefix[this.#next] ??= new Decision(this.#worthwhile(outcomes()));
    this.#next++;
    this.probability *= decision.taken.probability;
    return decision.taken;
  }

  #worthwhile(outcomes: Outcome[]): Outcome[] {
    const kept = outcomes.filter(({ probability }) => this.probability * probability > NEGLIGIBLE);
    return kept.length > 0 ? kept : outcomes.filter(({ probability }) => probability > 0).slice(0, 1);
  }

  /** Noise that is used twice is not independent, and its decisions would have to be enumerated jointly. */
  #fresh(purpose: Purpose, position: number, draw: number): void {
    const key = `${purpose} ${position} ${draw}`;
    if (this.#keys.has(key)) throw new Error(`the same noise decides twice: purpose position draw ${key}`);
    this.#keys.add(key);
  }
}

/**
 * A convex polygon of noise (E_0, E_1, E_2)/ΣE: three independent standard exponentials, scaled to sum to 1,
 * are uniform on the simplex, and a race is decided by their ratios alone.
 */
type Region = readonly Point[];
type Point = readonly [number, number, number];

const SIMPLEX: Region = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

/** The part of a region in which `winner` has the least E/p. */
function winners(region: Region, law: Law, winner: number): Region {
  if (!(law[winner] > 0)) return [];
  for (let v = 0; v < 3; v++) {
    if (v !== winner) region = clip(region, (e) => e[v] * law[winner] - e[winner] * law[v]);
  }
  return region;
}

/** The part of a convex polygon in which a linear function is not negative. */
function clip(region: Region, side: (point: Point) => number): Region {
  const kept: Point[] = [];
  region.forEach((a, i) => {
    const b = region[(i + 1) % region.length];
    const sa = side(a), sb = side(b);
    if (sa >= 0) kept.push(a);
    if (sa >= 0 !== sb >= 0) {
      const t = sa / (sa - sb);
      kept.push([a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2])]);
    }
  });
  return kept;
}

/** Proportional to the area, by the first two coordinates. */
function area(region: Region): number {
  let sum = 0;
  region.forEach((a, i) => {
    const b = region[(i + 1) % region.length];
    sum += a[0] * b[1] - a[1] * b[0];
  });
  return Math.abs(sum) / 2;
}
