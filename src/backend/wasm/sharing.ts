/**
 * Whether it pays at present to share jobs among threads. On a busy machine, a thread that is descheduled in the middle
 * of its chunk keeps all others waiting, and one thread alone is faster than several. Results do not depend on the
 * number of threads, so it may change from job to job.
 *
 * Deliberately absent: choosing how many threads. It is all or one, as nobody knows which will be descheduled.
 *
 * @module
 */

/** Jobs after which late ones are counted anew, and jobs of each half of a trial. */
const WINDOW = 64;
/** Late jobs of a window that start a trial. A quiet machine has next to none. */
const SUSPICIOUS = 4;
/** One thread is used alone if it takes less than this share of the time. */
const MARGIN = 0.9;
/** Windows from one trial to the next: at first, and at most (a second or so). */
const PATIENCE = 16, MOST_PATIENCE = 16 * PATIENCE;

/** Decides, job by job. A trial times some jobs alone and some shared, and the faster way is kept for a while. */
export class Sharing {
  readonly #now: () => number;
  #phase: "shared" | "alone" | "trying alone" | "trying shared" = "shared";
  /** Jobs until this phase ends. */
  #left = WINDOW;
  #late = 0;
  /** While shared: windows whose late jobs are ignored, as a trial has just found that sharing pays. */
  #trusted = 0;
  #patience = PATIENCE;
  #began = 0;
  #time = 0;
  #work = 0;
  /** Time of a unit of work, found by a trial. */
  #alone = 0;

  /** @param now the time, in any unit */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether to share the job that begins now. Each call is followed by one of {@linkcode end}. */
  begin(): boolean {
    if (this.#trying) this.#began = this.#now();
    return this.#phase === "shared" || this.#phase === "trying shared";
  }

  /**
   * The job is done.
   * @param work how much it was, in any unit
   * @param late whether the main thread waited for others longer than it worked itself
   */
  end(work: number, late: boolean): void {
    if (this.#trying) {
      this.#time += this.#now() - this.#began;
      this.#work += work;
    } else if (late) this.#late++;
    if (--this.#left === 0) this.#next();
  }

  get #trying(): boolean {
    return this.#phase === "trying alone" || this.#phase === "trying shared";
  }

  #next(): void {
    const cost = this.#time / this.#work;
    this.#time = this.#work = 0;
    switch (this.#phase) {
      case "shared":
        if (this.#trusted > 0) this.#trusted--;
        else if (this.#late >= SUSPICIOUS) this.#phase = "trying alone";
        else this.#patience = PATIENCE;
        this.#left = WINDOW;
        break;
      case "alone":
        this.#phase = "trying alone";
        this.#left = WINDOW;
        break;
      case "trying alone":
        this.#alone = cost;
        this.#phase = "trying shared";
        this.#left = WINDOW;
        break;
      case "trying shared": {
        const alone = this.#alone < MARGIN * cost;
        this.#phase = alone ? "alone" : "shared";
        this.#left = alone ? this.#patience * WINDOW : WINDOW;
        this.#trusted = alone ? 0 : this.#patience;
        this.#patience = Math.min(2 * this.#patience, MOST_PATIENCE);
      }
    }
    this.#late = 0;
  }
}
