/**
 * Notices that media has stopped. The browser's `connectionState` says so only after 3 to 18 s.
 *
 * Pure. Judges by the packets of sound: each side sends them all the time, also while it is muted.
 */

/** How long no sound may arrive before the media counts as lost, in milliseconds. */
export const LOST_AFTER = 1_500;
/** How long no sound may arrive before a loss is likely enough to check the session with the node. In milliseconds. */
const QUIET_AFTER = 600;
/**
 * How long a connection may work without any sound before it is the other side that sends none, in milliseconds. One that does
 * not work is noticed by the browser before that.
 */
const SILENT_AFTER = 10_000;

/** What a watchdog sees at one moment. */
export interface Observation {
  /** The number of packets that have arrived. */
  readonly packets: number | undefined;
  /** Whether the other side has told that it sends sound. If it has told nothing, sound is expected once it has flowed. */
  readonly isExpected: boolean | undefined;
  /** Whether the browser says that the connection works. */
  readonly isConnected: boolean;
}

/** Watches one connection. */
export class Watchdog {
  #packets: number | undefined;
  /** Since when sound is missed. `undefined` until it flows for the first time, and while none is expected. */
  #missedSince: number | undefined;
  #connectedSince: number | undefined;
  #isQuiet = false;
  #isLost = false;
  /** The connection works, and the other side sends nothing, whatever it has told. */
  #isSilent = false;

  /** Whether the media counts as lost. */
  get isLost(): boolean {
    return this.#isLost;
  }

  /** Returns `lost` or `back` when that changes, and `quiet` once when a loss becomes likely. */
  observe({ packets, isExpected, isConnected }: Observation, now: number): "quiet" | "lost" | "back" | undefined {
    const hasFlowed = packets !== undefined && this.#packets !== undefined && packets !== this.#packets;
    this.#packets = packets;
    this.#connectedSince = isConnected ? (this.#connectedSince ?? now) : undefined;
    if (hasFlowed) {
      this.#missedSince = now;
      this.#isSilent = false;
      return this.#back();
    }
    if (isExpected === false) {
      // Nothing can be said without sound, in either direction.
      this.#missedSince = undefined;
      return isConnected ? this.#back() : undefined;
    }
    if (isExpected && !this.#isSilent) this.#missedSince ??= now;
    if (this.#missedSince === undefined) return undefined;
    const missedFor = now - this.#missedSince;
    if (this.#isLost) {
      const connectedFor = Math.min(missedFor, now - (this.#connectedSince ?? now));
      if (connectedFor < SILENT_AFTER) return undefined;
      this.#missedSince = undefined;
      this.#isSilent = true;
      return this.#back();
    }
    if (missedFor >= LOST_AFTER) {
      this.#isLost = true;
      return "lost";
    }
    if (this.#isQuiet || missedFor < QUIET_AFTER) return undefined;
    this.#isQuiet = true;
    return "quiet";
  }

  #back(): "back" | undefined {
    const wasLost = this.#isLost;
    this.#isLost = false;
    this.#isQuiet = false;
    return wasLost ? "back" : undefined;
  }
}
