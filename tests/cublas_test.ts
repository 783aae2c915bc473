/**
 * cuBLAS, where a matrix permits sums in any order: that products through it are right, also as graphs, that nothing
 * else goes through it, that texts keep the target's law, and that everything runs without it. On the stand-in, which
 * adds in an order of its own; `backend_test.ts` holds what every backend has to meet.
 *
 * @module
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { CublasError } from "../ffi/cublas.ts";
import { cublasSymbols } from "../ffi/libcublas.ts";
import { libcublas } from "../ffi/libraries.ts";
import { loadEngine } from "../mod.ts";
import type { Backend, Dtype, MatrixOptions } from "../src/backend/backend.ts";
import { createCudaBackend, CudaBackend } from "../src/backend/cuda/backend.ts";
import { createReferenceBackend } from "../src/backend/reference.ts";
import { autoregress } from "../src/decode/autoregressive.ts";
import { AutoregressiveDrafter } from "../src/decode/autoregressive_drafter.ts";
import { DiffusionDrafter } from "../src/decode/diffusion_drafter.ts";
import type { Round } from "../src/decode/loop.ts";
import { ModelTarget } from "../src/decode/model_target.ts";
import { speculate } from "../src/decode/speculative.ts";
import { openCheckpoint } from "../src/hub/checkpoint.ts";
import { loadModel } from "../src/model/load.ts";
import type { LoadOptions } from "../src/model/uploads.ts";
import { onCudaBackend, onStandIn, standIn } from "./cuda/standin.ts";
import { assertClose, assertSame, fixture } from "./helpers.ts";

/** Rows from which on cuBLAS multiplies here, where shapes are small. */
const FROM = 4;

const HALVES = ["f16", "bf16"] as const;

/** A test with a backend that leaves products of {@linkcode FROM} rows to cuBLAS. */
const test = (name: string, body: (backend: CudaBackend) => unknown) =>
  onCudaBackend(`cuBLAS: ${name}`, body, { cublasRows: FROM });

/** Products that were given to cuBLAS since the last reset. */
const products = () => standIn!.calls("cublasGemmEx");

/** Numbers in (−1, 1), the same each time. */
function values(count: number, seed: number): Float32Array {
  return Float32Array.from(
    { length: count },
    (_, i) => Math.sin((i + 1) * (seed + 0.37)) * Math.cos(i * 0.71),
  );
}

/** What may become of a product: y, the sum that it is added to with and without a gate, and norms of both. */
async function everything(
  backend: Backend,
  { outputs, inputs, dtype, anyOrder }: MatrixOptions,
  rows: number,
): Promise<Float32Array[]> {
  using matrix = await backend.matrix({ outputs, inputs, dtype, anyOrder }, [values(outputs * inputs, 1)]);
  // reads what is beyond the last column, where that is not 0
  using after = await backend.matrix({ outputs: 9, inputs: outputs, dtype: "f32" }, [values(9 * outputs, 5)]);
  using x = backend.activation(rows, inputs), y = backend.activation(rows, outputs);
  using last = backend.activation(rows, 9);
  using gain = backend.vector(values(inputs, 3)), bias = backend.vector(values(outputs, 4));
  using ones = backend.vector(new Float32Array(outputs).fill(1));
  x.write(values(rows * inputs, 2));
  const norm = { gain, shift: gain, epsilon: 1e-5 }, results: Float32Array[] = [];
  const see = (normed = false) => {
    backend.project(last, y, { matrix: after, norm: normed ? { gain: ones, epsilon: 1e-5 } : undefined });
    results.push(y.read().slice(), last.read().slice());
  };
  backend.project(y, x, { matrix });
  see();
  backend.project(y, x, { matrix, norm, bias });
  see();
  backend.project(y, x, { matrix, norm, bias, activation: "gelu" });
  see();
  backend.projectResidual(y, x, { matrix, bias, gate: bias });
  see(true);
  backend.projectResidual(y, x, { matrix });
  see(true);
  return results;
}

const SHAPES = [[4, 70, 23], [19, 33, 40], [33, 16, 96]] as const;

test("products are the oracle's, whatever follows, in f16 and bf16, in padded shapes and few rows", async (backend) => {
  using oracle = createReferenceBackend();
  for (const dtype of HALVES) {
    for (const [rows, outputs, inputs] of SHAPES) {
      const options = { outputs, inputs, dtype, anyOrder: true };
      const expected = await everything(oracle, options, rows);
      const exact = await everything(backend, { ...options, anyOrder: false }, rows);
      standIn?.reset();
      const found = await everything(backend, options, rows);
      assert.equal(products(), 5, "each product");
      found.forEach((some, i) => {
        const what = `${dtype}, ${rows} rows, [${outputs}, ${inputs}], ${i}`;
        assertClose(some, expected[i], dtype === "f16" ? 4e-3 : 2e-2, what);
        assertClose(some, exact[i], 1e-4, `${what}, own kernels`);
      });
    }
  }
});

test("what overflows leaves nothing beyond the last column, which later rows would meet", async (backend) => {
  const rows = FROM, outputs = 9, inputs = 16;
  const options = { outputs, inputs, dtype: "f16", anyOrder: true } as const;
  using matrix = await backend.matrix(options, [values(outputs * inputs, 1)]);
  using after = await backend.matrix({ outputs: 8, inputs: outputs, dtype: "f32" }, [values(8 * outputs, 5)]);
  using x = backend.activation(rows, inputs), y = backend.activation(rows, outputs);
  using last = backend.activation(1, 8), bias = backend.vector(values(outputs, 4));
  for (const then of [{}, { bias }]) {
    x.write(new Float32Array(rows * inputs).fill(1e5)); // infinite as f16
    backend.project(y, x, { matrix, ...then });
    x.write(values(rows * inputs, 2));
    backend.project(y.slice(0, 1), x.slice(0, 1), { matrix }); // by our own kernel
    backend.project(last, y.slice(0, 1), { matrix: after });
    assert.ok(last.read().every(Number.isFinite));
  }
  assert.equal(products(), 2);
});

test("it multiplies nothing that has to be exact, is too small, or is not of 16 bits", async (backend) => {
  const [rows, outputs, inputs] = SHAPES[1];
  const others: readonly [Dtype, boolean, number][] = [
    ...HALVES.map((dtype): [Dtype, boolean, number] => [dtype, false, rows]),
    ...HALVES.map((dtype): [Dtype, boolean, number] => [dtype, true, FROM - 1]),
    ["f32", true, rows],
    ["int8", true, rows],
  ];
  for (const [dtype, anyOrder, count] of others) {
    await everything(backend, { outputs, inputs, dtype, anyOrder }, count);
  }
  assert.equal(products(), 0);
  assert.equal(standIn!.calls("cublasCreate_v2"), 0, "nor is it opened");
});

test("a pass that is repeated is a graph with its products in it", async (backend) => {
  const rows = 9, outputs = 40, inputs = 24;
  const shape = { outputs, inputs, dtype: "f16" as const };
  using matrix = await backend.matrix({ ...shape, anyOrder: true }, [values(outputs * inputs, 1)]);
  using exact = await backend.matrix(shape, [values(outputs * inputs, 1)]);
  using cache = backend.cache({ layers: 1, width: 16, capacity: rows });
  using x = backend.activation(rows, inputs), y = backend.activation(rows, outputs);
  using bias = backend.vector(values(outputs, 4));
  assert.equal(matrix.bytes, exact.bytes);
  const seen: [number, number][] = [];
  for (let pass = 0; pass < 4; pass++) {
    x.write(values(rows * inputs, pass));
    backend.project(y, x, { matrix: exact, bias });
    const expected = y.read().slice();
    standIn!.reset();
    backend.repeat({ cache, rows, key: "a" }, () => backend.project(y, x, { matrix, bias }));
    assertClose(y.read(), expected, 1e-5, `pass ${pass}`);
    seen.push([products(), standIn!.calls("cuGraphLaunch")]);
  }
  assert.deepEqual(seen, [[1, 0], [1, 1], [0, 1], [0, 1]]);
  assert.equal(matrix.bytes, 2 * exact.bytes, "its rows are held beside it");
});

/** The tokens of a text. */
async function textOf(rounds: AsyncIterable<Round>): Promise<number[]> {
  const text: number[] = [];
  for await (const { tokens } of rounds) text.push(...tokens);
  return text;
}

test("texts are the target's with drafters whose products add in any order", async (backend) => {
  const open = async (name: string, options: LoadOptions) => {
    using checkpoint = await openCheckpoint(fixture(`parity/${name}`));
    return await loadModel(checkpoint, backend, options);
  };
  const loaded = await open("gpt2-bare", { dtype: "f16" });
  assert(loaded.kind === "causal");
  using model = loaded.model;
  using target = new ModelTarget(model, backend);
  const prompt = [3, 1, 4, 1, 5, 9, 2, 6];
  const options = { seed: 7, maxTokens: 8, sampling: { temperature: 1 }, stopTokens: [] };
  standIn!.reset();
  const plain = await textOf(autoregress(target, prompt, options));
  assert.equal(products(), 0, "the target's products are exact");
  for (const name of ["sedd-target-tiny", "sedd-f16", "gpt2-bf16"]) {
    const drafting = await open(name, { dtype: "bf16", target: model, anyOrder: true });
    using _drafts = drafting.model;
    using drafter = drafting.kind === "diffusion"
      ? new DiffusionDrafter(drafting.model, backend, { steps: 1 })
      : new AutoregressiveDrafter(drafting.model, backend);
    target.truncate(0);
    standIn!.reset();
    const rounds = speculate(target, drafter, prompt, { ...options, rule: "coupled", gamma: 5 });
    assert.deepEqual(await textOf(rounds), plain, name);
    assert.ok(products() > 0, name);
  }
});

onStandIn(
  "cuBLAS: an engine gives leave to its drafters, and not to its target nor to what they borrow of it",
  async () => {
    const asked: MatrixOptions[] = [], { matrix } = CudaBackend.prototype;
    using _ = { [Symbol.dispose]: () => void (CudaBackend.prototype.matrix = matrix) };
    CudaBackend.prototype.matrix = function (options, chunks) {
      asked.push(options);
      return matrix.call(this, options, chunks);
    };
    const target = fixture("parity/gpt2-bare"), device = "cuda", dtype = "f16";
    {
      using _engine = await loadEngine({ target, device, dtype });
    }
    const own = asked.length;
    assert.ok(own > 8 && asked.every(({ anyOrder }) => !anyOrder));
    const drafter = ["sedd-target-tiny", "gpt2-bf16"].map((name) => fileURLToPath(fixture(`parity/${name}`)));
    using _engine = await loadEngine({ target, drafter, device, dtype });
    assert.ok(asked.every(({ dtype }) => dtype !== "int8"), "a GPU's drafters are f16 unless told otherwise");
    assert.ok(asked.slice(own, 2 * own).every(({ anyOrder }) => !anyOrder));
    assert.ok(asked.length > 2 * own && asked.slice(2 * own).every(({ anyOrder }) => anyOrder));
  },
);

const [ROWS, OUTPUTS, INPUTS] = SHAPES[1];
const SHAPE = { outputs: OUTPUTS, inputs: INPUTS, dtype: "f16" } as const;

onStandIn(
  "cuBLAS: where it cannot be opened, our own kernels multiply, with the exact bits",
  async (standIn) => {
    const calls = ["cublasCreate_v2", "cublasGetVersion_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2"];
    for (const call of calls) {
      using backend = createCudaBackend({ cublasRows: FROM });
      standIn.reset();
      standIn.fail(call, 1, 14);
      const found = await everything(backend, { ...SHAPE, anyOrder: true }, ROWS);
      const exact = await everything(backend, SHAPE, ROWS);
      found.forEach((some, i) => assertSame(some, exact[i], call));
      assert.equal(products(), 0);
      assert.equal(standIn.calls("cublasCreate_v2"), 1, "it is not tried again");
      assert.deepEqual(backend.cublas, {
        problem: `cuBLAS failed on CUDA 0: ${call} returned 14 (an internal operation failed)`,
      });
    }
  },
);

onStandIn("cuBLAS: where memory is short, there is none, or no second copy of a matrix", async (standIn) => {
  const [outputs, inputs] = [2048, 1024], shape = { outputs, inputs, dtype: "f16", anyOrder: true } as const;
  for (const [memory, problem] of [[24 << 20, /OUT_OF_MEMORY/], [44 << 20, undefined]] as const) {
    await standIn.withMachine({ memory }, async () => {
      using backend = createCudaBackend({ cublasRows: FROM });
      using matrix = await backend.matrix(shape, [values(outputs * inputs, 1)]);
      using x = backend.activation(FROM, inputs), y = backend.activation(FROM, outputs);
      standIn.reset();
      for (let again = 0; again < 2; again++) backend.project(y, x, { matrix });
      y.read();
      assert.equal(products(), 0);
      assert.equal(standIn.calls("unpack"), 0);
      const { cublas } = backend;
      if (problem !== undefined) assert.match("problem" in cublas ? cublas.problem : "", problem);
      else assert.equal("path" in cublas && cublas.path, standIn.path);
    });
  }
});

onStandIn("cuBLAS: a second copy of a matrix that cannot be made is not kept half-made", async (standIn) => {
  using backend = createCudaBackend({ cublasRows: FROM });
  const numbers = values(OUTPUTS * INPUTS, 1);
  using matrix = await backend.matrix({ ...SHAPE, anyOrder: true }, [numbers]);
  using exact = await backend.matrix(SHAPE, [numbers]);
  using other = await backend.matrix({ ...SHAPE, anyOrder: true }, [numbers]);
  using x = backend.activation(ROWS, INPUTS), y = backend.activation(ROWS, OUTPUTS);
  x.write(values(ROWS * INPUTS, 2));
  backend.project(y, x, { matrix: exact });
  const expected = y.read().slice();
  backend.project(y, x, { matrix: other }); // which opens cuBLAS
  const before = standIn.live();
  standIn.reset();
  standIn.fail("cuLaunchKernelEx", 1, 2);
  assert.throws(() => backend.project(y, x, { matrix }), /cuLaunchKernelEx returned 2 /);
  assert.equal(products(), 0);
  assert.equal(standIn.live(), before);
  backend.project(y, x, { matrix });
  assert.equal(products(), 1);
  assertClose(y.read(), expected, 1e-5, "made anew");

  const gone = await backend.matrix({ ...SHAPE, anyOrder: true }, [numbers]);
  gone[Symbol.dispose]();
  const live = standIn.live();
  assert.throws(() => backend.project(y, x, { matrix: gone }), /Cannot use a matrix: it is disposed/);
  assert.equal(standIn.live(), live);
});

onStandIn(
  "cuBLAS: what it has no kernel for, ours multiply; any other failure is one error",
  async (standIn) => {
    using backend = createCudaBackend({ cublasRows: FROM });
    using matrix = await backend.matrix({ ...SHAPE, anyOrder: true }, [values(OUTPUTS * INPUTS, 1)]);
    using other = await backend.matrix({ ...SHAPE, anyOrder: true }, [values(OUTPUTS * INPUTS, 1)]);
    using x = backend.activation(ROWS, INPUTS), y = backend.activation(ROWS, OUTPUTS);
    using cache = backend.cache({ layers: 1, width: 16, capacity: ROWS });
    x.write(values(ROWS * INPUTS, 2));
    for (const code of [8, 15]) {
      using unsupported = await backend.matrix({ ...SHAPE, anyOrder: true }, [values(OUTPUTS * INPUTS, 1)]);
      standIn.reset();
      standIn.fail("cublasGemmEx", 1, code);
      for (let again = 0; again < 3; again++) {
        backend.repeat({ cache, rows: ROWS, key: `${code}` }, () => {
          backend.project(y, x, { matrix: unsupported });
        });
      }
      const own = y.read().slice();
      assert.equal(products(), 1, "it is not asked again");
      backend.project(y, x, { matrix });
      assert.equal(products(), 2, "but for another matrix");
      assertClose(y.read(), own, 1e-5, "own kernels");
    }
    const pass = () => {
      backend.repeat({ cache, rows: ROWS, key: "pass" }, () => backend.project(y, x, { matrix: other }));
    };
    for (const nth of [1, 2]) { // as it is, and while it is recorded
      standIn.fail("cublasGemmEx", 1, 13);
      assert.throws(pass, (error: unknown) => {
        assert.ok(error instanceof CublasError);
        assert.deepEqual(
          [error.call, error.code, error.unsupported],
          ["cublasGemmEx", 13, false],
          `pass ${nth}`,
        );
        assert.equal(
          error.message,
          "cuBLAS failed on CUDA 0: cublasGemmEx returned 13 (the function failed to launch on the GPU)",
        );
        return true;
      });
      pass();
      y.read();
    }
  },
);

onStandIn(
  "cuBLAS: whichever call fails, ours multiply or there is one error, and nothing is left",
  async (standIn) => {
    const use = async () => {
      using backend = createCudaBackend({ cublasRows: FROM });
      await everything(backend, { ...SHAPE, anyOrder: true }, ROWS);
    };
    await use();
    const counts = Object.keys(cublasSymbols).map((name) => [name, standIn.calls(name)] as const);
    for (const [name, count] of counts) {
      for (let nth = 1; nth <= count; nth++) {
        standIn.reset();
        standIn.fail(name, nth, 13);
        const error = await use().then(() => undefined, (error: unknown) => error);
        if (name === "cublasGemmEx") {
          assert.ok(
            error instanceof CublasError && error.call === name,
            String(error),
          );
        } else assert.equal(error, undefined, name);
        assert.equal(standIn.live(), 0, `left after call ${nth} of ${name} failed`);
      }
    }
    const { cublasGemmEx, cublasDestroy_v2 } = Object.fromEntries(counts);
    assert.deepEqual([cublasGemmEx, cublasDestroy_v2], [5, 1]);
  },
);

onStandIn("cuBLAS: a device that is lost says so, and can be opened again", async (standIn) => {
  for (const call of ["cuCtxSynchronize", "cuStreamSynchronize"]) {
    using backend = createCudaBackend({ cublasRows: FROM });
    using matrix = await backend.matrix({ ...SHAPE, anyOrder: true }, [values(OUTPUTS * INPUTS, 1)]);
    using x = backend.activation(ROWS, INPUTS), y = backend.activation(ROWS, OUTPUTS);
    backend.project(y, x, { matrix });
    // what cuBLAS says of the device's errors does not tell them from its own
    if (call === "cuCtxSynchronize") standIn.fail("cublasGemmEx", 1, 13);
    standIn.fail(call, 1, 700);
    assert.throws(() => {
      backend.project(y, x, { matrix });
      y.read();
    }, { name: "CudaError", message: new RegExp(`${call} returned 700`) });
    assert.throws(() => backend.project(y, x, { matrix }), {
      message: /CUDA 0 failed: .* returned 700 .*is lost/,
    });
  }
});

onStandIn("cuBLAS: each device has its own", (standIn) =>
  standIn.withMachine({ devices: 2 }, async () => {
    using first = createCudaBackend({ device: 0, cublasRows: FROM });
    using second = createCudaBackend({ device: 1, cublasRows: FROM });
    const one = await everything(first, { ...SHAPE, anyOrder: true }, ROWS);
    const two = await everything(second, { ...SHAPE, anyOrder: true }, ROWS);
    one.forEach((some, i) => assertSame(two[i], some, "the other device"));
    assert.equal(standIn.calls("cublasCreate_v2"), 2);
    assert.equal(products(), 10);
  }));

Deno.test("cuBLAS is looked for in versions that the driver can use", () => {
  assert.deepEqual(libcublas(12080).files, ["libcublas.so.12", "cublas64_12.dll"]);
  assert.deepEqual(libcublas(13000).files.filter((name) => name.includes(".so")), [
    "libcublas.so.13",
    "libcublas.so.12",
  ]);
});
