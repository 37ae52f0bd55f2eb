/**
 * Turns the picture off where the network carries no more than sound, and tries again later.
 *
 * Pure. At 60 kbit/s a browser alone keeps both, and loses almost half of the sound.
 */
import type { Sample } from "./statistics.js";

/** Below this, a picture costs the sound. In bit/s. */
const LEAST_BITRATE = 150_000;
/**
 * The part of the sent packets that may be lost, whatever the estimate: it falls slowly, and not all browsers have one. Less
 * counts together with a long round trip, which is a full queue.
 */
const MOST_LOSS = 0.3;
const MOST_LOSS_IN_QUEUE = 0.1;
const QUEUE_ROUND_TRIP = 250;
/** For how long it has to be too little: the estimate begins low, and single reports are noise. In milliseconds. */
const LOW_FOR = 2_000;
/** The same, if so much is lost that nobody understands anything. */
const LOW_FOR_AT_WORST = 1_000;
/** For how long it has to be good before the picture is tried again, and what that grows to. In milliseconds. */
const GOOD_FOR = 10_000;
const LONGEST_GOOD_FOR = 60_000;
/** How good the connection has to be meanwhile. Without a picture, the browser's estimate does not rise. */
const GOOD_LOSS = 0.03;
const GOOD_ROUND_TRIP = 400;
/** A picture that lasted this long was no failed trial. In milliseconds. */
const LASTING = 30_000;
/** How much earlier than exactly a sample may come, in milliseconds. */
const SLACK = 100;

/** Decides whether the picture may be sent. */
export class VideoGate {
  #isOpen = true;
  #last: Sample | undefined;
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
    const lossOfReceived = lossBetween(this.#last, sample);
    this.#last = sample;
    const loss = Math.max(lossOfReceived ?? 0, sample.lossOfSent ?? 0);
    const holds = this.#isOpen ? isTooLittle(sample, loss) : isGood(sample, loss);
    this.#since = holds ? (this.#since ?? now) : undefined;
    const patience = !this.#isOpen ? this.#goodFor : loss > MOST_LOSS ? LOW_FOR_AT_WORST : LOW_FOR;
    // Samples are about a second apart: some milliseconds less are no reason to wait for the next.
    if (this.#since === undefined || now - this.#since < patience - SLACK) return false;
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

/** The part of the other side's sound that was lost since the last sample. A link that is full loses the reports of this side's loss, too. */
function lossBetween(last: Sample | undefined, sample: Sample): number | undefined {
  const lost = (sample.soundPacketsLost ?? 0) - (last?.soundPacketsLost ?? 0);
  const received = (sample.soundPacketsReceived ?? 0) - (last?.soundPacketsReceived ?? 0);
  return last === undefined || lost < 0 || received <= 0 ? undefined : lost / (lost + received);
}

function isTooLittle({ availableBitrate, roundTripMs = 0 }: Sample, loss: number): boolean {
  const isLossy = loss > MOST_LOSS || (loss > MOST_LOSS_IN_QUEUE && roundTripMs > QUEUE_ROUND_TRIP);
  return isLossy || (availableBitrate ?? LEAST_BITRATE) < LEAST_BITRATE;
}

function isGood({ roundTripMs = 0 }: Sample, loss: number): boolean {
  return loss < GOOD_LOSS && roundTripMs < GOOD_ROUND_TRIP;
}
