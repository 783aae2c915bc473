/**
 * The self test of a device: every operation, on a few numbers, against the reference backend. The sizes are chosen so
 * that every kernel of every device runs, and so that blocks of a GPU share sums and softmaxes. It takes about a second
 * and detects a broken driver or kernel; rare shapes and whole models are tested in `tests/`.
 *
 * @module
 */

import {
  type Activation,
  type AttentionOptions,
  type Backend,
  type Cache,
  type Dtype,
  dtypes,
  type Matrix,
  type MatrixOptions,
  type Vector,
} from "../backend/backend.ts";
import { createReferenceBackend } from "../backend/reference.ts";
import { rules, testOf, verify } from "../decode/acceptance.ts";
import { HostDistributions } from "../decode/distributions.ts";
import { takeTurns } from "../decode/event_loop.ts";
import { PhiloxSource, Purpose } from "../decode/random.ts";

/** The result for one operation. */
export interface OperationCheck {
  /** The operation and its input. */
  readonly operation: string;
  /** The largest difference from the reference, relative to the largest value; null if there is none that is a number. */
  readonly error: number | null;
  /** The largest error that rounding explains; 0 if both must be equal. */
  readonly allowed: number;
  /** Why there is no result: the device's error, or {@linkcode NOT_TRIED}. */
  readonly problem?: string;
}

/** Why there is no result of what comes after an operation that lost the device. */
export const NOT_TRIED = "not tried: the device is lost";

/** One operation: what it is called, how far it may be off, and how it is done on a device. */
export type Case = readonly [
  operation: string,
  allowed: number,
  run: (backend: Backend) => Float32Array | Promise<Float32Array>,
];

const WIDTH = 96, OUTPUTS = 200, HEADS = 3, LAYERS = 1;

/** Rows that a GPU passes to cuBLAS, if it is allowed and available. */
const MANY = 300;

/** Products of f16 or bf16 whose sums two blocks of a GPU share. */
const SHARED = { outputs: 40, inputs: 528 } as const;

/** Positions before attention that blocks of a GPU share: a few of their chunks. */
const LONG = 300;

/** Errors from rounding inputs to 16 bits, or from quantising rows. */
const ALLOWED: Readonly<Record<Dtype, number>> = { f32: 1e-5, f16: 2e-3, bf16: 1e-2, int8: 5e-3 };

/** Numbers of rows and inputs for which a GPU has separate kernels. */
const HALF_ROWS = [
  ...[1, 12, 24, 48, 64, 1024].map((rows) => [rows, WIDTH] as const),
  [8448, 16],
] as const;
const ROWS: Readonly<Record<Dtype, readonly (readonly [rows: number, inputs: number])[]>> = {
  f32: [[1, WIDTH], [17, WIDTH]],
  f16: HALF_ROWS,
  bf16: HALF_ROWS,
  int8: [[1, WIDTH], [17, WIDTH]],
};

const CASES: readonly Case[] = [
  ...dtypes.flatMap((dtype) =>
    ROWS[dtype].map(([rows, inputs]): Case => [
      `project, ${dtype}, ${rows === 1 ? "1 row" : `${rows} rows`}`,
      ALLOWED[dtype],
      (backend) => projected(backend, dtype, rows, { inputs }),
    ])
  ),
  ...(["f16", "bf16"] as const).flatMap((dtype): Case[] => [
    ...[1, 12].map((rows): Case => [
      `project, shared sums, ${dtype}, ${rows === 1 ? "1 row" : `${rows} rows`}`,
      ALLOWED[dtype],
      (backend) => projected(backend, dtype, rows, SHARED),
    ]),
    [
      `project in any order, ${dtype}, ${MANY} rows`,
      ALLOWED[dtype],
      (backend) => projected(backend, dtype, MANY, { anyOrder: true }),
    ],
    [
      `projectResidual in any order, ${dtype}, ${MANY} rows`,
      ALLOWED[dtype],
      (backend) => added(backend, dtype, MANY, true),
    ],
  ]),
  ...dtypes.map((dtype): Case => [`embed, ${dtype}`, 0, async (backend) => {
    const table = await weights(backend, dtype), out = backend.activation(3, WIDTH);
    backend.embed(out, { table, tokens: tokens(backend, [199, 0, 7]), cache: cache(backend) });
    return out.read();
  }]),
  ["projectResidual", ALLOWED.f32, (backend) => added(backend, "f32", 3, false)],
  ...([[true, 5], [false, 5], [true, 70]] as const).map(([causal, rows]): Case => [
    `attention, ${causal ? "causal" : "bidirectional, rotary"}, ${rows} rows`,
    ALLOWED.f32,
    (backend) => {
      const sequence = cache(backend), rotary = causal ? undefined : rotation(backend);
      attend(backend, rows, 0, { cache: sequence, rotary, causalRows: causal ? rows : 0 });
      return attend(backend, rows, rows, { cache: sequence, rotary, causalRows: causal ? rows : 0 }).read();
    },
  ]),
  ["append", ALLOWED.f32, (backend) => {
    const sequence = cache(backend), rotary = rotation(backend);
    backend.append(filled(backend, 5, 2 * WIDTH), { cache: sequence, layer: 0, heads: HEADS, rotary });
    sequence.advance(5);
    return attend(backend, 1, 5, { cache: sequence, rotary, causalRows: 1 }).read();
  }],
  ...([[5, 6], [5, 3], [70, 3], [5, 2], [5, 1]] as const).map(([rows, heads]): Case => [
    `attention, f16, heads of ${WIDTH / heads}, ${rows} rows`,
    ALLOWED.f16,
    (backend) => {
      const sequence = cache(backend, heads);
      attend(backend, rows, 0, { cache: sequence, causalRows: rows }, heads);
      return attend(backend, rows, 5, { cache: sequence, causalRows: rows }, heads).read();
    },
  ]),
  ...([["f32", HEADS, undefined], ["f16", 2, 2]] as const).map(([dtype, heads, halfHeads]): Case => [
    `attention, ${dtype}, 5 rows after ${LONG}`,
    ALLOWED[dtype],
    (backend) => {
      const sequence = longCache(backend, heads, halfHeads);
      return attend(backend, 5, 5, { cache: sequence, causalRows: 5 }, heads).read();
    },
  ]),
  ["a pass, three times", ALLOWED.f16, repeated],
  ["multiplyEmbedding", ALLOWED.f32, async (backend) => {
    const x = filled(backend, 2, WIDTH), table = await weights(backend, "f32");
    backend.multiplyEmbedding(x, x, { table, tokens: tokens(backend, [3, 150]) });
    return x.read();
  }],
  ["copy", 0, (backend) => {
    const out = backend.activation(2, WIDTH);
    backend.copy(out, filled(backend, 2, WIDTH));
    return out.read();
  }],
  ["distribution", ALLOWED.f32, (backend) => law(backend).read()],
  ["sample", 0, (backend) => {
    const out = tokens(backend, [0, 0, 0]);
    backend.sample(out, law(backend), { seed: 5n, purpose: 1, position: 2 });
    return Float32Array.from(out.read());
  }],
];

/** Length of the text before the decisions below. */
const START = 4;

/** Decisions of a device; on the reference backend, the host makes them. */
const DECISIONS: readonly Case[] = [
  ["draw", 0, (backend) => {
    const laws = weighed(3, 11), random = new PhiloxSource(5);
    if (backend.decisions === undefined) {
      return Float32Array.from(laws, (law, r) => random.choose(law, Purpose.draft, START + r, START));
    }
    const round = backend.decisions.round(), out = tokens(backend, [0, 0, 0]);
    round.begin(random.seed, START);
    const options = { round, purpose: Purpose.draft, offset: 0, by: "inversion" } as const;
    backend.decisions.draw(out, uploaded(backend, laws), options);
    return Float32Array.from(out.read());
  }],
  ...rules.map((rule): Case => [`accept, ${rule}`, 0, (backend) => {
    const p = weighed(3, 12), q = weighed(2, 13), verdicts: number[] = [];
    for (let seed = 0; seed < 8; seed++) {
      const drafted = Int32Array.of(seed, 2 * seed), steps = Int32Array.of(1, seed % 2);
      if (backend.decisions === undefined) {
        const draft = { tokens: drafted, steps, passes: 1, q: new HostDistributions(q) };
        const found = verify(rule, draft, new HostDistributions(p), new PhiloxSource(seed), START);
        verdicts.push(found.accepted, found.token, Number(found.bonus), ...drafted);
        continue;
      }
      const round = backend.decisions.round(), out = tokens(backend, [0, 0, 0, 0, 0]);
      const { test, useQ } = testOf(rule, steps);
      round.begin(BigInt(seed), START);
      backend.decisions.accept(out, {
        round,
        test,
        p: uploaded(backend, p),
        q: uploaded(backend, q),
        useQ: useQ && tokens(backend, useQ.map(Number)),
        draft: tokens(backend, drafted),
        purposes: Purpose,
      });
      verdicts.push(...out.read());
    }
    return Float32Array.from(verdicts);
  }]),
];

/** The operations of a device. */
export function casesOf(backend: Backend): readonly Case[] {
  return backend.decisions === undefined ? CASES : [...CASES, ...DECISIONS];
}

/** Compares an operation of a device with the oracle. What it allocates there dies with the backend. */
export async function checkOperation(
  backend: Backend,
  [operation, allowed, run]: Case,
): Promise<OperationCheck> {
  using oracle = createReferenceBackend();
  const expected = await run(oracle);
  let found: Float32Array;
  try {
    found = await run(backend);
  } catch (error) {
    return {
      operation,
      error: null,
      allowed,
      problem: error instanceof Error ? error.message : String(error),
    };
  }
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const error = expected.reduce((most, value, i) => Math.max(most, Math.abs(found[i] - value) / largest), 0);
  return { operation, error: Number.isFinite(error) ? error : null, allowed };
}

/** Whether a result is as it should be. */
export function isRight({ error, allowed }: OperationCheck): boolean {
  return error !== null && error <= allowed;
}

/** Compares the operations of a device with the oracle, as {@linkcode checkOperation} does, until the device is lost. */
export async function selfTest(backend: Backend): Promise<OperationCheck[]> {
  const checks: OperationCheck[] = [];
  let turn = performance.now(), lost = false;
  for (const one of casesOf(backend)) {
    if (lost) {
      checks.push({ operation: one[0], error: null, allowed: one[1], problem: NOT_TRIED });
      continue;
    }
    turn = await takeTurns(turn); // an interrupt is heard
    const check = await checkOperation(backend, one);
    checks.push(check);
    lost = check.problem !== undefined && !answers(backend);
  }
  return checks;
}

/** Whether a device still does as little as holding a number. */
function answers(backend: Backend): boolean {
  try {
    backend.activation(1, 1).read();
    return true;
  } catch {
    return false;
  }
}

/** Unnormalised distributions, which give the same decisions. */
function weighed(rows: number, seed: number): Float32Array[] {
  return Array.from({ length: rows }, (_, r) => numbers(WIDTH, seed + r).map((x) => x + 1.001));
}

function uploaded(backend: Backend, rows: readonly Float32Array[]): Activation {
  const activation = backend.activation(rows.length, WIDTH);
  activation.write(Float32Array.from(rows.flatMap((row) => [...row])));
  return activation;
}

/** Reproducible numbers in (−1, 1). */
function numbers(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin((i + 1) * (i + 1) + seed));
}

function filled(backend: Backend, rows: number, columns: number, seed = 1): Activation {
  const activation = backend.activation(rows, columns);
  activation.write(numbers(rows * columns, seed));
  return activation;
}

function weights(
  backend: Backend,
  dtype: Dtype,
  { outputs = OUTPUTS, inputs = WIDTH, anyOrder = false }: Partial<MatrixOptions> = {},
): Promise<Matrix> {
  return backend.matrix({ outputs, inputs, dtype, anyOrder }, [numbers(outputs * inputs, 4)]);
}

function tokens(backend: Backend, ids: ArrayLike<number>): ReturnType<Backend["tokens"]> {
  const buffer = backend.tokens(ids.length);
  buffer.write(ids);
  return buffer;
}

function cache(backend: Backend, halfHeads?: number): Cache {
  return backend.cache({ layers: LAYERS, width: WIDTH, capacity: 320, halfHeads });
}

/** A cache of {@linkcode LONG} positions. */
function longCache(backend: Backend, heads: number, halfHeads?: number): Cache {
  const sequence = cache(backend, halfHeads);
  backend.append(filled(backend, LONG, 2 * WIDTH), { cache: sequence, layer: 0, heads });
  sequence.advance(LONG);
  return sequence;
}

function rotation(backend: Backend): Vector {
  return backend.vector(numbers(WIDTH / HEADS / 2, 8));
}

/** A projection with all of its options, by a matrix that {@linkcode weights} makes. */
async function projected(
  backend: Backend,
  dtype: Dtype,
  rows: number,
  sizes: Partial<MatrixOptions>,
): Promise<Float32Array> {
  const matrix = await weights(backend, dtype, sizes), { outputs, inputs } = matrix;
  const out = backend.activation(rows, outputs), bias = backend.vector(numbers(outputs, 6));
  const norm = { gain: backend.vector(numbers(inputs, 5)), epsilon: 1e-5 };
  backend.project(out, filled(backend, rows, inputs), { matrix, norm, bias, activation: "gelu" });
  return out.read();
}

/** A residual projection with a gate. */
async function added(backend: Backend, dtype: Dtype, rows: number, anyOrder: boolean): Promise<Float32Array> {
  const matrix = await weights(backend, dtype, { anyOrder }), x = filled(backend, rows, OUTPUTS);
  const gate = backend.vector(numbers(OUTPUTS, 7));
  backend.projectResidual(x, filled(backend, rows, WIDTH, 2), { matrix, gate });
  return x.read();
}

/** A pass of `rows` rows, which it commits. [rows, WIDTH] */
function attend(
  backend: Backend,
  rows: number,
  seed: number,
  options: Pick<AttentionOptions, "cache" | "rotary" | "causalRows">,
  heads: number = HEADS,
): Activation {
  const out = backend.activation(rows, WIDTH), qkv = filled(backend, rows, 3 * WIDTH, seed);
  backend.attention(out, qkv, { ...options, layer: 0, heads, scale: 0.2 });
  options.cache.advance(rows);
  return out;
}

/**
 * A pass of one row, done three times, each stage of which needs the one before. A GPU computes it as it is, then
 * records it, then launches what it has recorded. [3, outputs]
 */
async function repeated(backend: Backend): Promise<Float32Array> {
  const sequence = longCache(backend, HEADS, HEADS), { outputs, inputs } = SHARED;
  const back = await weights(backend, "f16", { outputs: inputs });
  const head = await weights(backend, "f16", SHARED);
  const qkv = filled(backend, 1, 3 * WIDTH), mixed = backend.activation(1, WIDTH);
  const x = filled(backend, 1, inputs), out = backend.activation(1, outputs);
  const norm = { gain: backend.vector(numbers(inputs, 5)), epsilon: 1e-5 };
  const pass = () => {
    backend.attention(mixed, qkv, { cache: sequence, layer: 0, heads: HEADS, scale: 0.2, causalRows: 1 });
    backend.projectResidual(x, mixed, { matrix: back });
    backend.project(out, x, { matrix: head, norm });
  };
  const found: number[] = [];
  for (let time = 0; time < 3; time++) {
    if (backend.repeat) backend.repeat({ cache: sequence, rows: 1, key: "self test" }, pass);
    else pass();
    sequence.advance(1);
    found.push(...out.read());
  }
  return Float32Array.from(found);
}

/** [3, WIDTH] */
function law(backend: Backend): Activation {
  const p = backend.activation(3, WIDTH);
  backend.distribution(p, filled(backend, 3, WIDTH), { temperature: 0.6, topK: 50, topP: 0.9 });
  return p;
}
