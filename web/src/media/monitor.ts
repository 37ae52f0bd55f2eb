/** Reads a connection's statistics, and reports what follows from them: lost media, quality, the path, and the bandwidth. */
import type { Clock, Timers } from "../core/clock.js";
import { transceiverOf } from "./media-profile.js";
import { QUALITY_WINDOW, type Quality, QualityMeter, type QualityThresholds } from "./quality.js";
import { type Route, routeOf, sampleOf } from "./statistics.js";
import { VideoLimiter } from "./video-limiter.js";
import { Watchdog } from "./watchdog.js";

/** How often the sound is looked at, in milliseconds. */
const WATCH_EVERY = 250;
/** How often all statistics are read, in milliseconds: they cost more. */
const SAMPLE_EVERY = 1_000;

/** What a monitor reports, and asks. */
export interface MonitorHandlers {
  /** Whether the other side sends sound. `undefined` if it has told nothing. */
  expectsSound(): boolean | undefined;
  /** Whether this side has a picture to send. */
  hasPicture(): boolean;
  /** Sound has stopped to arrive: for a moment, or so long that media counts as lost. Or it arrives again. */
  onSound(change: "quiet" | "lost" | "back"): void;
  onQuality(quality: Quality): void;
  onRoute(route: Route): void;
  /** Each picture may have at most this bit rate: 0, some, or `Infinity`. */
  onVideoLimit(maxBitrate: number): void;
}

/** Watches one connection until {@link stop}. */
export class Monitor {
  readonly #peer: RTCPeerConnection;
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #handlers: MonitorHandlers;
  readonly #watchdog = new Watchdog();
  readonly #meter: QualityMeter;
  readonly #limiter = new VideoLimiter();
  #route = "";
  #sampledAt = 0;
  #windowAt = 0;
  #isStopped = false;

  constructor(
    peer: RTCPeerConnection,
    clock: Clock,
    timers: Timers,
    thresholds: QualityThresholds | undefined,
    handlers: MonitorHandlers,
  ) {
    this.#peer = peer;
    this.#clock = clock;
    this.#timers = timers;
    this.#meter = new QualityMeter(thresholds);
    this.#handlers = handlers;
    void this.#run();
  }

  /** Whether sound has stopped to arrive. */
  get isLost(): boolean {
    return this.#watchdog.isLost;
  }

  stop(): void {
    this.#isStopped = true;
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      await this.#timers.until(this.#clock.now() + WATCH_EVERY);
      // Statistics can fail while the connection closes.
      await this.#look().catch((error: unknown) => this.#isStopped || reportError(error));
    }
  }

  async #look(): Promise<void> {
    const sound = transceiverOf(this.#peer, "sound")?.receiver;
    const packets = sound && sampleOf((await sound.getStats()).values()).soundPacketsReceived;
    const now = this.#clock.now();
    if (this.#isStopped) return;
    const isConnected = this.#peer.connectionState === "connected";
    const isExpected = this.#handlers.expectsSound();
    const change = this.#watchdog.observe({ packets, isExpected, isConnected }, now);
    if (change !== undefined) this.#handlers.onSound(change);
    if (now - this.#sampledAt < SAMPLE_EVERY) return;
    this.#sampledAt = now;
    const entries = [...(await this.#peer.getStats()).values()];
    if (this.#isStopped) return;
    this.#takeSample(entries, now);
  }

  #takeSample(entries: readonly Record<string, unknown>[], now: number): void {
    const sample = sampleOf(entries);
    if (this.#limiter.observe(sample, this.#handlers.hasPicture(), now)) {
      this.#handlers.onVideoLimit(this.#limiter.maxBitrate);
    }
    const route = routeOf(entries);
    if (route !== undefined) this.#takeRoute(route);
    if (now - this.#windowAt < QUALITY_WINDOW) return;
    this.#windowAt = now;
    if (this.#watchdog.isLost) this.#meter.restart();
    else if (this.#meter.add(sample) && this.#meter.quality !== undefined)
      this.#handlers.onQuality(this.#meter.quality);
  }

  /** Reports a path that differs in more than its round trip. */
  #takeRoute(route: Route): void {
    const path = JSON.stringify({ ...route, roundTripMs: undefined });
    if (path === this.#route) return;
    this.#route = path;
    this.#handlers.onRoute(route);
  }
}
