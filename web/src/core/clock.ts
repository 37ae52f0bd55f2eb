/** Time: a clock that never goes back, and timers whose deadlines are points of that clock. */

/** Points in time. */
export interface Clock {
  /** Milliseconds of a clock that never goes back and does not stop while the device sleeps. */
  now(): number;
  /** Milliseconds since 1970. The user may set it. */
  unixMs(): number;
}

/** A step of the wall clock ahead of the monotonic one that counts as sleep, in milliseconds. */
const SHORTEST_SLEEP = 1_000;

/** The platform's clock. */
export class SystemClock implements Clock {
  #asleep = 0;
  #wall = Date.now();
  #monotonic = performance.now();

  now(): number {
    const wall = Date.now();
    const monotonic = performance.now();
    // `performance.now` may stop while the device sleeps. Small differences are those of two clocks' ticks.
    const gap = wall - this.#wall - (monotonic - this.#monotonic);
    if (gap > SHORTEST_SLEEP) this.#asleep += gap;
    this.#wall = wall;
    this.#monotonic = monotonic;
    return monotonic + this.#asleep;
  }

  unixMs(): number {
    return Date.now();
  }
}

/** Waits for `ms` milliseconds. */
export const pause = (ms: number): Promise<undefined> => new Promise((resolve) => setTimeout(resolve, ms));

/** The longest delay that `setTimeout` takes. */
const LONGEST_DELAY = 2 ** 31 - 1;

/**
 * Timers by the clock. A hidden tab's timers run once a minute and a sleeping device's not at all, so each wake runs all
 * whose time has come, however many ticks were missed.
 */
export class Timers {
  readonly #clock: Clock;
  readonly #pending = new Map<symbol, { at: number; run: () => void }>();
  #handle: ReturnType<typeof setTimeout> | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Runs `run` at this time or later. Returns how to cancel that. */
  at(time: number, run: () => void): () => void {
    const key = Symbol("timer");
    this.#pending.set(key, { at: time, run });
    this.#arm();
    return () => {
      if (this.#pending.delete(key) && this.#pending.size === 0) this.#arm();
    };
  }

  /** Waits until this time, or until the signal aborts; it never rejects. */
  until(time: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const finish = () => {
        cancel();
        signal?.removeEventListener("abort", finish);
        resolve();
      };
      const cancel = this.at(time, finish);
      signal?.addEventListener("abort", finish, { once: true });
    });
  }

  /** Runs all timers whose time has come. Call it when the page becomes visible or the device is online again. */
  wake(): void {
    const now = this.#clock.now();
    const due = [...this.#pending].filter(([, timer]) => timer.at <= now);
    for (const [key, timer] of due.sort(([, a], [, b]) => a.at - b.at)) {
      if (!this.#pending.delete(key)) continue;
      try {
        timer.run();
      } catch (error) {
        // A fault of one timer's owner must not keep the others from running.
        console.error(error);
      }
    }
    this.#arm();
  }

  #arm(): void {
    clearTimeout(this.#handle);
    this.#handle = undefined;
    if (this.#pending.size === 0) return;
    const next = Math.min(...Array.from(this.#pending.values(), (timer) => timer.at));
    const delay = Math.min(Math.max(next - this.#clock.now(), 0), LONGEST_DELAY);
    this.#handle = setTimeout(() => this.wake(), delay);
  }
}
