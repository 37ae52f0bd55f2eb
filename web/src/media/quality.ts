/**
 * Judges how good a call is for the person who hears and sees it.
 *
 * Pure. The bit rate is no measure: a perfect call with sound alone needs 35 kbit/s. Decision 41 has the reasons.
 */
import { increase, lossOf, part, type Sample } from "./statistics.js";

/** How good a call is. */
export type Quality = "good" | "fair" | "poor";

/** The length of a window, in milliseconds. */
export const QUALITY_WINDOW = 3_000;

/**
 * Below which values a window is good, and below which it is fair; for `bitrate`, from which on. What an engine does not
 * report is passed over.
 */
export interface QualityThresholds {
  readonly roundTripMs: readonly [good: number, fair: number];
  /** Parts of the packets that were lost, from 0 to 1. */
  readonly loss: readonly [good: number, fair: number];
  /** Parts of the sound that were made up, from 0 to 1. */
  readonly concealed: readonly [good: number, fair: number];
  /** Freezes of the picture in a window. */
  readonly freezes: readonly [good: number, fair: number];
  /** What the connection can carry at least, in bit/s. Counts only where the browser lacks bandwidth for the picture. */
  readonly bitrate: readonly [good: number, fair: number];
}

/** The thresholds unless an app sets others. */
export const QUALITY_THRESHOLDS: QualityThresholds = {
  roundTripMs: [200, 400],
  loss: [0.03, 0.08],
  concealed: [0.03, 0.1],
  freezes: [1, 2],
  bitrate: [500_000, 200_000],
};

/** How many windows count, and how many of them have to agree: one bad window is no change. */
const WINDOWS = 3;
const AGREEING = 2;

const RANKS: readonly Quality[] = ["good", "fair", "poor"];

/** Judges a call by windows of {@link QUALITY_WINDOW}. */
export class QualityMeter {
  readonly #thresholds: QualityThresholds;
  #last: Sample | undefined;
  #windows: Quality[] = [];
  #quality: Quality | undefined;

  constructor(thresholds: QualityThresholds = QUALITY_THRESHOLDS) {
    this.#thresholds = thresholds;
  }

  /** The quality: what two of the last three windows agree on. `undefined` until the first window has ended. */
  get quality(): Quality | undefined {
    return this.#quality;
  }

  /** Ends a window with this sample. Returns whether the quality has changed. */
  add(sample: Sample): boolean {
    const last = this.#last;
    this.#last = sample;
    if (last === undefined) return false;
    const window = judge(last, sample, this.#thresholds);
    if (window === undefined) return false;
    this.#windows = [...this.#windows, window].slice(-WINDOWS);
    const agreed = RANKS.find((rank) => this.#windows.filter((other) => other === rank).length >= AGREEING);
    const next = agreed ?? this.#quality ?? window;
    const hasChanged = next !== this.#quality;
    this.#quality = next;
    return hasChanged;
  }

  /** Media was lost: the next window begins after that. */
  restart(): void {
    this.#last = undefined;
    this.#windows = [];
  }
}

/** The worst of what a window shows. `undefined` if it shows nothing. */
function judge(from: Sample, to: Sample, thresholds: QualityThresholds): Quality | undefined {
  const values = {
    roundTripMs: to.roundTripMs,
    loss: lossOf(increase(from.packetsLost, to.packetsLost), increase(from.packetsReceived, to.packetsReceived)),
    concealed: part(
      increase(from.samplesConcealed, to.samplesConcealed),
      increase(from.samplesReceived, to.samplesReceived),
    ),
    freezes: increase(from.freezes, to.freezes),
  };
  const ranks = (Object.entries(values) as [keyof typeof values, number | undefined][]).flatMap(([key, value]) =>
    value === undefined ? [] : rankOf(value, thresholds[key]),
  );
  if (to.isBandwidthLimited === true && to.availableBitrate !== undefined) {
    const [good, fair] = thresholds.bitrate;
    ranks.push(to.availableBitrate >= good ? 0 : to.availableBitrate >= fair ? 1 : 2);
  }
  return ranks.length === 0 ? undefined : RANKS[Math.max(...ranks)];
}

function rankOf(value: number, [good, fair]: readonly [number, number]): number {
  if (value < good) return 0;
  return value < fair ? 1 : 2;
}
