/**
 * Projections of the CUDA backend: which kernel of `project.cu` and `project_many.cu` a product takes, by dtype, shape
 * and number of rows. All of them give a row the same bits, so the choice is one of speed. cuBLAS is used as well for
 * matrices whose products may add in any order.
 *
 * @module
 */

import { Cublas, CublasError } from "../../../ffi/cublas.ts";
import type { Activation, ProjectOptions, ProjectResidualOptions } from "../backend.ts";
import { dynamicShared, HALF_BLOCKS, type Kernels, MANY_OUTPUTS, MANY_ROWS, PANEL_ROWS } from "./kernels.ts";
import { type Gpu, NONE } from "./gpu.ts";
import { CudaActivation, CudaMatrix, padded, panelOutputs } from "./tensors.ts";

/** The operation after a projection, as `project.cuh` numbers it. */
export const STORE = 0, GELU = 1, ADD = 2;

// the sizes of `project.cu` and `project_many.cu`
const THREADS = 256;
const MANY_STEPS = 10;
const FINISHED = 8;

/**
 * The fewest blocks of {@linkcode MANY_ROWS} for which they are used, although none shares a sum: about a quarter of a
 * large GPU. Estimated, not measured.
 */
const MANY_BLOCKS = 32;

/** The fewest rows for which cuBLAS is used, where bits do not matter. Estimated, not measured. */
export const CUBLAS_ROWS = 256;

/** Multiprocessors of a large GPU. */
const PROCESSORS = 132;

/**
 * Blocks of a projection that share an output, each with a part of its sum: as many as a large GPU runs at once when a
 * block has 64 outputs and a multiprocessor to itself, as long as every warp has two steps of 16 inputs. More blocks
 * would take a second turn. It decides the order of additions, so it depends on nothing but the matrix.
 */
function splitsOf(outputs: number, inputs: number): number {
  const wanted = Math.floor(PROCESSORS / Math.ceil(outputs / 64)),
    most = Math.floor(padded(inputs) / 16 / 16);
  return Math.max(1, Math.min(wanted, most));
}

/** out = activation(norm(x)·Wᵀ + bias), or added to out, as `then` says. */
export function multiply(
  gpu: Gpu,
  out: Activation,
  x: Activation,
  options: ProjectOptions & ProjectResidualOptions,
  then: number,
): void {
  const matrix = gpu.own(CudaMatrix, options.matrix), { dtype, inputs, outputs } = matrix;
  const rows = x.rows, panels = Math.ceil(outputs / panelOutputs(dtype));
  const input = gpu.own(CudaActivation, x);
  const inputGroups = options.norm ? groupsOf(gpu, input) : NONE;
  const output = gpu.target(out, then === ADD);
  const to = [output.pointer, then === ADD ? output.groups : NONE] as const;
  const last = [gpu.vector(options.bias), gpu.vector(options.gate)] as const;
  const norm = [
    gpu.vector(options.norm?.gain),
    gpu.vector(options.norm?.shift),
    options.norm?.epsilon ?? 0,
  ] as const;
  const sizes = [rows, inputs, outputs, then] as const;

  if (dtype === "f16" || dtype === "bf16") {
    const narrow = (kernels: Kernels["narrow"]): bigint => {
      const halves = gpu.scratch("halves of rows", padded(rows) * padded(inputs) / 2);
      gpu.launch(
        kernels[dtype],
        { grid: [Math.ceil(inputs / 512), Math.ceil(rows / 16), 1], block: THREADS },
        halves,
        input.pointer,
        inputGroups,
        ...norm,
        rows,
        inputs,
      );
      return halves;
    };
    const cublas = matrix.anyOrder && rows >= gpu.cublasRows ? gpu.cublas : undefined;
    const weights = cublas instanceof Cublas ? gpu.rowsOf(matrix) : undefined;
    if (cublas instanceof Cublas && weights !== undefined) {
      const halves = narrow(gpu.kernels.narrowRows);
      // padded sizes are aligned. Padding is zeros, but 0 × infinity is NaN: padded outputs must not be written to `out`
      const sizes = { rows, inputs: padded(inputs), outputs: padded(outputs) };
      const inPlace = then !== ADD && outputs === sizes.outputs;
      const sums = inPlace ? output.pointer : gpu.scratch("sums", rows * sizes.outputs);
      try {
        cublas.multiply({ out: sums, x: halves, matrix: weights, dtype, ...sizes });
      } catch (error) {
        if (!(error instanceof CublasError && error.unsupported)) throw error;
        matrix.withoutRows(); // not asked again
        return multiply(gpu, out, input, options, then);
      }
      if (inPlace && then === STORE && options.bias === undefined) return;
      gpu.launch(
        gpu.kernels.finishRows,
        { grid: [Math.ceil(outputs / THREADS), Math.ceil(rows / FINISHED), 1], block: THREADS },
        ...to,
        sums,
        ...last,
        rows,
        outputs,
        then,
      );
      return;
    }
    const many = manyBlock(gpu, rows, outputs);
    if (many !== undefined) {
      const halves = narrow(gpu.kernels.narrow);
      const grid = [Math.ceil(outputs / MANY_OUTPUTS), Math.ceil(rows / MANY_ROWS[many]), 1] as const;
      gpu.launch(
        gpu.kernels.projectMany[dtype][many],
        { grid, block: 2 * MANY_ROWS[many], shared: manyBytes(many) },
        ...to,
        halves,
        matrix.pointer,
        ...last,
        splitsOf(outputs, inputs),
        ...sizes,
      );
      return;
    }
    const which = halfBlock(gpu, rows, options.norm !== undefined), splits = splitsOf(outputs, inputs);
    const { mats, tiles } = HALF_BLOCKS[which];
    const [x, y] = [Math.ceil(panels / mats), Math.ceil(rows / (8 * tiles))];
    const shared = ringBytes(which, options.norm !== undefined);
    gpu.launch(
      gpu.kernels.projectHalf[dtype][which],
      { grid: [x, y, splits], block: THREADS, shared },
      ...to,
      input.pointer,
      inputGroups,
      matrix.pointer,
      ...last,
      ...norm,
      splits > 1 ? gpu.scratch("partial sums", splits * x * y * mats * tiles * 128) : NONE,
      splits > 1 ? gpu.scratch("arrivals", x * y) : NONE,
      ...sizes,
    );
    return;
  }
  const which = rows === 1 ? 0 : 1;
  const grid = [panels, Math.ceil(rows / PANEL_ROWS[which]), 1] as const;
  if (dtype === "f32") {
    gpu.launch(
      gpu.kernels.projectF32[which],
      { grid, block: THREADS },
      ...to,
      input.pointer,
      inputGroups,
      matrix.pointer,
      ...last,
      ...norm,
      ...sizes,
    );
    return;
  }
  const bytes = gpu.scratch("bytes of rows", rows * padded(inputs) / 4);
  const steps = gpu.scratch("steps of rows", rows * 2);
  gpu.launch(
    gpu.kernels.quantise,
    { grid: rows, block: 32 },
    bytes,
    steps,
    input.pointer,
    inputGroups,
    ...norm,
    inputs,
  );
  gpu.launch(
    gpu.kernels.projectInt8[which],
    { grid, block: THREADS },
    ...to,
    bytes,
    steps,
    matrix.pointer,
    matrix.scales,
    matrix.sums,
    ...last,
    ...sizes,
  );
}

/** The smallest of {@linkcode HALF_BLOCKS} that holds all rows, or the largest the device has room for. */
function halfBlock(gpu: Gpu, rows: number, normed: boolean): number {
  let which = HALF_BLOCKS.findIndex(({ tiles }) => tiles * 8 >= rows);
  if (which < 0) which = HALF_BLOCKS.length - 1;
  while (which > 0 && ringBytes(which, normed) > dynamicShared(gpu.device)) which--;
  return which;
}

/**
 * Which of {@linkcode MANY_ROWS}, if it pays and the device has room: the largest that gives each multiprocessor a
 * block. Two of the smaller blocks run on one, so that the end of one overlaps the middle of the other.
 */
function manyBlock(gpu: Gpu, rows: number, outputs: number): number | undefined {
  const blocks = (which: number) => Math.ceil(outputs / MANY_OUTPUTS) * Math.ceil(rows / MANY_ROWS[which]);
  if (rows <= 64 || blocks(0) < MANY_BLOCKS) return undefined;
  let which = MANY_ROWS.length - 1;
  while (which > 0 && blocks(which) < PROCESSORS) which--;
  while (which >= 0 && manyBytes(which) > dynamicShared(gpu.device)) which--;
  return which < 0 ? undefined : which;
}

/** The address of the groups of rows, which a norm needs; computed unless a kernel has written them. */
function groupsOf(gpu: Gpu, x: CudaActivation): bigint {
  if (!x.grouped) {
    x.changes(true);
    gpu.launch(
      gpu.kernels.group,
      { grid: x.rows, block: 256 },
      x.groups,
      x.pointer,
      x.columns,
    );
  }
  return x.groups;
}

/** Shared memory of one of {@linkcode HALF_BLOCKS}: a ring of stages, each with weights, rows, gain and shift. */
function ringBytes(which: number, normed: boolean): number {
  const { mats, tiles, stages } = HALF_BLOCKS[which];
  return stages * ((mats + tiles) * THREADS + (normed ? THREADS / 4 : 0)) * 16;
}

/** Shared memory of one of {@linkcode MANY_ROWS}: a ring of steps, of 16 inputs of weights and of rows each. */
function manyBytes(which: number): number {
  return MANY_STEPS * (MANY_OUTPUTS + MANY_ROWS[which]) * 32;
}
