/** Makes new paths for a call's media while it is lost. */
import type { Clock, Timers } from "../core/clock.js";

/** How long the callee waits for the caller's restart before it makes its own, in milliseconds. One restart is enough. */
const CALLEE_DELAY = 1_000;
/** How long a new path may take before the next one is tried, in milliseconds. */
const RETRY_EVERY = 2_000;

/** The recovery of one call. */
export class Recovery {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #restart: () => void;
  #cancel: (() => void) | undefined;

  constructor(clock: Clock, timers: Timers, restart: () => void) {
    this.#clock = clock;
    this.#timers = timers;
    this.#restart = restart;
  }

  /** Restarts until {@link stop}. */
  start(isCaller: boolean): void {
    this.#schedule(isCaller ? 0 : CALLEE_DELAY);
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  /** Restarts at once, if the media is lost: the network has changed. */
  restartNow(): void {
    if (this.#cancel !== undefined) this.#schedule(0);
  }

  #schedule(delay: number): void {
    this.#cancel?.();
    this.#cancel = this.#timers.at(this.#clock.now() + delay, () => {
      this.#schedule(RETRY_EVERY);
      this.#restart();
    });
  }
}
