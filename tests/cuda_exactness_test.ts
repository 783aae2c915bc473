/**
 * The proof of `exactness_test.ts` for decisions that a device makes: a round over a toy is enumerated through the
 * kernels themselves, and the text has the target's joint law.
 *
 * A kernel decides by uniforms and by the words of a race. The stand-in lets a test tell both. So the probability of an
 * outcome is the share of uniforms that lead to it, found by bisection through the kernel, not by another account of
 * what it does; and that decisions depend on nothing else is tried with uniforms at random. The law of a race is an
 * integral over the noise of its winner, of the bisected noise of the others.
 *
 * Deliberately absent: several rounds, which are the loops' matter, and models, whose laws are tables here.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Activation } from "../src/backend/backend.ts";
import type { CudaBackend } from "../src/backend/cuda/backend.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { type Rule, testOf } from "../src/decode/acceptance.ts";
import { Purpose } from "../src/decode/random.ts";
import { onCudaBackend as test, standIn } from "./cuda/standin.ts";
import { totalVariation } from "./enumeration.ts";
import { randomTable, type Table, ToyCausalModel } from "./toy.ts";

/** What laws of f32 allow: an entry is off by up to 6e-8 of itself, and a text takes up to four. 5e-8 is seen. */
const EXACT = 2e-7;

/** What is done wrong here is off by at least this. */
const BIASED = 0.04;

const PROMPT = [0, 1, 0], START = PROMPT.length;

/** How many words of noise there are; of the two that a uniform has, the first is told. */
const WORDS = 2 ** 32;

/** Nodes of the integral over a race, and samples of one. */
const NODES = 6, SAMPLES = 64;

/** What one uniform decides. */
type Decision = readonly [purpose: Purpose, position: number, draw: number];

/** Outcomes 0, 1, …: of all words in order, how many lead to one of the first v + 1. */
type Shares = readonly number[];

/** Who wins each of some races with the same noise. */
type Sample = readonly [winners: readonly number[], words: Uint32Array<ArrayBuffer>];

/** A draft, and how probable it is. */
interface Drafted {
  readonly tokens: readonly number[];
  /** Logits of q, [n][V]. */
  readonly q: readonly Float32Array[];
  readonly probability: number;
}

/** What is to be enumerated. */
interface Scenario {
  readonly rule: Rule;
  /** The step at which each position is revealed; what was revealed earlier is seen. */
  readonly steps: readonly number[];
  /** What is done wrong, to see that it is found. */
  readonly wrong?: "residual is p" | "p of another draft";
}

/** A target and a drafter over V tokens, and a device that decides. */
class Toy {
  readonly #backend: CudaBackend;
  readonly #model: ToyCausalModel;
  readonly #drafter: Table;
  readonly #vocabSize: number;
  readonly #owned = new DisposableStack();
  readonly #round;
  readonly #draft;
  readonly #useQ;
  readonly #out;
  readonly #races = new Map<string, readonly number[]>();
  readonly #sampled = new Map<string, readonly Sample[]>();
  /** Of words at random, the same each time. */
  #state = 1;

  constructor(backend: CudaBackend, vocabSize: number, seed: number) {
    this.#backend = backend;
    this.#vocabSize = vocabSize;
    this.#model = new ToyCausalModel(createReferenceBackend(), randomTable(vocabSize, seed), vocabSize, 16);
    this.#drafter = randomTable(vocabSize, 1000 + seed);
    this.#round = this.#owned.use(backend.decisions.round());
    this.#draft = this.#owned.use(backend.tokens(8));
    this.#useQ = this.#owned.use(backend.tokens(8));
    this.#out = this.#owned.use(backend.tokens(16));
    this.#round.begin(1n, START);
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }

  /** How far the text of one round, completed by the target itself, is from the target's law. */
  distance(scenario: Scenario): number {
    const { rule, steps } = scenario, n = steps.length;
    const drawn = testOf(rule, Int32Array.from(steps)).test === "drawn";
    const law = new Map<string, number>();
    for (const draft of this.#drafts(steps)) {
      for (
        const [tokens, probability] of drawn ? this.#raced(draft, scenario) : this.#tested(draft, scenario)
      ) {
        for (const [rest, p] of this.#model.joint([...PROMPT, ...tokens], n + 1 - tokens.length)) {
          const text = rest === "" ? tokens.join() : `${tokens},${rest}`;
          law.set(text, (law.get(text) ?? 0) + probability * p);
        }
      }
    }
    const total = [...law.values()].reduce((sum, p) => sum + p, 0);
    assert.ok(Math.abs(total - 1) < EXACT, `the probabilities sum to ${total}`);
    return totalVariation(law, this.#model.joint(PROMPT, n + 1));
  }

  /** All drafts; under `coupled` a draft is decided with the verdict, so here they are but listed. */
  #drafts(steps: readonly number[]): Drafted[] {
    const n = steps.length, order = steps.map((_, j) => j).sort((a, b) => steps[a] - steps[b] || a - b);
    let drafts: Drafted[] = [{ tokens: new Array(n).fill(-1), q: new Array(n), probability: 1 }];
    for (const j of order) {
      drafts = drafts.flatMap(({ tokens, q, probability }) => {
        const seen = tokens.map((token, i) => steps[i] < steps[j] ? token : "_");
        const logits = this.#drafter(`${j} | ${seen}`);
        using law = this.#law([logits]);
        const shares = this.#shares([Purpose.draft, START + j, START], this.#vocabSize, () => {
          const options = { round: this.#round, purpose: Purpose.draft, offset: j, by: "inversion" } as const;
          this.#backend.decisions.draw(this.#out, law, options);
          return this.#out.read(1)[0];
        });
        return shares.map((_, token) => ({
          tokens: tokens.with(j, token),
          q: q.with(j, logits),
          probability: probability * partOf(shares, token),
        }));
      });
    }
    return drafts.filter(({ probability }) => probability > 0);
  }

  /** Logits of p along a draft, [n + 1][V]. */
  #target(tokens: readonly number[], wrong: Scenario["wrong"]): Float32Array[] {
    const along = wrong === "p of another draft" ? tokens.map((t) => (t + 1) % this.#vocabSize) : tokens;
    return Array.from(
      { length: tokens.length + 1 },
      (_, j) => this.#model.logits([...PROMPT, ...along.slice(0, j)]),
    );
  }

  /** What comes of a draft whose tokens are tested: emitted tokens and their probability, that of the draft included. */
  #tested({ tokens, q, probability }: Drafted, { rule, steps, wrong }: Scenario): [number[], number][] {
    const n = tokens.length, { test, useQ } = testOf(rule, Int32Array.from(steps));
    using p = this.#law(this.#target(tokens, wrong)), laws = this.#law(q);
    this.#draft.write(tokens);
    if (useQ !== undefined) this.#useQ.write(useQ.map(Number));
    const verdict = (count = n) => {
      this.#backend.decisions.accept(this.#out, {
        round: this.#round,
        test,
        p: p.slice(0, count + 1),
        q: count > 0 ? laws : undefined,
        useQ: useQ && count > 0 ? this.#useQ : undefined,
        draft: this.#draft,
        purposes: Purpose,
      });
      const [accepted, token, bonus] = this.#out.read(3);
      assert.equal(bonus, Number(accepted === count));
      return { accepted, token };
    };
    // a test is of one token, or of the draft up to it and from the right
    const testing = (j: number): Decision => [Purpose.accept, START + j, test === "joint" ? START : 0];
    const replacing = (j: number): Decision => [Purpose.residual, START + j, 0];
    const pass = (count: number) => {
      for (let j = 0; j < n; j++) tell(testing(j), j < count ? 0 : WORDS - 1);
    };
    const passed = tokens.map((_, j) => {
      pass(j);
      return this.#shares(testing(j), 2, () => verdict().accepted > j ? 0 : 1)[0];
    });
    const yes = (j: number) => j < 0 ? 1 : passed[j] / WORDS, no = (j: number) => 1 - yes(j);
    const product = (from: number, to: number, factor: (j: number) => number) => {
      let all = 1;
      for (let j = from; j < to; j++) all *= factor(j);
      return all;
    };
    const keeping = (count: number) =>
      test === "joint"
        ? yes(count - 1) * product(count, n, no)
        : product(0, count, yes) * (count < n ? no(count) : 1);

    const found: [number[], number][] = [], shares: (Shares | undefined)[] = [];
    for (let count = 0; count <= n; count++) {
      shares.push(undefined);
      if (keeping(count) === 0) continue;
      pass(count);
      assert.equal(verdict().accepted, count);
      const cut = wrong === "residual is p" ? count : n; // a draft that ends here is followed by a token of p
      const law = this.#shares(replacing(count), this.#vocabSize, () => verdict(cut).token);
      shares[count] = law;
      for (let token = 0; token < this.#vocabSize; token++) {
        const part = partOf(law, token);
        if (part > 0) found.push([[...tokens.slice(0, count), token], probability * keeping(count) * part]);
      }
    }
    for (let i = 0; i < 8 && wrong === undefined; i++) {
      const uniforms = tokens.map(() => this.#word()), u = this.#word();
      tokens.forEach((_, j) => tell(testing(j), uniforms[j]));
      const passes = (j: number) => uniforms[j] < passed[j];
      let count = test === "joint" ? n : 0;
      if (test === "joint") { while (count > 0 && !passes(count - 1)) count--; }
      else while (count < n && passes(count)) count++;
      for (let j = 0; j <= n; j++) tell(replacing(j), j === count ? u : this.#word());
      const token = shares[count]!.findIndex((share) => u < share);
      assert.deepEqual(verdict(), { accepted: count, token }, `draft ${tokens}, ${rule}`);
    }
    return found;
  }

  /** The same where the target draws its own tokens; a coupled draft is drawn with its noise, so with its winner. */
  #raced({ tokens, q, probability }: Drafted, { rule, wrong }: Scenario): [number[], number][] {
    const n = tokens.length, logits = this.#target(tokens, wrong);
    using p = this.#law(logits);
    this.#draft.write(tokens);
    // at each position the outcomes of the target's race that go with the draft's token: noise, and their probability
    const outcomes = logits.map((of, j) => {
      const law = this.#race(of), samples = this.#samples([of, ...(j < n ? [q[j]] : [])]);
      return law.flatMap((part, winner) => {
        const won = samples.filter(([of]) => of[0] === winner);
        const going = rule === "coupled" && j < n ? won.filter(([of]) => of[1] === tokens[j]) : won;
        if (part === 0 || going.length === 0) return [];
        return [{ words: going[0][1], part: part * going.length / won.length }];
      });
    });
    const found: [number[], number][] = [];
    const walk = (j: number, part: number): void => {
      if (j <= n) {
        for (const outcome of outcomes[j]) {
          standIn!.noise(Purpose.token, START + j, 0, outcome.words);
          walk(j + 1, part * outcome.part);
        }
        return;
      }
      const options = {
        round: this.#round,
        test: "drawn",
        p,
        draft: this.#draft,
        purposes: Purpose,
      } as const;
      this.#backend.decisions.accept(this.#out, options);
      const [accepted, token] = this.#out.read(2);
      found.push([[...tokens.slice(0, accepted), token], part]);
    };
    walk(0, rule === "coupled" ? 1 : probability);
    return found;
  }

  /** The law of the winner of a race. */
  #race(logits: Float32Array): readonly number[] {
    const known = this.#races.get(logits.join());
    if (known !== undefined) return known;
    using law = this.#law([logits]);
    const weights = [...law.read()], tokens = weights.map((_, v) => v);
    // The winner's noise u at nodes in s, 1 − u = s^2p, and for each other token the noise below which it would win: if
    // all is as it should be, the integrand is then linear in s.
    const races = tokens.flatMap((winner) =>
      legendre(NODES).flatMap(([s, weight]) => {
        const exponent = 2 * weights[winner], word = Math.floor((1 - s ** exponent) * WORDS);
        const part = weight * exponent * s ** (exponent - 1);
        return tokens.filter((v) => v !== winner).map((other) => ({ winner, other, word, part, below: 0 }));
      })
    );
    using pairs = this.#backend.activation(races.length, weights.length);
    pairs.write(Float32Array.from(
      races.flatMap(({ winner, other }) =>
        weights.map((weight, v) => v === winner || v === other ? weight : 0)
      ),
    ));
    for (let bit = WORDS / 2; bit >= 1; bit /= 2) {
      const winners = this.#winners(pairs, (r) => {
        const { winner, other, word, below } = races[r], words = new Uint32Array(4);
        words[winner] = word;
        words[other] = below + bit - 1;
        return words;
      });
      races.forEach((race, r) => race.below += winners[r] === race.other ? bit : 0);
    }
    const found = tokens.map((winner) => {
      const own = races.filter((race) => race.winner === winner);
      let sum = 0;
      for (let i = 0; i < own.length; i += tokens.length - 1) {
        const others = own.slice(i, i + tokens.length - 1);
        sum += others.reduce((product, { below }) => product * (1 - below / WORDS), others[0].part);
      }
      return weights[winner] > 0 ? sum : 0;
    });
    this.#races.set(logits.join(), found);
    return found;
  }

  /** The winners of races over each of some laws with the same noise, and the noise; the same each time. */
  #samples(logits: readonly Float32Array[]): readonly Sample[] {
    const known = this.#sampled.get(logits.join());
    if (known !== undefined) return known;
    const words = Array.from({ length: SAMPLES }, (_, r) => {
      // the first let each token win once, however improbable it is
      const word = (v: number) => r < this.#vocabSize ? (v === r ? 0 : WORDS - 1) : this.#word();
      return Uint32Array.from({ length: 4 }, (_, v) => word(v));
    });
    const winners = logits.map((row) => {
      using laws = this.#law(new Array(SAMPLES).fill(row));
      return this.#winners(laws, (r) => words[r]);
    });
    const found = words.map((noise, r): Sample => [winners.map((of) => of[r]), noise]);
    this.#sampled.set(logits.join(), found);
    return found;
  }

  /** Who wins in each row of laws with noise that is told. */
  #winners(laws: Activation, words: (row: number) => Uint32Array<ArrayBuffer>): Int32Array {
    using out = this.#backend.tokens(laws.rows);
    for (let r = 0; r < laws.rows; r++) standIn!.noise(Purpose.token, START + r, 0, words(r));
    const options = { round: this.#round, purpose: Purpose.token, offset: 0, by: "race" } as const;
    this.#backend.decisions.draw(out, laws, options);
    return out.read();
  }

  /** Laws of logits, as the device makes them. */
  #law(logits: readonly Float32Array[]): Activation {
    const laws = this.#backend.activation(logits.length, this.#vocabSize);
    using rows = this.#backend.activation(logits.length, this.#vocabSize);
    rows.write(Float32Array.from(logits.flatMap((row) => [...row])));
    this.#backend.distribution(laws, rows, {});
    return laws;
  }

  /** The shares of the outcomes of a decision, which grow with its uniform; others are as they were told. */
  #shares(decision: Decision, outcomes: number, outcome: () => number): Shares {
    const shares: number[] = [];
    for (let v = 0; v < outcomes - 1; v++) {
      let low = shares[v - 1] ?? 0, high = WORDS;
      while (low < high) {
        const middle = Math.floor((low + high) / 2);
        tell(decision, middle);
        if (outcome() > v) high = middle;
        else low = middle + 1;
      }
      shares.push(low);
    }
    return [...shares, WORDS];
  }

  /** A word at random. */
  #word(): number {
    this.#state = Math.imul(this.#state, 1664525) + 1013904223 >>> 0;
    return this.#state;
  }
}

/** What part of all words leads to an outcome. */
function partOf(shares: Shares, outcome: number): number {
  return (shares[outcome] - (shares[outcome - 1] ?? 0)) / WORDS;
}

/** Makes a decision's uniform (word + ½)·2⁻³². */
function tell([purpose, position, draw]: Decision, word: number): void {
  standIn!.noise(purpose, position, draw >> 1, Uint32Array.of(word, WORDS / 2, word, WORDS / 2));
}

/** Nodes and weights of Gauss and Legendre's rule on [0, 1]: Newton's method from Chebyshev's nodes. */
function legendre(count: number): [node: number, weight: number][] {
  return Array.from({ length: count }, (_, i) => {
    let x = Math.cos(Math.PI * (i + 0.75) / (count + 0.5)), slope = 0;
    for (let step = 0; step < 9; step++) {
      let before = 0, value = 1;
      for (let k = 1; k <= count; k++) {
        [before, value] = [value, ((2 * k - 1) * x * value - (k - 1) * before) / k];
      }
      slope = count * (before - x * value) / (1 - x * x);
      x -= value / slope;
    }
    return [(1 + x) / 2, 1 / ((1 - x * x) * slope * slope)];
  });
}

/** The order in which drafts are revealed. */
const atOnce = [0, 0], inTurn = [0, 1], fromTheRight = [1, 0];

test("every exact rule gives the target's law, decided by the device", (backend) => {
  const scenarios: readonly Scenario[] = [
    ...(["ordered", "ratio", "block", "match", "coupled"] as const).flatMap((rule) => [
      { rule, steps: atOnce },
      { rule, steps: inTurn },
    ]),
    ...(["ordered", "block", "match"] as const).map((rule) => ({ rule, steps: fromTheRight })),
  ];
  using toy = new Toy(backend, 3, 1);
  for (const scenario of scenarios) {
    const distance = toy.distance(scenario);
    assert.ok(distance < EXACT, `${JSON.stringify(scenario)}: total variation ${distance}`);
  }
});

test("the law is exact over three drafted tokens, and over four tokens of vocabulary", (backend) => {
  using toy = new Toy(backend, 3, 3), other = new Toy(backend, 4, 4);
  for (
    const scenario of [
      { rule: "block", steps: [0, 1, 1] },
      { rule: "block", steps: [0, 2, 1] },
      { rule: "ordered", steps: [1, 0, 2] },
    ] as const
  ) {
    const distance = toy.distance(scenario);
    assert.ok(distance < EXACT, `${JSON.stringify(scenario)}: total variation ${distance}`);
  }
  for (const rule of ["ratio", "match"] as const) {
    const distance = other.distance({ rule, steps: atOnce });
    assert.ok(distance < EXACT, `${rule}, four tokens of vocabulary: total variation ${distance}`);
  }
});

test("the same measurement finds what is not exact", (backend) => {
  using toy = new Toy(backend, 3, 1);
  const scenarios: readonly Scenario[] = [
    { rule: "paper", steps: fromTheRight },
    { rule: "ratio", steps: atOnce, wrong: "residual is p" },
    { rule: "block", steps: atOnce, wrong: "residual is p" },
    ...(["ordered", "match", "coupled"] as const).map((rule) => ({
      rule,
      steps: atOnce,
      wrong: "p of another draft",
    } as const)),
  ];
  for (const scenario of scenarios) {
    const distance = toy.distance(scenario);
    assert.ok(distance > BIASED, `${JSON.stringify(scenario)}: total variation ${distance}`);
  }
});
