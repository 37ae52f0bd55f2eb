/**
 * Notices that media has stopped. The browser's `connectionState` says so only after 3 to 18 s.
 *
 * Pure. Judges by the packets of sound: each side sends them all the time, also while it is muted.
 */

/** How long no sound may arrive before the media counts as lost, in milliseconds. */
export const LOST_AFTER = 1_500;
/** How long no sound may arrive before a loss is likely enough to check the session with the node. In milliseconds. */
const QUIET_AFTER = 600;

/** Watches one connection. */
export class Watchdog {
  #packets: number | undefined;
  /** When packets last arrived. `undefined` until they flow for the first time, and while none are expected. */
  #flowedAt: number | undefined;
  #isLost = false;
  #isQuiet = false;

  /** Whether the media counts as lost. */
  get isLost(): boolean {
    return this.#isLost;
  }

  /**
   * Takes the number of packets that have arrived. `isExpected`: whether the other side has told that it sends sound. If it
   * has told nothing (`undefined`), sound is expected once it has flowed.
   * Returns `lost` or `back` when that changes, and `quiet` once when a loss becomes likely.
   */
  observe(
    packets: number | undefined,
    isExpected: boolean | undefined,
    now: number,
  ): "quiet" | "lost" | "back" | undefined {
    const hasFlowed = packets !== undefined && this.#packets !== undefined && packets !== this.#packets;
    this.#packets = packets;
    if (hasFlowed) {
      this.#flowedAt = now;
      const wasLost = this.#isLost;
      this.#isLost = false;
      this.#isQuiet = false;
      return wasLost ? "back" : undefined;
    }
    if (isExpected === false) {
      // Nothing can be said without sound, in either direction.
      this.#flowedAt = undefined;
      return undefined;
    }
    if (isExpected) this.#flowedAt ??= now;
    if (this.#isLost || this.#flowedAt === undefined) return undefined;
    if (now - this.#flowedAt >= LOST_AFTER) {
      this.#isLost = true;
      return "lost";
    }
    if (this.#isQuiet || now - this.#flowedAt < QUIET_AFTER) return undefined;
    this.#isQuiet = true;
    return "quiet";
  }
}
