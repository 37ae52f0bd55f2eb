/**
 * Limits the bit rate of the pictures so that the network carries the sound, and tries more again later.
 *
 * Pure. At 60 kbit/s a browser alone sends both, and almost half of the sound is lost. At 300 kbit/s, a browser's estimate leaves
 * no room for the headers of packets, and a tenth of the sound is lost.
 */
import { increase, lossOf, type Sample } from "./statistics.js";

/** Below this, a picture costs the sound. A picture of this much fits beside the sound at 300 kbit/s. In bit/s. */
const LOW_BITRATE = 150_000;
/** The limits, from no picture to what the browser decides. */
const LIMITS = [0, LOW_BITRATE, Number.POSITIVE_INFINITY] as const;
const OFF = 0;
const FULL = LIMITS.length - 1;
/**
 * The part of the sent packets that may be lost, whatever the estimate: it falls slowly, and not all browsers have one. Less
 * counts together with a long round trip, which is a full queue. Round trips in milliseconds.
 */
const MOST_LOSS = 0.3;
const MOST_LOSS_IN_QUEUE = 0.1;
/** A smaller picture is a small price, so a queue of this length is enough to try it. */
const QUEUE_ROUND_TRIP_OF_FULL = 100;
const QUEUE_ROUND_TRIP_OF_LOW = 250;
/** If this much is lost, even a small picture is too much. */
const LOSS_OF_MOST = 0.6;
/** For how long it has to be too little: the estimate begins low, and single reports are noise. In milliseconds. */
const BAD_FOR = 2_000;
/** The same, if so much is lost that nobody understands anything. */
const BAD_FOR_AT_WORST = 1_000;
/** For how long it has to be good before the next limit is tried, and what that grows to. In milliseconds. */
const GOOD_FOR = 10_000;
const LONGEST_GOOD_FOR = 60_000;
/** How good the connection has to be meanwhile. Without a picture, the browser's estimate does not rise. */
const GOOD_LOSS = 0.03;
const GOOD_ROUND_TRIP = 400;
/** A limit that lasted this long was no failed trial. In milliseconds. */
const LASTING = 30_000;
/** How much earlier than exactly a sample may come, in milliseconds. */
const SLACK = 100;

/** Decides how much of the pictures may be sent. */
export class VideoLimiter {
  #level = FULL;
  #last: Sample | undefined;
  /** By how many levels the last samples ask to move. */
  #step = 0;
  #since = 0;
  #raisedAt = Number.NEGATIVE_INFINITY;
  #goodFor = GOOD_FOR;

  /** The bit rate that each picture may have: 0, some, or `Infinity`. */
  get maxBitrate(): number {
    return LIMITS[this.#level] as number;
  }

  /** Takes a sample, of about every second. `sendsVideo`: a camera or a screen is on. Returns whether the limit has changed. */
  observe(sample: Sample, sendsVideo: boolean, now: number): boolean {
    const last = this.#last;
    this.#last = sample;
    // A link that is full loses the reports of this side's loss, too.
    const lossOfReceived = lossOf(
      increase(last?.soundPacketsLost, sample.soundPacketsLost),
      increase(last?.soundPacketsReceived, sample.soundPacketsReceived),
    );
    if (!sendsVideo && this.#level === FULL) {
      this.#step = 0;
      return false;
    }
    // The sound's loss is reported every five seconds, and the pictures' every second while there are any.
    const isSent = sendsVideo && this.#level !== OFF;
    const lossOfSent = (isSent ? sample.lossOfSentVideo : undefined) ?? sample.lossOfSentSound;
    const loss = Math.max(lossOfReceived ?? 0, lossOfSent ?? 0);
    const step = this.#stepFor(sample, loss);
    if (Math.sign(step) !== Math.sign(this.#step)) this.#since = now;
    this.#step = step;
    const patience = step > 0 ? this.#goodFor : loss > MOST_LOSS ? BAD_FOR_AT_WORST : BAD_FOR;
    // Samples are about a second apart: some milliseconds less are no reason to wait for the next.
    if (step === 0 || now - this.#since < patience - SLACK) return false;
    this.#level += step;
    this.#step = 0;
    if (step > 0) {
      this.#raisedAt = now;
    } else {
      const hasLasted = now - this.#raisedAt > LASTING;
      this.#goodFor = hasLasted ? GOOD_FOR : Math.min(2 * this.#goodFor, LONGEST_GOOD_FOR);
    }
    return true;
  }

  #stepFor({ availableBitrate = LOW_BITRATE, roundTripMs = 0 }: Sample, loss: number): number {
    const isFull = this.#level === FULL;
    const queue = isFull ? QUEUE_ROUND_TRIP_OF_FULL : QUEUE_ROUND_TRIP_OF_LOW;
    if (this.#level !== OFF) {
      if (availableBitrate < LOW_BITRATE || loss > LOSS_OF_MOST) return -this.#level;
      if (loss > MOST_LOSS || (loss > MOST_LOSS_IN_QUEUE && roundTripMs > queue)) return -1;
    }
    return !isFull && loss < GOOD_LOSS && roundTripMs < GOOD_ROUND_TRIP ? 1 : 0;
  }
}
