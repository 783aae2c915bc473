/**
 * The decisions of a round on a GPU: launches of the kernels of `ffi/kernels/accept.cu`. The seed and the length of the
 * text differ from round to round, so they are kept in the device's memory, and launches can be recorded.
 *
 * Deliberately absent: the acceptance rules (`decode/acceptance.ts`).
 *
 * @module
 */

import type { CudaEvent } from "../../../ffi/stream.ts";
import type {
  AcceptOptions,
  Activation,
  Backend,
  Decisions,
  DeviceRound,
  DrawOptions,
  TokenBuffer,
} from "../backend.ts";
import { Growing } from "../buffers.ts";
import { checkAccept, checkDraw } from "../check.ts";
import { seedWords } from "../philox.ts";
import { type Gpu, NONE } from "./gpu.ts";
import { Block, type Queue } from "./memory.ts";
import { CudaActivation, CudaTokens } from "./tensors.ts";

/** The tests as `accept.cu` numbers them. */
const tests: Readonly<Record<AcceptOptions["test"], number>> = { each: 0, joint: 1, drawn: 2 };

/** The most threads of a block. */
const THREADS = 1024;

/** {@linkcode Decisions} on a GPU. */
export class CudaDecisions implements Decisions {
  readonly #backend: Backend;
  readonly #gpu: Gpu;
  /** The target's own tokens. */
  readonly #drawn: Growing<TokenBuffer>;
  /** Sums of laws, f64, as a test of a draft needs them. */
  readonly #masses: Growing<Block>;

  /** The decisions of a backend. */
  constructor(backend: Backend, gpu: Gpu) {
    this.#backend = backend;
    this.#gpu = gpu;
    this.#drawn = new Growing((tokens) => backend.tokens(tokens));
    this.#masses = new Growing((sums) => new Block(gpu.queue, 8 * sums, "sums of laws"));
  }

  /** @inheritdoc */
  round(): DeviceRound {
    return new CudaRound(this.#backend, this.#gpu.queue);
  }

  /** @inheritdoc */
  copy(out: TokenBuffer, tokens: TokenBuffer, count: number): void {
    const to = this.#gpu.own(CudaTokens, out.slice(0, count));
    const from = this.#gpu.own(CudaTokens, tokens.slice(0, count));
    this.#gpu.queue.stream.copy(to.pointer, from.pointer, 4 * count);
  }

  /** @inheritdoc */
  draw(out: TokenBuffer, p: Activation, options: DrawOptions): void {
    checkDraw(out, p, options);
    this.#gpu.launch(
      this.#gpu.kernels.draw,
      { grid: p.rows, block: threadsFor(p.columns) },
      this.#gpu.own(CudaTokens, out).pointer,
      this.#gpu.own(CudaActivation, p).pointer,
      p.columns,
      this.#gpu.own(CudaRound, options.round).pointer,
      options.purpose,
      options.offset,
      options.by === "race" ? 1 : 0,
    );
  }

  /** @inheritdoc */
  accept(out: TokenBuffer, options: AcceptOptions): void {
    checkAccept(out, options);
    const { p, round, test, purposes } = options, n = p.rows - 1;
    const gpu = this.#gpu;
    const shape = { block: threadsFor(p.columns) };
    const laws = gpu.own(CudaActivation, p).pointer;
    const q = options.q && gpu.own(CudaActivation, options.q).pointer;
    const masses = this.#masses.atLeast(3 * n + 2).pointer, drawn = this.#drawn.atLeast(n + 1);
    const { columns } = p;
    if (test === "drawn") {
      this.draw(drawn, p, { round, purpose: purposes.token, offset: 0, by: "race" });
    } else {
      const grid = q === undefined ? n + 1 : 2 * n + 1;
      gpu.launch(gpu.kernels.weigh, { ...shape, grid }, masses, laws, q ?? NONE, columns, n);
    }
    gpu.launch(
      gpu.kernels.accept,
      { ...shape, grid: 1 },
      gpu.own(CudaTokens, out).pointer,
      laws,
      q ?? NONE,
      columns,
      gpu.own(CudaTokens, options.draft).pointer,
      options.useQ ? gpu.own(CudaTokens, options.useQ).pointer : NONE,
      n,
      gpu.own(CudaRound, round).pointer,
      tests[test],
      purposes.accept,
      purposes.residual,
      masses,
      gpu.own(CudaTokens, drawn).pointer,
    );
  }
}

/** `Round` of `accept.cu`, and marks in the queue. */
export class CudaRound extends Block implements DeviceRound {
  /** @inheritdoc */
  readonly backend: Backend;
  readonly #began: CudaEvent;
  readonly #drafted: CudaEvent;

  /** Of a backend, not begun. */
  constructor(backend: Backend, queue: Queue) {
    super(queue, 3 * 4, "a round");
    this.backend = backend;
    this.#began = queue.device.event();
    this.#drafted = queue.device.event();
  }

  /** @inheritdoc */
  begin(seed: bigint, start: number): void {
    if (!(Number.isSafeInteger(start) && start >= 0)) {
      throw new RangeError(`Cannot begin a round: start is ${start}, expected a non-negative integer`);
    }
    const { stream } = this.queue;
    stream.upload(this.pointer, Uint32Array.of(start, ...seedWords(seed)));
    stream.record(this.#began);
  }

  /** @inheritdoc */
  drafted(): void {
    this.queue.stream.record(this.#drafted);
  }

  /** @inheritdoc */
  get draftMs(): number {
    return this.#drafted.since(this.#began);
  }

  /** @inheritdoc */
  override [Symbol.dispose](): void {
    this.#began[Symbol.dispose]();
    this.#drafted[Symbol.dispose]();
    super[Symbol.dispose]();
  }
}

/** Threads of a block that walks a law: whole warps, no more than there are entries for. */
function threadsFor(columns: number): number {
  return Math.min(THREADS, Math.ceil(columns / 32) * 32);
}
