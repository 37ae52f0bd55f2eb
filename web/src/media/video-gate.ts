/**
 * Turns the picture off where the network carries no more than sound, and tries again later.
 *
 * Pure. At 60 kbit/s a browser alone keeps both, and loses almost half of the sound.
 */
import type { Sample } from "./statistics.js";

/** Below this, a picture costs the sound. In bit/s. */
const LEAST_BITRATE = 150_000;
/** The part of the sent packets that may be lost, where the browser does not estimate the bit rate. */
const MOST_LOSS = 0.1;
/** For how long it has to be too little: the estimate begins low, and single reports are noise. In milliseconds. */
const LOW_FOR = 2_000;
/** For how long it has to be good before the picture is tried again, and what that grows to. In milliseconds. */
const GOOD_FOR = 10_000;
const LONGEST_GOOD_FOR = 60_000;
/** How good the connection has to be meanwhile. Without a picture, the browser's estimate does not rise. */
const GOOD_LOSS = 0.03;
const GOOD_ROUND_TRIP = 400;
/** A picture that lasted this long was no failed trial. In milliseconds. */
const LASTING = 30_000;

/** Decides whether the picture may be sent. */
export class VideoGate {
  #isOpen = true;
  #since: number | undefined;
  #openedAt = Number.NEGATIVE_INFINITY;
  #goodFor = GOOD_FOR;

  /** Whether the picture may be sent. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Takes a sample, of about every second. `sendsVideo`: a camera or a screen is on. Returns whether the gate has moved. */
  observe(sample: Sample, sendsVideo: boolean, now: number): boolean {
    if (!sendsVideo && this.#isOpen) {
      this.#since = undefined;
      return false;
    }
    const holds = this.#isOpen ? isTooLittle(sample) : isGood(sample);
    this.#since = holds ? (this.#since ?? now) : undefined;
    const patience = this.#isOpen ? LOW_FOR : this.#goodFor;
    if (this.#since === undefined || now - this.#since < patience) return false;
    this.#since = undefined;
    this.#isOpen = !this.#isOpen;
    if (this.#isOpen) {
      this.#openedAt = now;
    } else {
      const hasLasted = now - this.#openedAt > LASTING;
      this.#goodFor = hasLasted ? GOOD_FOR : Math.min(2 * this.#goodFor, LONGEST_GOOD_FOR);
    }
    return true;
  }
}

function isTooLittle({ availableBitrate, lossOfSent }: Sample): boolean {
  return availableBitrate === undefined ? (lossOfSent ?? 0) > MOST_LOSS : availableBitrate < LEAST_BITRATE;
}

function isGood({ lossOfSent, roundTripMs }: Sample): boolean {
  return (lossOfSent ?? 0) < GOOD_LOSS && (roundTripMs ?? 0) < GOOD_ROUND_TRIP;
}
